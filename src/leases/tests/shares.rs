//! What is kept for whom.

use super::super::*;
use super::*;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn guaranteed(pool: Pool, ports: u32, named: &[Owner], others: bool) -> Pool {
    let guarantee = Guarantee { ports, named: named.iter().cloned().collect(), others };
    Pool { guarantee: Some(Arc::new(guarantee)), ..pool }
}

/// A hundred ports, of which ten are kept for each caller.
fn hundred(others: bool) -> Pool {
    guaranteed(Pool::new(&["192.0.2.1"], "10000-10099"), 10, &[], others)
}

struct Callers {
    ledger: Ledger,
    now: Instant,
}

impl Callers {
    fn new() -> Self {
        let now = Instant::now();
        Self { ledger: Ledger::new(now), now }
    }

    fn open(&mut self, uid: u32) -> SessionId {
        self.ledger.open_session(Owner::User(uid), self.now).unwrap()
    }

    /// As many as there are, at most `most`.
    fn take(&mut self, session: SessionId, to: Option<SocketAddr>, most: u32, pool: &Pool) -> u32 {
        self.lease(session, to, most, pool).map_or(0, |(_, ports)| ports)
    }

    fn lease(
        &mut self,
        session: SessionId,
        to: Option<SocketAddr>,
        most: u32,
        pool: &Pool,
    ) -> Option<(LeaseId, u32)> {
        let request = Request { minimum: 1, ..request(session, to, Kind::Blocks, most) };
        let lease = self.ledger.lease(&request, &pool.offer(), self.now).ok()?;
        Some((lease.id, lease.ranges.iter().map(|r| u32::from(r.ports.last() - r.ports.first()) + 1).sum()))
    }
}

fn d() -> Option<SocketAddr> {
    to("198.51.100.1:443")
}

#[test]
fn a_greedy_caller_leaves_the_minimum_of_each_other_and_one_more() {
    let (pool, mut callers) = (hundred(true), Callers::new());
    let (greedy, second, third) = (callers.open(1), callers.open(2), callers.open(3));
    assert_eq!(callers.take(greedy, d(), 1000, &pool), 90, "one share is kept for whoever comes");
    assert_eq!(callers.take(second, d(), 1000, &pool), 10);
    // The third had no share: what comes free is kept for it now.
    assert_eq!(callers.take(third, d(), 1000, &pool), 0);
    assert_eq!(
        callers.take(greedy, to("198.51.100.2:443"), 1000, &pool),
        70,
        "other destinations have their own"
    );
    let text = {
        let request = request(greedy, d(), Kind::Pairs, 1);
        callers.ledger.lease(&request, &pool.offer(), callers.now).unwrap_err().to_string()
    };
    assert!(text.contains("has 0 of 100 ports left"), "{text}");
}

#[test]
fn what_cools_is_its_owners_and_kept_for_it_when_it_is_free() {
    let (pool, mut callers) = (hundred(false), Callers::new());
    let (greedy, second) = (callers.open(1), callers.open(2));
    assert_eq!(callers.take(second, d(), 1, &pool), 1);
    let (lease, ports) = callers.lease(second, d(), 9, &pool).unwrap();
    assert_eq!(ports, 9);
    assert_eq!(callers.take(greedy, d(), 1000, &pool), 90);
    callers.ledger.release(lease, callers.now).unwrap();
    settle(&mut callers.ledger, callers.now);
    let request = request(greedy, d(), Kind::Pairs, 1);
    let refused = callers.ledger.lease(&request, &pool.offer(), callers.now).unwrap_err();
    assert!(matches!(refused, Refused::Exhausted { free: 9, kept: 9, used: 91, .. }), "{refused}");
    assert!(refused.to_string().contains("9 are for others"), "{refused}");
    assert_eq!(callers.take(second, d(), 1000, &pool), 9);
    callers.ledger.end_session(second, callers.now);
    settle(&mut callers.ledger, callers.now + Duration::from_secs(3));
    settle(&mut callers.ledger, callers.now + Duration::from_secs(6));
    assert_eq!(callers.take(greedy, d(), 1000, &pool), 10, "who is gone needs nothing");
}

#[test]
fn who_comes_back_with_nothing_left_counts_when_it_asks_again() {
    let (pool, mut callers) = (hundred(false), Callers::new());
    let (greedy, second) = (callers.open(1), callers.open(2));
    assert_eq!(callers.take(greedy, d(), 1, &pool), 1);
    assert_eq!(callers.take(second, to("[2001:db8::1]:443"), 1, &pool), 0, "it asked, and got nothing");
    assert_eq!(callers.ledger.callers(&pool.name), Some(2));
    callers.ledger.end_session(second, callers.now);
    let second = callers.open(2);
    let refused = |callers: &mut Callers| {
        let request = request(greedy, d(), Kind::Pairs, 100);
        callers.ledger.lease(&request, &pool.offer(), callers.now).unwrap_err()
    };
    let all = refused(&mut callers);
    assert!(matches!(all, Refused::Exhausted { free: 99, kept: 0, .. }), "{all}");
    assert_eq!(callers.take(second, to("[2001:db8::1]:443"), 1, &pool), 0);
    let fewer = refused(&mut callers);
    assert!(matches!(fewer, Refused::Exhausted { free: 99, kept: 10, .. }), "{fewer}");
}

#[test]
fn those_who_are_named_count_before_they_come_and_a_user_is_one_with_its_slice() {
    let slice = Owner::Unit("user-7.slice".try_into().unwrap());
    let named = [Owner::User(7), Owner::Unit("a.service".try_into().unwrap())];
    let pool = guaranteed(Pool::new(&["192.0.2.1"], "10000-10099"), 10, &named, false);
    let mut callers = Callers::new();
    let greedy = callers.open(1);
    assert_eq!(callers.take(greedy, d(), 1000, &pool), 80);
    let seven = callers.ledger.open_session(slice, callers.now).unwrap();
    assert_eq!(callers.take(seven, d(), 1000, &pool), 10, "its own, and not those of a.service");
    assert_eq!(callers.ledger.callers(&pool.name), Some(3));
}

#[test]
fn where_there_is_not_enough_for_all_minimums_the_shares_are_equal() {
    let pool = guaranteed(Pool::new(&["192.0.2.1"], "10000-10099"), 60, &[], false);
    let mut callers = Callers::new();
    let sessions: Vec<SessionId> = (1..=4).map(|uid| callers.open(uid)).collect();
    let other = to("198.51.100.9:1");
    for session in &sessions {
        assert!(callers.take(*session, other, 1, &pool) > 0);
    }
    let got: Vec<u32> = sessions.iter().map(|session| callers.take(*session, d(), 1000, &pool)).collect();
    assert_eq!(got, [25, 25, 25, 25]);
}

#[test]
fn leases_for_any_destination_leave_the_minimums_of_all() {
    let (pool, mut callers) = (hundred(true), Callers::new());
    let (one, two) = (callers.open(1), callers.open(2));
    assert_eq!(callers.take(one, d(), 30, &pool), 30);
    // Two callers and one who may come have ten each, and the first has twenty more for one destination.
    assert_eq!(callers.take(two, d(), 1, &pool), 1);
    assert_eq!(callers.take(two, None, 1000, &pool), 50);
    assert_eq!(callers.take(two, None, 1, &pool), 0);
    assert_eq!(callers.take(two, d(), 9, &pool), 9);
    assert_eq!(
        callers.take(two, to("198.51.100.3:443"), 1000, &pool),
        30,
        "the first's and one more are kept"
    );
}

#[test]
fn udp_ports_are_divided_by_family_and_not_by_destination() {
    let pool = guaranteed(Pool::new(&["192.0.2.1", "2001:db8::1"], "10000-10099"), 10, &[], false);
    let mut callers = Callers::new();
    let (one, two) = (callers.open(1), callers.open(2));
    let mut udp = |session, to: Option<SocketAddr>, ports| {
        let request =
            Request { protocol: Protocol::Udp, minimum: 1, ..request(session, to, Kind::Blocks, ports) };
        let lease = callers.ledger.lease(&request, &pool.offer(), callers.now);
        lease.map_or(0, |lease| lease.ranges.iter().map(|r| r.ports.iter().count()).sum())
    };
    assert_eq!(udp(two, d(), 1), 1);
    assert_eq!(udp(one, d(), 1000), 90);
    assert_eq!(udp(one, to("198.51.100.2:53"), 1000), 0);
    // Of the other family nobody has anything.
    assert_eq!(udp(one, None, 1000), 90);
    assert_eq!(udp(two, to("198.51.100.2:53"), 1000), 9);
}

#[test]
fn a_minimum_that_comes_later_counts_what_there_is() {
    let plain = Pool::new(&["192.0.2.1"], "10000-10099");
    let mut callers = Callers::new();
    let (one, two) = (callers.open(1), callers.open(2));
    let (lease, _) = callers.lease(two, d(), 8, &plain).unwrap();
    assert_eq!(callers.take(two, d(), 4, &plain), 4);
    callers.ledger.release(lease, callers.now).unwrap();
    let pool = guaranteed(Pool::new(&["192.0.2.1"], "10000-10099"), 20, &[], false);
    // Four are held and eight cool of the second's.
    assert_eq!(callers.take(one, d(), 1000, &pool), 80);
    settle(&mut callers.ledger, callers.now);
    assert_eq!(callers.take(one, d(), 1000, &pool), 0);
    assert_eq!(callers.take(two, d(), 1000, &pool), 16);
    assert_eq!(
        callers.take(one, to("198.51.100.7:1"), 1000, &plain),
        100,
        "and no more, where it is taken out"
    );
}

#[test]
fn what_cools_of_one_pool_is_nobodys_of_another_whose_minimum_comes_later() {
    let pool =
        |name| Pool { name: PoolName::try_from(name).unwrap(), ..Pool::new(&["192.0.2.1"], "10000-10099") };
    let mut callers = Callers::new();
    let (one, two) = (callers.open(1), callers.open(2));
    // Free at once, and known still for a second look, when it is leased of another pool.
    let (lease, _) = callers.lease(one, d(), 100, &pool("a")).unwrap();
    callers.ledger.release(lease, callers.now).unwrap();
    settle(&mut callers.ledger, callers.now);
    let (lease, _) = callers.lease(two, d(), 100, &pool("b")).unwrap();
    callers.ledger.release(lease, callers.now).unwrap();
    let divided = guaranteed(pool("a"), 10, &[], false);
    assert_eq!(callers.take(one, d(), 1, &divided), 0);
    settle(&mut callers.ledger, callers.now);
    assert_eq!(callers.take(two, d(), 1000, &divided), 90, "the first has nothing of its minimum");
}

#[test]
fn what_is_used_after_a_lease_counts_for_its_owner_when_a_minimum_comes_later() {
    let plain = Pool::new(&["192.0.2.1"], "10000-10019");
    let mut callers = Callers::new();
    let (one, two) = (callers.open(1), callers.open(2));
    for session in [one, two] {
        let (lease, _) = callers.lease(session, d(), 20, &plain).unwrap();
        callers.ledger.release(lease, callers.now).unwrap();
        settle(&mut callers.ledger, callers.now);
        callers.now += Duration::from_secs(1);
    }
    // The second look at what the first had; what the second had since is not looked at again yet.
    assert_eq!(answer(&mut callers.ledger, OPEN, callers.now), 20);
    let divided = guaranteed(plain, 10, &[], false);
    assert_eq!(callers.take(one, d(), 1, &divided), 0);
    callers.now += Duration::from_secs(10);
    settle(&mut callers.ledger, callers.now);
    assert_eq!(callers.take(one, d(), 1, &divided), 1);
    assert_eq!(callers.take(one, d(), 1000, &divided), 9, "the second has nothing of its minimum");
}

#[test]
fn what_is_leased_ahead_is_a_part_of_what_is_left() {
    let (mut ledger, session, now) = ledger();
    let pool = Pool::new(&["192.0.2.1"], "10000-10639");
    let mut sizes = Vec::new();
    loop {
        let request = Request { minimum: 1, ..request(session, d(), Kind::Blocks, 64) };
        let terms = Terms { ahead: true, ..Terms::default() };
        match ledger.lease_on(terms, &request, &pool.offer(), now) {
            Ok(lease) => sizes.push(lease.ranges.iter().map(|r| r.ports.iter().count()).sum::<usize>()),
            Err(refused) => {
                assert!(matches!(refused, Refused::Exhausted { free: 0, .. }), "{refused}");
                break;
            }
        }
    }
    assert_eq!(sizes.iter().sum::<usize>(), 640);
    assert_eq!(sizes[..3], [64, 64, 64]);
    assert!(sizes.is_sorted_by(|before, after| before >= after) && sizes.ends_with(&[1; 8]), "{sizes:?}");
}

#[test]
fn owners_are_plain_once() {
    let all: BTreeSet<Owner> =
        [Owner::User(7), Owner::Unit("user-7.slice".try_into().unwrap())].iter().map(Owner::plain).collect();
    assert_eq!(all.into_iter().collect::<Vec<_>>(), [Owner::User(7)]);
    let other = Owner::Unit("user-x.slice".try_into().unwrap());
    assert_eq!(other.plain(), other);
}
