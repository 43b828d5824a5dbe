//! All TCP sockets that listen and all UDP sockets that take datagrams from anybody, by `NETLINK_SOCK_DIAG`
//! (sock_diag(7)), with the cgroup of the process that made each.
//!
//! Of ten thousand sockets only three numbers each are wanted, so the answers are read in place, without making a
//! value of every attribute. The network namespace is that of the calling thread. `INET_DIAG_CGROUP_ID` comes
//! unasked, from Linux 5.8 on; it is the inode number of the cgroup's directory in the unified hierarchy.

use crate::model::Protocol;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, TCP_LISTEN};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};
use nix::libc;
use std::io;

/// The kernel fills at most 32 KiB of it at a time.
const BUFFER: usize = 1 << 15;
/// `struct nlmsghdr`, netlink(7).
const HEADER: usize = 16;
/// `struct inet_diag_req_v2` and `struct inet_diag_msg`, linux/inet_diag.h.
const REQUEST: usize = 56;
const MESSAGE: usize = 72;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `INET_DIAG_CGROUP_ID`.
const CGROUP_ID: u16 = 21;
/// `INET_DIAG_REQ_BYTECODE`, and of its operations `INET_DIAG_BC_JMP` and, from Linux 5.9 on,
/// `INET_DIAG_BC_CGROUP_COND` with the bytes that they take.
const REQUEST_FILTER: u16 = 1;
const BC_JUMP: u8 = 1;
const JUMP: usize = 4;
const BC_CGROUP: u8 = 13;
const CONDITION: usize = 12;
/// No more cgroups are left out.
pub const MOST_LEFT_OUT: usize = 8;
/// The state of a UDP socket that is not connected: TCP_CLOSE.
const UNCONNECTED: u8 = 7;
/// More sockets are not looked at.
const MOST: usize = 100_000;

/// A socket that waits for anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listening {
    /// Where its maker was: the inode number of a cgroup's directory; 0 where the kernel does not tell.
    pub cgroup: u64,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
}

/// All of them but those of some cgroups; a port that is bound on several addresses comes several times.
///
/// What is left out costs a quarter of what is told. Kernels before 5.9 leave nothing out.
pub fn listening(but: &[u64]) -> io::Result<Vec<Listening>> {
    match listening_by(&without(but)) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !but.is_empty() => listening_by(&[]),
        result => result,
    }
}

fn listening_by(filter: &[u8]) -> io::Result<Vec<Listening>> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&NetlinkAddress::new(0, 0))?;
    let mut buffer = vec![0; BUFFER];
    let mut found = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for family in [AF_INET, AF_INET6] {
            socket.send(&request(family, protocol, filter), 0)?;
            dump(&socket, protocol, &mut buffer, &mut found)?;
        }
    }
    Ok(found)
}

fn dump(
    socket: &Socket,
    protocol: Protocol,
    buffer: &mut [u8],
    found: &mut Vec<Listening>,
) -> io::Result<()> {
    loop {
        let length = socket.recv(&mut &mut *buffer, 0)?;
        if read_part(buffer.get(..length).unwrap_or_default(), protocol, found)? {
            return Ok(());
        }
    }
}

/// A program for `inet_diag_bc_run()` that refuses the sockets of these cgroups.
///
/// Of each operation come its code, the way ahead where it holds, and where it does not; who comes to the very end is
/// accepted, who goes beyond it is not. Only the second way may go beyond, so a condition that holds leads to a jump,
/// which always takes its second way.
fn without(cgroups: &[u64]) -> Vec<u8> {
    let mut program = Vec::new();
    for (n, cgroup) in cgroups.iter().take(MOST_LEFT_OUT).enumerate() {
        let after = cgroups.len().min(MOST_LEFT_OUT).saturating_sub(n + 1) * (CONDITION + JUMP);
        program.extend([BC_CGROUP, 12]);
        program.extend(16u16.to_ne_bytes());
        program.extend(cgroup.to_ne_bytes());
        program.extend([BC_JUMP, 4]);
        let beyond = u16::try_from(JUMP + after + 4).unwrap_or(u16::MAX);
        program.extend(beyond.to_ne_bytes());
    }
    program
}

/// A request for a dump, without any of the extensions.
fn request(family: u8, protocol: Protocol, filter: &[u8]) -> Vec<u8> {
    let (number, state) = match protocol {
        Protocol::Tcp => (IPPROTO_TCP, TCP_LISTEN),
        Protocol::Udp => (IPPROTO_UDP, UNCONNECTED),
    };
    let attribute = if filter.is_empty() { 0 } else { 4 + filter.len() };
    let length = HEADER + REQUEST + attribute;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or_default().to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // Sequence number and port id; then the request: family, protocol, extensions, padding, states, socket id.
    bytes.extend([0; 8]);
    bytes.extend([family, number, 0, 0]);
    bytes.extend((1u32 << state).to_ne_bytes());
    bytes.resize(HEADER + REQUEST, 0);
    if attribute > 0 {
        bytes.extend(u16::try_from(attribute).unwrap_or_default().to_ne_bytes());
        bytes.extend(REQUEST_FILTER.to_ne_bytes());
        bytes.extend(filter);
    }
    bytes
}

/// Reads the messages of one part of an answer; true when it was the last.
fn read_part(mut bytes: &[u8], protocol: Protocol, found: &mut Vec<Listening>) -> io::Result<bool> {
    while let Some((header, _)) = bytes.split_first_chunk::<HEADER>() {
        let length = usize::try_from(number::<4>(header, 0).map_or(0, u32::from_ne_bytes)).unwrap_or(0);
        let kind = number::<2>(header, 4).map_or(0, u16::from_ne_bytes);
        let Some(message) = bytes.get(HEADER..length) else {
            return Err(invalid("a message that is shorter than it says"));
        };
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => return Err(refusal(message)),
            BY_FAMILY => {
                if found.len() >= MOST {
                    return Err(invalid("more sockets than are looked at"));
                }
                found.extend(listening_of(message, protocol));
            }
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// `struct inet_diag_msg`: family, state, timer, retrans, then the socket's id: ports in the network's order.
fn listening_of(message: &[u8], protocol: Protocol) -> Option<Listening> {
    let port = number::<2>(message, 4).map(u16::from_be_bytes)?;
    let cgroup = attribute(message.get(MESSAGE..)?, CGROUP_ID)
        .and_then(|value| number::<8>(value, 0))
        .map_or(0, u64::from_ne_bytes);
    Some(Listening { cgroup, protocol, port })
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

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's list of sockets has {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the sockets of others")]
    fn sockets_that_wait_are_found_and_others_are_not() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let six = TcpListener::bind("[::1]:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect("127.0.0.1:9").unwrap();
        let found = listening(&[]).unwrap();
        let has = |protocol, port| found.iter().any(|s| (s.protocol, s.port) == (protocol, port));
        assert!(has(Protocol::Tcp, tcp.local_addr().unwrap().port()));
        assert!(has(Protocol::Tcp, six.local_addr().unwrap().port()));
        assert!(has(Protocol::Udp, udp.local_addr().unwrap().port()));
        assert!(!has(Protocol::Udp, connected.local_addr().unwrap().port()));
        let cgroups: Vec<u64> = found.iter().map(|socket| socket.cgroup).collect();
        assert!(cgroups.iter().all(|cgroup| *cgroup != 0), "{cgroups:?}");
        let ours =
            found.iter().find(|socket| socket.port == tcp.local_addr().unwrap().port()).unwrap().cgroup;
        for but in [&[ours][..], &[1 << 60, ours], &[ours, 1 << 60, 1 << 61]] {
            let others = listening(but).unwrap();
            assert!(others.iter().all(|socket| socket.cgroup != ours), "{but:?}");
        }
        let all = listening(&[1 << 60, 1 << 61]).unwrap();
        assert!(all.iter().any(|socket| socket.cgroup == ours));
    }

    proptest! {
        #[test]
        fn no_answer_is_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200), length in 0u32..200) {
            let mut answer = length.to_ne_bytes().to_vec();
            answer.extend(BY_FAMILY.to_ne_bytes());
            answer.extend(&bytes);
            let mut found = Vec::new();
            let _ = read_part(&answer, Protocol::Tcp, &mut found);
            let _ = read_part(&bytes, Protocol::Udp, &mut found);
            prop_assert!(found.len() <= 2);
        }
    }
}
