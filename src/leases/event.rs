//! What happens to leases, as it is written down: the ledger is the sum of its events.
//!
//! The bytes are postcard's, of mirrors that only grow: a variant is never moved or changed, a new one comes last,
//! and whatever else is needed gets a new [`VERSION`]. A file of version 1 is kept in `tests/leases`.

use super::Kind;
use crate::model::{LeaseId, Owner, PoolName, PortRange, Protocol, SessionId, SourceRange, UnitName};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// The version of the bytes.
pub const VERSION: u32 = 1;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The lowest numbers that were not given yet: a snapshot begins with it.
    Numbered {
        /// Of sessions.
        session: SessionId,
        /// Of leases.
        lease: LeaseId,
    },
    /// A session was opened.
    SessionOpened {
        /// Its number.
        id: SessionId,
        /// Whose it is.
        owner: Owner,
    },
    /// A session ended, and with it all its leases.
    SessionEnded {
        /// Its number.
        id: SessionId,
    },
    /// Ports were leased.
    Leased {
        /// The lease's number.
        id: LeaseId,
        /// The session on which it hangs.
        session: SessionId,
        /// The pool.
        pool: PoolName,
        /// TCP or UDP.
        protocol: Protocol,
        /// Whom it is for.
        destination: Option<SocketAddr>,
        /// In which form.
        kind: Kind,
        /// Its ports.
        ranges: Vec<SourceRange>,
    },
    /// A lease has another port instead of one, or one less.
    Replaced {
        /// The lease's number.
        id: LeaseId,
        /// What it no longer has.
        busy: SocketAddr,
        /// What it has instead.
        with: Option<SocketAddr>,
    },
    /// A lease ended; its ports cool.
    Released {
        /// The lease's number.
        id: LeaseId,
    },
    /// Nothing of a lease cools any more.
    Freed {
        /// The lease's number.
        id: LeaseId,
    },
    /// Nothing more is given out of an address.
    Drained {
        /// The address.
        address: IpAddr,
    },
    /// An address is given out of again.
    Undrained {
        /// The address.
        address: IpAddr,
    },
}

/// Bytes that are no event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Not what this version writes.
    #[error("no event of version {VERSION}: {0}")]
    Malformed(#[from] postcard::Error),
    /// More bytes than one event has.
    #[error("{0} bytes after an event")]
    Trailing(usize),
    /// An event that cannot have happened.
    #[error("an event with {0}, which there cannot be")]
    Impossible(&'static str),
}

/// The order of the variants is that of the bytes.
#[derive(Serialize, Deserialize)]
enum Stored {
    Numbered(u64, u64),
    SessionOpened(u64, StoredOwner),
    SessionEnded(u64),
    Leased(StoredLease),
    Replaced(u64, SocketAddr, Option<SocketAddr>),
    Released(u64),
    Freed(u64),
    Drained(IpAddr),
    Undrained(IpAddr),
}

#[derive(Serialize, Deserialize)]
enum StoredOwner {
    Unit(String),
    User(u32),
}

#[derive(Serialize, Deserialize)]
struct StoredLease {
    id: u64,
    session: u64,
    pool: String,
    udp: bool,
    destination: Option<SocketAddr>,
    kind: StoredKind,
    ranges: Vec<(IpAddr, u16, u16)>,
}

#[derive(Serialize, Deserialize)]
enum StoredKind {
    Pairs,
    Blocks,
    Sockets,
}

impl Event {
    /// The event as bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EventError> {
        Ok(postcard::to_allocvec(&Stored::from(self))?)
    }

    /// The event that bytes are.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, EventError> {
        let (stored, rest): (Stored, _) = postcard::take_from_bytes(bytes)?;
        if rest.is_empty() { stored.checked() } else { Err(EventError::Trailing(rest.len())) }
    }
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
                    kind: match kind {
                        Kind::Pairs => StoredKind::Pairs,
                        Kind::Blocks => StoredKind::Blocks,
                        Kind::Sockets => StoredKind::Sockets,
                    },
                    ranges: ranges.iter().map(range).collect(),
                })
            }
            Event::Replaced { id, busy, with } => Self::Replaced(id.0, *busy, *with),
            Event::Released { id } => Self::Released(id.0),
            Event::Freed { id } => Self::Freed(id.0),
            Event::Drained { address } => Self::Drained(*address),
            Event::Undrained { address } => Self::Undrained(*address),
        }
    }
}

impl Stored {
    fn checked(self) -> Result<Event, EventError> {
        Ok(match self {
            Self::Numbered(session, lease) => {
                Event::Numbered { session: SessionId(session), lease: LeaseId(lease) }
            }
            Self::SessionOpened(id, owner) => {
                let owner = match owner {
                    StoredOwner::User(uid) => Owner::User(uid),
                    StoredOwner::Unit(name) => Owner::Unit(
                        UnitName::try_from(name.as_str())
                            .map_err(|_| EventError::Impossible("a name that no unit has"))?,
                    ),
                };
                Event::SessionOpened { id: SessionId(id), owner }
            }
            Self::SessionEnded(id) => Event::SessionEnded { id: SessionId(id) },
            Self::Leased(lease) => lease.checked()?,
            Self::Replaced(id, busy, with) => Event::Replaced { id: LeaseId(id), busy, with },
            Self::Released(id) => Event::Released { id: LeaseId(id) },
            Self::Freed(id) => Event::Freed { id: LeaseId(id) },
            Self::Drained(address) => Event::Drained { address },
            Self::Undrained(address) => Event::Undrained { address },
        })
    }
}

impl StoredLease {
    fn checked(self) -> Result<Event, EventError> {
        let range = |(address, first, last)| {
            let ports =
                PortRange::new(first, last).map_err(|_| EventError::Impossible("a range of no ports"))?;
            Ok(SourceRange { address, ports })
        };
        Ok(Event::Leased {
            id: LeaseId(self.id),
            session: SessionId(self.session),
            pool: PoolName::try_from(self.pool.as_str())
                .map_err(|_| EventError::Impossible("a name that no pool has"))?,
            protocol: if self.udp { Protocol::Udp } else { Protocol::Tcp },
            destination: self.destination,
            kind: match self.kind {
                StoredKind::Pairs => Kind::Pairs,
                StoredKind::Blocks => Kind::Blocks,
                StoredKind::Sockets => Kind::Sockets,
            },
            ranges: self.ranges.into_iter().map(range).collect::<Result<_, EventError>>()?,
        })
    }
}
