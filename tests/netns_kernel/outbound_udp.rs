//! The rules of the kernel for UDP sources: they are safe only for who has them alone.

use crate::netns::in_netns;
use crate::outbound_support::{D1, D2, S1, errno, eventually};
use crate::support::address;
use nix::libc::EADDRINUSE;
use portbroker::kernel::outbound_socket::{Refused, make};
use portbroker::model::Protocol;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::UdpSocket;
use std::time::Duration;

fn bound(reuse_address: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_address(reuse_address)?;
    socket.bind(&SockAddr::from(address(S1)))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    Ok(socket.into())
}

#[test]
fn with_reuse_address_two_sockets_have_one_tuple_and_the_newer_takes_the_datagrams() {
    in_netns(|| {
        let server = UdpSocket::bind(D1).unwrap();
        let [old, new] = [(); 2].map(|()| {
            let socket = bound(true).unwrap();
            socket.connect(D1).unwrap();
            socket
        });
        server.send_to(b"x", S1).unwrap();
        assert!(old.recv(&mut [0]).is_err(), "the kernel guards the older now");
        assert_eq!(new.recv(&mut [0]).unwrap(), 1);
    });
}

#[test]
fn without_reuse_address_a_source_is_for_one_whatever_its_destination() {
    in_netns(|| {
        for destination in [None, Some(D1)] {
            let first = eventually(|| bound(false));
            if let Some(destination) = destination {
                first.connect(destination).unwrap();
            }
            for reuse_address in [false, true] {
                assert_eq!(errno(bound(reuse_address)), Some(EADDRINUSE));
            }
            let other = make(Protocol::Udp, address(S1), Some(address(D2)), false);
            assert!(matches!(other, Err(Refused::Busy { .. })), "{other:?}");
        }
    });
}

#[test]
fn a_socket_that_is_made_for_a_destination_hears_nobody_else() {
    in_netns(|| {
        let [server, other] = [D1, D2].map(|at| UdpSocket::bind(at).unwrap());
        let made = make(Protocol::Udp, address(S1), Some(address(D1)), false).unwrap();
        let client = UdpSocket::from(made);
        client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert_eq!(client.peer_addr().unwrap(), address(D1));
        other.send_to(b"other", S1).unwrap();
        server.send_to(b"server", S1).unwrap();
        let mut buffer = [0; 9];
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"server");
        assert!(client.recv(&mut buffer).is_err());
        client.send(b"hello").unwrap();
        assert_eq!(server.recv_from(&mut buffer).unwrap(), (5, address(S1)));
    });
}
