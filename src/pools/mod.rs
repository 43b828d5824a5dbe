//! Pools: which source addresses and ports there are to lease, and which were left out and why.
//!
//! Pure: addresses of the host, the kernel's ranges and the ports that are taken are arguments.

mod addresses;
mod zone;

pub use addresses::{PoolAddress, addresses};
pub use zone::{ENOUGH, Host, Zone, limit_reserved, zone};

use std::net::IpAddr;

/// The connections to one destination and protocol that these addresses have room for: of those of one family, since
/// no destination is reached from both. Of the family with more.
#[must_use]
pub fn capacity(addresses: &[IpAddr], zone: &Zone) -> u64 {
    let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let four = addresses.iter().filter(|address| address.is_ipv4()).count();
    number(four.max(addresses.len() - four)).saturating_mul(number(zone.ports.len()))
}
