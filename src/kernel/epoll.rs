//! Any number of descriptors behind one that the runtime watches.
//!
//! An entry is named by a number that its owner chooses. Every entry is edge-triggered: an event is told once.

use super::async_fd::{Owner, register};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io;
use std::os::fd::AsFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A set of watched descriptors.
#[derive(Debug)]
pub(crate) struct EpollSet(AsyncFd<Owner<Epoll>>);

impl EpollSet {
    /// An empty set. To be called in a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        register(epoll, Interest::READABLE).map(Self)
    }

    /// Watches a descriptor, or watches it under another number.
    ///
    /// The kernel forgets it by itself when the last copy of the descriptor is closed, in whatever process.
    pub(crate) fn add(&self, fd: impl AsFd, number: u64, events: EpollFlags) -> io::Result<()> {
        let event = || EpollEvent::new(events | EpollFlags::EPOLLET, number);
        let epoll = self.0.get_ref().get();
        match epoll.add(&fd, event()) {
            Err(Errno::EEXIST) => epoll.modify(&fd, &mut event()),
            result => result,
        }
        .map_err(io::Error::from)
    }

    /// Forgets a descriptor; that it is not watched is as good.
    pub(crate) fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        match self.0.get_ref().get().delete(fd) {
            Err(Errno::ENOENT) => Ok(()),
            result => result.map_err(io::Error::from),
        }
    }

    /// Waits for an event, and says whose. Nothing is lost where the future is dropped.
    pub(crate) async fn next(&self) -> io::Result<u64> {
        self.0.async_io(Interest::READABLE, |epoll| next_now(epoll.get())).await
    }
}

/// One event that is there now.
fn next_now(epoll: &Epoll) -> io::Result<u64> {
    let mut events = [EpollEvent::empty()];
    match epoll.wait(&mut events, EpollTimeout::ZERO)? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => {
            let [event] = events;
            Ok(event.data())
        }
    }
}
