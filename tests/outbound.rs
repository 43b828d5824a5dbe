//! Leases of a real daemon, in a network namespace of the test's own: every member and every refusal.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/egress.rs"]
mod egress;
#[path = "support/leases.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod leases;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;

use daemon::Daemon;
use egress::{POOL, TO, addresses, service, started};
use leases::{Client, connected, eventually};
use netns::in_netns;
use portbroker_client::wire::ErrorName;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::UdpSocket;
use std::time::{Duration, Instant};
use zbus::{OwnedObjectPath, Variant};

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
        // Nobody writes lines of his own into the log, nor to the terminal of who reads it.
        let forged = error("x\u{1b}[1m\n2026-11-28T22:00:00Z INFO forged", "tcp", TO, 1);
        assert_eq!(forged.name, Some(ErrorName::NoSuchPool));
        let log = daemon.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("forged")).collect();
        assert!(
            lines.len() == 1 && lines[0].contains("refused a lease") && !log.contains('\u{1b}'),
            "{lines:?}"
        );
        let path = session.path.as_ref();
        let option = |key, value| HashMap::from([(key, value)]);
        for options in [option("else", Variant::U32(1)), option("minimum", Variant::U32(1))] {
            let refused = client
                .ask(async |manager| manager.lease_pairs(&path, "egress", "tcp", TO, 1, options).await)
                .unwrap_err();
            assert_eq!(refused.name, Some(ErrorName::BadArgument));
        }
        for (wrong, name) in [
            ("/org/portbroker/PortBroker1/session/99", ErrorName::NoSuchSession),
            ("/", ErrorName::BadArgument),
            ("/org/portbroker/PortBroker1", ErrorName::BadArgument),
        ] {
            let wrong = OwnedObjectPath::try_from(wrong).unwrap();
            let refused = client
                .ask(async |manager| {
                    manager.lease_blocks(&wrong.as_ref(), "egress", "tcp", TO, 1, HashMap::new()).await
                })
                .unwrap_err();
            assert_eq!(refused.name, Some(name), "{refused:?}");
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

#[test]
fn many_leases_are_one_line_of_the_log() {
    in_netns(|| {
        let daemon = started(&format!("{POOL}[limits]\nlog-lines-per-user = 20\n"));
        let client = Client::of(&daemon);
        let session = client.open();
        let begun = Instant::now();
        for n in 0..200 {
            client.pairs(&session, "egress", "tcp", &format!("192.0.2.9:{}", 1000 + n), 1).unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(9), "too slow to tell");
        let lines = daemon.log().lines().filter(|line| line.contains("leased 1 ports")).count();
        assert_eq!(lines, 20);
        let sum = "180 more lines like these on behalf of ";
        let deadline = Instant::now() + Duration::from_secs(15);
        while !daemon.log().lines().any(|line| line.contains(sum) && line.contains(": 180 leased")) {
            assert!(Instant::now() < deadline, "no sum");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}
