//! Sockets that come from elsewhere: the descriptor store, a socket unit, another starter.

use crate::netns::{Holder, in_netns};
use crate::support::{Client, SERVICE, bind, connect, is_refused, is_reserved, tcp, udp, unix};
use portbroker::config::{SocketOptions, Tunable};
use portbroker::kernel::socket::{
    AdoptError, ListenerSocket, Mended, SocketState, Spoilt, endpoint_of, identify_stored,
};
use portbroker::model::{Endpoint, SocketKind};
use socket2::SockRef;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

fn adopt(fd: OwnedFd, endpoint: &Endpoint) -> ListenerSocket {
    ListenerSocket::adopt(fd, endpoint, &SocketOptions::default()).unwrap()
}

#[test]
fn the_kernel_tells_what_a_socket_is_bound_to() {
    in_netns(|| {
        for endpoint in [
            tcp("127.0.0.1:80", false),
            tcp("[::1]:80", true),
            tcp("[::]:81", false),
            tcp("[::]:82", true),
            udp("0.0.0.0:53", false),
            udp("[::]:54", false),
        ] {
            assert_eq!(endpoint_of(bind(&endpoint).as_fd()).unwrap(), endpoint);
        }
        let unbound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        assert!(endpoint_of(unbound.as_fd()).is_err(), "port 0 is no address");
        assert!(endpoint_of(UnixDatagram::unbound().unwrap().as_fd()).is_err());
        assert!(endpoint_of(std::fs::File::open("/dev/null").unwrap().as_fd()).is_err());
    });
}

#[test]
fn a_socket_comes_back_from_the_store_in_the_state_it_was_in() {
    in_netns(|| {
        for endpoint in [tcp("127.0.0.1:80", false), udp("127.0.0.1:53", false), udp("0.0.0.0:54", false)] {
            let mut socket = bind(&endpoint);
            let inode = socket.inode().unwrap();
            for state in [SocketState::Reserved, SocketState::Listening] {
                if state == SocketState::Listening {
                    socket.listen().unwrap();
                }
                let stored = socket.as_fd().try_clone_to_owned().unwrap();
                drop(socket);
                assert_eq!(identify_stored(stored.as_fd()).unwrap().endpoint, endpoint);
                socket = adopt(stored, &endpoint);
                assert_eq!((socket.state().unwrap(), socket.inode().unwrap()), (state, inode), "{endpoint}");
                assert_eq!(socket.inspect(), []);
            }
        }
        // A child that another test is just starting has copies until it execs.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while !is_refused("127.0.0.1:53") {
            assert!(std::time::Instant::now() < deadline, "all are closed");
        }
    });
}

#[test]
fn what_keeps_other_users_from_a_stored_port_is_put_right_when_it_is_settled() {
    in_netns(|| {
        for (state, wrong) in [(SocketState::Reserved, true), (SocketState::Listening, false)] {
            let mut socket = bind(&tcp("127.0.0.1:80", false));
            if state == SocketState::Listening {
                socket.listen().unwrap();
            }
            let stored = socket.as_fd().try_clone_to_owned().unwrap();
            drop(socket);
            SockRef::from(&stored).set_reuse_address(wrong).unwrap();
            SockRef::from(&stored).set_reuse_port(false).unwrap();
            let identity = identify_stored(stored.as_fd()).unwrap();
            let options = SocketOptions::default();
            let mut socket = ListenerSocket::adopt_stored(stored, &identity, &options).unwrap();
            assert_eq!(socket.expected_state(), state);
            assert_eq!(socket.inspect(), [Spoilt::ReuseAddress, Spoilt::ReusePort]);
            assert_eq!(socket.unmet(), []);
            socket.settle();
            assert_eq!(socket.inspect(), []);
        }
    });
}

#[test]
fn what_a_holder_set_while_no_daemon_was_there_is_found_afterwards() {
    in_netns(|| {
        let endpoints = [
            tcp("127.0.0.1:80", false),
            tcp("[::1]:80", true),
            tcp("[::]:81", false),
            udp("127.0.0.1:53", false),
            udp("[::]:54", false),
            unix(SocketKind::Stream, "@stream"),
            unix(SocketKind::Datagram, "@datagram"),
        ];
        let mut options = SocketOptions::default();
        for (key, text) in [("ip-tos", "8"), ("keep-alive", "yes"), ("receive-buffer", "100K")] {
            let tunable = Tunable::all().find(|tunable| tunable.toml() == key).unwrap();
            options.tuning.insert(tunable, tunable.read(text).unwrap());
        }
        for (endpoint, options) in
            endpoints.iter().flat_map(|e| [(e, SocketOptions::default()), (e, options.clone())])
        {
            let mut socket = ListenerSocket::bind(endpoint, &options).unwrap();
            socket.listen().unwrap();
            let stored = || socket.as_fd().try_clone_to_owned().unwrap();
            let mut untouched = ListenerSocket::adopt(stored(), endpoint, &options).unwrap();
            untouched.remember_options_as_made();
            assert_eq!(untouched.inspect(), [], "{endpoint}");

            let shared = SockRef::from(&socket);
            shared.set_send_buffer_size(9000).unwrap();
            if matches!(endpoint, Endpoint::Inet(inet) if inet.address.is_ipv4()) {
                shared.set_ttl_v4(1).unwrap();
            }
            let mut adopted = ListenerSocket::adopt(stored(), endpoint, &options).unwrap();
            adopted.remember_options_as_made();
            assert_ne!(adopted.inspect(), [], "{endpoint}");
            let mended = adopted.mend(SocketState::Listening).unwrap();
            assert!(matches!(mended, Mended::InPlace(_)), "{endpoint}: {mended:?}");
            assert_eq!((adopted.inspect(), untouched.inspect()), (vec![], vec![]), "{endpoint}");
        }
    });
}

#[test]
fn a_listening_socket_of_a_socket_unit_is_held_like_our_own() {
    in_netns(|| {
        // std sets SO_REUSEADDR and not SO_REUSEPORT, as systemd does.
        let theirs = TcpListener::bind("127.0.0.1:80").unwrap();
        let mut socket = adopt(OwnedFd::from(theirs), &tcp("127.0.0.1:80", false));
        assert_eq!(socket.state().unwrap(), SocketState::Listening);
        assert_eq!(socket.inspect(), []);
        let _client = TcpStream::connect("127.0.0.1:80").unwrap();
        let _service = Holder::new(&socket, SERVICE, "accept()");
        for _ in 0..3 {
            socket.refuse().unwrap();
            assert_eq!(connect("127.0.0.1:80"), Client::Refused);
            socket.listen().unwrap();
            assert_eq!(connect("127.0.0.1:80"), Client::Connected);
        }
    });
}

#[test]
fn an_open_udp_socket_of_a_socket_unit_is_held_like_our_own() {
    in_netns(|| {
        let theirs = UdpSocket::bind("127.0.0.1:53").unwrap();
        SockRef::from(&theirs).set_reuse_address(true).unwrap();
        let mut socket = adopt(OwnedFd::from(theirs), &udp("127.0.0.1:53", false));
        assert!(!is_reserved(&socket));
        assert!(!SockRef::from(&socket).reuse_address().unwrap(), "any user could share it");
        socket.refuse().unwrap();
        assert!(is_refused("127.0.0.1:53"));
    });
}

#[test]
fn a_socket_of_another_address_kind_or_family_is_not_adopted() {
    in_netns(|| {
        let wrong = [
            (tcp("127.0.0.1:80", false), tcp("127.0.0.1:81", false)),
            (tcp("127.0.0.1:80", false), udp("127.0.0.1:80", false)),
            (tcp("[::]:80", false), tcp("[::]:80", true)),
            (tcp("0.0.0.0:80", false), tcp("127.0.0.1:80", false)),
        ];
        for (is, wanted) in wrong {
            let stored = bind(&is).as_fd().try_clone_to_owned().unwrap();
            let error = ListenerSocket::adopt(stored, &wanted, &SocketOptions::default()).unwrap_err();
            assert!(matches!(error, AdoptError::Mismatch { .. }), "{error}");
        }
    });
}

#[test]
fn a_stored_socket_that_its_holder_connected_while_no_daemon_was_there_is_known_again() {
    in_netns(|| {
        let _somebody = TcpListener::bind("127.0.0.1:9999").unwrap();
        let cases = [
            (tcp("0.0.0.0:80", false), "unspec(); s.connect(('127.0.0.1', 9999))"),
            (udp("0.0.0.0:53", false), "s.connect(('127.0.0.1', 9999))"),
        ];
        for (endpoint, program) in cases {
            let mut socket = bind(&endpoint);
            socket.listen().unwrap();
            let stored = socket.as_fd().try_clone_to_owned().unwrap();
            drop(socket);
            drop(Holder::new(&stored, SERVICE, program));
            assert_ne!(endpoint_of(stored.as_fd()).unwrap(), endpoint);
            assert_eq!(identify_stored(stored.as_fd()).unwrap().endpoint, endpoint);
            let mut socket = adopt(stored, &endpoint);
            let _mended = socket.mend(SocketState::Listening).unwrap();
            assert_eq!((socket.state().unwrap(), socket.inspect()), (SocketState::Listening, vec![]));
        }
    });
}
