//! The socket options that a holder can leave behind for the next one, as a table.
//!
//! A listener's socket is shared with its holder, and accepted sockets inherit most of these. A value is
//! compared with what the socket had when it was made, or with a fixed one where any other keeps clients out.

use crate::kernel::sockopt::{get_int, set_int};
use crate::model::{InetEndpoint, SocketKind};
use nix::libc;
use socket2::Socket;
use std::io;

/// To which sockets a row applies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    All,
    V4,
    V6,
    Tcp,
}

/// What the value should be.
#[derive(Clone, Copy)]
enum Expect {
    /// What it was when the socket was made or adopted.
    AsMade,
    /// This, whatever it was.
    Always(i32),
}

/// One option.
struct Row {
    name: &'static str,
    level: i32,
    option: i32,
    on: On,
    expect: Expect,
    /// What brings a value back, where it is not the value itself.
    restore: fn(i32) -> i32,
}

const fn row(name: &'static str, level: i32, option: i32, on: On, expect: Expect) -> Row {
    Row { name, level, option, on, expect, restore: |value| value }
}

const fn half(value: i32) -> i32 {
    value / 2
}

const fn nothing(_: i32) -> i32 {
    0
}

const IPV6_MINHOPCOUNT: i32 = libc::IPV6_MINHOPCOUNT;

/// The kernel doubles what is set for a buffer (socket(7)); SO_BUF_LOCK after the sizes, since setting a size
/// locks it. TCP_MAXSEG reads as the segment size in use, and 0 puts it back into the kernel's hands.
const TABLE: [Row; 20] = [
    Row { restore: half, ..row("SO_RCVBUF", libc::SOL_SOCKET, libc::SO_RCVBUF, On::All, Expect::AsMade) },
    Row { restore: half, ..row("SO_SNDBUF", libc::SOL_SOCKET, libc::SO_SNDBUF, On::All, Expect::AsMade) },
    row("SO_BUF_LOCK", libc::SOL_SOCKET, libc::SO_BUF_LOCK, On::All, Expect::AsMade),
    row("SO_KEEPALIVE", libc::SOL_SOCKET, libc::SO_KEEPALIVE, On::All, Expect::AsMade),
    row("SO_MARK", libc::SOL_SOCKET, libc::SO_MARK, On::All, Expect::AsMade),
    row("SO_PRIORITY", libc::SOL_SOCKET, libc::SO_PRIORITY, On::All, Expect::AsMade),
    row("SO_RCVLOWAT", libc::SOL_SOCKET, libc::SO_RCVLOWAT, On::All, Expect::Always(1)),
    row("SO_DONTROUTE", libc::SOL_SOCKET, libc::SO_DONTROUTE, On::All, Expect::Always(0)),
    row("IP_MINTTL", libc::IPPROTO_IP, libc::IP_MINTTL, On::V4, Expect::Always(0)),
    row("IP_TTL", libc::IPPROTO_IP, libc::IP_TTL, On::V4, Expect::AsMade),
    row("IP_TOS", libc::IPPROTO_IP, libc::IP_TOS, On::V4, Expect::AsMade),
    row("IPV6_MINHOPCOUNT", libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, On::V6, Expect::Always(0)),
    row("IPV6_UNICAST_HOPS", libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, On::V6, Expect::AsMade),
    row("IPV6_TCLASS", libc::IPPROTO_IPV6, libc::IPV6_TCLASS, On::V6, Expect::AsMade),
    row("TCP_NODELAY", libc::IPPROTO_TCP, libc::TCP_NODELAY, On::Tcp, Expect::AsMade),
    row("TCP_DEFER_ACCEPT", libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, On::Tcp, Expect::AsMade),
    row("TCP_USER_TIMEOUT", libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, On::Tcp, Expect::AsMade),
    row("TCP_KEEPIDLE", libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, On::Tcp, Expect::AsMade),
    row("TCP_KEEPINTVL", libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, On::Tcp, Expect::AsMade),
    Row {
        restore: nothing,
        ..row("TCP_MAXSEG", libc::IPPROTO_TCP, libc::TCP_MAXSEG, On::Tcp, Expect::AsMade)
    },
];

/// The values that a socket had when it was made; `None` where the kernel does not know the option.
#[derive(Debug, Clone)]
pub(super) struct Baseline(Vec<Option<i32>>);

fn applies(row: &Row, inet: &InetEndpoint) -> bool {
    match row.on {
        On::All => true,
        On::V4 => inet.address.is_ipv4() || inet.is_dual_stack(),
        On::V6 => inet.address.is_ipv6(),
        On::Tcp => inet.kind == SocketKind::Stream,
    }
}

fn read(row: &Row, socket: &Socket) -> Option<i32> {
    get_int(socket, row.level, row.option).ok()
}

impl Baseline {
    /// The values that the socket of a listener has now.
    pub(super) fn of(socket: &Socket, inet: &InetEndpoint) -> Self {
        let expected = |row: &Row| match row.expect {
            Expect::AsMade => read(row, socket),
            Expect::Always(value) => read(row, socket).map(|_| value),
        };
        Self(TABLE.iter().map(|row| expected(row).filter(|_| applies(row, inet))).collect())
    }

    /// The rows that are not as they should be, each with its value.
    fn changed<'a>(&'a self, socket: &'a Socket) -> impl Iterator<Item = (&'static Row, i32)> + 'a {
        TABLE.iter().zip(&self.0).filter_map(|(row, expected)| {
            let expected = (*expected)?;
            (read(row, socket)? != expected).then_some((row, expected))
        })
    }

    /// The names of the options that are not as they should be.
    pub(super) fn differences<'a>(&'a self, socket: &'a Socket) -> impl Iterator<Item = &'static str> + 'a {
        self.changed(socket).map(|(row, _)| row.name)
    }

    /// Puts every option back; an error where one will not go.
    pub(super) fn restore(&self, socket: &Socket) -> io::Result<()> {
        for (row, expected) in self.changed(socket) {
            set_int(socket, row.level, row.option, (row.restore)(expected))?;
        }
        match self.differences(socket).next() {
            None => Ok(()),
            Some(name) => Err(io::Error::other(format!("{name} cannot be put back"))),
        }
    }
}
