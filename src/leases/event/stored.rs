//! Events as they are written: mirrors that only grow.

use super::{Event, EventError};
use crate::leases::{Kind, MOST_PORTS};
use crate::model::{LeaseId, Owner, PoolName, PortRange, Protocol, SessionId, SourceRange, UnitName};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// The order of the variants is that of the bytes.
#[derive(Serialize, Deserialize)]
pub(super) enum Stored {
    Numbered(u64, u64),
    SessionOpened(u64, StoredOwner),
    SessionEnded(u64),
    Leased(StoredLease),
    Replaced(u64, SocketAddr, Option<SocketAddr>),
    Released(u64),
    Freed(u64),
    Drained(IpAddr),
    Undrained(IpAddr),
    // From version 2 on.
    Held(StoredHeld),
    Warned(u64),
}

#[derive(Serialize, Deserialize)]
pub(super) enum StoredOwner {
    Unit(String),
    User(u32),
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredLease {
    id: u64,
    session: u64,
    pool: String,
    udp: bool,
    destination: Option<SocketAddr>,
    kind: StoredKind,
    ranges: Vec<(IpAddr, u16, u16)>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredHeld {
    session: u64,
    pool: String,
    udp: bool,
    destination: Option<SocketAddr>,
    kind: StoredKind,
    /// Each once: ranges have its place here.
    addresses: Vec<IpAddr>,
    /// The number of the first lease, and of each other one how much it is above the one before it; and of each range
    /// the address, the first port, and how many there are beside it.
    leases: StoredLeases,
}

#[derive(Serialize, Deserialize)]
pub(super) enum StoredKind {
    Pairs,
    Blocks,
    Sockets,
}

impl From<&Event> for Stored {
    fn from(event: &Event) -> Self {
        match event {
            Event::Numbered { session, lease } => Self::Numbered(session.0, lease.0),
            Event::SessionOpened { id, owner } => Self::SessionOpened(
                id.0,
                match owner {
                    Owner::Unit(unit) => StoredOwner::Unit(unit.as_str().to_owned()),
                    Owner::User(uid) => StoredOwner::User(*uid),
                },
            ),
            Event::SessionEnded { id } => Self::SessionEnded(id.0),
            Event::Leased { id, session, pool, protocol, destination, kind, ranges } => {
                let range = |range: &SourceRange| (range.address, range.ports.first(), range.ports.last());
                Self::Leased(StoredLease {
                    id: id.0,
                    session: session.0,
                    pool: pool.as_str().to_owned(),
                    udp: *protocol == Protocol::Udp,
                    destination: *destination,
                    kind: (*kind).into(),
                    ranges: ranges.iter().map(range).collect(),
                })
            }
            Event::Held { session, pool, protocol, destination, kind, leases } => {
                let (addresses, leases) = compact(leases);
                Self::Held(StoredHeld {
                    session: session.0,
                    pool: pool.as_str().to_owned(),
                    udp: *protocol == Protocol::Udp,
                    destination: *destination,
                    kind: (*kind).into(),
                    addresses,
                    leases,
                })
            }
            Event::Warned { id } => Self::Warned(id.0),
            Event::Replaced { id, busy, with } => Self::Replaced(id.0, *busy, *with),
            Event::Released { id } => Self::Released(id.0),
            Event::Freed { id } => Self::Freed(id.0),
            Event::Drained { address } => Self::Drained(*address),
            Event::Undrained { address } => Self::Undrained(*address),
        }
    }
}

impl Stored {
    pub(super) fn checked(self) -> Result<Event, EventError> {
        Ok(match self {
            Self::Numbered(session, lease) => {
                Event::Numbered { session: session_id(session)?, lease: lease_id(lease)? }
            }
            Self::SessionOpened(id, owner) => {
                let owner = match owner {
                    StoredOwner::User(uid) => Owner::User(uid),
                    StoredOwner::Unit(name) => Owner::Unit(
                        UnitName::try_from(name.as_str())
                            .map_err(|_| EventError::Impossible("a name that no unit has"))?,
                    ),
                };
                Event::SessionOpened { id: session_id(id)?, owner }
            }
            Self::SessionEnded(id) => Event::SessionEnded { id: session_id(id)? },
            Self::Leased(lease) => lease.checked()?,
            Self::Replaced(id, busy, with) => Event::Replaced { id: lease_id(id)?, busy, with },
            Self::Released(id) => Event::Released { id: lease_id(id)? },
            Self::Freed(id) => Event::Freed { id: lease_id(id)? },
            Self::Drained(address) => Event::Drained { address },
            Self::Undrained(address) => Event::Undrained { address },
            Self::Held(held) => held.checked()?,
            Self::Warned(id) => Event::Warned { id: lease_id(id)? },
        })
    }
}

/// Nobody gives so many: what is added to a number never goes beyond what a number can be.
const MOST: u64 = 1 << 62;

fn lease_id(id: u64) -> Result<LeaseId, EventError> {
    if id < MOST { Ok(LeaseId(id)) } else { Err(EventError::Impossible("a number that no lease has")) }
}

fn session_id(id: u64) -> Result<SessionId, EventError> {
    if id < MOST { Ok(SessionId(id)) } else { Err(EventError::Impossible("a number that no session has")) }
}

fn pool_name(name: &str) -> Result<PoolName, EventError> {
    PoolName::try_from(name).map_err(|_| EventError::Impossible("a name that no pool has"))
}

fn ports(first: u16, last: u16) -> Result<PortRange, EventError> {
    PortRange::new(first, last).map_err(|_| EventError::Impossible("a range of no ports"))
}

fn protocol(udp: bool) -> Protocol {
    if udp { Protocol::Udp } else { Protocol::Tcp }
}

impl StoredLease {
    fn checked(self) -> Result<Event, EventError> {
        let range = |(address, first, last)| Ok(SourceRange { address, ports: ports(first, last)? });
        Ok(Event::Leased {
            id: lease_id(self.id)?,
            session: session_id(self.session)?,
            pool: pool_name(&self.pool)?,
            protocol: protocol(self.udp),
            destination: self.destination,
            kind: self.kind.into(),
            ranges: not_too_many(self.ranges.into_iter().map(range).collect::<Result<_, EventError>>()?)?,
        })
    }
}

/// No lease has more ports than are given in one.
fn not_too_many(ranges: Vec<SourceRange>) -> Result<Vec<SourceRange>, EventError> {
    let ports = ranges.iter().map(|range| u32::from(range.ports.last() - range.ports.first()) + 1);
    match ports.fold(0_u32, u32::saturating_add) {
        0..=MOST_PORTS => Ok(ranges),
        _ => Err(EventError::Impossible("more ports than a lease has")),
    }
}

type Leases = Vec<(LeaseId, Vec<SourceRange>)>;
type StoredLeases = Vec<(u64, Vec<(u32, u16, u16)>)>;

/// Every address once, and each number as what it is above the one before it.
fn compact(leases: &Leases) -> (Vec<IpAddr>, StoredLeases) {
    let (mut addresses, mut places) = (Vec::new(), HashMap::new());
    let mut before = 0;
    let mut compacted = Vec::with_capacity(leases.len());
    for (id, ranges) in leases {
        let range = |range: &SourceRange| {
            let place = *places.entry(range.address).or_insert_with(|| {
                addresses.push(range.address);
                u32::try_from(addresses.len() - 1).unwrap_or(u32::MAX)
            });
            (place, range.ports.first(), range.ports.last() - range.ports.first())
        };
        let ranges = ranges.iter().map(range).collect();
        compacted.push((id.0.wrapping_sub(before), ranges));
        before = id.0;
    }
    (addresses, compacted)
}

impl StoredHeld {
    fn checked(self) -> Result<Event, EventError> {
        let mut id = 0_u64;
        let mut leases = Vec::with_capacity(self.leases.len());
        for (above, ranges) in self.leases {
            let next = id.checked_add(above).filter(|next| *next > id || leases.is_empty());
            id = next.ok_or(EventError::Impossible("numbers of leases that do not go up"))?;
            let range = |(place, first, more): (u32, u16, u16)| {
                let address = usize::try_from(place).ok().and_then(|place| self.addresses.get(place));
                let address =
                    *address.ok_or(EventError::Impossible("an address that is not among its own"))?;
                let last = first.checked_add(more).ok_or(EventError::Impossible("ports above 65535"))?;
                Ok(SourceRange { address, ports: ports(first, last)? })
            };
            let ranges = ranges.into_iter().map(range).collect::<Result<_, EventError>>()?;
            leases.push((lease_id(id)?, not_too_many(ranges)?));
        }
        Ok(Event::Held {
            session: session_id(self.session)?,
            pool: pool_name(&self.pool)?,
            protocol: protocol(self.udp),
            destination: self.destination,
            kind: self.kind.into(),
            leases,
        })
    }
}

impl From<Kind> for StoredKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Pairs => Self::Pairs,
            Kind::Blocks => Self::Blocks,
            Kind::Sockets => Self::Sockets,
        }
    }
}

impl From<StoredKind> for Kind {
    fn from(kind: StoredKind) -> Self {
        match kind {
            StoredKind::Pairs => Self::Pairs,
            StoredKind::Blocks => Self::Blocks,
            StoredKind::Sockets => Self::Sockets,
        }
    }
}
