//! Where a socket is bound: the identity of one socket of a listener.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// The type of a socket, socket(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SocketKind {
    /// `SOCK_STREAM`
    Stream,
    /// `SOCK_DGRAM`
    Datagram,
    /// `SOCK_SEQPACKET`, of unix sockets only.
    SeqPacket,
}

impl SocketKind {
    /// Whether clients connect to it and it listens; else it is sent datagrams.
    #[must_use]
    pub fn takes_connections(self) -> bool {
        self != Self::Datagram
    }
}

/// A network interface's name, as `BindToDevice=` takes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName(String);

/// An address of the internet families, with all that makes two of them different for bind(2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InetEndpoint {
    /// TCP or UDP.
    pub kind: SocketKind,
    /// Address and port, the port never 0.
    pub address: SocketAddr,
    /// `IPV6_V6ONLY`; true for every IPv6 endpoint that leaves IPv4 alone, false for IPv4.
    pub v6only: bool,
    /// `SO_BINDTODEVICE`.
    pub device: Option<DeviceName>,
}

/// The address of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnixAddress {
    /// A path in the file system, absolute.
    Path(PathBuf),
    /// A name in the abstract name space of the network namespace, without the `@`.
    Abstract(String),
}

/// A unix socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixEndpoint {
    /// Stream or datagram.
    pub kind: SocketKind,
    /// Its address.
    pub address: UnixAddress,
}

/// Where one socket of a listener is bound.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// TCP or UDP.
    Inet(InetEndpoint),
    /// A unix socket.
    Unix(UnixEndpoint),
}

/// Why a value is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Port 0 is the kernel's choice, and nothing that one can hold.
    #[error("port 0 cannot be held: name the port")]
    PortZero,
    /// IP has no protocol of that kind (SCTP's sockets can do more than a listener).
    #[error("sequential packets are of unix sockets only: name a /path or an @name")]
    SeqPacket,
    /// sun_path has 108 bytes, the last a NUL.
    #[error("a unix socket's address has at most 107 bytes, this one has {0}")]
    TooLong(usize),
    /// A path that depends on where one stands.
    #[error("the path of a unix socket must be absolute")]
    Relative,
    /// No name after the `@`, or a NUL in it.
    #[error("a unix socket's address must not be empty or contain a NUL")]
    Malformed,
    /// Not what the kernel takes as an interface name.
    #[error("{0:?} is no interface name: 1 to 15 characters without '/' and white space")]
    Device(String),
}

impl TryFrom<&str> for DeviceName {
    type Error = EndpointError;

    fn try_from(text: &str) -> Result<Self, EndpointError> {
        let valid = (1..=15).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':')
            && text != "."
            && text != "..";
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(EndpointError::Device(text.chars().take(40).collect()))
        }
    }
}

impl DeviceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl UnixAddress {
    /// The longest address: sun_path less its NUL.
    pub const MAX: usize = 107;

    /// Reads `/path` or `@abstract`.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        if text.len() > Self::MAX {
            return Err(EndpointError::TooLong(text.len()));
        }
        if text.contains('\0') || text.is_empty() || text == "@" {
            return Err(EndpointError::Malformed);
        }
        match text.strip_prefix('@') {
            Some(name) => Ok(Self::Abstract(name.to_owned())),
            None if !text.starts_with('/') => Err(EndpointError::Relative),
            None if text.ends_with('/') => Err(EndpointError::Malformed),
            // Components, so that `/run//x` and `/run/x` are one address.
            None => Ok(Self::Path(Path::new(text).components().collect())),
        }
    }
}

impl InetEndpoint {
    /// An endpoint, after looking at its port.
    pub fn new(
        kind: SocketKind,
        address: SocketAddr,
        v6only: bool,
        device: Option<DeviceName>,
    ) -> Result<Self, EndpointError> {
        if address.port() == 0 {
            return Err(EndpointError::PortZero);
        }
        if kind == SocketKind::SeqPacket {
            return Err(EndpointError::SeqPacket);
        }
        Ok(Self { kind, address, v6only: v6only && address.is_ipv6(), device })
    }

    /// Whether it takes every address of its family.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.address.ip().is_unspecified()
    }

    /// Whether it is an IPv6 wildcard that takes IPv4 too.
    #[must_use]
    pub fn is_dual_stack(&self) -> bool {
        self.is_wildcard() && self.address.is_ipv6() && !self.v6only
    }

    /// Whether bind(2) would refuse one beside the other, in the plain case without `SO_REUSEPORT`.
    #[must_use]
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let one_device = match (&self.device, &other.device) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        self.kind == other.kind
            && self.address.port() == other.address.port()
            && one_device
            && match (self.address.ip(), other.address.ip()) {
                (IpAddr::V4(a), IpAddr::V4(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
                (IpAddr::V6(a), IpAddr::V6(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
                (IpAddr::V4(_), IpAddr::V6(_)) => other.is_dual_stack(),
                (IpAddr::V6(_), IpAddr::V4(_)) => self.is_dual_stack(),
            }
    }
}

impl Endpoint {
    /// Stream or datagram.
    #[must_use]
    pub fn kind(&self) -> SocketKind {
        match self {
            Self::Inet(inet) => inet.kind,
            Self::Unix(unix) => unix.kind,
        }
    }

    /// The port, of the internet families.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Inet(inet) => Some(inet.address.port()),
            Self::Unix(_) => None,
        }
    }

    /// Whether bind(2) would refuse one beside the other.
    #[must_use]
    pub fn conflicts_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Inet(a), Self::Inet(b)) => a.conflicts_with(b),
            // Two kinds of unix socket cannot share a name either.
            (Self::Unix(a), Self::Unix(b)) => a.address == b.address,
            _ => false,
        }
    }
}

impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

/// `tcp 127.0.0.1:3306`, `udp [::]:53%eth0`, `unix /run/x.sock`, `unix-datagram @x`, `unix-seqpacket @x`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(inet) => {
                let protocol = match inet.kind {
                    SocketKind::Stream => "tcp",
                    SocketKind::Datagram => "udp",
                    // `InetEndpoint::new` makes none.
                    SocketKind::SeqPacket => "sequential packets",
                };
                write!(f, "{protocol} {}", inet.address)?;
                inet.device.as_ref().map_or(Ok(()), |device| write!(f, "%{}", device.as_str()))
            }
            Self::Unix(unix) => {
                let protocol = match unix.kind {
                    SocketKind::Stream => "unix",
                    SocketKind::Datagram => "unix-datagram",
                    SocketKind::SeqPacket => "unix-seqpacket",
                };
                write!(f, "{protocol} {}", unix.address)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str, v6only: bool) -> Endpoint {
        Endpoint::Inet(InetEndpoint::new(SocketKind::Stream, address.parse().unwrap(), v6only, None).unwrap())
    }

    #[test]
    fn endpoints_conflict_as_bind_would() {
        assert!(tcp("0.0.0.0:80", false).conflicts_with(&tcp("127.0.0.1:80", false)));
        assert!(!tcp("127.0.0.2:80", false).conflicts_with(&tcp("127.0.0.1:80", false)));
        assert!(!tcp("0.0.0.0:80", false).conflicts_with(&tcp("[::]:80", true)));
        assert!(tcp("127.0.0.1:80", false).conflicts_with(&tcp("[::]:80", false)));
        assert!(!tcp("127.0.0.1:80", false).conflicts_with(&tcp("[::1]:80", false)));
        assert!(!tcp("0.0.0.0:80", false).conflicts_with(&tcp("0.0.0.0:81", false)));
    }

    #[test]
    fn unix_addresses_are_absolute_paths_or_abstract_names() {
        assert_eq!(UnixAddress::parse("/run//x").unwrap().to_string(), "/run/x");
        assert_eq!(UnixAddress::parse("@x").unwrap(), UnixAddress::Abstract("x".into()));
        assert_eq!(UnixAddress::parse("x"), Err(EndpointError::Relative));
        assert_eq!(UnixAddress::parse("@"), Err(EndpointError::Malformed));
        assert_eq!(UnixAddress::parse(&format!("/{}", "x".repeat(107))), Err(EndpointError::TooLong(108)));
    }
}
