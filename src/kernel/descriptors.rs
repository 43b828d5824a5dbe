//! How many descriptors this process may have open, and for whom the last of them are kept.
//!
//! A daemon that has none left can be told nothing any more, not even a configuration with fewer listeners: it could
//! not be read. So what others make it open has to leave some to administrators, and what they make it open has to
//! leave some to its own work, which reads files and asks the kernel.
//!
//! Nothing is counted: the kernel gives the lowest number that is free, so the number of a new descriptor tells how many
//! are in use at least below it. The limit is asked for each time, since prlimit(2) may change it.

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Kept for our own work, and as many for administrators; at most an eighth of all.
const KEPT: u64 = 64;

/// What a daemon opens for itself from the takeover to READY, at least, whatever is configured.
const OWN: u64 = 16;

/// Who is to have a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Sockets that an earlier daemon had stored: as many as a daemon that has opened all its own could bind.
    Takeover,
    /// Listeners, leases, callers.
    Anybody,
    /// What administrators ask for, and hand-overs, which are closed again at once.
    Administration,
}

/// Only those are left that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// `RLIMIT_NOFILE`.
    pub limit: u64,
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the daemon may have {} descriptors open, and only those are left that are kept for administrators: no \
             more listeners are bound, sockets leased or callers served until some are closed; raise LimitNOFILE= of \
             the broker (or \"ulimit -n\" where it is started)",
            self.limit
        )
    }
}

/// Every socket takes a descriptor, and the usual soft limit is 1,024 for the sake of select(2), which nobody here
/// calls.
pub fn raise_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

/// A descriptor that was just made, unless it is one of those that are kept: then it is closed, and the error is that
/// of a process that has no more.
pub fn spared<D: AsFd>(descriptor: D, purpose: Purpose) -> io::Result<D> {
    if leaves_room(&descriptor, purpose) { Ok(descriptor) } else { Err(Errno::EMFILE.into()) }
}

/// Whether a descriptor that was just made leaves those that are kept.
pub fn leaves_room(descriptor: impl AsFd, purpose: Purpose) -> bool {
    let number = u64::try_from(descriptor.as_fd().as_raw_fd()).unwrap_or(0);
    limit().is_none_or(|limit| number < most(limit, purpose))
}

/// Whether there is none left for anybody but administrators, by a look now.
#[must_use]
pub fn shortage() -> Option<Shortage> {
    let limit = limit()?;
    let is_short = match EventFd::from_flags(EfdFlags::EFD_CLOEXEC) {
        Ok(probe) => !leaves_room(&probe, Purpose::Anybody),
        Err(error) => is_shortage(&error.into()),
    };
    is_short.then_some(Shortage { limit })
}

/// Whether there is one at all, be it of those that are kept.
#[must_use]
pub fn are_there_any() -> bool {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC).is_ok()
}

/// Whether an error says that there is none left, for this process or on the host.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// Some that are open for nothing, to be closed when one is needed and there is no other: where the limit was lowered
/// below what is in use, or the host has none left, nothing else is kept.
#[derive(Debug)]
pub struct Spare(Vec<EventFd>);

impl Spare {
    /// A connection, and what is asked of the kernel for its first call.
    const MANY: usize = 2;

    /// As many as there can be. To be made early, so that their numbers are low.
    #[must_use]
    pub fn new() -> Self {
        let mut spare = Self(Vec::new());
        spare.fill();
        spare
    }

    /// Opens those that were given up, as far as there are any.
    pub fn fill(&mut self) {
        while self.0.len() < Self::MANY {
            match EventFd::from_flags(EfdFlags::EFD_CLOEXEC) {
                Ok(spare) => self.0.push(spare),
                Err(_) => return,
            }
        }
    }

    /// Closes them; false where that was done before.
    pub fn give_up(&mut self) -> bool {
        let any = !self.0.is_empty();
        self.0.clear();
        any
    }
}

impl Default for Spare {
    fn default() -> Self {
        Self::new()
    }
}

/// `RLIMIT_NOFILE`, where the kernel tells it.
pub(super) fn limit() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}

/// The least number that is kept from this purpose.
fn most(limit: u64, purpose: Purpose) -> u64 {
    let kept = KEPT.min(limit / 8);
    match purpose {
        Purpose::Takeover => limit.saturating_sub(2 * kept).saturating_sub(OWN),
        Purpose::Anybody => limit.saturating_sub(2 * kept),
        Purpose::Administration => limit.saturating_sub(kept),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_for_administrators_and_some_for_ourselves() {
        assert_eq!((most(1024, Purpose::Anybody), most(1024, Purpose::Administration)), (896, 960));
        assert_eq!((most(64, Purpose::Anybody), most(64, Purpose::Administration)), (48, 56));
        assert_eq!((most(1024, Purpose::Takeover), most(64, Purpose::Takeover)), (880, 32));
        assert_eq!((most(0, Purpose::Anybody), most(u64::MAX, Purpose::Anybody)), (0, u64::MAX - 128));
    }

    #[test]
    fn a_process_with_few_open_is_not_short() {
        assert_eq!(shortage(), None);
        let pipe = nix::unistd::pipe().unwrap();
        assert!(spared(pipe.0, Purpose::Anybody).is_ok());
    }

    #[test]
    fn only_that_there_are_no_more_is_a_shortage() {
        assert!(is_shortage(&io::Error::from_raw_os_error(nix::libc::EMFILE)));
        assert!(is_shortage(&io::Error::from_raw_os_error(nix::libc::ENFILE)));
        assert!(!is_shortage(&io::Error::from_raw_os_error(nix::libc::EAGAIN)));
        assert!(!is_shortage(&io::Error::other("text")));
    }
}
