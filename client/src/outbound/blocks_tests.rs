use super::*;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

fn start() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now)
}

fn block(address: &str, first: u16, last: u16) -> Block {
    Block { address: address.parse().unwrap(), first, last }
}

fn blocks(given: &[Block]) -> Blocks {
    let mut blocks = Blocks::new(start());
    for (lease, given) in (1..).zip(given) {
        blocks.add(lease, &[*given]).unwrap();
    }
    blocks
}

fn take(blocks: &mut Blocks, seconds: u64) -> Option<Taken> {
    blocks.take(true, start() + Duration::from_secs(seconds))
}

#[test]
fn fresh_ports_come_first_and_in_turns_over_the_addresses() {
    let mut blocks = blocks(&[block("192.0.2.1", 10, 11), block("192.0.2.2", 10, 11)]);
    let sources: Vec<String> = (0..4).map(|_| take(&mut blocks, 0).unwrap().source.to_string()).collect();
    assert_eq!(sources, ["192.0.2.1:10", "192.0.2.2:10", "192.0.2.1:11", "192.0.2.2:11"]);
    assert!(take(&mut blocks, 0).is_none());
}

#[test]
fn the_least_recently_closed_is_next_and_is_to_be_looked_at() {
    let mut blocks = blocks(&[block("192.0.2.1", 10, 12)]);
    let mut out: Vec<Taken> = (0..3).map(|_| take(&mut blocks, 0).unwrap()).collect();
    assert!(out.iter().all(|taken| !taken.used));
    for port in [1, 0, 0] {
        blocks.closed(out.remove(port).port);
    }
    let ports: Vec<u16> = (0..3)
        .map(|_| {
            let taken = take(&mut blocks, 0).unwrap();
            assert!(taken.used);
            taken.source.port()
        })
        .collect();
    assert_eq!(ports, [11, 10, 12]);
}

#[test]
fn what_stays_open_is_looked_at_ever_less_often_and_what_is_refused_too() {
    let mut blocks = blocks(&[block("192.0.2.1", 10, 10)]);
    let mut now = start();
    let mut waits = Vec::new();
    let mut taken = blocks.take(true, now).unwrap();
    for _ in 0..16 {
        blocks.open(taken.port, now);
        let due = blocks.next_due().unwrap();
        assert!(blocks.take(true, due - Duration::from_millis(1)).is_none());
        waits.push((due - now).as_millis());
        now = due;
        taken = blocks.take(true, now).unwrap();
    }
    assert_eq!(
        waits,
        [2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 30_000, 30_000]
    );
    // Once it was closed regularly it begins anew.
    blocks.closed(taken.port);
    let taken = blocks.take(true, now).unwrap();
    blocks.refused(taken.port, now);
    assert_eq!(blocks.next_due(), Some(now + Duration::from_secs(1)));
}

#[test]
fn what_the_kernel_cannot_be_asked_about_waits_and_is_then_taken_unasked() {
    let mut blocks = blocks(&[block("192.0.2.1", 10, 10)]);
    let taken = take(&mut blocks, 0).unwrap();
    blocks.closed(taken.port);
    let taken = take(&mut blocks, 0).unwrap();
    blocks.unknown(taken.port, start());
    assert!(take(&mut blocks, 124).is_none());
    assert!(!take(&mut blocks, 125).unwrap().used);
}

#[test]
fn an_address_that_is_not_there_is_left_alone_with_all_its_ports() {
    let mut blocks = blocks(&[block("192.0.2.1", 10, 13), block("192.0.2.2", 10, 10)]);
    let first = take(&mut blocks, 0).unwrap();
    let other = take(&mut blocks, 0).unwrap();
    let used = take(&mut blocks, 0).unwrap();
    blocks.closed(used.port);
    blocks.absent(first.port, start());
    assert!(take(&mut blocks, 0).is_none());
    assert_eq!(blocks.held(), 4);
    blocks.closed(other.port);
    assert_eq!(take(&mut blocks, 0).unwrap().source.to_string(), "192.0.2.2:10");
    let back: HashSet<u16> = (0..4).map(|_| take(&mut blocks, 1).unwrap().source.port()).collect();
    assert_eq!(back.len(), 4);
}

#[test]
fn families_are_apart() {
    let mut blocks = blocks(&[block("192.0.2.1", 10, 10), block("2001:db8::1", 10, 10)]);
    assert!(take(&mut blocks, 0).unwrap().source.is_ipv4());
    assert!(take(&mut blocks, 0).is_none());
    assert!(blocks.take(false, start()).unwrap().source.is_ipv6());
}

#[test]
fn what_is_leased_twice_is_not_taken_in() {
    let mut blocks = blocks(&[block("192.0.2.1", 10, 19)]);
    for (first, last) in [(10, 19), (5, 10), (19, 30), (12, 13), (1, 100)] {
        let again = [block("192.0.2.2", 10, 19), block("192.0.2.1", first, last)];
        assert!(blocks.add(2, &again).is_err(), "{first} to {last}");
    }
    let twice = [block("192.0.2.3", 10, 19), block("192.0.2.3", 19, 19)];
    assert!(blocks.add(2, &twice).is_err());
    blocks.add(2, &[block("192.0.2.2", 10, 19), block("192.0.2.1", 20, 29)]).unwrap();
    assert_eq!(std::iter::from_fn(|| take(&mut blocks, 0)).count(), 30);
}

#[test]
fn what_was_not_needed_for_a_minute_goes_but_the_last() {
    let mut given = vec![block("192.0.2.1", 0x400, 0x43f)];
    given.extend((1..5).map(|n| block("192.0.2.1", 0x400 + n * 64, 0x400 + n * 64 + 63)));
    let mut blocks = blocks(&given);
    let mut out: Vec<Taken> = (0..320).map(|_| take(&mut blocks, 0).unwrap()).collect();
    assert!(idle(&mut blocks, 29).is_empty() && blocks.is_low(true));
    // A connection in the second block stays.
    let one = out.iter().position(|taken| taken.source.port() == 0x440).unwrap();
    let one = out.remove(one);
    out.into_iter().for_each(|taken| blocks.closed(taken.port));
    assert!(idle(&mut blocks, 31).is_empty(), "they were needed a moment ago");
    assert!(idle(&mut blocks, 62).is_empty(), "not a minute ago yet");
    assert_eq!(idle(&mut blocks, 93), [5, 4, 3], "{blocks:?}");
    assert_eq!(std::iter::from_fn(|| take(&mut blocks, 93)).count(), 127);
    blocks.closed(one.port);
}

fn idle(blocks: &mut Blocks, seconds: u64) -> Vec<u64> {
    blocks.idle(start() + Duration::from_secs(seconds))
}

#[test]
fn the_last_goes_when_nothing_was_taken_for_long() {
    let mut blocks = blocks(&[block("192.0.2.1", 10, 73)]);
    let at = |seconds| start() + Duration::from_secs(seconds);
    let taken = take(&mut blocks, 5).unwrap();
    assert_eq!(blocks.abandoned(at(400), Duration::from_secs(300)), None);
    blocks.closed(taken.port);
    assert!(idle(&mut blocks, 100).is_empty() && idle(&mut blocks, 200).is_empty());
    assert_eq!(blocks.abandoned(at(304), Duration::from_secs(300)), None);
    assert_eq!(blocks.abandoned(at(305), Duration::from_secs(300)), Some(vec![1]));
    assert!(take(&mut blocks, 306).is_none());
}

#[test]
fn what_comes_back_of_a_lease_that_is_over_is_forgotten() {
    let mut blocks = blocks(&[block("192.0.2.1", 10, 11)]);
    let out = take(&mut blocks, 0).unwrap();
    blocks.lose_all();
    assert!(take(&mut blocks, 0).is_none());
    // The broker may lease the same again; what is on them is to be asked.
    blocks.add(2, &[block("192.0.2.1", 10, 11)]).unwrap();
    blocks.closed(out.port);
    let again: Vec<Taken> = std::iter::from_fn(|| take(&mut blocks, 0)).collect();
    assert_eq!((again.len(), again.iter().all(|taken| taken.used)), (2, true));
}

#[test]
fn more_is_asked_for_before_none_is_left_and_the_more_are_in_use_the_more() {
    let mut blocks = Blocks::new(start());
    assert_eq!(blocks.wanted(), 64);
    let mut next = 1024_u16;
    let mut asked = Vec::new();
    for lease in 1..200 {
        let ports = blocks.wanted();
        asked.push(ports);
        let last = next + u16::try_from(ports).unwrap() - 1;
        blocks.add(lease, &[block("192.0.2.1", next, last)]).unwrap();
        next = last.checked_add(1).unwrap();
        while !blocks.is_low(true) {
            take(&mut blocks, 0).unwrap();
        }
        let spare = blocks.v4.free();
        assert!((15..64).contains(&spare), "{spare}");
        if blocks.out > 40_000 {
            break;
        }
    }
    assert_eq!((asked[0], *asked.last().unwrap()), (64, 1_024));
    assert!(asked.windows(2).all(|pair| pair[0] <= pair[1]), "{asked:?}");
    assert!(asked.len() < 110, "{}", asked.len());
}

/// What can happen to the ports.
#[derive(Debug, Clone)]
enum Step {
    Add(u16),
    Take(bool),
    TakeBeside(bool, usize),
    Closed(usize),
    Looked(usize, Option<u64>),
    LookedEarly(usize),
    Open(usize),
    TimeWait(usize, u64),
    Refused(usize),
    Absent(usize),
    Unknown(usize),
    Wait(u64),
    Idle,
    Abandon,
    Lose,
    Early,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1_u16..80).prop_map(Step::Add),
        20 => any::<bool>().prop_map(Step::Take),
        4 => (any::<bool>(), 0_usize..9).prop_map(|(v4, most)| Step::TakeBeside(v4, most)),
        8 => any::<usize>().prop_map(Step::Closed),
        6 => (any::<usize>(), prop::option::of(0_u64..60)).prop_map(|(n, left)| Step::Looked(n, left)),
        2 => any::<usize>().prop_map(Step::LookedEarly),
        3 => any::<usize>().prop_map(Step::Open),
        2 => (any::<usize>(), 0_u64..60).prop_map(|(n, left)| Step::TimeWait(n, left)),
        2 => any::<usize>().prop_map(Step::Refused),
        1 => any::<usize>().prop_map(Step::Absent),
        1 => any::<usize>().prop_map(Step::Unknown),
        4 => (0_u64..40).prop_map(Step::Wait),
        2 => Just(Step::Idle),
        1 => Just(Step::Abandon),
        1 => Just(Step::Lose),
        1 => Just(Step::Early),
    ]
}

/// A plain account of the same: which sources there are, of which lease, and until when each is held.
#[derive(Default)]
struct Naive {
    sources: HashMap<SocketAddr, u64>,
    held: HashMap<SocketAddr, Instant>,
    out: Vec<(Taken, u64)>,
    /// Closed, and the kernel was not asked since.
    closed: HashSet<SocketAddr>,
}

impl Naive {
    fn drop_leases(&mut self, leases: &[u64]) {
        self.sources.retain(|_, lease| !leases.contains(lease));
        let sources = &self.sources;
        self.held.retain(|source, _| sources.contains_key(source));
    }

    fn is_out(&self, source: SocketAddr) -> bool {
        self.out.iter().any(|(taken, _)| taken.source == source)
    }

    /// One of those that are out, and whether its lease lives.
    fn pick(&mut self, n: usize) -> Option<(Taken, bool)> {
        let n = n.checked_rem(self.out.len())?;
        let (taken, lease) = self.out.swap_remove(n);
        let alive = self.sources.get(&taken.source) == Some(&lease);
        Some((taken, alive))
    }

    fn due(&self, blocks: &Blocks, source: SocketAddr, now: Instant) {
        assert!(blocks.next_due().is_some_and(|due| due >= now), "{source}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn no_port_is_ever_out_twice_and_all_come_back(steps in prop::collection::vec(step(), 1..200)) {
        let (mut blocks, mut naive) = (Blocks::new(start()), Naive::default());
        let (mut now, mut lease, mut next) = (start(), 0, [1_u16, 1]);
        let mut lost = false;
        for step in steps {
            match step {
                Step::Add(ports) => {
                    lease += 1;
                    let v6 = usize::from(lease % 3 == 0);
                    let address = if v6 == 1 { "2001:db8::1" } else { "192.0.2.1" };
                    let Some(last) = next[v6].checked_add(ports) else { continue };
                    let given = block(address, next[v6], last);
                    next[v6] = last + 1;
                    blocks.add(lease, &[given]).unwrap();
                    naive.sources.extend((given.first..=last).map(|p| (SocketAddr::new(given.address, p), lease)));
                }
                Step::Take(v4) => {
                    naive.held.retain(|_, until| *until > now);
                    let some = naive.sources.keys().any(|source| {
                        source.is_ipv4() == v4 && !naive.held.contains_key(source) && !naive.is_out(*source)
                    });
                    let taken = blocks.take(v4, now);
                    prop_assert_eq!(taken.is_some(), some);
                    if let Some(taken) = taken {
                        prop_assert_eq!(taken.source.is_ipv4(), v4);
                        prop_assert!(!naive.is_out(taken.source), "{} is out twice", taken.source);
                        prop_assert!(!naive.held.contains_key(&taken.source), "{} is held", taken.source);
                        let lease = naive.sources.get(&taken.source).copied();
                        prop_assert!(lease.is_some(), "{} is not ours", taken.source);
                        let asks = taken.used || !naive.closed.contains(&taken.source);
                        prop_assert!(asks, "{} may still be in use", taken.source);
                        naive.out.push((taken, lease.unwrap()));
                    }
                }
                Step::TakeBeside(v4, most) => {
                    let free = blocks.v4.free() + blocks.v6.free();
                    let beside = blocks.take_beside(v4, most);
                    prop_assert!(beside.len() <= most && beside.len() <= free as usize / 4);
                    for taken in beside {
                        prop_assert!(!naive.is_out(taken.source), "{} is out twice", taken.source);
                        let lease = naive.sources.get(&taken.source).copied();
                        prop_assert!(lease.is_some(), "{} is not ours", taken.source);
                        naive.out.push((taken, lease.unwrap()));
                    }
                }
                Step::Closed(n) => if let Some((taken, _)) = naive.pick(n) {
                    naive.closed.insert(taken.source);
                    blocks.closed(taken.port);
                },
                Step::Looked(n, left) => if let Some((taken, _)) = naive.pick(n) {
                    naive.closed.remove(&taken.source);
                    blocks.looked(taken.port, left.map(|left| now + Duration::from_secs(left)));
                },
                Step::LookedEarly(n) => if let Some((taken, _)) = naive.pick(n) {
                    if !taken.port.blind { naive.closed.insert(taken.source); }
                    blocks.looked_early(taken.port);
                },
                Step::Open(n) => if let Some((taken, alive)) = naive.pick(n) {
                    naive.closed.insert(taken.source);
                    let until = now + grown(OPEN_FIRST, taken.port.strikes, OPEN_MOST);
                    blocks.open(taken.port, now);
                    if alive { naive.held.insert(taken.source, until); naive.due(&blocks, taken.source, start()); }
                },
                Step::TimeWait(n, left) => if let Some((taken, alive)) = naive.pick(n) {
                    blocks.time_wait(taken.port, now, Duration::from_secs(left));
                    if alive { naive.held.insert(taken.source, now + Duration::from_secs(left)); }
                },
                Step::Refused(n) => if let Some((taken, alive)) = naive.pick(n) {
                    let until = now + grown(REFUSED_FIRST, taken.port.strikes, REFUSED_MOST);
                    blocks.refused(taken.port, now);
                    if alive { naive.held.insert(taken.source, until); }
                },
                Step::Unknown(n) => if let Some((taken, alive)) = naive.pick(n) {
                    // Nothing can be on it when it comes back.
                    naive.closed.remove(&taken.source);
                    blocks.unknown(taken.port, now);
                    if alive { naive.held.insert(taken.source, now + BLIND); }
                },
                Step::Absent(n) => if let Some((taken, alive)) = naive.pick(n) {
                    blocks.absent(taken.port, now);
                    if alive {
                        // Until when is the blocks' own matter; that all of them are held is not.
                        let until = blocks.absent[&taken.source.ip()];
                        let until = until.1 + grown(REFUSED_FIRST, until.0 - 1, REFUSED_MOST);
                        let here: Vec<SocketAddr> = naive.sources.keys().copied()
                            .filter(|s| s.ip() == taken.source.ip() && !naive.is_out(*s))
                            .collect();
                        for source in here {
                            let held = naive.held.get(&source).copied().filter(|held| *held > now);
                            // What was due and not asked for since may be held by either.
                            if held.is_none() && naive.held.contains_key(&source) { continue; }
                            naive.held.insert(source, held.unwrap_or(until));
                        }
                    }
                },
                Step::Wait(seconds) => now += Duration::from_secs(seconds),
                Step::Idle => {
                    let gone = blocks.idle(now);
                    for lease in &gone {
                        prop_assert!(naive.out.iter().all(|(_, of)| of != lease), "{lease} is in use");
                    }
                    prop_assert!(naive.sources.is_empty() || lost || u64::try_from(gone.len()).unwrap() < lease);
                    naive.drop_leases(&gone);
                }
                Step::Abandon => if let Some(gone) = blocks.abandoned(now, Duration::from_secs(60)) {
                    prop_assert!(naive.out.is_empty());
                    naive.drop_leases(&gone);
                    prop_assert!(naive.sources.is_empty());
                },
                Step::Lose => {
                    lost = true;
                    blocks.lose_all();
                    naive.sources.clear();
                    naive.held.clear();
                }
                Step::Early => {
                    // May bring back what was open; what was refused, or waits, never.
                    let before = blocks.held();
                    let some = blocks.look_early(now, 5);
                    prop_assert_eq!(some, blocks.held() < before);
                    let held: HashSet<SocketAddr> = blocks.held.iter().filter_map(|held| match &held.idle {
                        Idle::Used(port) => blocks.address(port.range).map(|a| SocketAddr::new(a, port.number)),
                        Idle::Fresh(_) => None,
                    }).collect();
                    let fresh = blocks.held.iter().any(|held| matches!(held.idle, Idle::Fresh(_)));
                    if !fresh { naive.held.retain(|source, _| held.contains(source)); }
                    else { blocks.lose_all(); lost = true; naive.sources.clear(); naive.held.clear(); }
                }
            }
            let free = blocks.v4.free() + blocks.v6.free();
            let alive: u32 = blocks.v4.ports + blocks.v6.ports;
            let out = naive.out.iter().filter(|(taken, of)| naive.sources.get(&taken.source) == Some(of)).count();
            prop_assert_eq!(free + blocks.held() + u32::try_from(out).unwrap(), alive);
            prop_assert_eq!(alive, u32::try_from(naive.sources.len()).unwrap());
            prop_assert_eq!(blocks.out, u32::try_from(naive.out.len()).unwrap());
        }
        while let Some((taken, _)) = naive.pick(0) { blocks.closed(taken.port); }
        let late = now + Duration::from_secs(3_600);
        let all: HashSet<SocketAddr> = [true, false].into_iter()
            .flat_map(|v4| std::iter::from_fn(|| blocks.take(v4, late)).collect::<Vec<_>>())
            .map(|taken| taken.source).collect();
        prop_assert_eq!(all, naive.sources.keys().copied().collect::<HashSet<_>>());
    }
}
