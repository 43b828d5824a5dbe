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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::InterfaceAddress;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn of(interface: &str, address: &str, global: bool, ready: bool) -> InterfaceAddress {
        InterfaceAddress { address: ip(address), interface: interface.into(), global, ready }
    }

    /// A host with two addresses on eth0, one that another host has, and an AnyIP prefix.
    fn host() -> Present {
        let interfaces = vec![
            of("lo", "127.0.0.1", false, true),
            of("lo", "::1", false, true),
            of("eth0", "192.0.2.11", true, true),
            of("eth0", "192.0.2.10", true, true),
            of("eth0", "2001:db8::5", true, true),
            of("eth0", "2001:db8::6", true, false),
            of("eth0", "fe80::1", false, true),
            of("eth1", "198.51.100.1", true, true),
        ];
        let routes = [
            "192.0.2.10/32",
            "192.0.2.11/32",
            "198.51.100.1/32",
            "127.0.0.0/8",
            "::1/128",
            "2001:db8:1::/64",
        ];
        let route = |text: &str| {
            let (base, length) = text.split_once('/').unwrap();
            (ip(base), length.parse().unwrap())
        };
        Present::new(interfaces, routes.map(route).to_vec())
    }

    fn shown(specs: &[AddressSpec], present: &Present) -> String {
        let one = |of: PoolAddress| {
            let marks = [(!of.present, "-"), (of.freebind, "*")];
            let marks: String = marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect();
            format!("{marks}{}", of.address)
        };
        addresses(specs, present).into_iter().map(one).collect::<Vec<_>>().join(" ")
    }

    fn range(first: &str, last: &str) -> AddressSpec {
        AddressSpec::Range(ip(first), ip(last))
    }

    #[test]
    fn a_pool_has_what_is_written_and_says_what_is_absent() {
        let device = |name: &str| AddressSpec::Device(name.into());
        let host = host();
        assert_eq!(shown(&[range("192.0.2.10", "192.0.2.12")], &host), "192.0.2.10 192.0.2.11 -192.0.2.12");
        assert_eq!(shown(&[device("eth0")], &host), "192.0.2.10 192.0.2.11 2001:db8::5");
        assert_eq!((shown(&[device("lo")], &host), shown(&[device("eth9")], &host)), ("".into(), "".into()));
        assert_eq!(shown(&[AddressSpec::Host], &host), "192.0.2.10 192.0.2.11 198.51.100.1 2001:db8::5");
        // Twice named is there once, where it is named first.
        let both = [range("192.0.2.11", "192.0.2.11"), device("eth0"), range("2001:db8::6", "2001:db8::6")];
        assert_eq!(shown(&both, &host), "192.0.2.11 192.0.2.10 2001:db8::5 -2001:db8::6");
        assert_eq!(shown(&[range("127.0.0.2", "127.0.0.3")], &host), "127.0.0.2 127.0.0.3");
    }

    #[test]
    fn a_host_without_addresses_has_loopback() {
        let lo = vec![of("lo", "127.0.0.1", false, true), of("lo", "::1", false, true)];
        let lo = Present::new(lo, vec![(ip("127.0.0.0"), 8), (ip("::1"), 128)]);
        assert_eq!(shown(&[AddressSpec::Host], &lo), "127.0.0.1 ::1");
        assert_eq!(shown(&[AddressSpec::Host], &Present::default()), "");
    }

    #[test]
    fn prefixes_are_without_what_is_nobodys() {
        let prefix = |text: &str| {
            let (base, length) = text.split_once('/').unwrap();
            let found = addresses(&[AddressSpec::Prefix(ip(base), length.parse().unwrap())], &host());
            let ends = [found.first(), found.last()].map(|of| of.unwrap().address.to_string());
            (ends.join(" "), found.len())
        };
        for (text, ends, count) in [
            ("192.0.2.0/24", "192.0.2.1 192.0.2.254", 254),
            ("192.0.2.8/30", "192.0.2.9 192.0.2.10", 2),
            ("192.0.2.8/31", "192.0.2.8 192.0.2.9", 2),
            ("192.0.2.8/32", "192.0.2.8 192.0.2.8", 1),
            ("10.0.0.0/8", "10.0.0.1 10.0.4.0", 1024),
            ("128.0.0.0/1", "128.0.0.1 128.0.4.0", 1024),
            ("2001:db8:1::/64", "2001:db8:1::1 2001:db8:1::400", 1024),
            ("2001:db8::4/126", "2001:db8::5 2001:db8::7", 3),
            ("2001:db8::4/127", "2001:db8::4 2001:db8::5", 2),
            ("2001:db8::4/128", "2001:db8::4 2001:db8::4", 1),
        ] {
            assert_eq!(prefix(text), (ends.into(), count), "{text}");
        }
        // By the route they are local, and take a flag to be bound; what an interface has takes none.
        let any = addresses(&[AddressSpec::Prefix(ip("2001:db8:1::"), 64)], &host());
        assert!(any.iter().all(|of| of.present && of.freebind));
        let mixed = shown(&[AddressSpec::Prefix(ip("2001:db8::4"), 126)], &host());
        assert_eq!(mixed, "2001:db8::5 -2001:db8::6 -*2001:db8::7");
    }

    fn some_spec() -> impl Strategy<Value = AddressSpec> {
        prop_oneof![
            (any::<u32>(), 0u32..6000).prop_map(|(first, more)| {
                let last = Ipv4Addr::from(first.saturating_add(more));
                AddressSpec::Range(IpAddr::V4(first.into()), IpAddr::V4(last))
            }),
            (any::<u128>(), 0u128..6000).prop_map(|(first, more)| {
                let last = Ipv6Addr::from(first.saturating_add(more));
                AddressSpec::Range(IpAddr::V6(first.into()), IpAddr::V6(last))
            }),
            (any::<u32>(), 1u8..=32).prop_map(|(bits, length)| {
                AddressSpec::Prefix(IpAddr::V4((bits & (u32::MAX << (32 - length))).into()), length)
            }),
            (any::<u128>(), 1u8..=128).prop_map(|(bits, length)| {
                AddressSpec::Prefix(IpAddr::V6((bits & (u128::MAX << (128 - length))).into()), length)
            }),
            Just(AddressSpec::Host),
            Just(AddressSpec::Device("eth0".into())),
        ]
    }

    proptest! {
        #[test]
        fn no_pool_is_too_large_and_none_has_an_address_twice(specs in proptest::collection::vec(some_spec(), 0..5)) {
            let present = host();
            let found = addresses(&specs, &present);
            let unique: HashSet<IpAddr> = found.iter().map(|of| of.address).collect();
            prop_assert_eq!(unique.len(), found.len());
            prop_assert!(found.len() <= MOST_ADDRESSES);
            prop_assert!(found.iter().all(|of| of.present == present.has(of.address)));
            prop_assert!(specs.is_empty() || !found.is_empty());
        }
    }
}
