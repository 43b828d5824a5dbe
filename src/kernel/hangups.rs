//! Sees when somebody who shares a listening socket stops it from listening (shutdown, AF_UNSPEC).
//!
//! A TCP socket hangs up then (EPOLLHUP); a unix or datagram socket only shuts its receiving half (EPOLLRDHUP).
//! A socket that was replaced while its holder keeps a copy can be told once more, under the number of its
//! successor: an event means "look", no more.
//!
//! An epoll set of its own, edge-triggered and without EPOLLIN, so that incoming connections wake nobody here.

use super::async_fd::{EpollSet, Registered};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io;
use std::os::fd::BorrowedFd;

/// The set.
pub struct HangupWatch(Registered<EpollSet>);

impl HangupWatch {
    /// An empty set. Must be called within a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self(Registered::new(EpollSet(set))?))
    }

    /// Watches a socket from now on; `id` comes back when it hangs up.
    pub fn add(&self, id: u64, socket: BorrowedFd<'_>) -> io::Result<()> {
        let set = &self.0.get().0;
        // EPOLLHUP is always reported, and need not be asked for.
        let mut event = EpollEvent::new(EpollFlags::EPOLLET | EpollFlags::EPOLLRDHUP, id);
        match set.add(socket, event) {
            // There already: armed again.
            Err(Errno::EEXIST) => Ok(set.modify(socket, &mut event)?),
            result => Ok(result?),
        }
    }

    /// Watches it no more.
    pub fn remove(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        match self.0.get().0.delete(socket) {
            Err(Errno::ENOENT) => Ok(()),
            result => Ok(result?),
        }
    }

    /// The id of the next socket that hung up.
    pub async fn next(&self) -> u64 {
        let found = self.0.wait(|set| {
            let mut events = [EpollEvent::empty()];
            let count = set.0.wait(&mut events, EpollTimeout::ZERO)?;
            Ok(events.first().filter(|_| count > 0).map(EpollEvent::data))
        });
        match found.await {
            Ok(id) => id,
            Err(error) => {
                tracing::error!(%error, "cannot watch listening sockets any more");
                std::future::pending().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    #[tokio::test]
    async fn a_listener_that_is_stopped_hangs_up_and_connections_wake_nobody() {
        let watch = HangupWatch::new().unwrap();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        socket.listen(8).unwrap();
        watch.add(7, socket.as_fd()).unwrap();
        let _client =
            std::net::TcpStream::connect(socket.local_addr().unwrap().as_socket().unwrap()).unwrap();
        let silence = tokio::time::timeout(Duration::from_millis(100), watch.next()).await;
        assert!(silence.is_err(), "a connection woke us");
        for _ in 0..2 {
            socket.shutdown(std::net::Shutdown::Read).unwrap();
            assert_eq!(tokio::time::timeout(Duration::from_secs(5), watch.next()).await, Ok(7));
            socket.listen(8).unwrap();
        }
        watch.remove(socket.as_fd()).unwrap();
        watch.remove(socket.as_fd()).unwrap();
    }
}
