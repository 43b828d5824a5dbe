//! Sees when somebody who shares a listening socket stops it from listening (shutdown, AF_UNSPEC).
//!
//! A TCP socket hangs up then (EPOLLHUP); a unix or datagram socket only shuts its receiving half (EPOLLRDHUP).
//! A socket that was replaced while its holder keeps a copy can be told once more, under the number of its
//! successor: an event means "look", no more.
//!
//! An epoll set of its own, edge-triggered and without EPOLLIN, so that incoming connections wake nobody here.

use super::socket_set::SocketSet;
use nix::sys::epoll::EpollFlags;
use std::io;
use std::os::fd::BorrowedFd;

/// The set.
pub struct HangupWatch(SocketSet);

impl HangupWatch {
    /// An empty set. Must be called within a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self(SocketSet::new()?))
    }

    /// Watches a socket from now on; `id` comes back when it hangs up.
    pub fn add(&self, id: u64, socket: BorrowedFd<'_>) -> io::Result<()> {
        // EPOLLHUP is always reported, and need not be asked for.
        self.0.add(id, socket, EpollFlags::EPOLLET | EpollFlags::EPOLLRDHUP)
    }

    /// Watches it no more.
    pub fn remove(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.0.remove(socket)
    }

    /// The id of the next socket that hung up.
    pub async fn next(&self) -> u64 {
        match self.0.next().await {
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
