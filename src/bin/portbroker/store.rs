//! The descriptor store of the unit that this process runs in: sd_notify(3), sd_pid_notify_with_fds(3).
//!
//! Nothing is answered on the notification socket, so what systemd does not take (NotifyAccess=,
//! FileDescriptorStoreMax=) is not seen here. The barrier at the end tells only that all has been read.

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use sd_notify::NotifyState;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

const BARRIER_TIME: Duration = Duration::from_secs(5);

/// Why the sockets are not in the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Not run by systemd, or not allowed to talk to it.
    #[error(
        "NOTIFY_SOCKET is not set: `portbroker deposit` works in ExecStartPre= of a unit with NotifyAccess=exec \
         or all; elsewhere use `portbroker exec`"
    )]
    NoSocket,
    /// A message did not go through.
    #[error("cannot {what} the unit's descriptor store (NOTIFY_SOCKET={socket}): {source}")]
    Notify {
        /// As in "store web in".
        what: String,
        /// Its address.
        socket: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// systemd did not come to read the messages.
    #[error(
        "the service manager has not taken the sockets within {}s: it is busy or hangs; start the unit again",
        BARRIER_TIME.as_secs()
    )]
    Barrier,
}

/// The store of this unit.
#[derive(Debug)]
pub(crate) struct Store {
    socket: String,
}

impl Store {
    /// The store, where this process may talk to the service manager.
    pub(crate) fn open() -> Result<Self, StoreError> {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty());
        let socket = socket.ok_or(StoreError::NoSocket)?.to_string_lossy().into_owned();
        Ok(Self { socket })
    }

    /// Takes everything of this name out.
    pub(crate) fn remove(&self, name: &str) -> Result<(), StoreError> {
        let written = escaped(name);
        let message = [NotifyState::FdStoreRemove, NotifyState::FdName(&written)];
        self.sent(sd_notify::notify(&message), || format!("remove {name} from"))
    }

    /// Puts a socket in, under this name.
    pub(crate) fn add(&self, name: &str, socket: BorrowedFd<'_>) -> Result<(), StoreError> {
        let written = escaped(name);
        // FDPOLL=0: systemd would throw out a socket that hangs up, as one that is not listening does.
        let message = [NotifyState::FdStore, NotifyState::FdName(&written), NotifyState::Custom("FDPOLL=0")];
        self.sent(sd_notify::notify_with_fds(&message, &[socket]), || format!("store {name} in"))
    }

    /// Waits until systemd has read all of this: it closes what comes with the barrier after that. Otherwise the
    /// process could be gone before systemd finds out which unit it belongs to.
    pub(crate) fn barrier(&self) -> Result<(), StoreError> {
        let failed = |source: Errno| self.error("wait for".to_owned(), source.into());
        let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let result = sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[write.as_fd()]);
        self.sent(result, || "wait for".to_owned())?;
        drop(write);
        if hangs_up_within(&read, BARRIER_TIME).map_err(failed)? { Ok(()) } else { Err(StoreError::Barrier) }
    }

    fn sent(&self, result: io::Result<()>, what: impl FnOnce() -> String) -> Result<(), StoreError> {
        result.map_err(|source| self.error(what(), source))
    }

    fn error(&self, what: String, source: io::Error) -> StoreError {
        StoreError::Notify { what, socket: self.socket.clone(), source }
    }
}

/// A name as systemd reads it back: it takes a message apart by words, in which a backslash escapes what follows.
fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\")
}

fn hangs_up_within(fd: &OwnedFd, time: Duration) -> nix::Result<bool> {
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut waiting = [PollFd::new(fd.as_fd(), PollFlags::empty())];
        match poll(&mut waiting, timeout) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
            Ok(ready) => return Ok(ready > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_ends_when_the_other_side_closes_it_and_not_before() {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        assert!(!hangs_up_within(&read, Duration::from_millis(20)).unwrap());
        drop(write);
        assert!(hangs_up_within(&read, Duration::from_secs(5)).unwrap());
    }
}
