//! The zone of a pool: the ports that can be leased, the ones that were left out and why, and those that have to be
//! put into the reserved ports because the kernel would choose from them too.
//!
//! What always holds: a port that was asked for is either in the zone or left out, for one reason; the zone has none
//! that is taken, and none of the kernel's own range but those that it reserves.

use crate::config::PortsSpec;
use crate::model::{PoolName, PortRange, PortSet};
use std::collections::{BTreeMap, BTreeSet};

/// `auto` takes from the kernel's own range only where fewer ports than this are left beside it.
pub const ENOUGH: usize = 16_384;
/// The lowest port of `auto`: those below take a privilege to bind.
const LOWEST: u16 = 1024;

/// Which ports of this host are whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// `net.ipv4.ip_local_port_range`
    pub ephemeral: PortRange,
    /// Those of listeners, each with the listener's name.
    pub brokered: Vec<(PortRange, String)>,
    /// `[protect] ports`
    pub protected: PortSet,
    /// Those that are learned, each with its unit.
    pub learned: Vec<(u16, String)>,
    /// Those that somebody listens on now.
    pub listened: PortSet,
}

/// The ports of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// What can be leased.
    pub ports: PortSet,
    /// What was left out of that which is configured, and why; no port twice.
    pub left_out: Vec<(PortSet, String)>,
    /// The part of `ports` that has to be kept out of the kernel's own choice.
    pub reserve: PortSet,
}

impl Zone {
    /// Takes ports out, for a reason.
    fn leave_out(&mut self, ports: &PortSet, why: &str) {
        let taken = self.ports.intersection(ports);
        if taken.is_empty() {
            return;
        }
        self.ports = self.ports.difference(&taken);
        self.reserve = self.reserve.difference(&taken);
        match self.left_out.iter_mut().find(|(_, reason)| reason == why) {
            Some((ports, _)) => *ports = ports.union(&taken),
            None => self.left_out.push((taken, why.to_owned())),
        }
    }

    fn of(ports: PortSet) -> Self {
        Self { ports, left_out: Vec::new(), reserve: PortSet::default() }
    }
}

fn set(first: u16, last: u16) -> PortSet {
    PortRange::new(first, last).map(PortSet::from).unwrap_or_default()
}

/// The zone of a pool on this host, as if it were the only pool: see [`limit_reserved`].
#[must_use]
pub fn zone(spec: &PortsSpec, host: &Host) -> Zone {
    let ephemeral = PortSet::from(host.ephemeral);
    let mut zone = match spec {
        PortsSpec::Ports(ports) => Zone::of(ports.clone()),
        PortsSpec::Auto | PortsSpec::Beside => {
            let mut all = Zone::of(set(1, u16::MAX));
            all.leave_out(&set(1, LOWEST - 1), &format!("below {LOWEST}"));
            let mut outside = all.clone();
            outside.leave_out(&ephemeral, OWN_RANGE);
            leave_out_what_is_taken(&mut outside, host);
            if *spec == PortsSpec::Beside || outside.ports.len() >= ENOUGH {
                return outside;
            }
            all.leave_out(&lower_half(host.ephemeral), OWN_RANGE);
            all
        }
    };
    leave_out_what_is_taken(&mut zone, host);
    zone.reserve = zone.ports.intersection(&ephemeral);
    zone
}

const OWN_RANGE: &str = "the kernel's own range";

/// The half of the kernel's range that it keeps, the larger one.
fn lower_half(range: PortRange) -> PortSet {
    set(range.first(), range.first() + (range.last() - range.first()) / 2)
}

/// So many listeners, and so many units, are each named as a reason: of ten thousand nobody reads them, and a start would
/// take the longer for it.
const NAMED: usize = 64;

fn leave_out_what_is_taken(zone: &mut Zone, host: &Host) {
    let brokered = host.brokered.iter().map(|(range, listener)| (*range, listener.as_str()));
    leave_out_named(zone, brokered, |listener| format!("held by listener {listener}"), "held by listeners");
    zone.leave_out(&host.protected, "[protect] ports");
    let learned = host
        .learned
        .iter()
        .filter_map(|(port, unit)| PortRange::new(*port, *port).ok().map(|range| (range, unit.as_str())));
    leave_out_named(zone, learned, |unit| format!("learned: {unit}"), "learned");
    zone.leave_out(&host.listened, "listened on");
}

/// Leaves out ports that have somebody's name, each for a reason of its own where these are few.
fn leave_out_named<'a>(
    zone: &mut Zone,
    ranges: impl Iterator<Item = (PortRange, &'a str)> + Clone,
    reason: impl Fn(&str) -> String,
    of_many: &str,
) {
    let names: BTreeSet<&str> = ranges.clone().map(|(_, name)| name).collect();
    if names.len() > NAMED {
        let mut all = PortSet::default();
        ranges.for_each(|(range, _)| all.insert_range(range));
        return zone.leave_out(&all, of_many);
    }
    let mut by_name: BTreeMap<&str, PortSet> = BTreeMap::new();
    for (range, name) in ranges {
        by_name.entry(name).or_default().insert_range(range);
    }
    for (name, ports) in by_name {
        zone.leave_out(&ports, &reason(name));
    }
}

/// Leaves out of the zones what would reserve more than three quarters of the kernel's own range in all: whoever
/// reserves the whole of it stops every connection that chooses no port. The ports that are kept out of it for
/// listeners and services count too. A pool that would go beyond is left without those ports of the range that no pool
/// before it has; what is returned says so, a sentence for each.
pub fn limit_reserved(zones: &mut [(PoolName, Zone)], host: &Host) -> Vec<(PoolName, String)> {
    let ephemeral = PortSet::from(host.ephemeral);
    let most = ephemeral.len() - ephemeral.len().div_ceil(4);
    let mut reserved = host.protected.clone();
    reserved.extend(host.learned.iter().map(|(port, _)| *port));
    host.brokered.iter().for_each(|(range, _)| reserved.insert_range(*range));
    let mut reserved = reserved.intersection(&ephemeral);
    let mut faults = Vec::new();
    for (name, zone) in zones {
        let with = reserved.union(&zone.reserve);
        if with.len() <= most {
            reserved = with;
            continue;
        }
        let too_many = zone.reserve.difference(&reserved);
        if too_many.is_empty() {
            continue;
        }
        let fault = format!(
            "the pool {name} asks for {} ports of the kernel's own range {}, and with them {} of its {} ports would be \
             reserved, more than three quarters: it goes without them; give it fewer, or make \
             net.ipv4.ip_local_port_range larger",
            too_many.len(),
            host.ephemeral,
            with.len(),
            ephemeral.len(),
        );
        faults.push((name.clone(), fault));
        zone.leave_out(&too_many, "more than three quarters of the kernel's own range");
    }
    faults
}

#[cfg(test)]
#[path = "zone_tests.rs"]
mod tests;
