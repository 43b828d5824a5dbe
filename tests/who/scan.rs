//! The scan itself: every state of TCP and UDP as the kernel tells it, in each namespace, and whose descriptors they are.

use crate::netns::in_netns;
use crate::support::Program;
use portbroker::kernel::scan::{self, States, Wanted};
use portbroker::model::{Protocol, Socket, SocketState};
use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};

fn sockets(protocol: Protocol, port: Option<u16>, states: States) -> Vec<Socket> {
    let mut found = Vec::new();
    scan::sockets(Wanted { protocol, port, states }, |socket| found.push(socket)).unwrap();
    found
}

fn count(sockets: &[Socket]) -> HashMap<SocketState, usize> {
    let mut counts = HashMap::new();
    for socket in sockets {
        *counts.entry(socket.state).or_default() += 1;
    }
    counts
}

#[test]
fn a_namespace_has_exactly_its_own_sockets_in_their_states() {
    in_netns(|| {
        assert!(sockets(Protocol::Tcp, None, States::Any).is_empty());
        assert!(sockets(Protocol::Udp, None, States::Any).is_empty());
        let program = "
kept = []
def new(kind, *address):
    s = socket.socket(socket.AF_INET6 if ':' in address[0] else socket.AF_INET, kind)
    kept.append(s); s.bind(address); return s
new(socket.SOCK_STREAM, '127.0.0.1', 7801).listen()
new(socket.SOCK_STREAM, '::1', 7801).listen()
new(socket.SOCK_STREAM, '127.0.0.1', 7802)
new(socket.SOCK_DGRAM, '127.0.0.1', 7801)
new(socket.SOCK_DGRAM, '::1', 7803).connect(('::1', 9))
";
        let server = Program::new(1005, program);
        let clients: Vec<TcpStream> =
            ["127.0.0.1:7801", "[::1]:7801"].map(|to| TcpStream::connect(to).unwrap()).into();
        let all = sockets(Protocol::Tcp, None, States::Any);
        let counts = count(&all);
        assert_eq!((counts[&SocketState::Listen], counts[&SocketState::Established]), (2, 4), "{all:?}");
        // From Linux 6.8 on.
        assert_eq!(counts.get(&SocketState::Bound).copied().unwrap_or(1), 1);
        let on_port = sockets(Protocol::Tcp, Some(7801), States::Any);
        assert_eq!(on_port.len(), 4, "{on_port:?}");
        assert!(on_port.iter().all(|socket| socket.local.port() == 7801));
        assert_eq!(sockets(Protocol::Tcp, None, States::Waiting).len(), 2);
        assert_eq!(count(&sockets(Protocol::Udp, None, States::Any)).len(), 2);
        assert_eq!(sockets(Protocol::Udp, None, States::Waiting).len(), 1);

        let listener = on_port.iter().find(|socket| socket.state == SocketState::Listen).unwrap();
        assert_eq!(listener.uid, 1005);
        let found = scan::descriptors(|inode| all.iter().any(|socket| socket.inode == inode)).unwrap();
        assert_eq!(found.of(listener.inode).iter().map(|row| row.pid).collect::<Vec<_>>(), [server.pid()]);
        let of_client = |client: &&Socket| client.remote == Some(listener.local);
        let client = all.iter().find(of_client).unwrap();
        assert!(found.of(client.inode).iter().any(|row| row.pid == std::process::id()));
        let processes = scan::processes(found.rows.iter().map(|row| row.pid)).unwrap();
        assert_eq!(processes[&server.pid()].uid, Some(1005));
        drop(clients);
    });
}

#[test]
fn every_namespace_with_a_process_is_entered_and_left_again() {
    in_netns(|| {
        let _here = TcpListener::bind("127.0.0.1:7804").unwrap();
        let server = Program::new(0, "s = socket.socket(*TCP); s.bind(('127.0.0.1', 7805)); s.listen()");
        let seen = scan::namespaces().unwrap();
        assert!(seen.namespaces.len() > 1, "that of PID 1 is another: {seen:?}");
        let ports = scan::in_each(&seen.namespaces, |_| {
            Ok(sockets(Protocol::Tcp, None, States::Waiting)
                .iter()
                .map(|s| s.local.port())
                .collect::<Vec<_>>())
        });
        let ports: Vec<Vec<u16>> = ports.into_iter().map(Result::unwrap).collect();
        assert!(ports[0].contains(&7804) && ports[0].contains(&7805), "{ports:?}");
        assert!(ports[1..].iter().all(|ports| !ports.contains(&7804)), "{ports:?}");
        assert!(seen.namespaces[0].pid.is_some_and(|pid| pid <= server.pid()));
        // This thread has not moved.
        assert_eq!(sockets(Protocol::Tcp, Some(7804), States::Any).len(), 1);
    });
}
