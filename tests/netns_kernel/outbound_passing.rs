//! Sockets that the broker makes for others: what they are, and the rules of the kernel by which they can be used in
//! another network namespace, and end when their owner closes them.

use crate::netns::{in_netns, undisturbed};
use crate::outbound_support::{
    D1, D2, S1, S2, bound, connect, errno, eventually, leased, open, run, tcp, until,
};
use crate::support::address;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc::{EADDRNOTAVAIL, ENETUNREACH};
use portbroker::kernel::outbound_socket::{Refused, make};
use portbroker::kernel::tuples::Lookup;
use portbroker::model::{Protocol, Seen};
use socket2::{SockAddr, Socket};
use std::net::{SocketAddr, TcpListener, TcpStream};

fn made(source: &str, destination: Option<&str>) -> Result<Socket, Refused> {
    make(Protocol::Tcp, address(source), destination.map(address), false).map(Socket::from)
}

#[test]
fn tcp_sockets_are_bound_and_share_their_source_and_no_child_gets_them() {
    in_netns(|| {
        let _listeners = [D1, D2].map(|to| TcpListener::bind(to).unwrap());
        let sockets = [D1, D2].map(|to| made(S1, Some(to)).unwrap());
        for (socket, to) in sockets.iter().zip([D1, D2]) {
            assert!(socket.reuse_address().unwrap());
            assert!(socket.peer_addr().is_err(), "who gets it connects it");
            let flags = FdFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
            connect(socket, to).unwrap();
            assert_eq!(socket.local_addr().unwrap().as_socket(), Some(address(S1)));
        }
    });
}

#[test]
fn what_cannot_be_made_is_refused_with_its_reason() {
    in_netns(|| {
        let _alone = bound(S1, false).unwrap();
        let busy = made(S1, None).unwrap_err();
        assert!(matches!(busy, Refused::Busy { .. }), "{busy}");
        assert_eq!(busy.to_string(), "127.0.0.1:46000 is in use");
        let absent = made("192.0.2.1:46000", None).unwrap_err();
        assert!(matches!(absent, Refused::Absent { .. }), "{absent}");
        let families = made(S2, Some("[::1]:80")).unwrap_err();
        assert!(matches!(families, Refused::Families { .. }), "{families}");
        let far = make(Protocol::Udp, address(S2), Some(address("198.51.100.1:53")), false).unwrap_err();
        assert!(matches!(far, Refused::Unreachable { .. }), "{far}");
        // It is not left bound.
        eventually(|| make(Protocol::Udp, address(S2), None, false));
    });
}

#[test]
fn an_address_of_a_routed_prefix_is_bound_with_freebind_only_and_connects() {
    in_netns(|| {
        run("ip", &["-6", "route", "add", "local", "2001:db8:1::/64", "dev", "lo"]);
        let listener = TcpListener::bind("[::1]:8081").unwrap();
        for source in ["[2001:db8:1::5]:46000", "[2001:db8:1:0:ffff::9]:46000"] {
            assert_eq!(errno(leased(source)), Some(EADDRNOTAVAIL), "{source}");
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let refused = make(protocol, address(source), None, false).unwrap_err();
                assert!(matches!(refused, Refused::Absent { .. }), "{refused}");
            }
            let socket = Socket::from(make(Protocol::Tcp, address(source), None, true).unwrap());
            connect(&socket, "[::1]:8081").unwrap();
            assert_eq!(listener.accept().unwrap().1, address(source));
            let to = Some(address("[::1]:9"));
            make(Protocol::Udp, address(source), to, true).unwrap();
            let seen = Lookup::new().unwrap().look(&tcp(source, "[::1]:8081")).unwrap();
            assert!(open(seen).is_some());
        }
    });
}

#[test]
fn freebind_alone_does_not_make_an_address_ours() {
    in_netns(|| {
        let _listener = TcpListener::bind("[::1]:8081").unwrap();
        for (source, to) in [("[2001:db8:9::5]:46000", "[::1]:8081"), ("192.0.2.1:46000", "198.51.100.1:80")]
        {
            let socket = Socket::from(make(Protocol::Tcp, address(source), None, true).unwrap());
            socket.set_nonblocking(true).unwrap();
            let _ = connect(&socket, to);
            assert!(socket.peer_addr().is_err(), "{source}");
        }
    });
}

#[test]
fn a_socket_of_one_namespace_works_in_another_that_has_no_address_at_all() {
    let (source, to) = ("192.0.2.1:46000", "192.0.2.9:8081");
    in_netns(|| {
        for own in ["192.0.2.1/24", "192.0.2.9/24"] {
            run("ip", &["address", "add", own, "dev", "lo"]);
        }
        let listener = TcpListener::bind(to).unwrap();
        let server = std::net::UdpSocket::bind(to).unwrap();
        let tcp_socket = made(source, Some(to)).unwrap();
        let udp = make(Protocol::Udp, address(source), Some(address(to)), false).unwrap();
        in_netns(|| {
            assert_eq!(errno(TcpStream::connect(to)), Some(ENETUNREACH), "nothing of its own");
            connect(&tcp_socket, to).unwrap();
            let here = Lookup::new().unwrap().look(&tcp(source, to)).unwrap();
            assert_eq!(here, Seen::Free, "it is not of here");
            std::net::UdpSocket::from(udp).send(b"x").unwrap();
        });
        assert_eq!(listener.accept().unwrap().1, address(source));
        assert_eq!(server.recv_from(&mut [0]).unwrap().1, address(source));
        assert!(open(Lookup::new().unwrap().look(&tcp(source, to)).unwrap()).is_some());
    });
}

#[test]
fn a_look_up_stays_in_the_namespace_in_which_it_was_made() {
    in_netns(|| {
        let _listener = TcpListener::bind(D1).unwrap();
        let client = leased(S1).unwrap();
        connect(&client, D1).unwrap();
        let mut lookup = Lookup::new().unwrap();
        in_netns(|| assert!(open(lookup.look(&tcp(S1, D1)).unwrap()).is_some()));
    });
}

#[test]
fn a_copy_that_the_maker_keeps_keeps_the_connection_open() {
    in_netns(|| {
        let mut lookup = Lookup::new().unwrap();
        let listener = TcpListener::bind(D1).unwrap();
        let made = made(S1, Some(D1)).unwrap();
        let theirs = made.try_clone().unwrap();
        connect(&theirs, D1).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        undisturbed(|| drop(theirs));
        accepted.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        assert!(std::io::Read::read(&mut &accepted, &mut [0]).is_err(), "no end is told");
        assert!(open(lookup.look(&tcp(S1, D1)).unwrap()).is_some());
        undisturbed(|| drop(made));
        assert_eq!(std::io::Read::read(&mut &accepted, &mut [0]).unwrap(), 0);
        undisturbed(|| drop(accepted));
        until("it ends", || matches!(lookup.look(&tcp(S1, D1)).unwrap(), Seen::TimeWait(_)));
    });
}

#[test]
fn a_socket_that_is_bound_twice_goes_nowhere_new() {
    in_netns(|| {
        let socket = made(S1, None).unwrap();
        let to = SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 46001)));
        assert!(socket.bind(&to).is_err(), "who gets a bound socket cannot choose another source");
    });
}
