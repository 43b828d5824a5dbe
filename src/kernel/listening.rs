//! All TCP sockets that listen and all UDP sockets that take datagrams from anybody, by `NETLINK_SOCK_DIAG`
//! (sock_diag(7)), with the cgroup of the process that made each.
//!
//! The network namespace is that of the calling thread.

use super::inet_diag::{BC_JUMP, Diag, JUMP, Question, invalid};
use crate::model::Protocol;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, TCP_LISTEN};
use nix::libc;
use std::io;

/// `INET_DIAG_BC_CGROUP_COND`, an operation of filters from Linux 5.9 on, with the bytes that it takes.
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
    let mut diag = Diag::new()?;
    let mut found = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let state = if protocol == Protocol::Tcp { TCP_LISTEN } else { UNCONNECTED };
        for family in [AF_INET, AF_INET6] {
            let question = Question { filter, ..Question::all(family, protocol, 1 << state) };
            diag.dump(&question, |answer| {
                if found.len() >= MOST {
                    return Err(invalid("more sockets than are looked at"));
                }
                found.push(Listening { cgroup: answer.cgroup(), protocol, port: answer.local_port() });
                Ok(())
            })?;
        }
    }
    Ok(found)
}

/// A program for `inet_diag_bc_run()` that refuses the sockets of these cgroups.
///
/// Only the second way of an operation may go beyond the end, so a condition that holds leads to a jump.
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

#[cfg(test)]
mod tests {
    use super::*;
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
}
