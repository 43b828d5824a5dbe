//! What becomes of leases that end.

use super::super::*;
use super::*;
use std::time::Duration;

#[test]
fn what_is_in_time_wait_is_free_when_that_ends_and_not_before() {
    let (mut ledger, session, now) = ledger();
    let pool = one();
    let request = request(session, to("198.51.100.1:443"), Kind::Pairs, 64);
    let lease = ledger.lease(&request, &pool.offer(), now).unwrap();
    ledger.release(lease.id, now).unwrap();
    assert!(ledger.next_due().is_some_and(|due| due <= now), "it is looked at at once");
    assert_eq!(answer(&mut ledger, Seen::TimeWait(Duration::from_secs(40)), now), 64);
    let Err(Refused::Exhausted { used: 0, cooling: 64, free: 0, next: Some(next), .. }) =
        ledger.lease(&request, &pool.offer(), now)
    else {
        panic!("it cools")
    };
    assert_eq!(next, Duration::from_secs(40));
    assert!(!ledger.holds_open());
    assert_eq!(answer(&mut ledger, Seen::Free, now + Duration::from_secs(39)), 0);
    assert_eq!(answer(&mut ledger, Seen::Free, now + Duration::from_secs(40)), 64);
    assert!(ledger.is_empty());
    assert!(ledger.lease(&request, &pool.offer(), now).is_ok());
}

#[test]
fn what_is_open_is_held_until_its_socket_is_gone() {
    let (mut ledger, session, now) = ledger();
    let pool = one();
    let lease =
        ledger.lease(&request(session, to("198.51.100.1:443"), Kind::Pairs, 1), &pool.offer(), now).unwrap();
    let source = SocketAddr::new(lease.ranges[0].address, lease.ranges[0].ports.first());
    let tuple = Tuple { protocol: Protocol::Tcp, source, destination: to("198.51.100.1:443") };
    ledger.end_session(session, now);
    assert_eq!(answer(&mut ledger, OPEN, now), 1);
    assert!(ledger.holds_open());
    // At growing intervals, of at most 30 s.
    let (mut then, mut gaps) = (now, Vec::new());
    for _ in 0..8 {
        let due = ledger.next_due().unwrap();
        gaps.push(due.duration_since(then).as_secs());
        then = due;
        assert_eq!(answer(&mut ledger, OPEN, then), 1);
    }
    assert_eq!(gaps, [1, 2, 4, 8, 16, 30, 30, 30]);
    // It is looked at at once when it is said to be gone, or when nobody knows.
    ledger.destroyed(&Tuple { source: "192.0.2.1:9".parse().unwrap(), ..tuple }, 9, then);
    assert_eq!(answer(&mut ledger, OPEN, then), 0);
    ledger.look_at_all_again(then);
    assert_eq!(answer(&mut ledger, OPEN, then), 1);
    ledger.destroyed(&tuple, 9, then);
    ledger.destroyed(&tuple, 1, then);
    assert_eq!(answer(&mut ledger, Seen::Free, then), 1);
    assert!(ledger.is_empty() && !ledger.holds_open());
    assert_eq!(answer(&mut ledger, OPEN, then + Duration::from_secs(60)), 0);
    assert!(ledger.used_after_end().is_empty());
}

#[test]
fn a_socket_that_was_reset_is_known_by_its_number() {
    let (mut ledger, session, now) = ledger();
    let pool = one();
    let wanted = request(session, to("198.51.100.1:443"), Kind::Pairs, 2);
    let lease = ledger.lease(&wanted, &pool.offer(), now).unwrap();
    ledger.release(lease.id, now).unwrap();
    let looks = ledger.due(now, 10);
    for (look, cookie) in looks.iter().zip([70, 71]) {
        let Look::Exact(tuple) = *look else { panic!("{look:?}") };
        ledger.looked(*look, vec![(tuple, Seen::Open { cookie, uid: 0, cgroup: 0 })], now);
    }
    // The kernel has forgotten the destination, and of a source others may be closed too.
    let source = SocketAddr::new(lease.ranges[1].address, lease.ranges[1].ports.first());
    let told = Tuple { protocol: Protocol::Tcp, source, destination: Some("0.0.0.0:0".parse().unwrap()) };
    ledger.destroyed(&told, 99, now);
    assert!(ledger.due(now, 10).is_empty());
    ledger.destroyed(&told, 71, now);
    assert_eq!(ledger.due(now, 10), looks[1..]);
    // It was asked before that was told: the answer may be an older one.
    ledger.destroyed(&told, 71, now);
    let Look::Exact(tuple) = looks[1] else { panic!() };
    ledger.looked(looks[1], vec![(tuple, Seen::Open { cookie: 71, uid: 0, cgroup: 0 })], now);
    assert_eq!(answer(&mut ledger, Seen::Free, now + Duration::from_secs(1)), 2);
    assert!(!ledger.holds_open());
}

#[test]
fn whoever_leases_and_releases_faster_than_can_be_looked_is_stopped() {
    let (mut ledger, session, now) = ledger();
    let pool = Pool::new(&["192.0.2.1", "192.0.2.2"], "1024-65535");
    let round = |ledger: &mut Ledger, session, n: u16| {
        let destination = Some(SocketAddr::new("198.51.100.1".parse().unwrap(), n + 1));
        let lease = ledger.lease(&request(session, destination, Kind::Blocks, 65_536), &pool.offer(), now)?;
        ledger.release(lease.id, now).unwrap();
        Ok::<(), Refused>(())
    };
    let rounds = u16::try_from(MOST_COOLING_PER_OWNER / 65_536).unwrap();
    (0..rounds).for_each(|n| round(&mut ledger, session, n).unwrap());
    let refused = round(&mut ledger, session, rounds).unwrap_err();
    assert!(refused.to_string().contains("still cool"), "{refused}");
    let other = ledger.open_session(Owner::User(7), now).unwrap();
    assert_eq!(round(&mut ledger, other, rounds + 1), Ok(()));
    // After a restart as well; and when some are free, it goes on.
    let mut ledger = Ledger::restore(ledger.snapshot(), now);
    assert!(round(&mut ledger, session, rounds).is_err());
    assert_eq!(answer(&mut ledger, Seen::Free, now), 4096);
    assert_eq!(round(&mut ledger, session, rounds + 2), Ok(()));
}

#[test]
fn what_is_left_of_the_sessions_is_for_root_and_the_system() {
    let now = Instant::now();
    let mut ledger = Ledger::new(now);
    for uid in 1.. {
        let opened = (0..1024).try_for_each(|_| ledger.open_session(Owner::User(uid), now).map(drop));
        if opened.is_err() {
            break;
        }
        assert!(uid < 16, "one person with 16 uids has all sessions");
    }
    let of_unit = |name: &str| Owner::Unit(name.try_into().unwrap());
    assert!(ledger.open_session(of_unit("user-1000.slice"), now).is_err());
    for owner in [of_unit("crawler.service"), of_unit("user-0.slice"), Owner::User(0)] {
        ledger.open_session(owner, now).unwrap();
    }
}

#[test]
fn a_port_that_an_older_lease_took_over_from_an_ended_one_stays_with_it_over_a_restart() {
    let (mut ledger, session, now) = ledger();
    let pool = Pool::new(&["192.0.2.1"], "10000-10002");
    let to = to("198.51.100.1:443");
    let older = ledger.lease(&request(session, to, Kind::Pairs, 1), &pool.offer(), now).unwrap();
    let newer = ledger.lease(&request(session, to, Kind::Pairs, 2), &pool.offer(), now).unwrap();
    ledger.release(newer.id, now).unwrap();
    for (look, seen) in ledger.due(now, 10).into_iter().zip([Seen::Free, OPEN]) {
        let Look::Exact(tuple) = look else { panic!("{look:?}") };
        ledger.looked(look, vec![(tuple, seen)], now);
    }
    let source = SocketAddr::new(older.ranges[0].address, older.ranges[0].ports.first());
    let busy = Tuple { protocol: Protocol::Tcp, source, destination: to };
    let instead = ledger.replace(older.id, &busy, &pool.offer(), now).unwrap();
    for events in [ledger.snapshot().collect::<Vec<Event>>(), ledger.events()] {
        let restored = Ledger::restore(events, now);
        let ranges = restored.get(older.id).unwrap().ranges;
        assert_eq!(restored.contradictions(), 0);
        assert_eq!(SocketAddr::new(ranges[0].address, ranges[0].ports.first()), instead.source);
    }
}

#[test]
fn a_page_of_leases_is_no_longer_than_can_be_sent() {
    let (mut ledger, session, now) = ledger();
    let pool = Pool::new(&["192.0.2.1", "192.0.2.2"], "1024-65535");
    for n in 1..=4 {
        let destination = Some(SocketAddr::new("198.51.100.1".parse().unwrap(), n));
        let lease = ledger.lease(&request(session, destination, Kind::Pairs, 40_000), &pool.offer(), now);
        ledger.release(lease.unwrap().id, now).unwrap();
    }
    let (mut after, mut seen) = (LeaseId(0), Vec::new());
    loop {
        let page = ledger.rows(Some(&Owner::User(1000)), after, 10_000);
        assert_eq!(
            page.iter().map(|row| row.id).collect::<Vec<_>>(),
            ledger.rows(None, after, 10_000).iter().map(|row| row.id).collect::<Vec<_>>()
        );
        assert!(page.iter().map(|row| row.ranges.len()).sum::<usize>() <= MOST_RANGES_OF_A_PAGE);
        let Some(last) = page.last() else { break };
        after = last.id;
        seen.extend(page.iter().map(|row| row.id.0));
    }
    assert_eq!(seen, [1, 2, 3, 4]);
}

#[test]
fn whoever_goes_on_binding_after_the_end_is_told_of_once() {
    let (mut ledger, session, now) = ledger();
    let pool = one();
    let wanted = request(session, to("198.51.100.1:443"), Kind::Pairs, 10);
    let lease = ledger.lease(&wanted, &pool.offer(), now).unwrap();
    ledger.release(lease.id, now).unwrap();
    answer(&mut ledger, Seen::Free, now);
    assert_eq!(ledger.usage_of(&pool.offer(), Protocol::Tcp, to("198.51.100.1:443")).free, 64);
    let later = now + Duration::from_secs(2);
    assert_eq!(answer(&mut ledger, OPEN, later), 10);
    let said = ledger.used_after_end();
    assert_eq!(said.len(), 1);
    assert_eq!((said[0].lease, said[0].uid, said[0].cgroup), (lease.id, 1000, 7));
    assert_eq!(said[0].owner, Owner::User(1000));
    assert_eq!(ledger.usage_of(&pool.offer(), Protocol::Tcp, to("198.51.100.1:443")).cooling, 10);
    // An open socket that becomes another one is the same fault, of another lease.
    let lease = ledger.lease(&wanted, &pool.offer(), later).unwrap();
    ledger.release(lease.id, later).unwrap();
    answer(&mut ledger, OPEN, later);
    assert!(ledger.used_after_end().is_empty());
    answer(&mut ledger, Seen::Open { cookie: 2, uid: 1, cgroup: 0 }, later + Duration::from_secs(1));
    assert!(ledger.used_after_end().iter().any(|said| said.lease == lease.id && said.uid == 1));
}

#[test]
fn a_refused_port_cools_and_the_lease_has_another() {
    let (mut ledger, session, now) = ledger();
    let pool = one();
    let to = to("198.51.100.1:443");
    let lease = ledger.lease(&request(session, to, Kind::Sockets, 63), &pool.offer(), now).unwrap();
    let tuple = |n: usize| Tuple {
        protocol: Protocol::Tcp,
        source: SocketAddr::new(lease.ranges[n].address, lease.ranges[n].ports.first()),
        destination: to,
    };
    let instead = ledger.replace(lease.id, &tuple(0), &pool.offer(), now).unwrap();
    assert_ne!(instead, tuple(0));
    assert_eq!(ledger.get(lease.id).unwrap().ranges[0].ports.first(), instead.source.port());
    // There is no other.
    assert_eq!(ledger.replace(lease.id, &tuple(1), &pool.offer(), now), None);
    assert_eq!(ledger.get(lease.id).unwrap().ports, 62);
    assert_eq!(ledger.replace(lease.id, &tuple(1), &pool.offer(), now), None, "it has it no longer");
    let figures = ledger.usage_of(&pool.offer(), Protocol::Tcp, to);
    assert_eq!(figures, Figures { capacity: 64, used: 62, cooling: 2, free: 0 });
    // Not at once: the kernel may not show what is in its way.
    assert!(ledger.due(now, 10).is_empty());
    assert_eq!(answer(&mut ledger, Seen::Free, now + Duration::from_secs(1)), 2);
    assert_eq!(ledger.usage_of(&pool.offer(), Protocol::Tcp, to).free, 2);
    let rows = Ledger::restore(ledger.snapshot(), now).rows(None, LeaseId(0), 10);
    assert_eq!(rows, ledger.rows(None, LeaseId(0), 10));
}

#[test]
fn rows_come_by_pages_and_by_owner() {
    let (mut ledger, session, now) = ledger();
    let other = ledger.open_session(Owner::User(7), now).unwrap();
    let pool = one();
    for n in 0..20 {
        let session = if n % 2 == 0 { session } else { other };
        ledger.lease(&request(session, to("198.51.100.1:443"), Kind::Pairs, 1), &pool.offer(), now).unwrap();
    }
    let ids = |rows: Vec<Row>| rows.into_iter().map(|row| row.id.0).collect::<Vec<_>>();
    assert_eq!(ids(ledger.rows(None, LeaseId(0), 3)), [1, 2, 3]);
    assert_eq!(ids(ledger.rows(None, LeaseId(3), 3)), [4, 5, 6]);
    assert_eq!(ids(ledger.rows(Some(&Owner::User(7)), LeaseId(4), 3)), [6, 8, 10]);
    assert!(ledger.rows(Some(&Owner::User(8)), LeaseId(0), 3).is_empty());
    assert!(ledger.rows(None, LeaseId(20), 3).is_empty());
}

#[test]
fn a_drained_address_stays_drained_over_a_restart() {
    let (mut ledger, session, now) = ledger();
    let address = "192.0.2.1".parse().unwrap();
    let wanted = request(session, to("198.51.100.1:443"), Kind::Blocks, 64);
    let lease = ledger.lease(&wanted, &one().offer(), now).unwrap();
    assert!(ledger.drain(address) && !ledger.drain(address));
    assert_eq!(ledger.usage(address), AddressUsage { leased: 64, cooling: 0 });
    let mut restored = Ledger::restore(ledger.events(), now);
    assert!(restored.is_draining(address));
    assert!(restored.release(lease.id, now).is_ok());
    assert_eq!(restored.usage(address), AddressUsage { leased: 0, cooling: 64 });
    assert!(restored.undrain(address) && !restored.undrain(address));
}

#[test]
fn numbers_are_not_used_again_after_a_restart() {
    let (mut ledger, session, now) = ledger();
    let wanted = request(session, to("198.51.100.1:443"), Kind::Pairs, 1);
    let lease = ledger.lease(&wanted, &one().offer(), now).unwrap();
    ledger.end_session(session, now);
    settle(&mut ledger, now);
    settle(&mut ledger, now + Duration::from_secs(2));
    let mut restored = Ledger::restore(ledger.snapshot(), now);
    let next = restored.open_session(Owner::User(1), now).unwrap();
    assert!(next > session);
    let wanted = request(next, to("198.51.100.1:443"), Kind::Pairs, 1);
    assert!(restored.lease(&wanted, &one().offer(), now).unwrap().id > lease.id);
}
