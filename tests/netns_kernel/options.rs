//! Every option that a listener can have, read back from its socket by the kernel's own names and numbers.

use crate::netns::{Holder, in_netns, spawn};
use crate::support::{Client, connect, is_reserved, tcp, udp, unix};
use nix::libc::{
    IP_PKTINFO, IP_TOS, IP_TRANSPARENT, IP_TTL, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPV6_RECVPKTINFO,
    IPV6_TCLASS, IPV6_UNICAST_HOPS, SO_BROADCAST, SO_BUF_LOCK, SO_KEEPALIVE, SO_MARK, SO_PASSCRED,
    SO_PASSSEC, SO_PRIORITY, SO_RCVBUF, SO_SNDBUF, SO_TIMESTAMP, SO_TIMESTAMPNS, SOL_SOCKET,
    TCP_DEFER_ACCEPT, TCP_FASTOPEN, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_NODELAY,
};
use portbroker::config::{SocketOptions, Tunable};
use portbroker::kernel::socket::{BindError, ListenerSocket, Mended, SocketState, Spoilt, Unmet};
use portbroker::model::{Endpoint, SocketKind};
use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

/// linux/in6.h
const IPV6_TRANSPARENT: i32 = 75;
const TCP_KEYS: [&str; 6] =
    ["keep-alive-time", "keep-alive-interval", "keep-alive-probes", "no-delay", "defer-accept", "fast-open"];

/// The options with these values, as a configuration writes them.
fn options(written: &[(&str, &str)]) -> SocketOptions {
    let mut options = SocketOptions::default();
    for (key, text) in written {
        let tunable = Tunable::all().find(|tunable| tunable.toml() == *key).expect("a key");
        options.tuning.insert(tunable, tunable.read(text).expect("a value"));
    }
    options
}

fn bound(endpoint: &Endpoint, written: &[(&str, &str)]) -> ListenerSocket {
    let socket = ListenerSocket::bind(endpoint, &options(written)).expect("the endpoint is bound");
    assert_eq!(socket.unmet(), [], "{endpoint}");
    socket
}

/// What getsockopt(2) says, asked by another program than the one under test.
fn read(socket: &impl AsFd, wanted: &[(i32, i32)]) -> Vec<i32> {
    let program = "import socket,sys\ns=socket.socket(fileno=0)\n\
                   for a in sys.argv[1:]:\n  l,n=map(int,a.split(':'))\n  print(int.from_bytes(s.getsockopt(l,n,4),'little',signed=True))";
    let copy = socket.as_fd().try_clone_to_owned().expect("a copy");
    let arguments = wanted.iter().map(|(level, name)| format!("{level}:{name}"));
    let mut child = spawn(
        Command::new("python3").args(["-c", program]).args(arguments).stdin(copy).stdout(Stdio::piped()),
    );
    let mut text = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut text).expect("numbers");
    assert!(child.wait().expect("it ends").success(), "{wanted:?}");
    text.lines().map(|line| line.parse().expect("a number")).collect()
}

fn congestion(socket: &ListenerSocket) -> String {
    let name = socket2::SockRef::from(socket).tcp_congestion().expect("TCP_CONGESTION");
    String::from_utf8(name).expect("a name").trim_end_matches('\0').to_owned()
}

const ON_TCP: [(&str, &str); 14] = [
    ("keep-alive", "yes"),
    ("keep-alive-time", "10min"),
    ("keep-alive-interval", "30s"),
    ("keep-alive-probes", "4"),
    ("no-delay", "true"),
    ("defer-accept", "10"),
    ("fast-open", "77"),
    ("tcp-congestion", "reno"),
    ("receive-buffer", "300K"),
    ("send-buffer", "200K"),
    ("ip-tos", "low-delay"),
    ("ip-ttl", "33"),
    ("mark", "0xfffffff0"),
    ("priority", "5"),
];

const READ_TCP: [(i32, i32); 11] = [
    (SOL_SOCKET, SO_KEEPALIVE),
    (IPPROTO_TCP, TCP_KEEPIDLE),
    (IPPROTO_TCP, TCP_KEEPINTVL),
    (IPPROTO_TCP, TCP_KEEPCNT),
    (IPPROTO_TCP, TCP_NODELAY),
    (IPPROTO_TCP, TCP_DEFER_ACCEPT),
    (IPPROTO_TCP, TCP_FASTOPEN),
    (SOL_SOCKET, SO_RCVBUF),
    (SOL_SOCKET, SO_SNDBUF),
    (SOL_SOCKET, SO_MARK),
    (SOL_SOCKET, SO_PRIORITY),
];
/// The kernel rounds 10 s up to 1 + 2 + 4 + 8, and doubles buffers.
const TCP_VALUES: [i32; 11] = [1, 600, 30, 4, 1, 15, 77, 2 * 300 * 1024, 2 * 200 * 1024, -16, 5];

#[test]
fn options_of_tcp_are_set_on_the_socket_and_stay_over_every_state() {
    for (address, v6only) in [("127.0.0.1:80", false), ("[::1]:80", true), ("[::]:80", false)] {
        in_netns(|| {
            let mut socket = bound(&tcp(address, v6only), &ON_TCP);
            for round in 0..2 {
                assert_eq!(read(&socket, &READ_TCP), TCP_VALUES, "{address}, round {round}");
                assert_eq!(congestion(&socket), "reno");
                if address.starts_with('[') {
                    let names = [IPV6_TCLASS, IPV6_UNICAST_HOPS].map(|name| (IPPROTO_IPV6, name));
                    assert_eq!(read(&socket, &names), [16, 33], "{address}");
                }
                if address != "[::1]:80" {
                    let names = [IP_TOS, IP_TTL].map(|name| (IPPROTO_IP, name));
                    assert_eq!(read(&socket, &names), [16, 33], "{address}");
                }
                socket.listen().unwrap();
                assert_eq!(read(&socket, &READ_TCP), TCP_VALUES, "{address}, listening");
                socket.refuse().unwrap();
            }
            assert_eq!(socket.inspect(), []);
            assert_eq!(socket.unmet(), []);
        });
    }
}

#[test]
fn options_of_udp_and_unix_sockets_are_set() {
    in_netns(|| {
        for (clock, read_clock) in [("us", [1, 0]), ("ns", [0, 1]), ("off", [0, 0])] {
            let four = bound(
                &udp("127.0.0.1:53", false),
                &[
                    ("broadcast", "yes"),
                    ("pass-packet-info", "yes"),
                    ("timestamping", clock),
                    ("transparent", "1"),
                ],
            );
            let names = [
                (SOL_SOCKET, SO_BROADCAST),
                (IPPROTO_IP, IP_PKTINFO),
                (IPPROTO_IP, IP_TRANSPARENT),
                (SOL_SOCKET, SO_TIMESTAMP),
                (SOL_SOCKET, SO_TIMESTAMPNS),
            ];
            assert_eq!(read(&four, &names), [&[1, 1, 1], read_clock.as_slice()].concat(), "{clock}");
        }
        let six = bound(&udp("[::1]:53", true), &[("pass-packet-info", "yes"), ("transparent", "yes")]);
        let names = [(IPPROTO_IPV6, IPV6_RECVPKTINFO), (IPPROTO_IPV6, IPV6_TRANSPARENT)];
        assert_eq!(read(&six, &names), [1, 1]);
        for kind in [SocketKind::Stream, SocketKind::Datagram, SocketKind::SeqPacket] {
            let written = [
                ("pass-credentials", "yes"),
                ("receive-buffer", "100K"),
                ("send-buffer", "50K"),
                ("timestamping", "us"),
            ];
            let mut socket = bound(&unix(kind, "@options"), &written);
            let names = [
                (SOL_SOCKET, SO_PASSCRED),
                (SOL_SOCKET, SO_RCVBUF),
                (SOL_SOCKET, SO_SNDBUF),
                (SOL_SOCKET, SO_TIMESTAMP),
            ];
            socket.listen().unwrap();
            assert_eq!(read(&socket, &names), [1, 204_800, 102_400, 1], "{kind:?}");
        }
    });
}

/// SO_PASSSEC needs a kernel with CONFIG_SECURITY_NETWORK: with it it is set, and without it that is said.
#[test]
fn an_option_that_the_kernel_lacks_is_left_out_and_said() {
    in_netns(|| {
        let endpoint = unix(SocketKind::Datagram, "@sec");
        let socket = ListenerSocket::bind(&endpoint, &options(&[("pass-security", "yes")])).unwrap();
        let has = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None).unwrap();
        let program = format!("s.setsockopt({SOL_SOCKET}, {SO_PASSSEC}, 1)");
        let has = Command::new("python3")
            .args(["-c", &format!("import socket\ns=socket.socket(fileno=0)\n{program}")])
            .stdin(has.as_fd().try_clone_to_owned().unwrap())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        if has.success() {
            assert_eq!(read(&socket, &[(SOL_SOCKET, SO_PASSSEC)]), [1]);
            assert_eq!(socket.unmet(), []);
        } else {
            let said: Vec<_> = socket.unmet().iter().map(ToString::to_string).collect();
            assert_eq!(
                said,
                ["\"pass-security\" has no effect: this kernel has no SO_PASSSEC for such a socket"]
            );
        }
        // One that no kernel has.
        let socket =
            ListenerSocket::bind(&tcp("127.0.0.1:80", false), &options(&[("tcp-congestion", "nosuch")]))
                .unwrap();
        assert!(is_reserved(&socket));
        let said = socket.unmet()[0].to_string();
        assert!(said.starts_with("\"tcp-congestion\" is ") && said.contains("has no nosuch"), "{said}");
    });
}

#[test]
fn options_change_on_the_living_socket_and_go_back_to_the_kernels_own() {
    for endpoint in [tcp("127.0.0.1:80", false), tcp("[::1]:80", true)] {
        in_netns(|| {
            let plain = ListenerSocket::bind(&endpoint, &SocketOptions::default()).unwrap();
            let (before, kernels) = (read(&plain, &READ_TCP), congestion(&plain));
            drop(plain);
            let mut socket = ListenerSocket::bind(&endpoint, &SocketOptions::default()).unwrap();
            socket.listen().unwrap();
            let inode = socket.inode().unwrap();
            for _ in 0..2 {
                socket.adjust(&options(&ON_TCP)).unwrap();
                assert_eq!(read(&socket, &READ_TCP), TCP_VALUES);
                assert_eq!((congestion(&socket).as_str(), socket.inspect()), ("reno", vec![]));
                socket.adjust(&SocketOptions::default()).unwrap();
                assert_eq!(read(&socket, &READ_TCP), before);
                assert_eq!((congestion(&socket), socket.inspect()), (kernels.clone(), vec![]));
                assert_eq!(read(&socket, &[(SOL_SOCKET, SO_BUF_LOCK)]), [0]);
            }
            for (clock, expected) in [("us", [1, 0]), ("ns", [0, 1]), ("us", [1, 0]), ("off", [0, 0])] {
                socket.adjust(&options(&[("timestamping", clock)])).unwrap();
                assert_eq!(
                    read(&socket, &[(SOL_SOCKET, SO_TIMESTAMP), (SOL_SOCKET, SO_TIMESTAMPNS)]),
                    expected,
                    "{clock}"
                );
            }
            assert_eq!(socket.inode().unwrap(), inode);
            assert!(!is_reserved(&socket));
        });
    }
}

#[test]
fn what_a_holder_changes_of_them_is_put_back() {
    in_netns(|| {
        let mut socket = bound(&tcp("127.0.0.1:80", false), &ON_TCP);
        socket.listen().unwrap();
        // As whoever hands it to a holder does.
        socket.remember_options();
        let program = "s.setsockopt(S, socket.SO_KEEPALIVE, 0); s.setsockopt(6, 4, 99); s.setsockopt(6, 23, 5)\n\
                       s.setsockopt(0, socket.IP_TOS, 8); s.setsockopt(6, 9, 0); s.setsockopt(S, 29, 1)\n\
                       s.setsockopt(6, 13, b'cubic'); s.setsockopt(S, socket.SO_RCVBUF, 5000)";
        // As root, who may take any congestion control.
        drop(Holder::new(&socket, 0, program));
        let found: Vec<_> = socket.inspect();
        for name in
            ["SO_KEEPALIVE", "TCP_KEEPIDLE", "TCP_FASTOPEN", "IP_TOS", "SO_TIMESTAMP", "TCP_CONGESTION"]
        {
            assert!(found.contains(&Spoilt::Option(name)), "{name}: {found:?}");
        }
        assert!(matches!(socket.mend(SocketState::Listening), Ok(Mended::InPlace(_))));
        assert_eq!(read(&socket, &READ_TCP), TCP_VALUES);
        assert_eq!((congestion(&socket).as_str(), socket.inspect()), ("reno", vec![]));
        // A replaced one has them from the start.
        drop(Holder::new(&socket, 0, "attach((6, 0, 0, 0)); s.setsockopt(S, 44, 1)"));
        assert!(matches!(socket.mend(SocketState::Listening), Ok(Mended::Replaced(_))));
        assert_eq!(read(&socket, &READ_TCP), TCP_VALUES);
        assert_eq!(congestion(&socket), "reno");
    });
}

#[test]
fn a_socket_of_an_earlier_life_gets_the_options_that_are_configured_now() {
    in_netns(|| {
        let endpoint = tcp("127.0.0.1:80", false);
        let first = bound(&endpoint, &[]);
        let copy = first.as_fd().try_clone_to_owned().unwrap();
        drop(first);
        let socket = ListenerSocket::adopt(copy, &endpoint, &options(&ON_TCP)).unwrap();
        assert_eq!(read(&socket, &READ_TCP), TCP_VALUES);
        assert_eq!((socket.inspect(), socket.unmet()), (vec![], vec![]));
    });
}

/// Does something without CAP_NET_ADMIN and CAP_NET_RAW. Linux keeps capabilities for each thread, and a test has
/// one of its own.
fn unprivileged<R>(act: impl FnOnce() -> R) -> R {
    use caps::{CapSet, Capability};
    for capability in [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW] {
        caps::drop(None, CapSet::Effective, capability).expect("a capability less");
    }
    act()
}

#[test]
fn an_option_without_its_privilege_fails_its_listener_alone_and_names_the_capability() {
    in_netns(|| {
        let results = unprivileged(|| {
            let of = |written: &[(&str, &str)]| {
                ListenerSocket::bind(&tcp("127.0.0.1:80", false), &options(written)).map(drop)
            };
            let buffer =
                ListenerSocket::bind(&udp("127.0.0.1:81", false), &options(&[("receive-buffer", "1G")]))
                    .unwrap();
            let mut living =
                ListenerSocket::bind(&tcp("127.0.0.1:82", false), &SocketOptions::default()).unwrap();
            living.listen().unwrap();
            let changed = living.adjust(&options(&[("mark", "1"), ("no-delay", "yes")]));
            let nodelay = socket2::SockRef::from(&living).tcp_nodelay().unwrap();
            (
                [
                    of(&[("mark", "1")]),
                    of(&[("transparent", "yes")]),
                    of(&[("priority", "7")]),
                    of(&[("priority", "6")]),
                ],
                buffer.unmet(),
                changed,
                nodelay,
            )
        });
        let (bound, buffer, changed, _) = results;
        for (result, key, option) in [
            (&bound[0], "mark", "SO_MARK"),
            (&bound[1], "transparent", "IP_TRANSPARENT"),
            (&bound[2], "priority", "SO_PRIORITY"),
        ] {
            let error = result.as_ref().unwrap_err();
            assert!(matches!(error, BindError::Option { .. }), "{error:?}");
            let cause = std::error::Error::source(error).unwrap().to_string();
            assert!(cause.starts_with(&format!("\"{key}\" ({option}) takes CAP_NET_ADMIN")), "{cause}");
        }
        assert!(bound[3].is_ok());
        assert!(matches!(&buffer[..], [Unmet::Option { key: "receive-buffer", .. }]), "{buffer:?}");
        assert!(buffer[0].to_string().contains("net.core.rmem_max"), "{}", buffer[0]);
        assert!(changed.is_err());
    });
}

#[test]
fn sequential_packets_queue_and_are_refused_as_streams_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let endpoint = unix(SocketKind::SeqPacket, path.to_str().unwrap());
    let mut socket = ListenerSocket::bind(&endpoint, &SocketOptions::default()).unwrap();
    let client = || {
        let client = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::SEQPACKET, None).unwrap();
        client
            .connect(&socket2::SockAddr::unix(&path).unwrap())
            .map(|()| client)
            .map_err(|error| error.kind())
    };
    for _ in 0..3 {
        assert!(is_reserved(&socket));
        assert_eq!(client().unwrap_err(), std::io::ErrorKind::ConnectionRefused);
        socket.listen().unwrap();
        let queued = client().unwrap();
        queued.send(b"one").unwrap();
        queued.send(b"two").unwrap();
        let (accepted, _) = socket2::SockRef::from(&socket).accept().unwrap();
        let mut buffer = [0; 16];
        assert_eq!((&accepted).read(&mut buffer).unwrap(), 3, "packets keep their limits");
        socket.refuse().unwrap();
    }
    assert_eq!(socket.inspect(), []);
    let copy = socket.as_fd().try_clone_to_owned().unwrap();
    drop(socket);
    let socket = ListenerSocket::adopt(copy, &endpoint, &SocketOptions::default()).unwrap();
    assert_eq!(socket.endpoint().to_string(), format!("unix-seqpacket {}", path.display()));
    socket.release().unwrap();
    assert!(!path.exists());
}

#[test]
fn clients_are_told_and_others_are_not() {
    // The keys that are TCP's alone do nothing on UDP: there is no row for them.
    in_netns(|| {
        let udp = udp("127.0.0.1:53", false);
        for key in TCP_KEYS {
            let tunable = Tunable::all().find(|tunable| tunable.toml() == key).unwrap();
            assert!(!tunable.applies(&udp), "{key}");
        }
        let mut socket = bound(&tcp("127.0.0.1:80", false), &ON_TCP);
        assert_eq!(connect("127.0.0.1:80"), Client::Refused);
        socket.listen().unwrap();
        assert_eq!(connect("127.0.0.1:80"), Client::Connected);
    });
}
