//! Sockets that are on their way out while their endpoint stays: surplus shards, and those that have a successor.
//!
//! Pure. A socket that is drained goes on listening as long as one of those lives who were handed it; it is theirs.
//! Then it is closed without losing what waits in it:
//! - where the kernel moves waiting connections to the other sockets of the group (`net.ipv4.tcp_migrate_req`), at
//!   once;
//! - else when nothing waits. So that nothing comes in between the look and the close, it is made *quiet* first: new
//!   clients are passed over (they try again a second later, and find the others), those who are about to be accepted
//!   still are. What waits is handed on to the next holder;
//! - whatever waits, when the next holder is one that cannot take it: nobody else ever would;
//! - at once where the endpoint refuses clients anyway: then what waits is to be reset.

use super::{HolderId, SocketId};
use crate::model::{Endpoint, SocketKind};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a TCP socket is quiet before it is closed: longer than a handshake takes, and shorter than the second
/// after which a client that was passed over tries again.
const QUIET: Duration = Duration::from_millis(900);

/// How far it has got since nobody has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It takes clients.
    Open,
    /// It takes none, and is to be looked at then; `None`: it was handed on, or is to be when somebody comes.
    Quiet(Option<Instant>),
}

/// One socket that is drained.
#[derive(Debug, Clone)]
pub struct Drain {
    /// Where it is bound.
    pub endpoint: Endpoint,
    /// Who was handed it and is still there.
    pub holders: BTreeSet<HolderId>,
    phase: Phase,
}

/// What the kernel says of a socket that is drained, and of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Whether connections or datagrams wait in it.
    pub waiting: bool,
    /// Whether another socket of the endpoint listens.
    pub listens: bool,
    /// Whether what waits in it goes over to that one when it is closed.
    pub migrates: bool,
}

/// What to do with a socket that is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainStep {
    /// Close it.
    Close,
    /// Let no new clients in, and ask again at once.
    Quieten,
    /// Let clients in again.
    Reopen,
    /// Nothing, until the next holder comes or it is due.
    Leave,
}

/// All sockets that are drained.
#[derive(Debug, Default)]
pub struct Draining(BTreeMap<SocketId, Drain>);

impl Draining {
    pub(super) fn add(&mut self, id: SocketId, endpoint: Endpoint, holders: BTreeSet<HolderId>) {
        self.0.insert(id, Drain { endpoint, holders, phase: Phase::Open });
    }

    /// Takes those out of whose endpoint this holds.
    pub(super) fn take(&mut self, which: impl Fn(&Endpoint) -> bool) -> Vec<(SocketId, Drain)> {
        let all = std::mem::take(&mut self.0).into_iter();
        let (taken, kept): (BTreeMap<_, _>, _) = all.partition(|(_, drain)| which(&drain.endpoint));
        self.0 = kept;
        taken.into_iter().collect()
    }

    /// Who has any of one endpoint.
    pub(super) fn holders_at<'a>(&'a self, endpoint: &'a Endpoint) -> impl Iterator<Item = HolderId> + 'a {
        let there = self.0.values().filter(move |drain| drain.endpoint == *endpoint);
        there.flat_map(|drain| drain.holders.iter().copied())
    }

    pub(super) fn release(&mut self, holder: HolderId) {
        self.0.values_mut().for_each(|drain| {
            drain.holders.remove(&holder);
        });
    }

    pub(super) fn leave(&mut self, endpoints: &[Endpoint], holder: HolderId) {
        for drain in self.0.values_mut().filter(|drain| endpoints.contains(&drain.endpoint)) {
            drain.holders.remove(&holder);
        }
    }

    pub(super) fn hold(&mut self, id: SocketId, holder: HolderId) {
        if let Some(drain) = self.0.get_mut(&id) {
            drain.holders.insert(holder);
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (SocketId, &Drain)> {
        self.0.iter().map(|(id, drain)| (*id, drain))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn endpoint_of(&self, id: SocketId) -> Option<&Endpoint> {
        self.0.get(&id).map(|drain| &drain.endpoint)
    }

    /// Those of one endpoint.
    pub fn at<'a>(&'a self, endpoint: &'a Endpoint) -> impl Iterator<Item = SocketId> + 'a {
        self.iter().filter(move |(_, drain)| drain.endpoint == *endpoint).map(|(id, _)| id)
    }

    /// Those that nobody has.
    pub fn unheld(&self) -> impl Iterator<Item = SocketId> {
        self.iter().filter(|(_, drain)| drain.holders.is_empty()).map(|(id, _)| id)
    }

    pub(super) fn remove(&mut self, id: SocketId) {
        self.0.remove(&id);
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let due = |drain: &Drain| match drain.phase {
            Phase::Quiet(until) if drain.holders.is_empty() => until,
            _ => None,
        };
        self.0.values().filter_map(due).min()
    }

    /// What to do with one that nobody has any more. One to be closed is forgotten here.
    pub(super) fn step(&mut self, id: SocketId, facts: Facts, now: Instant) -> DrainStep {
        let Some(drain) = self.0.get_mut(&id) else { return DrainStep::Leave };
        if !drain.holders.is_empty() {
            return DrainStep::Leave;
        }
        let inet = matches!(drain.endpoint, Endpoint::Inet(_));
        let (phase, step) = match (inet, drain.endpoint.kind(), drain.phase) {
            _ if !facts.listens => (drain.phase, DrainStep::Close),
            (true, SocketKind::Stream, _) if facts.migrates => (drain.phase, DrainStep::Close),
            (true, SocketKind::Stream, Phase::Open) if !facts.waiting => {
                (Phase::Quiet(now.checked_add(QUIET)), DrainStep::Quieten)
            }
            (true, SocketKind::Stream, Phase::Quiet(Some(until))) if until > now => {
                (drain.phase, DrainStep::Leave)
            }
            (true, SocketKind::Stream, Phase::Quiet(_)) if facts.waiting => (Phase::Open, DrainStep::Reopen),
            // Datagrams have no handshake, and whoever sends them is not told: quiet at once, and for good.
            (true, SocketKind::Datagram, Phase::Open) => (Phase::Quiet(None), DrainStep::Quieten),
            // Nobody finds the old socket by a unix name that a new one has.
            _ if facts.waiting => (drain.phase, DrainStep::Leave),
            _ => (drain.phase, DrainStep::Close),
        };
        drain.phase = phase;
        if step == DrainStep::Close {
            self.0.remove(&id);
        }
        step
    }
}

#[cfg(test)]
#[path = "draining_tests.rs"]
mod tests;
