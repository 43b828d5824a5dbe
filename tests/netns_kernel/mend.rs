//! What a holder does to the socket that it shares with the broker is found and put right, beside a thief.

use crate::netns::{Holder, Thief, in_netns, undisturbed};
use crate::support::{Client, SERVICE, address, bind, connect, is_refused, is_reserved, tcp, udp, unix};
use portbroker::kernel::socket::{ListenerSocket, Mended, SocketState, Spoilt};
use portbroker::model::{Endpoint, SocketKind};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};

/// How a socket is put right.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum By {
    SettingBack,
    Replacing,
}

/// Lets a holder run `program` on a socket in a state, and mends what it did; `thief` tries its luck from
/// before the mending on. Returns the mended socket.
fn spoil_and_mend(
    endpoint: &Endpoint,
    (state, want): (SocketState, SocketState),
    (uid, program): (u32, &str),
    (found, by): (&[Spoilt], By),
    thief: Option<fn(std::net::SocketAddr) -> Thief>,
) -> ListenerSocket {
    let mut socket = bind(endpoint);
    if state == SocketState::Listening {
        socket.listen().unwrap();
    }
    let inode = socket.inode().unwrap();
    drop(Holder::new(&socket, uid, program));
    assert_eq!(socket.inspect(), found, "{endpoint}: {program}");
    let Endpoint::Inet(inet) = endpoint else {
        assert!(thief.is_none());
        return mended(socket, want, found, by, inode, program);
    };
    let thief = thief.map(|start| start(inet.address));
    let socket = mended(socket, want, found, by, inode, program);
    if let Some(thief) = thief {
        let loot = thief.stop();
        assert_eq!((loot.listens, loot.accepts, loot.receives), (0, 0, 0), "{program}: {loot:?}");
    }
    socket
}

fn mended(
    mut socket: ListenerSocket,
    want: SocketState,
    found: &[Spoilt],
    by: By,
    inode: u64,
    program: &str,
) -> ListenerSocket {
    let expected = match by {
        By::SettingBack => Mended::InPlace(found.to_vec()),
        By::Replacing => Mended::Replaced(found.to_vec()),
    };
    assert_eq!(undisturbed(|| socket.mend(want)).unwrap(), expected, "{program}");
    assert_eq!(socket.inspect(), [], "{program}");
    assert_eq!(socket.state().unwrap(), want, "{program}");
    assert_eq!(socket.inode().unwrap() != inode, by == By::Replacing, "{program}");
    assert_eq!(socket.mend(want).unwrap(), Mended::Nothing, "{program}");
    socket
}

const LISTENING: SocketState = SocketState::Listening;
const RESERVED: SocketState = SocketState::Reserved;

#[test]
fn a_listening_tcp_port_is_mended_in_place_or_replaced() {
    use By::{Replacing, SettingBack};
    let cases: [(&str, &[Spoilt], By); 10] = [
        ("s.setsockopt(S, R, 0)", &[Spoilt::ReuseAddress], SettingBack),
        ("s.setsockopt(S, P, 0)", &[Spoilt::ReusePort], SettingBack),
        ("s.setblocking(False)", &[Spoilt::NonBlocking], SettingBack),
        ("attach((6, 0, 0, 0))", &[Spoilt::Filter], SettingBack),
        ("attach((6, 0, 0, 7))", &[Spoilt::Filter], SettingBack),
        ("attach((0, 0, 0, 1), (6, 0, 0, 7))", &[Spoilt::Filter], SettingBack),
        ("attach((6, 0, 0, 0)); s.setsockopt(S, 44, 1)", &[Spoilt::Filter, Spoilt::FilterLocked], Replacing),
        ("s.setsockopt(S, 44, 1)", &[Spoilt::FilterLocked], Replacing),
        (
            "attach((6, 0, 0, 0)); s.setsockopt(S, 44, 1); s.setsockopt(S, P, 0); s.setsockopt(S, R, 0)",
            &[Spoilt::ReuseAddress, Spoilt::ReusePort, Spoilt::Filter, Spoilt::FilterLocked],
            Replacing,
        ),
        (
            "s.setsockopt(0, 21, 255); s.setsockopt(S, 8, 5000); s.setsockopt(6, 2, 100); s.setsockopt(6, 9, 9)",
            &[
                Spoilt::Option("SO_RCVBUF"),
                Spoilt::Option("SO_BUF_LOCK"),
                Spoilt::Option("IP_MINTTL"),
                Spoilt::Option("TCP_DEFER_ACCEPT"),
                Spoilt::Option("TCP_MAXSEG"),
            ],
            SettingBack,
        ),
    ];
    for (program, found, by) in cases {
        for want in [LISTENING, RESERVED] {
            in_netns(|| {
                let endpoint = tcp("127.0.0.1:3306", false);
                // Newer kernels let only root attach a filter to a TCP socket (EPERM, seen on 6.18.44).
                let uid = if program.contains("attach") { 0 } else { SERVICE };
                let how = ((LISTENING, want), (uid, program), (found, by));
                let mut socket = spoil_and_mend(&endpoint, how.0, how.1, how.2, Some(Thief::tcp));
                socket.listen().unwrap();
                assert_eq!(connect("127.0.0.1:3306"), Client::Connected, "{program}");
                socket.refuse().unwrap();
                assert_eq!(connect("127.0.0.1:3306"), Client::Refused, "{program}");
            });
        }
    }
}

/// These leave SO_REUSEADDR on while the port does not listen: until the broker mends it, anybody can have it.
#[test]
fn a_tcp_port_that_its_holder_un_listened_is_brought_back() {
    let connected = "unspec(); s.connect(('127.0.0.1', 9999))";
    let used = [Spoilt::Option("SO_SNDBUF"), Spoilt::Option("TCP_MAXSEG")];
    let one = [[Spoilt::Unlistened, Spoilt::Connected].as_slice(), &used].concat();
    let all = [[Spoilt::Unlistened, Spoilt::Connected, Spoilt::Narrowed].as_slice(), &used].concat();
    let cases: [(&str, &str, &[Spoilt], By); 4] = [
        ("127.0.0.1:3306", "unspec()", &[Spoilt::Unlistened], By::SettingBack),
        ("0.0.0.0:3306", "s.shutdown(socket.SHUT_RD)", &[Spoilt::Unlistened], By::SettingBack),
        // The kernel does not forget the segment size of a connection: such a socket is not used again.
        ("127.0.0.1:3306", connected, &one, By::Replacing),
        ("0.0.0.0:3306", connected, &all, By::Replacing),
    ];
    for (endpoint, program, found, by) in cases {
        for want in [LISTENING, RESERVED] {
            in_netns(|| {
                let _somebody = TcpListener::bind("127.0.0.1:9999").unwrap();
                let how = ((LISTENING, want), (SERVICE, program), (found, by));
                let mut socket = spoil_and_mend(&tcp(endpoint, false), how.0, how.1, how.2, None);
                assert!(!socket2::SockRef::from(&socket).reuse_address().unwrap() || want == LISTENING);
                socket.listen().unwrap();
                assert_eq!(connect("127.0.0.1:3306"), Client::Connected, "{program}");
            });
        }
    }
}

#[test]
fn a_reserved_port_that_somebody_made_listen_is_closed_again() {
    in_netns(|| {
        let how =
            ((RESERVED, RESERVED), (SERVICE, "s.listen()"), ([Spoilt::Listens].as_slice(), By::SettingBack));
        let endpoint = tcp("127.0.0.1:3306", false);
        let _socket = spoil_and_mend(&endpoint, how.0, how.1, how.2, Some(Thief::tcp));
        assert_eq!(connect("127.0.0.1:3306"), Client::Refused);
    });
}

#[test]
fn a_dual_stack_port_is_replaced_beside_live_connections_of_another_user() {
    in_netns(|| {
        let mut socket = bind(&tcp("[::]:3306", false));
        socket.listen().unwrap();
        let _four = std::net::TcpStream::connect("127.0.0.1:3306").unwrap();
        let _six = std::net::TcpStream::connect("[::1]:3306").unwrap();
        let _service = Holder::new(&socket, SERVICE, "accept(); accept(); s.close()");
        let thief = Thief::tcp(address("[::]:3306"));
        for _ in 0..50 {
            socket2::SockRef::from(&socket).attach_filter(&[socket2::SockFilter::new(6, 0, 0, 0)]).unwrap();
            lock_filter(&socket);
            assert!(matches!(socket.mend(LISTENING).unwrap(), Mended::Replaced(_)));
            assert_eq!(
                (connect("127.0.0.1:3306"), connect("[::1]:3306")),
                (Client::Connected, Client::Connected)
            );
        }
        let loot = thief.stop();
        assert_eq!((loot.binds, loot.listens), (0, 0), "{loot:?}");
    });
}

fn lock_filter(socket: &ListenerSocket) {
    // As any process that has a copy can.
    drop(Holder::new(socket, SERVICE, "s.setsockopt(S, 44, 1)"));
}

#[test]
fn a_holder_that_keeps_its_copy_of_a_replaced_port_gets_no_connections() {
    in_netns(|| {
        let mut socket = bind(&tcp("127.0.0.1:3306", false));
        socket.listen().unwrap();
        let _hostile = Holder::new(&socket, SERVICE, "s.setsockopt(S, 44, 1)");
        assert!(matches!(socket.mend(LISTENING).unwrap(), Mended::Replaced(_)));
        let ours = TcpListener::from(socket.as_fd().try_clone_to_owned().unwrap());
        ours.set_nonblocking(true).unwrap();
        for _ in 0..50 {
            let _client = std::net::TcpStream::connect("127.0.0.1:3306").unwrap();
            ours.accept().expect("every connection is ours");
        }
    });
}

#[test]
fn a_device_that_a_holder_set_is_taken_off() {
    in_netns(|| {
        let program = "s.setsockopt(S, 25, b'lo')";
        let how = ((LISTENING, LISTENING), (0, program), ([Spoilt::Device].as_slice(), By::SettingBack));
        let _tcp = spoil_and_mend(&tcp("0.0.0.0:80", false), how.0, how.1, how.2, Some(Thief::tcp));
        let _udp = spoil_and_mend(&udp("0.0.0.0:80", false), how.0, how.1, how.2, Some(Thief::udp));
    });
}

#[test]
fn udp_is_mended_in_place_or_replaced() {
    use By::{Replacing, SettingBack};
    let cases: [(&str, &[Spoilt], By); 7] = [
        ("s.setsockopt(S, P, 1)", &[Spoilt::ReusePort], SettingBack),
        ("s.setblocking(False)", &[Spoilt::NonBlocking], SettingBack),
        ("attach((6, 0, 0, 7))", &[Spoilt::Filter], SettingBack),
        ("attach((6, 0, 0, 7)); s.setsockopt(S, 44, 1)", &[Spoilt::Filter, Spoilt::FilterLocked], Replacing),
        ("s.connect(('127.0.0.1', 9))", &[Spoilt::Connected], SettingBack),
        (
            "s.connect(('127.0.0.1', 9)); s.shutdown(socket.SHUT_RD)",
            &[Spoilt::Connected, Spoilt::ShutDown],
            Replacing,
        ),
        ("s.setsockopt(0, 21, 255)", &[Spoilt::Option("IP_MINTTL")], SettingBack),
    ];
    for (program, found, by) in cases {
        for want in [LISTENING, RESERVED] {
            in_netns(|| {
                let endpoint = udp("127.0.0.1:53", false);
                let how = ((LISTENING, want), (SERVICE, program), (found, by));
                let mut socket = spoil_and_mend(&endpoint, how.0, how.1, how.2, Some(Thief::udp));
                if want == RESERVED {
                    assert!(is_refused("127.0.0.1:53"), "{program}");
                    socket.listen().unwrap();
                }
                takes_udp(&socket, "127.0.0.1:53", program);
            });
        }
    }
}

fn takes_udp(socket: &ListenerSocket, to: &str, program: &str) {
    let copy = UdpSocket::from(socket.as_fd().try_clone_to_owned().unwrap());
    copy.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"hello", to).unwrap();
    assert_eq!(copy.recv(&mut [0; 9]).unwrap(), 5, "{program}");
}

/// These open the port to others until the broker mends it.
#[test]
fn udp_that_its_holder_opened_to_others_is_brought_back() {
    let narrowed = "s.connect(('127.0.0.1', 9))";
    let cases: [(&str, &str, &[Spoilt]); 2] = [
        ("127.0.0.1:53", "s.setsockopt(S, R, 1)", &[Spoilt::ReuseAddress]),
        ("0.0.0.0:53", narrowed, &[Spoilt::Connected, Spoilt::Narrowed]),
    ];
    for (endpoint, program, found) in cases {
        in_netns(|| {
            let how = ((LISTENING, LISTENING), (SERVICE, program), (found, By::SettingBack));
            let socket = spoil_and_mend(&udp(endpoint, false), how.0, how.1, how.2, None);
            let thief = Thief::udp(address("127.0.0.1:53"));
            takes_udp(&socket, "127.0.0.1:53", program);
            assert_eq!(thief.stop().binds, 0);
        });
    }
}

#[test]
fn udp_that_somebody_opened_while_it_was_reserved_is_closed_again() {
    in_netns(|| {
        let how =
            ((RESERVED, RESERVED), (SERVICE, "unspec()"), ([Spoilt::Opened].as_slice(), By::SettingBack));
        let _one = spoil_and_mend(&udp("127.0.0.1:53", false), how.0, how.1, how.2, Some(Thief::udp));
        assert!(is_refused("127.0.0.1:53"));
        let how = ((RESERVED, RESERVED), (SERVICE, "s.setsockopt(S, 27, 0)"), how.2);
        let all = spoil_and_mend(&udp("0.0.0.0:54", false), how.0, how.1, how.2, Some(Thief::udp));
        assert!(is_reserved(&all));
    });
}

#[test]
fn a_udp_holder_that_keeps_its_copy_of_a_replaced_port_receives_nothing() {
    for endpoint in ["127.0.0.1:53", "0.0.0.0:53"] {
        in_netns(|| {
            let mut socket = bind(&udp(endpoint, false));
            socket.listen().unwrap();
            let _hostile = Holder::new(&socket, SERVICE, "s.setsockopt(S, 44, 1)");
            assert!(matches!(socket.mend(LISTENING).unwrap(), Mended::Replaced(_)));
            for _ in 0..50 {
                takes_udp(&socket, "127.0.0.1:53", endpoint);
            }
        });
    }
}

#[test]
fn unix_streams_are_mended_and_replaced_under_their_own_name() {
    use By::{Replacing, SettingBack};
    let cases: [(&str, &[Spoilt], By); 5] = [
        ("s.setblocking(False)", &[Spoilt::NonBlocking], SettingBack),
        ("os.chmod(s.getsockname(), 0)", &[Spoilt::PathMode], SettingBack),
        ("os.unlink(s.getsockname())", &[Spoilt::PathGone], Replacing),
        ("s.shutdown(socket.SHUT_RD)", &[Spoilt::ShutDown], Replacing),
        (
            "os.unlink(s.getsockname()); s.shutdown(socket.SHUT_RD)",
            &[Spoilt::ShutDown, Spoilt::PathGone],
            Replacing,
        ),
    ];
    for (program, found, by) in cases {
        for want in [LISTENING, RESERVED] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("x.sock");
            let endpoint = unix(SocketKind::Stream, path.to_str().unwrap());
            let how = ((LISTENING, want), (0, program), (found, by));
            let mut socket = spoil_and_mend(&endpoint, how.0, how.1, how.2, None);
            assert_eq!(UnixStream::connect(&path).is_ok(), want == LISTENING, "{program}");
            socket.listen().unwrap();
            let peer = UnixStream::connect(&path).unwrap().peer_addr().unwrap();
            assert_eq!(peer.as_pathname(), Some(path.as_path()));
        }
    }
}

#[test]
fn unix_datagram_sockets_are_mended_and_replaced() {
    use By::{Replacing, SettingBack};
    let connected =
        "t = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); t.bind(''); s.connect(t.getsockname())";
    let cases: [(&str, &[Spoilt], By); 5] = [
        (connected, &[Spoilt::Connected], SettingBack),
        ("attach((6, 0, 0, 7))", &[Spoilt::Filter], SettingBack),
        ("s.setsockopt(S, 44, 1)", &[Spoilt::FilterLocked], Replacing),
        ("s.shutdown(socket.SHUT_RD)", &[Spoilt::ShutDown], Replacing),
        ("os.unlink(s.getsockname())", &[Spoilt::PathGone], Replacing),
    ];
    for (program, found, by) in cases {
        for want in [LISTENING, RESERVED] {
            in_netns(|| {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("log");
                let endpoint = unix(SocketKind::Datagram, path.to_str().unwrap());
                let how = ((LISTENING, want), (0, program), (found, by));
                let _socket = spoil_and_mend(&endpoint, how.0, how.1, how.2, None);
                let sent = UnixDatagram::unbound().unwrap().send_to(b"x", &path);
                assert_eq!(sent.is_ok(), want == LISTENING, "{program}");
            });
        }
    }
}

#[test]
fn an_abstract_name_is_bound_anew_once_its_holder_is_gone() {
    in_netns(|| {
        let endpoint = unix(SocketKind::Stream, "@portbroker-mend");
        let found = [Spoilt::ShutDown];
        let how =
            ((LISTENING, LISTENING), (SERVICE, "s.shutdown(socket.SHUT_RD)"), (&found[..], By::Replacing));
        let mut socket = spoil_and_mend(&endpoint, how.0, how.1, how.2, None);
        // While a holder keeps the name it cannot be bound anew; once that is gone it can.
        let holder = Holder::new(&socket, SERVICE, "s.shutdown(socket.SHUT_RD)");
        assert!(socket.mend(LISTENING).unwrap_err().is_in_use());
        assert!(socket.inspect().contains(&Spoilt::Narrowed));
        drop(holder);
        assert!(matches!(undisturbed(|| socket.mend(LISTENING)).unwrap(), Mended::Replaced(_)));
        assert_eq!(socket.inspect(), []);
    });
}

#[test]
fn a_socket_listens_again_under_a_living_holder_with_the_options_that_this_one_set() {
    in_netns(|| {
        let cases = [
            (tcp("127.0.0.1:80", false), "unspec()"),
            (tcp("127.0.0.1:81", false), "s.shutdown(socket.SHUT_RD)"),
            (tcp("127.0.0.1:82", false), ""),
        ];
        for (endpoint, program) in &cases {
            let mut socket = bind(endpoint);
            socket.listen().unwrap();
            let own = format!("s.setblocking(False); s.setsockopt(S, 9, 1); {program}");
            let _holder = Holder::new(&socket, SERVICE, &own);
            let done = socket.listen_again().unwrap();
            if program.is_empty() {
                assert_eq!(done, Mended::Nothing);
            } else {
                assert_eq!(done, Mended::InPlace(vec![Spoilt::Unlistened]), "{endpoint}");
            }
            assert_eq!(socket.state().unwrap(), LISTENING);
            assert!(socket2::SockRef::from(&socket).nonblocking().unwrap(), "it is the holder's");
            assert!(socket2::SockRef::from(&socket).keepalive().unwrap());
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sock");
        let mut socket = bind(&unix(SocketKind::Stream, path.to_str().unwrap()));
        socket.listen().unwrap();
        let _holder = Holder::new(&socket, SERVICE, "s.shutdown(socket.SHUT_RD)");
        assert_eq!(socket.listen_again().unwrap(), Mended::Replaced(vec![Spoilt::ShutDown]));
        UnixStream::connect(&path).unwrap();
    });
}
