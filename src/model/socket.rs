//! A socket of the internet families, as the kernel describes it to those who ask (sock_diag(7)).

use super::Protocol;
use std::net::SocketAddr;
use std::time::Duration;

/// What a socket is doing, by the names that RFC 9293 has for TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SocketState {
    /// It waits for connections.
    Listen,
    /// It is bound, and neither listens nor is connected; a UDP socket that takes datagrams from anybody.
    Bound,
    /// It asked for a connection and has no answer yet.
    SynSent,
    /// It was asked for one, which is not complete yet.
    SynReceived,
    /// It is connected; a UDP socket that has one peer.
    Established,
    /// Its owner has closed it, and the peer has not heard of it yet.
    FinWait1,
    /// Its owner has closed it, and the peer has not.
    FinWait2,
    /// The peer has closed it, and its owner has not.
    CloseWait,
    /// Both are closing it.
    Closing,
    /// Both have closed it, and the peer's last word is awaited.
    LastAck,
    /// Both have closed it, and the kernel keeps its addresses for a while.
    TimeWait,
}

impl SocketState {
    /// The name as RFC 9293 and ss(8) write it, in small letters: `time-wait`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Bound => "bound",
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::FinWait1 => "fin-wait-1",
            Self::FinWait2 => "fin-wait-2",
            Self::CloseWait => "close-wait",
            Self::Closing => "closing",
            Self::LastAck => "last-ack",
            Self::TimeWait => "time-wait",
        }
    }
}

/// One socket. Of one that no process has any more (TIME_WAIT, and what a dead process left) there is no more than
/// addresses and state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What it is doing.
    pub state: SocketState,
    /// Its own address; an IPv4 address that an IPv6 socket has is IPv4.
    pub local: SocketAddr,
    /// Whom it is connected to; `None`: nobody.
    pub remote: Option<SocketAddr>,
    /// `IPV6_V6ONLY`; told of sockets that are not connected.
    pub v6only: bool,
    /// Its inode, by which a process has it among its descriptors; 0: no process has it.
    pub inode: u32,
    /// The user that made it; no more than 0 where its inode is 0 and its state is not told by a process.
    pub uid: u32,
    /// Where its maker was: the inode number of a cgroup's directory in the unified hierarchy; 0: not told.
    pub cgroup: u64,
    /// The number that the kernel gave it (`SO_COOKIE`).
    pub cookie: u64,
    /// The interface that it is bound to, by index; 0: none.
    pub device: u32,
    /// How long the kernel keeps it at most, where its owner has closed it: of TIME_WAIT, and of FIN_WAIT2.
    pub expires: Option<Duration>,
}

impl Socket {
    /// Whether bind(2) may bind an address that this listener, or bound socket, serves: the wildcard serves all of its
    /// family, and IPv6's of IPv4 too, unless it is told not to.
    #[must_use]
    pub fn serves(&self, address: SocketAddr) -> bool {
        let (own, other) = (self.local.ip(), address.ip());
        let covers = own == other
            || own.is_unspecified() && (own.is_ipv4() == other.is_ipv4() || own.is_ipv6() && !self.v6only);
        self.local.port() == address.port() && covers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(local: &str, v6only: bool) -> Socket {
        Socket {
            protocol: Protocol::Tcp,
            state: SocketState::Listen,
            local: local.parse().unwrap(),
            remote: None,
            v6only,
            inode: 1,
            uid: 0,
            cgroup: 0,
            cookie: 1,
            device: 0,
            expires: None,
        }
    }

    #[test]
    fn a_wildcard_serves_all_addresses_of_its_families() {
        let serves = |local, v6only, to: &str| listener(local, v6only).serves(to.parse().unwrap());
        assert!(serves("127.0.0.1:80", false, "127.0.0.1:80"));
        assert!(!serves("127.0.0.1:80", false, "127.0.0.2:80"));
        assert!(!serves("127.0.0.1:80", false, "127.0.0.1:81"));
        assert!(serves("0.0.0.0:80", false, "192.0.2.1:80"));
        assert!(!serves("0.0.0.0:80", false, "[::1]:80"));
        assert!(serves("[::]:80", false, "192.0.2.1:80") && !serves("[::]:80", true, "192.0.2.1:80"));
        assert!(serves("[::]:80", true, "[2001:db8::1]:80"));
    }
}
