//! What is claimed, summed up for those who look at all of it.

use super::ledger::Ledger;
use crate::model::{PoolName, PortSet, Protocol, SessionId};
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

    /// How many leases of a session are held.
    #[must_use]
    pub fn leases_of(&self, session: SessionId) -> usize {
        self.sessions.get(&session).map_or(0, |session| session.leases.len())
    }
}
