//! Whether source addresses and ports are in use, by `NETLINK_SOCK_DIAG` (sock_diag(7)): one 4-tuple exactly, in a
//! few microseconds, or whatever is on some ports of an address, which takes the kernel a walk over all its sockets.
//!
//! - Sockets of IPv6 programs that talk IPv4 have IPv4 tuples and are found as such.
//! - A TCP socket that only listens does not have a tuple, and [`Lookup::look`] does not see it.
//! - A TCP socket that is bound and neither listens nor is connected is seen by [`Lookup::range`] alone, from Linux
//!   6.8 on.
//! - A TCP socket that is bound to a device (`SO_BINDTODEVICE`) is not seen by [`Lookup::look`]: the kernel keeps its
//!   tuple apart, and lets others connect the same one. It is seen by [`Lookup::range`], and by
//!   [`Lookup::look_on_devices`] where that device is asked for.
//! - A socket that is bound to all addresses is on none of them here: `listening` tells of those.
//!
//! The network namespace is that of the thread that made the [`Lookup`]. What to do about what is seen is decided by
//! others.

use super::inet_diag::{
    ANY_STATE, Answer, BC_JUMP, BC_PORT_FROM, BC_PORT_TO, COMPARISON, Diag, JUMP, Question, family_of,
};
use crate::model::{PortRange, Protocol, Seen, SourceRange, Tuple};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, TCP_TIME_WAIT};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// `INET_DIAG_BC_S_COND`, an operation of filters.
const BC_LOCAL: u8 = 7;
/// So many ranges are asked for at once.
const MOST: usize = 64;

/// An interface, by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device(u32);

impl Device {
    /// The interface of that name, where there is one now.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        nix::net::if_::if_nametoindex(name).ok().map(Self)
    }
}

/// A socket that is kept for asking.
pub struct Lookup(Diag);

impl Lookup {
    /// Opens it, in the network namespace of this thread.
    pub fn new() -> io::Result<Self> {
        Diag::new().map(Self)
    }

    /// What the kernel has of a tuple.
    ///
    /// One of UDP, and one without a destination, is in use when anything is on its source; that is a [`Self::range`]
    /// of one port.
    pub fn look(&mut self, tuple: &Tuple) -> io::Result<Seen> {
        match (tuple.protocol, tuple.destination) {
            (Protocol::Tcp, Some(destination)) => {
                let found = self.exactly(tuple.source, destination, 0, seen)?;
                Ok(found.unwrap_or(Seen::Free))
            }
            _ => self.anything_on(tuple),
        }
    }

    /// The same; and where it is nothing, what a socket has of it that is bound to one of these devices.
    pub fn look_on_devices(&mut self, tuple: &Tuple, devices: &[Device]) -> io::Result<Seen> {
        let mut found = self.look(tuple)?;
        if let (Protocol::Tcp, Some(destination)) = (tuple.protocol, tuple.destination) {
            for device in devices {
                if found != Seen::Free {
                    break;
                }
                found = self.exactly(tuple.source, destination, device.0, seen)?.unwrap_or(Seen::Free);
            }
        }
        Ok(found)
    }

    /// What is on these ports of an address: own address, whom it is connected to (port 0: nobody), and what it is.
    pub fn range(
        &mut self,
        protocol: Protocol,
        range: &SourceRange,
    ) -> io::Result<Vec<(SocketAddr, SocketAddr, Seen)>> {
        self.ranges(protocol, std::slice::from_ref(range))
    }

    /// The same of several ranges, for about the price of one.
    pub fn ranges(
        &mut self,
        protocol: Protocol,
        ranges: &[SourceRange],
    ) -> io::Result<Vec<(SocketAddr, SocketAddr, Seen)>> {
        let mut found = Vec::new();
        self.each(protocol, ranges, |answer| found.push((answer.local(), answer.remote(), seen(answer))))?;
        Ok(found)
    }

    /// The sockets that have a tuple, or may take it: those that are bound to its source.
    pub(super) fn holders(&mut self, tuple: &Tuple) -> io::Result<Vec<Holder>> {
        if let (Protocol::Tcp, Some(destination)) = (tuple.protocol, tuple.destination) {
            let found = self.exactly(tuple.source, destination, 0, holder)?;
            if let Some(found) = found.filter(|holder| holder.inode != 0) {
                return Ok(vec![found]);
            }
        }
        let mut found = Vec::new();
        let of_it = |remote: SocketAddr| {
            remote.port() == 0 || tuple.destination.is_none_or(|destination| destination == remote)
        };
        self.each(tuple.protocol, &[source_of(tuple)?], |answer| {
            if answer.inode() != 0 && (tuple.protocol == Protocol::Udp || of_it(answer.remote())) {
                found.push(holder(answer));
            }
        })?;
        Ok(found)
    }

    fn each(
        &mut self,
        protocol: Protocol,
        ranges: &[SourceRange],
        mut read: impl FnMut(Answer<'_>),
    ) -> io::Result<()> {
        for ranges in ranges.chunks(MOST) {
            let filter = within(ranges);
            // IPv4 addresses are those of sockets of both families.
            let four = ranges.iter().any(|range| range.address.is_ipv4());
            for family in [four.then_some(AF_INET), Some(AF_INET6)].into_iter().flatten() {
                let question = Question { filter: &filter, ..Question::all(family, protocol, ANY_STATE) };
                self.0.dump(&question, |answer| {
                    read(answer);
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    fn exactly<R>(
        &mut self,
        source: SocketAddr,
        destination: SocketAddr,
        device: u32,
        read: impl FnOnce(Answer<'_>) -> R,
    ) -> io::Result<Option<R>> {
        let family = family_of(source.ip());
        let question = Question {
            local: Some(source),
            remote: Some(destination),
            device,
            ..Question::all(family, Protocol::Tcp, ANY_STATE)
        };
        // Where nothing is connected, the kernel answers with who listens there.
        let is_it = |answer: &Answer<'_>| answer.remote().port() == destination.port();
        self.0.find(&question, |answer| Some(answer).filter(is_it).map(read))
    }

    fn anything_on(&mut self, tuple: &Tuple) -> io::Result<Seen> {
        let found = self.range(tuple.protocol, &source_of(tuple)?)?;
        Ok(found.into_iter().map(|(_, _, seen)| seen).max().unwrap_or(Seen::Free))
    }
}

/// What of a socket leads to its owner.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder {
    pub(super) uid: u32,
    /// 0 where no process has it any more.
    pub(super) inode: u32,
    pub(super) cgroup: u64,
}

fn holder(answer: Answer<'_>) -> Holder {
    Holder { uid: answer.uid(), inode: answer.inode(), cgroup: answer.cgroup() }
}

/// The one port of a tuple's source.
fn source_of(tuple: &Tuple) -> io::Result<SourceRange> {
    let port = tuple.source.port();
    let ports = PortRange::new(port, port).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(SourceRange { address: tuple.source.ip(), ports })
}

fn seen(answer: Answer<'_>) -> Seen {
    if answer.state() == TCP_TIME_WAIT {
        return Seen::TimeWait(Duration::from_millis(answer.expires().into()));
    }
    Seen::Open { cookie: answer.cookie(), uid: answer.uid(), cgroup: answer.cgroup() }
}

/// A program for `inet_diag_bc_run()` that accepts the sockets of these ranges.
///
/// Each range is its conditions and a jump to the very end; a condition that does not hold leads to the next range,
/// and of the last one beyond the end.
fn within(ranges: &[SourceRange]) -> Vec<u8> {
    let mut program = Vec::new();
    let sizes: Vec<usize> = ranges.iter().map(size).collect();
    let mut left: usize = sizes.iter().sum();
    for (range, size) in ranges.iter().zip(sizes) {
        left = left.saturating_sub(size);
        // How far the next range is from the end of this one: at once, or beyond the end.
        let over = if left == 0 { 4 } else { 0 };
        let begin = program.len();
        let otherwise = |program: &Vec<u8>| distance(size + over + begin - program.len());
        for (code, port) in [(BC_PORT_FROM, range.ports.first()), (BC_PORT_TO, range.ports.last())] {
            let way = otherwise(&program);
            program.extend([code, COMPARISON]);
            program.extend(way);
            program.extend([0, 0]);
            program.extend(port.to_ne_bytes());
        }
        let way = otherwise(&program);
        let (family, octets) = condition(range.address);
        program.extend([BC_LOCAL, 12 + u8::try_from(octets.len()).unwrap_or_default()]);
        program.extend(way);
        // Family, length of the prefix, padding, and any port.
        program.extend([family, u8::try_from(octets.len() * 8).unwrap_or_default(), 0, 0]);
        program.extend((-1i32).to_ne_bytes());
        program.extend(octets);
        program.extend([BC_JUMP, 4]);
        program.extend(distance(JUMP + left));
    }
    program
}

/// The bytes of one range.
fn size(range: &SourceRange) -> usize {
    2 * usize::from(COMPARISON) + 12 + condition(range.address).1.len() + JUMP
}

fn condition(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(four) => (AF_INET, four.octets().to_vec()),
        IpAddr::V6(six) => (AF_INET6, six.octets().to_vec()),
    }
}

fn distance(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What `inet_diag_bc_run()` of the kernel makes of a program; `None`: `inet_diag_bc_audit()` refuses it.
    fn accepts(program: &[u8], local: SocketAddr) -> Option<bool> {
        let mut at = 0;
        while at < program.len() {
            let [code, yes, no, no_high] = program.get(at..at + 4)?.try_into().ok()?;
            let no = usize::from(u16::from_ne_bytes([no, no_high]));
            let left = program.len() - at;
            (yes.is_multiple_of(4) && no.is_multiple_of(4) && no >= 4 && no <= left + 4).then_some(())?;
            let value = || u16::from_ne_bytes([program[at + 6], program[at + 7]]);
            let holds = match code {
                BC_PORT_FROM => local.port() >= value(),
                BC_PORT_TO => local.port() <= value(),
                BC_LOCAL => {
                    let (family, octets) = condition(local.ip());
                    program[at + 4] == family && program[at + 12..at + usize::from(yes)] == octets
                }
                BC_JUMP => false,
                _ => return None,
            };
            at += if holds { usize::from(yes) } else { no };
        }
        Some(at == program.len())
    }

    fn any_range() -> impl Strategy<Value = SourceRange> {
        let address = prop_oneof!["10[.]0[.]0[.][1-3]", "2001:db8::[1-3]"];
        (address, 1u16..40, 0u16..10).prop_map(|(address, first, more)| {
            let ports = PortRange::new(first, first + more).unwrap();
            SourceRange { address: address.parse().unwrap(), ports }
        })
    }

    proptest! {
        #[test]
        fn a_filter_accepts_what_is_in_one_of_its_ranges_and_nothing_else(
            ranges in proptest::collection::vec(any_range(), 1..=MOST),
            sockets in proptest::collection::vec(any_range(), 1..20),
        ) {
            let program = within(&ranges);
            for socket in sockets {
                let local = SocketAddr::new(socket.address, socket.ports.first());
                let inside = ranges.iter().any(|range| {
                    range.address == local.ip()
                        && (range.ports.first()..=range.ports.last()).contains(&local.port())
                });
                prop_assert_eq!(accepts(&program, local), Some(inside), "{}", local);
            }
        }
    }
}
