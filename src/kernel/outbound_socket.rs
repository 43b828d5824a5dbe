//! Sockets that are handed out for a way to somewhere: bound to a leased source, and, of UDP, connected.
//!
//! TCP sockets have `SO_REUSEADDR`, without which one source could not go to two destinations; the kernel refuses a
//! 4-tuple that is in use when they connect. UDP sockets do not: with it two sockets could have one 4-tuple, and the
//! newer would take the datagrams of the other.

use super::descriptors::{Purpose, spared};
use crate::model::Protocol;
use nix::libc;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Why there is no such socket.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The source is in use: another may do.
    #[error("{source_address} is in use")]
    Busy {
        /// The source.
        source_address: SocketAddr,
    },
    /// The source address is not on this host.
    #[error(
        "{source_address} is not an address of this host: give it to an interface, or take it out of the pool"
    )]
    Absent {
        /// The source.
        source_address: SocketAddr,
    },
    /// There is no way from the source to the destination.
    #[error("there is no way from {source_address} to {destination}: {error}")]
    Unreachable {
        /// The source.
        source_address: SocketAddr,
        /// Where it was to go.
        destination: SocketAddr,
        /// The kernel's answer.
        error: io::Error,
    },
    /// Source and destination are of two families.
    #[error("{source_address} and {destination} are not of one family")]
    Families {
        /// The source.
        source_address: SocketAddr,
        /// Where it was to go.
        destination: SocketAddr,
    },
    /// This process, or the host, has no room for another descriptor.
    #[error("no more sockets can be made: {error}; raise LimitNOFILE= of the broker, or fs.file-max")]
    TooMany {
        /// The kernel's answer.
        error: io::Error,
    },
    /// Any other answer of the kernel.
    #[error("cannot {action} a socket of {source_address}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The source.
        source_address: SocketAddr,
        /// The kernel's answer.
        error: io::Error,
    },
}

/// Makes a socket that is bound to `source`, and, of UDP, connected to `destination`; close-on-exec.
///
/// With `freebind` the address need not be one of an interface: those of a prefix are local by a route.
pub fn make(
    protocol: Protocol,
    source: SocketAddr,
    destination: Option<SocketAddr>,
    freebind: bool,
) -> Result<OwnedFd, Refused> {
    if let Some(destination) = destination.filter(|to| to.is_ipv4() != source.is_ipv4()) {
        return Err(Refused::Families { source_address: source, destination });
    }
    let failed = |action| move |error| Refused::new(action, source, error);
    let socket = prepared(protocol, source, freebind).map_err(failed("make"))?;
    socket.bind(&SockAddr::from(source)).map_err(failed("bind"))?;
    if let (Protocol::Udp, Some(destination)) = (protocol, destination) {
        socket.connect(&SockAddr::from(destination)).map_err(|error| match error.kind() {
            ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::PermissionDenied => {
                Refused::Unreachable { source_address: source, destination, error }
            }
            _ => Refused::new("connect", source, error),
        })?;
    }
    Ok(socket.into())
}

fn prepared(protocol: Protocol, source: SocketAddr, freebind: bool) -> io::Result<Socket> {
    let kind = if protocol == Protocol::Tcp { Type::STREAM } else { Type::DGRAM };
    let socket = spared(Socket::new(Domain::for_address(source), kind, None)?, Purpose::Anybody)?;
    if protocol == Protocol::Tcp {
        socket.set_reuse_address(true)?;
    }
    if source.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    match (freebind, source.is_ipv6()) {
        (false, _) => {}
        (true, false) => socket.set_freebind_v4(true)?,
        (true, true) => socket.set_freebind_v6(true)?,
    }
    Ok(socket)
}

impl Refused {
    fn new(action: &'static str, source_address: SocketAddr, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EADDRINUSE) => Self::Busy { source_address },
            Some(libc::EADDRNOTAVAIL) => Self::Absent { source_address },
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Self::TooMany { error },
            _ => Self::Io { action, source_address, error },
        }
    }
}
