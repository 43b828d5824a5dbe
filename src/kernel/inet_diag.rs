//! Questions about sockets of the internet families and their answers, by `NETLINK_SOCK_DIAG` (sock_diag(7)): one
//! netlink socket that is asked again and again, and messages that are read in place, without making a value of
//! every attribute.
//!
//! A question is answered for the network namespace of the thread that made the [`Diag`]. What an answer means is the
//! caller's matter; nothing is remembered here between two questions but the socket and its buffer.

use crate::model::Protocol;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};
use nix::libc;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The kernel fills at most 32 KiB of it at a time.
pub(super) const BUFFER: usize = 1 << 15;
/// `struct nlmsghdr`, netlink(7).
const HEADER: usize = 16;
/// `struct inet_diag_req_v2` and `struct inet_diag_msg`, linux/inet_diag.h.
const REQUEST: usize = 56;
const MESSAGE: usize = 72;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `TCPDIAG_GETSOCK`, the older question, about TCP alone, of both families at once.
const OF_TCP: u16 = 18;
/// `SOCK_DESTROY`.
const DESTROY: u16 = 21;
/// Neither family, and both.
const AF_UNSPEC: u8 = 0;
/// `INET_DIAG_REQ_BYTECODE`.
const REQUEST_FILTER: u16 = 1;
/// `INET_DIAG_SKV6ONLY`, and `INET_DIAG_CGROUP_ID`, which comes unasked from Linux 5.8 on.
const V6ONLY: u16 = 11;
const CGROUP_ID: u16 = 21;
/// `INET_DIAG_NOCOOKIE`: whichever socket it is.
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// The state of a TCP socket that is bound and neither listens nor is connected (Linux 6.8); the kernel makes
/// no answer for it unless this is asked for.
pub(super) const BOUND_INACTIVE: u8 = 13;
/// Connected, listening, bound only, and whatever else there is.
pub(super) const ANY_STATE: u32 = u32::MAX;

/// `INET_DIAG_BC_JMP`, an operation of filters with the bytes that it takes.
///
/// Of each operation of `inet_diag_bc_run()` come its code, the way ahead where it holds, and where it does not; who
/// comes to the very end is accepted, who goes beyond it is not. Only the second way may be further than the next
/// operation; a jump always takes its second way.
pub(super) const BC_JUMP: u8 = 1;
pub(super) const JUMP: usize = 4;

/// `INET_DIAG_BC_S_GE` and `INET_DIAG_BC_S_LE`, comparisons of the own port.
pub(super) const BC_PORT_FROM: u8 = 2;
pub(super) const BC_PORT_TO: u8 = 3;
pub(super) const COMPARISON: u8 = 8;

/// A filter that accepts one port. In a dump the kernel compares the port of the question itself too, but not with those of
/// sockets that are bound and nothing else (seen on Linux 6.18).
pub(super) fn only_port(port: u16) -> Vec<u8> {
    let mut program = Vec::with_capacity(2 * usize::from(COMPARISON));
    // Beyond the end, from the first and from the second.
    for (code, beyond) in [(BC_PORT_FROM, 20u16), (BC_PORT_TO, 12)] {
        program.extend([code, COMPARISON]);
        program.extend(beyond.to_ne_bytes());
        program.extend([0, 0]);
        program.extend(port.to_ne_bytes());
    }
    program
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    /// `AF_INET` or `AF_INET6`; an IPv6 socket with IPv4 addresses is of the second. `AF_UNSPEC`: see [`Question::tcp`].
    pub(super) family: u8,
    /// TCP or UDP.
    pub(super) protocol: Protocol,
    /// A bit for each state.
    pub(super) states: u32,
    /// Own and other address; the port alone filters a dump.
    pub(super) local: Option<SocketAddr>,
    pub(super) remote: Option<SocketAddr>,
    /// The device to which it is bound, by its index; of exactly one socket, one that is bound to none fits too. 0: none.
    pub(super) device: u32,
    /// A program for `inet_diag_bc_run()`; empty: none.
    pub(super) filter: &'a [u8],
}

/// A netlink socket for questions.
pub(super) struct Diag {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Diag {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { socket: open()?, buffer: vec![0; BUFFER], sequence: 0 })
    }

    /// The one socket that is exactly this one; `None` where there is none.
    pub(super) fn find<R>(
        &mut self,
        question: &Question<'_>,
        read: impl FnOnce(Answer<'_>) -> Option<R>,
    ) -> io::Result<Option<R>> {
        self.send(question, NLM_F_REQUEST)?;
        loop {
            let length = self.socket.recv(&mut &mut *self.buffer, 0)?;
            let first = split(self.buffer.get(..length).unwrap_or_default())?;
            let First { kind, sequence, body, .. } =
                first.ok_or_else(|| invalid("an answer without a header"))?;
            match kind {
                _ if sequence != self.sequence => {}
                BY_FAMILY => return Ok(Answer::new(body).and_then(read)),
                NLMSG_ERROR => {
                    return match refusal(body) {
                        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
                        error => Err(error),
                    };
                }
                _ => return Err(invalid("an answer that is none")),
            }
        }
    }

    /// All sockets that fit.
    pub(super) fn dump(
        &mut self,
        question: &Question<'_>,
        each: impl FnMut(Answer<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let result = self.dump_whole(question, each);
        if result.is_err() {
            // A dump that was not read to its end keeps the socket from another.
            self.socket = open()?;
        }
        result
    }

    fn dump_whole(
        &mut self,
        question: &Question<'_>,
        mut each: impl FnMut(Answer<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.send(question, NLM_F_REQUEST | NLM_F_DUMP)?;
        loop {
            let length = self.socket.recv(&mut &mut *self.buffer, 0)?;
            let mut bytes = self.buffer.get(..length).unwrap_or_default();
            while let Some(First { kind, sequence, body, rest }) = split(bytes)? {
                bytes = rest;
                match kind {
                    _ if sequence != self.sequence => {}
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return Err(refusal(body)),
                    BY_FAMILY | OF_TCP => Answer::new(body).map_or(Ok(()), &mut each)?,
                    _ => {}
                }
            }
        }
    }

    /// Closes the one socket that is exactly this one and has this number (`SO_COOKIE`), as a reset would; false where
    /// there is none. It takes CAP_NET_ADMIN, and a kernel with CONFIG_INET_DIAG_DESTROY.
    pub(super) fn destroy(&mut self, question: &Question<'_>, cookie: u64) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = question.bytes(DESTROY, NLM_F_REQUEST | NLM_F_ACK, self.sequence, halves(cookie));
        self.socket.send(&bytes, 0)?;
        loop {
            let length = self.socket.recv(&mut &mut *self.buffer, 0)?;
            let first = split(self.buffer.get(..length).unwrap_or_default())?;
            let First { kind, sequence, body, .. } =
                first.ok_or_else(|| invalid("an answer without a header"))?;
            match kind {
                _ if sequence != self.sequence => {}
                NLMSG_ERROR if number(body, 0) == Some([0; 4]) => return Ok(true),
                NLMSG_ERROR => {
                    return match refusal(body) {
                        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
                        error => Err(error),
                    };
                }
                _ => return Err(invalid("an answer that is none")),
            }
        }
    }

    fn send(&mut self, question: &Question<'_>, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let kind = if question.family == AF_UNSPEC { OF_TCP } else { BY_FAMILY };
        let bytes = question.bytes(kind, flags, self.sequence, ANY_COOKIE);
        self.socket.send(&bytes, 0).map(drop)
    }
}

/// A socket's number as it is in messages: two halves, the lower one first whatever the order of bytes.
fn halves(cookie: u64) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h] = cookie.to_le_bytes();
    let half = |bytes| u32::from_le_bytes(bytes).to_ne_bytes();
    let mut halves = [0; 8];
    for (to, from) in halves.iter_mut().zip(half([a, b, c, d]).into_iter().chain(half([e, f, g, h]))) {
        *to = from;
    }
    halves
}

fn open() -> io::Result<Socket> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    Ok(socket)
}

impl Question<'_> {
    /// Everything of one family and protocol in these states.
    pub(super) fn all(family: u8, protocol: Protocol, states: u32) -> Self {
        Self { family, protocol, states, local: None, remote: None, device: 0, filter: &[] }
    }

    /// All of TCP in these states, of both families, for a dump: the kernel goes through its table of connections once,
    /// which is most of the work where there are few.
    pub(super) fn tcp(states: u32) -> Self {
        Self::all(AF_UNSPEC, Protocol::Tcp, states)
    }

    fn bytes(&self, kind: u16, flags: u16, sequence: u32, cookie: [u8; 8]) -> Vec<u8> {
        let attribute = if self.filter.is_empty() { 0 } else { 4 + self.filter.len() };
        // `struct inet_diag_req` has its states last, and a word more.
        let request = if kind == OF_TCP { REQUEST + 4 } else { REQUEST };
        let length = HEADER + request + attribute;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(u32::try_from(length).unwrap_or_default().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        // The port id; then the request: family, protocol, extensions, padding, states, socket id.
        bytes.extend([0; 4]);
        let number = match self.protocol {
            _ if kind == OF_TCP => 0,
            Protocol::Tcp => IPPROTO_TCP,
            Protocol::Udp => IPPROTO_UDP,
        };
        bytes.extend([self.family, number, 0, 0]);
        if kind != OF_TCP {
            bytes.extend(self.states.to_ne_bytes());
        }
        for end in [self.local, self.remote] {
            bytes.extend(end.map_or(0, |end| end.port()).to_be_bytes());
        }
        for end in [self.local, self.remote] {
            bytes.extend(octets(end.map(|end| end.ip())));
        }
        bytes.extend(self.device.to_ne_bytes());
        bytes.extend(cookie);
        if kind == OF_TCP {
            bytes.extend(self.states.to_ne_bytes());
            bytes.extend([0; 4]);
        }
        if attribute > 0 {
            bytes.extend(u16::try_from(attribute).unwrap_or_default().to_ne_bytes());
            bytes.extend(REQUEST_FILTER.to_ne_bytes());
            bytes.extend(self.filter);
        }
        bytes
    }
}

/// The family by which the kernel knows an address.
pub(super) fn family_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// An address in the place of 16 bytes that the kernel has for both families.
fn octets(address: Option<IpAddr>) -> [u8; 16] {
    let mut bytes = [0; 16];
    match address {
        Some(IpAddr::V4(four)) => {
            for (byte, octet) in bytes.iter_mut().zip(four.octets()) {
                *byte = octet;
            }
        }
        Some(IpAddr::V6(six)) => bytes = six.octets(),
        None => {}
    }
    bytes
}

/// A socket, as the kernel describes it: `struct inet_diag_msg` and attributes.
#[derive(Clone, Copy)]
pub(super) struct Answer<'a> {
    message: &'a [u8; MESSAGE],
    attributes: &'a [u8],
}

impl<'a> Answer<'a> {
    fn new(body: &'a [u8]) -> Option<Self> {
        let (message, attributes) = body.split_first_chunk()?;
        Some(Self { message, attributes })
    }

    /// Its state, as TCP counts them.
    pub(super) fn state(self) -> u8 {
        self.field(1).map_or(0, u8::from_ne_bytes)
    }

    /// The port that it has as its own.
    pub(super) fn local_port(self) -> u16 {
        self.field(4).map_or(0, u16::from_be_bytes)
    }

    /// Its own address; an IPv4 address that an IPv6 socket has is IPv4.
    pub(super) fn local(self) -> SocketAddr {
        SocketAddr::new(self.address(8), self.local_port())
    }

    /// Whom it is connected to; port 0: nobody.
    pub(super) fn remote(self) -> SocketAddr {
        SocketAddr::new(self.address(24), self.field(6).map_or(0, u16::from_be_bytes))
    }

    /// The number that the kernel gives each socket once (`SO_COOKIE`).
    pub(super) fn cookie(self) -> u64 {
        // Two halves, the lower one first whatever the order of bytes.
        let half = |at| u64::from(self.field(at).map_or(0, u32::from_ne_bytes));
        half(44) | half(48) << 32
    }

    /// The interface that it is bound to, by index; 0: none.
    pub(super) fn device(self) -> u32 {
        self.field(40).map_or(0, u32::from_ne_bytes)
    }

    /// Which of its timers runs: 3 is that of TIME_WAIT and of a FIN_WAIT2 that nobody has.
    pub(super) fn timer(self) -> u8 {
        self.field(2).map_or(0, u8::from_ne_bytes)
    }

    /// Milliseconds until its timer fires.
    pub(super) fn expires(self) -> u32 {
        self.field(52).map_or(0, u32::from_ne_bytes)
    }

    /// Its owner.
    pub(super) fn uid(self) -> u32 {
        self.field(64).map_or(0, u32::from_ne_bytes)
    }

    /// Its inode; 0 where no process has it.
    pub(super) fn inode(self) -> u32 {
        self.field(68).map_or(0, u32::from_ne_bytes)
    }

    /// Where its maker was: the inode number of a cgroup's directory in the unified hierarchy; 0: not told.
    pub(super) fn cgroup(self) -> u64 {
        let value = attribute(self.attributes, CGROUP_ID);
        value.and_then(|value| number(value, 0)).map_or(0, u64::from_ne_bytes)
    }

    /// `IPV6_V6ONLY`; told of sockets that are not connected.
    pub(super) fn v6only(self) -> bool {
        attribute(self.attributes, V6ONLY).and_then(<[u8]>::first).is_some_and(|value| *value != 0)
    }

    fn field<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        number(self.message, at)
    }

    fn address(self, at: usize) -> IpAddr {
        if self.field(0) == Some([AF_INET]) {
            return self.field::<4>(at).map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from).into();
        }
        self.field::<16>(at).map_or(Ipv6Addr::UNSPECIFIED, Ipv6Addr::from).to_canonical()
    }
}

/// The sockets in a datagram that nobody asked for.
pub(super) fn told(mut bytes: &[u8], mut each: impl FnMut(Answer<'_>)) -> io::Result<()> {
    while let Some(First { kind, body, rest, .. }) = split(bytes)? {
        bytes = rest;
        if let (BY_FAMILY, Some(answer)) = (kind, Answer::new(body)) {
            each(answer);
        }
    }
    Ok(())
}

/// The first message of several.
struct First<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
    rest: &'a [u8],
}

fn split(bytes: &[u8]) -> io::Result<Option<First<'_>>> {
    let Some((header, _)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
    let length = usize::try_from(number(header, 0).map_or(0, u32::from_ne_bytes)).unwrap_or(0);
    let kind = number(header, 4).map_or(0, u16::from_ne_bytes);
    let sequence = number(header, 8).map_or(0, u32::from_ne_bytes);
    let body = bytes.get(HEADER..length).ok_or_else(|| invalid("a message that is shorter than it says"))?;
    // Messages begin at multiples of four, netlink(7).
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Ok(Some(First { kind, sequence, body, rest }))
}

/// The value of an attribute of this type: each begins with its length and type, at a multiple of four.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(number(bytes, 0)?));
        let kind = u16::from_ne_bytes(number(bytes, 2)?);
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

fn refusal(message: &[u8]) -> io::Error {
    match number(message, 0).map(i32::from_ne_bytes) {
        Some(error) if error < 0 => io::Error::from_raw_os_error(error.wrapping_neg()),
        _ => invalid("an error without a number"),
    }
}

pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's list of sockets has {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_answer_is_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200), length in 0u32..200) {
            let mut answer = length.to_ne_bytes().to_vec();
            answer.extend(BY_FAMILY.to_ne_bytes());
            answer.extend(&bytes);
            let mut found = 0;
            for bytes in [answer, bytes] {
                let _ = told(&bytes, |answer| {
                    let _ = (answer.local(), answer.remote(), answer.cookie(), answer.cgroup(), answer.v6only());
                    found += 1;
                });
            }
            prop_assert!(found <= 3);
        }
    }
}
