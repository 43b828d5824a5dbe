//! UDP and unix datagram sockets: closed, open, closed again, and nobody else ever receives.

use crate::netns::{NOBODY, Thief, in_netns};
use crate::support::{address, bind, is_refused, is_reserved, udp, unix};
use portbroker::kernel::socket::ListenerSocket;
use portbroker::model::{Endpoint, SocketKind};
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// What the holder receives next, through a copy of the socket.
fn receive(socket: &ListenerSocket) -> Option<Vec<u8>> {
    let copy = UdpSocket::from(socket.as_fd().try_clone_to_owned().unwrap());
    copy.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut buffer = [0; 100];
    let received = copy.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec());
    copy.set_read_timeout(None).unwrap();
    received
}

fn send(text: &[u8], to: &str) {
    let to = address(to);
    let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    UdpSocket::bind(own).unwrap().send_to(text, to).unwrap();
}

const SINGLE: [(&str, bool); 2] = [("127.0.0.1:53", false), ("[::1]:53", true)];

const WILDCARDS: [(&str, bool, &[&str]); 3] = [
    ("0.0.0.0:53", false, &["127.0.0.1:53", "127.0.0.9:53"]),
    ("[::]:53", true, &["[::1]:53"]),
    ("[::]:53", false, &["[::1]:53", "127.0.0.9:53"]),
];

#[test]
fn a_socket_on_one_address_refuses_takes_and_refuses_again() {
    for (endpoint, v6only) in SINGLE {
        in_netns(|| {
            let mut socket = bind(&udp(endpoint, v6only));
            for round in 0..3 {
                assert!(is_reserved(&socket) && is_refused(endpoint), "{endpoint}, round {round}");
                socket.listen().unwrap();
                send(b"hello", endpoint);
                assert_eq!(
                    receive(&socket).as_deref(),
                    Some(b"hello".as_slice()),
                    "{endpoint}, round {round}"
                );
                assert!(!is_reserved(&socket));
                send(b"for the holder that went", endpoint);
                socket.refuse().unwrap();
            }
            socket.listen().unwrap();
            assert_eq!(receive(&socket), None, "what was sent before is gone");
            assert_eq!(socket.inspect(), []);
        });
    }
}

#[test]
fn a_wildcard_drops_takes_and_drops_again_and_is_never_narrowed() {
    for (endpoint, v6only, reached) in WILDCARDS {
        in_netns(|| {
            let mut socket = bind(&udp(endpoint, v6only));
            for _ in 0..3 {
                assert!(is_reserved(&socket));
                reached.iter().for_each(|to| send(b"lost", to));
                socket.listen().unwrap();
                assert_eq!(receive(&socket), None, "{endpoint}");
                for to in reached {
                    send(b"hello", to);
                    assert_eq!(receive(&socket).as_deref(), Some(b"hello".as_slice()), "{endpoint} at {to}");
                }
                socket.refuse().unwrap();
                assert!(!is_refused(reached[0]), "it drops");
            }
            assert_eq!(socket.inspect(), []);
        });
    }
}

#[test]
fn dropping_tells_a_sender_nothing() {
    in_netns(|| {
        let mut socket = bind(&udp("127.0.0.1:53", false));
        assert!(is_refused("127.0.0.1:53"));
        socket.drop_datagrams().unwrap();
        assert!(is_reserved(&socket) && !is_refused("127.0.0.1:53"));
        socket.refuse().unwrap();
        assert!(is_refused("127.0.0.1:53"));
        socket.drop_datagrams().unwrap();
        socket.listen().unwrap();
        assert_eq!(receive(&socket), None);
        assert_eq!(socket.inspect(), []);
    });
}

#[test]
fn an_address_that_is_not_there_yet_is_held_closed_and_opens() {
    in_netns(|| {
        let mut socket = bind(&udp("192.0.2.1:53", false));
        assert!(is_reserved(&socket));
        socket.listen().unwrap();
        assert!(!is_reserved(&socket));
        socket.refuse().unwrap();
        assert!(is_reserved(&socket));
        assert_eq!(socket.inspect(), []);
    });
}

#[test]
fn a_thief_of_another_user_never_binds_nor_receives() {
    let all = SINGLE.map(|(endpoint, v6only)| (endpoint, v6only, endpoint));
    let wild = WILDCARDS.map(|(endpoint, v6only, reached)| (endpoint, v6only, reached[reached.len() - 1]));
    for (endpoint, v6only, reached) in all.into_iter().chain(wild) {
        in_netns(|| {
            let mut socket = bind(&udp(endpoint, v6only));
            let thieves = [Thief::udp(address(endpoint)), Thief::udp(address(reached))];
            for _ in 0..2_000 {
                socket.listen().unwrap();
                send(b"secret", reached);
                socket.refuse().unwrap();
                send(b"secret", reached);
                socket.drop_datagrams().unwrap();
            }
            for thief in thieves {
                let loot = thief.stop();
                assert_eq!((loot.binds, loot.receives), (0, 0), "{endpoint}: {loot:?}");
            }
        });
    }
}

fn unix_round(endpoint: &Endpoint, send: impl Fn(&[u8]) -> std::io::Result<usize>) {
    let mut socket = bind(endpoint);
    for round in 0..3 {
        assert!(is_reserved(&socket));
        let refused = send(b"x").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "round {round}");
        socket.listen().unwrap();
        assert!(!is_reserved(&socket));
        send(b"hello").unwrap();
        assert_eq!(receive(&socket).as_deref(), Some(b"hello".as_slice()));
        send(b"for the holder that went").unwrap();
        socket.refuse().unwrap();
    }
    socket.drop_datagrams().unwrap();
    assert!(is_reserved(&socket));
    send(b"lost").unwrap();
    socket.listen().unwrap();
    assert_eq!(receive(&socket), None);
    assert_eq!(socket.inspect(), []);
}

#[test]
fn a_unix_datagram_socket_refuses_takes_drops_and_opens_again() {
    in_netns(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let client = UnixDatagram::unbound().unwrap();
        let text = path.to_str().unwrap();
        unix_round(&unix(SocketKind::Datagram, text), |bytes| client.send_to(bytes, &path));
        use std::os::linux::net::SocketAddrExt;
        let name = std::os::unix::net::SocketAddr::from_abstract_name("portbroker-log").unwrap();
        let endpoint = unix(SocketKind::Datagram, "@portbroker-log");
        unix_round(&endpoint, |bytes| client.send_to_addr(bytes, &name));
    });
}

#[test]
fn a_thief_never_gets_a_unix_datagram_name() {
    in_netns(|| {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(directory.path(), Some(NOBODY), None).unwrap();
        let path = directory.path().join("log").to_str().unwrap().to_owned();
        for name in [path.as_str(), "@portbroker-log"] {
            let mut socket = bind(&unix(SocketKind::Datagram, name));
            let thief = Thief::unix(name, true);
            for _ in 0..5_000 {
                socket.listen().unwrap();
                socket.refuse().unwrap();
                socket.drop_datagrams().unwrap();
            }
            let loot = thief.stop();
            assert_eq!(loot.binds, 0, "{name}: {loot:?}");
        }
    });
}
