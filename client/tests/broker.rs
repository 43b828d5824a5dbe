//! The client against peers that answer as they should, as they should not, and not at all.

#![cfg(test)]

#[expect(dead_code, reason = "other tests use the rest")]
mod peer;

use peer::{Call, Peer, Reply};
use portbroker_client::wire::{self, ErrorName};
use portbroker_client::{Broker, Error, Holder, ListenError, Socket, Source, listen};
use std::collections::HashMap;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::{Duration, Instant};
use zbus::wire::{OwnedVariant, Variant};

fn tcp() -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let address: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(8).unwrap();
    socket
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn refusing(name: &'static str) -> Peer {
    Peer::start(move |_| Reply::Error(name, "the reason"))
}

#[test]
fn sockets_come_in_the_order_asked_for_and_in_their_own_types() {
    let web = tcp();
    let port = web.local_addr().unwrap().as_socket().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let unix = UnixListener::bind(folder.path().join("s")).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let datagram = UnixDatagram::unbound().unwrap();
    let peer = Peer::start(move |_| {
        let of = |fd: &dyn std::os::fd::AsFd| fd.as_fd().try_clone_to_owned().unwrap();
        Reply::Sockets(
            [of(&web), of(&unix), of(&udp), of(&datagram)]
                .into_iter()
                .map(|s| ("web".to_owned(), s))
                .collect(),
        )
    });
    let mut sockets = listen("web").socket_path(peer.path()).blocking().unwrap();
    assert_eq!((sockets.len(), sockets.source()), (4, Source::Broker));
    assert_eq!(sockets.tcp_listener().unwrap().local_addr().unwrap().port(), port);
    let again = sockets.tcp_listener().unwrap_err().to_string();
    assert!(
        again.contains("\"web\" has no TCP listener (left): it has unix stream listener, UDP"),
        "{again}"
    );
    sockets.udp_socket().unwrap();
    let rest: Vec<Socket> = sockets.into_iter().collect();
    assert!(matches!(rest.as_slice(), [Socket::UnixListener(_), Socket::UnixDatagram(_)]));
    let call = peer.calls().remove(0);
    assert_eq!((call.names, call.holder), (vec!["web".to_owned()], "process".to_owned()));
    assert_eq!(call.path, wire::MANAGER_PATH);
}

#[test]
fn as_many_sockets_come_as_the_kernel_passes_at_once() {
    let peer = Peer::start(|call: &Call| {
        let sockets =
            call.names.iter().map(|name| (name.clone(), OwnedFd::from(UnixDatagram::unbound().unwrap())));
        Reply::Sockets(sockets.collect())
    });
    let names: Vec<String> = (0..wire::MAX_SOCKETS_PEER_TO_PEER).map(|n| format!("l{n}")).collect();
    let broker = Broker::new().socket_path(peer.path());
    let sockets = run(broker.acquire(&names, Holder::Unit)).unwrap();
    assert_eq!(sockets.len(), 253);
    assert_eq!(peer.calls()[0].holder, "unit");
}

#[test]
fn a_socket_is_blocking_for_std_and_not_for_tokio() {
    let socket = tcp();
    let peer =
        Peer::start(move |_| Reply::Sockets(vec![("web".to_owned(), socket.try_clone().unwrap().into())]));
    run(async {
        let mut sockets = listen("web").socket_path(peer.path()).await.unwrap();
        let listener = sockets.tokio_tcp_listener().unwrap();
        assert!(socket2::SockRef::from(&listener).nonblocking().unwrap());
        let connect = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, connected) = tokio::join!(listener.accept(), connect);
        accepted.unwrap();
        connected.unwrap();
        // Also inside a runtime.
        let listener = listen("web").socket_path(peer.path()).blocking().unwrap().tcp_listener().unwrap();
        assert!(!socket2::SockRef::from(&listener).nonblocking().unwrap());
    });
}

#[test]
fn listening_can_be_a_task_of_its_own() {
    let peer = refusing("org.portbroker.PortBroker1.Error.NotReady");
    let path = peer.path().to_owned();
    let answer =
        run(async move { tokio::spawn(listen("web").socket_path(path).into_future()).await.unwrap() });
    assert!(matches!(answer, Err(ListenError::Broker(Error::Refused { name: ErrorName::NotReady, .. }))));
}

#[test]
fn a_refusal_is_not_circumvented() {
    for name in ["NotAllowed", "NotReady", "TooManySockets"] {
        let full: &'static str = format!("org.portbroker.PortBroker1.Error.{name}").leak();
        let peer = refusing(full);
        let error = listen("web").socket_path(peer.path()).or_bind("127.0.0.1:0").blocking().unwrap_err();
        assert!(error.to_string().starts_with(&format!("{full}: the reason")), "{error}");
    }
}

#[test]
fn a_listener_that_the_broker_does_not_have_may_be_bound() {
    let peer = refusing("org.portbroker.PortBroker1.Error.NoSuchListener");
    let bare = listen("web").socket_path(peer.path()).blocking().unwrap_err();
    assert!(matches!(bare, ListenError::Broker(Error::Refused { name: ErrorName::NoSuchListener, .. })));
    let ask = listen("web").socket_path(peer.path());
    let mut sockets = ask.or_bind("127.0.0.1:0").or_bind_udp("[::1]:0").blocking().unwrap();
    assert_eq!(sockets.source(), Source::Bound);
    sockets.udp_socket().unwrap();
    assert_ne!(sockets.tcp_listener().unwrap().local_addr().unwrap().port(), 0);
}

#[test]
fn without_a_broker_a_program_binds_where_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("bus");
    let error = listen("web").socket_path(&nowhere).blocking().unwrap_err();
    assert!(matches!(&error, ListenError::Broker(Error::NotReachable { .. })));
    let text = error.to_string();
    assert!(text.contains("bus: No such file") && text.contains("start portbroker.service"), "{text}");

    // A socket file behind which nobody is.
    drop(UnixListener::bind(&nowhere).unwrap());
    let path = folder.path().join("web.sock");
    let ask = || listen("web").socket_path(&nowhere).or_bind_unix(&path);
    let mut sockets = ask().blocking().unwrap();
    let listener = sockets.unix_listener().unwrap();
    assert_eq!(listener.local_addr().unwrap().as_pathname(), Some(path.as_path()));
    let text = ask().blocking().unwrap_err().to_string();
    assert!(text.contains("cannot bind unix") && text.contains("Connection refused"), "{text}");
}

#[test]
fn a_daemon_that_is_killed_meanwhile_is_asked_again() {
    let socket = tcp();
    let peer = Peer::start(move |call| match call.connection {
        1 | 2 => Reply::HangUp,
        _ => Reply::Sockets(vec![("web".to_owned(), socket.try_clone().unwrap().into())]),
    });
    listen("web").socket_path(peer.path()).blocking().unwrap().tcp_listener().unwrap();
    assert_eq!(peer.calls().len(), 3);
}

#[test]
fn a_peer_that_always_hangs_up_is_no_broker() {
    let peer = Peer::start(|_| Reply::HangUp);
    let error = run(Broker::new().socket_path(peer.path()).reload()).unwrap_err();
    assert!(matches!(error, Error::NotReachable { .. }), "{error}");
    assert_eq!(peer.calls().len(), 5);
    // In the handshake already.
    let peer = Peer::chatter(b"");
    let error = run(Broker::new().socket_path(peer.path()).reload()).unwrap_err();
    assert!(matches!(error, Error::NotReachable { .. }), "{error}");
}

#[test]
fn silence_ends_with_the_time() {
    let peer = Peer::start(|_| Reply::Silence);
    let begin = Instant::now();
    let broker = Broker::new().socket_path(peer.path()).timeout(Duration::from_millis(300));
    let error = run(broker.acquire(&["web"], Holder::Process)).unwrap_err();
    assert!(error.to_string().contains("no reply within 300ms"), "{error}");
    assert!((Duration::from_millis(300)..Duration::from_secs(5)).contains(&begin.elapsed()));
}

#[test]
fn what_does_not_speak_the_interface_is_a_protocol_error() {
    let broker = |peer: &Peer| Broker::new().socket_path(peer.path());
    let http = Peer::chatter(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert!(matches!(run(broker(&http).reload()), Err(Error::Protocol { .. })));
    let nonsense = Peer::start(|_| Reply::Nonsense);
    assert!(matches!(run(broker(&nonsense).acquire(&["web"], Holder::Process)), Err(Error::Protocol { .. })));
    let unknown = refusing("org.freedesktop.DBus.Error.UnknownMethod");
    let error = run(broker(&unknown).reload()).unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }));
    assert!(error.to_string().contains("the reason"), "{error}");
    let newer = refusing("org.portbroker.PortBroker1.Error.SomethingNew");
    let error = run(broker(&newer).reload()).unwrap_err();
    assert!(error.to_string().contains("Error.SomethingNew: the reason"), "{error}");
}

#[test]
fn sockets_of_other_names_than_asked_for_are_not_taken() {
    let reply = |names: &'static [&'static str]| {
        Peer::start(move |_| {
            let socket = || OwnedFd::from(UnixDatagram::unbound().unwrap());
            Reply::Sockets(names.iter().map(|name| ((*name).to_owned(), socket())).collect())
        })
    };
    let ask = |peer: &Peer| run(Broker::new().socket_path(peer.path()).acquire(&["a", "b"], Holder::Process));
    assert_eq!(ask(&reply(&["a", "a", "b"])).unwrap().len(), 3);
    for wrong in [&["b", "a"][..], &["a"], &["a", "b", "a"], &[]] {
        assert!(matches!(ask(&reply(wrong)), Err(Error::Reply(_))), "{wrong:?}");
    }
}

#[test]
fn a_socket_that_may_not_be_opened_is_no_reason_to_bind() {
    use std::os::unix::fs::PermissionsExt;
    let peer = Peer::start(|_| Reply::Done);
    std::fs::set_permissions(peer.path(), std::fs::Permissions::from_mode(0o000)).unwrap();
    std::fs::set_permissions(peer.path().parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = peer.path().to_owned();
    // A thread of another user: root may open everything.
    let error = std::thread::spawn(move || {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
        run(listen("web").socket_path(path).or_bind("127.0.0.1:0").into_future()).unwrap_err()
    });
    let error = error.join().unwrap();
    assert!(matches!(error, ListenError::Broker(Error::Forbidden { .. })), "{error}");
}

fn properties(pairs: Vec<(&str, Variant<'static>)>) -> HashMap<String, OwnedVariant> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), OwnedVariant::try_from(value).unwrap())).collect()
}

fn listener(name: &'static str) -> HashMap<String, OwnedVariant> {
    let rows: Vec<wire::SocketRow> = vec![
        ("tcp 127.0.0.1:80".into(), "listening".into(), 4711, String::new()),
        ("tcp [::1]:80".into(), "failed".into(), 0, "taken by nginx[1]".into()),
    ];
    properties(vec![
        ("Name", name.into()),
        ("State", "failed".into()),
        ("Sockets", rows.into()),
        ("Holders", vec!["web.service".to_owned()].into()),
        ("Idle", "queue".into()),
        ("Allow", Vec::<String>::new().into()),
        ("Origin", "/etc/x.toml:3".into()),
        ("SomethingNew", 7_u32.into()),
    ])
}

#[test]
fn the_state_is_read_in_two_questions() {
    let peer = Peer::start(|call| match (call.member.as_str(), call.path.as_str()) {
        ("GetAll", wire::MANAGER_PATH) => Reply::Properties(properties(vec![
            ("State", "degraded".into()),
            ("Version", "1.2".into()),
            ("Faults", vec!["one".to_owned()].into()),
        ])),
        ("GetAll", "/org/portbroker/PortBroker1/listener/web") => Reply::Properties(listener("web")),
        ("GetAll", _) => Reply::Error("org.freedesktop.DBus.Error.UnknownObject", "no such object"),
        _ => Reply::Objects(
            ["web", "mail"]
                .into_iter()
                .map(|name| {
                    let path = wire::listener_path(name).try_into().unwrap();
                    (path, HashMap::from([(wire::LISTENER_INTERFACE.to_owned(), listener(name))]))
                })
                .collect(),
        ),
    });
    let broker = Broker::new().socket_path(peer.path());
    let status = run(broker.status()).unwrap();
    assert_eq!((status.state.as_str(), status.version.as_str()), ("degraded", "1.2"));
    let names: Vec<&str> = status.listeners.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["mail", "web"]);
    assert_eq!(peer.calls().len(), 2);
    assert_eq!(run(broker.listeners()).unwrap(), status.listeners);
    let web = run(broker.listener("web")).unwrap();
    assert_eq!(web, status.listeners[1]);
    assert_eq!(web.sockets[0].inode, Some(4711));
    assert_eq!(web.sockets[1].inode, None);
    assert_eq!(web.sockets[1].error.as_deref(), Some("taken by nginx[1]"));
    let error = run(broker.listener("ftp")).unwrap_err();
    assert!(matches!(error, Error::Refused { name: ErrorName::NoSuchListener, .. }), "{error}");
}

#[test]
fn a_property_that_is_missing_or_of_another_type_is_named() {
    let peer = Peer::start(|call| {
        let mut properties = listener("web");
        if call.path.ends_with("short") {
            properties.remove("Idle");
        } else {
            properties.insert("Idle".into(), OwnedVariant::try_from(Variant::from(7_u32)).unwrap());
        }
        Reply::Properties(properties)
    });
    let broker = Broker::new().socket_path(peer.path());
    for name in ["short", "other"] {
        let error = run(broker.listener(name)).unwrap_err();
        assert!(matches!(&error, Error::Reply(text) if text.contains("Idle")), "{error}");
    }
}
