//! What a session left open when it ended: connections whose owner is dead, and that live on in children of it or in
//! whoever else has a copy. A pool may have them closed, some time after.

use super::ledger::Ledger;
use super::waits::Tick;
use crate::model::{LeaseId, Owner, PoolName, Tuple};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// More are not closed at once; the others when they are looked at the next time.
const MOST: usize = 4096;

/// A connection to be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// The lease, which ended; so did its session.
    pub lease: LeaseId,
    /// Whose it was.
    pub owner: Owner,
    /// Of which pool.
    pub pool: PoolName,
    /// What is open; it has a destination.
    pub tuple: Tuple,
    /// The kernel's number of the socket.
    pub cookie: u64,
}

impl Ledger {
    /// After how long a pool has orphans closed; pools that are not named have none closed.
    pub fn close_orphans(&mut self, after: HashMap<PoolName, Duration>) {
        self.orphan_times = after;
    }

    /// What is to be closed, since the last call.
    pub fn orphans(&mut self) -> Vec<Orphan> {
        std::mem::take(&mut self.orphans)
    }

    /// An ended lease has an open socket. Returns when it is to be looked at again at the latest, to be closed then.
    pub(super) fn adopt(&mut self, lease: LeaseId, tuple: Tuple, cookie: u64, now: Instant) -> Option<Tick> {
        if self.orphan_times.is_empty() {
            return None;
        }
        let tick = self.tick(now);
        let record = self.leases.get(&lease).filter(|record| !self.sessions.contains_key(&record.session))?;
        let pool = self.pools.key(record.pool)?;
        let after = *self.orphan_times.get(pool)?;
        let since = record.orphaned.unwrap_or(tick);
        let (owner, pool) = (self.owners.key(record.owner)?.clone(), pool.clone());
        if let Some(record) = self.leases.get_mut(&lease) {
            record.orphaned = Some(since);
        }
        let at = self.tick_after(self.instant(since), after);
        if at > tick {
            return Some(at);
        }
        if tuple.destination.is_some() && self.orphans.len() < MOST {
            self.orphans.push(Orphan { lease, owner, pool, tuple, cookie });
        }
        None
    }
}
