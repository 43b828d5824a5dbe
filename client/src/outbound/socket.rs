//! Makes sockets with a given source, and sorts what the kernel says of it.

use super::prefix::Prefixes;
use crate::lease::Protocol;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

const EADDRINUSE: i32 = 98;
const EADDRNOTAVAIL: i32 = 99;

/// A program's own settings, made before the socket is bound and connected.
#[derive(Clone)]
pub(crate) struct Hook(pub(crate) Arc<HookFn>);

/// What it is given: the new socket, and whom it will be connected to.
type HookFn = dyn Fn(BorrowedFd<'_>, SocketAddr) -> io::Result<()> + Send + Sync;

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// Whether a socket shall block: the standard library's do, tokio's do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocking {
    Yes,
    No,
}

/// What a socket is to be.
#[derive(Debug, Clone)]
pub(crate) struct Plan<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) destination: SocketAddr,
    pub(crate) blocking: Blocking,
    pub(crate) hook: Option<&'a Hook>,
}

/// Why a socket could not be had with a source.
#[derive(Debug)]
pub(crate) enum Unbound {
    /// Somebody else is on the port.
    Busy(io::Error),
    /// The address is none of this host's.
    Absent(io::Error),
    /// No fault of the source's.
    Failed(io::Error),
}

impl Plan<'_> {
    /// A socket that is not bound.
    pub(crate) fn socket(&self) -> io::Result<Socket> {
        let domain = if self.destination.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let kind = match self.protocol {
            Protocol::Tcp => Type::STREAM,
            Protocol::Udp => Type::DGRAM,
        };
        let kind = if self.blocking == Blocking::No { kind.nonblocking() } else { kind };
        let socket = Socket::new_raw(domain, kind.cloexec(), None)?;
        if let Some(hook) = self.hook {
            (hook.0)(socket.as_fd(), self.destination)?;
        }
        Ok(socket)
    }

    /// A socket with this source. TCP: SO_REUSEADDR, without which a source port could serve one destination only;
    /// UDP: without it, for then the kernel keeps the port for this socket alone.
    pub(crate) fn bound(&self, source: SocketAddr, prefixes: &Prefixes) -> Result<Socket, Unbound> {
        let socket = self.socket().map_err(Unbound::Failed)?;
        if self.protocol == Protocol::Tcp {
            socket.set_reuse_address(true).map_err(Unbound::Failed)?;
        }
        match bind(&socket, source, prefixes) {
            Ok(()) => Ok(socket),
            Err(error) if is_unavailable(&error) => Err(Unbound::Absent(error)),
            Err(error) if error.raw_os_error() == Some(EADDRINUSE) => Err(Unbound::Busy(error)),
            Err(error) => Err(Unbound::Failed(error)),
        }
    }
}

fn bind(socket: &Socket, source: SocketAddr, prefixes: &Prefixes) -> io::Result<()> {
    let address = SockAddr::from(source);
    let SocketAddr::V6(v6) = source else { return socket.bind(&address) };
    if !prefixes.knows(*v6.ip()) {
        match socket.bind(&address) {
            Err(error) if is_unavailable(&error) && prefixes.ask(*v6.ip()) => {}
            result => return result,
        }
    }
    socket.set_freebind_v6(true)?;
    socket.bind(&address)
}

/// Whether connect(2) says that the 4-tuple is in use, or bind(2) that the address is not there.
pub(crate) fn is_unavailable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(EADDRNOTAVAIL)
}
