//! Leases: who has which source ports for which destination, what cools after it ended, and what is next.
//!
//! Pure: `now` is an argument, and what the kernel says of a tuple is, too. One [`Ledger`] has all leases of the host,
//! for pools may share addresses. What always holds:
//! - No source port is leased twice for one destination; and what is claimed alone (every UDP lease, and every lease
//!   for any destination) is claimed by nobody else for anything.
//! - A port of a lease that ended *cools* until the kernel has said that it is free ([`Ledger::due`],
//!   [`Ledger::looked`]); only then is it given out again. Every cooling port is waiting for exactly one thing: to be
//!   looked at for the first time, an answer, the end of its TIME_WAIT, or the next look at an open socket.
//! - For a pool and a destination, capacity = used + cooling + free.
//! - What is kept for a caller's minimum ([`Guarantee`]) nobody else gets.
//! - What one lease, one release or one refusal costs does not depend on how many leases there are.
//! - [`Ledger::events`] tells all that [`Ledger::restore`] needs to know.
//!
//! It must not know the kernel, the pools' configuration or who may lease: those are the broker's.

mod access;
mod books;
mod cooling;
mod counts;
mod destination;
mod event;
mod ledger;
mod looks;
mod orphans;
mod pick;
mod record;
mod refused;
mod replace;
mod restore;
mod rows;
mod schedule;
mod shares;
mod slots;
mod spread;
mod sums;
mod table;
mod take;
#[cfg(test)]
mod tests;
/// For the fuzzer: see `tests/fuzz`.
#[cfg(all(fuzzing, not(test)))]
#[path = "tests/mod.rs"]
#[expect(dead_code, reason = "some of it is for tests alone")]
pub mod tests;
mod view;
mod waiting;
mod waits;

pub use access::{Eased, Reach, Terms};
pub use destination::DestinationError;
pub use event::{Event, EventError, VERSION};
pub use ledger::Ledger;
pub use orphans::Orphan;
pub use refused::{NoSuchLease, Refused};
pub use rows::{AddressUsage, Figures, Row};
pub use schedule::Look;
pub use shares::Guarantee;
pub use waiting::{Attempt, Full, Line, MOST_WAITING, MOST_WAITING_PER_OWNER, Ticket, Waiting};

use crate::config::{Quota, Spread};
use crate::model::{LeaseId, Owner, PoolName, PortSet, Protocol, SessionId, SourceRange, Tuple};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// More ports are not given in one lease.
pub const MOST_PORTS: u32 = 65_536;
/// More sessions at a time are nobody's.
pub const MOST_SESSIONS_PER_OWNER: usize = 1024;
/// More sessions at a time there are not.
pub const MOST_SESSIONS: usize = 16_384;
/// More leases at a time, cooling ones included, are nobody's.
pub const MOST_LEASES_PER_OWNER: usize = 262_144;
/// More leases at a time, cooling ones included, there are not.
pub const MOST_LEASES: usize = 1_048_576;
/// Whoever has so many ports that cool gets no more until some are free. Cooling ports count against no quota, and to
/// ask for them takes longer than to lease and release them: without a limit that would take all memory.
pub const MOST_COOLING_PER_OWNER: usize = 2_097_152;
/// So many ports may cool, of all owners, before nothing more is leased.
pub const MOST_COOLING: usize = 8_388_608;
/// More ranges are not told of in one page of leases; but one lease is always told whole.
pub const MOST_RANGES_OF_A_PAGE: usize = 65_536;

/// What a pool has to give now.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Which pool.
    pub pool: &'a PoolName,
    /// Its addresses that are present and not draining.
    pub addresses: &'a [IpAddr],
    /// The ports of each that can be leased.
    pub zone: &'a PortSet,
    /// How it chooses among its addresses.
    pub spread: Spread,
    /// How much of it may be leased.
    pub quota: Quota,
    /// What each caller is guaranteed.
    pub guarantee: Option<&'a Arc<Guarantee>>,
}

/// In which form ports are leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One by one.
    Pairs,
    /// In ranges.
    Blocks,
    /// As sockets.
    Sockets,
}

impl Kind {
    /// `pairs`, `blocks` or `sockets`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::Blocks => "blocks",
            Self::Sockets => "sockets",
        }
    }
}

/// What somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// On which session the lease hangs.
    pub session: SessionId,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Whom it is for; `None`: anybody.
    pub destination: Option<SocketAddr>,
    /// In which form.
    pub kind: Kind,
    /// How many ports.
    pub ports: u32,
    /// How few will do; never more than `ports`.
    pub minimum: u32,
}

/// What somebody got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub id: LeaseId,
    /// Its ports, in the order in which the pool's addresses took their turns; single ones unless it is of blocks.
    pub ranges: Vec<SourceRange>,
}

/// Somebody uses a port after the lease of it had ended. Said once a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedAfterEnd {
    /// Which lease.
    pub lease: LeaseId,
    /// Whose it was.
    pub owner: Owner,
    /// Of which pool.
    pub pool: PoolName,
    /// What is used.
    pub tuple: Tuple,
    /// By which user.
    pub uid: u32,
    /// By which cgroup, by its inode; 0: not known.
    pub cgroup: u64,
}
