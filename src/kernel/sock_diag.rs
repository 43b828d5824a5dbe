//! Asks the kernel which sockets are on a port, by `NETLINK_SOCK_DIAG` (sock_diag(7)).
//!
//! The kernel filters by port, so the answers are few even where there are many sockets. It is asked on the
//! network namespace of the calling thread.

use super::inet_diag::{ANY_STATE, Answer, BOUND_INACTIVE, Diag, Question};
use crate::model::{Protocol, SocketKind};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, TCP_CLOSE, TCP_LISTEN, TCP_TIME_WAIT};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

/// No more sockets than this are looked at.
const MOST: usize = 10_000;

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
    entries(kind, port, ANY_STATE)
}

/// All TCP sockets that listen; `None` where there are more than are looked at.
pub(crate) fn tcp_listeners() -> io::Result<Option<Vec<Entry>>> {
    let found = entries(SocketKind::Stream, 0, 1 << TCP_LISTEN)?;
    Ok((found.len() < MOST).then_some(found))
}

/// Those of a port, or of all; no more than are looked at.
fn entries(kind: SocketKind, port: u16, states: u32) -> io::Result<Vec<Entry>> {
    let protocol = if kind == SocketKind::Stream { Protocol::Tcp } else { Protocol::Udp };
    let local = (port != 0).then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
    let mut diag = Diag::new()?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let question = Question { local, ..Question::all(family, protocol, states) };
        diag.dump(&question, |answer| {
            if found.len() < MOST {
                found.push(entry(answer, kind));
            }
            Ok(())
        })?;
    }
    Ok(found)
}

fn entry(answer: Answer<'_>, kind: SocketKind) -> Entry {
    let remote = answer.remote();
    let doing = match (kind, answer.state()) {
        (SocketKind::Stream, TCP_LISTEN) => Doing::Listening,
        (SocketKind::Stream, TCP_TIME_WAIT) => Doing::TimeWait,
        (SocketKind::Stream, TCP_CLOSE | BOUND_INACTIVE) => Doing::Bound,
        (SocketKind::Datagram, _) if remote.port() == 0 => Doing::Listening,
        _ => Doing::Connected,
    };
    Entry {
        local: answer.local(),
        remote,
        v6only: answer.v6only(),
        doing,
        uid: answer.uid(),
        inode: answer.inode(),
    }
}
