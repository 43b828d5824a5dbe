//! Sockets that are watched for an event, each under a number: an epoll set, as the watches of this room need one.

use super::async_fd::{EpollSet, Registered};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io;
use std::os::fd::BorrowedFd;

/// The set.
pub(super) struct SocketSet(Registered<EpollSet>);

impl SocketSet {
    /// An empty set. Must be called within a tokio runtime.
    pub(super) fn new() -> io::Result<Self> {
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self(Registered::new(EpollSet(set))?))
    }

    /// Watches a socket from now on; one that is watched already is armed again.
    pub(super) fn add(&self, id: u64, socket: BorrowedFd<'_>, events: EpollFlags) -> io::Result<()> {
        let set = &self.0.get().0;
        let mut event = EpollEvent::new(events, id);
        match set.add(socket, event) {
            Err(Errno::EEXIST) => Ok(set.modify(socket, &mut event)?),
            result => Ok(result?),
        }
    }

    /// Watches it no more.
    pub(super) fn remove(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        match self.0.get().0.delete(socket) {
            Err(Errno::ENOENT) => Ok(()),
            result => Ok(result?),
        }
    }

    /// The id of the next socket that something happened to.
    pub(super) async fn next(&self) -> io::Result<u64> {
        let found = self.0.wait(|set| {
            let mut events = [EpollEvent::empty()];
            let count = set.0.wait(&mut events, EpollTimeout::ZERO)?;
            Ok(events.first().filter(|_| count > 0).map(EpollEvent::data))
        });
        found.await
    }
}
