//! What TCP and UDP have in common: an unbound socket with the options of its listener.

use crate::config::SocketOptions;
use crate::model::{InetEndpoint, SocketKind};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;

/// An unbound socket, close-on-exec, with everything set that must be set before bind(2).
///
/// `IPV6_V6ONLY` is always set, either way: what `net.ipv6.bindv6only` says must not matter.
pub(super) fn open(inet: &InetEndpoint, options: &SocketOptions) -> io::Result<Socket> {
    let kind = match inet.kind {
        SocketKind::Stream => Type::STREAM,
        SocketKind::Datagram => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(inet.address), kind, None)?;
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
    Ok(socket)
}

/// The address as the calls want it.
pub(super) fn address(inet: &InetEndpoint) -> SockAddr {
    SockAddr::from(inet.address)
}
