//! What is shown of leases and pools.

use super::books::Claim;
use super::ledger::Ledger;
use super::record::Record;
use super::view::refresh;
use super::{Kind, MOST_RANGES_OF_A_PAGE, Offer};
use crate::model::{LeaseId, Owner, PoolName, Protocol, SessionId, SourceRange};
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its number.
    pub id: LeaseId,
    /// On which session it hangs, or hung.
    pub session: SessionId,
    /// Its pool.
    pub pool: PoolName,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Whom it is for.
    pub destination: Option<SocketAddr>,
    /// In which form.
    pub kind: Kind,
    /// How many ports.
    pub ports: u32,
    /// False: it ended.
    pub held: bool,
    /// Whose it is.
    pub owner: Owner,
    /// Its ports.
    pub ranges: Vec<SourceRange>,
    /// How many of them cool still.
    pub cooling: u32,
}

/// What is used of an address, of both protocols and all destinations together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddressUsage {
    /// Ports leased, each as often as there are destinations for which it is.
    pub leased: u64,
    /// Ports cooling, counted alike.
    pub cooling: u64,
}

/// How a pool stands for one destination: `capacity = used + cooling + free`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Addresses in use of the right family, times ports of the zone.
    pub capacity: u64,
    /// Of these, leased to somebody.
    pub used: u64,
    /// Of these, cooling.
    pub cooling: u64,
    /// The others.
    pub free: u64,
}

impl Ledger {
    /// The leases with a number above `after`, at most `most` of them, by number; of one owner, or of all. Fewer, but
    /// never none where there is one, if they have more than [`MOST_RANGES_OF_A_PAGE`].
    #[must_use]
    pub fn rows(&self, owner: Option<&Owner>, after: LeaseId, most: usize) -> Vec<Row> {
        let above = (Bound::Excluded(after), Bound::Unbounded);
        let mut ranges = 0;
        let mut fits = |record: &Record| {
            let first = ranges == 0;
            ranges += record.ranges.len();
            first || ranges <= MOST_RANGES_OF_A_PAGE
        };
        match owner {
            None => {
                let leases = self.leases.range(above).take(most).take_while(|(_, record)| fits(record));
                leases.filter_map(|(id, record)| self.row(*id, record)).collect()
            }
            Some(owner) => {
                let holdings = self.owners.find(owner).and_then(|id| self.owners.get(id));
                let ids = holdings.into_iter().flat_map(|holdings| holdings.leases.range(above)).take(most);
                let leases = ids.filter_map(|id| Some((*id, self.leases.get(id)?)));
                let leases = leases.take_while(|(_, record)| fits(record));
                leases.filter_map(|(id, record)| self.row(id, record)).collect()
            }
        }
    }

    fn row(&self, id: LeaseId, record: &Record) -> Option<Row> {
        Some(Row {
            id,
            session: record.session,
            pool: self.pools.key(record.pool)?.clone(),
            protocol: record.protocol,
            destination: record.destination.and_then(|id| self.books.destinations.key(id)).copied(),
            kind: record.kind,
            ports: record.ports(),
            held: record.held,
            owner: self.owners.key(record.owner)?.clone(),
            ranges: self.source_ranges(&record.ranges),
            cooling: record.cooling.all(),
        })
    }

    /// One lease.
    #[must_use]
    pub fn get(&self, id: LeaseId) -> Option<Row> {
        self.row(id, self.leases.get(&id)?)
    }

    /// How many leases there are, cooling ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there is no lease, not even one that cools.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// What is used of an address; with nothing leased of it, a draining address is drained.
    #[must_use]
    pub fn usage(&self, address: IpAddr) -> AddressUsage {
        let id = self.books.addresses.find(&address);
        let Some(entry) = id.and_then(|id| self.books.addresses.get(id)) else {
            return AddressUsage::default();
        };
        [Protocol::Tcp, Protocol::Udp].into_iter().fold(AddressUsage::default(), |sum, protocol| {
            let side = entry.side(protocol);
            AddressUsage {
                leased: sum.leased + side.held.total(),
                cooling: sum.cooling + side.claims.total() - side.held.total(),
            }
        })
    }

    /// Ports of a pool that are held, by all owners or one, of all destinations together.
    #[must_use]
    pub fn held(&self, pool: &PoolName, owner: Option<&Owner>) -> u64 {
        let Some(id) = self.pools.find(pool) else { return 0 };
        match owner {
            None => self.pools.get(id).map_or(0, |pool| pool.held),
            Some(owner) => {
                let holdings = self.owners.find(owner).and_then(|owner| self.owners.get(owner));
                holdings.map_or(0, |holdings| holdings.held(id))
            }
        }
    }

    /// How a pool stands for a destination, or for all of them.
    #[must_use]
    pub fn usage_of(
        &mut self,
        offer: &Offer<'_>,
        protocol: Protocol,
        destination: Option<SocketAddr>,
    ) -> Figures {
        let plain = destination.map(|destination| SocketAddr::new(destination.ip(), destination.port()));
        let id = plain.map(|plain| self.books.destinations.find(&plain).unwrap_or(u32::MAX));
        let claim = Claim::of(protocol, id);
        let pool = refresh(&mut self.pools, &mut self.books, &mut self.zones, offer);
        let mut sum = Figures::default();
        let Some(view) = self.pools.get(pool).and_then(|pool| pool.view.as_ref()) else { return sum };
        for (ip, address) in view.addresses() {
            if plain.is_none_or(|plain| plain.is_ipv4() == ip.is_ipv4()) {
                let room = self.books.room(claim, address, view);
                sum.used += u64::from(room.held);
                sum.cooling += u64::from(room.cooling);
                sum.free += u64::from(room.free);
            }
        }
        sum.capacity = sum.used + sum.cooling + sum.free;
        sum
    }
}
