//! Leases of a real daemon, in a network namespace of the test's own: every member, every refusal, and what is left of
//! a lease when its program ends.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/leases.rs"]
mod leases;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;

use daemon::{Daemon, run};
use leases::{Client, connected, eventually};
use netns::{NOBODY, in_netns, spawn};
use portbroker_client::wire::ErrorName;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use zbus::{OwnedObjectPath, Variant};

/// Four addresses of a hundred ports.
const POOL: &str = "\
[[pool]]
name = \"egress\"
addresses = [\"192.0.2.1-192.0.2.4\"]
ports = \"10000-10099\"
";
/// Where everybody connects to.
const TO: &str = "192.0.2.9:443";

pub(crate) fn ip(arguments: &str) {
    let status = spawn(Command::new("ip").args(arguments.split_whitespace())).wait().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn addresses() {
    for n in [1, 2, 3, 4, 9] {
        ip(&format!("address add 192.0.2.{n}/32 dev lo"));
    }
}

fn started(configuration: &str) -> Daemon {
    addresses();
    Daemon::start(configuration)
}

#[expect(clippy::disallowed_methods, reason = "somebody else's service")]
fn service() -> TcpListener {
    TcpListener::bind(TO).unwrap()
}

#[test]
fn pairs_are_spread_and_can_be_bound_and_connected() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        let (lease, pairs) = client.pairs(&session, "egress", "tcp", TO, 40).unwrap();
        let mut of_each: BTreeMap<_, u32> = BTreeMap::new();
        pairs.iter().for_each(|source| *of_each.entry(source.ip()).or_default() += 1);
        assert_eq!(of_each.values().copied().collect::<Vec<_>>(), [10, 10, 10, 10]);
        assert_eq!(pairs.iter().collect::<BTreeSet<_>>().len(), 40);
        assert!(pairs.iter().all(|source| (10_000..=10_099).contains(&source.port())));
        let service = service();
        let to = service.local_addr().unwrap();
        let connections: Vec<_> = pairs.iter().map(|source| connected(*source, to).unwrap()).collect();
        assert_eq!(connections[7].local_addr().unwrap(), pairs[7]);
        let rows = client.leases();
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert_eq!((row.0, row.2.as_str(), row.3.as_str(), row.4.as_str()), (lease, "egress", "tcp", TO));
        assert_eq!((row.5.as_str(), row.6, row.7.as_str()), ("pairs", 40, "held"));
        assert!(daemon.log().contains("leased 40 ports of egress"));
    });
}

#[test]
fn one_port_serves_many_destinations_and_none_twice() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        let (_, all) = client.blocks(&session, "egress", TO, 400, None).unwrap();
        assert_eq!(all.iter().map(|(_, first, last)| u32::from(last - first) + 1).sum::<u32>(), 400);
        assert!(all.iter().all(|(_, first, last)| first / 64 == last / 64), "{all:?}");
        let other = "192.0.2.9:444";
        let (_, others) = client.pairs(&session, "egress", "tcp", other, 400).unwrap();
        assert_eq!(others.iter().collect::<BTreeSet<_>>().len(), 400);
        // Of UDP the kernel guards nothing: whoever has a port has it alone.
        let (_, udp) = client.pairs(&session, "egress", "udp", TO, 300).unwrap();
        let (_, more) = client.pairs(&session, "egress", "udp", other, 100).unwrap();
        assert_eq!(udp.iter().chain(&more).collect::<BTreeSet<_>>().len(), 400);
        for (protocol, to) in [("tcp", TO), ("tcp", other), ("tcp", ""), ("udp", TO), ("udp", "")] {
            let refused = client.pairs(&session, "egress", protocol, to, 1).unwrap_err();
            assert_eq!(refused.name, Some(ErrorName::Exhausted), "{protocol} {to}: {refused:?}");
            assert_eq!((refused.number("capacity"), refused.number("used")), (400, 400));
            assert_eq!((refused.number("cooling"), refused.number("free")), (0, 0));
            assert!(refused.text.contains("egress") && !refused.details.contains_key("next"), "{refused:?}");
        }
        let some = client.blocks(&session, "egress", "192.0.2.9:445", 1000, Some(1)).unwrap();
        assert_eq!(some.1.iter().map(|(_, first, last)| u32::from(last - first) + 1).sum::<u32>(), 400);
    });
}

#[test]
fn every_wrong_argument_has_its_error() {
    in_netns(|| {
        let daemon = started(&format!("{POOL}quota = {{ ports = 50 }}\n"));
        let client = Client::of(&daemon);
        let session = client.open();
        let error = |pool: &str, protocol: &str, to: &str, count| {
            client.pairs(&session, pool, protocol, to, count).unwrap_err()
        };
        for (name, pool, protocol, to, count) in [
            (ErrorName::NoSuchPool, "else", "tcp", TO, 1),
            (ErrorName::NoSuchPool, "", "tcp", TO, 1),
            (ErrorName::BadArgument, "egress", "sctp", TO, 1),
            (ErrorName::BadArgument, "egress", "tcp", TO, 0),
            (ErrorName::BadArgument, "egress", "tcp", TO, 65_537),
            (ErrorName::BadArgument, "egress", "tcp", TO, u32::MAX),
            (ErrorName::BadArgument, "egress", "tcp", "192.0.2.9", 1),
            (ErrorName::BadArgument, "egress", "tcp", "192.0.2.9:0", 1),
            (ErrorName::BadArgument, "egress", "tcp", "0.0.0.0:1", 1),
            (ErrorName::BadArgument, "egress", "tcp", "224.0.0.1:1", 1),
            (ErrorName::BadArgument, "egress", "tcp", "[::ffff:192.0.2.9]:443", 1),
            (ErrorName::BadArgument, "egress", "tcp", "[2001:db8::1]:443", 1),
            (ErrorName::QuotaExceeded, "egress", "tcp", TO, 51),
        ] {
            let refused = error(pool, protocol, to, count);
            assert_eq!(refused.name, Some(name), "{pool} {protocol} {to} {count}: {refused:?}");
            assert!(!refused.text.is_empty());
        }
        let path = session.path.as_ref();
        let option = |key, value| HashMap::from([(key, value)]);
        for options in [option("else", Variant::U32(1)), option("minimum", Variant::U32(1))] {
            let refused = client
                .ask(async |manager| manager.lease_pairs(&path, "egress", "tcp", TO, 1, options).await)
                .unwrap_err();
            assert_eq!(refused.name, Some(ErrorName::BadArgument));
        }
        for wrong in ["/org/portbroker/PortBroker1/session/99", "/", "/org/portbroker/PortBroker1"] {
            let wrong = OwnedObjectPath::try_from(wrong).unwrap();
            let refused = client
                .ask(async |manager| {
                    manager.lease_blocks(&wrong.as_ref(), "egress", "tcp", TO, 1, HashMap::new()).await
                })
                .unwrap_err();
            assert_eq!(refused.name, Some(ErrorName::BadArgument), "{refused:?}");
        }
        let refused = client.sockets(&session, "egress", "tcp", TO, 254).unwrap_err();
        assert_eq!(refused.name, Some(ErrorName::TooManySockets));
        assert_eq!(client.release(99).unwrap_err().name, Some(ErrorName::BadArgument));
        assert_eq!(client.drain("192.0.2.77", false).unwrap_err().name, Some(ErrorName::BadArgument));
        assert_eq!(client.drain("x", false).unwrap_err().name, Some(ErrorName::BadArgument));
        // Nothing of all that was leased.
        assert!(client.leases().is_empty());
        let (lease, _) = client.pairs(&session, "egress", "tcp", TO, 50).unwrap();
        assert_eq!(error("egress", "udp", TO, 1).name, Some(ErrorName::QuotaExceeded));
        client.release(lease).unwrap();
        assert_eq!(client.release(lease).unwrap_err().name, Some(ErrorName::BadArgument));
        client.pairs(&session, "egress", "udp", TO, 1).unwrap();
    });
}

#[test]
fn a_lease_ends_with_the_last_copy_of_its_lifeline() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        client.pairs(&session, "egress", "tcp", TO, 400).unwrap();
        let copy = session.lifeline.try_clone().unwrap();
        let inherited = session.lifeline.try_clone().unwrap();
        let mut child = spawn(Command::new("cat").stdin(Stdio::piped()).stdout(inherited));
        drop((session, copy));
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(client.leases().len(), 1, "a child holds it");
        drop(child.stdin.take());
        child.wait().unwrap();
        eventually("the end of the lease", || client.leases().is_empty());
        let session = client.open();
        client.pairs(&session, "egress", "tcp", TO, 400).expect("nobody used them, so all are free at once");
    });
}

#[test]
fn what_a_child_keeps_open_is_not_leased_again_and_time_wait_is_waited_for() {
    in_netns(|| {
        addresses();
        let daemon =
            Daemon::start("[[pool]]\nname = \"one\"\naddresses = [\"192.0.2.1\"]\nports = \"10000\"\n");
        let client = Client::of(&daemon);
        let service = service();
        let to = service.local_addr().unwrap();
        let session = client.open();
        let (_, pairs) = client.pairs(&session, "one", "tcp", TO, 1).unwrap();
        let connection = connected(pairs[0], to).unwrap();
        let (accepted, _) = service.accept().unwrap();
        // The owner is gone, and its child has the connection, and not the lifeline.
        let mut child =
            spawn(Command::new("cat").stdin(Stdio::piped()).stdout(std::os::fd::OwnedFd::from(connection)));
        drop(session);
        eventually("the end of the lease", || client.leases().first().is_some_and(|row| row.7 == "cooling"));
        let session = client.open();
        let refused = client.pairs(&session, "one", "tcp", TO, 1).unwrap_err();
        assert_eq!(refused.name, Some(ErrorName::Exhausted));
        assert_eq!(
            (refused.number("capacity"), refused.number("used"), refused.number("cooling")),
            (1, 0, 1)
        );
        assert!(!refused.details.contains_key("next"), "nobody knows how long that goes on: {refused:?}");
        // Another destination can have it; any cannot.
        let (other, _) = client.pairs(&session, "one", "tcp", "192.0.2.9:444", 1).unwrap();
        client.release(other).unwrap();
        assert_eq!(client.pairs(&session, "one", "tcp", "", 1).unwrap_err().name, Some(ErrorName::Exhausted));
        // The other side closes first, so nothing of the tuple is left here.
        drop(accepted);
        drop(child.stdin.take());
        child.wait().unwrap();
        eventually("the port", || client.pairs(&session, "one", "tcp", TO, 1).is_ok());
        let connection = connected(pairs[0], to).unwrap();
        let (_accepted, _) = service.accept().unwrap();
        let held = client.leases().into_iter().find(|row| row.7 == "held").unwrap();
        connection.shutdown(std::net::Shutdown::Both).unwrap();
        drop((connection, _accepted));
        client.release(held.0).unwrap();
        let refused = client.pairs(&session, "one", "tcp", TO, 1).unwrap_err();
        assert_eq!(refused.name, Some(ErrorName::Exhausted));
        let next = refused.number("next");
        assert!((30_000..=61_000).contains(&next), "TIME_WAIT lasts a minute: {next} ms");
        assert!(refused.text.contains("the next is expected in"), "{refused:?}");
    });
}

#[test]
fn whoever_binds_after_the_end_of_its_lease_is_reported() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        let service = service();
        let (lease, pairs) = client.pairs(&session, "egress", "tcp", TO, 4).unwrap();
        client.release(lease).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let _connection = connected(pairs[0], service.local_addr().unwrap()).unwrap();
        let (_accepted, _) = service.accept().unwrap();
        let text = format!("goes on using {}", pairs[0]);
        eventually("the report", || daemon.log().contains(&text));
        assert!(daemon.log().contains(&format!("lease {lease} of")));
        let refused = client.pairs(&session, "egress", "tcp", TO, 400).unwrap_err();
        assert_eq!((refused.number("cooling"), refused.number("free")), (1, 399));
    });
}

#[test]
fn sockets_come_bound_and_udp_ones_connected_and_nothing_of_them_stays_here() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        let service = service();
        let (_, sockets) = client.sockets(&session, "egress", "tcp", TO, 253).unwrap();
        assert_eq!(sockets.len(), 253);
        let (source, socket) = sockets.into_iter().next().unwrap();
        let socket = socket2::Socket::from(socket);
        assert_eq!(socket.local_addr().unwrap().as_socket(), Some(source));
        socket.connect(&service.local_addr().unwrap().into()).unwrap();
        let (mut accepted, from) = service.accept().unwrap();
        assert_eq!(from, source);
        drop(socket);
        // Had the broker a copy, this would wait.
        accepted.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(std::io::Read::read(&mut accepted, &mut [0; 9]).unwrap(), 0);
        let udp = UdpSocket::bind("192.0.2.9:53").unwrap();
        let (_, sockets) = client.sockets(&session, "egress", "udp", "192.0.2.9:53", 2).unwrap();
        for (source, socket) in sockets {
            let socket = UdpSocket::from(socket);
            assert_eq!(
                (socket.local_addr().unwrap(), socket.peer_addr().unwrap()),
                (source, udp.local_addr().unwrap())
            );
            assert!(UdpSocket::bind(source).is_err(), "nobody else can bind it");
            socket.send(b"hello").unwrap();
            assert_eq!(udp.recv_from(&mut [0; 9]).unwrap(), (5, source));
        }
    });
}

#[test]
fn a_source_that_somebody_has_without_a_lease_is_passed_over() {
    in_netns(|| {
        addresses();
        let daemon =
            Daemon::start("[[pool]]\nname = \"few\"\naddresses = [\"192.0.2.1\"]\nports = \"10000-10002\"\n");
        let client = Client::of(&daemon);
        let session = client.open();
        let foreign = UdpSocket::bind("192.0.2.1:10001").unwrap();
        let (lease, sockets) = client.sockets(&session, "few", "udp", "192.0.2.9:53", 2).unwrap();
        let ports: BTreeSet<u16> = sockets.iter().map(|(source, _)| source.port()).collect();
        assert_eq!(ports, BTreeSet::from([10_000, 10_002]));
        let refused = client.sockets(&session, "few", "udp", "192.0.2.9:53", 1).unwrap_err();
        assert!(matches!(refused.name, Some(ErrorName::Exhausted | ErrorName::NotReady)), "{refused:?}");
        drop((foreign, sockets));
        client.release(lease).unwrap();
        eventually("all three", || client.sockets(&session, "few", "udp", "192.0.2.9:53", 3).is_ok());
    });
}

/// The JSON of a verb of the command line.
fn json_of(daemon: &Daemon, arguments: &[&str]) -> Value {
    let (_, text, errors) = run(daemon.portbroker(&["--json"]).args(arguments));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"))
}

fn reload(daemon: &Daemon, configuration: &str) {
    std::fs::write(daemon.config(), configuration).unwrap();
    let (status, _, errors) = run(&mut daemon.portbroker(&["reload"]));
    assert_eq!(status, 0, "{errors}");
}

#[test]
fn an_address_that_is_drained_gives_nothing_more_and_is_drained_with_its_last_lease() {
    in_netns(|| {
        let mut daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        let (lease, _) = client.pairs(&session, "egress", "tcp", TO, 8).unwrap();
        client.drain("192.0.2.2", false).unwrap();
        assert_eq!(client.address("egress", "192.0.2.2"), ("draining".into(), 2, 0));
        assert_eq!(client.pool("egress", async |pool| pool.capacity().await).unwrap(), 300);
        let (_, others) = client.pairs(&session, "egress", "tcp", "192.0.2.9:444", 300).unwrap();
        assert!(others.iter().all(|source| source.ip().to_string() != "192.0.2.2"));
        assert_eq!(
            client.pairs(&session, "egress", "tcp", "192.0.2.9:444", 1).unwrap_err().name,
            Some(ErrorName::Exhausted)
        );
        // It is written down.
        daemon.restart_after_kill(POOL);
        let client = Client::of(&daemon);
        assert_eq!(client.address("egress", "192.0.2.2").0, "draining");
        client.release(lease).unwrap();
        assert_eq!(client.address("egress", "192.0.2.2").0, "drained");
        assert!(daemon.log().contains("192.0.2.2 is drained"));
        client.drain("192.0.2.2", true).unwrap();
        assert_eq!(client.address("egress", "192.0.2.2").0, "in-use");
        client.pairs(&session, "egress", "tcp", "192.0.2.9:444", 100).unwrap();
    });
}

#[test]
fn addresses_that_go_and_come_leave_the_pool_and_join_it() {
    in_netns(|| {
        addresses();
        ip("address del 192.0.2.4/32 dev lo");
        let daemon = Daemon::start(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        assert_eq!(client.address("egress", "192.0.2.4").0, "absent");
        assert_eq!(client.pool("egress", async |pool| pool.state().await).unwrap(), "degraded");
        let status = json_of(&daemon, &["status"]);
        assert!(
            status.to_string().contains("1 of its 4 addresses are not on this host: 192.0.2.4"),
            "{status}"
        );
        let (_, pairs) = client.pairs(&session, "egress", "tcp", TO, 300).unwrap();
        assert!(pairs.iter().all(|source| source.ip().to_string() != "192.0.2.4"));
        ip("address add 192.0.2.4/32 dev lo");
        eventually("the address", || client.address("egress", "192.0.2.4").0 == "in-use");
        assert_eq!(client.pool("egress", async |pool| pool.state().await).unwrap(), "ready");
        client.pairs(&session, "egress", "tcp", TO, 100).unwrap();
        ip("address del 192.0.2.1/32 dev lo");
        eventually("its going", || client.address("egress", "192.0.2.1").0 == "absent");
        assert_eq!(client.address("egress", "192.0.2.1").1, 100, "its leases live on");
        ip("address add 192.0.2.1/32 dev lo");
        eventually("its return", || client.address("egress", "192.0.2.1").0 == "in-use");
        assert_eq!(client.pairs(&session, "egress", "tcp", TO, 1).unwrap_err().number("used"), 400);
        for n in 1..=4 {
            ip(&format!("address del 192.0.2.{n}/32 dev lo"));
        }
        eventually("the end of the pool", || {
            client.pool("egress", async |pool| pool.state().await).unwrap() == "failed"
        });
        assert_eq!(
            client.pairs(&session, "egress", "tcp", TO, 1).unwrap_err().name,
            Some(ErrorName::NotReady)
        );
    });
}

#[test]
fn after_a_kill_leases_sessions_and_what_cools_are_as_before() {
    in_netns(|| {
        let mut daemon = started(POOL);
        let client = Client::of(&daemon);
        let service = service();
        let to = service.local_addr().unwrap();
        let (kept, cut) = (client.open(), client.open());
        let (lease, held) = client.pairs(&kept, "egress", "tcp", TO, 100).unwrap();
        client.blocks(&cut, "egress", TO, 100, None).unwrap();
        let (ended, cooling) = client.pairs(&kept, "egress", "tcp", TO, 1).unwrap();
        let connection = connected(cooling[0], to).unwrap();
        client.release(ended).unwrap();
        eventually("its cooling", || client.leases().iter().any(|row| row.0 == ended && row.10 == 1));
        let socket = daemon.socket();
        std::fs::write(daemon.config(), POOL).unwrap();
        let before = client.leases();
        // One session ends while no daemon is there.
        let pid = nix::unistd::Pid::from_raw(daemon.pid().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        drop(cut);
        daemon.restart_after_kill(POOL);
        let client = Client::at(&socket);
        eventually("the end of the other session", || client.leases().len() == 2);
        let after = client.leases();
        assert_eq!(after[0], before[0], "held as it was");
        assert_eq!((after[1].0, after[1].7.as_str()), (ended, "cooling"));
        eventually("its look", || client.leases().iter().any(|row| row.0 == ended && row.10 == 1));
        let (_, rest) = client.pairs(&kept, "egress", "tcp", TO, 299).unwrap();
        let taken: BTreeSet<&SocketAddr> = held.iter().chain(&cooling).collect();
        assert!(rest.iter().all(|source| !taken.contains(source)));
        let refused = client.pairs(&kept, "egress", "tcp", TO, 1).unwrap_err();
        assert_eq!((refused.number("used"), refused.number("cooling")), (399, 1));
        // Numbers go on, and the lifeline still does what it is for.
        let (next, _) = client.pairs(&kept, "egress", "tcp", "192.0.2.9:444", 1).unwrap();
        assert!(next > ended && next > lease);
        connection.shutdown(std::net::Shutdown::Both).unwrap();
        drop(kept);
        eventually("the end of the session", || client.leases().iter().all(|row| row.7 == "cooling"));
    });
}

#[test]
fn a_journal_that_cannot_be_read_loses_leases_and_gives_out_nothing_that_is_used() {
    in_netns(|| {
        addresses();
        let configuration =
            "[[pool]]\nname = \"few\"\naddresses = [\"192.0.2.1\"]\nports = \"10000-10002\"\n";
        let mut daemon = Daemon::start(configuration);
        let client = Client::of(&daemon);
        let service = service();
        let session = client.open();
        let (lease, pairs) = client.pairs(&session, "few", "tcp", TO, 1).unwrap();
        let _connection = connected(pairs[0], service.local_addr().unwrap()).unwrap();
        let journal = daemon.folder().join("run/portbroker/leases");
        std::fs::write(&journal, "garbage").unwrap();
        daemon.restart_after_kill(configuration);
        assert!(daemon.folder().join("run/portbroker/leases.unreadable").exists());
        assert!(daemon.log().contains("leases.unreadable"));
        let client = Client::of(&daemon);
        assert!(client.leases().is_empty());
        let refused = client.pairs(&session, "few", "tcp", TO, 1).unwrap_err();
        assert_eq!(refused.name, Some(ErrorName::BadArgument), "nobody knows the session: {refused:?}");
        let session = client.open();
        let (number, others) = client.pairs(&session, "few", "tcp", TO, 2).unwrap();
        assert!(number > lease, "no number is used twice");
        assert!(!others.contains(&pairs[0]), "{others:?}");
        assert!(client.pairs(&session, "few", "tcp", TO, 1).is_err());
        // Also of UDP, and for anybody.
        let _foreign = UdpSocket::bind("192.0.2.1:10000").unwrap();
        let (_, udp) = client.pairs(&session, "few", "udp", "", 2).unwrap();
        assert!(udp.iter().all(|source| source.port() != 10_000), "{udp:?}");
    });
}

#[test]
fn a_reload_changes_pools_and_keeps_leases() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        let (lease, _) = client.pairs(&session, "egress", "tcp", TO, 400).unwrap();
        reload(&daemon, &POOL.replace("10099", "10109"));
        assert_eq!(client.pairs(&session, "egress", "tcp", TO, 41).unwrap_err().number("free"), 40);
        let (_, new) = client.pairs(&session, "egress", "tcp", TO, 40).unwrap();
        assert!(new.iter().all(|source| (10_100..=10_109).contains(&source.port())));
        // What listens and what a listener has is no pool's.
        #[expect(clippy::disallowed_methods, reason = "somebody else's service")]
        let _other = TcpListener::bind("127.0.0.1:10105").unwrap();
        reload(
            &daemon,
            &format!(
                "[protect]\nports = [\"10001\"]\n[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:10003\"\n{POOL}"
            ),
        );
        let zone = client.pool("egress", async |pool| pool.zone().await).unwrap();
        assert_eq!(zone, "10000,10002,10004-10099");
        let left_out = client.pool("egress", async |pool| pool.left_out().await).unwrap();
        let left_out: BTreeMap<String, String> = left_out.into_iter().collect();
        assert_eq!(left_out["10003"], "held by listener web");
        assert_eq!(left_out["10001"], "[protect] ports");
        // A pool that is gone: its leases are not.
        reload(&daemon, "[[pool]]\nname = \"other\"\naddresses = [\"192.0.2.1\"]\nports = \"10000-10199\"\n");
        assert_eq!(
            client.pairs(&session, "egress", "tcp", TO, 1).unwrap_err().name,
            Some(ErrorName::NoSuchPool)
        );
        assert!(client.leases().iter().any(|row| row.0 == lease && row.7 == "held" && row.2 == "egress"));
        let left_out = client.pool("other", async |pool| pool.left_out().await).unwrap();
        assert_eq!(left_out, [("10105".to_owned(), "listened on".to_owned())]);
        // The same tuples, by another pool: 110 of them are leased, and one is listened on.
        let refused = client.pairs(&session, "other", "tcp", TO, 100).unwrap_err();
        assert_eq!((refused.number("capacity"), refused.number("free")), (199, 90));
        client.release(lease).unwrap();
        // Nothing but what is taken.
        reload(&daemon, "[[pool]]\nname = \"none\"\naddresses = [\"192.0.2.1\"]\nports = \"10105\"\n");
        let refused = client.pairs(&session, "none", "tcp", TO, 1).unwrap_err();
        assert_eq!((refused.name, refused.number("capacity")), (Some(ErrorName::Exhausted), 0));
        assert_eq!(client.pool("none", async |pool| pool.state().await).unwrap(), "failed");
        // A reload with a fault changes nothing.
        std::fs::write(daemon.config(), POOL.replace("192.0.2.1-", "192.0.2.300-")).unwrap();
        assert_eq!(run(&mut daemon.portbroker(&["reload"])).0, 78);
        assert_eq!(client.pool("none", async |pool| pool.state().await).unwrap(), "failed");
    });
}

#[test]
fn ports_of_the_kernels_own_range_are_reserved_and_given_back() {
    const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let reserved = || std::fs::read_to_string(RESERVED).unwrap().trim().to_owned();
    in_netns(|| {
        addresses();
        std::fs::write(RESERVED, "40000,50001\n").unwrap();
        let pool = |ports: &str| POOL.replace("10000-10099", ports);
        let mut daemon = Daemon::start(&pool("10000-10099, 50000-50009"));
        assert_eq!(reserved(), "40000,50000-50009");
        reload(&daemon, &pool("50005-50014"));
        assert_eq!(reserved(), "40000,50001,50005-50014");
        daemon.restart_after_kill(&pool("50005-50014"));
        assert_eq!(reserved(), "40000,50001,50005-50014");
        reload(&daemon, &pool("10000-10099"));
        assert_eq!(reserved(), "40000,50001");
        reload(&daemon, &pool("50005-50014"));
        daemon.terminate();
        assert_eq!(reserved(), "40000,50001");
    });
}

#[test]
fn without_configuration_everybody_has_a_quarter() {
    in_netns(|| {
        let daemon = Daemon::start("");
        let client = Client::of(&daemon);
        let session = client.open();
        assert_eq!(client.pool("default", async |pool| pool.origin().await).unwrap(), "built in");
        assert_eq!(client.pool("default", async |pool| pool.allow().await).unwrap(), ["everybody"]);
        let capacity = client.pool("default", async |pool| pool.capacity().await).unwrap();
        assert!(capacity >= 30_000, "{capacity}");
        let quarter = u32::try_from(capacity / 4).unwrap();
        let refused = client.blocks(&session, "default", "127.0.0.1:80", quarter + 1, None).unwrap_err();
        assert_eq!(refused.name, Some(ErrorName::QuotaExceeded), "{refused:?}");
        client.blocks(&session, "default", "127.0.0.1:80", quarter, None).unwrap();
        assert_eq!(as_nobody(&daemon, &[], "default", "pairs", "127.0.0.1:80"), "leased 1");
        assert_eq!(run(&mut daemon.portbroker(&["status"])).0, 0);
    });
}

/// Leases one pair or socket as the user nobody, with python3-dbus, peer to peer: `leased 1`, or the error's name.
fn as_nobody(daemon: &Daemon, wrapper: &[&str], pool: &str, what: &str, to: &str) -> String {
    let python = r#"
import dbus, dbus.connection, os, sys
os.setgroups([]); os.setgid(int(sys.argv[5])); os.setuid(int(sys.argv[5]))
bus = dbus.connection.Connection('unix:path=' + sys.argv[1])
call = lambda member, signature, *arguments: bus.call_blocking(None, '/org/portbroker/PortBroker1',
    'org.portbroker.PortBroker1.Manager', member, signature, arguments)
try:
    session, lifeline = call('OpenSession', 'a{sv}', {})
    if sys.argv[3] == 'drain': call('DrainAddress', 'sa{sv}', sys.argv[4], {})
    elif sys.argv[3] == 'release': call('Release', 't', int(sys.argv[4]))
    elif sys.argv[3] == 'use': call('LeasePairs', 'osssua{sv}', sys.argv[4], sys.argv[2], 'tcp', '', 1, {})
    else:
        member = {'pairs': 'LeasePairs', 'sockets': 'LeaseSockets'}[sys.argv[3]]
        lease, rows = call(member, 'osssua{sv}', session, sys.argv[2], 'tcp', sys.argv[4], 1, {})
        if sys.argv[3] == 'sockets':
            import socket
            s = socket.socket(fileno=rows[0][2].take())
            host, port = sys.argv[4].rsplit(':', 1)
            s.connect((host, int(port)))
            assert s.getsockname() == (rows[0][0], rows[0][1])
        leases = call('ListLeases', 'tu', 0, 100)
        assert [row[0] for row in leases if row[7] == 'held'] == [lease], leases
        print('leased', len(rows))
except dbus.exceptions.DBusException as error:
    print(error.get_dbus_name().rsplit('.', 1)[1])
"#;
    let socket = daemon.socket();
    let mut words: Vec<&str> = wrapper.to_vec();
    let nobody = NOBODY.to_string();
    // Debian's, which has the package.
    words.extend(["/usr/bin/python3", "-c", python, socket.to_str().unwrap(), pool, what, to, &nobody]);
    let (status, text, errors) = run(Command::new(words[0]).args(&words[1..]));
    assert_eq!(status, 0, "needs python3-dbus: {errors}");
    text.trim().to_owned()
}

#[test]
fn only_who_is_granted_a_pool_leases_of_it_and_only_the_owner_gives_back() {
    in_netns(|| {
        let daemon = started(&format!(
            "{POOL}[[pool]]\nname = \"theirs\"\naddresses = [\"192.0.2.1\"]\nports = \"20000-20009\"\nallow = [\"user:{NOBODY}\"]\n"
        ));
        let client = Client::of(&daemon);
        let session = client.open();
        assert_eq!(as_nobody(&daemon, &[], "egress", "pairs", TO), "NotAllowed");
        assert_eq!(as_nobody(&daemon, &[], "theirs", "pairs", TO), "leased 1");
        let (lease, _) = client.pairs(&session, "theirs", "tcp", TO, 1).unwrap();
        assert_eq!(as_nobody(&daemon, &[], "theirs", "release", &lease.to_string()), "NotAllowed");
        assert_eq!(as_nobody(&daemon, &[], "theirs", "use", session.path.as_str()), "NotAllowed");
        assert_eq!(as_nobody(&daemon, &[], "theirs", "drain", "192.0.2.1"), "NotAllowed");
        assert_eq!(client.leases().iter().filter(|row| row.7 == "held").count(), 1);
        assert!(daemon.log().contains("refused a lease of egress"));
    });
}

#[test]
fn a_caller_in_another_namespace_gets_sockets_by_a_grant_for_it_and_never_ports() {
    in_netns(|| {
        let pool = |name: &str, first: u16, grant: &str| {
            format!(
                "[[pool]]\nname = \"{name}\"\naddresses = [\"192.0.2.1\"]\nports = \"{first}-{}\"\nallow = [\"user:{NOBODY}{grant}\"]\n",
                first + 9
            )
        };
        let daemon = started(&[pool("with", 20_000, "+sockets"), pool("without", 20_010, "")].concat());
        let _service = service();
        let outside = ["unshare", "-n"];
        assert_eq!(as_nobody(&daemon, &outside, "with", "sockets", TO), "leased 1");
        assert_eq!(as_nobody(&daemon, &outside, "with", "pairs", TO), "NotAllowed");
        assert_eq!(as_nobody(&daemon, &outside, "without", "sockets", TO), "NotAllowed");
        assert_eq!(as_nobody(&daemon, &[], "without", "sockets", TO), "leased 1");
        let socket = daemon.socket();
        // Root may have sockets there; ports are of no use to it.
        in_netns(|| {
            let client = Client::at(&socket);
            let session = client.open();
            let refused = client.pairs(&session, "with", "tcp", TO, 1).unwrap_err();
            assert_eq!(refused.name, Some(ErrorName::NotAllowed));
            assert!(refused.text.contains("another network namespace"), "{refused:?}");
            let (_, sockets) = client.sockets(&session, "without", "tcp", TO, 1).unwrap();
            let socket = socket2::Socket::from(sockets.into_iter().next().unwrap().1);
            socket.connect(&TO.parse::<SocketAddr>().unwrap().into()).unwrap();
            assert!(TcpStream::connect(TO).is_err(), "there is nothing here");
        });
    });
}

#[test]
fn more_sessions_than_one_may_have_are_refused() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let sessions: Vec<_> = (0..1024).map(|_| client.open()).collect();
        let refused = client.try_open().err().unwrap();
        assert_eq!(refused.name, Some(ErrorName::NotAllowed), "{refused:?}");
        drop(sessions);
        eventually("room for another", || client.try_open().is_ok());
    });
}

#[test]
fn many_leases_are_one_line_of_the_log() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        let begun = Instant::now();
        for n in 0..200 {
            client.pairs(&session, "egress", "tcp", &format!("192.0.2.9:{}", 1000 + n), 1).unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(9), "too slow to tell");
        let lines = daemon.log().lines().filter(|line| line.contains("leased 1 ports")).count();
        assert_eq!(lines, 20);
        let sum = "180 more leases of 180 ports";
        let deadline = Instant::now() + Duration::from_secs(15);
        while !daemon.log().contains(sum) {
            assert!(Instant::now() < deadline, "no sum");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}
