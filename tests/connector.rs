//! The client library's connector against a real daemon, in a network namespace of the test's own: what a program
//! meets that connects from leased sources.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;
#[path = "support/server.rs"]
mod server;

use daemon::Daemon;
use netns::{in_netns, ip, spawn};
use portbroker_client::outbound::Connection;
use portbroker_client::{ConnectError, Connector, Error};
use server::Server;
use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;

type Stream = Connection<TcpStream>;

/// Two addresses of a hundred ports.
const POOL: &str =
    "[[pool]]\nname = \"egress\"\naddresses = [\"192.0.2.1\", \"192.0.2.2\"]\nports = \"20000-20099\"\n";
/// One address and one port.
const ONE: &str = "[[pool]]\nname = \"egress\"\naddresses = [\"192.0.2.1\"]\nports = \"20000\"\n";

/// Runs a test with a daemon, and a server that closes only when it is told to.
fn with(configuration: &str, test: impl FnOnce(&mut Daemon, &Server) + Send) {
    in_netns(|| {
        for n in [1, 2, 9] {
            ip(&format!("address add 192.0.2.{n}/32 dev lo"));
        }
        let mut daemon = Daemon::start(configuration);
        let server = Server::start("192.0.2.9:443".parse().unwrap());
        test(&mut daemon, &server);
    });
}

fn connector(daemon: &Daemon) -> Connector {
    Connector::new("egress").socket_path(daemon.socket())
}

fn connect(connector: &Connector, server: &Server) -> Stream {
    connector.connect_blocking(server.address).unwrap()
}

/// Everything that can be had, and the error after that.
fn exhaust(connector: &Connector, server: &Server) -> (Vec<Stream>, ConnectError) {
    let mut streams = Vec::new();
    loop {
        match connector.connect_blocking(server.address) {
            Ok(stream) => streams.push(stream),
            Err(error) => return (streams, error),
        }
    }
}

fn sources(streams: &[Stream]) -> HashSet<SocketAddr> {
    let sources: HashSet<SocketAddr> = streams.iter().map(|stream| stream.local_addr().unwrap()).collect();
    assert_eq!(sources.len(), streams.len(), "a source was used twice");
    sources
}

/// A connection, as soon as there is one.
fn eventually(connector: &Connector, server: &Server) -> Stream {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match connector.connect_blocking(server.address) {
            Ok(stream) => return stream,
            Err(ConnectError::Exhausted { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn is_exhausted(connector: &Connector, server: &Server) -> bool {
    matches!(connector.connect_blocking(server.address), Err(ConnectError::Exhausted { .. }))
}

#[test]
fn every_source_of_a_pool_is_used_and_then_it_is_said_how_full_it_is() {
    with(POOL, |daemon, server| {
        let connector = connector(daemon);
        let (mut streams, error) = exhaust(&connector, server);
        assert_eq!(sources(&streams).len(), 200);
        let text = error.to_string();
        assert!(text.contains("pool \"egress\"") && text.contains("192.0.2.9:443"), "{text}");
        let ConnectError::Exhausted { figures, held: 0, .. } = error else { panic!("{text}") };
        assert_eq!((figures.capacity, figures.used, figures.cooling, figures.free), (200, 200, 0, 0));
        // The peer closes first, and then we: nothing is left of it, and its source is used again at once.
        server.peers(200);
        let stream = streams.remove(123);
        let source = stream.leased();
        server.close(source.unwrap());
        (&*stream).read_to_end(&mut Vec::new()).unwrap();
        drop(stream);
        assert_eq!(eventually(&connector, server).leased(), source);
        // We close first: TIME_WAIT, which the kernel lets be replaced, for it has timestamps.
        let stream = streams.remove(7);
        let source = stream.leased();
        drop(stream);
        server.close(source.unwrap());
        assert_eq!(eventually(&connector, server).leased(), source);
    });
}

#[test]
fn without_timestamps_a_source_in_time_wait_is_left_alone_for_its_time() {
    with(ONE, |daemon, server| {
        std::fs::write("/proc/sys/net/ipv4/tcp_timestamps", "0\n").unwrap();
        let connector = connector(daemon);
        let stream = connect(&connector, server);
        let source = stream.leased().unwrap();
        drop(stream);
        server.close(source);
        let deadline = Instant::now() + Duration::from_secs(5);
        let left = loop {
            let error = connector.connect_blocking(server.address).unwrap_err();
            let ConnectError::Exhausted { figures, held: 1, .. } = error else { panic!("{error}") };
            // Until FIN_WAIT2 is over the next look is a moment away.
            match figures.next {
                Some(next) if next > Duration::from_secs(40) => break next,
                next => assert!(Instant::now() < deadline, "{next:?}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(left <= Duration::from_secs(60));
        // Another destination has the source meanwhile.
        let other = Server::start("192.0.2.9:444".parse().unwrap());
        assert_eq!(connect(&connector, &other).leased(), Some(source));
    });
}

#[test]
fn a_source_in_fin_wait_2_is_never_used_again() {
    with(ONE, |daemon, server| {
        let connector = connector(daemon);
        let stream = connect(&connector, server);
        let source = stream.leased().unwrap();
        // Half closed, by a clone that lives on; and then by an orphan.
        let clone = stream.try_clone().unwrap();
        drop(stream);
        clone.shutdown(std::net::Shutdown::Write).unwrap();
        server.peers(1);
        for _ in 0..20 {
            assert!(is_exhausted(&connector, server));
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut peer = server.take(source);
        peer.write_all(b"still here").unwrap();
        let mut answer = [0; 10];
        (&clone).read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"still here");
        drop(clone);
        for _ in 0..20 {
            assert!(is_exhausted(&connector, server));
            std::thread::sleep(Duration::from_millis(10));
        }
        // The peer's side was not reset.
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        assert!(peer.take_error().unwrap().is_none());
        drop(peer);
        assert_eq!(eventually(&connector, server).leased(), Some(source));
    });
}

#[test]
fn a_source_that_somebody_took_without_asking_is_passed_over() {
    with(POOL, |daemon, server| {
        let taken: Vec<_> = (20_000..20_020)
            .map(|port| {
                let socket =
                    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
                // Some refuse the bind, some the connect only.
                let shares = port % 2 == 0;
                socket.set_reuse_address(shares).unwrap();
                let source = SocketAddr::new("192.0.2.1".parse().unwrap(), port);
                socket.bind(&source.into()).unwrap();
                if shares {
                    socket.connect(&server.address.into()).unwrap();
                }
                (source, socket)
            })
            .collect();
        let connector = connector(daemon);
        let (streams, error) = exhaust(&connector, server);
        let used = sources(&streams);
        assert_eq!(used.len(), 180, "{error}");
        assert!(taken.iter().all(|(source, _)| !used.contains(source)));
        assert!(matches!(error, ConnectError::Exhausted { held: 20, .. }), "{error}");
        // When they are gone these are used, too.
        let gone: HashSet<SocketAddr> = taken.into_iter().map(|(source, _)| source).collect();
        gone.iter().filter(|source| source.port() % 2 == 0).for_each(|source| server.close(*source));
        assert!(gone.contains(&eventually(&connector, server).leased().unwrap()));
    });
}

/// What the second process of a test is told by its environment: the broker's socket.
const WORKER: &str = "PORTBROKER_TEST_WORKER";

#[test]
fn two_processes_never_have_the_same_source() {
    if let Some(socket) = std::env::var_os(WORKER) {
        return work(Connector::new("egress").socket_path(socket));
    }
    with(POOL, |daemon, server| {
        let mut workers: Vec<_> = (0..2)
            .map(|_| {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.args(["--exact", "two_processes_never_have_the_same_source", "--nocapture"]);
                command.env(WORKER, daemon.socket()).stdin(Stdio::piped()).stdout(Stdio::piped());
                spawn(&mut command)
            })
            .collect();
        let mut used = HashSet::new();
        for worker in &mut workers {
            let text = daemon::read_until(worker.stdout.as_mut().unwrap(), "all\n");
            let sources = text.lines().filter_map(|line| line.strip_prefix("source ")?.parse().ok());
            for source in sources {
                assert!(used.insert(source), "{source} was used by both");
            }
        }
        assert_eq!(used.len(), 200);
        let peers: HashSet<SocketAddr> = server.peers(200).into_iter().collect();
        assert_eq!(peers, used);
        // What they have is nobody else's, also when the peer has closed its side; killed, all of it comes back.
        let connector = connector(daemon);
        assert!(is_exhausted(&connector, server));
        used.iter().for_each(|source| server.close(*source));
        assert!(is_exhausted(&connector, server));
        for worker in &mut workers {
            worker.kill().unwrap();
            worker.wait().unwrap();
        }
        let streams: Vec<Stream> = (0..200).map(|_| eventually(&connector, server)).collect();
        assert_eq!(sources(&streams), used);
    });
}

/// The other process: takes all that it can have, says what, and waits to be killed.
fn work(connector: Connector) {
    let mut streams = Vec::new();
    let patience = Instant::now() + Duration::from_secs(20);
    // Both of them together have all of them.
    while let Ok(stream) = connector.connect_blocking("192.0.2.9:443") {
        println!("source {}", stream.leased().unwrap());
        streams.push(stream);
        assert!(Instant::now() < patience);
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("all");
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn a_daemon_that_is_killed_and_started_again_under_load_is_not_noticed() {
    with(POOL.replace("20099", "21999").as_str(), |daemon, server| {
        let connector = connector(daemon);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let load = |_| {
                scope.spawn(|| {
                    let (mut streams, mut made) = (Vec::new(), 0);
                    while !stop.load(Ordering::Relaxed) {
                        streams.push(connect(&connector, server));
                        made += 1;
                        // Now and then one goes, and altogether there are ever more.
                        if made % 3 == 0 {
                            server.close(streams.swap_remove(0).leased().unwrap());
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    streams
                })
            };
            let threads: Vec<_> = (0..4).map(load).collect();
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(300));
                daemon.restart_after_kill(&POOL.replace("20099", "21999"));
            }
            std::thread::sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
            let streams: Vec<Stream> =
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            sources(&streams);
            assert!(streams.len() > 150, "{}", streams.len());
            // Leases from before the kills are known still: nobody else is leased what is open.
            let other = Connector::new("egress").socket_path(daemon.socket());
            let (others, _) = exhaust(&other, server);
            assert!(sources(&others).is_disjoint(&sources(&streams)));
        });
    });
}

#[test]
fn a_daemon_that_has_lost_its_memory_is_asked_for_a_new_session() {
    with(POOL, |daemon, server| {
        let connector = connector(daemon);
        let streams: Vec<Stream> = (0..100).map(|_| connect(&connector, server)).collect();
        let journal = find(daemon.folder(), "leases");
        std::fs::write(&journal, "nonsense").unwrap();
        daemon.restart_after_kill(POOL);
        let (more, error) = exhaust(&connector, server);
        assert!(matches!(error, ConnectError::Exhausted { .. }), "{error}");
        let (old, new) = (sources(&streams), sources(&more));
        assert!(old.is_disjoint(&new));
        assert_eq!(old.len() + new.len(), 200);
    });
}

/// A file of the daemon's, wherever it is in its folder.
fn find(folder: &std::path::Path, name: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|file| file == name) {
                return path;
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    panic!("no file {name}");
}

#[test]
fn without_a_broker_a_connection_fails_or_the_kernel_chooses() {
    with(POOL, |daemon, server| {
        let nobody = Connector::new("egress").socket_path(daemon.folder().join("nobody"));
        let error = nobody.connect_blocking(server.address).unwrap_err();
        assert!(
            matches!(&error, ConnectError::Broker(error) if matches!(**error, Error::NotReachable { .. })),
            "{error}"
        );
        let stream = connect(&nobody.or_kernel(), server);
        assert_eq!(stream.leased(), None);
        // One that is there and refuses is not circumvented.
        let unknown = Connector::new("else").socket_path(daemon.socket()).or_kernel();
        let text = unknown.connect_blocking(server.address).unwrap_err().to_string();
        assert!(text.contains("Error.NoSuchPool: "), "{text}");
    });
}

#[test]
fn the_end_of_a_connector_ends_its_session() {
    with(POOL, |daemon, server| {
        let first = connector(daemon);
        let (streams, _) = exhaust(&first, server);
        let second = connector(daemon);
        assert!(is_exhausted(&second, server));
        // Its connections live on, and are nobody else's.
        let (mut kept, closed): (Vec<_>, Vec<_>) =
            streams.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
        closed.iter().for_each(|(_, stream)| server.close(stream.leased().unwrap()));
        drop(closed);
        let kept_sources: HashSet<SocketAddr> =
            kept.iter().map(|(_, stream)| stream.leased().unwrap()).collect();
        drop(first);
        let streams: Vec<Stream> = (0..100).map(|_| eventually(&second, server)).collect();
        assert!(sources(&streams).is_disjoint(&kept_sources));
        assert!(is_exhausted(&second, server));
        kept[0].1.write_all(b"hello").unwrap();
    });
}

#[test]
fn a_connection_that_a_child_has_keeps_its_source() {
    with(ONE, |daemon, server| {
        let connector = connector(daemon);
        let stream = connect(&connector, server);
        let source = stream.leased();
        let input = OwnedFd::from(stream.try_clone().unwrap());
        let mut child = spawn(Command::new("sleep").arg("1000").stdin(Stdio::from(input)));
        drop(stream);
        for _ in 0..10 {
            assert!(is_exhausted(&connector, server));
            std::thread::sleep(Duration::from_millis(20));
        }
        // Nor is it leased to others when the session ends.
        drop(connector);
        let other = Connector::new("egress").socket_path(daemon.socket());
        for _ in 0..10 {
            assert!(is_exhausted(&other, server));
            std::thread::sleep(Duration::from_millis(20));
        }
        // The peer closes first, so that no TIME_WAIT is left on our side.
        server.close(source.unwrap());
        assert!(is_exhausted(&other, server));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(eventually(&other, server).leased(), source);
    });
}

#[test]
fn ipv6_addresses_and_whole_prefixes_are_sources() {
    let pool = "[[pool]]\nname = \"egress\"\naddresses = [\"2001:db8::1\", \"2001:db8:1::/64\"]\nports = \"20000-20000\"\n";
    in_netns(|| {
        ip("-6 address add 2001:db8::1/128 dev lo nodad");
        ip("-6 address add 2001:db8::9/128 dev lo nodad");
        ip("-6 route add local 2001:db8:1::/64 dev lo");
        let daemon = Daemon::start(pool);
        let server = Server::start("[2001:db8::9]:443".parse().unwrap());
        let connector = connector(&daemon);
        let first = connect(&connector, &server);
        let streams: Vec<Stream> = (0..50).map(|_| connect(&connector, &server)).collect();
        let addresses: HashSet<String> = streams
            .iter()
            .chain([&first])
            .map(|stream| stream.local_addr().unwrap().ip().to_string())
            .collect();
        assert_eq!(addresses.len(), 51);
        assert!(addresses.iter().filter(|address| address.starts_with("2001:db8:1::")).count() >= 50);
        // The prefix goes: no connection hangs from an address that is not there.
        ip("-6 route del local 2001:db8:1::/64 dev lo");
        std::thread::sleep(Duration::from_millis(1_100));
        let started = Instant::now();
        for _ in 0..20 {
            match connector.connect_blocking(server.address) {
                Ok(stream) => assert_eq!(stream.leased().unwrap().ip().to_string(), "2001:db8::1"),
                Err(error) => assert!(
                    matches!(
                        error,
                        ConnectError::Exhausted { .. }
                            | ConnectError::Refused { .. }
                            | ConnectError::Broker(_)
                    ),
                    "{error}"
                ),
            }
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    });
}

#[test]
fn a_quota_that_is_used_up_is_met_from_what_other_destinations_do_not_use() {
    with(&format!("{POOL}quota = {{ ports = 100 }}\n"), |daemon, server| {
        let connector = connector(daemon);
        let others: Vec<Server> =
            (444..448).map(|port| Server::start(SocketAddr::new(server.address.ip(), port))).collect();
        // An eighth of 200 ports for each of four destinations, none for the fifth.
        let streams: Vec<Stream> =
            [server, &others[0], &others[1], &others[2]].map(|server| connect(&connector, server)).into();
        let text = connector.connect_blocking(others[3].address).unwrap_err().to_string();
        assert!(text.contains("Error.QuotaExceeded: "), "{text}");
        drop(streams);
        std::thread::sleep(Duration::from_millis(1_100));
        let streams: Vec<Stream> = (0..100).map(|_| connect(&connector, &others[3])).collect();
        assert_eq!(sources(&streams).len(), 100);
    });
}

#[test]
fn udp_ports_are_one_sockets_alone() {
    with(POOL, |daemon, _| {
        let servers: Vec<UdpSocket> =
            (0..4).map(|n| UdpSocket::bind(("192.0.2.9", 5300 + n)).unwrap()).collect();
        let connector = connector(daemon);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut sockets = HashSet::new();
        let mut kept = Vec::new();
        for n in 0..200 {
            let server = &servers[n % 4];
            let socket = runtime.block_on(connector.connect_udp(server.local_addr().unwrap())).unwrap();
            runtime.block_on(socket.send(&[7])).unwrap();
            let (_, from) = server.recv_from(&mut [0]).unwrap();
            assert_eq!(Some(from), socket.leased());
            assert!(sockets.insert(from), "{from} was used twice");
            kept.push(socket);
        }
        let to = servers[0].local_addr().unwrap();
        let error = connector.connect_udp_blocking(to).unwrap_err();
        assert!(matches!(error, ConnectError::Exhausted { .. }), "{error}");
        let source = kept.remove(50).leased();
        // A child that another test is just making has a copy of it for a moment.
        let deadline = Instant::now() + Duration::from_secs(10);
        let again = loop {
            match connector.connect_udp_blocking(to) {
                Ok(again) => break again,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        assert_eq!(again.leased(), source);
    });
}

#[test]
fn sixteen_threads_and_as_many_tasks_connect_and_close_at_nine_tenths_and_meet_no_error() {
    with(POOL, |daemon, _| {
        let connector = connector(daemon);
        // It closes what it accepts at once, and then we: nothing is left on our side.
        let closing = Server::closing("192.0.2.9:444".parse().unwrap());
        let closing = &closing;
        let kept: Vec<Stream> = (0..148).map(|_| connect(&connector, closing)).collect();
        let end = Instant::now() + Duration::from_secs(2);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        let mut made = 0;
                        while Instant::now() < end {
                            let stream = connect(&connector, closing);
                            (&*stream).read_to_end(&mut Vec::new()).unwrap();
                            made += 1;
                        }
                        made
                    })
                })
                .collect();
            let tasks = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(async {
                    let tasks: Vec<_> = (0..16)
                        .map(|_| {
                            let (connector, address) = (connector.clone(), closing.address);
                            tokio::spawn(async move {
                                let mut made = 0;
                                while Instant::now() < end {
                                    let mut stream = connector.connect(address).await.unwrap();
                                    made += u32::from(stream.leased().is_some());
                                    stream.read_to_end(&mut Vec::new()).await.unwrap();
                                }
                                made
                            })
                        })
                        .collect();
                    let mut made = 0;
                    for task in tasks {
                        made += task.await.unwrap();
                    }
                    made
                })
            });
            let made: u32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
            let by_tasks = tasks.join().unwrap();
            assert!(made > 200 && by_tasks > 200, "{made} by threads, {by_tasks} by tasks");
        });
        sources(&kept);
    });
}
