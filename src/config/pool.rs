//! Pools: what `[[pool]]` says, as values.

use super::{Grant, Origin};
use crate::model::PortSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// A pool has no more addresses than this.
pub const MOST_ADDRESSES: usize = 4096;
/// Of a prefix no more addresses than this are used, the lowest ones.
pub const MOST_OF_A_PREFIX: usize = 1024;

/// One pool.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolConfig {
    /// `addresses`, in the order of the configuration.
    pub addresses: Vec<AddressSpec>,
    /// `ports`
    pub ports: PortsSpec,
    /// `spread`
    pub spread: Spread,
    /// Who may lease from it, besides root.
    pub allow: Vec<PoolGrant>,
    /// `quota`
    pub quota: Quota,
    /// `minimum`: so many ports are kept for each caller, for each destination; 0: none.
    pub minimum: u32,
    /// `close-orphans`: after so long, what an ended session left open is closed; `None`: never.
    pub close_orphans: Option<Duration>,
    /// Where it is written.
    pub origin: Origin,
}

impl PoolConfig {
    /// The pool that there is where none is configured: every local user may have a quarter of what the host's own
    /// addresses have room for.
    #[must_use]
    pub fn built_in() -> Self {
        Self {
            addresses: vec![AddressSpec::Host],
            ports: PortsSpec::Beside,
            spread: Spread::default(),
            allow: vec![PoolGrant::Everybody],
            quota: Quota::Quarter,
            minimum: 0,
            close_orphans: None,
            origin: Origin::default(),
        }
    }
}

/// Source addresses as they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressSpec {
    /// `192.0.2.10-192.0.2.13`, or one address alone; both ends are of one family and included.
    Range(IpAddr, IpAddr),
    /// `2001:db8:1::/64`: base address with the bits after the prefix zero, and its length.
    Prefix(IpAddr, u8),
    /// `dev:eth0`: the global addresses of an interface, whatever they are at a time.
    Device(String),
    /// Every global address of the host, or loopback where it has none: the default pool's.
    Host,
}

/// The ports of a pool as they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortsSpec {
    /// `auto`: from 1024 up, outside of the kernel's own range.
    Auto,
    /// As `auto`, and never of the kernel's own range, however little that leaves: the default pool's. Nobody asked for
    /// that pool, so nobody shall have fewer ports for it.
    Beside,
    /// Ranges.
    Ports(PortSet),
}

/// How a pool chooses among its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spread {
    /// The address with the fewest ports in use for the destination.
    #[default]
    LeastUsed,
    /// One after the other.
    RoundRobin,
    /// The same caller and destination keep their address, as long as it has room.
    Sticky,
}

/// A rule of a pool's `allow`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolGrant {
    /// Everybody, in the host's network namespace: the default pool's.
    Everybody,
    /// Who matches; with `+sockets` also from another network namespace.
    Of {
        /// Who.
        grant: Grant,
        /// `+sockets`: sockets may be handed to a caller in another network namespace.
        sockets: bool,
    },
}

/// How much of a pool may be leased at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quota {
    /// No limit.
    #[default]
    None,
    /// `{ ports = N }`: so many ports for each caller's unit, or user where it has none.
    PortsPerCaller(u32),
    /// A quarter of the pool for each caller and three quarters for all: the default pool's.
    Quarter,
}

/// As it is written in `addresses`.
impl fmt::Display for AddressSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(first, last) if first == last => first.fmt(f),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::Prefix(base, length) => write!(f, "{base}/{length}"),
            Self::Device(name) => write!(f, "dev:{name}"),
            Self::Host => f.write_str("the host's own"),
        }
    }
}

/// As it is written in `ports`.
impl fmt::Display for PortsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto | Self::Beside => f.write_str("auto"),
            Self::Ports(ports) => ports.fmt(f),
        }
    }
}

impl Spread {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::LeastUsed, Self::RoundRobin, Self::Sticky];

    /// As it is written in `spread`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LeastUsed => "least-used",
            Self::RoundRobin => "round-robin",
            Self::Sticky => "sticky",
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// As it is written in `allow`.
impl fmt::Display for PoolGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody => f.write_str("everybody"),
            Self::Of { grant, sockets: false } => grant.fmt(f),
            Self::Of { grant, sockets: true } => write!(f, "{grant}+sockets"),
        }
    }
}

/// For people: empty where there is no limit.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::PortsPerCaller(ports) => write!(f, "{ports} ports"),
            Self::Quarter => f.write_str("a quarter"),
        }
    }
}
