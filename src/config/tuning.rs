//! Options of sockets whose value is a number or a word: one row each, from what is written to what is meant.
//!
//! The values are read as systemd reads them (`config_parse_iec_size()`, `parse_sec()`, `ip_tos_from_string()`
//! and so on), and are what setsockopt(2) is to be given; how each is set is the kernel room's matter.

use super::span;
use crate::model::{Endpoint, SocketKind};
use std::collections::BTreeMap;
use std::fmt;

/// A socket option that a listener can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tunable {
    /// `KeepAlive=`, `SO_KEEPALIVE`
    KeepAlive,
    /// `KeepAliveTimeSec=`, `TCP_KEEPIDLE`, in seconds
    KeepAliveTime,
    /// `KeepAliveIntervalSec=`, `TCP_KEEPINTVL`, in seconds
    KeepAliveInterval,
    /// `KeepAliveProbes=`, `TCP_KEEPCNT`
    KeepAliveProbes,
    /// `NoDelay=`, `TCP_NODELAY`
    NoDelay,
    /// `DeferAcceptSec=`, `TCP_DEFER_ACCEPT`, in seconds
    DeferAccept,
    /// `FastOpen=` (ours), `TCP_FASTOPEN`: how many requests may wait.
    FastOpen,
    /// `TCPCongestion=`, `TCP_CONGESTION`, a word
    TcpCongestion,
    /// `ReceiveBuffer=`, `SO_RCVBUF`, in bytes
    ReceiveBuffer,
    /// `SendBuffer=`, `SO_SNDBUF`, in bytes
    SendBuffer,
    /// `IPTOS=`, `IP_TOS` and `IPV6_TCLASS`
    IpTos,
    /// `IPTTL=`, `IP_TTL` and `IPV6_UNICAST_HOPS`
    IpTtl,
    /// `Mark=`, `SO_MARK`
    Mark,
    /// `Priority=`, `SO_PRIORITY`
    Priority,
    /// `Transparent=`, `IP_TRANSPARENT` and `IPV6_TRANSPARENT`
    Transparent,
    /// `Broadcast=`, `SO_BROADCAST`
    Broadcast,
    /// `PassCredentials=`, `SO_PASSCRED`
    PassCredentials,
    /// `PassSecurity=`, `SO_PASSSEC`
    PassSecurity,
    /// `PassPacketInfo=`, `IP_PKTINFO` and `IPV6_RECVPKTINFO`
    PassPacketInfo,
    /// `Timestamping=`, `SO_TIMESTAMP` or `SO_TIMESTAMPNS`: the words `off`, `us`, `ns`
    Timestamping,
}

/// The value of a [`Tunable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TuningValue {
    /// On or off.
    Flag(bool),
    /// A number, in the unit of the option.
    Number(u32),
    /// A word.
    Word(String),
}

/// What a listener sets; an option that is not here stays as the kernel makes it.
pub type Tuning = BTreeMap<Tunable, TuningValue>;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// yes or no
    Flag,
    /// A number within bounds.
    Number(u32, u32),
    /// Bytes, with K, M and G.
    Size,
    /// A span of time, without a unit seconds.
    Seconds(u32),
    /// A type of service.
    Service,
    /// off, us or ns
    Clock,
    /// The name of a congestion control.
    Congestion,
}

/// Which sockets an option has an effect on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    Inet,
    Tcp,
    Udp,
    Unix,
}

/// Name in TOML, name in a unit, form, scope, an example in TOML.
struct Row(Tunable, &'static str, &'static str, Form, Scope, &'static str);

/// TCP_KEEPIDLE and TCP_KEEPINTVL take at most this, MAX_TCP_KEEPIDLE.
const MOST_KEEPALIVE: u32 = 32_767;
/// The kernel doubles it, and keeps it in an int.
const MOST_BUFFER: u64 = 1 << 30;
const INT: u32 = 0x7fff_ffff;

const ROWS: [Row; 20] = {
    use Form::{Clock, Congestion, Flag, Number, Seconds, Service, Size};
    use Tunable as T;
    [
        Row(T::KeepAlive, "keep-alive", "KeepAlive", Flag, Scope::Inet, "true"),
        Row(
            T::KeepAliveTime,
            "keep-alive-time",
            "KeepAliveTimeSec",
            Seconds(MOST_KEEPALIVE),
            Scope::Tcp,
            "\"10min\"",
        ),
        Row(
            T::KeepAliveInterval,
            "keep-alive-interval",
            "KeepAliveIntervalSec",
            Seconds(MOST_KEEPALIVE),
            Scope::Tcp,
            "\"30s\"",
        ),
        Row(T::KeepAliveProbes, "keep-alive-probes", "KeepAliveProbes", Number(1, 127), Scope::Tcp, "5"),
        Row(T::NoDelay, "no-delay", "NoDelay", Flag, Scope::Tcp, "true"),
        Row(T::DeferAccept, "defer-accept", "DeferAcceptSec", Seconds(INT), Scope::Tcp, "\"5s\""),
        Row(T::FastOpen, "fast-open", "FastOpen", Number(0, INT), Scope::Tcp, "256"),
        Row(T::TcpCongestion, "tcp-congestion", "TCPCongestion", Congestion, Scope::Tcp, "\"reno\""),
        Row(T::ReceiveBuffer, "receive-buffer", "ReceiveBuffer", Size, Scope::All, "\"8M\""),
        Row(T::SendBuffer, "send-buffer", "SendBuffer", Size, Scope::All, "\"8M\""),
        Row(T::IpTos, "ip-tos", "IPTOS", Service, Scope::Inet, "\"low-delay\""),
        Row(T::IpTtl, "ip-ttl", "IPTTL", Number(1, 255), Scope::Inet, "64"),
        Row(T::Mark, "mark", "Mark", Number(0, u32::MAX), Scope::Inet, "7"),
        Row(T::Priority, "priority", "Priority", Number(0, INT), Scope::Inet, "6"),
        Row(T::Transparent, "transparent", "Transparent", Flag, Scope::Inet, "true"),
        Row(T::Broadcast, "broadcast", "Broadcast", Flag, Scope::Udp, "true"),
        Row(T::PassCredentials, "pass-credentials", "PassCredentials", Flag, Scope::Unix, "true"),
        Row(T::PassSecurity, "pass-security", "PassSecurity", Flag, Scope::Unix, "true"),
        Row(T::PassPacketInfo, "pass-packet-info", "PassPacketInfo", Flag, Scope::Udp, "true"),
        Row(T::Timestamping, "timestamping", "Timestamping", Clock, Scope::All, "\"us\""),
    ]
};

/// A text that is no value of an option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{written:?} is no value of {name:?}: {wanted}")]
pub struct TuningError {
    name: &'static str,
    written: String,
    wanted: String,
}

impl Tunable {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().map(|row| row.0)
    }

    fn row(self) -> &'static Row {
        // Every option has a row: a test holds that.
        const NONE: Row = Row(Tunable::KeepAlive, "", "", Form::Flag, Scope::All, "");
        ROWS.iter().find(|row| row.0 == self).unwrap_or(&NONE)
    }

    /// Its key in TOML.
    #[must_use]
    pub fn toml(self) -> &'static str {
        self.row().1
    }

    /// Its key in a unit.
    #[must_use]
    pub fn unit(self) -> &'static str {
        self.row().2
    }

    pub(super) fn form(self) -> Form {
        self.row().3
    }

    pub(super) fn example(self) -> &'static str {
        self.row().5
    }

    /// Whether it has an effect on the socket of an endpoint.
    #[must_use]
    pub fn applies(self, endpoint: &Endpoint) -> bool {
        match (self.row().4, endpoint) {
            (Scope::All, _) | (Scope::Inet, Endpoint::Inet(_)) | (Scope::Unix, Endpoint::Unix(_)) => true,
            (Scope::Tcp, Endpoint::Inet(inet)) => inet.kind == SocketKind::Stream,
            (Scope::Udp, Endpoint::Inet(inet)) => inet.kind == SocketKind::Datagram,
            _ => false,
        }
    }

    /// The sockets that it has an effect on, in words.
    pub(super) fn sockets(self) -> &'static str {
        match self.row().4 {
            Scope::All => "any",
            Scope::Inet => "TCP or UDP",
            Scope::Tcp => "TCP",
            Scope::Udp => "UDP",
            Scope::Unix => "unix",
        }
    }

    /// Reads a value.
    pub fn read(self, text: &str) -> Result<TuningValue, TuningError> {
        let text = text.trim();
        let number = |n: Option<u32>| n.map(TuningValue::Number);
        let (value, wanted) = match self.form() {
            Form::Flag => {
                (super::definition::boolean(text).map(TuningValue::Flag), "it takes yes or no".to_owned())
            }
            Form::Number(least, most) => (
                number(integer(text).filter(|n| (least..=most).contains(n))),
                format!("it takes a number from {least} to {most}"),
            ),
            Form::Size => (number(size(text)), "it takes 1 to 1G bytes, as in 65536, 512K or 8M".to_owned()),
            Form::Seconds(most) => (
                number(seconds(text).filter(|n| *n <= most)),
                format!("it takes a time of 1 s to {most} s, as in 30, 10min or 1h 30min"),
            ),
            Form::Service => (
                number(service(text)),
                "it takes a number from 0 to 255, low-delay, throughput, reliability or low-cost".to_owned(),
            ),
            Form::Clock => (clock(text), "it takes off, us or ns".to_owned()),
            Form::Congestion => {
                (congestion(text), "it takes the name of a congestion control, as in reno".to_owned())
            }
        };
        let written = || text.chars().take(80).collect();
        value.ok_or_else(|| TuningError { name: self.toml(), written: written(), wanted })
    }
}

/// As strtoul(3) with base 0 reads it, and `0o` and `0b` as systemd does.
fn integer(text: &str) -> Option<u32> {
    let lower = text.to_ascii_lowercase();
    let (digits, base) = match lower.as_bytes() {
        [b'0', b'x', ..] => (lower.get(2..)?, 16),
        [b'0', b'o', ..] => (lower.get(2..)?, 8),
        [b'0', b'b', ..] => (lower.get(2..)?, 2),
        [b'0', _, ..] => (lower.get(1..)?, 8),
        _ => (lower.as_str(), 10),
    };
    // from_str_radix takes a sign.
    digits.bytes().all(|b| b.is_ascii_alphanumeric()).then(|| u32::from_str_radix(digits, base).ok())?
}

/// A size in bytes, of at most 1G.
pub(super) fn size(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at_checked(end)?;
    let factor: u64 = match suffix.trim_start() {
        "" | "B" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(factor)?;
    u32::try_from(bytes).ok().filter(|_| (1..=MOST_BUFFER).contains(&bytes))
}

/// Whole seconds, what is beyond cut off as systemd does; less than one would be the kernel's default.
fn seconds(text: &str) -> Option<u32> {
    let seconds = span::read(text)?.as_secs();
    u32::try_from(seconds).ok().filter(|n| *n >= 1)
}

fn service(text: &str) -> Option<u32> {
    match text {
        "low-delay" => Some(0x10),
        "throughput" => Some(0x08),
        "reliability" => Some(0x04),
        "low-cost" => Some(0x02),
        _ => integer(text).filter(|n| *n <= 255),
    }
}

fn clock(text: &str) -> Option<TuningValue> {
    let word = match text {
        "us" | "usec" | "µs" | "μs" => "us",
        "ns" | "nsec" => "ns",
        _ if super::definition::boolean(text) == Some(false) => "off",
        _ => return None,
    };
    Some(TuningValue::Word(word.to_owned()))
}

/// TCP_CA_NAME_MAX is 16 with the NUL.
fn congestion(text: &str) -> Option<TuningValue> {
    let valid = (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    valid.then(|| TuningValue::Word(text.to_owned()))
}

/// As TOML has it, without quotes.
impl fmt::Display for TuningValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Word(word) => f.write_str(word),
        }
    }
}

impl TuningValue {
    pub(super) fn json(&self) -> serde_json::Value {
        match self {
            Self::Flag(flag) => (*flag).into(),
            Self::Number(number) => (*number).into(),
            Self::Word(word) => word.as_str().into(),
        }
    }
}

#[cfg(test)]
#[path = "tuning_tests.rs"]
mod tests;
