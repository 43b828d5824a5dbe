//! From a load to addresses, ports and lines of configuration.

use super::curve::Curve;
use super::load::Load;
use super::quantity::shown;
use crate::config::{MOST_ADDRESSES, PortsSpec};
use crate::leases::{MOST_COOLING, MOST_COOLING_PER_OWNER};
use crate::model::{PoolName, PortSet, Protocol};
use crate::pools::{Host, Zone, limit_reserved, zone};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// A configuration has no more pools.
pub const MOST_POOLS: u128 = 1024;
/// So many pools are written out.
const WRITTEN: u128 = 4;

/// What a plan is made for.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Which ports are whose.
    pub host: &'a Host,
    /// `net.ipv4.ip_local_reserved_ports`
    pub reserved: &'a PortSet,
    /// The global addresses that the host has, to be written into the configuration.
    pub own: &'a [IpAddr],
}

/// What the kernel would do by itself, with one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelAlone {
    /// The ports that it chooses from.
    pub sources: usize,
    /// From so many of one destination on, connect() looks long for a free one.
    pub slow_from: usize,
    /// When that is; `None`: never, by this load.
    pub slow_after: Option<Duration>,
    /// When connect() fails; `None`: never, by this load.
    pub exhausted_after: Option<Duration>,
}

/// What a load takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The load.
    pub load: Load,
    /// Tuples of one destination at once, at most.
    pub peak: u128,
    /// The same where a source in TIME_WAIT can be taken again at once.
    pub peak_without_time_wait: u128,
    /// The ports of each address.
    pub zone: Zone,
    /// How many addresses.
    pub addresses: u128,
    /// How many where a source in TIME_WAIT can be taken again at once.
    pub addresses_without_time_wait: u128,
    /// In how many pools.
    pub pools: u128,
    /// Connections to one destination that they have room for.
    pub capacity: u128,
    /// What the kernel would do by itself.
    pub kernel: KernelAlone,
    /// The lines of such pools.
    pub configuration: String,
    /// What else there is to know, a sentence each.
    pub notes: Vec<String>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Every port is somebody's.
    #[error(
        "no port is left for a pool: of {asked} all are left out ({why}); choose others with --ports, or make net.ipv4.ip_local_port_range smaller"
    )]
    NoPorts {
        /// What was asked for.
        asked: String,
        /// Why they are left out.
        why: String,
    },
}

/// Makes the plan.
pub fn plan(load: Load, ports: &PortsSpec, around: &Surroundings<'_>) -> Result<Plan, PlanError> {
    let (zone, mut notes) = ports_of(ports, around.host);
    let each = zone.ports.len() as u128;
    if each == 0 {
        let why: Vec<&str> = zone.left_out.iter().map(|(_, why)| why.as_str()).collect();
        return Err(PlanError::NoPorts { asked: ports.to_string(), why: why.join(", ") });
    }
    let peak = load.peak();
    let addresses = peak.div_ceil(each).max(1);
    let peak_without = Load { time_wait: Duration::ZERO, ..load }.peak();
    let pools = addresses.div_ceil(MOST_ADDRESSES as u128);
    notes.extend(remarks(&load, pools));
    Ok(Plan {
        load,
        peak,
        peak_without_time_wait: peak_without,
        addresses,
        addresses_without_time_wait: peak_without.div_ceil(each).max(1),
        pools,
        capacity: addresses * each,
        kernel: kernel_alone(&load, around),
        configuration: configuration(ports, addresses, pools, around.own),
        zone,
        notes,
    })
}

/// The zone of a pool with these ports, where it is the only one.
fn ports_of(ports: &PortsSpec, host: &Host) -> (Zone, Vec<String>) {
    let Ok(name) = PoolName::try_from("egress") else { return (zone(ports, host), Vec::new()) };
    let mut zones = [(name, zone(ports, host))];
    let faults = limit_reserved(&mut zones, host);
    let [(_, zone)] = zones;
    (zone, faults.into_iter().map(|(_, fault)| fault).collect())
}

fn kernel_alone(load: &Load, around: &Surroundings<'_>) -> KernelAlone {
    let range = PortSet::from(around.host.ephemeral);
    let sources = range.difference(around.reserved).len();
    let curve = Curve::new(load);
    let slow_from = sources / 2;
    KernelAlone {
        sources,
        slow_from,
        slow_after: curve.reaches(slow_from as u128).filter(|_| sources > 0),
        exhausted_after: curve.reaches(sources as u128 + 1),
    }
}

/// What a reader of the numbers would have to know of the broker and of TCP.
fn remarks(load: &Load, pools: u128) -> Vec<String> {
    let mut notes = Vec::new();
    let cooling = load.rate.in_time(load.time_wait);
    if cooling > MOST_COOLING_PER_OWNER as u128 {
        notes.push(format!(
            "leased one by one, {} ports would cool at a time: the broker lets one caller have {} and all together {}; \
             the Connector keeps its blocks, and has no such limit",
            shown(cooling),
            shown(MOST_COOLING_PER_OWNER as u128),
            shown(MOST_COOLING as u128),
        ));
    }
    if load.protocol == Protocol::Udp && load.destinations > 1 {
        notes.push(
            "a UDP port is leased for one destination alone: more destinations need no fewer".to_owned(),
        );
    }
    if pools > MOST_POOLS {
        notes.push(format!(
            "that is more than one configuration has room for, which is {} addresses: spread the load over several hosts",
            shown(MOST_POOLS * MOST_ADDRESSES as u128)
        ));
    }
    notes
}

/// The lines of pools with so many addresses in all.
fn configuration(ports: &PortsSpec, addresses: u128, pools: u128, own: &[IpAddr]) -> String {
    let four: Vec<IpAddr> = own.iter().copied().filter(IpAddr::is_ipv4).collect();
    let six: Vec<IpAddr> = own.iter().copied().filter(IpAddr::is_ipv6).collect();
    let most = if six.len() > four.len() { six } else { four };
    let wanted = usize::try_from(addresses).unwrap_or(usize::MAX);
    let enough = most.get(..wanted);
    let mut text = match enough {
        Some(_) => "# Of this host's own addresses.\n".to_owned(),
        None => format!(
            "# Put your own addresses here: {} of one family; this host has {}.\n",
            shown(addresses),
            most.len()
        ),
    };
    let mut left = addresses;
    for n in 0..pools.min(WRITTEN) {
        let of_this = left.min(MOST_ADDRESSES as u128);
        let before = addresses - left;
        left -= of_this;
        let name = if pools == 1 { "egress".to_owned() } else { format!("egress-{}", n + 1) };
        let written = match enough {
            Some(own) => {
                let own = own.iter().skip(usize::try_from(before).unwrap_or(usize::MAX));
                ranges(
                    &own.take(usize::try_from(of_this).unwrap_or(MOST_ADDRESSES))
                        .copied()
                        .collect::<Vec<_>>(),
                )
            }
            None => format!("{:?}", example(before, of_this)),
        };
        text.push_str(&format!(
            "[[pool]]\nname = {name:?}\naddresses = [{written}]\nports = {:?}\n# allow = [\"unit:NAME.service\"]   # who may lease from it; without this, root alone\n",
            ports.to_string()
        ));
    }
    if pools > WRITTEN {
        text.push_str(&format!("# … and so on, to egress-{pools}.\n"));
    }
    text
}

/// So many addresses that are nobody's: of RFC 5737, or, where those are too few, of RFC 2544 and of 10.0.0.0/8.
fn example(before: u128, addresses: u128) -> String {
    let base = match before + addresses {
        0..=254 => Ipv4Addr::new(192, 0, 2, 1),
        255..=131_070 => Ipv4Addr::new(198, 18, 0, 1),
        _ => Ipv4Addr::new(10, 0, 0, 1),
    };
    let at = |offset: u128| {
        Ipv4Addr::from(u32::from(base).saturating_add(u32::try_from(offset).unwrap_or(u32::MAX)))
    };
    let (first, last) = (at(before), at(before + addresses.saturating_sub(1)));
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// Addresses as the fewest texts, those in a row as a range.
fn ranges(addresses: &[IpAddr]) -> String {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let mut sorted = addresses.to_vec();
    sorted.sort();
    let mut rows: Vec<(IpAddr, IpAddr)> = Vec::new();
    for address in sorted {
        match rows.last_mut() {
            Some((_, last)) if number(*last).checked_add(1) == Some(number(address)) => *last = address,
            _ => rows.push((address, address)),
        }
    }
    let text = |(first, last): (IpAddr, IpAddr)| {
        if first == last { format!("\"{first}\"") } else { format!("\"{first}-{last}\"") }
    };
    rows.into_iter().map(text).collect::<Vec<_>>().join(", ")
}
