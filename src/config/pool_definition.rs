//! Pools as the files define them: values with their places, and what can only be seen with all of them side by side.

use super::allow::Accounts;
use super::definition::warn_of_unknown;
use super::fault::{Fault, Place, quoted};
use super::pool::{MOST_ADDRESSES, MOST_OF_A_PREFIX};
use super::{
    AddressSpec, Config, PoolConfig, PoolGrant, PortsSpec, Quota, Spread, key, pool_callers, pool_values,
};
use crate::model::{PoolName, PortSet};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// There are no more pools than this.
const MOST_POOLS: usize = 1024;

/// What a `[[pool]]` says, before it is looked at.
#[derive(Debug, Default)]
pub(super) struct PoolDraft {
    pub(super) addresses: Vec<(String, Place)>,
    pub(super) ports: Vec<(String, Place)>,
    pub(super) spread: Option<(String, Place)>,
    pub(super) allow: Vec<(String, Place)>,
    pub(super) quota: Option<(u32, Place)>,
    pub(super) minimum: Option<(u32, Place)>,
    pub(super) close_orphans: Option<(String, Place)>,
    /// Whether something could not be read, so that what seems to be missing may be there.
    pub(super) incomplete: bool,
}

/// A pool as a file defines it, with the places of all its values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PoolDefinition {
    pub(super) name: PoolName,
    pub(super) place: Place,
    pub(super) config: PoolConfig,
    /// For each of the configuration's addresses.
    pub(super) address_places: Vec<Place>,
    /// As written; empty: the default.
    pub(super) ports: Vec<(String, Place)>,
    pub(super) spread: Option<Place>,
    /// For each of the configuration's grants.
    pub(super) grant_places: Vec<Place>,
    pub(super) quota: Option<Place>,
    pub(super) minimum: Option<Place>,
    pub(super) close_orphans: Option<Place>,
}

impl PoolDefinition {
    /// Makes the pool that a draft stands for. What is wrong goes to `faults` and is left out.
    pub(super) fn of(
        name: PoolName,
        place: Place,
        draft: PoolDraft,
        accounts: &Accounts,
        faults: &mut Vec<Fault>,
    ) -> Self {
        let config = PoolConfig {
            addresses: Vec::new(),
            ports: PortsSpec::Auto,
            spread: Spread::default(),
            allow: Vec::new(),
            quota: draft.quota.as_ref().map_or(Quota::None, |(ports, _)| Quota::PortsPerCaller(*ports)),
            minimum: draft.minimum.as_ref().map_or(0, |(ports, _)| *ports),
            close_orphans: None,
            origin: place.origin.clone(),
        };
        let mut pool = Self {
            name,
            place,
            config,
            address_places: Vec::new(),
            ports: Vec::new(),
            spread: None,
            grant_places: Vec::new(),
            quota: draft.quota.map(|(_, place)| place),
            minimum: draft.minimum.map(|(_, place)| place),
            close_orphans: None,
        };
        pool.read_addresses(draft.addresses, draft.incomplete, faults);
        pool.read_ports(draft.ports, faults);
        pool.read_spread(draft.spread, faults);
        pool.read_grants(draft.allow, accounts, faults);
        pool.read_close_orphans(draft.close_orphans, faults);
        pool.check_minimum(faults);
        pool
    }

    fn read_addresses(&mut self, written: Vec<(String, Place)>, incomplete: bool, faults: &mut Vec<Fault>) {
        if written.is_empty() && !incomplete {
            let fault = self.place.error(format!("the pool {:?} has no addresses", self.name));
            faults.push(fault.help("add a line as in addresses = [\"192.0.2.10-192.0.2.13\", \"dev:eth0\"]"));
        }
        let mut total = 0usize;
        for (text, place) in written {
            let spec = match pool_values::addresses(&text) {
                Ok(spec) => spec,
                Err(error) => {
                    faults.push(Fault { help: error.help(), ..place.error(error.to_string()) });
                    continue;
                }
            };
            if let Some(more) = pool_values::left_out_of_prefix(&spec) {
                let message =
                    format!("of {spec} the first {MOST_OF_A_PREFIX} addresses are used, and {more} are not");
                let help = "write a range, or a longer prefix: /22 has as many as are used";
                faults.push(place.warning(message).help(help));
            }
            let before = total;
            total = total.saturating_add(count(&spec));
            if total > MOST_ADDRESSES && before <= MOST_ADDRESSES {
                let name = &self.name;
                let message =
                    format!("the pool {name:?} has more than {MOST_ADDRESSES} addresses, from here on");
                faults.push(place.error(message).help("make it several pools"));
            }
            self.config.addresses.push(spec);
            self.address_places.push(place);
        }
    }

    fn read_ports(&mut self, written: Vec<(String, Place)>, faults: &mut Vec<Fault>) {
        let read = pool_values::ports(written.iter().map(|(text, _)| text.as_str()));
        for (n, error) in &read.faults {
            let place = written.get(*n).map_or(&self.place, |(_, place)| place);
            faults.push(place.error(error.to_string()));
        }
        let first = written.first().map_or(&self.place, |(_, place)| place);
        if read.auto && written.len() > 1 {
            let fault = first.error("\"ports\" has \"auto\" and ranges beside it");
            faults.push(fault.help("write \"auto\" alone, or the ranges alone"));
        } else if !written.is_empty() && !read.auto && read.ports.is_empty() && read.faults.is_empty() {
            let fault = first.error(format!("the pool {:?} has no ports", self.name));
            faults.push(fault.help("write ranges as in \"10000-32767\", or \"auto\", which is the default"));
        }
        if !read.auto && !written.is_empty() {
            self.config.ports = PortsSpec::Ports(read.ports);
        }
        self.ports = written;
    }

    fn read_spread(&mut self, written: Option<(String, Place)>, faults: &mut Vec<Fault>) {
        let Some((text, place)) = written else { return };
        match Spread::ALL.into_iter().find(|spread| spread.as_str() == text) {
            Some(spread) => self.config.spread = spread,
            None => {
                let all = Spread::ALL.map(Spread::as_str);
                let fault = place.error(format!("{} is no way to choose among addresses", quoted(&text)));
                faults.push(match key::closest(&text, all) {
                    Some(closest) => fault.help(format!("did you mean {closest:?}?")),
                    None => fault.help(format!("write {}", all.join(", "))),
                });
            }
        }
        self.spread = Some(place);
    }

    fn read_close_orphans(&mut self, written: Option<(String, Place)>, faults: &mut Vec<Fault>) {
        let Some((text, place)) = written else { return };
        match pool_values::orphan_time(&text) {
            Ok(time) => self.config.close_orphans = Some(time),
            Err(error) => {
                let fault = place.error(error.to_string());
                faults.push(fault.help("leave it out where nothing is to be closed"));
            }
        }
        self.close_orphans = Some(place);
    }

    /// A minimum that nobody may have, or that there is not for all who are named.
    fn check_minimum(&self, faults: &mut Vec<Fault>) {
        let Some(place) = &self.minimum else { return };
        let minimum = self.config.minimum;
        if let Quota::PortsPerCaller(quota) = self.config.quota
            && quota < minimum
        {
            let fault =
                place.error(format!("a minimum of {minimum} ports is more than the quota of {quota}"));
            faults.push(fault.help("write a minimum that is no more than the quota"));
        }
        let callers = pool_callers::named(&self.config.allow).len() as u64
            + u64::from(pool_callers::may_have_others(&self.config.allow));
        let Some(capacity) = self.least_capacity() else { return };
        if capacity < callers.saturating_mul(u64::from(minimum)) {
            let share = capacity.checked_div(callers).unwrap_or_default();
            let fault = place.warning(format!(
                "a minimum of {minimum} ports for each of {callers} callers is more than the {capacity} ports of the pool \
                 {:?}: {share} are kept for each",
                self.name
            ));
            faults.push(fault.help("write a smaller minimum, or give the pool more addresses or ports"));
        }
    }

    /// Ports for one destination, of the family with fewer addresses; `None`: that is known only while it runs.
    fn least_capacity(&self) -> Option<u64> {
        let PortsSpec::Ports(ports) = &self.config.ports else { return None };
        let (mut four, mut six) = (0u64, 0u64);
        for spec in &self.config.addresses {
            let addresses = count(spec) as u64;
            match spec {
                AddressSpec::Range(first, _) | AddressSpec::Prefix(first, _) if first.is_ipv4() => {
                    four += addresses;
                }
                AddressSpec::Range(..) | AddressSpec::Prefix(..) => six += addresses,
                AddressSpec::Device(_) | AddressSpec::Host => return None,
            }
        }
        let addresses = [four, six].into_iter().filter(|addresses| *addresses > 0).min()?;
        Some(addresses.saturating_mul(ports.len() as u64))
    }

    fn read_grants(&mut self, written: Vec<(String, Place)>, accounts: &Accounts, faults: &mut Vec<Fault>) {
        for (text, place) in written {
            match pool_values::grant(&text, accounts) {
                Ok(grant) => {
                    if let PoolGrant::Of { grant, .. } = &grant {
                        warn_of_unknown(grant, &place, faults);
                    }
                    self.config.allow.push(grant);
                    self.grant_places.push(place);
                }
                Err(error) => faults.push(Fault { help: error.help(), ..place.error(error.to_string()) }),
            }
        }
    }
}

/// How many addresses are written; those of interfaces are not known before they are there.
fn count(spec: &AddressSpec) -> usize {
    let number = |address: &IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(*address)),
        IpAddr::V6(address) => u128::from(*address),
    };
    match spec {
        AddressSpec::Range(first, last) => {
            let more = number(last).saturating_sub(number(first));
            usize::try_from(more).unwrap_or(usize::MAX).saturating_add(1)
        }
        AddressSpec::Prefix(base, length) => {
            let rest = if base.is_ipv4() { 32u8 } else { 128 }.saturating_sub(*length);
            1usize.checked_shl(rest.into()).unwrap_or(usize::MAX).min(MOST_OF_A_PREFIX)
        }
        AddressSpec::Device(_) | AddressSpec::Host => 0,
    }
}

/// The pools by name; of those with one name the first.
pub(super) fn by_name(pools: &[PoolDefinition]) -> BTreeMap<PoolName, PoolConfig> {
    let mut all = BTreeMap::new();
    for pool in pools {
        all.entry(pool.name.clone()).or_insert_with(|| pool.config.clone());
    }
    all
}

/// What is wrong with the pools beside each other and beside the listeners.
pub(super) fn check(pools: &[PoolDefinition], config: &Config, faults: &mut Vec<Fault>) {
    let mut seen: HashMap<&PoolName, &PoolDefinition> = HashMap::new();
    let mut taken = config.protect.ports.clone();
    taken.extend(config.listeners.values().flat_map(|l| l.endpoints.iter().filter_map(|e| e.port())));
    for pool in pools {
        if let Some(first) = seen.insert(&pool.name, pool) {
            let fault = pool.place.error(format!("the pool {:?} is defined twice", pool.name));
            let fault = fault.help("give one of them another name");
            faults.push(fault.related(first.place.origin.clone(), "the other"));
        }
        faults.extend(nothing_left(pool, &taken));
    }
    if let Some(pool) = pools.get(MOST_POOLS) {
        faults.push(pool.place.error(format!("there are more than {MOST_POOLS} pools, from here on")));
    }
}

/// A pool whose ports are all somebody's.
fn nothing_left(pool: &PoolDefinition, taken: &PortSet) -> Option<Fault> {
    let PortsSpec::Ports(ports) = &pool.config.ports else { return None };
    if ports.is_empty() || !ports.difference(taken).is_empty() {
        return None;
    }
    let place = pool.ports.first().map_or(&pool.place, |(_, place)| place);
    let message = format!(
        "the pool {:?} has no port left: all of {ports} are held by listeners, or are under [protect] ports",
        pool.name
    );
    Some(place.error(message).help("give it others"))
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
