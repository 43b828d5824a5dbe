//! What is kept for whom: the minimum that each caller of a pool is guaranteed, for each destination by itself.
//!
//! A caller counts from the moment at which it asks for something of the pool, as long as it has a session or a lease;
//! and those whom the pool's grants name count always. What a caller has not of its minimum is kept free for it; one
//! share more is kept for a newcomer, where there may be one. Ports that cool after a caller count as its own: so what
//! comes free of them is kept for it again. Where there are not so many ports, each caller has an equal share.
//!
//! What always holds: for each destination, the ports that are kept for others are not given to anybody, so that
//! *who has less than its minimum finds it*, unless there were fewer free ports than that when the caller came.
//!
//! TCP leases for any destination have no minimum: they take ports out of the reach of all destinations, and get what
//! no minimum of any destination needs.

use super::books::Claim;
use crate::model::{Owner, Protocol};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// What a pool guarantees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarantee {
    /// So many ports for each caller.
    pub ports: u32,
    /// Those who count before they have asked.
    pub named: BTreeSet<Owner>,
    /// Whether there may be others.
    pub others: bool,
}

/// Ports for which callers compete: those of a claim, of one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ground {
    pub(super) claim: Claim,
    pub(super) v4: bool,
}

/// How a ground is divided.
#[derive(Debug, Clone, Default)]
struct Division {
    /// Held and cooling ports by owner; none without any.
    of: HashMap<u32, u32>,
    /// All of these.
    used: u64,
    /// Of these, what is beyond an owner's minimum.
    excess: u64,
}

/// The callers of a pool, and what they have.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    guarantee: Arc<Guarantee>,
    /// Owners that have asked, by their numbers.
    asked: HashMap<u32, Owner>,
    /// The same as callers, with how many owners each is; and those that are named, with 0.
    callers: HashMap<Owner, u32>,
    grounds: HashMap<Ground, Division>,
    /// How many TCP destinations of a family have so much that is beyond minimums.
    excess: BTreeMap<(bool, u64), u32>,
}

impl Ground {
    /// Whether minimums are kept there.
    fn is_divided(self) -> bool {
        self.claim.protocol == Protocol::Udp || self.claim.destination.is_some()
    }
}

impl Shares {
    pub(super) fn new(guarantee: &Arc<Guarantee>) -> Self {
        Self {
            guarantee: Arc::clone(guarantee),
            asked: HashMap::new(),
            callers: guarantee.named.iter().map(|owner| (owner.plain(), 0)).collect(),
            grounds: HashMap::new(),
            excess: BTreeMap::new(),
        }
    }

    /// Whether they are by this guarantee.
    pub(super) fn are_by(&self, guarantee: &Arc<Guarantee>) -> bool {
        Arc::ptr_eq(&self.guarantee, guarantee) || self.guarantee == *guarantee
    }

    /// An owner counts from now on.
    pub(super) fn ask(&mut self, id: u32, owner: &Owner) {
        if !self.asked.contains_key(&id) {
            let plain = owner.plain();
            *self.callers.entry(plain.clone()).or_default() += 1;
            self.asked.insert(id, plain);
        }
    }

    /// An owner counts no more; whether it did.
    pub(super) fn forget(&mut self, id: u32) -> bool {
        let Some(owner) = self.asked.remove(&id) else { return false };
        if let Some(count) = self.callers.get_mut(&owner) {
            *count = count.saturating_sub(1);
            if *count == 0 && !self.guarantee.named.iter().any(|named| named.plain() == owner) {
                self.callers.remove(&owner);
            }
        }
        true
    }

    /// For how many a minimum is kept: callers, and a newcomer where there may be one.
    pub(super) fn callers(&self) -> u64 {
        self.callers.len() as u64 + u64::from(self.guarantee.others)
    }

    /// An owner has so many ports more.
    pub(super) fn add(&mut self, ground: Ground, owner: u32, ports: u32) {
        self.change(ground, owner, |had| had.saturating_add(ports));
    }

    /// An owner has so many ports less.
    pub(super) fn take(&mut self, ground: Ground, owner: u32, ports: u32) {
        self.change(ground, owner, |had| had.saturating_sub(ports));
    }

    fn change(&mut self, ground: Ground, owner: u32, change: impl FnOnce(u32) -> u32) {
        if !ground.is_divided() {
            return;
        }
        let minimum = self.guarantee.ports;
        let division = self.grounds.entry(ground).or_default();
        let before = division.excess;
        let had = division.of.get(&owner).copied().unwrap_or_default();
        let has = change(had);
        let beyond = |ports: u32| u64::from(ports.saturating_sub(minimum));
        division.used = division.used + u64::from(has) - u64::from(had);
        division.excess = division.excess + beyond(has) - beyond(had);
        if has == 0 {
            division.of.remove(&owner);
        } else {
            division.of.insert(owner, has);
        }
        let after = division.excess;
        if division.of.is_empty() {
            self.grounds.remove(&ground);
        }
        if ground.claim.protocol == Protocol::Tcp && before != after {
            self.count(ground.v4, before, after);
        }
    }

    fn count(&mut self, v4: bool, before: u64, after: u64) {
        if let Some(count) = self.excess.get_mut(&(v4, before)) {
            *count -= 1;
            if *count == 0 {
                self.excess.remove(&(v4, before));
            }
        }
        if after > 0 {
            *self.excess.entry((v4, after)).or_default() += 1;
        }
    }

    /// What each caller is guaranteed of so many ports: its minimum, or an equal share.
    pub(super) fn each(&self, capacity: u64) -> u64 {
        let share = capacity.checked_div(self.callers()).unwrap_or(capacity);
        share.min(u64::from(self.guarantee.ports))
    }

    /// How many ports of a ground with this capacity are kept for others than an owner.
    pub(super) fn kept(&self, ground: Ground, owner: u32, capacity: u64) -> u64 {
        let each = self.each(capacity);
        let all = self.callers().saturating_mul(each);
        all.saturating_sub(self.met(ground, each)).saturating_sub(self.left(ground, owner, capacity))
    }

    /// How many ports an owner is still guaranteed of a ground with this capacity.
    pub(super) fn left(&self, ground: Ground, owner: u32, capacity: u64) -> u64 {
        let has = self.grounds.get(&ground).and_then(|division| division.of.get(&owner)).copied();
        self.each(capacity).saturating_sub(u64::from(has.unwrap_or_default()))
    }

    /// What all owners have, none of it beyond its guarantee.
    fn met(&self, ground: Ground, each: u64) -> u64 {
        let Some(division) = self.grounds.get(&ground) else { return 0 };
        if each == u64::from(self.guarantee.ports) {
            return division.used - division.excess;
        }
        division.of.values().map(|ports| u64::from(*ports).min(each)).sum()
    }

    /// How many of so many ports may be claimed alone, all such claims together, without touching the minimums of any
    /// destination.
    pub(super) fn alone(&self, v4: bool, capacity: u64) -> u64 {
        let most = self.excess.range((v4, 0)..=(v4, u64::MAX)).next_back().map_or(0, |((_, most), _)| *most);
        let kept = self.callers().saturating_mul(u64::from(self.guarantee.ports));
        capacity.saturating_sub(most).saturating_sub(kept)
    }
}
