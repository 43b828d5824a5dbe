//! Addresses as they are written: the syntax of systemd.socket(5), and ranges of ports.
//!
//! Reading a text gives an [`Address`]; the endpoints of a listener are made from all its addresses together,
//! since an IPv6 wildcard leaves IPv4 alone where the same listener names IPv4 addresses of that port.
//! What a text asks for is counted before anything of that size is allocated.

use crate::model::{
    DeviceName, Endpoint, EndpointError, InetEndpoint, PortRange, PortSetError, SocketKind, UnixAddress,
    UnixEndpoint,
};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// The most sockets that one listener can have.
pub(crate) const MAX_ENDPOINTS: usize = 4096;

/// What one text names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Inet(Inet),
    Unix(UnixAddress),
}

/// An address of the internet families with its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inet {
    ip: IpAddr,
    ports: PortRange,
    scope: Option<Scope>,
}

/// What is behind a `%`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    Device(DeviceName),
    Index(u32),
}

/// `BindIPv6Only=`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum BindIpv6Only {
    /// An IPv6 wildcard takes IPv4 too, unless its listener names IPv4 addresses of that port itself.
    #[default]
    Default,
    /// It takes IPv4 too.
    Both,
    /// It leaves IPv4 alone.
    Ipv6Only,
}

/// Why a text is no address that can be held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("an address must not be empty")]
    Empty,
    #[error("sockets of the vsock family are not available: portbroker holds TCP, UDP and unix sockets")]
    Vsock,
    #[error("{0:?} has no port")]
    NoPort(String),
    #[error("{0:?} is an IPv6 address without brackets")]
    NoBrackets(String),
    #[error("{0:?} is no address")]
    NoAddress(String),
    #[error("{0} is an IPv4 address written as an IPv6 one")]
    Mapped(Ipv6Addr),
    #[error("{0} is a link-local address, and means nothing without an interface")]
    LinkLocal(Ipv6Addr),
    #[error("an interface can be given by its number for link-local addresses only")]
    Index,
    #[error("the address says interface {0:?} and the listener's device is {1:?}")]
    TwoDevices(String, String),
    #[error(transparent)]
    Port(#[from] PortSetError),
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

impl ListenError {
    /// What to write instead.
    pub(crate) fn help(&self) -> Option<String> {
        match self {
            Self::NoPort(text) => Some(format!("write the port too, as in \"{text}:80\"")),
            Self::NoBrackets(text) => text
                .rsplit_once(':')
                .map(|(ip, port)| format!("write \"[{ip}]:{port}\" or \"[{text}]:PORT\"")),
            Self::NoAddress(_) => Some(
                "write PORT, ADDRESS:PORT, [IPV6-ADDRESS]:PORT, /PATH or @NAME; host names are not looked up"
                    .into(),
            ),
            Self::Mapped(ip) => {
                ip.to_ipv4_mapped().map(|ip| format!("write \"{ip}:PORT\" for the IPv4 address"))
            }
            Self::LinkLocal(ip) => {
                Some(format!("write \"[{ip}]:PORT%eth0\" with the interface that is meant"))
            }
            Self::TwoDevices(..) => Some("leave one of them out".into()),
            Self::Empty | Self::Vsock | Self::Index | Self::Port(_) | Self::Endpoint(_) => None,
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for Scope {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        match text.parse::<u32>() {
            Ok(index) if index > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(Self::Index(index)),
            _ => Ok(Self::Device(DeviceName::try_from(text)?)),
        }
    }
}

impl Inet {
    fn new(ip: IpAddr, ports: &str, scope: Option<&str>) -> Result<Self, ListenError> {
        let scope = scope.map(str::parse::<Scope>).transpose()?;
        let local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        match ip {
            IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => return Err(ListenError::Mapped(ip)),
            _ if !local && matches!(scope, Some(Scope::Index(_))) => return Err(ListenError::Index),
            _ => {}
        }
        Ok(Self { ip, ports: ports.parse()?, scope })
    }

    /// `[::1]:80`, `[fe80::1]:80%eth0`, `[fe80::1%2]:80`
    fn bracketed(text: &str, whole: &str) -> Result<Self, ListenError> {
        let no_address = || ListenError::NoAddress(shortened(whole));
        let (inside, rest) = text.split_once(']').ok_or_else(no_address)?;
        let (ip, inner_scope) = split_scope(inside);
        let ip: Ipv6Addr = ip.parse().map_err(|_| no_address())?;
        let rest = match rest.strip_prefix(':') {
            Some(rest) => rest,
            None if rest.is_empty() => return Err(ListenError::NoPort(shortened(whole))),
            None => return Err(no_address()),
        };
        let (ports, outer_scope) = split_scope(rest);
        Self::new(IpAddr::V6(ip), ports, outer_scope.or(inner_scope))
    }

    /// `127.0.0.1:80`, `127.0.0.1:80%eth0`
    fn dotted(whole: &str) -> Result<Self, ListenError> {
        let (text, scope) = split_scope(whole);
        match text.rsplit_once(':') {
            _ if text.parse::<Ipv4Addr>().is_ok() => Err(ListenError::NoPort(shortened(text))),
            _ if text.parse::<Ipv6Addr>().is_ok() => Err(ListenError::NoBrackets(shortened(text))),
            Some((ip, _)) if ip.parse::<Ipv6Addr>().is_ok() => Err(ListenError::NoBrackets(shortened(text))),
            Some((ip, ports)) => match ip.parse::<Ipv4Addr>() {
                Ok(ip) => Self::new(IpAddr::V4(ip), ports, scope),
                Err(_) => Err(ListenError::NoAddress(shortened(whole))),
            },
            None => Err(ListenError::NoAddress(shortened(whole))),
        }
    }

    fn endpoint(
        &self,
        kind: SocketKind,
        port: u16,
        v6only: bool,
        device: Option<&DeviceName>,
    ) -> Result<Endpoint, ListenError> {
        let (own, index) = match &self.scope {
            Some(Scope::Device(own)) => (Some(own), 0),
            Some(Scope::Index(index)) => (None, *index),
            None => (None, 0),
        };
        let device = match (own, device) {
            (Some(a), Some(b)) if a != b => {
                return Err(ListenError::TwoDevices(a.as_str().into(), b.as_str().into()));
            }
            (own, device) => own.or(device).cloned(),
        };
        let address = match self.ip {
            IpAddr::V4(_) => SocketAddr::new(self.ip, port),
            // inet6_bind() answers EINVAL to a link-local address without an interface.
            IpAddr::V6(ip) if ip.is_unicast_link_local() && device.is_none() && index == 0 => {
                return Err(ListenError::LinkLocal(ip));
            }
            IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, index)),
        };
        Ok(Endpoint::Inet(InetEndpoint::new(kind, address, v6only, device)?))
    }
}

fn split_scope(text: &str) -> (&str, Option<&str>) {
    match text.split_once('%') {
        Some((before, scope)) => (before, Some(scope)),
        None => (text, None),
    }
}

impl FromStr for Address {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let text = text.trim();
        if text.is_empty() {
            Err(ListenError::Empty)
        } else if text.starts_with(['/', '@']) {
            Ok(Self::Unix(UnixAddress::parse(text)?))
        } else if text.starts_with("vsock") {
            Err(ListenError::Vsock)
        } else if let Some(rest) = text.strip_prefix('[') {
            Inet::bracketed(rest, text).map(Self::Inet)
        } else if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
            Inet::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), text, None).map(Self::Inet)
        } else if text.contains('/') {
            Err(EndpointError::Relative.into())
        } else {
            Inet::dotted(text).map(Self::Inet)
        }
    }
}

impl Address {
    /// How many endpoints it names.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Inet(inet) => {
                usize::from(inet.ports.last()).saturating_sub(usize::from(inet.ports.first())) + 1
            }
            Self::Unix(_) => 1,
        }
    }
}

/// The endpoints of a listener and, for each, the index of the address that it comes from.
///
/// The caller has checked that there are no more than [`MAX_ENDPOINTS`]. An error comes with the index of
/// the address that is wrong.
pub(crate) fn endpoints(
    addresses: &[(SocketKind, Address)],
    bind_ipv6_only: BindIpv6Only,
    device: Option<&DeviceName>,
) -> Result<Vec<(Endpoint, usize)>, (ListenError, usize)> {
    let mut with_ipv4 = HashSet::new();
    let is_wildcard = |address: &Address| matches!(address, Address::Inet(inet) if inet.ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    // Nobody else asks for it.
    let asks = addresses.iter().any(|(_, address)| is_wildcard(address));
    for (kind, address) in addresses.iter().filter(|_| asks) {
        if let Address::Inet(Inet { ip: IpAddr::V4(_), ports, .. }) = address {
            with_ipv4.extend(ports.iter().map(|port| (*kind, port)));
        }
    }
    let mut endpoints = Vec::with_capacity(addresses.iter().map(|(_, address)| address.count()).sum());
    for (index, (kind, address)) in addresses.iter().enumerate() {
        match address {
            Address::Unix(address) => {
                let unix = UnixEndpoint { kind: *kind, address: address.clone() };
                endpoints.push((Endpoint::Unix(unix), index));
            }
            Address::Inet(inet) => {
                for port in inet.ports.iter() {
                    let v6only = match bind_ipv6_only {
                        BindIpv6Only::Ipv6Only => true,
                        // Only a wildcard can take IPv4 too; see `InetEndpoint::v6only`.
                        _ if !inet.ip.is_unspecified() => true,
                        BindIpv6Only::Both => false,
                        BindIpv6Only::Default => with_ipv4.contains(&(*kind, port)),
                    };
                    let endpoint = inet.endpoint(*kind, port, v6only, device);
                    endpoints.push((endpoint.map_err(|error| (error, index))?, index));
                }
            }
        }
    }
    Ok(endpoints)
}

impl BindIpv6Only {
    /// As it is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Both => "both",
            Self::Ipv6Only => "ipv6-only",
        }
    }
}

impl FromStr for BindIpv6Only {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Default, Self::Both, Self::Ipv6Only].into_iter().find(|v| v.as_str() == text).ok_or(())
    }
}

#[cfg(test)]
#[path = "listen_tests.rs"]
mod tests;
