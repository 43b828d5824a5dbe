//! How far a request may reach: what is kept for others, what others wait for, and what becomes free for those who
//! wait.

use super::Offer;
use super::books::Claim;
use super::ledger::Ledger;
use super::shares::{Ground, Shares};
use super::spread::Candidate;
use crate::model::{PoolName, Protocol};
use std::collections::HashSet;
use std::net::SocketAddr;

/// Which ports a request may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// All that are free and not kept for others.
    #[default]
    Free,
    /// Only those that are kept for its own minimum: others wait for the rest.
    Guaranteed,
}

/// On which terms a request is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Which ports it may have.
    pub reach: Reach,
    /// Among how many callers that wait what there is has to be divided, this one included.
    pub among: u32,
    /// It is for later: where little is left, it gets little of that.
    pub ahead: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self { reach: Reach::Free, among: 1, ahead: false }
    }
}

impl Terms {
    /// How many of so many ports within reach a request gets: never fewer than its minimum.
    pub(super) fn grant(&self, ports: u32, minimum: u32, within_reach: u32) -> u32 {
        let mut most = ports.min(within_reach);
        if self.among > 1 {
            most = most.min(within_reach / self.among);
        }
        if self.ahead {
            most = most.min(within_reach / AHEAD);
        }
        most.max(minimum)
    }
}

/// What is leased ahead is no more than this part of what is left.
const AHEAD: u32 = 8;

/// What became easier to get.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Eased {
    /// A port of this protocol for this destination (`None`: for any) is free.
    Ports(Protocol, Option<SocketAddr>),
    /// Less of a pool is held, or kept.
    Pool(PoolName),
}

impl Eased {
    /// Whether many may wait for it who wait for different things: trying them all takes time.
    #[must_use]
    pub fn is_broad(&self) -> bool {
        matches!(self, Self::Pool(_) | Self::Ports(Protocol::Tcp, None))
    }
}

/// More is not told one by one.
const MOST_EASED: usize = 4096;

impl Ledger {
    /// From now on it is noted what becomes free, or no more.
    pub fn note_eased(&mut self, note: bool) {
        match (&self.eased, note) {
            (None, true) => self.eased = Some(HashSet::new()),
            (Some(_), false) => self.eased = None,
            _ => {}
        }
    }

    /// What became easier to get since the last call.
    pub fn take_eased(&mut self) -> HashSet<Eased> {
        self.eased.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether anything did.
    #[must_use]
    pub fn has_eased(&self) -> bool {
        self.eased.as_ref().is_some_and(|eased| !eased.is_empty())
    }

    pub(super) fn eases(&mut self, claim: Claim) {
        let Some(eased) = self.eased.as_mut().filter(|eased| eased.len() < MOST_EASED) else { return };
        let destination = claim.destination.and_then(|id| self.books.destinations.key(id)).copied();
        eased.insert(Eased::Ports(claim.protocol, destination));
    }

    pub(super) fn eases_pool(&mut self, pool: u32) {
        if let (Some(eased), Some(name)) = (&mut self.eased, self.pools.key(pool)) {
            eased.insert(Eased::Pool(name.clone()));
        }
    }

    /// How many callers a pool keeps a minimum for; `None`: it keeps none.
    #[must_use]
    pub fn callers(&self, pool: &PoolName) -> Option<u64> {
        let shares = self.pools.find(pool).and_then(|id| self.pools.get(id)?.shares.as_ref());
        shares.map(|shares| shares.callers())
    }

    /// Sees to it that the shares of a pool are by its guarantee, and that an owner counts.
    pub(super) fn count_in(&mut self, pool: u32, owner: u32, offer: &Offer<'_>) {
        let Some(entry) = self.pools.get_mut(pool) else { return };
        let Some(guarantee) = offer.guarantee else {
            entry.shares = None;
            return;
        };
        if !entry.shares.as_ref().is_some_and(|shares| shares.are_by(guarantee)) {
            entry.shares = Some(Box::new(Shares::new(guarantee)));
            self.divide_anew(pool);
        }
        let shares = self.pools.get_mut(pool).and_then(|entry| entry.shares.as_mut());
        if let (Some(shares), Some(key)) = (shares, self.owners.key(owner)) {
            shares.ask(owner, key);
        }
    }

    /// Counts what everybody has of a pool: what is held, and what cools. Ports that an ended lease had and that are
    /// another one's now, be it one of another pool, are not among those that cool of it.
    fn divide_anew(&mut self, pool: u32) {
        let Some(shares) = self.pools.get_mut(pool).and_then(|entry| entry.shares.as_mut()) else { return };
        for record in self.leases.values().filter(|record| record.pool == pool) {
            if let Some(owner) = self.owners.key(record.owner) {
                shares.ask(record.owner, owner);
            }
            let mut ports = record.cooling;
            for range in record.ranges.iter().filter(|_| record.held) {
                ports.more(self.books.is_ipv4(range.address), range.ports());
            }
            for (v4, ports) in ports.of_each() {
                shares.add(Ground { claim: record.claim(), v4 }, record.owner, ports);
            }
        }
    }

    /// An owner has more or fewer ports of an address of a pool than before, be they held or cooling.
    pub(super) fn share(&mut self, pool: u32, claim: Claim, owner: u32, address: u32, share: Share) {
        let Some(shares) = self.pools.get_mut(pool).and_then(|entry| entry.shares.as_mut()) else { return };
        let ground = Ground { claim, v4: self.books.is_ipv4(address) };
        match share {
            Share::More(0) | Share::Less(0) => {}
            Share::More(ports) => shares.add(ground, owner, ports),
            Share::Less(ports) => shares.take(ground, owner, ports),
        }
    }

    /// An owner is forgotten: nothing is kept for it any more.
    pub(super) fn count_out(&mut self, owner: u32) {
        let with_shares =
            |(id, _, pool): (u32, &PoolName, &super::view::Pool)| pool.shares.is_some().then_some(id);
        let pools: Vec<u32> = self.pools.iter().filter_map(with_shares).collect();
        for pool in pools {
            let shares = self.pools.get_mut(pool).and_then(|entry| entry.shares.as_mut());
            if shares.is_some_and(|shares| shares.forget(owner)) {
                self.eases_pool(pool);
            }
        }
    }

    /// How many ports an owner may have of some candidates. Those of a family of which it may not have as many as will
    /// do are taken out, where there are others.
    pub(super) fn within_reach(
        &self,
        (pool, owner, claim): (u32, u32, Claim),
        minimum: u32,
        reach: Reach,
        candidates: &mut Vec<Candidate>,
    ) -> u64 {
        let entry = self.pools.get(pool);
        let free = |of: &[Candidate]| of.iter().map(|c| u64::from(c.room.free)).sum::<u64>();
        let Some(shares) = entry.and_then(|entry| entry.shares.as_ref()) else {
            return if reach == Reach::Free { free(candidates) } else { 0 };
        };
        let ports = entry.and_then(|entry| entry.view.as_ref()).map_or(0, |view| view.ports());
        let of_family = |v4: bool| {
            let of: Vec<Candidate> = candidates.iter().filter(|c| c.v4 == v4).copied().collect();
            if of.is_empty() {
                return None;
            }
            let (free, capacity) = (free(&of), of.len() as u64 * u64::from(ports));
            let ground = Ground { claim, v4 };
            Some(match (reach, claim) {
                (Reach::Free, Claim { protocol: Protocol::Tcp, destination: None }) => {
                    let alone = of.iter().filter_map(|c| self.books.side(c.address, claim.protocol));
                    let alone: u64 = alone.map(|side| u64::from(side.alone.claimed())).sum();
                    free.min(shares.alone(v4, capacity).saturating_sub(alone))
                }
                (Reach::Guaranteed, Claim { protocol: Protocol::Tcp, destination: None }) => 0,
                (Reach::Guaranteed, _) => free.min(shares.left(ground, owner, capacity)),
                // Its own minimum is before what is kept for a newcomer, as it is one at first.
                (Reach::Free, _) => {
                    let own = free.min(shares.left(ground, owner, capacity));
                    free.saturating_sub(shares.kept(ground, owner, capacity)).max(own)
                }
            })
        };
        let reaches = [of_family(true), of_family(false)];
        let enough = |reach: &u64| *reach >= u64::from(minimum);
        let [four, six] = reaches;
        if reaches.iter().flatten().any(enough) {
            candidates.retain(|candidate| {
                let reach = if candidate.v4 { four } else { six };
                reach.as_ref().is_some_and(enough)
            });
            return reaches.into_iter().flatten().filter(enough).min().unwrap_or_default();
        }
        reaches.into_iter().flatten().max().unwrap_or_default()
    }
}

/// A change of what somebody has.
#[derive(Debug, Clone, Copy)]
pub(super) enum Share {
    More(u32),
    Less(u32),
}
