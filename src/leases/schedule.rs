//! What has to be looked at, and when.
//!
//! Every cooling port of an ended lease is in exactly one place: *pending* (its lease's ports are walked through for
//! the first time), *asked* (the kernel is being asked), in a *bucket* (its TIME_WAIT ends then, or an open socket is
//! looked at again), or *urgent* (its socket was said to be gone). Whole leases are pending, so that a million ended
//! ports cost no more than their lease until their turn comes.

use super::books::Claim;
use super::waits::{Tick, Waits};
use crate::model::{LeaseId, Protocol, SourceRange, Tuple};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// What to ask the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Look {
    /// What it has of a tuple with a destination.
    Exact(Tuple),
    /// What it has of ports, whatever they are connected with.
    Range {
        /// TCP or UDP.
        protocol: Protocol,
        /// Which ports.
        source: SourceRange,
    },
}

/// Not more is asked at a time.
pub(super) const MOST_ASKED: usize = 4096;
/// Second looks are kept for so many; the newest.
pub(super) const MOST_WATCHED: usize = 4096;

/// A port, in what way it is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Spot {
    pub(super) claim: Claim,
    pub(super) address: u32,
    pub(super) port: u16,
}

/// In a bucket: a port of a lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timed {
    pub(super) lease: LeaseId,
    pub(super) address: u32,
    pub(super) port: u16,
    /// An open socket is to be looked at again, unless that happened before.
    pub(super) open: bool,
}

/// A cooling port that has an open socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Open {
    pub(super) lease: LeaseId,
    pub(super) cookie: u64,
    /// How long it was waited last.
    pub(super) interval: Tick,
    /// Its bucket; `None`: urgent, or asked.
    pub(super) at: Option<Tick>,
}

/// What was asked, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) lease: LeaseId,
    pub(super) address: u32,
    pub(super) why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It cools, and was not looked at before.
    Ended,
    /// It cools still.
    Cooling,
    /// It was free when its lease ended: is it still?
    Watched,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Watched {
    pub(super) at: Tick,
    pub(super) lease: LeaseId,
    pub(super) address: u32,
    pub(super) look: Look,
}

/// How far the ports of an ended lease were walked through.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Walk {
    pub(super) range: usize,
    /// The first port of that range which was not asked for yet.
    pub(super) port: Option<u16>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Schedule {
    pending: BTreeMap<LeaseId, Walk>,
    pending_of: BTreeSet<(Claim, LeaseId)>,
    pub(super) asked: HashMap<Look, Asked>,
    pub(super) buckets: BTreeMap<Tick, Vec<Timed>>,
    pub(super) open: HashMap<Spot, Open>,
    pub(super) urgent: VecDeque<Spot>,
    pub(super) watched: VecDeque<Watched>,
    /// When ports leave TIME_WAIT that are claimed alone …
    pub(super) waits_alone: HashMap<Protocol, Waits>,
    /// … and of all ports.
    pub(super) waits_all: HashMap<Protocol, Waits>,
}

impl Look {
    /// The first and the last port that are asked for.
    pub(super) fn ports(&self) -> (u16, u16) {
        match self {
            Self::Exact(tuple) => (tuple.source.port(), tuple.source.port()),
            Self::Range { source, .. } => (source.ports.first(), source.ports.last()),
        }
    }
}

impl Schedule {
    pub(super) fn begin(&mut self, claim: Claim, lease: LeaseId) {
        self.pending.insert(lease, Walk::default());
        self.pending_of.insert((claim, lease));
    }

    /// The lease whose ports come next; with a claim only of those in its way.
    pub(super) fn next_pending(&self, claim: Option<Claim>) -> Option<(LeaseId, Walk)> {
        let lease = match claim {
            None => self.pending.first_key_value().map(|(lease, _)| *lease),
            Some(Claim { protocol, destination: None }) => {
                let all = Claim { protocol, destination: None };
                let first = self.pending_of.range((all, LeaseId(0))..).next();
                first.filter(|(found, _)| found.protocol == protocol).map(|(_, lease)| *lease)
            }
            Some(own) => {
                let alone = Claim { destination: None, ..own };
                [own, alone].into_iter().find_map(|claim| {
                    let mut of = self.pending_of.range((claim, LeaseId(0))..=(claim, LeaseId(u64::MAX)));
                    of.next().map(|(_, lease)| *lease)
                })
            }
        }?;
        Some((lease, self.pending.get(&lease).copied().unwrap_or_default()))
    }

    /// Where the walk through a lease's ports goes on; `None`: it is done.
    pub(super) fn walked(&mut self, claim: Claim, lease: LeaseId, walk: Option<Walk>) {
        match walk {
            Some(walk) => {
                self.pending.insert(lease, walk);
            }
            None => {
                self.pending.remove(&lease);
                self.pending_of.remove(&(claim, lease));
            }
        }
    }

    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty() || !self.urgent.is_empty()
    }

    pub(super) fn put(&mut self, at: Tick, timed: Timed) {
        self.buckets.entry(at).or_default().push(timed);
    }

    /// The next port of a bucket whose time has come.
    pub(super) fn pop_due(&mut self, now: Tick) -> Option<(Tick, Timed)> {
        loop {
            let mut bucket = self.buckets.first_entry().filter(|bucket| *bucket.key() <= now)?;
            let tick = *bucket.key();
            match bucket.get_mut().pop() {
                Some(timed) => return Some((tick, timed)),
                None => {
                    bucket.remove();
                }
            }
        }
    }

    /// The next port of that bucket, where it is the one that is wanted.
    pub(super) fn pop_beside(&mut self, at: Tick, wanted: impl FnOnce(&Timed) -> bool) -> Option<Timed> {
        self.buckets.get_mut(&at)?.pop_if(|timed| wanted(timed))
    }

    /// The earliest moment at which there is something to look at.
    pub(super) fn first(&self) -> Option<Tick> {
        let bucket = self.buckets.first_key_value().map(|(tick, _)| *tick);
        let watched = self.watched.front().map(|watched| watched.at);
        [bucket, watched].into_iter().flatten().min()
    }
}
