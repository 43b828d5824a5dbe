//! Asks the kernel which sockets are on a port, by `NETLINK_SOCK_DIAG` (sock_diag(7)).
//!
//! The kernel filters by port, so the answers are few even where there are many sockets. It is asked on the
//! network namespace of the calling thread.

use crate::model::SocketKind;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, TCP_CLOSE, TCP_LISTEN, TCP_TIME_WAIT,
};
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla,
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// No more sockets than this are looked at.
const MOST: usize = 10_000;
/// Larger than any part of an answer: the kernel fills at most 32 KiB.
const BUFFER: usize = 1 << 16;
/// The state of a TCP socket that is bound and neither listens nor is connected (Linux 6.8); the kernel makes
/// no answer for it unless this is asked for.
const BOUND_INACTIVE: u8 = 13;

/// What a socket is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doing {
    /// It listens, or takes datagrams from anybody.
    Listening,
    /// It is bound and nothing else.
    Bound,
    /// It is connected, or on the way there or back.
    Connected,
    /// It is closed, and the kernel keeps its address for a while.
    TimeWait,
}

/// A socket of the internet families.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Its own address; an IPv4 address that an IPv6 socket has is IPv4.
    pub(crate) local: SocketAddr,
    /// Whom it is connected to.
    pub(crate) remote: SocketAddr,
    /// `IPV6_V6ONLY`.
    pub(crate) v6only: bool,
    /// Its state.
    pub(crate) doing: Doing,
    /// Its owner.
    pub(crate) uid: u32,
    /// Its inode; 0 where no process has it.
    pub(crate) inode: u32,
}

/// The sockets that have a port as their own.
pub(crate) fn on_port(kind: SocketKind, port: u16) -> io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        dump(family, kind, port, ANY_STATE, &mut found)?;
    }
    Ok(found)
}

/// All TCP sockets that listen; `None` where there are more than are looked at.
pub(crate) fn tcp_listeners() -> io::Result<Option<Vec<Entry>>> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        dump(family, SocketKind::Stream, 0, 1 << TCP_LISTEN, &mut found)?;
    }
    Ok((found.len() < MOST).then_some(found))
}

/// Connected, listening, bound only, and whatever else there is.
const ANY_STATE: u32 = StateFlags::all().bits() | 1 << BOUND_INACTIVE;

fn dump(family: u8, kind: SocketKind, port: u16, states: u32, found: &mut Vec<Entry>) -> io::Result<()> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    socket.send(&request(family, kind, port, states), 0)?;
    let mut buffer = vec![0; BUFFER];
    while found.len() < MOST {
        let length = socket.recv(&mut &mut *buffer, 0)?;
        if read_part(buffer.get(..length).unwrap_or_default(), kind, found)? {
            break;
        }
    }
    Ok(())
}

fn request(family: u8, kind: SocketKind, port: u16, states: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    socket_id.source_port = port;
    let inet = InetRequest {
        family,
        protocol: if kind == SocketKind::Stream { IPPROTO_TCP } else { IPPROTO_UDP },
        extensions: ExtensionFlags::empty(),
        states: StateFlags::from_bits_retain(states),
        socket_id,
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(inet).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Reads the messages of one part of an answer; true when it was the last.
fn read_part(mut bytes: &[u8], kind: SocketKind, found: &mut Vec<Entry>) -> io::Result<bool> {
    while !bytes.is_empty() {
        let message = <NetlinkMessage<SockDiagMessage>>::deserialize(bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                found.push(entry(&response, kind));
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            _ => {}
        }
        // Messages begin at multiples of four, netlink(7).
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(false)
}

fn entry(response: &InetResponse, kind: SocketKind) -> Entry {
    let header = &response.header;
    let id = &header.socket_id;
    let unconnected = id.destination_port == 0;
    let doing = match (kind, header.state) {
        (SocketKind::Stream, TCP_LISTEN) => Doing::Listening,
        (SocketKind::Stream, TCP_TIME_WAIT) => Doing::TimeWait,
        (SocketKind::Stream, TCP_CLOSE | BOUND_INACTIVE) => Doing::Bound,
        (SocketKind::Datagram, _) if unconnected => Doing::Listening,
        _ => Doing::Connected,
    };
    Entry {
        local: SocketAddr::new(plain(id.source_address), id.source_port),
        remote: SocketAddr::new(plain(id.destination_address), id.destination_port),
        v6only: response.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true))),
        doing,
        uid: header.uid,
        inode: header.inode,
    }
}

/// An IPv4 address as such, also where a dual-stack socket has it.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
