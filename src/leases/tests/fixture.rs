//! Bytes as each version wrote them: a later version has to read them still.

use super::super::*;
use super::{OPEN, Pool, answer, ledger, request, to};
use crate::model::PortRange;
use crate::model::Seen;
use std::time::{Duration, Instant};

/// One event a line, in hexadecimal digits.
const VERSION_1: &str = include_str!("../../../tests/leases/version-1");

/// What version 2 has besides.
const VERSION_2: &str = include_str!("../../../tests/leases/version-2");

fn range(address: &str, first: u16, last: u16) -> SourceRange {
    SourceRange { address: address.parse().unwrap(), ports: PortRange::new(first, last).unwrap() }
}

fn events() -> Vec<Event> {
    let pool = PoolName::try_from("egress").unwrap();
    let (session, other) = (SessionId(5), SessionId(300));
    let leased = |id, session, protocol, destination: &str, kind, ranges| Event::Leased {
        id: LeaseId(id),
        session,
        pool: pool.clone(),
        protocol,
        destination: destination.parse().ok(),
        kind,
        ranges,
    };
    let pairs = vec![range("192.0.2.1", 20_000, 20_000), range("192.0.2.2", 20_000, 20_000)];
    let blocks = vec![range("2001:db8::1", 1024, 1087), range("2001:db8::2", 65_472, 65_535)];
    vec![
        Event::Numbered { session, lease: LeaseId(70_000) },
        Event::Drained { address: "192.0.2.9".parse().unwrap() },
        Event::Drained { address: "2001:db8::9".parse().unwrap() },
        Event::Undrained { address: "192.0.2.9".parse().unwrap() },
        Event::SessionOpened { id: session, owner: Owner::User(1000) },
        Event::SessionOpened { id: other, owner: Owner::Unit("crawler.service".try_into().unwrap()) },
        leased(70_000, session, Protocol::Tcp, "198.51.100.1:443", Kind::Pairs, pairs),
        leased(70_001, other, Protocol::Tcp, "[2001:db8:1::1]:443", Kind::Blocks, blocks),
        leased(70_002, other, Protocol::Udp, "", Kind::Sockets, vec![range("192.0.2.1", 1, 1)]),
        leased(70_003, other, Protocol::Udp, "198.51.100.1:53", Kind::Pairs, vec![range("192.0.2.1", 2, 2)]),
        Event::Replaced {
            id: LeaseId(70_000),
            busy: "192.0.2.1:20000".parse().unwrap(),
            with: "192.0.2.1:20001".parse().ok(),
        },
        Event::Replaced { id: LeaseId(70_002), busy: "192.0.2.1:1".parse().unwrap(), with: None },
        Event::Released { id: LeaseId(70_003) },
        Event::Freed { id: LeaseId(70_003) },
        Event::SessionEnded { id: session },
    ]
}

fn events_of_version_2() -> Vec<Event> {
    let held = |session, pool: &str, destination: &str, kind, leases| Event::Held {
        session: SessionId(session),
        pool: PoolName::try_from(pool).unwrap(),
        protocol: Protocol::Tcp,
        destination: destination.parse().ok(),
        kind,
        leases,
    };
    let pairs = vec![
        (LeaseId(70_000), vec![range("192.0.2.1", 20_000, 20_000), range("192.0.2.2", 20_000, 20_000)]),
        (LeaseId(70_001), vec![range("192.0.2.1", 20_001, 20_001)]),
        (LeaseId(80_000), Vec::new()),
    ];
    let blocks = vec![(LeaseId(70_002), vec![range("2001:db8::1", 1024, 65_535)])];
    vec![
        held(5, "egress", "198.51.100.1:443", Kind::Pairs, pairs),
        held(300, "a b", "", Kind::Blocks, blocks),
        held(300, "a b", "", Kind::Sockets, Vec::new()),
        Event::Warned { id: LeaseId(70_000) },
    ]
}

#[test]
fn version_1_is_written_and_read_as_ever() {
    are_written_and_read(&events(), VERSION_1);
}

#[test]
fn what_version_2_has_besides_is_written_and_read_as_ever() {
    are_written_and_read(&events_of_version_2(), VERSION_2);
}

fn are_written_and_read(events: &[Event], fixture: &str) {
    let hexadecimal = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let written: Vec<String> = events.iter().map(|event| hexadecimal(event.to_bytes().unwrap())).collect();
    let stored: Vec<&str> = fixture.lines().collect();
    assert_eq!(written, stored, "the bytes of version {VERSION}");
    for (line, event) in stored.iter().zip(events) {
        let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..line.len()).step_by(2).map(byte).collect();
        assert_eq!(Event::from_bytes(&bytes).as_ref(), Ok(event));
        // Neither half an event is one, nor one with something after it.
        assert!(Event::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        assert_eq!(Event::from_bytes(&[&bytes[..], &[0]].concat()), Err(EventError::Trailing(1)));
    }
}

#[test]
fn what_cannot_have_happened_is_no_event() {
    for bytes in [
        &[99u8][..],
        &[],
        &[1, 1, 0, 0],
        &[3, 1, 1, 1, b':', 0, 0, 0, 0],
        &[3, 1, 1, 1, b'a', 0, 0, 1, 1, 0, 1, 2, 3, 4, 0, 5],
    ] {
        assert!(Event::from_bytes(bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn a_journal_that_version_1_wrote_is_the_ledger_that_it_was() {
    let file = include_bytes!("../../../tests/state/version-1/leases");
    let boot = std::str::from_utf8(&file[12..48]).unwrap();
    let content = crate::kernel::journal::understood(file, boot).unwrap();
    assert_eq!((content.version, content.whole), (1, file.len()));
    let events = content.records.iter().flat_map(|record| Event::all_of(record).unwrap());
    let ledger = Ledger::restore(events, Instant::now());
    assert_eq!((ledger.contradictions(), ledger.sessions().count()), (0, 2));
    let rows = ledger.rows(None, LeaseId(0), 10);
    let told: Vec<_> = rows.iter().map(|row| (row.id.0, row.protocol, row.ports, row.held)).collect();
    assert_eq!(told, [(1, Protocol::Udp, 8, true), (2, Protocol::Tcp, 3, true)]);
    assert!(ledger.is_draining("192.0.2.2".parse().unwrap()));
}

#[test]
fn a_session_that_is_opened_twice_keeps_no_lease_and_takes_none_over() {
    // Both were found by the fuzzer.
    let opened = |uid| Event::SessionOpened { id: SessionId(5), owner: Owner::User(uid) };
    let (leased, ended) = (events().remove(6), Event::SessionEnded { id: SessionId(5) });
    let held = [opened(1000), leased.clone(), opened(1000), ended.clone()];
    let another = [opened(1000), leased, ended, opened(996)];
    for events in [&held[..], &another[..]] {
        let ledger = Ledger::restore(events.iter().cloned(), Instant::now());
        assert_eq!((ledger.contradictions(), ledger.sessions().count()), (1, 0));
        let rows = ledger.rows(None, LeaseId(0), 10);
        assert!(rows.iter().all(|row| !row.held && row.owner == Owner::User(1000)), "{rows:?}");
        assert_eq!(rows.len(), 1);
    }
}

#[test]
fn what_somebody_was_told_is_not_said_again_after_a_restart() {
    let one = Pool::new(&["192.0.2.1"], "10000-10063");
    let (mut ledger, session, now) = ledger();
    let wanted = request(session, to("198.51.100.7:7"), Kind::Pairs, 1);
    let lease = ledger.lease(&wanted, &one.offer(), now).unwrap();
    ledger.release(lease.id, now).unwrap();
    answer(&mut ledger, Seen::Free, now);
    let later = now + Duration::from_secs(2);
    answer(&mut ledger, OPEN, later);
    assert_eq!(ledger.used_after_end().len(), 1);
    let said_after = |keep: fn(&Event) -> bool| {
        let mut restored = Ledger::restore(ledger.snapshot().filter(keep), later);
        answer(&mut restored, OPEN, later);
        answer(&mut restored, Seen::Open { cookie: 2, uid: 1, cgroup: 0 }, later + Duration::from_secs(1));
        restored.used_after_end().len()
    };
    assert_eq!(said_after(|_| true), 0);
    assert_eq!(said_after(|event| !matches!(event, Event::Warned { .. })), 1, "as version 1 did");
}

#[test]
fn a_ledger_is_restored_from_it() {
    let mut ledger = Ledger::restore(events(), Instant::now());
    assert_eq!(ledger.contradictions(), 0);
    let rows = ledger.rows(None, LeaseId(0), 10);
    let told: Vec<_> =
        rows.iter().map(|row| (row.id.0, row.ports, row.cooling, row.owner.to_string())).collect();
    let unit = "crawler.service".to_owned();
    assert_eq!(
        told,
        [(70_000, 2, 2, "uid 1000".into()), (70_001, 128, 0, unit.clone()), (70_002, 0, 0, unit)]
    );
    assert!(ledger.is_draining("2001:db8::9".parse().unwrap()));
    assert_eq!(ledger.due(Instant::now(), 10).len(), 2);
    // A journal that tells of things that were never begun.
    let odd = [Event::SessionEnded { id: SessionId(9) }, events().remove(6)];
    let odd = Ledger::restore(odd, Instant::now());
    assert_eq!((odd.contradictions(), odd.len()), (2, 0));
}
