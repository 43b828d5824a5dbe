//! What is asked for, and what is given.

use super::super::*;
use super::*;
use std::time::{Duration, Instant};

#[test]
fn forty_pairs_over_four_addresses_are_ten_each() {
    let pool = Pool::new(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"], "10000-19999");
    let now = Instant::now();
    let mut ledger = Ledger::new(now);
    let session = ledger.open_session(Owner::User(1000), now).unwrap();
    let lease =
        ledger.lease(&request(session, to("198.51.100.1:443"), Kind::Pairs, 40), &pool.offer(), now).unwrap();
    assert_eq!(lease.ranges.len(), 40);
    for address in &pool.addresses {
        assert_eq!(lease.ranges.iter().filter(|range| range.address == *address).count(), 10);
    }
    assert!(lease.ranges.iter().all(|range| range.ports.first() == range.ports.last()));
    ledger.end_session(session, now);
    settle(&mut ledger, now);
    settle(&mut ledger, now + Duration::from_secs(3));
    assert!(ledger.is_empty());
}

#[test]
fn round_robin_goes_on_where_the_lease_before_ended() {
    let pool = Pool::new(&["192.0.2.1", "192.0.2.2", "192.0.2.3"], "10000-19999");
    let (mut ledger, session, now) = ledger();
    let offer = Offer { spread: Spread::RoundRobin, ..pool.offer() };
    let mut turns = Vec::new();
    for (to_whom, count) in [("198.51.100.1:443", 4), ("198.51.100.2:443", 1), ("198.51.100.1:443", 4)] {
        let lease = ledger.lease(&request(session, to(to_whom), Kind::Pairs, count), &offer, now).unwrap();
        turns.extend(lease.ranges.iter().map(|range| range.address));
    }
    let expected: Vec<_> = pool.addresses.iter().copied().cycle().take(9).collect();
    assert_eq!(turns, expected);
}

#[test]
fn a_port_serves_many_destinations_and_a_lease_for_any_excludes_them() {
    let (mut ledger, session, now) = ledger();
    let pool = one();
    let mut lease = |to, protocol| {
        let request = Request { protocol, ..request(session, to, Kind::Blocks, 64) };
        ledger.lease(&request, &pool.offer(), now)
    };
    assert!(lease(to("198.51.100.1:443"), Protocol::Tcp).is_ok());
    assert!(lease(to("198.51.100.2:443"), Protocol::Tcp).is_ok());
    assert!(matches!(lease(to("198.51.100.1:443"), Protocol::Tcp), Err(Refused::Exhausted { .. })));
    assert!(matches!(lease(None, Protocol::Tcp), Err(Refused::Exhausted { used: 64, free: 0, .. })));
    assert!(lease(to("198.51.100.1:443"), Protocol::Udp).is_ok());
    // The kernel does not guard UDP 4-tuples: nobody else has the port.
    assert!(matches!(lease(to("198.51.100.2:443"), Protocol::Udp), Err(Refused::Exhausted { .. })));
}

#[test]
fn a_block_is_of_whole_words_and_a_destination_begins_elsewhere_than_another() {
    let (mut ledger, session, now) = ledger();
    let pool = Pool::new(&["192.0.2.1"], "10000-32767");
    let mut firsts: Vec<u16> = (1..=50)
        .map(|n| {
            let to = to(&format!("198.51.100.{n}:443"));
            let lease = ledger.lease(&request(session, to, Kind::Blocks, 128), &pool.offer(), now).unwrap();
            assert!(lease.ranges.iter().all(|r| r.ports.first() % 64 == 0 && r.ports.last() % 64 == 63));
            lease.ranges[0].ports.first()
        })
        .collect();
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), 50, "there is room for all of them beside each other");
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let (mut ledger, session, now) = ledger();
    let pool = one();
    let mut refused = |request: Request, pool: &Pool| ledger.lease(&request, &pool.offer(), now).unwrap_err();
    let good = request(session, to("198.51.100.1:443"), Kind::Pairs, 1);
    assert_eq!(refused(Request { ports: 0, ..good }, &pool), Refused::NoPorts);
    assert!(matches!(refused(Request { ports: 70_000, ..good }, &pool), Refused::TooManyPorts { .. }));
    let of = |text| Request { destination: to(text), ..good };
    assert!(matches!(refused(of("[2001:db8::1]:1"), &pool), Refused::NoAddress { family: "IPv6", .. }));
    assert!(matches!(refused(of("[::ffff:192.0.2.9]:1"), &pool), Refused::Destination(_)));
    assert!(matches!(refused(good, &Pool::new(&["192.0.2.1"], "")), Refused::EmptyZone { .. }));
    assert!(matches!(refused(good, &Pool::new(&[], "1024")), Refused::NoAddress { .. }));
    let gone = Request { session: SessionId(99), ..good };
    assert_eq!(refused(gone, &pool), Refused::NoSuchSession(SessionId(99)));
    let full = refused(Request { ports: 65, minimum: 65, ..good }, &pool).to_string();
    assert_eq!(
        full,
        "pool egress has 64 of 64 ports left for this destination, and 65 were asked for: 0 are leased, 0 cool"
    );
}

#[test]
fn sessions_are_limited_for_each_owner() {
    let (mut ledger, _, now) = ledger();
    for _ in 1..MOST_SESSIONS_PER_OWNER {
        ledger.open_session(Owner::User(1000), now).unwrap();
    }
    let refused = ledger.open_session(Owner::User(1000), now).unwrap_err();
    assert!(matches!(refused, Refused::TooManySessions { .. }));
    assert!(ledger.open_session(Owner::User(1001), now).is_ok());
}

#[test]
fn a_quota_holds_for_a_caller_and_for_all() {
    let (mut ledger, first, now) = ledger();
    let pool = Pool { quota: Quota::Quarter, ..Pool::new(&["192.0.2.1"], "10000-10099") };
    let sessions: Vec<SessionId> =
        (1..4).map(|uid| ledger.open_session(Owner::User(uid), now).unwrap()).collect();
    let mut ask = |session, ports, minimum| {
        let request = Request { minimum, ..request(session, to("198.51.100.1:443"), Kind::Blocks, ports) };
        ledger.lease(&request, &pool.offer(), now)
    };
    assert!(matches!(ask(first, 26, 26), Err(Refused::QuotaExceeded { quota: 25, held: 0, .. })));
    let ports = |lease: Lease| lease.ranges.iter().map(|r| r.ports.iter().count()).sum::<usize>();
    assert_eq!(ports(ask(first, 64, 1).unwrap()), 25);
    assert!(matches!(ask(first, 1, 1), Err(Refused::QuotaExceeded { quota: 25, held: 25, .. })));
    assert_eq!(ports(ask(sessions[0], 25, 25).unwrap()), 25);
    assert_eq!(ports(ask(sessions[1], 25, 25).unwrap()), 25);
    assert!(matches!(ask(sessions[2], 1, 1), Err(Refused::SharedQuotaExceeded { quota: 75, held: 75, .. })));
    ledger.end_session(sessions[0], now);
    // What cools does not count.
    let request = request(sessions[2], to("198.51.100.2:443"), Kind::Blocks, 25);
    assert!(ledger.lease(&request, &pool.offer(), now).is_ok());
}

#[test]
fn a_quarter_is_one_of_the_family_with_fewer_addresses() {
    let (mut ledger, session, now) = ledger();
    let addresses = ["192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::3"];
    let pool = Pool { quota: Quota::Quarter, ..Pool::new(&addresses, "10000-10099") };
    let mut ask = |to, ports| ledger.lease(&request(session, to, Kind::Blocks, ports), &pool.offer(), now);
    for to in [to("198.51.100.1:443"), to("[2001:db8::9]:443"), None] {
        assert!(matches!(ask(to, 26), Err(Refused::QuotaExceeded { quota: 25, .. })));
    }
    assert!(ask(to("198.51.100.1:443"), 25).is_ok());
}

#[test]
fn sticky_keeps_caller_and_destination_on_their_address() {
    let (mut ledger, session, now) = ledger();
    let addresses: Vec<String> = (1..=8).map(|n| format!("192.0.2.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut pool = Pool { spread: Spread::Sticky, ..Pool::new(&addresses, "10000-10019") };
    let mut ask = |pool: &Pool, n: u8, ports| {
        let to = to(&format!("198.51.100.{n}:443"));
        let lease = ledger.lease(&request(session, to, Kind::Pairs, ports), &pool.offer(), now).unwrap();
        lease.ranges.iter().map(|range| range.address).collect::<Vec<_>>()
    };
    let of: Vec<IpAddr> = (1..=40).map(|n| ask(&pool, n, 1)[0]).collect();
    assert!((1..=40).all(|n| ask(&pool, n, 5) == [of[usize::from(n) - 1]; 5]));
    let used: std::collections::BTreeSet<_> = of.iter().collect();
    assert!(used.len() > 4, "callers and destinations are spread: {used:?}");
    // It has room for 14 more.
    let more = ask(&pool, 1, 15);
    assert_eq!(more.iter().filter(|address| **address == of[0]).count(), 14);
    // An address that goes takes only those with it who were on it.
    pool.addresses.retain(|address| *address != of[0]);
    assert!(
        (2..=40)
            .filter(|n| of[usize::from(*n) - 1] != of[0])
            .all(|n| ask(&pool, n, 1)[0] == of[usize::from(n) - 1])
    );
}
