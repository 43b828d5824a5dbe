//! The socket options of listeners, as one table: what a configuration sets, what a holder can leave behind for
//! the next one, and how either is put right.
//!
//! A listener's socket is shared with its holder, and accepted sockets inherit most of these. A value is
//! compared with what the socket had when it was made, or with a fixed one where any other keeps clients out.
//! An option that this kernel lacks is left out, and [`unmet`] says so; one that takes a privilege which is not
//! there is an error.

use super::error::OptionError;
use super::unmet::Unmet;
use crate::config::{SocketOptions, Tunable, Tuning, TuningValue};
use crate::kernel::sockopt::{get_int, set_int};
use crate::model::{Endpoint, InetEndpoint, SocketKind};
use nix::libc;
use socket2::{Socket, Type};
use std::io;

/// To which sockets a row applies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    All,
    Inet,
    /// IPv4, also through an IPv6 wildcard.
    V4,
    V6,
    Tcp,
    Udp,
    UdpV4,
    UdpV6,
    Unix,
}

/// What the value should be.
#[derive(Clone, Copy)]
enum Expect {
    /// What it was when the socket was made or adopted.
    AsMade,
    /// This, whatever it was.
    Always(i32),
}

/// The option that the configuration calls so, and its value for this row.
type Tuned = (Tunable, fn(&TuningValue) -> i32);

/// One option.
struct Row {
    name: &'static str,
    level: i32,
    option: i32,
    on: On,
    expect: Expect,
    /// What brings a value back, where it is not the value itself.
    restore: fn(i32) -> i32,
    tuned: Option<Tuned>,
    /// Whether the kernel reads so what was set to that: set, read.
    met: fn(i32, i32) -> bool,
    /// The same option without its limit, for those who may.
    force: Option<i32>,
}

const fn row(name: &'static str, level: i32, option: i32, on: On, expect: Expect) -> Row {
    Row { name, level, option, on, expect, restore: same, tuned: None, met: equal, force: None }
}

/// A row that the configuration sets.
const fn tuned(name: &'static str, level: i32, option: i32, on: On, tunable: Tunable) -> Row {
    Row { tuned: Some((tunable, number)), ..row(name, level, option, on, Expect::AsMade) }
}

const fn buffer(name: &'static str, option: i32, force: i32, tunable: Tunable) -> Row {
    Row {
        restore: half,
        met: doubled,
        force: Some(force),
        ..tuned(name, libc::SOL_SOCKET, option, On::All, tunable)
    }
}

const fn same(value: i32) -> i32 {
    value
}

const fn half(value: i32) -> i32 {
    value / 2
}

const fn nothing(_: i32) -> i32 {
    0
}

const fn equal(set: i32, read: i32) -> bool {
    set == read
}

/// The kernel takes at least so much.
const fn at_least(set: i32, read: i32) -> bool {
    read >= set
}

const fn doubled(set: i32, read: i32) -> bool {
    read / 2 >= set
}

/// Capped at net.core.somaxconn.
const fn capped(set: i32, read: i32) -> bool {
    read <= set && (read > 0) == (set > 0)
}

/// The two lower bits belong to the congestion control of a stream.
const fn without_ecn(set: i32, read: i32) -> bool {
    set & !3 == read & !3
}

fn number(value: &TuningValue) -> i32 {
    match value {
        TuningValue::Flag(flag) => i32::from(*flag),
        // As the kernel reads it back: a mark is 32 bits.
        TuningValue::Number(number) => number.cast_signed(),
        TuningValue::Word(_) => 0,
    }
}

fn micros(value: &TuningValue) -> i32 {
    i32::from(*value == TuningValue::Word("us".to_owned()))
}

fn nanos(value: &TuningValue) -> i32 {
    i32::from(*value == TuningValue::Word("ns".to_owned()))
}

const IPV6_MINHOPCOUNT: i32 = libc::IPV6_MINHOPCOUNT;
/// linux/in6.h
const IPV6_TRANSPARENT: i32 = 75;
/// The bits of SO_BUF_LOCK, linux/socket.h.
const SNDBUF_LOCK: i32 = 1;
const RCVBUF_LOCK: i32 = 2;
const SOCKET: i32 = libc::SOL_SOCKET;
const TCP: i32 = libc::IPPROTO_TCP;
const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;

/// The kernel doubles what is set for a buffer (socket(7)); SO_BUF_LOCK after the sizes, since setting a size
/// locks it, and SO_PRIORITY after IP_TOS, which sets it. TCP_MAXSEG reads as the segment size in use, and 0 puts
/// it back into the kernel's hands. TCP_DEFER_ACCEPT is rounded up to a number of retransmissions.
static TABLE: [Row; 32] = [
    buffer("SO_RCVBUF", libc::SO_RCVBUF, libc::SO_RCVBUFFORCE, Tunable::ReceiveBuffer),
    buffer("SO_SNDBUF", libc::SO_SNDBUF, libc::SO_SNDBUFFORCE, Tunable::SendBuffer),
    row("SO_BUF_LOCK", SOCKET, libc::SO_BUF_LOCK, On::All, Expect::AsMade),
    tuned("SO_KEEPALIVE", SOCKET, libc::SO_KEEPALIVE, On::Inet, Tunable::KeepAlive),
    tuned("SO_MARK", SOCKET, libc::SO_MARK, On::Inet, Tunable::Mark),
    row("SO_RCVLOWAT", SOCKET, libc::SO_RCVLOWAT, On::Inet, Expect::Always(1)),
    row("SO_DONTROUTE", SOCKET, libc::SO_DONTROUTE, On::Inet, Expect::Always(0)),
    // Either of the two switches the other off.
    Row {
        tuned: Some((Tunable::Timestamping, micros)),
        ..row("SO_TIMESTAMP", SOCKET, libc::SO_TIMESTAMP, On::All, Expect::AsMade)
    },
    Row {
        tuned: Some((Tunable::Timestamping, nanos)),
        ..row("SO_TIMESTAMPNS", SOCKET, libc::SO_TIMESTAMPNS, On::All, Expect::AsMade)
    },
    tuned("SO_BROADCAST", SOCKET, libc::SO_BROADCAST, On::Udp, Tunable::Broadcast),
    tuned("SO_PASSCRED", SOCKET, libc::SO_PASSCRED, On::Unix, Tunable::PassCredentials),
    tuned("SO_PASSSEC", SOCKET, libc::SO_PASSSEC, On::Unix, Tunable::PassSecurity),
    row("IP_MINTTL", IP, libc::IP_MINTTL, On::V4, Expect::Always(0)),
    tuned("IP_TTL", IP, libc::IP_TTL, On::V4, Tunable::IpTtl),
    Row { met: without_ecn, ..tuned("IP_TOS", IP, libc::IP_TOS, On::V4, Tunable::IpTos) },
    tuned("IP_TRANSPARENT", IP, libc::IP_TRANSPARENT, On::V4, Tunable::Transparent),
    tuned("IP_PKTINFO", IP, libc::IP_PKTINFO, On::UdpV4, Tunable::PassPacketInfo),
    row("IPV6_MINHOPCOUNT", IPV6, IPV6_MINHOPCOUNT, On::V6, Expect::Always(0)),
    tuned("IPV6_UNICAST_HOPS", IPV6, libc::IPV6_UNICAST_HOPS, On::V6, Tunable::IpTtl),
    Row { met: without_ecn, ..tuned("IPV6_TCLASS", IPV6, libc::IPV6_TCLASS, On::V6, Tunable::IpTos) },
    tuned("IPV6_TRANSPARENT", IPV6, IPV6_TRANSPARENT, On::V6, Tunable::Transparent),
    tuned("IPV6_RECVPKTINFO", IPV6, libc::IPV6_RECVPKTINFO, On::UdpV6, Tunable::PassPacketInfo),
    tuned("SO_PRIORITY", SOCKET, libc::SO_PRIORITY, On::Inet, Tunable::Priority),
    tuned("TCP_NODELAY", TCP, libc::TCP_NODELAY, On::Tcp, Tunable::NoDelay),
    Row {
        met: at_least,
        ..tuned("TCP_DEFER_ACCEPT", TCP, libc::TCP_DEFER_ACCEPT, On::Tcp, Tunable::DeferAccept)
    },
    row("TCP_USER_TIMEOUT", TCP, libc::TCP_USER_TIMEOUT, On::Tcp, Expect::AsMade),
    tuned("TCP_KEEPIDLE", TCP, libc::TCP_KEEPIDLE, On::Tcp, Tunable::KeepAliveTime),
    tuned("TCP_KEEPINTVL", TCP, libc::TCP_KEEPINTVL, On::Tcp, Tunable::KeepAliveInterval),
    tuned("TCP_KEEPCNT", TCP, libc::TCP_KEEPCNT, On::Tcp, Tunable::KeepAliveProbes),
    Row { met: capped, ..tuned("TCP_FASTOPEN", TCP, libc::TCP_FASTOPEN, On::Tcp, Tunable::FastOpen) },
    Row { restore: nothing, ..row("TCP_MAXSEG", TCP, libc::TCP_MAXSEG, On::Tcp, Expect::AsMade) },
    // Its value is a word: see `congestion`. The row is here so that each option has one.
    row(CONGESTION, TCP, libc::TCP_CONGESTION, On::Tcp, Expect::AsMade),
];

const CONGESTION: &str = "TCP_CONGESTION";

/// Where a socket is, as far as the table has to know.
#[derive(Clone, Copy)]
pub(super) enum Where<'a> {
    Inet(&'a InetEndpoint),
    Unix,
}

impl<'a> From<&'a Endpoint> for Where<'a> {
    fn from(endpoint: &'a Endpoint) -> Self {
        match endpoint {
            Endpoint::Inet(inet) => Self::Inet(inet),
            Endpoint::Unix(_) => Self::Unix,
        }
    }
}

fn applies(row: &Row, place: Where<'_>) -> bool {
    let inet = match place {
        Where::Unix => return matches!(row.on, On::All | On::Unix),
        Where::Inet(inet) => inet,
    };
    let stream = inet.kind == SocketKind::Stream;
    match row.on {
        On::All | On::Inet => true,
        On::V4 => inet.address.is_ipv4() || inet.is_dual_stack(),
        On::V6 => inet.address.is_ipv6(),
        On::Tcp => stream,
        On::Udp => !stream,
        On::UdpV4 => !stream && inet.address.is_ipv4(),
        On::UdpV6 => !stream && inet.address.is_ipv6(),
        On::Unix => false,
    }
}

fn rows(place: Where<'_>) -> impl Iterator<Item = &'static Row> {
    TABLE.iter().filter(move |row| row.name != CONGESTION && applies(row, place))
}

/// The rows that a configuration sets on a socket, each with its value.
fn tuned_rows(tuning: &Tuning, place: Where<'_>) -> impl Iterator<Item = (&'static Row, Tunable, i32)> {
    // Most listeners set none of these, and there may be ten thousand.
    let rows = (!tuning.is_empty()).then(|| rows(place)).into_iter().flatten();
    rows.filter_map(move |row| {
        let (tunable, value) = row.tuned?;
        tuning.get(&tunable).map(|written| (row, tunable, value(written)))
    })
}

/// The congestion control that a configuration wants for a socket.
fn congestion<'a>(tuning: &'a Tuning, place: Where<'_>) -> Option<&'a str> {
    match (tuning.get(&Tunable::TcpCongestion), place) {
        (Some(TuningValue::Word(word)), Where::Inet(inet)) if inet.kind == SocketKind::Stream => Some(word),
        _ => None,
    }
}

fn read(row: &Row, socket: &Socket) -> Option<i32> {
    get_int(socket, row.level, row.option).ok()
}

fn read_congestion(socket: &Socket) -> Option<String> {
    let name = socket.tcp_congestion().ok()?;
    Some(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
}

/// Sets an option, beyond its limit where that is needed and allowed.
fn set(row: &Row, socket: &Socket, value: i32) -> io::Result<()> {
    set_int(socket, row.level, row.option, value)?;
    match row.force {
        Some(force) if read(row, socket).is_none_or(|read| !(row.met)(value, read)) => {
            // Without the privilege it stays at its limit.
            let _ = set_int(socket, row.level, force, value);
        }
        _ => {}
    }
    Ok(())
}

/// Sets what the configuration says, where it is not so already.
pub(super) fn apply(socket: &Socket, place: Where<'_>, options: &SocketOptions) -> Result<(), OptionError> {
    for (row, tunable, value) in tuned_rows(&options.tuning, place) {
        // What cannot be read this kernel does not have.
        if read(row, socket).is_some_and(|read| read != value) {
            set(row, socket, value).or_else(|error| failed(tunable, row.name, error))?;
        }
    }
    if let Some(wanted) = congestion(&options.tuning, place)
        && read_congestion(socket).as_deref() != Some(wanted)
    {
        let result = socket.set_tcp_congestion(wanted.as_bytes());
        result.or_else(|error| failed(Tunable::TcpCongestion, CONGESTION, error))?;
    }
    Ok(())
}

/// What the kernel does not have is no error: [`unmet`] finds it.
fn failed(tunable: Tunable, option: &'static str, error: io::Error) -> Result<(), OptionError> {
    match error.raw_os_error() {
        Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP | libc::ENOENT) => Ok(()),
        Some(libc::EPERM) => Err(OptionError::Privilege { key: tunable.toml(), option }),
        _ => Err(OptionError::Kernel { key: tunable.toml(), option, source: error }),
    }
}

/// Puts back into the kernel's hands what is no longer configured, by the values of a socket of that kind that
/// nobody touched.
pub(super) fn forget(
    socket: &Socket,
    place: Where<'_>,
    before: &Tuning,
    now: &Tuning,
) -> Result<(), OptionError> {
    let gone: Tuning = before
        .iter()
        .filter(|(tunable, _)| !now.contains_key(tunable))
        .map(|(t, v)| (*t, v.clone()))
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    let Ok(pristine) = like(socket) else { return Ok(()) };
    for (row, tunable, _) in tuned_rows(&gone, place) {
        if let (Some(value), Some(now)) = (read(row, &pristine), read(row, socket))
            && value != now
        {
            set(row, socket, (row.restore)(value)).or_else(|error| failed(tunable, row.name, error))?;
        }
    }
    if let (Some(_), Some(name)) = (congestion(&gone, place), read_congestion(&pristine)) {
        let result = socket.set_tcp_congestion(name.as_bytes());
        result.or_else(|error| failed(Tunable::TcpCongestion, CONGESTION, error))?;
    }
    // A size that is set no longer grows by itself.
    let bit = |tunable, bit| if now.contains_key(&tunable) { bit } else { 0 };
    let lock = bit(Tunable::SendBuffer, SNDBUF_LOCK) | bit(Tunable::ReceiveBuffer, RCVBUF_LOCK);
    if gone.contains_key(&Tunable::SendBuffer) || gone.contains_key(&Tunable::ReceiveBuffer) {
        // A kernel before 5.14 has no such option, and keeps the size.
        let _ = set_int(socket, SOCKET, libc::SO_BUF_LOCK, lock);
    }
    Ok(())
}

/// A new socket of the same family, type and protocol.
fn like(socket: &Socket) -> io::Result<Socket> {
    let kind = if socket.r#type()? == Type::DGRAM { Type::DGRAM } else { socket.r#type()? };
    let protocol = socket.protocol()?;
    Socket::new(socket.domain()?, kind, protocol)
}

/// What a socket does not have although it is configured.
pub(super) fn unmet(socket: &Socket, place: Where<'_>, options: &SocketOptions) -> Vec<Unmet> {
    let mut unmet = Vec::new();
    for (row, tunable, wanted) in tuned_rows(&options.tuning, place) {
        let found = read(row, socket);
        // What is to be off is off where there is no such option.
        if found.map_or(wanted != 0, |read| !(row.met)(wanted, read)) {
            let found = found.map(|read| (row.restore)(read).to_string());
            let wanted = wanted.to_string();
            unmet.push(Unmet::Option { key: tunable.toml(), option: row.name, wanted, found });
        }
    }
    if let Some(wanted) = congestion(&options.tuning, place) {
        let found = read_congestion(socket);
        if found.as_deref() != Some(wanted) {
            let (key, wanted) = (Tunable::TcpCongestion.toml(), wanted.to_owned());
            unmet.push(Unmet::Option { key, option: CONGESTION, wanted, found });
        }
    }
    unmet
}

/// The values that a socket had when it was made; `None` where the kernel does not know the option.
#[derive(Debug, Clone)]
pub(super) struct Baseline {
    numbers: Vec<Option<i32>>,
    congestion: Option<String>,
}

impl Baseline {
    /// The values that the socket of a listener has now.
    pub(super) fn of(socket: &Socket, place: Where<'_>) -> Self {
        let expected = |row: &Row| match row.expect {
            _ if row.name == CONGESTION || !applies(row, place) => None,
            Expect::AsMade => read(row, socket),
            Expect::Always(value) => read(row, socket).map(|_| value),
        };
        let stream = matches!(place, Where::Inet(inet) if inet.kind == SocketKind::Stream);
        Self {
            numbers: TABLE.iter().map(expected).collect(),
            congestion: if stream { read_congestion(socket) } else { None },
        }
    }

    /// The values that it would have if it were made now, whatever somebody has made of it since; where that cannot be
    /// found out, those that it has.
    pub(super) fn as_made(socket: &Socket, place: Where<'_>, options: &SocketOptions) -> Self {
        let made = like(socket).ok().filter(|made| apply(made, place, options).is_ok());
        Self::of(made.as_ref().unwrap_or(socket), place)
    }

    /// Takes the values that the socket has now for what was configured anew; the others stay.
    pub(super) fn retune(&mut self, socket: &Socket, before: &Tuning, now: &Tuning) {
        let set = |tunable: &Tunable| before.contains_key(tunable) || now.contains_key(tunable);
        for (row, expected) in TABLE.iter().zip(&mut self.numbers) {
            // These two follow others.
            let follows = matches!(row.option, libc::SO_BUF_LOCK | libc::SO_PRIORITY) && row.level == SOCKET;
            if expected.is_some() && (follows || row.tuned.is_some_and(|(tunable, _)| set(&tunable))) {
                *expected = read(row, socket);
            }
        }
        if self.congestion.is_some() && set(&Tunable::TcpCongestion) {
            self.congestion = read_congestion(socket);
        }
    }

    /// The rows that are not as they should be, each with its value.
    fn changed<'a>(&'a self, socket: &'a Socket) -> impl Iterator<Item = (&'static Row, i32)> + 'a {
        let multipath = socket.protocol().is_ok_and(|p| p == Some(socket2::Protocol::MPTCP));
        let made = TABLE.iter().zip(&self.numbers).find(|(row, _)| row.option == libc::SO_BUF_LOCK);
        let locked = made.and_then(|(_, value)| *value).unwrap_or(-1)
            | get_int(socket, SOCKET, libc::SO_BUF_LOCK).unwrap_or(-1);
        TABLE.iter().zip(&self.numbers).filter_map(move |(row, expected)| {
            let expected = (*expected)?;
            // A size that nobody set follows its connections where they are MPTCP's.
            let grows = multipath
                && row.level == SOCKET
                && ((row.option == libc::SO_SNDBUF && locked & SNDBUF_LOCK == 0)
                    || (row.option == libc::SO_RCVBUF && locked & RCVBUF_LOCK == 0));
            (!grows && read(row, socket)? != expected).then_some((row, expected))
        })
    }

    fn other_congestion<'a>(&'a self, socket: &Socket) -> Option<&'a str> {
        let expected = self.congestion.as_deref()?;
        (read_congestion(socket)? != expected).then_some(expected)
    }

    /// The names of the options that are not as they should be.
    pub(super) fn differences<'a>(&'a self, socket: &'a Socket) -> impl Iterator<Item = &'static str> + 'a {
        let congestion = self.other_congestion(socket).map(|_| CONGESTION);
        self.changed(socket).map(|(row, _)| row.name).chain(congestion)
    }

    /// Puts every option back; an error where one will not go.
    pub(super) fn restore(&self, socket: &Socket) -> io::Result<()> {
        for (row, expected) in self.changed(socket) {
            set(row, socket, (row.restore)(expected))?;
        }
        if let Some(name) = self.other_congestion(socket) {
            socket.set_tcp_congestion(name.as_bytes())?;
        }
        match self.differences(socket).next() {
            None => Ok(()),
            Some(name) => Err(io::Error::other(format!("{name} cannot be put back"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{UnixAddress, UnixEndpoint};

    #[test]
    fn the_table_has_a_row_for_each_option_on_each_socket_that_takes_it() {
        let inet = |kind, address: &str| {
            Endpoint::Inet(InetEndpoint::new(kind, address.parse().unwrap(), false, None).unwrap())
        };
        let unix = UnixEndpoint { kind: SocketKind::SeqPacket, address: UnixAddress::parse("@x").unwrap() };
        let mut places = vec![Endpoint::Unix(unix)];
        for kind in [SocketKind::Stream, SocketKind::Datagram] {
            places.extend(["127.0.0.1:1", "[::1]:1", "[::]:1"].map(|address| inet(kind, address)));
        }
        for endpoint in &places {
            for tunable in Tunable::all() {
                let word = TuningValue::Word("reno".into());
                let tuning = Tuning::from([(tunable, word)]);
                let place = Where::from(endpoint);
                let has = tuned_rows(&tuning, place).next().is_some() || congestion(&tuning, place).is_some();
                assert_eq!(has, tunable.applies(endpoint), "{tunable:?} on {endpoint}");
            }
        }
    }
}
