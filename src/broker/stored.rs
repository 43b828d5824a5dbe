//! Keeps systemd's store in step with the sockets: what an event has added goes in together, and what it has given up
//! goes by one new box without it.
//!
//! What an event adds is stored before anybody is handed it, or has the answer to a reload: see the callers of
//! [`Broker::keep_stored`]. What cannot be stored just then is stored as soon as it can be, and the daemon is degraded
//! until then.

use super::Broker;
use crate::kernel::stored_sockets::StoredSockets;
use crate::listeners::SocketId;
use std::time::{Duration, Instant};

/// How long to wait after the store could not be told everything.
const RETRY: Duration = Duration::from_secs(2);

/// The store, and what has yet to be told to it.
#[derive(Debug)]
pub(super) struct Stored {
    store: StoredSockets,
    added: Vec<SocketId>,
    given_up: bool,
    /// Not all is stored; it is tried again then.
    retry_at: Option<Instant>,
}

impl Stored {
    pub(super) fn new(store: StoredSockets) -> Self {
        Self { store, added: Vec::new(), given_up: false, retry_at: None }
    }

    /// Whether there is a store.
    pub(super) fn is_active(&self) -> bool {
        self.store.is_active()
    }

    /// This socket is new.
    pub(super) fn added(&mut self, id: SocketId) {
        self.added.push(id);
    }

    /// A socket that is stored is to be stored no more.
    pub(super) fn given_up(&mut self) {
        self.given_up = true;
    }

    /// When [`Broker::keep_stored`] has something to do that it could not do before.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Whether something is stored that this daemon could not look at, or take.
    pub(super) fn has_left(&self) -> bool {
        self.store.unseen().is_some()
    }

    /// How many that are, as far as it is known.
    pub(super) fn left(&self) -> u64 {
        self.store.left()
    }

    /// Why not all is stored, and why not all that was stored could be seen.
    pub(super) fn faults(&self) -> impl Iterator<Item = &str> {
        self.store.failure().into_iter().chain(self.store.unseen())
    }
}

impl Broker {
    /// Tells the store what has changed since the last call.
    pub(super) fn keep_stored(&mut self) {
        let now = Instant::now();
        let Stored { store, added, given_up, retry_at } = &mut self.stored;
        let had_fault = store.failure().is_some();
        // A box for all of ten thousand sockets is not made in vain with every event.
        let rests = retry_at.is_some_and(|at| at > now);
        added.retain(|id| self.sockets.contains_key(id));
        let to_rewrite = *given_up || store.is_outdated(self.sockets.len());
        if to_rewrite && !rests && store.rewrite(&self.sockets.values().collect::<Vec<_>>()) {
            *given_up = false;
            added.clear();
        } else if !added.is_empty() {
            let sockets: Vec<_> = added.iter().filter_map(|id| self.sockets.get(id)).collect();
            let stored = store.add(&sockets);
            added.drain(..stored.min(added.len()));
        }
        if !(*given_up || store.is_outdated(self.sockets.len())) && added.is_empty() {
            *retry_at = None;
            store.has_caught_up();
        } else if !rests {
            *retry_at = now.checked_add(RETRY);
        }
        self.touched |= had_fault != store.failure().is_some();
    }
}
