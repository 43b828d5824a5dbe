//! What happens to leases, as it is written down: the ledger is the sum of its events.
//!
//! The bytes are postcard's, of mirrors that only grow: a variant is never moved or changed, a new one comes last with
//! a new [`VERSION`]. So every version reads those before it; a file of each is kept in `tests/leases`.
//!
//! Version 2 has [`Event::Held`], with which a snapshot of very many leases is a fifth as long, and read as much sooner
//! by whoever takes over; and [`Event::Warned`], so that a restart does not say everything anew.

mod stored;

use super::Kind;
use crate::model::{LeaseId, Owner, PoolName, Protocol, SessionId, SourceRange};
use std::net::{IpAddr, SocketAddr};
use stored::Stored;

/// The version of the bytes.
pub const VERSION: u32 = 2;

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
    /// Leases that are held, of one session and alike: what a snapshot has in place of as many of [`Event::Leased`].
    Held {
        /// The session on which they hang.
        session: SessionId,
        /// The pool.
        pool: PoolName,
        /// TCP or UDP.
        protocol: Protocol,
        /// Whom they are for.
        destination: Option<SocketAddr>,
        /// In which form.
        kind: Kind,
        /// Their numbers, upwards, and their ports.
        leases: Vec<(LeaseId, Vec<SourceRange>)>,
    },
    /// Somebody was told that ports of a lease are used after its end.
    Warned {
        /// The lease's number.
        id: LeaseId,
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

    /// Appends the event to a record, with its length before it: a record has all that happened at once.
    pub fn append_to(&self, record: &mut Vec<u8>) -> Result<(), EventError> {
        let bytes = self.to_bytes()?;
        let length = u32::try_from(bytes.len()).map_err(|_| EventError::Impossible("4 GiB of it"))?;
        record.extend(length.to_le_bytes());
        record.extend(bytes);
        Ok(())
    }

    /// All events of a record.
    pub fn all_of(mut record: &[u8]) -> Result<Vec<Self>, EventError> {
        let cut = || EventError::Impossible("a length that goes beyond its record");
        let mut events = Vec::new();
        while !record.is_empty() {
            let (length, rest) = record.split_first_chunk().ok_or_else(cut)?;
            let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| cut())?;
            let (event, after) = rest.split_at_checked(length).ok_or_else(cut)?;
            events.push(Self::from_bytes(event)?);
            record = after;
        }
        Ok(events)
    }
}
