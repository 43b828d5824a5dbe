//! Which addresses are local now, and a watch that wakes when that changes, by rtnetlink(7).
//!
//! Nothing is remembered: the events say no more than "look", so none that is lost or merged does any harm, and an
//! overflow of their queue is one more event. The network namespace is that of the thread that makes the watch, and
//! of the one that looks; it must be the same.

use crate::model::{InterfaceAddress, Present};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily as Domain, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket, sockopt,
};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;
use tokio::time::Instant;

use super::async_fd::Registered;

/// Larger than any part of an answer: the kernel fills at most 32 KiB.
const BUFFER: usize = 1 << 16;
/// More addresses, or routes, are not looked at.
const MOST: usize = 100_000;
/// `RT_TABLE_LOCAL`, linux/rtnetlink.h.
const TABLE_LOCAL: u32 = 255;
/// So often a list is asked for that changed while it was told.
const TRIES: usize = 4;
/// Changes come in swarms: an interface that goes up has several.
const SETTLE: Duration = Duration::from_millis(100);
/// What the queue of events holds; each takes about 1 KiB.
const QUEUE: usize = 256 * 1024;

/// Wakes when addresses come or go.
pub struct AddressWatch {
    events: Registered<OwnedFd>,
    /// When a change that was seen is told. Kept here, so that nothing is lost with a future that is dropped.
    due: Option<Instant>,
}

impl AddressWatch {
    /// Watches from now on. Must be called within a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Self::with_queue(QUEUE)
    }

    /// The same with a queue of so many bytes for events; the kernel doubles it, and has a least size.
    pub fn with_queue(bytes: usize) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let events = socket(Domain::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        setsockopt(&events, sockopt::RcvBuf, &bytes)?;
        let groups = libc::RTMGRP_LINK
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV6_ROUTE;
        bind(events.as_raw_fd(), &NetlinkAddr::new(0, groups.cast_unsigned()))?;
        Ok(Self { events: Registered::new(events)?, due: None })
    }

    /// Returns when something changed, or may have; soon after the first change, for all of them together. An error: no
    /// change is seen by this any more.
    pub async fn changed(&mut self) -> io::Result<()> {
        let due = match self.due {
            Some(due) => due,
            None => {
                self.events.wait(next_change).await?;
                *self.due.insert(Instant::now() + SETTLE)
            }
        };
        tokio::time::sleep_until(due).await;
        // What is known already need not wake again. An error comes again with the next call.
        while let Ok(Some(())) = next_change(self.events.get()) {}
        self.due = None;
        Ok(())
    }

    /// Asks which addresses are local now.
    pub fn present(&self) -> io::Result<Present> {
        present()
    }
}

/// Reads events until one is of use; `None` where there are none any more.
fn next_change(events: &OwnedFd) -> io::Result<Option<()>> {
    // The beginning of an event is all that is looked at.
    let mut buffer = [0; 256];
    loop {
        match recv(events.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) if is_of_use(buffer.get(..length).unwrap_or_default()) => return Ok(Some(())),
            Ok(_) | Err(Errno::EINTR) => {}
            // The queue ran over: whatever it was may have been of use.
            Err(Errno::ENOBUFS) => return Ok(Some(())),
            Err(Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether an event can change what is local. A router's routes change all the time.
fn is_of_use(event: &[u8]) -> bool {
    // `struct nlmsghdr`: length, then the type; behind its 16 bytes `struct rtmsg`, whose eighth is the type.
    let kind =
        event.get(4..6).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u16::from_ne_bytes(*bytes));
    match kind {
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => event.get(16 + 7) == Some(&libc::RTN_LOCAL),
        _ => true,
    }
}

/// Asks which addresses are local now, in the network namespace of the calling thread.
pub fn present() -> io::Result<Present> {
    let mut names = HashMap::new();
    let mut interfaces = Vec::new();
    for message in dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        if let RouteNetlinkMessage::NewAddress(message) = message {
            interfaces.extend(interface_address(&message, &mut names));
        }
    }
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let found = match dump(&RouteNetlinkMessage::GetRoute(local_routes_of(family))) {
            // No table of that family: the kernel has IPv6 switched off.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT)
                ) =>
            {
                continue;
            }
            found => found?,
        };
        for message in found {
            if let RouteNetlinkMessage::NewRoute(message) = message {
                routes.extend(local_route(&message));
            }
        }
    }
    Ok(Present::new(interfaces, routes))
}

/// All that the kernel has of something. A list that changed while it was told is asked for again; when it always
/// changes the last one has to do, and the watch will say so.
fn dump(request: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut found = Vec::new();
    for _ in 0..TRIES {
        let (messages, whole) = dump_once(request)?;
        found = messages;
        if whole {
            break;
        }
    }
    Ok(found)
}

fn dump_once(request: &RouteNetlinkMessage) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    // So that the kernel filters by what is in the request; older ones than 4.20 cannot, and tell everything.
    let _ = socket.set_netlink_get_strict_chk(true);
    socket.connect(&NetlinkAddress::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request.clone()));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut buffer = vec![0; BUFFER];
    let (mut found, mut whole) = (Vec::new(), true);
    loop {
        let length = socket.recv(&mut &mut *buffer, 0)?;
        if read_part(buffer.get(..length).unwrap_or_default(), &mut found, &mut whole)? {
            return Ok((found, whole));
        }
    }
}

/// Reads the messages of one part of an answer; true when it was the last.
fn read_part(mut bytes: &[u8], found: &mut Vec<RouteNetlinkMessage>, whole: &mut bool) -> io::Result<bool> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    while !bytes.is_empty() {
        let message = <NetlinkMessage<RouteNetlinkMessage>>::deserialize(bytes)
            .map_err(|error| invalid(error.to_string()))?;
        *whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
        match message.payload {
            NetlinkPayload::InnerMessage(inner) if found.len() < MOST => found.push(inner),
            NetlinkPayload::InnerMessage(_) => {
                return Err(invalid(format!("the kernel has more than {MOST} addresses, or local routes")));
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

/// An address with its interface's name; `None` where the interface is gone.
fn interface_address(
    message: &AddressMessage,
    names: &mut HashMap<u32, Option<String>>,
) -> Option<InterfaceAddress> {
    let index = message.header.index;
    let name = names.entry(index).or_insert_with(|| name_of(index)).clone()?;
    let (mut local, mut address) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            // Where the two differ the other is that of the peer.
            AddressAttribute::Local(own) => local = Some(*own),
            AddressAttribute::Address(either) => address = Some(*either),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let unready = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    Some(InterfaceAddress {
        address: local.or(address)?,
        interface: name,
        global: matches!(message.header.scope, AddressScope::Universe | AddressScope::Site),
        ready: !flags.intersects(unready),
    })
}

fn name_of(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index).ok().map(|name| name.to_string_lossy().into_owned())
}

/// What asks for the local routes of a family.
fn local_routes_of(family: AddressFamily) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = libc::RT_TABLE_LOCAL;
    message.header.kind = RouteType::Local;
    message
}

/// Base and length of a route of the type `local`, in the table that is asked for every packet.
fn local_route(message: &RouteMessage) -> Option<(IpAddr, u8)> {
    let header = &message.header;
    let (mut table, mut base) = (u32::from(header.table), None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(address)) => base = Some(IpAddr::V4(*address)),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => base = Some(IpAddr::V6(*address)),
            _ => {}
        }
    }
    if table != TABLE_LOCAL || header.kind != RouteType::Local {
        return None;
    }
    // A route for everything has no destination.
    let everything = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    Some((base.unwrap_or(everything), header.destination_prefix_length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_answer_is_too_odd(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), length in 0u32..220,
            kind in prop_oneof![Just(20u16), Just(24u16), any::<u16>()],
        ) {
            let mut answer = length.to_ne_bytes().to_vec();
            answer.extend(kind.to_ne_bytes());
            answer.extend(&bytes);
            for answer in [&answer, &bytes] {
                let (mut found, mut whole) = (Vec::new(), true);
                let _ = read_part(answer, &mut found, &mut whole);
                for message in found {
                    match message {
                        RouteNetlinkMessage::NewAddress(message) => drop(interface_address(&message, &mut HashMap::new())),
                        RouteNetlinkMessage::NewRoute(message) => drop(local_route(&message)),
                        _ => {}
                    }
                }
                let _ = is_of_use(answer);
            }
        }
    }
}
