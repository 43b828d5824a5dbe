//! What the kernel says a socket is bound to.

use crate::kernel::sockopt::{disconnect, get_int};
use crate::model::{DeviceName, Endpoint, InetEndpoint, SocketKind, UnixAddress, UnixEndpoint};
use nix::libc;
use socket2::{SockAddr, SockRef, Type};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// Where a socket is bound, of whatever origin. Only what a listener can be: bound TCP, UDP and unix sockets.
pub fn endpoint_of(fd: BorrowedFd<'_>) -> io::Result<Endpoint> {
    Ok(look(fd)?.0)
}

/// Where it is bound, and its protocol where it is one of the internet families.
fn look(fd: BorrowedFd<'_>) -> io::Result<(Endpoint, Option<i32>)> {
    let socket = SockRef::from(&fd);
    let address = socket.local_addr()?;
    match address.as_socket() {
        Some(address) => {
            let protocol = get_int(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL)?;
            Ok((Endpoint::Inet(inet(&socket, address, protocol)?), Some(protocol)))
        }
        None if address.is_unix() => Ok((Endpoint::Unix(unix(&socket, &address)?), None)),
        None => Err(unfit(format!("sockets of domain {} cannot be listeners", address.family()))),
    }
}

/// What the kernel says of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Where it is bound.
    pub endpoint: Endpoint,
    /// Whether it listens, listen(2).
    pub listens: bool,
    /// Of one of the internet families.
    pub(super) protocol: Option<i32>,
}

/// What a socket of our own is that comes back from the descriptor store, and that a holder may have
/// connected while no daemon was there to see it: a connected socket shows a part of its address only, and would
/// not be known again. It is disconnected first.
///
/// This is asked ten thousand times at a start, and so everything once.
pub fn identify_stored(fd: BorrowedFd<'_>) -> io::Result<Identity> {
    let socket = SockRef::from(&fd);
    let listens = socket.is_listener()?;
    // What listens is not connected.
    if !listens
        && let Some(peer) = socket.peer_addr().ok().and_then(|peer| peer.as_socket())
        // A UDP socket that refuses is connected to itself, and stays so.
        && Some(peer) != socket.local_addr()?.as_socket()
    {
        disconnect(fd)?;
    }
    let (endpoint, protocol) = look(fd)?;
    Ok(Identity { endpoint, listens, protocol })
}

fn unfit(message: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, message)
}

fn inet(socket: &SockRef<'_>, address: SocketAddr, protocol: i32) -> io::Result<InetEndpoint> {
    let kind = match protocol {
        libc::IPPROTO_TCP | libc::IPPROTO_MPTCP => SocketKind::Stream,
        libc::IPPROTO_UDP => SocketKind::Datagram,
        protocol => return Err(unfit(format!("sockets of IP protocol {protocol} cannot be listeners"))),
    };
    let v6only = address.is_ipv6() && socket.only_v6()?;
    let device = socket.device()?.map(|name| device_name(&name)).transpose()?;
    InetEndpoint::new(kind, address, v6only, device).map_err(|error| unfit(error.to_string()))
}

fn device_name(bytes: &[u8]) -> io::Result<DeviceName> {
    let text = String::from_utf8_lossy(bytes);
    DeviceName::try_from(text.trim_end_matches('\0')).map_err(|error| unfit(error.to_string()))
}

fn unix(socket: &SockRef<'_>, address: &SockAddr) -> io::Result<UnixEndpoint> {
    let kind = match socket.r#type()? {
        Type::STREAM => SocketKind::Stream,
        Type::DGRAM => SocketKind::Datagram,
        Type::SEQPACKET => SocketKind::SeqPacket,
        other => return Err(unfit(format!("sockets of type {other:?} cannot be listeners"))),
    };
    Ok(UnixEndpoint { kind, address: unix_address(address)? })
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
