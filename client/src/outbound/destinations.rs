//! All destinations of a connector.

use super::destination::{Destination, Key};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// By what is asked for. Read by every connect, written for a new destination.
#[derive(Debug, Default)]
pub(crate) struct Destinations {
    // Most programs have a few, and comparing with these is quicker than hashing an address.
    map: RwLock<BTreeMap<Key, Arc<Destination>>>,
}

impl Destinations {
    /// The one with this key; made where there is none.
    pub(crate) fn find(&self, key: Key) -> Arc<Destination> {
        let found = self.map.read().unwrap_or_else(PoisonError::into_inner).get(&key).map(Arc::clone);
        found.unwrap_or_else(|| {
            let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(map.entry(key).or_insert_with(|| Arc::new(Destination::new(key, Instant::now()))))
        })
    }

    /// Every one of them.
    pub(crate) fn all(&self) -> Vec<Arc<Destination>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }

    /// Gives one up that was not used for so long: its leases, to be released.
    pub(crate) fn abandon(
        &self,
        destination: &Arc<Destination>,
        now: Instant,
        patience: Duration,
    ) -> Vec<u64> {
        // Under the lock of the map: who finds it given up, finds it gone from here when he looks again.
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let Some(leases) = destination.abandon(now, patience) else { return Vec::new() };
        if map.get(&destination.key).is_some_and(|found| Arc::ptr_eq(found, destination)) {
            map.remove(&destination.key);
        }
        leases
    }
}
