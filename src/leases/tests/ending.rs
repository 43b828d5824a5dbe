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
    ledger.destroyed(&Tuple { source: "192.0.2.1:9".parse().unwrap(), ..tuple }, then);
    assert_eq!(answer(&mut ledger, OPEN, then), 0);
    ledger.look_at_all_again(then);
    assert_eq!(answer(&mut ledger, OPEN, then), 1);
    ledger.destroyed(&tuple, then);
    ledger.destroyed(&tuple, then);
    assert_eq!(answer(&mut ledger, Seen::Free, then), 1);
    assert!(ledger.is_empty() && !ledger.holds_open());
    assert_eq!(answer(&mut ledger, OPEN, then + Duration::from_secs(60)), 0);
    assert!(ledger.used_after_end().is_empty());
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
