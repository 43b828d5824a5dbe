//! The source addresses of a pool: what is written, as single addresses, and which of them the host has now.

use crate::config::{AddressSpec, MOST_ADDRESSES, MOST_OF_A_PREFIX};
use crate::model::Present;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolAddress {
    /// The address.
    pub address: IpAddr,
    /// Whether the host has it now.
    pub present: bool,
    /// Whether to bind it takes `IPV6_FREEBIND`, since a route makes it local and no interface has it.
    pub freebind: bool,
}

/// The addresses that are meant, each once and in the order in which they are written, at most [`MOST_ADDRESSES`].
#[must_use]
pub fn addresses(specs: &[AddressSpec], present: &Present) -> Vec<PoolAddress> {
    let mut seen = HashSet::new();
    let all = specs.iter().flat_map(|spec| meant(spec, present));
    let new = all.filter(|address| seen.insert(*address)).take(MOST_ADDRESSES);
    new.map(|address| PoolAddress {
        address,
        present: present.has(address),
        freebind: present.takes_freebind(address),
    })
    .collect()
}

/// The addresses that one of the texts means, no more than a pool has.
fn meant(spec: &AddressSpec, present: &Present) -> Vec<IpAddr> {
    match spec {
        AddressSpec::Range(first, last) => {
            let all = range(*first, *last).map(|(low, high)| between(*first, low, high));
            all.into_iter().flatten().take(MOST_ADDRESSES).collect()
        }
        AddressSpec::Prefix(base, length) => {
            let (low, high) = usable(*base, *length);
            between(*base, low, high).take(MOST_OF_A_PREFIX).collect()
        }
        AddressSpec::Device(name) => of_interfaces(present, |interface| interface == name),
        AddressSpec::Host => {
            let global = of_interfaces(present, |_| true);
            if !global.is_empty() {
                return global;
            }
            let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            loopback.into_iter().filter(|address| present.has(*address)).collect()
        }
    }
}

/// The global addresses of some interfaces that are ready, always in one order.
fn of_interfaces(present: &Present, which: impl Fn(&str) -> bool) -> Vec<IpAddr> {
    let wanted = present.interfaces().iter().filter(|of| of.global && of.ready && which(&of.interface));
    let mut found: Vec<IpAddr> = wanted.map(|of| of.address).collect();
    found.sort();
    found
}

/// An address as a number, which fits for both families.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The ends of a range as numbers; `None` where they are of two families, or backwards.
fn range(first: IpAddr, last: IpAddr) -> Option<(u128, u128)> {
    (first.is_ipv4() == last.is_ipv4() && first <= last).then(|| (number(first), number(last)))
}

/// The first and the last address of a prefix that a host can have, as numbers.
///
/// Of IPv4 prefixes the lowest is the network's and the highest is for everybody; not so with /31 (RFC 3021) and /32.
/// Of IPv6 prefixes the lowest means any router (RFC 4291, 2.6.1); not so with /127 (RFC 6164) and /128.
fn usable(base: IpAddr, length: u8) -> (u128, u128) {
    let width = if base.is_ipv4() { 32 } else { 128 };
    let rest = u32::from(width - length.min(width));
    let low = number(base);
    let high = low.saturating_add(1u128.checked_shl(rest).map_or(u128::MAX, |size| size - 1));
    match (rest, base.is_ipv4()) {
        (0 | 1, _) => (low, high),
        (_, true) => (low + 1, high - 1),
        (_, false) => (low + 1, high),
    }
}

/// The addresses from one number to the other, of the family of `like`.
fn between(like: IpAddr, low: u128, high: u128) -> impl Iterator<Item = IpAddr> {
    (low..=high).filter_map(move |number| match like {
        IpAddr::V4(_) => u32::try_from(number).ok().map(|number| IpAddr::V4(number.into())),
        IpAddr::V6(_) => Some(IpAddr::V6(number.into())),
    })
}
