//! What the kernel says a socket is bound to.

use crate::kernel::sockopt::{disconnect, get_int};
use crate::model::{DeviceName, Endpoint, InetEndpoint, SocketKind, UnixAddress, UnixEndpoint};
use nix::libc;
use socket2::{Domain, SockAddr, SockRef, Type};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// Where a socket is bound, of whatever origin. Only what a listener can be: bound TCP, UDP and unix sockets.
pub fn endpoint_of(fd: BorrowedFd<'_>) -> io::Result<Endpoint> {
    let socket = SockRef::from(&fd);
    let kind = match socket.r#type()? {
        Type::STREAM => SocketKind::Stream,
        Type::DGRAM => SocketKind::Datagram,
        Type::SEQPACKET => SocketKind::SeqPacket,
        other => return Err(unfit(format!("sockets of type {other:?} cannot be listeners"))),
    };
    let domain = socket.domain()?;
    let address = socket.local_addr()?;
    match (domain, address.as_socket()) {
        (Domain::IPV4 | Domain::IPV6, Some(address)) => inet(&socket, kind, address).map(Endpoint::Inet),
        (Domain::UNIX, _) => Ok(Endpoint::Unix(UnixEndpoint { kind, address: unix_address(&address)? })),
        _ => Err(unfit(format!("sockets of domain {domain:?} cannot be listeners"))),
    }
}

/// The same for a socket of our own that comes back from the descriptor store, and that a holder may have
/// connected while no daemon was there to see it: a connected socket shows a part of its address only, and would
/// not be known again. It is disconnected first.
pub fn endpoint_of_stored(fd: BorrowedFd<'_>) -> io::Result<Endpoint> {
    let socket = SockRef::from(&fd);
    if matches!(socket.domain()?, Domain::IPV4 | Domain::IPV6)
        && let Ok(peer) = socket.peer_addr()
        // A UDP socket that refuses is connected to itself, and stays so.
        && peer.as_socket() != socket.local_addr()?.as_socket()
    {
        disconnect(fd)?;
    }
    endpoint_of(fd)
}

fn unfit(message: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, message)
}

fn inet(socket: &SockRef<'_>, kind: SocketKind, address: SocketAddr) -> io::Result<InetEndpoint> {
    let protocol = get_int(socket.as_fd(), libc::SOL_SOCKET, libc::SO_PROTOCOL)?;
    let fits = match kind {
        SocketKind::Stream => matches!(protocol, libc::IPPROTO_TCP | libc::IPPROTO_MPTCP),
        SocketKind::SeqPacket => false,
        SocketKind::Datagram => protocol == libc::IPPROTO_UDP,
    };
    if !fits {
        return Err(unfit(format!("sockets of IP protocol {protocol} cannot be listeners")));
    }
    let v6only = address.is_ipv6() && socket.only_v6()?;
    let device = socket.device()?.map(|name| device_name(&name)).transpose()?;
    InetEndpoint::new(kind, address, v6only, device).map_err(|error| unfit(error.to_string()))
}

fn device_name(bytes: &[u8]) -> io::Result<DeviceName> {
    let text = String::from_utf8_lossy(bytes);
    DeviceName::try_from(text.trim_end_matches('\0')).map_err(|error| unfit(error.to_string()))
}

fn unix_address(address: &SockAddr) -> io::Result<UnixAddress> {
    let text = if let Some(path) = address.as_pathname() {
        // A relative path may begin with '@' and must not pass for an abstract name.
        path.to_str().filter(|path| path.starts_with('/')).map(str::to_owned)
    } else if let Some(name) = address.as_abstract_namespace() {
        std::str::from_utf8(name).ok().map(|name| format!("@{name}"))
    } else {
        return Err(unfit("the socket is not bound".into()));
    };
    let text =
        text.ok_or_else(|| unfit("the socket's address is not an absolute path or name in UTF-8".into()))?;
    UnixAddress::parse(&text).map_err(|error| unfit(error.to_string()))
}
