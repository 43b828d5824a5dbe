//! Notices that a holder un-listened a listener's socket.
//!
//! A TCP socket that stops listening hangs up (EPOLLHUP); a unix or datagram socket that is shut down does so in
//! its receiving half (EPOLLRDHUP). Connections and datagrams that come in wake nobody: EPOLLIN is not asked
//! for. An event only says "look": what happened is for [`ListenerSocket::inspect`] to tell, and refusing by
//! ourselves makes one too.

use super::epoll::EpollSet;
use super::socket::ListenerSocket;
use nix::sys::epoll::EpollFlags;
use std::collections::BTreeMap;
use std::io;

/// Watches sockets under numbers that the caller chooses.
#[derive(Debug)]
pub struct HangupWatch {
    set: EpollSet,
    /// The current generation of each number. A socket that was replaced while some process has a copy of it
    /// stays in the kernel's set, and its events must not be taken for its successor's.
    generations: BTreeMap<u32, u32>,
    last: u32,
}

impl HangupWatch {
    /// Watches nothing yet. To be called in a runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self { set: EpollSet::new()?, generations: BTreeMap::new(), last: 0 })
    }

    /// Watches a socket from now on, in place of another that had the number. To be called again for a socket
    /// that was replaced. One that does not listen is told at once.
    pub fn add(&mut self, number: u32, socket: &ListenerSocket) -> io::Result<()> {
        self.last = self.last.wrapping_add(1);
        let event = (u64::from(number) << 32) | u64::from(self.last);
        self.set.add(socket, event, EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP)?;
        self.generations.insert(number, self.last);
        Ok(())
    }

    /// Watches a socket no longer.
    pub fn remove(&mut self, number: u32, socket: &ListenerSocket) -> io::Result<()> {
        self.generations.remove(&number);
        self.set.remove(socket)
    }

    /// The number of the next socket that hung up. Nothing is lost where the future is dropped.
    pub async fn next(&self) -> io::Result<u32> {
        loop {
            let event = self.set.next().await?;
            // Both halves fit by construction.
            let number = u32::try_from(event >> 32).unwrap_or_default();
            let generation = u32::try_from(event & u64::from(u32::MAX)).unwrap_or_default();
            if self.generations.get(&number) == Some(&generation) {
                return Ok(number);
            }
        }
    }
}
