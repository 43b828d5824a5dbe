//! Sees the first connection, or datagram, that comes to a socket which nobody serves.
//!
//! An epoll set of its own. A socket that is watched is told of once, whatever waits or comes later, until it is
//! watched again: a flood wakes nobody more than once.

use super::process::poll_now;
use super::socket_set::SocketSet;
use nix::poll::{PollFd, PollFlags};
use nix::sys::epoll::EpollFlags;
use std::io;
use std::os::fd::BorrowedFd;

/// Whether a connection or a datagram waits in a socket's queue.
pub fn is_queued(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut sockets = [PollFd::new(socket, PollFlags::POLLIN)];
    poll_now(&mut sockets)?;
    let [socket] = sockets;
    Ok(socket.revents().is_some_and(|events| events.contains(PollFlags::POLLIN)))
}

/// The set.
pub struct ArrivalWatch(SocketSet);

impl ArrivalWatch {
    /// An empty set. Must be called within a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self(SocketSet::new()?))
    }

    /// Watches a socket until something comes, or is there already; `id` comes back then, once.
    pub fn add(&self, id: u64, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.0.add(id, socket, EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT)
    }

    /// Watches it no more.
    pub fn remove(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.0.remove(socket)
    }

    /// The id of the next socket that something came to, or that has an error or hung up.
    pub async fn next(&self) -> u64 {
        match self.0.next().await {
            Ok(id) => id,
            Err(error) => {
                tracing::error!(%error, "cannot watch for connections any more: no service is started by them");
                std::future::pending().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpStream, UdpSocket};
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    async fn woken(watch: &ArrivalWatch) -> Option<u64> {
        tokio::time::timeout(Duration::from_millis(100), watch.next()).await.ok()
    }

    #[tokio::test]
    async fn the_first_connection_is_told_once_until_the_socket_is_watched_again() {
        let watch = ArrivalWatch::new().unwrap();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        socket.listen(64).unwrap();
        watch.add(7, socket.as_fd()).unwrap();
        assert_eq!(woken(&watch).await, None);
        assert!(!is_queued(socket.as_fd()).unwrap());
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let _clients: Vec<_> = (0..10).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert_eq!(woken(&watch).await, Some(7));
        assert_eq!(woken(&watch).await, None);
        assert!(is_queued(socket.as_fd()).unwrap());

        // What waits already counts.
        watch.add(8, socket.as_fd()).unwrap();
        assert_eq!(woken(&watch).await, Some(8));
        watch.add(9, socket.as_fd()).unwrap();
        watch.remove(socket.as_fd()).unwrap();
        watch.remove(socket.as_fd()).unwrap();
        assert_eq!(woken(&watch).await, None);
    }

    #[tokio::test]
    async fn a_datagram_counts_too() {
        let watch = ArrivalWatch::new().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        watch.add(3, socket.as_fd()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        assert_eq!(woken(&watch).await, Some(3));
        assert!(is_queued(socket.as_fd()).unwrap());
    }
}
