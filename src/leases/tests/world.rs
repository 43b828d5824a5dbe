//! Commands to a ledger, each held against [`Naive`]: for random ones, and for those that the fuzzer finds.

use super::super::*;
use super::kernel::Kernel;
use super::naive::{Key, Naive, key};
use super::{Pool, to};
use crate::model::Seen;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What happens.
#[derive(Debug, Clone)]
#[cfg_attr(fuzzing, expect(missing_docs, reason = "as the members are called"))]
pub enum Command {
    Open { owner: u32 },
    Lease { session: usize, pool: usize, udp: bool, to: usize, kind: Kind, ports: u32, minimum: u32 },
    Release { lease: usize, fate: u8 },
    End { session: usize, fate: u8 },
    Replace { lease: usize, port: usize },
    Look { most: usize },
    Fail,
    Close { socket: usize, told: bool },
    Overflow,
    Wait { milliseconds: u64 },
    Addresses { pool: usize, mask: u8 },
    Zone { pool: usize, zone: usize },
    Drain { address: usize },
    Guarantee { pool: usize, guarantee: Option<Guarantee> },
    Restart { snapshot: bool },
}

const ADDRESSES: [&str; 5] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"];
const DESTINATIONS: [&str; 3] = ["198.51.100.1:443", "198.51.100.2:443", "[2001:db8:1::1]:443"];
/// With and without whole words, and one with holes.
const ZONES: [[&str; 3]; 2] =
    [["1024-1215", "1000-1130", "1030-1040,1060-1250"], ["1100-1300", "1152-1279", "1024-1215"]];

/// A ledger with its kernel, and what is right.
pub struct World {
    now: Instant,
    ledger: Ledger,
    naive: Naive,
    kernel: Kernel,
    pools: [Pool; 2],
    /// Who has asked for something of each pool; `None`: since the start, or a new guarantee, nobody has asked.
    asked: [Option<BTreeSet<Owner>>; 2],
    /// What each pool guaranteed then.
    guaranteed: [Option<Arc<Guarantee>>; 2],
    journal: Vec<Event>,
}

fn destination(n: usize) -> Option<SocketAddr> {
    DESTINATIONS.get(n).and_then(|text| to(text))
}

fn pick<T: Copy>(from: impl Iterator<Item = T>, n: usize) -> Option<T> {
    let all: Vec<T> = from.collect();
    (!all.is_empty()).then(|| all[n % all.len()])
}

impl World {
    /// Two pools.
    #[must_use]
    pub fn new(spreads: [Spread; 2], quotas: [Quota; 2], guarantee: Option<Guarantee>) -> Self {
        let guarantee = guarantee.map(Arc::new);
        let now = Instant::now();
        let pool = |n: usize| Pool {
            name: PoolName::try_from(["a", "b"][n]).unwrap(),
            spread: spreads[n],
            quota: quotas[n],
            guarantee: guarantee.clone().filter(|_| n == 0),
            ..Pool::new(&ADDRESSES, ZONES[n][0])
        };
        let ledger = Ledger::new(now);
        let (naive, kernel) = (Naive::new(), Kernel::default());
        let pools = [pool(0), pool(1)];
        let (asked, guaranteed) = ([None, None], [None, None]);
        Self { now, ledger, naive, kernel, pools, asked, guaranteed, journal: Vec::new() }
    }

    /// Who counts as a caller of a pool, for which somebody asks now.
    fn callers(&mut self, pool: usize, asks: &Owner) -> BTreeSet<Owner> {
        if self.guaranteed[pool] != self.pools[pool].guarantee {
            self.guaranteed[pool] = self.pools[pool].guarantee.clone();
            self.asked[pool] = None;
        }
        let leases = self.naive.leases.values();
        let of_pool = |known: &&super::naive::Known| known.pool == self.pools[pool].name;
        let with_leases = || leases.clone().filter(of_pool).map(|known| known.owner.clone()).collect();
        let asked = self.asked[pool].get_or_insert_with(with_leases);
        asked.insert(asks.clone());
        asked.clone()
    }

    /// Takes over what happened, by way of its bytes.
    fn learn(&mut self) {
        for event in self.ledger.events() {
            assert_eq!(Event::from_bytes(&event.to_bytes().unwrap()).as_ref(), Ok(&event));
            self.naive.apply(&event);
            self.journal.push(event);
        }
        // Who has nothing any more is forgotten at once: should it come back, it has to ask before it counts again.
        for asked in self.asked.iter_mut().flatten() {
            asked.retain(|owner| self.naive.knows(owner));
        }
    }

    /// Does all of it, looks at the figures after each, and ends everything.
    pub fn run_all(mut self, commands: impl IntoIterator<Item = Command>) {
        self.run(Command::Open { owner: 0 });
        for (turn, command) in commands.into_iter().enumerate() {
            let turn = if matches!(command, Command::Restart { .. }) { None } else { Some(turn * 7) };
            self.run(command);
            self.check(turn);
        }
        self.finish();
    }

    /// Does it.
    fn run(&mut self, command: Command) {
        match command {
            Command::Open { owner } => {
                self.ledger.open_session(Owner::User(owner), self.now).unwrap();
            }
            Command::Lease { session, pool, udp, to, kind, ports, minimum } => {
                if let Some(session) = pick(self.naive.sessions.keys().copied(), session) {
                    let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
                    let minimum = if kind == Kind::Blocks { minimum.min(ports) } else { ports };
                    let request =
                        Request { session, protocol, destination: destination(to), kind, ports, minimum };
                    self.lease(&request, pool);
                }
            }
            Command::Release { lease, fate } => {
                let held = self.naive.leases.iter().filter(|(_, known)| known.held).map(|(id, _)| *id);
                if let Some(id) = pick(held, lease) {
                    self.leave(id, fate);
                    self.ledger.release(id, self.now).unwrap();
                    assert_eq!(self.ledger.release(id, self.now), Err(NoSuchLease(id)));
                }
            }
            Command::End { session, fate } => {
                if let Some(id) = pick(self.naive.sessions.keys().copied(), session) {
                    let of = self.naive.leases.iter().filter(|(_, known)| known.held && known.session == id);
                    of.map(|(id, _)| *id).collect::<Vec<_>>().into_iter().for_each(|id| self.leave(id, fate));
                    self.ledger.end_session(id, self.now);
                }
            }
            Command::Replace { lease, port } => self.replace(lease, port),
            Command::Look { most } => self.look(most),
            Command::Fail => {
                for look in self.ledger.due(self.now, 5) {
                    self.ledger.unanswered(look, self.now);
                }
            }
            Command::Close { socket, told } => {
                if let Some(key) = pick(self.kernel.open(self.now).into_iter(), socket) {
                    let cookie = self.kernel.close(key, self.now);
                    if told {
                        // After a reset nobody knows whom it was connected to.
                        let reset = Tuple { destination: None, ..tuple(key) };
                        let told = if cookie.is_multiple_of(2) { tuple(key) } else { reset };
                        self.ledger.destroyed(&told, cookie, self.now);
                    }
                }
            }
            Command::Overflow => self.ledger.look_at_all_again(self.now),
            Command::Wait { milliseconds } => self.now += Duration::from_millis(milliseconds),
            Command::Addresses { pool, mask } => {
                let chosen = ADDRESSES.iter().enumerate().filter(|(n, _)| mask >> n & 1 == 1);
                self.pools[pool].addresses = chosen.map(|(_, text)| text.parse().unwrap()).collect();
            }
            Command::Zone { pool, zone } => self.pools[pool].zone = ZONES[pool][zone].parse().unwrap(),
            Command::Drain { address } => {
                let address = ADDRESSES[address].parse().unwrap();
                if !self.ledger.drain(address) {
                    assert!(self.ledger.undrain(address));
                }
            }
            Command::Guarantee { pool, guarantee } => self.pools[pool].guarantee = guarantee.map(Arc::new),
            Command::Restart { snapshot } => self.restart(snapshot),
        }
        self.learn();
    }

    /// The kernel's part in the end of a lease: something else of each port.
    fn leave(&mut self, id: LeaseId, fate: u8) {
        for (n, key) in (0u8..=255).cycle().zip(self.naive.leases[&id].keys.clone()) {
            self.kernel.end(key, fate.wrapping_add(n / 3), self.now);
        }
    }

    fn answer(&mut self, look: Look) {
        let answers = self.kernel.answer(&look, self.now);
        let by_port: BTreeMap<u16, Seen> = answers.iter().map(|(t, seen)| (t.source.port(), *seen)).collect();
        let lease = self.ledger.schedule.asked[&look].lease;
        self.naive.looked(&look, lease, &by_port);
        self.ledger.looked(look, answers, self.now);
        self.learn();
    }

    fn look(&mut self, most: usize) {
        let looks = self.ledger.due(self.now, most);
        assert!(looks.len() <= most);
        if !looks.is_empty() {
            // Nothing is done before its time.
            assert!(self.ledger.next_due().is_none_or(|due| due > self.now) || looks.len() == most);
        }
        looks.into_iter().for_each(|look| self.answer(look));
    }

    fn lease(&mut self, request: &Request, pool: usize) {
        let owner = self.naive.sessions[&request.session].clone();
        assert_eq!(self.ledger.owner_of(request.session), Some(&owner));
        let (protocol, destination) = (request.protocol, request.destination);
        loop {
            let callers = self.callers(pool, &owner);
            let before = self.naive.figures(&self.pools[pool], protocol, destination);
            let (families, reach) = self.naive.within_reach(&self.pools[pool], &callers, &owner, request);
            let left = self.naive.quota_left(&self.pools[pool], &owner);
            match self.ledger.lease(request, &self.pools[pool].offer(), self.now) {
                Ok(lease) => {
                    let events = self.ledger.events();
                    let [event @ Event::Leased { id, ranges, .. }] = &events[..] else {
                        panic!("{events:?}")
                    };
                    assert_eq!((lease.id, &lease.ranges), (*id, ranges));
                    let got: u64 = ranges.iter().map(|r| r.ports.iter().count() as u64).sum();
                    assert_eq!(got, u64::from(request.ports).min(reach).min(left));
                    self.check_choice(request, pool, &families, &lease);
                    self.naive.apply(event);
                    self.journal.push(event.clone());
                    return;
                }
                Err(Refused::Exhausted { capacity, used, cooling, free, kept, .. }) => {
                    let told = Figures { capacity, used, cooling, free };
                    assert_eq!((told, free - kept), (before, reach));
                    assert!(reach < u64::from(request.minimum));
                    let looks = self.ledger.pending(protocol, destination, 50);
                    if looks.is_empty() {
                        return;
                    }
                    looks.into_iter().for_each(|look| self.answer(look));
                }
                Err(Refused::QuotaExceeded { .. } | Refused::SharedQuotaExceeded { .. }) => {
                    assert!(left < u64::from(request.minimum));
                    return;
                }
                Err(Refused::NoAddress { .. }) => {
                    assert_eq!(before.capacity, 0);
                    return;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// Is what was chosen what the spread, and the least shared ports, are to be? The naive ledger does not know of
    /// it yet.
    fn check_choice(&self, request: &Request, pool: usize, families: &[bool], lease: &Lease) {
        let pool = &self.pools[pool];
        let of = |ip: IpAddr, port: u16| key(request.protocol, ip, port, request.destination);
        let fits = |ip: &&IpAddr| {
            request.destination.is_none_or(|to| to.is_ipv4() == ip.is_ipv4())
                && families.contains(&ip.is_ipv4())
        };
        let addresses: Vec<IpAddr> = pool.addresses.iter().filter(fits).copied().collect();
        let mut free: BTreeMap<IpAddr, Vec<u16>> =
            addresses.iter().map(|ip| (*ip, self.naive.free(pool, of(*ip, 0)))).collect();
        let mut used: BTreeMap<IpAddr, usize> =
            addresses.iter().map(|ip| (*ip, self.naive.used(of(*ip, 0)))).collect();
        let mut taken: Vec<Key> = Vec::new();
        let mut last: Option<(IpAddr, u16)> = None;
        for range in &lease.ranges {
            let (ip, word) = (range.address, range.ports.first() / 64);
            assert!(range.ports.last() / 64 == word, "a piece is of one word");
            // A word without a run that is long enough gives several.
            let same_piece = request.kind == Kind::Blocks && last == Some((ip, word));
            let others = || addresses.iter().filter(|other| **other != ip && !free[*other].is_empty());
            match pool.spread {
                _ if same_piece => {}
                Spread::LeastUsed => assert!(others().all(|other| used[&ip] <= used[other])),
                Spread::RoundRobin => {
                    assert!(last.is_none_or(|(last, _)| last != ip || others().count() == 0))
                }
                Spread::Sticky => assert!(last.is_none_or(|(last, _)| last == ip || free[&last].is_empty())),
            }
            last = Some((ip, word));
            *used.get_mut(&ip).unwrap() += range.ports.iter().count();
            for port in range.ports.iter() {
                let here = free.get_mut(&ip).unwrap();
                let at = here.iter().position(|free| *free == port).expect("a free port of the zone");
                here.remove(at);
                taken.push(of(ip, port));
            }
        }
        if request.kind != Kind::Blocks {
            let shares = |key: Key| self.naive.of_source(key).count();
            let least = |(ip, ports): (&IpAddr, &Vec<u16>)| {
                Some((*ip, ports.iter().map(|port| shares(of(*ip, *port))).min()?))
            };
            let least: BTreeMap<IpAddr, usize> = free.iter().filter_map(least).collect();
            for key in taken {
                let left = least.get(&key.1);
                assert!(left.is_none_or(|least| shares(key) <= *least), "the least shared come first");
            }
        }
    }

    fn replace(&mut self, lease: usize, port: usize) {
        let held = self.naive.leases.iter().filter(|(_, known)| known.held && !known.keys.is_empty());
        let Some(id) = pick(held.map(|(id, _)| *id), lease) else { return };
        let known = self.naive.leases[&id].clone();
        let key = known.keys[port % known.keys.len()];
        let pool = self.pools.iter().position(|pool| pool.name == known.pool).unwrap();
        let callers = self.callers(pool, &known.owner);
        let pool = &self.pools[pool];
        let request = Request {
            session: known.session,
            protocol: known.protocol,
            destination: known.destination,
            kind: Kind::Pairs,
            ports: 1,
            minimum: 1,
        };
        let (_, reach) = self.naive.within_reach(pool, &callers, &known.owner, &request);
        let busy = Tuple { destination: known.destination, ..tuple(key) };
        let instead = self.ledger.replace(id, &busy, &pool.offer(), self.now);
        assert_eq!(instead.is_some(), reach > 0);
    }

    fn restart(&mut self, snapshot: bool) {
        self.learn();
        let from_snapshot = Ledger::restore(self.ledger.snapshot(), self.now);
        let mut from_events = Ledger::restore(self.journal.iter().cloned(), self.now);
        for restored in [&from_snapshot, &from_events] {
            assert_eq!(restored.contradictions(), 0);
            let held = |ledger: &Ledger| {
                let rows = ledger.rows(None, LeaseId(0), usize::MAX);
                rows.into_iter().filter(|row| row.held).collect::<Vec<_>>()
            };
            assert!(held(restored) == held(&self.ledger), "what is held stays held");
        }
        // Of ended leases the ranges are sorted, and not for others to see.
        let rows = |ledger: &Ledger| {
            let mut rows = ledger.rows(None, LeaseId(0), usize::MAX);
            rows.iter_mut().for_each(|row| row.ranges.sort_unstable());
            rows
        };
        let both = rows(&from_snapshot);
        assert!(both == rows(&from_events), "a snapshot says what all events say");
        assert!(both.iter().all(|row| row.held || row.cooling == row.ports));
        assert!(from_events.due(self.now, 0).is_empty());
        self.ledger = if snapshot { from_snapshot } else { from_events };
        self.journal = self.ledger.snapshot().collect();
        // What of it has nothing left was freed.
        self.naive.restart();
        self.learn();
        self.asked = [None, None];
    }

    /// Of the figures one of 16, by turns, or all of them.
    fn check(&mut self, turn: Option<usize>) {
        let mut turns = 0..;
        for pool in &self.pools {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for to in 0..4 {
                    let to = destination(to);
                    if turn.is_some_and(|turn| turns.next() != Some(turn % 16)) {
                        continue;
                    }
                    let expected = self.naive.figures(pool, protocol, to);
                    assert_eq!(
                        self.ledger.usage_of(&pool.offer(), protocol, to),
                        expected,
                        "{protocol} {to:?}"
                    );
                }
            }
            for owner in self.naive.sessions.values() {
                assert_eq!(
                    self.ledger.held(&pool.name, Some(owner)),
                    self.naive.held(&pool.name, Some(owner))
                );
            }
            assert_eq!(self.ledger.held(&pool.name, None), self.naive.held(&pool.name, None));
        }
        let (mut usage, mut cooling) =
            (BTreeMap::<IpAddr, AddressUsage>::new(), BTreeMap::<LeaseId, u32>::new());
        for ((_, address, ..), (lease, cools)) in &self.naive.claims {
            let of = usage.entry(*address).or_default();
            if *cools {
                of.cooling += 1;
                *cooling.entry(*lease).or_default() += 1;
            } else {
                of.leased += 1;
            }
        }
        for address in ADDRESSES {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(self.ledger.usage(address), usage.remove(&address).unwrap_or_default());
            assert_eq!(self.ledger.is_draining(address), self.naive.draining.contains(&address));
        }
        let rows = self.ledger.rows(None, LeaseId(0), usize::MAX);
        assert!(rows.iter().map(|row| row.id).eq(self.naive.leases.keys().copied()));
        for row in rows {
            assert_eq!(row.cooling, cooling.remove(&row.id).unwrap_or_default(), "{}", row.id);
        }
    }

    /// Everything ends, and everything comes back.
    fn finish(&mut self) {
        for session in self.ledger.sessions().collect::<Vec<_>>() {
            self.ledger.end_session(session, self.now);
        }
        self.learn();
        for _ in 0..3000 {
            self.look(1000);
            self.now = match self.ledger.next_due() {
                Some(due) => self.now.max(due),
                None => break,
            };
        }
        assert!(self.ledger.is_empty(), "{:?}", self.ledger.rows(None, LeaseId(0), 10));
        self.check(None);
        assert_eq!(self.ledger.books.destinations.iter().count(), 0);
        assert_eq!(self.ledger.owners.iter().count(), 0);
        assert!(!self.ledger.holds_open() && self.ledger.schedule.asked.is_empty());
        for pool in [0, 1] {
            self.ledger.retire(&self.pools[pool].name.clone());
        }
        let kept = self.ledger.books.addresses.iter().filter(|(.., address)| !address.draining).count();
        assert_eq!(kept, 0, "addresses are forgotten");
    }
}

fn tuple((protocol, ip, port, destination): Key) -> Tuple {
    Tuple { protocol, source: SocketAddr::new(ip, port), destination }
}
