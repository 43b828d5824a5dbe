//! What TCP and UDP have in common: an unbound socket with the options of its listener.

use super::options::{self, Where};
use crate::config::{SocketOptions, StreamProtocol};
use crate::model::{InetEndpoint, SocketKind};
use nix::libc;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;

/// An unbound socket, close-on-exec, with everything set that must be set before bind(2).
///
/// `IPV6_V6ONLY` is always set, either way: what `net.ipv6.bindv6only` says must not matter.
pub(super) fn open(inet: &InetEndpoint, options: &SocketOptions) -> io::Result<Socket> {
    let domain = Domain::for_address(inet.address);
    let socket = match inet.kind {
        SocketKind::Datagram => Socket::new(domain, Type::DGRAM, None)?,
        _ if options.protocol == StreamProtocol::Mptcp => mptcp(domain)?,
        _ => Socket::new(domain, Type::STREAM, None)?,
    };
    if inet.address.is_ipv6() {
        socket.set_only_v6(inet.v6only)?;
    }
    if options.free_bind && inet.address.is_ipv6() {
        socket.set_freebind_v6(true)?;
    } else if options.free_bind {
        socket.set_freebind_v4(true)?;
    }
    if let Some(device) = &inet.device {
        socket.bind_device(Some(device.as_str().as_bytes()))?;
    }
    options::apply(&socket, Where::Inet(inet), options)?;
    Ok(socket)
}

/// An MPTCP socket, or one of TCP where the kernel has no MPTCP or it is switched off in this network namespace.
/// Clients of either protocol reach either.
fn mptcp(domain: Domain) -> io::Result<Socket> {
    match Socket::new(domain, Type::STREAM, Some(socket2::Protocol::MPTCP)) {
        Err(error) if is_lacking(&error) => Socket::new(domain, Type::STREAM, None),
        result => result,
    }
}

fn is_lacking(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT | libc::ENOPROTOOPT | libc::EINVAL))
}

/// Whether MPTCP sockets can be made.
pub(super) fn has_mptcp(domain: Domain) -> bool {
    Socket::new(domain, Type::STREAM, Some(socket2::Protocol::MPTCP)).is_ok()
}

/// The address as the calls want it.
pub(super) fn address(inet: &InetEndpoint) -> SockAddr {
    SockAddr::from(inet.address)
}
