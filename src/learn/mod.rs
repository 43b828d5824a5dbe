//! Which ports the services of this host listen on, learnt by looking, so that ephemeral allocation cannot take
//! them while a service is down.
//!
//! Pure: what was seen and `now` in, what is learned out. The rules:
//! - A port is learned when the same system service was seen listening on it in two separate lives, one after the
//!   other; or at once, when an enabled socket unit names it.
//! - Never from sessions, containers or what a service runs below itself: only a service's own cgroup counts
//!   ([`service_of`]).
//! - Never a port that the kernel chose: it is another one in the next life. A candidate that the next life does
//!   not have is dropped, a socket has to stay for a while before it counts ([`Memory::look`]), and a service whose
//!   candidates were dropped needs a life more, for chance finds the same port twice.
//! - At most [`MOST_PORTS`] ports, and at most [`SHARE`] of the ephemeral range, since whoever could fill the
//!   reserved ports would stop every connect() on the host. What would be more is refused and said.
//! - `exclude` is never learned; what is brokered is held already, and is not learned either.
//!
//! It must not know files, clocks or the kernel: the broker looks and writes down.

mod file;
mod limit;
mod memory;
mod schedule;
#[cfg(test)]
mod tests;

pub use file::{FileError, from_text};
pub use limit::{MOST_PORTS, SHARE};
pub use memory::{Learned, Memory, Named, Outcome, Sightings};
pub use schedule::Schedule;

use crate::model::{PortRange, PortSet, UnitName};

/// Seconds since the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

/// What tells one life of a unit from its next one: systemd's invocation id, or what comes nearest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Life(String);

/// Longer texts than any identity of a life.
const LONGEST_LIFE: usize = 80;

impl Life {
    /// Takes an identity: printable ASCII of at most 80 bytes; `None` where it is none.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let valid = (1..=LONGEST_LIFE).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        valid.then(|| Self(text.to_owned()))
    }
}

/// What may be learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// `[protect] learn`: whether anything is learned at all.
    pub learn: bool,
    /// `[protect] exclude`: never learned, and forgotten where they were.
    pub exclude: PortSet,
    /// Held by the broker, or protected by the configuration: not learned, for they are safe.
    pub held: PortSet,
    /// The range from which the kernel chooses; `None` where it does not tell: its default has room for all.
    pub range: Option<PortRange>,
}

/// The system service whose own cgroup a path is, as /proc/PID/cgroup has it.
///
/// `None` for what is a session's, a machine's or a user manager's, a scope (containers have scopes of their own),
/// and for whatever lies below a service: it made that itself, and may have named it as it liked.
#[must_use]
pub fn service_of(cgroup: &str) -> Option<UnitName> {
    let mut components = cgroup.split('/').filter(|component| !component.is_empty()).peekable();
    if components.peek().is_some_and(|top| ["user.slice", "machine.slice"].contains(top)) {
        return None;
    }
    let mut rest = components.skip_while(|component| component.ends_with(".slice"));
    rest.next()?;
    if rest.next().is_some() {
        return None;
    }
    let unit = UnitName::of_cgroup(cgroup)?;
    // Other managers; and ourselves: what we hold is kept anyway, and what we lease is nobody's for long.
    let others = ["user@", "systemd-nspawn@", "portbroker."];
    let is_service = unit.as_str().ends_with(".service");
    (is_service && !others.iter().any(|prefix| unit.as_str().starts_with(prefix))).then_some(unit)
}
