//! TCP sockets as they end, told by the kernel (`SKNLGRP_INET_TCP_DESTROY` and `SKNLGRP_INET6_TCP_DESTROY` of
//! `NETLINK_SOCK_DIAG`).
//!
//! A socket ends when its TIME_WAIT *starts*, and what the kernel keeps after that ends without a word: an event means
//! "look again". A burst overflows the queue; that is told as a value, and means "look at everything again".
//!
//! Every socket of the network namespace that ends costs the kernel a message as long as this is open, so it should be
//! only while somebody waits for one.

use super::async_fd::Registered;
use super::inet_diag::{BUFFER, told};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// A bit for each group: `SKNLGRP_INET_TCP_DESTROY` is the first and `SKNLGRP_INET6_TCP_DESTROY` the third.
const GROUPS: u32 = 1 | 1 << 2;

/// Room in bytes for messages that wait: some 8,000 of them.
pub const ROOM: usize = 4 << 20;

/// More messages than have room at once.
const MOST: usize = 1 << 16;

/// A socket that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Its own address. After a reset, or where connect(2) failed, the kernel has forgotten the port: it is 0.
    pub local: SocketAddr,
    /// Whom it was connected to; port 0: nobody.
    pub remote: SocketAddr,
    /// The number that the kernel gave it (`SO_COOKIE`).
    pub cookie: u64,
}

/// Messages were lost: everything has to be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more sockets ended at once than there is room for: look at everything again")]
pub struct Overflow;

/// The subscription.
pub struct Destroyed {
    socket: Registered<OwnedFd>,
    buffer: Vec<u8>,
    waiting: VecDeque<Closed>,
}

impl Destroyed {
    /// Subscribes for the network namespace of this thread, with so much room in bytes for what waits (see [`ROOM`]).
    /// Must be called within a tokio runtime.
    pub fn subscribe(room: usize) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let kind = SockType::Raw;
        let socket = socket(AddressFamily::Netlink, kind, flags, SockProtocol::NetlinkSockDiag)?;
        // Without CAP_NET_ADMIN net.core.rmem_max limits it; an overflow is told either way.
        setsockopt(&socket, RcvBufForce, &room).or_else(|_| setsockopt(&socket, RcvBuf, &room))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self { socket: Registered::new(socket)?, buffer: vec![0; BUFFER], waiting: VecDeque::new() })
    }

    /// The next socket that ended. Nothing is lost where the future is dropped.
    pub async fn next(&mut self) -> Result<Closed, Overflow> {
        loop {
            if let Some(closed) = self.waiting.pop_front() {
                return Ok(closed);
            }
            let Self { socket, buffer, waiting } = self;
            let read = socket.wait(|socket| receive(socket, buffer, waiting)).await;
            if let Err(error) = read {
                if error.raw_os_error() == Some(libc::ENOBUFS) {
                    self.throw_away();
                    return Err(Overflow);
                }
                tracing::error!(%error, "cannot see any more when TCP sockets end");
                return std::future::pending().await;
            }
        }
    }

    /// Empties the queue. From an overflow on the kernel drops every message, and says so no more, until it is empty:
    /// whoever looked at everything before that would miss what ended meanwhile.
    fn throw_away(&mut self) {
        for _ in 0..MOST {
            match receive(self.socket.get(), &mut self.buffer, &mut self.waiting) {
                Ok(None) => break,
                // Or it overflowed once more.
                Ok(Some(())) | Err(_) => self.waiting.clear(),
            }
        }
    }
}

/// Reads one datagram; `None` where there is none.
fn receive(socket: &OwnedFd, buffer: &mut [u8], waiting: &mut VecDeque<Closed>) -> io::Result<Option<()>> {
    match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
        Ok(length) => {
            told(buffer.get(..length).unwrap_or_default(), |answer| {
                let (local, remote, cookie) = (answer.local(), answer.remote(), answer.cookie());
                waiting.push_back(Closed { local, remote, cookie });
            })?;
            Ok(Some(()))
        }
        Err(Errno::EAGAIN) => Ok(None),
        Err(Errno::EINTR) => Ok(Some(())),
        Err(error) => Err(error.into()),
    }
}
