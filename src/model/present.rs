//! Which addresses are this host's own now, as the kernel says.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// The interface's name.
    pub interface: String,
    /// Whether it means the same everywhere: neither loopback nor link-local.
    pub global: bool,
    /// Whether connections may begin from it: no other host was found to have it (or is being looked for), and it is
    /// not about to go.
    pub ready: bool,
}

/// The addresses of the interfaces, and what is local by routes of the type `local`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    interfaces: Vec<InterfaceAddress>,
    /// Whether an address of an interface is ready on any of them.
    ready: HashMap<IpAddr, bool>,
    /// Routes for one address. The kernel makes one for each address of an interface.
    single: HashSet<IpAddr>,
    /// Routes for more, base and length.
    wide: Vec<(IpAddr, u8)>,
}

impl Present {
    /// What the kernel said: addresses of interfaces, and prefixes of local routes.
    #[must_use]
    pub fn new(interfaces: Vec<InterfaceAddress>, routes: Vec<(IpAddr, u8)>) -> Self {
        let mut present = Self::default();
        for (base, length) in routes {
            if length >= if base.is_ipv4() { 32 } else { 128 } {
                present.single.insert(base);
            } else {
                present.wide.push((base, length));
            }
        }
        for InterfaceAddress { address, ready, .. } in &interfaces {
            // For IPv4 the kernel goes by the routes alone, for IPv6 by the addresses first.
            let ready = *ready && (address.is_ipv6() || present.is_routed(*address));
            *present.ready.entry(*address).or_insert(false) |= ready;
        }
        present.interfaces = interfaces;
        present
    }

    fn is_routed(&self, address: IpAddr) -> bool {
        self.single.contains(&address) || self.wide.iter().any(|route| is_within(address, *route))
    }

    /// The addresses of the interfaces, ready or not.
    #[must_use]
    pub fn interfaces(&self) -> &[InterfaceAddress] {
        &self.interfaces
    }

    /// Whether connections to an address come to this host.
    #[must_use]
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.ready.contains_key(&address) || self.is_routed(address)
    }

    /// Whether connections may begin from an address now.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        match self.ready.get(&address) {
            Some(ready) => *ready,
            None => self.is_routed(address),
        }
    }

    /// Whether it takes `IPV6_FREEBIND` to bind an address: no interface has it, and a route makes it local.
    #[must_use]
    pub fn takes_freebind(&self, address: IpAddr) -> bool {
        address.is_ipv6() && !self.ready.contains_key(&address)
    }
}

/// Whether an address is of a prefix.
fn is_within(address: IpAddr, (base, length): (IpAddr, u8)) -> bool {
    match (address, base) {
        (IpAddr::V4(address), IpAddr::V4(base)) => network_v4(address, length) == network_v4(base, length),
        (IpAddr::V6(address), IpAddr::V6(base)) => network_v6(address, length) == network_v6(base, length),
        _ => false,
    }
}

fn network_v4(address: Ipv4Addr, length: u8) -> u32 {
    let rest = u32::from(32u8.saturating_sub(length));
    u32::from(address).checked_shr(rest).unwrap_or(0)
}

fn network_v6(address: Ipv6Addr, length: u8) -> u128 {
    let rest = u32::from(128u8.saturating_sub(length));
    u128::from(address).checked_shr(rest).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn on(address: &str, ready: bool) -> InterfaceAddress {
        InterfaceAddress { address: ip(address), interface: "eth0".into(), global: true, ready }
    }

    #[test]
    fn an_address_is_local_by_an_interface_or_a_route() {
        let routes = vec![
            (ip("127.0.0.0"), 8),
            (ip("192.0.2.1"), 32),
            (ip("2001:db8::1"), 128),
            (ip("2001:db8:1::"), 64),
            (ip("2001:db8:2::5"), 128),
        ];
        let addresses = vec![
            on("192.0.2.1", true),
            on("192.0.2.2", true),
            on("2001:db8::1", true),
            on("2001:db8:1::7", false),
        ];
        let present = Present::new(addresses, routes);
        for local in ["127.0.0.1", "127.8.9.1", "192.0.2.1", "2001:db8::1", "2001:db8:1::8", "2001:db8:2::5"]
        {
            assert!(present.has(ip(local)), "{local}");
        }
        // The second has no route, since somebody deleted it. Of the last but one another host has been found.
        for other in ["192.0.2.2", "192.0.2.3", "128.0.0.1", "2001:db8::2", "2001:db8:1::7", "2001:db8:2::6"]
        {
            assert!(!present.has(ip(other)), "{other}");
        }
        assert!(present.takes_freebind(ip("2001:db8:1::8")) && present.takes_freebind(ip("2001:db8:2::5")));
        assert!(!present.takes_freebind(ip("2001:db8::1")) && !present.takes_freebind(ip("127.8.9.1")));
    }

    #[test]
    fn an_address_of_two_interfaces_is_there_while_one_of_them_has_it() {
        let present = Present::new(vec![on("2001:db8::1", false), on("2001:db8::1", true)], Vec::new());
        assert!(present.has(ip("2001:db8::1")));
        assert!(!present.has(ip("::")) && !present.has(ip("0.0.0.0")));
    }
}
