//! What there is to measure of pools, leases and forecasts.

use super::Outbound;
use crate::metrics::{AddressRow, MOST_ADDRESSES, MOST_POOLS, PoolRow, Snapshot};
use crate::model::PoolName;
use std::time::Instant;

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl Outbound {
    /// Adds it; at most so many destinations are named.
    pub(in super::super) fn measure(&mut self, snapshot: &mut Snapshot, destinations: usize) {
        snapshot.leases = count(self.ledger.len());
        snapshot.sessions = count(self.ledger.sessions().count());
        for view in self.views() {
            let in_use = view.addresses.iter().filter(|address| address.state == "in-use").count();
            if snapshot.pools.len() < MOST_POOLS {
                let name = PoolName::try_from(view.name.as_str()).ok();
                let leases = name.as_ref().map_or(0, |name| self.ledger.leases_of_pool(name));
                snapshot.pools.push(PoolRow {
                    leases: u64::from(leases),
                    leased: name.as_ref().map_or(0, |name| self.ledger.held(name, None)),
                    pool: view.name.clone(),
                    state: view.state,
                    capacity: view.capacity,
                    waiting: count(view.waiting),
                    addresses: count(in_use),
                });
            }
            snapshot.addresses.extend(view.addresses.iter().map(|address| AddressRow {
                pool: view.name.clone(),
                address: address.address.to_string(),
                leased: address.leased,
                cooling: address.cooling,
            }));
        }
        // A pool may have thousands.
        snapshot.addresses.sort_by(|a, b| {
            let taken = |row: &AddressRow| row.leased.saturating_add(row.cooling);
            taken(b).cmp(&taken(a)).then_with(|| (&a.pool, &a.address).cmp(&(&b.pool, &b.address)))
        });
        snapshot.addresses.truncate(MOST_ADDRESSES);
        snapshot.forecasts = self.busiest(destinations, Instant::now());
    }
}
