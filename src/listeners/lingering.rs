//! Sockets that are no longer configured and that somebody still has.
//!
//! Pure. Such a socket goes on as it is, for its holders serve it, and nobody else is handed it. It is closed with the
//! last of them, whatever waits in it: nobody would ever take that. Where its endpoint is configured again meanwhile
//! it is the listener's once more, with its holders.

use super::listener::{HolderId, Slot, SocketId};
use crate::model::{Endpoint, ListenerName};
use std::collections::{BTreeMap, BTreeSet};

/// One such socket.
#[derive(Debug, Clone)]
pub struct Linger {
    /// The listener that it was of.
    pub name: ListenerName,
    pub(super) slot: Slot,
    pub(super) drained: bool,
}

impl Linger {
    /// Where it is bound.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.slot.endpoint
    }

    /// Whether it was an old socket beside others, and is one again when its endpoint is configured again.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    /// Who was handed it and is still there; never empty.
    #[must_use]
    pub fn holders(&self) -> &BTreeSet<HolderId> {
        &self.slot.holders
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Lingering {
    by_id: BTreeMap<SocketId, Linger>,
    by_name: BTreeMap<ListenerName, BTreeSet<SocketId>>,
}

impl Lingering {
    pub(super) fn add(&mut self, linger: Linger) {
        let id = linger.slot.id;
        self.by_name.entry(linger.name.clone()).or_default().insert(id);
        self.by_id.insert(id, linger);
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: SocketId) -> Option<&Linger> {
        self.by_id.get(&id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (SocketId, &Linger)> {
        self.by_id.iter().map(|(id, linger)| (*id, linger))
    }

    /// The listeners that they were of.
    pub fn names(&self) -> impl Iterator<Item = &ListenerName> {
        self.by_name.keys()
    }

    /// Those of one listener.
    pub fn of(&self, name: &str) -> impl Iterator<Item = (SocketId, &Linger)> {
        let ids = self.by_name.get(name).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.by_id.get(id)?)))
    }

    /// Takes those out of which this holds, by their ids: those that were bound first come first.
    pub(super) fn take(&mut self, which: impl Fn(&Linger) -> bool) -> Vec<Linger> {
        let all = std::mem::take(&mut self.by_id).into_iter();
        let (taken, kept): (BTreeMap<_, _>, _) = all.partition(|(_, linger)| which(linger));
        self.by_id = kept;
        for linger in taken.values() {
            if let Some(ids) = self.by_name.get_mut(&linger.name) {
                ids.remove(&linger.slot.id);
                if ids.is_empty() {
                    self.by_name.remove(&linger.name);
                }
            }
        }
        taken.into_values().collect()
    }

    /// Somebody else has it too.
    pub(super) fn hold(&mut self, id: SocketId, holder: HolderId) {
        if let Some(linger) = self.by_id.get_mut(&id) {
            linger.slot.holders.insert(holder);
        }
    }

    /// A holder is gone. Those that nobody has any more are forgotten, and returned.
    pub(super) fn release(&mut self, holder: HolderId) -> Vec<Linger> {
        for linger in self.by_id.values_mut() {
            linger.slot.holders.remove(&holder);
        }
        self.take(|linger| linger.slot.holders.is_empty())
    }
}
