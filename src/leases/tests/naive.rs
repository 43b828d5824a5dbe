//! The ledger as anybody would write it first: plain sets of tuples, searched from end to end.
//!
//! It learns from events what was leased, and from answers what is free; and says whether it may be.

use super::super::*;
use super::Pool;
use crate::model::Seen;
use std::collections::{BTreeMap, BTreeSet};

/// A claim: a source, and for whom; `None`: alone.
pub(super) type Key = (Protocol, IpAddr, u16, Option<SocketAddr>);

#[derive(Debug, Clone)]
pub(super) struct Naive {
    pub(super) sessions: BTreeMap<SessionId, Owner>,
    pub(super) leases: BTreeMap<LeaseId, Known>,
    /// What is claimed, by which lease; true: it cools.
    pub(super) claims: BTreeMap<Key, (LeaseId, bool)>,
    pub(super) draining: BTreeSet<IpAddr>,
}

#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) session: SessionId,
    pub(super) owner: Owner,
    pub(super) pool: PoolName,
    pub(super) protocol: Protocol,
    pub(super) destination: Option<SocketAddr>,
    pub(super) held: bool,
    pub(super) keys: Vec<Key>,
}

pub(super) fn key(protocol: Protocol, ip: IpAddr, port: u16, destination: Option<SocketAddr>) -> Key {
    (protocol, ip, port, destination.filter(|_| protocol == Protocol::Tcp))
}

fn keys(protocol: Protocol, destination: Option<SocketAddr>, ranges: &[SourceRange]) -> Vec<Key> {
    let of = |range: &SourceRange| {
        let ip = range.address;
        range.ports.iter().map(move |port| key(protocol, ip, port, destination)).collect::<Vec<_>>()
    };
    ranges.iter().flat_map(of).collect()
}

impl Naive {
    pub(super) fn new() -> Self {
        Self {
            sessions: BTreeMap::new(),
            leases: BTreeMap::new(),
            claims: BTreeMap::new(),
            draining: BTreeSet::new(),
        }
    }

    /// Claims of a source, whoever they are for.
    pub(super) fn of_source(&self, key: Key) -> impl Iterator<Item = (&Key, &(LeaseId, bool))> {
        let (protocol, ip, port, _) = key;
        let last = (protocol, ip, port.wrapping_add(1), None);
        self.claims.range((protocol, ip, port, None)..).take_while(move |(found, _)| **found < last)
    }

    /// Claims of an address, whoever they are for.
    fn of_address(&self, (protocol, ip, ..): Key) -> impl Iterator<Item = (&Key, &(LeaseId, bool))> {
        let claims = self.claims.range((protocol, ip, 0, None)..);
        claims.take_while(move |(found, _)| (found.0, found.1) == (protocol, ip))
    }

    /// The claims in the way of another one.
    pub(super) fn in_the_way(&self, key: Key) -> Vec<(Key, LeaseId, bool)> {
        let blocks = |found: &Key| key.3.is_none() || found.3.is_none() || found.3 == key.3;
        let found = self.of_source(key).filter(|(found, _)| blocks(found));
        found.map(|(found, (lease, cools))| (*found, *lease, *cools)).collect()
    }

    /// The ports of an address at which something is in the way of a claim; true: it all cools.
    fn taken(&self, of: Key) -> BTreeMap<u16, bool> {
        let mut taken = BTreeMap::new();
        for (found, (_, cools)) in self.of_address(of) {
            if of.3.is_none() || found.3.is_none() || found.3 == of.3 {
                *taken.entry(found.2).or_insert(true) &= cools;
            }
        }
        taken
    }

    fn claim(&mut self, key: Key, lease: LeaseId) {
        let before = self.in_the_way(key);
        assert!(before.is_empty(), "{key:?} of {lease} was given out twice: {before:?}");
        self.claims.insert(key, (lease, false));
    }

    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Numbered { .. } | Event::Warned { .. } => {}
            Event::Held { .. } => panic!("only a snapshot has it"),
            Event::SessionOpened { id, owner } => assert!(self.sessions.insert(*id, owner.clone()).is_none()),
            Event::SessionEnded { id } => {
                assert!(self.sessions.remove(id).is_some());
                let theirs = self.leases.iter().filter(|(_, known)| known.session == *id && known.held);
                let theirs: Vec<LeaseId> = theirs.map(|(id, _)| *id).collect();
                theirs.into_iter().for_each(|lease| self.end(lease));
            }
            Event::Leased { id, session, pool, protocol, destination, ranges, .. } => {
                let keys = keys(*protocol, *destination, ranges);
                let owner = self.sessions[session].clone();
                for key in &keys {
                    self.claim(*key, *id);
                }
                let (session, pool, protocol) = (*session, pool.clone(), *protocol);
                let destination = *destination;
                let known = Known { session, owner, pool, protocol, destination, held: true, keys };
                assert!(self.leases.insert(*id, known).is_none(), "{id} was used before");
            }
            Event::Replaced { id, busy, with } => self.replaced(*id, *busy, *with),
            Event::Released { id } => self.end(*id),
            Event::Freed { id } => {
                let known = self.leases.remove(id).unwrap();
                assert!(!known.held);
                assert!(self.claims.values().all(|(lease, _)| lease != id), "{id} cools still");
            }
            Event::Drained { address } => assert!(self.draining.insert(*address)),
            Event::Undrained { address } => assert!(self.draining.remove(address)),
        }
    }

    fn replaced(&mut self, id: LeaseId, busy: SocketAddr, with: Option<SocketAddr>) {
        let known = self.leases.get(&id).unwrap();
        let of = |at: SocketAddr| key(known.protocol, at.ip(), at.port(), known.destination);
        let (busy, with) = (of(busy), with.map(of));
        if let Some(with) = with {
            self.claim(with, id);
        }
        self.claims.remove(&busy).unwrap();
        let known = self.leases.get_mut(&id).unwrap();
        known.keys.retain(|key| *key != busy);
        known.keys.extend(with);
    }

    fn end(&mut self, id: LeaseId) {
        let known = self.leases.get_mut(&id).unwrap();
        assert!(std::mem::replace(&mut known.held, false), "{id} ended before");
        for key in &known.keys {
            let claim = self.claims.get_mut(key).unwrap();
            assert_eq!(*claim, (id, false));
            claim.1 = true;
        }
    }

    /// The kernel was asked, because of a lease; `answers` are by port.
    pub(super) fn looked(&mut self, look: &Look, lease: LeaseId, answers: &BTreeMap<u16, Seen>) {
        let keys: Vec<Key> = match look {
            Look::Exact(tuple) => {
                vec![key(tuple.protocol, tuple.source.ip(), tuple.source.port(), tuple.destination)]
            }
            Look::Range { protocol, source } => keys(*protocol, None, &[*source]),
        };
        let cools = |key: &Key| self.claims.get(key).is_some_and(|(_, cools)| *cools);
        if keys.iter().all(cools) {
            for key in keys {
                if answers.get(&key.2).is_none_or(|seen| *seen == Seen::Free) {
                    self.claims.remove(&key);
                }
            }
            return;
        }
        // A second look: what nobody has and is used cools.
        for key in keys {
            let used = answers.get(&key.2).is_some_and(|seen| *seen != Seen::Free);
            if used && self.in_the_way(key).is_empty() {
                self.claims.insert(key, (lease, true));
            }
        }
    }

    /// What had ended and was not freed cools again, but for what was leased since.
    pub(super) fn restart(&mut self) {
        self.claims.retain(|_, (_, cools)| !*cools);
        let ended: Vec<(LeaseId, Vec<Key>)> = self
            .leases
            .iter()
            .rev()
            .filter(|(_, known)| !known.held)
            .map(|(id, known)| (*id, known.keys.clone()))
            .collect();
        for (id, keys) in ended {
            let (free, _): (Vec<Key>, Vec<Key>) =
                keys.into_iter().partition(|key| self.in_the_way(*key).is_empty());
            self.claims.extend(free.iter().map(|key| (*key, (id, true))));
            self.leases.get_mut(&id).unwrap().keys = free;
        }
    }

    pub(super) fn figures(
        &self,
        pool: &Pool,
        protocol: Protocol,
        destination: Option<SocketAddr>,
    ) -> Figures {
        let of_family = |ip: &&IpAddr| destination.is_none_or(|to| to.is_ipv4() == ip.is_ipv4());
        let mut sum = Figures::default();
        for ip in pool.addresses.iter().filter(of_family) {
            let taken = self.taken(key(protocol, *ip, 0, destination));
            let taken = || taken.iter().filter(|(port, _)| pool.zone.contains(**port));
            sum.capacity += pool.zone.len() as u64;
            sum.cooling += taken().filter(|(_, cools)| **cools).count() as u64;
            sum.used += taken().filter(|(_, cools)| !**cools).count() as u64;
        }
        sum.free = sum.capacity - sum.cooling - sum.used;
        sum
    }

    /// Whether somebody has a session or a lease, be it one that cools.
    pub(super) fn knows(&self, owner: &Owner) -> bool {
        self.sessions.values().any(|other| other == owner)
            || self.leases.values().any(|known| known.owner == *owner)
    }

    /// Ports held of a pool, by one owner or all.
    pub(super) fn held(&self, pool: &PoolName, owner: Option<&Owner>) -> u64 {
        let of = |known: &&Known| {
            known.held && known.pool == *pool && owner.is_none_or(|owner| known.owner == *owner)
        };
        self.leases.values().filter(of).map(|known| known.keys.len() as u64).sum()
    }

    pub(super) fn quota_left(&self, pool: &Pool, owner: &Owner) -> u64 {
        let four = pool.addresses.iter().filter(|address| address.is_ipv4()).count();
        let fewer = match (four, pool.addresses.len() - four) {
            (0, of_one_family) | (of_one_family, 0) => of_one_family,
            (four, six) => four.min(six),
        };
        let capacity = (fewer * pool.zone.len()) as u64;
        let of_owner = self.held(&pool.name, Some(owner));
        match pool.quota {
            Quota::None => u64::MAX,
            Quota::PortsPerCaller(most) => u64::from(most).saturating_sub(of_owner),
            Quota::Quarter => {
                let shared = (capacity / 4 * 3).saturating_sub(self.held(&pool.name, None));
                (capacity / 4).saturating_sub(of_owner).min(shared)
            }
        }
    }

    /// Free ports of an address for a destination.
    pub(super) fn free(&self, pool: &Pool, of: Key) -> Vec<u16> {
        let taken = self.taken(of);
        pool.zone.iter().filter(|port| !taken.contains_key(port)).collect()
    }

    /// Ports that are claimed of an address for just this destination.
    pub(super) fn used(&self, of: Key) -> usize {
        self.of_address(of).filter(|(found, _)| found.3 == of.3).count()
    }

    /// Ports of a pool that an owner has of one family for one claim, held or cooling.
    pub(super) fn has(&self, pool: &Pool, owner: &Owner, of: Key) -> u64 {
        let mine = |(key, (lease, _)): &(&Key, &(LeaseId, bool))| {
            (key.0, key.3) == (of.0, of.3)
                && key.1.is_ipv4() == of.1.is_ipv4()
                && self
                    .leases
                    .get(lease)
                    .is_some_and(|known| known.pool == pool.name && known.owner == *owner)
        };
        self.claims.iter().filter(mine).count() as u64
    }

    /// How much of each address family a request may have, by the book; families of which it may not have its minimum
    /// are left out, if not all are. Those are the families, and so much it may have.
    pub(super) fn within_reach(
        &self,
        pool: &Pool,
        callers: &BTreeSet<Owner>,
        owner: &Owner,
        request: &Request,
    ) -> (Vec<bool>, u64) {
        let mut of: Vec<(bool, u64)> = Vec::new();
        for v4 in [true, false] {
            let addresses: Vec<IpAddr> =
                pool.addresses.iter().copied().filter(|ip| ip.is_ipv4() == v4).collect();
            if request.destination.is_some_and(|to| to.is_ipv4() != v4) || addresses.is_empty() {
                continue;
            }
            let part = Pool { addresses: addresses.clone(), zone: pool.zone.clone(), ..Pool::new(&[], "") };
            let figures = self.figures(&part, request.protocol, request.destination);
            let Some(guarantee) = &pool.guarantee else {
                of.push((v4, figures.free));
                continue;
            };
            let ground = key(request.protocol, addresses[0], 0, request.destination);
            let minimum = u64::from(guarantee.ports);
            let mut all: BTreeSet<Owner> = callers.iter().map(Owner::plain).collect();
            all.extend(guarantee.named.iter().map(Owner::plain));
            let count = all.len() as u64 + u64::from(guarantee.others);
            let each = minimum.min(figures.capacity / count);
            let kept = if (request.protocol, request.destination) == (Protocol::Tcp, None) {
                let alone =
                    |key: &&Key| key.0 == Protocol::Tcp && key.3.is_none() && addresses.contains(&key.1);
                let alone = self.claims.keys().filter(alone).count() as u64;
                let destinations: BTreeSet<SocketAddr> = self.claims.keys().filter_map(|key| key.3).collect();
                let beyond = |to: SocketAddr| {
                    let ground = key(Protocol::Tcp, addresses[0], 0, Some(to));
                    let beyond = |owner| self.has(pool, owner, ground).saturating_sub(minimum);
                    callers.iter().map(beyond).sum::<u64>()
                };
                let most = destinations.into_iter().map(beyond).max().unwrap_or_default();
                let left = figures.capacity.saturating_sub(most).saturating_sub(count * minimum);
                figures.free.saturating_sub(left.saturating_sub(alone))
            } else {
                let lacks = |other: &Owner| each.saturating_sub(self.has(pool, other, ground));
                let others = all.iter().filter(|other| *other != owner).map(lacks).sum::<u64>();
                let kept = others + if guarantee.others { each } else { 0 };
                kept.min(figures.free.saturating_sub(lacks(owner)))
            };
            of.push((v4, figures.free.saturating_sub(kept)));
        }
        let enough: Vec<(bool, u64)> =
            of.iter().copied().filter(|(_, reach)| *reach >= u64::from(request.minimum)).collect();
        let most = of.iter().map(|(_, reach)| *reach).max().unwrap_or_default();
        match enough.iter().map(|(_, reach)| *reach).min() {
            Some(_) if pool.guarantee.is_none() => {
                (vec![true, false], of.iter().map(|(_, reach)| *reach).sum())
            }
            Some(reach) => (enough.into_iter().map(|(v4, _)| v4).collect(), reach),
            None if pool.guarantee.is_none() => (vec![true, false], of.iter().map(|(_, reach)| *reach).sum()),
            None => (Vec::new(), most),
        }
    }
}
