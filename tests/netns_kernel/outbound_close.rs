//! Connections of others are closed by their tuple and number, and nothing else is.

use crate::netns::in_netns;
use crate::outbound_support::{D1, D2, S1, S2, pair, pair_as, tcp};
use crate::support::address;
use portbroker::kernel::tuple_close::{CloseError, Closer};
use portbroker::kernel::tuples::Lookup;
use portbroker::model::{Protocol, Seen, Tuple};
use std::io::{ErrorKind, Read as _};
use std::net::{TcpListener, UdpSocket};

fn cookie(tuple: &Tuple) -> u64 {
    match Lookup::new().unwrap().look(tuple).unwrap() {
        Seen::Open { cookie, .. } => cookie,
        seen => panic!("{tuple:?} is {seen:?}"),
    }
}

/// Closes it. Where this kernel cannot do that, that is what it says, and this is `None`.
fn close(tuple: &Tuple, cookie: u64) -> Option<bool> {
    match Closer::new().unwrap().close(tuple, cookie) {
        Ok(closed) => Some(closed),
        Err(CloseError::Unsupported) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn exactly_the_socket_with_that_number_is_closed() {
    in_netns(|| {
        // An IPv6 socket can have an IPv4 connection.
        let mapped = ("[::ffff:127.0.0.3]:46000", "[::ffff:127.0.0.9]:8082");
        for (client, (source, to)) in [
            ((S1, D1), (S1, D1)),
            (("[::1]:46000", "[::1]:8081"), ("[::1]:46000", "[::1]:8081")),
            (mapped, ("127.0.0.3:46000", D2)),
        ] {
            let listener = TcpListener::bind(to).unwrap();
            let (client, mut accepted) = pair_as(client.0, client.1, &listener);
            let beside = if source.starts_with('[') { "[::1]:46001" } else { S2 };
            let (_beside, mut other) = pair(beside, &listener);
            let tuple = tcp(source, to);
            let number = cookie(&tuple);
            let wrong = close(&tuple, number + 1);
            assert!(wrong.is_none_or(|closed| !closed), "another number is another socket");
            accepted.set_nonblocking(true).unwrap();
            assert_eq!(accepted.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            if close(&tuple, number) == Some(true) {
                assert_eq!((&client).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
                accepted.set_nonblocking(false).unwrap();
                assert_eq!(accepted.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
                assert_eq!(close(&tuple, number), Some(false), "it is gone");
            }
            other.set_nonblocking(true).unwrap();
            assert_eq!(other.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
    });
}

#[test]
fn a_connected_udp_socket_can_be_closed_too_and_one_that_is_not_connected_is_left_alone() {
    in_netns(|| {
        let socket = UdpSocket::bind(S1).unwrap();
        socket.connect("127.0.0.9:9").unwrap();
        let tuple = Tuple {
            protocol: Protocol::Udp,
            source: address(S1),
            destination: Some("127.0.0.9:9".parse().unwrap()),
        };
        let number = cookie(&tuple);
        if close(&tuple, number) == Some(true) {
            assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
        }
        let free = UdpSocket::bind(S2).unwrap();
        let bound = Tuple { source: address(S2), destination: None, ..tuple };
        assert_eq!(close(&bound, cookie(&bound)), Some(false));
        free.set_nonblocking(true).unwrap();
        assert_eq!(free.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn without_the_privilege_nothing_is_closed_and_that_is_said() {
    in_netns(|| {
        let listener = TcpListener::bind(D1).unwrap();
        let (client, _accepted) = pair(S1, &listener);
        let tuple = tcp(S1, D1);
        let number = cookie(&tuple);
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).unwrap();
        let refused = Closer::new().unwrap().close(&tuple, number).unwrap_err();
        assert!(matches!(refused, CloseError::NotPermitted | CloseError::Unsupported), "{refused}");
        assert!(client.peer_addr().is_ok() && cookie(&tuple) == number);
    });
}
