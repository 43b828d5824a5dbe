//! What is claimed, summed up for those who look at all of it.

use super::ledger::Ledger;
use super::record::Record;
use crate::model::{Owner, PoolName, PortSet, Protocol, SessionId};
use std::collections::HashMap;
use std::net::SocketAddr;

/// The words of 65,536 ports.
const WORDS: u16 = 1024;

impl Ledger {
    /// The UDP ports that are leased, or cool, of any address. A socket of such a lease may take datagrams from
    /// anybody, and is not to be taken for a service.
    #[must_use]
    pub fn udp_ports(&self) -> PortSet {
        let mut ports = PortSet::default();
        for (_, _, address) in self.books.addresses.iter() {
            let slots = &address.side(Protocol::Udp).alone;
            if slots.claimed() == 0 {
                continue;
            }
            let mut cursor = slots.cursor();
            for word in 0..WORDS {
                let claimed = cursor.marks(word).claimed();
                ports.extend((0..64).filter(|bit| claimed >> bit & 1 == 1).map(|bit| word * 64 + bit));
            }
        }
        ports
    }

    /// For what a session holds leases: pool, protocol and destination of each.
    pub fn held_by(
        &self,
        session: SessionId,
    ) -> impl Iterator<Item = (&PoolName, Protocol, Option<SocketAddr>)> + '_ {
        let leases = self.sessions.get(&session).into_iter().flat_map(|session| &session.leases);
        leases.filter_map(|id| {
            let record = self.leases.get(id)?;
            let destination = record.destination.and_then(|id| self.books.destinations.key(id)).copied();
            Some((self.pools.key(record.pool)?, record.protocol, destination))
        })
    }

    /// For what there are leases, cooling ones included, and of how many ports: pool, protocol and destination. Of one
    /// owner's, or of all; of the newest `most` leases, and no more than `most` of these.
    #[must_use]
    pub fn uses(
        &self,
        owner: Option<&Owner>,
        most: usize,
    ) -> Vec<(&PoolName, Protocol, Option<SocketAddr>, u64)> {
        let mut sums: HashMap<(u32, Protocol, Option<u32>), u64> = HashMap::new();
        let mut add = |record: &Record| {
            let key = (record.pool, record.protocol, record.destination);
            let ports = if record.held { record.ports() } else { record.cooling.all() };
            if sums.len() < most || sums.contains_key(&key) {
                *sums.entry(key).or_default() += u64::from(ports);
            }
        };
        match owner {
            None => self.leases.values().rev().take(most).for_each(&mut add),
            Some(owner) => {
                let holdings = self.owners.find(owner).and_then(|id| self.owners.get(id));
                let ids = holdings.into_iter().flat_map(|holdings| holdings.leases.iter().rev());
                ids.take(most).filter_map(|id| self.leases.get(id)).for_each(&mut add);
            }
        }
        let named = sums.into_iter().filter_map(|((pool, protocol, destination), ports)| {
            let destination = destination.and_then(|id| self.books.destinations.key(id)).copied();
            Some((self.pools.key(pool)?, protocol, destination, ports))
        });
        named.collect()
    }

    /// How many leases of a pool there are, cooling ones included.
    #[must_use]
    pub fn leases_of_pool(&self, pool: &PoolName) -> u32 {
        self.pools.find(pool).and_then(|id| self.pools.get(id)).map_or(0, |pool| pool.leases)
    }

    /// How many leases of a session are held.
    #[must_use]
    pub fn leases_of(&self, session: SessionId) -> usize {
        self.sessions.get(&session).map_or(0, |session| session.leases.len())
    }
}
