//! Sockets as typed values of the standard library, whoever they came from.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};

/// One socket of a listener.
#[derive(Debug)]
#[non_exhaustive]
pub enum Socket {
    /// TCP.
    TcpListener(TcpListener),
    /// UDP.
    UdpSocket(UdpSocket),
    /// A unix stream socket.
    UnixListener(UnixListener),
    /// A unix datagram socket.
    UnixDatagram(UnixDatagram),
    /// Any other type: the standard library has none for it.
    Other(OwnedFd),
}

impl Socket {
    /// Looks at what kind of socket a descriptor is.
    pub(crate) fn of(fd: OwnedFd) -> io::Result<Self> {
        use socket2::{Domain, SockRef, Type};
        let (domain, kind) = {
            let socket = SockRef::from(&fd);
            (socket.domain()?, socket.r#type()?)
        };
        let inet = domain == Domain::IPV4 || domain == Domain::IPV6;
        Ok(match kind {
            Type::STREAM if inet => Self::TcpListener(fd.into()),
            Type::DGRAM if inet => Self::UdpSocket(fd.into()),
            Type::STREAM if domain == Domain::UNIX => Self::UnixListener(fd.into()),
            Type::DGRAM if domain == Domain::UNIX => Self::UnixDatagram(fd.into()),
            _ => Self::Other(fd),
        })
    }

    /// What it is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TcpListener(_) => "TCP listener",
            Self::UdpSocket(_) => "UDP socket",
            Self::UnixListener(_) => "unix stream listener",
            Self::UnixDatagram(_) => "unix datagram socket",
            Self::Other(_) => "socket of another type",
        }
    }

    /// Sets `O_NONBLOCK`, which belongs to the open file description: everyone who has the socket has it too.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::TcpListener(socket) => socket.set_nonblocking(nonblocking),
            Self::UdpSocket(socket) => socket.set_nonblocking(nonblocking),
            Self::UnixListener(socket) => socket.set_nonblocking(nonblocking),
            Self::UnixDatagram(socket) => socket.set_nonblocking(nonblocking),
            Self::Other(fd) => socket2::SockRef::from(fd).set_nonblocking(nonblocking),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::TcpListener(socket) => socket.as_fd(),
            Self::UdpSocket(socket) => socket.as_fd(),
            Self::UnixListener(socket) => socket.as_fd(),
            Self::UnixDatagram(socket) => socket.as_fd(),
            Self::Other(fd) => fd.as_fd(),
        }
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        match socket {
            Socket::TcpListener(socket) => socket.into(),
            Socket::UdpSocket(socket) => socket.into(),
            Socket::UnixListener(socket) => socket.into(),
            Socket::UnixDatagram(socket) => socket.into(),
            Socket::Other(fd) => fd,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_becomes_the_socket_that_it_is() {
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        assert!(matches!(Socket::of(udp.into()).unwrap(), Socket::UdpSocket(_)));
        let (unix, _peer) = UnixDatagram::pair().unwrap();
        assert!(matches!(Socket::of(unix.into()).unwrap(), Socket::UnixDatagram(_)));
        let tcp = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        assert!(matches!(Socket::of(tcp.into()).unwrap(), Socket::TcpListener(_)));
        let packets = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::SEQPACKET, None).unwrap();
        assert!(matches!(Socket::of(packets.into()).unwrap(), Socket::Other(_)));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Socket::of(file.into()).is_err());
    }
}
