//! Pools: which source addresses and ports there are to lease, and which were left out and why.
//!
//! Pure: addresses of the host, the kernel's ranges and the ports that are taken are arguments.

mod addresses;
mod zone;

pub use addresses::{PoolAddress, addresses};
pub use zone::{ENOUGH, Host, Zone, limit_reserved, zone};

/// The connections to one destination and protocol that so many addresses have room for.
#[must_use]
pub fn capacity(addresses: usize, zone: &Zone) -> u64 {
    let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    number(addresses).saturating_mul(number(zone.ports.len()))
}
