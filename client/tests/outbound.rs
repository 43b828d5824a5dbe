//! Sessions and the connector against a peer that gives what a test tells it to, on addresses of the loopback net.

#![cfg(test)]

#[expect(dead_code, reason = "other tests use the rest")]
mod peer;

use peer::{Call, Peer, Reply};
use portbroker_client::{Block, Broker, ConnectError, Connector, Error, Protocol, Target};
use std::collections::{HashMap, HashSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use zbus::wire::OwnedVariant;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The peer's side of a lifeline, to see when it closes.
struct Lifelines(Arc<Mutex<Vec<std::io::PipeReader>>>);

/// A session and its lifeline.
fn session(lifelines: &Mutex<Vec<std::io::PipeReader>>, id: u64) -> Reply {
    let (reader, writer) = std::io::pipe().unwrap();
    lifelines.lock().unwrap().push(reader);
    Reply::Session(id, OwnedFd::from(writer))
}

impl Lifelines {
    fn new() -> Self {
        Self(Arc::default())
    }

    /// Waits until all have been closed.
    fn ended(&self) {
        for mut reader in self.0.lock().unwrap().drain(..) {
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        }
    }
}

/// A broker with addresses of 127.0.0.0/8 and so many ports of each, from 20000 on; leases run through them, and
/// nothing comes back.
struct Granting {
    peer: Peer,
    lifelines: Lifelines,
}

impl Granting {
    fn start(addresses: &[&str], ports: u16) -> Self {
        let addresses: Vec<String> = addresses.iter().map(|&a| a.to_owned()).collect();
        let lifelines = Lifelines::new();
        let (ends, next) = (Arc::clone(&lifelines.0), AtomicU32::new(0));
        let leases = AtomicU64::new(0);
        let all = u32::from(ports) * u32::try_from(addresses.len()).unwrap();
        let peer = Peer::start(move |call: &Call| match call.member.as_str() {
            "OpenSession" => session(&ends, 7),
            "LeaseBlocks" => {
                let asked = call.lease.as_ref().unwrap().count;
                let from = next.load(Ordering::Relaxed);
                let to = (from + asked).min(all);
                next.store(to, Ordering::Relaxed);
                if from == to {
                    return Reply::Exhausted(HashMap::from([
                        ("capacity".to_owned(), OwnedVariant::from(all)),
                        ("used".to_owned(), OwnedVariant::from(all)),
                    ]));
                }
                // Every port a block of its own, by turns over the addresses.
                let block = |n: u32| {
                    let address = addresses[n as usize % addresses.len()].clone();
                    let port = u16::try_from(20_000 + n as usize / addresses.len()).unwrap();
                    (address, port, port)
                };
                Reply::Blocks(leases.fetch_add(1, Ordering::Relaxed) + 1, (from..to).map(block).collect())
            }
            other => besides(other),
        });
        Self { peer, lifelines }
    }

    fn connector(&self) -> Connector {
        Connector::new("egress").socket_path(self.peer.path())
    }

    fn asked(&self) -> Vec<peer::Lease> {
        self.peer.calls().into_iter().filter_map(|call| call.lease).collect()
    }
}

/// Accepts, and keeps what it accepted.
struct Server {
    address: SocketAddr,
    accepted: Arc<Mutex<Vec<TcpStream>>>,
}

#[expect(clippy::disallowed_methods, reason = "the peer of the tests is any program")]
fn listener(address: &str) -> TcpListener {
    TcpListener::bind((address, 0)).unwrap()
}

impl Server {
    fn start(address: &str) -> Self {
        let listener = listener(address);
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&accepted);
        // Ends with the process: nobody can tell accept(2) to stop.
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                kept.lock().unwrap().push(stream);
            }
        });
        Self { address, accepted }
    }

    /// The peer's addresses, once there are so many.
    fn peers(&self, count: usize) -> Vec<SocketAddr> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let accepted = self.accepted.lock().unwrap();
            if accepted.len() >= count {
                return accepted.iter().map(|stream| stream.peer_addr().unwrap()).collect();
            }
            drop(accepted);
            assert!(Instant::now() < deadline, "{count} connections did not come");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The peer closes first: no TIME_WAIT on our side.
    fn close_all(&self) {
        self.accepted.lock().unwrap().clear();
    }
}

fn target(destination: &str) -> Target {
    let destination = (!destination.is_empty()).then(|| destination.parse().unwrap());
    Target { pool: "egress".into(), protocol: Protocol::Tcp, destination }
}

/// What a connector asks on its own time, of a broker that has nothing to say to it.
fn besides(member: &str) -> Reply {
    match member {
        "ListWanted" => Reply::Wanted(Vec::new()),
        "ListLeases" => Reply::Leases(Vec::new()),
        "Release" => Reply::Done,
        other => panic!("{other}"),
    }
}

#[test]
fn a_session_leases_pairs_blocks_and_sockets_and_ends_with_its_lifeline() {
    let lifelines = Lifelines::new();
    let ends = Arc::clone(&lifelines.0);
    let peer = Peer::start(move |call| match call.member.as_str() {
        "OpenSession" => session(&ends, 12),
        "LeasePairs" => Reply::Pairs(1, vec![("127.0.0.9".into(), 5), ("127.0.0.8".into(), 6)]),
        "LeaseBlocks" => Reply::Blocks(2, vec![("127.0.0.9".into(), 10, 19)]),
        "LeaseSockets" => {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let port = socket.local_addr().unwrap().port();
            Reply::LeasedSockets(3, vec![("127.0.0.1".into(), port, socket.into())])
        }
        other => besides(other),
    });
    run(async {
        let session = Broker::new().socket_path(peer.path()).open_session().await.unwrap();
        assert_eq!(session.id(), 12);
        let pairs = session.pairs(&target("127.0.0.1:80"), 2).await.unwrap();
        assert_eq!((pairs.id, pairs.items.len(), pairs.items[0]), (1, 2, "127.0.0.9:5".parse().unwrap()));
        let blocks = session.blocks(&target(""), 64, 1).await.unwrap();
        let address: IpAddr = "127.0.0.9".parse().unwrap();
        assert_eq!(blocks.items, [Block { address, first: 10, last: 19 }]);
        let sockets = session.sockets(&target(""), 1).await.unwrap();
        assert_eq!(
            UdpSocket::from(sockets.items.into_iter().next().unwrap().1)
                .local_addr()
                .unwrap()
                .ip()
                .to_string(),
            "127.0.0.1"
        );
        session.release(3).await.unwrap();
        // What does not fit the question is given back, and no error hides it.
        let few = session.pairs(&target("127.0.0.1:80"), 3).await.unwrap_err();
        assert!(matches!(&few, Error::Reply(text) if text.contains("got 2")), "{few}");
        assert!(matches!(session.blocks(&target("[::1]:80"), 64, 1).await, Err(Error::Reply(_))));
    });
    lifelines.ended();
    let calls = peer.calls();
    let released: Vec<u64> = calls.iter().filter(|c| c.member == "Release").map(|c| c.released).collect();
    assert_eq!(released, [3, 1, 2]);
    let lease = calls.iter().find_map(|call| call.lease.clone()).unwrap();
    assert_eq!(lease.session, "/org/portbroker/PortBroker1/session/12");
    assert_eq!((lease.pool.as_str(), lease.protocol.as_str()), ("egress", "tcp"));
    assert_eq!((lease.destination.as_str(), lease.count, lease.minimum), ("127.0.0.1:80", 2, None));
    assert_eq!(calls.iter().filter_map(|call| call.lease.as_ref()?.minimum).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn connections_of_std_and_tokio_come_from_leased_ports_in_turns_over_the_addresses() {
    let broker = Granting::start(&["127.1.0.1", "127.1.0.2"], 2_000);
    let server = Server::start("127.0.0.1");
    let connector = broker.connector();
    let mut stream = connector.connect_blocking(server.address).unwrap();
    let first = stream.leased().unwrap();
    assert_eq!((stream.local_addr().unwrap(), first.ip().to_string().as_str()), (first, "127.1.0.1"));
    assert!(!socket2::SockRef::from(&stream).nonblocking().unwrap());
    run(async {
        let mut other = connector.connect(server.address).await.unwrap();
        assert_eq!(other.local_addr().unwrap().ip().to_string(), "127.1.0.2");
        server.peers(2);
        for accepted in server.accepted.lock().unwrap().iter_mut() {
            accepted.write_all(b"hello").unwrap();
        }
        let mut answer = [0; 5];
        other.read_exact(&mut answer).await.unwrap();
        other.write_all(b"hi").await.unwrap();
        // Blocking inside of a runtime.
        let third = connector.connect_blocking(server.address).unwrap();
        assert_eq!(third.leased().unwrap().ip(), first.ip());
    });
    let mut answer = String::new();
    (&*stream).take(5).read_to_string(&mut answer).unwrap();
    stream.write_all(b"hi").unwrap();
    assert_eq!(answer, "hello");
    let lease = broker.asked().remove(0);
    assert_eq!((lease.destination, lease.count, lease.minimum), (server.address.to_string(), 64, Some(1)));
    drop((connector, stream));
    broker.lifelines.ended();
}

#[test]
fn all_ports_are_used_and_then_the_error_says_how_full_it_is() {
    let broker = Granting::start(&["127.2.0.1", "127.2.0.2"], 100);
    let server = Server::start("127.0.0.1");
    let connector = broker.connector();
    let mut streams: Vec<_> = (0..200)
        .map(|n| connector.connect_blocking(server.address).unwrap_or_else(|e| panic!("{n}: {e}")))
        .collect();
    let sources: HashSet<SocketAddr> = streams.iter().map(|stream| stream.local_addr().unwrap()).collect();
    assert_eq!(sources.len(), 200);
    let error = connector.connect_blocking(server.address).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("pool \"egress\" has no source port left for 127.0.0.1:"), "{text}");
    assert!(
        matches!(error, ConnectError::Exhausted { figures, held: 0, .. } if figures.capacity == 200 && figures.used == 200)
    );
    // One that is closed is used again; while the peer keeps its side open, it is not.
    server.peers(200);
    let (one, source) = (streams.remove(77), streams[77].leased());
    drop(one);
    let error = connector.connect_blocking(server.address).unwrap_err();
    assert!(
        matches!(&error, ConnectError::Exhausted { figures, held: 1, .. } if figures.next.is_some()),
        "{error}"
    );
    assert_ne!(source, None);
    server.close_all();
    let deadline = Instant::now() + Duration::from_secs(5);
    let again = loop {
        match connector.connect_blocking(server.address) {
            Ok(stream) => break stream,
            Err(ConnectError::Exhausted { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert!(sources.contains(&again.leased().unwrap()));
}

#[test]
fn the_next_block_is_asked_for_in_the_background() {
    let broker = Granting::start(&["127.3.0.1"], 5_000);
    let server = Server::start("127.0.0.1");
    let connector = broker.connector();
    let streams: Vec<_> = (0..600)
        .map(|_| {
            std::thread::sleep(Duration::from_micros(500));
            connector.connect_blocking(server.address).unwrap()
        })
        .collect();
    let asked: u32 = broker.asked().iter().map(|lease| lease.count).sum();
    assert!((640..=768).contains(&asked), "{asked}");
    assert_eq!(streams.len(), 600);
}

#[test]
fn a_udp_port_serves_one_socket_and_all_destinations_share_the_block() {
    let broker = Granting::start(&["127.4.0.1"], 500);
    let connector = broker.connector();
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = connector.connect_udp_blocking(server.local_addr().unwrap()).unwrap();
    socket.send(b"hello").unwrap();
    let mut buffer = [0; 9];
    assert_eq!(server.recv_from(&mut buffer).unwrap(), (5, socket.leased().unwrap()));
    let second = run(async {
        let socket = connector.connect_udp(other.local_addr().unwrap()).await.unwrap();
        socket.send(b"hi").await.unwrap();
        socket.leased().unwrap()
    });
    assert_ne!(socket.leased(), Some(second));
    let asked = broker.asked();
    assert_eq!((asked.len(), asked[0].protocol.as_str(), asked[0].destination.as_str()), (1, "udp", ""));
}

#[test]
fn a_port_that_somebody_else_has_is_passed_over() {
    let broker = Granting::start(&["127.5.0.1"], 500);
    let server = Server::start("127.0.0.1");
    let bound = |port: u16, reuse: bool| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(reuse).unwrap();
        socket.bind(&SocketAddr::new("127.5.0.1".parse().unwrap(), port).into()).unwrap();
        socket
    };
    // One that bind(2) refuses, and one that only connect(2) does.
    let _alone = bound(20_000, false);
    let same = bound(20_001, true);
    same.connect(&server.address.into()).unwrap();
    let connector = broker.connector();
    let stream = connector.connect_blocking(server.address).unwrap();
    assert_eq!(stream.leased().unwrap().port(), 20_002);
    let stream = run(async { connector.connect(server.address).await.unwrap() });
    assert_eq!(stream.leased().unwrap().port(), 20_003);
}

#[test]
fn where_the_kernel_refuses_everything_the_error_says_so() {
    let broker = Granting::start(&["127.6.0.1"], 300);
    let server = Server::start("127.0.0.1");
    let taken: Vec<_> = (20_000..20_300).map(|port| UdpSocket::bind(("127.6.0.1", port)).unwrap()).collect();
    let error = broker.connector().connect_udp_blocking(server.address).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ConnectError::Refused { tried: 256, .. }), "{text}");
    assert!(
        text.contains("refused 256 source ports of pool \"egress\", the last one 127.6.0.1:20255"),
        "{text}"
    );
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::AddrNotAvailable);
    drop(taken);
}

#[test]
fn what_the_peer_says_is_the_callers_and_the_port_is_used_again() {
    let broker = Granting::start(&["127.7.0.1"], 1);
    let connector = broker.connector();
    let nobody = listener("127.0.0.1").local_addr().unwrap();
    for _ in 0..3 {
        let error = connector.connect_blocking(nobody).unwrap_err();
        assert!(
            matches!(&error, ConnectError::Connect { source, .. }
            if source.kind() == std::io::ErrorKind::ConnectionRefused),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains("from 127.7.0.1:20000"), "{text}");
        let error = run(connector.connect(nobody)).unwrap_err();
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_connect_that_is_given_up_gives_its_port_back() {
    let broker = Granting::start(&["127.8.0.1"], 1);
    let connector = broker.connector();
    // Its queue is full: what comes now waits.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _first = TcpStream::connect(address).unwrap();
    run(async {
        for _ in 0..2 {
            let waits = tokio::time::timeout(Duration::from_millis(50), connector.connect(address)).await;
            assert!(waits.is_err(), "{waits:?}");
        }
    });
    let limited = connector.connect_timeout(Duration::from_millis(50));
    let error = limited.connect_blocking(address).unwrap_err();
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::TimedOut);
    let error = run(limited.connect(address)).unwrap_err();
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::TimedOut);
    let _second = socket.accept().unwrap();
    limited.connect_blocking(address).unwrap();
}

#[test]
fn without_a_broker_it_fails_or_the_kernel_chooses_as_told() {
    let server = Server::start("127.0.0.1");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nobody");
    let fails = Connector::new("egress").socket_path(&path);
    let error = fails.connect_blocking(server.address).unwrap_err();
    assert!(
        matches!(&error, ConnectError::Broker(e) if matches!(**e, Error::NotReachable { .. })),
        "{error}"
    );
    let goes_on = fails.clone().or_kernel();
    let started = Instant::now();
    for _ in 0..100 {
        let stream = goes_on.connect_blocking(server.address).unwrap();
        assert_eq!(stream.leased(), None);
    }
    assert!(started.elapsed() < Duration::from_secs(1), "nobody is asked a hundred times");
    run(async {
        assert_eq!(goes_on.connect(server.address).await.unwrap().leased(), None);
        assert_eq!(goes_on.connect_udp(server.address).await.unwrap().leased(), None);
    });
    // One that refuses is not circumvented.
    let refusing = Peer::start(|call| match call.member.as_str() {
        "OpenSession" => session(&Mutex::default(), 1),
        _ => Reply::Error("org.portbroker.PortBroker1.Error.NotAllowed", "not you"),
    });
    let error = goes_on.socket_path(refusing.path()).connect_blocking(server.address).unwrap_err();
    assert!(error.to_string().contains("NotAllowed: not you"), "{error}");
}

#[test]
fn a_program_sets_its_socket_up_before_it_is_connected() {
    let broker = Granting::start(&["127.9.0.1"], 10);
    let server = Server::start("127.0.0.1");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let connector = broker.connector().before_connect(move |socket, destination| {
        told.lock().unwrap().push(destination);
        socket2::SockRef::from(&socket).set_tcp_nodelay(true)
    });
    assert!(connector.connect_blocking(server.address).unwrap().nodelay().unwrap());
    assert_eq!(*seen.lock().unwrap(), [server.address]);
    let failing = connector.before_connect(|_, _| Err(std::io::Error::other("my own reason")));
    let text = failing.connect_blocking(server.address).unwrap_err().to_string();
    assert!(text.ends_with("my own reason"), "{text}");
}

#[test]
fn a_broker_that_has_lost_its_memory_is_asked_for_everything_anew() {
    let lifelines = Lifelines::new();
    let (ends, opened) = (Arc::clone(&lifelines.0), AtomicU64::new(0));
    let lost = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let has_lost = Arc::clone(&lost);
    let peer = Peer::start(move |call| match call.member.as_str() {
        "OpenSession" => session(&ends, opened.fetch_add(1, Ordering::Relaxed)),
        "LeaseBlocks" => {
            let first = call.lease.as_ref().unwrap().session.ends_with("/0");
            match (has_lost.load(Ordering::Relaxed), first) {
                (true, true) => {
                    Reply::Error("org.portbroker.PortBroker1.Error.NoSuchSession", "there is no session 0")
                }
                (_, true) => Reply::Blocks(1, vec![("127.10.0.1".into(), 20_000, 20_001)]),
                (_, false) => Reply::Blocks(1, vec![("127.10.0.1".into(), 20_001, 20_008)]),
            }
        }
        other => besides(other),
    });
    let connector = Connector::new("egress").socket_path(peer.path());
    let server = Server::start("127.0.0.1");
    let kept = [
        connector.connect_blocking(server.address).unwrap(),
        connector.connect_blocking(server.address).unwrap(),
    ];
    lost.store(true, Ordering::Relaxed);
    // 20001 is open still: the kernel is asked also about what was never used by this lease.
    let stream = connector.connect_blocking(server.address).unwrap();
    assert_eq!(stream.leased().unwrap().port(), 20_002);
    drop(kept);
}

#[test]
fn ports_that_are_leased_twice_are_not_used() {
    let lifelines = Lifelines::new();
    let (ends, leases) = (Arc::clone(&lifelines.0), AtomicU64::new(0));
    let peer = Peer::start(move |call| match call.member.as_str() {
        "OpenSession" => session(&ends, 1),
        "LeaseBlocks" => {
            Reply::Blocks(leases.fetch_add(1, Ordering::Relaxed), vec![("127.11.0.1".into(), 20_000, 20_001)])
        }
        _ => Reply::Done,
    });
    let connector = Connector::new("egress").socket_path(peer.path());
    let server = Server::start("127.0.0.1");
    let _kept = [
        connector.connect_blocking(server.address).unwrap(),
        connector.connect_blocking(server.address).unwrap(),
    ];
    let text = connector.connect_blocking(server.address).unwrap_err().to_string();
    assert!(text.contains("127.11.0.1 ports 20000 to 20001 were leased twice"), "{text}");
}

#[test]
fn a_lease_whose_answer_was_lost_is_released() {
    let lifelines = Lifelines::new();
    let (ends, leases) = (Arc::clone(&lifelines.0), AtomicU64::new(0));
    let peer = Peer::start(move |call| match call.member.as_str() {
        "OpenSession" => session(&ends, 3),
        // The first answer never comes, as where the daemon is killed behind it.
        "LeaseBlocks" => match leases.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::HangUp,
            _ => Reply::Blocks(2, vec![("127.13.0.1".into(), 20_001, 20_008)]),
        },
        "ListLeases" => {
            Reply::Leases([(1, 3, "held"), (2, 3, "held"), (4, 3, "cooling"), (5, 8, "held")].into())
        }
        other => besides(other),
    });
    let connector = Connector::new("egress").socket_path(peer.path());
    let server = Server::start("127.0.0.1");
    connector.connect_blocking(server.address).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let released = loop {
        let released: Vec<u64> =
            peer.calls().into_iter().filter(|c| c.member == "Release").map(|c| c.released).collect();
        if !released.is_empty() {
            break released;
        }
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(released, [1]);
}

#[test]
fn a_program_can_connect_for_itself() {
    let broker = Granting::start(&["127.14.0.1"], 2);
    let server = Server::start("127.0.0.1");
    let connector = broker.connector();
    let socket = connector.bind_blocking(Protocol::Tcp, server.address).unwrap();
    let first = socket.leased().unwrap();
    socket2::SockRef::from(&socket).connect(&server.address.into()).unwrap();
    assert_eq!(server.peers(1), [first]);
    let second = run(connector.bind(Protocol::Tcp, server.address)).unwrap();
    assert!(socket2::SockRef::from(&second).nonblocking().unwrap());
    let third = connector.bind_blocking(Protocol::Tcp, server.address);
    assert!(matches!(third, Err(ConnectError::Exhausted { .. })), "{third:?}");
    second.refused();
    let error = connector.bind_blocking(Protocol::Tcp, server.address).unwrap_err();
    assert!(matches!(error, ConnectError::Exhausted { held: 1, .. }), "{error}");
}

#[test]
fn many_threads_and_tasks_never_have_the_same_source() {
    let broker = Granting::start(&["127.12.0.1", "127.12.0.2", "127.12.0.3"], 1_000);
    let server = Server::start("127.0.0.1");
    let connector = broker.connector();
    let out = Arc::new(Mutex::new(HashSet::new()));
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (connector, out, address) = (connector.clone(), Arc::clone(&out), server.address);
            std::thread::spawn(move || {
                for _ in 0..60 {
                    let stream = connector.connect_blocking(address).unwrap();
                    let source = stream.leased().unwrap();
                    assert!(out.lock().unwrap().insert(source), "{source} twice");
                    std::thread::yield_now();
                    out.lock().unwrap().remove(&source);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    run(async {
        let tasks: Vec<_> = (0..300)
            .map(|_| {
                let (connector, address) = (connector.clone(), server.address);
                tokio::spawn(async move { connector.connect(address).await.unwrap() })
            })
            .collect();
        let mut streams = HashMap::new();
        for task in tasks {
            let stream = task.await.unwrap();
            assert!(streams.insert(stream.leased().unwrap(), stream).is_none());
        }
    });
}

#[test]
fn a_connector_asks_on_one_connection_and_makes_another_when_that_is_lost() {
    let server = Server::start("127.0.0.1");
    let (lifelines, asked) = (Lifelines::new(), AtomicU64::new(0));
    let ends = Arc::clone(&lifelines.0);
    let peer = Peer::start(move |call: &Call| match call.member.as_str() {
        "OpenSession" => session(&ends, 7),
        "LeaseBlocks" => match asked.fetch_add(1, Ordering::Relaxed) {
            // As a daemon that is killed.
            2 => Reply::HangUp,
            n => {
                let port = 20_000 + u16::try_from(n).unwrap();
                Reply::Blocks(n + 1, vec![("127.0.0.5".to_owned(), port, port)])
            }
        },
        other => besides(other),
    });
    let connector = Connector::new("egress").socket_path(peer.path());
    let streams: Vec<_> = (0..4).map(|_| connector.connect_blocking(server.address).unwrap()).collect();
    assert_eq!(streams.len(), 4);
    let connections = |member: &str| {
        let calls = peer.calls().into_iter().filter(|call| call.member == member);
        calls.map(|call| call.connection).collect::<Vec<_>>()
    };
    assert_eq!(connections("OpenSession"), [1]);
    let blocks = connections("LeaseBlocks");
    assert_eq!(blocks[..4], [1, 1, 1, 2], "{blocks:?}");
    assert!(blocks[4..].iter().all(|connection| *connection == 2), "{blocks:?}");
}

#[test]
fn a_connector_that_waits_asks_the_broker_to_wait_and_no_longer_than_it_does() {
    let server = Server::start("127.0.0.1");
    let (lifelines, asked) = (Lifelines::new(), AtomicU64::new(0));
    let ends = Arc::clone(&lifelines.0);
    let peer = Peer::start(move |call: &Call| match call.member.as_str() {
        "OpenSession" => session(&ends, 7),
        "LeaseBlocks" => match (asked.fetch_add(1, Ordering::Relaxed), call.lease.as_ref().unwrap().wait) {
            (0, None) | (1, Some(_)) => Reply::Exhausted(HashMap::new()),
            (2, Some(_)) => Reply::Blocks(1, vec![("127.0.0.6".to_owned(), 20_000, 20_000)]),
            _ => Reply::Exhausted(HashMap::new()),
        },
        other => besides(other),
    });
    let connector = Connector::new("egress").socket_path(peer.path()).waiting(Duration::from_secs(30));
    let stream = connector.connect_blocking(server.address).unwrap();
    assert_eq!(stream.leased(), Some("127.0.0.6:20000".parse().unwrap()));
    let leases: Vec<peer::Lease> = peer.calls().into_iter().filter_map(|call| call.lease).collect();
    assert!(
        leases.iter().all(|lease| lease.ahead && lease.wait.is_none_or(|wait| wait <= 30_000)),
        "{leases:?}"
    );
    // And when its own time is up, so is its patience.
    let short = connector.waiting(Duration::from_millis(200));
    let began = Instant::now();
    let error = short.connect_blocking(server.address).unwrap_err();
    assert!(matches!(error, ConnectError::Exhausted { .. }) && began.elapsed() >= Duration::from_millis(200));
}

#[test]
fn what_others_lack_and_nobody_here_uses_is_given_back_when_the_broker_says_so() {
    let server = Server::start("127.0.0.1");
    let (lifelines, asked) = (Lifelines::new(), AtomicU64::new(0));
    let ends = Arc::clone(&lifelines.0);
    let to = server.address.to_string();
    let peer = Peer::start(move |call: &Call| match call.member.as_str() {
        "OpenSession" => session(&ends, 7),
        // The second question comes with the word that somebody lacks ports.
        "LeaseBlocks" => match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::Blocks(1, vec![("127.0.0.7".to_owned(), 20_000, 20_063)]),
            _ => Reply::SignalAndBlocks(2, vec![("127.0.0.7".to_owned(), 20_100, 20_163)]),
        },
        "ListWanted" => Reply::Wanted(vec![
            ("egress".into(), "tcp".into(), to.clone()),
            ("else".into(), "tcp".into(), to.clone()),
            ("egress".into(), "tcp".into(), "192.0.2.77:1".into()),
        ]),
        other => besides(other),
    });
    let connector = Connector::new("egress").socket_path(peer.path());
    // Three quarters of the first block are out, so that another is asked for.
    let streams: Vec<_> = (0..49).map(|_| connector.connect_blocking(server.address).unwrap()).collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    let released = || {
        let calls = peer.calls().into_iter().filter(|call| call.member == "Release");
        calls.map(|call| call.released).collect::<Vec<_>>()
    };
    while released() != [2] {
        assert!(Instant::now() < deadline, "{:?}", released());
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(streams);
}
