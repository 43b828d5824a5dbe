//! TCP: reserved, listening, and back, beside live connections, TIME_WAIT and a thief.

use crate::netns::{Holder, Thief, in_netns, undisturbed};
use crate::support::{Client, SERVICE, address, bind, connect, is_reserved, tcp, was_reset};
use portbroker::config::SocketOptions;
use portbroker::kernel::socket::{BindError, ListenerSocket};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Endpoint, `IPV6_V6ONLY`, and the addresses at which it can be reached.
const KINDS: [(&str, bool, &[&str]); 4] = [
    ("127.0.0.1:3306", false, &["127.0.0.1:3306"]),
    ("0.0.0.0:3306", false, &["127.0.0.1:3306", "127.0.0.7:3306"]),
    ("[::1]:3306", true, &["[::1]:3306"]),
    ("[::]:3306", false, &["[::1]:3306", "127.0.0.1:3306", "127.0.0.7:3306"]),
];

/// The broker's side of a service that accepts: a blocking accept(2) on a copy of the socket.
fn accept(socket: &ListenerSocket) -> TcpStream {
    TcpListener::from(socket.as_fd().try_clone_to_owned().unwrap()).accept().unwrap().0
}

#[test]
fn a_reserved_port_refuses_a_listening_one_serves_and_back_again() {
    for (endpoint, v6only, reached) in KINDS {
        in_netns(|| {
            let mut socket = bind(&tcp(endpoint, v6only));
            for round in 0..3 {
                assert!(is_reserved(&socket));
                assert!(reached.iter().all(|to| connect(to) == Client::Refused), "{endpoint}, round {round}");
                socket.listen().unwrap();
                assert!(!is_reserved(&socket));
                assert!(
                    reached.iter().all(|to| connect(to) == Client::Connected),
                    "{endpoint}, round {round}"
                );
                socket.refuse().unwrap();
            }
            assert_eq!(socket.inspect(), []);
        });
    }
}

#[test]
fn ipv4_and_ipv6_wildcards_stand_beside_each_other() {
    in_netns(|| {
        let mut four = bind(&tcp("0.0.0.0:443", false));
        let mut six = bind(&tcp("[::]:443", true));
        four.listen().unwrap();
        assert_eq!((connect("127.0.0.1:443"), connect("[::1]:443")), (Client::Connected, Client::Refused));
        six.listen().unwrap();
        four.refuse().unwrap();
        assert_eq!((connect("127.0.0.1:443"), connect("[::1]:443")), (Client::Refused, Client::Connected));
    });
}

#[test]
fn refusing_resets_what_is_queued_and_leaves_what_was_accepted() {
    in_netns(|| {
        let mut socket = bind(&tcp("127.0.0.1:3306", false));
        socket.listen().unwrap();
        let mut alive = TcpStream::connect("127.0.0.1:3306").unwrap();
        let mut accepted = accept(&socket);
        let queued = TcpStream::connect("127.0.0.1:3306").unwrap();
        socket.refuse().unwrap();
        assert!(was_reset(&queued));
        accepted.write_all(b"hello").unwrap();
        let mut greeting = [0; 5];
        alive.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"hello");
    });
}

#[test]
fn a_port_listens_again_beside_live_connections_of_any_user_and_time_wait() {
    for (endpoint, v6only, reached) in KINDS {
        in_netns(|| {
            let mut socket = bind(&tcp(endpoint, v6only));
            socket.listen().unwrap();
            // Closed by our side first: its end stays in TIME_WAIT.
            let client = TcpStream::connect(reached[0]).unwrap();
            drop(accept(&socket));
            drop(client);
            let ours = TcpStream::connect(reached[0]).unwrap();
            let _accepted = accept(&socket);
            let theirs = TcpStream::connect(reached[0]).unwrap();
            let _service = Holder::new(&socket, SERVICE, "accept()");
            for _ in 0..3 {
                socket.refuse().unwrap();
                assert_eq!(connect(reached[0]), Client::Refused, "{endpoint}");
                socket.listen().unwrap();
                assert_eq!(connect(reached[0]), Client::Connected, "{endpoint}");
            }
            drop((ours, theirs));
        });
    }
}

/// listen(2) passes live connections that another user accepted only because the kernel remembers that the
/// port is a group of ours, and a bind by anybody on the same port number makes it forget that.
#[test]
fn a_port_listens_again_after_a_bind_on_the_same_number_made_the_kernel_forget_our_group() {
    in_netns(|| {
        let mut socket = bind(&tcp("127.0.0.1:3306", false));
        socket.listen().unwrap();
        let _client = TcpStream::connect("127.0.0.1:3306").unwrap();
        let _service = Holder::new(&socket, SERVICE, "accept()");
        socket.refuse().unwrap();
        let _other = TcpListener::bind("127.0.0.2:3306").unwrap();
        let bare = socket2::SockRef::from(&socket);
        let error = bare.listen(16).expect_err("without our group the kernel refuses");
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        socket.listen().unwrap();
        assert_eq!(connect("127.0.0.1:3306"), Client::Connected);
    });
}

#[test]
fn a_thief_of_another_user_never_listens_nor_accepts_while_a_port_comes_and_goes() {
    for (endpoint, v6only, reached) in KINDS {
        in_netns(|| {
            let mut socket = bind(&tcp(endpoint, v6only));
            socket.listen().unwrap();
            let client = TcpStream::connect(reached[0]).unwrap();
            let _service = Holder::new(&socket, SERVICE, "accept()");
            let short = TcpStream::connect(reached[0]).unwrap();
            drop(accept(&socket));
            drop(short);
            socket.refuse().unwrap();
            let thieves = [Thief::tcp(address(endpoint)), Thief::tcp(address(reached[0]))];
            for round in 0..20_000 {
                socket.listen().unwrap_or_else(|error| panic!("{endpoint}, round {round}: {error:?}"));
                socket.refuse().unwrap();
            }
            for thief in thieves {
                let loot = thief.stop();
                assert_eq!((loot.listens, loot.accepts), (0, 0), "{endpoint}: {loot:?}");
            }
            drop(client);
        });
    }
}

#[test]
fn a_port_is_reserved_over_connections_and_time_wait_of_an_earlier_service() {
    for (endpoint, v6only, reached) in KINDS {
        in_netns(|| {
            let mut first = bind(&tcp(endpoint, v6only));
            first.listen().unwrap();
            let _client = TcpStream::connect(reached[0]).unwrap();
            let _service = Holder::new(&first, SERVICE, "accept(); s.close()");
            let closed = TcpStream::connect(reached[0]).unwrap();
            drop(accept(&first));
            drop(closed);
            drop(first);
            let mut second = bind(&tcp(endpoint, v6only));
            assert!(!socket2::SockRef::from(&second).reuse_address().unwrap());
            // The service may not have closed its own yet.
            let deadline = Instant::now() + Duration::from_secs(20);
            while connect(reached[0]) == Client::Connected && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(connect(reached[0]), Client::Refused);
            second.listen().unwrap();
            assert_eq!(connect(reached[0]), Client::Connected);
        });
    }
}

#[test]
fn a_service_binds_for_itself_beside_live_connections_once_the_port_is_let_go() {
    in_netns(|| {
        let mut socket = bind(&tcp("127.0.0.1:3306", false));
        socket.listen().unwrap();
        let _client = TcpStream::connect("127.0.0.1:3306").unwrap();
        let _service = Holder::new(&socket, SERVICE, "accept(); s.close()");
        undisturbed(|| socket.release()).unwrap();
        // std sets SO_REUSEADDR, as nearly every service does.
        TcpListener::bind("127.0.0.1:3306").unwrap();
    });
}

#[test]
fn an_address_that_is_taken_absent_or_without_interface_is_an_error_that_says_so() {
    in_netns(|| {
        let options = SocketOptions { free_bind: false, ..SocketOptions::default() };
        let taken = TcpListener::bind("127.0.0.1:3306").unwrap();
        let error = ListenerSocket::bind(&tcp("127.0.0.1:3306", false), &options).unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        drop(taken);
        let absent = tcp("192.0.2.1:3306", false);
        let error = ListenerSocket::bind(&absent, &options).unwrap_err();
        assert!(matches!(error, BindError::NoAddress { .. }), "{error}");
        assert!(is_reserved(&bind(&absent)), "free-bind takes an address that is not there yet");
    });
}
