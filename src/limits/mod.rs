//! How much of the broker each caller has, and all together: counts in, decisions out.
//!
//! What a caller can make the broker spend is counted before it is spent, by the user, or by the system unit where the
//! caller is in one. Who has its share is refused or waits, and the others have theirs. A quarter of what all have
//! together is for root and for units: many users cannot take it, nor one person with many uids (subuid(5)).
//!
//! Descriptors are counted from before they are made until their receiver has read them. The kernel counts those in
//! flight for the whole user that *sent* them, which is the broker, and refuses it more than `RLIMIT_NOFILE`
//! (`too_many_unix_fds()`); nobody can take a descriptor back that was sent. So this is the only way in which a caller
//! that does not read cannot stop the hand-overs to all.

mod books;
mod hits;
mod lines;
mod shares;
mod turns;
mod unread;

pub use books::{Books, Claim, LogUse, Over, Room, Usage};
pub use lines::LeftOut;
pub use turns::Turns;
pub use unread::Unread;

pub use crate::config::Limit;

use crate::model::{Owner, UnitName};
use std::fmt;

/// For whom something is counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// A system unit, whatever users its processes have.
    Unit(UnitName),
    /// A user.
    User(u32),
    /// Uid 0 of containers, which is not root here: all of them together.
    Contained,
}

impl Who {
    /// Whether the part that is kept free is for it. A scope is what somebody else runs: a container.
    fn is_preferred(&self) -> bool {
        match self {
            Self::Unit(unit) => unit.as_str().ends_with(".service"),
            Self::User(uid) => *uid == 0,
            Self::Contained => false,
        }
    }
}

/// A user's slice is that user.
impl From<&Owner> for Who {
    fn from(owner: &Owner) -> Self {
        match owner.plain() {
            Owner::Unit(unit) => Self::Unit(unit),
            Owner::User(uid) => Self::User(uid),
        }
    }
}

/// As in `status` and the log.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(unit) => write!(f, "{unit}"),
            Self::User(uid) => write!(f, "user {uid}"),
            Self::Contained => f.write_str("root of a container"),
        }
    }
}
