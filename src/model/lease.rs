//! What leases are made of: who has them, and of which ports.

use super::{PortRange, Protocol, UnitName};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The number of a lease. None is used twice as long as the kernel runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// The number of a session: whatever one lifeline keeps alive. None is used twice as long as the kernel runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose quota a lease counts against: the caller's system unit, or, where it has none, its user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A system unit.
    Unit(UnitName),
    /// A uid.
    User(u32),
}

impl Owner {
    /// Whether it is an ordinary user, of whom there may be many that one person can be (subuid(5)): neither root nor
    /// a unit of the system.
    #[must_use]
    pub fn is_ordinary_user(&self) -> bool {
        matches!(self.plain(), Self::User(uid) if uid != 0)
    }

    /// The same, where a user's slice is that user: a user is one caller, however it came.
    #[must_use]
    pub fn plain(&self) -> Self {
        if let Self::Unit(unit) = self {
            let uid = unit.as_str().strip_prefix("user-").and_then(|rest| rest.strip_suffix(".slice"));
            if let Some(uid) = uid.and_then(|uid| uid.parse().ok()) {
                return Self::User(uid);
            }
        }
        self.clone()
    }
}

impl fmt::Display for Owner {
    /// `crawler.service`, `uid 1000`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(unit) => unit.fmt(f),
            Self::User(uid) => write!(f, "uid {uid}"),
        }
    }
}

/// Ports of one source address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceRange {
    /// The source address.
    pub address: IpAddr,
    /// Its ports.
    pub ports: PortRange,
}

/// A source and where it may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Source address and port.
    pub source: SocketAddr,
    /// Whom it goes to; `None`: anybody.
    pub destination: Option<SocketAddr>,
}

/// What the kernel has of a tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Seen {
    /// Nothing.
    Free,
    /// A connection that is over, for which the kernel keeps the tuple so much longer.
    TimeWait(Duration),
    /// A socket: bound, connected, on the way there or back. In FIN_WAIT2 the other side still has its half.
    Open {
        /// The number that the kernel gives each socket once (`SO_COOKIE`).
        cookie: u64,
        /// Whose it is; 0 also where no process has it any more.
        uid: u32,
        /// Where its maker was: the inode number of a cgroup's directory; 0: not known.
        cgroup: u64,
    },
}
