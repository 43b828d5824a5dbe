//! The values of `[[pool]]` as they are written: addresses, ports, grants.

use super::allow::{Accounts, GrantError};
use super::fault::quoted;
use super::pool::{MOST_ADDRESSES, MOST_OF_A_PREFIX};
use super::{AddressSpec, PoolGrant};
use crate::model::{DeviceName, EndpointError, PortSet, PortSetError};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The shortest and the longest time after which what an ended session left open is closed.
const ORPHANS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 60 * 60));

/// Why a text is no time after which something is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum OrphanTimeError {
    #[error("{0} is no span of time: write it as in \"30s\" or \"5min\"")]
    Form(String),
    #[error("what an ended session left open is closed after at least 1 s and at most 24 h")]
    Bounds,
}

/// Reads `30s`, `5min`.
pub(super) fn orphan_time(text: &str) -> Result<Duration, OrphanTimeError> {
    let time = humantime::parse_duration(text.trim()).map_err(|_| OrphanTimeError::Form(quoted(text)))?;
    if time < ORPHANS.0 || time > ORPHANS.1 { Err(OrphanTimeError::Bounds) } else { Ok(time) }
}

/// Why a text names no source addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressesError {
    #[error("{0} is no source address")]
    Form(String),
    #[error("the range {0}-{1} begins in one family and ends in the other")]
    Families(IpAddr, IpAddr),
    #[error("the range {0}-{1} runs backwards: write {1}-{0}")]
    Backwards(IpAddr, IpAddr),
    #[error("the range {first}-{last} has {count} addresses, and a pool has at most {MOST_ADDRESSES}")]
    TooMany { first: IpAddr, last: IpAddr, count: u128 },
    #[error("{length} is no length of a prefix of {address}: a number from 1 to {most}")]
    Length { address: IpAddr, length: String, most: u8 },
    #[error(
        "{address}/{length} is no prefix, since it has bits behind its first {length}: write {base}/{length}"
    )]
    HostBits { address: IpAddr, length: u8, base: IpAddr },
    #[error("no connection comes from {address}, {what} address")]
    Unusable { address: IpAddr, what: &'static str },
    #[error("{0} is an IPv4 address in the form of an IPv6 one: write {1}")]
    Mapped(IpAddr, IpAddr),
    #[error(transparent)]
    Device(#[from] EndpointError),
}

impl AddressesError {
    /// What to write instead.
    pub(super) fn help(&self) -> Option<String> {
        let help = match self {
            Self::Form(_) => {
                "write ADDRESS, FIRST-LAST, PREFIX/LENGTH or dev:INTERFACE; host names are not looked up"
            }
            Self::HostBits { .. } => "or the address without the length, where it alone is meant",
            Self::Unusable { what: LINK_LOCAL, .. } => {
                "name global addresses: what a link-local one means goes by the interface"
            }
            Self::TooMany { .. } => "make it several pools",
            _ => return None,
        };
        Some(help.to_owned())
    }
}

const LINK_LOCAL: &str = "a link-local";

/// Refuses what cannot be a source address.
fn checked(address: IpAddr) -> Result<IpAddr, AddressesError> {
    let unusable = |what| Err(AddressesError::Unusable { address, what });
    match address {
        _ if address.is_unspecified() => unusable("the unspecified"),
        _ if address.is_multicast() => unusable("a multicast"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => unusable("the broadcast"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(AddressesError::Mapped(address, address.to_canonical()))
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => unusable(LINK_LOCAL),
        _ => Ok(address),
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn range(first: IpAddr, last: IpAddr) -> Result<AddressSpec, AddressesError> {
    if first.is_ipv4() != last.is_ipv4() {
        return Err(AddressesError::Families(first, last));
    }
    let count = number(last).checked_sub(number(first)).ok_or(AddressesError::Backwards(first, last))?;
    let count = count.saturating_add(1);
    let (first, last) = (checked(first)?, checked(last)?);
    if count > MOST_ADDRESSES as u128 {
        return Err(AddressesError::TooMany { first, last, count });
    }
    Ok(AddressSpec::Range(first, last))
}

fn prefix(address: IpAddr, text: &str) -> Result<AddressSpec, AddressesError> {
    let most = if address.is_ipv4() { 32 } else { 128 };
    let plain = (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let length = text.parse().ok().filter(|length| plain && (1..=most).contains(length));
    let length: u8 = length.ok_or_else(|| AddressesError::Length { address, length: quoted(text), most })?;
    let base = match address {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & (u32::MAX << (32 - length))).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & (u128::MAX << (128 - length))).into()),
    };
    if base != address {
        return Err(AddressesError::HostBits { address, length, base });
    }
    checked(base)?;
    Ok(AddressSpec::Prefix(base, length))
}

/// Reads `192.0.2.1`, `192.0.2.10-192.0.2.13`, `2001:db8:1::/64` or `dev:eth0`.
pub(super) fn addresses(text: &str) -> Result<AddressSpec, AddressesError> {
    let text = text.trim();
    let form = || AddressesError::Form(quoted(text));
    let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| form());
    if let Some(device) = text.strip_prefix("dev:") {
        return Ok(AddressSpec::Device(DeviceName::try_from(device)?.as_str().to_owned()));
    }
    match (text.split_once('/'), text.split_once('-')) {
        (Some((base, length)), _) => prefix(address(base)?, length),
        (None, Some((first, last))) => range(address(first)?, address(last)?),
        (None, None) => range(address(text)?, address(text)?),
    }
}

/// Of how many addresses of a short IPv4 prefix only the first are used. Of IPv6 everybody knows.
pub(super) fn left_out_of_prefix(spec: &AddressSpec) -> Option<u32> {
    match spec {
        AddressSpec::Prefix(IpAddr::V4(_), length @ 1..=30) => {
            let usable = (u32::MAX >> length).checked_sub(1)?;
            usable.checked_sub(u32::try_from(MOST_OF_A_PREFIX).ok()?).filter(|more| *more > 0)
        }
        _ => None,
    }
}

/// Reads `auto`, or ranges, of one text or several.
pub(super) fn ports<'a>(texts: impl Iterator<Item = &'a str>) -> PortsRead {
    let mut read = PortsRead { ports: PortSet::default(), auto: false, faults: Vec::new() };
    for (n, text) in texts.enumerate() {
        if text.trim() == "auto" {
            read.auto = true;
            continue;
        }
        match text.parse::<PortSet>() {
            Ok(ports) => read.ports = read.ports.union(&ports),
            Err(error) => read.faults.push((n, error)),
        }
    }
    read
}

/// What `ports` says.
#[derive(Debug)]
pub(super) struct PortsRead {
    /// All ranges together.
    pub(super) ports: PortSet,
    /// Whether one of the texts is `auto`.
    pub(super) auto: bool,
    /// By the number of the text.
    pub(super) faults: Vec<(usize, PortSetError)>,
}

/// Why a text is no rule of a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PoolGrantError {
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error("\"sockets\" says what, and not to whom")]
    Nobody,
    #[error("\"sockets\" is given twice in one grant")]
    Twice,
}

impl PoolGrantError {
    /// What to write instead.
    pub(super) fn help(&self) -> Option<String> {
        match self {
            Self::Grant(GrantError::Form(_)) => Some(
                "write \"unit:NAME.service\", \"user:NAME\" or \"group:NAME\", or several joined by '+' that must \
                 all hold, and \"+sockets\" for callers in other network namespaces"
                    .into(),
            ),
            Self::Grant(error) => error.help(),
            Self::Nobody => Some("write it behind a grant, as in \"unit:crawler.service+sockets\"".into()),
            Self::Twice => None,
        }
    }
}

/// Reads `unit:x.service+user:y+sockets`.
pub(super) fn grant(text: &str, accounts: &Accounts) -> Result<PoolGrant, PoolGrantError> {
    let parts: Vec<&str> = text.trim().split('+').collect();
    let rest: Vec<&str> = parts.iter().copied().filter(|part| part.trim() != "sockets").collect();
    match parts.len() - rest.len() {
        0 | 1 if rest.is_empty() => Err(PoolGrantError::Nobody),
        given @ (0 | 1) => Ok(PoolGrant::Of { grant: accounts.grant(&rest.join("+"))?, sockets: given == 1 }),
        _ => Err(PoolGrantError::Twice),
    }
}

#[cfg(test)]
#[path = "pool_values_tests.rs"]
mod tests;
