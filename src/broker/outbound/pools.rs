//! The pools as they are now: what is configured, and what of it this host has at the moment.
//!
//! A pool is a view: it says which addresses and ports may be leased, and has no leases. So it may change or go at any
//! time, and what is leased lives on.

use super::view::{AddressView, PoolView};
use crate::broker::view::origin_text;
use crate::config::{AddressSpec, PoolConfig, PoolGrant, pool_callers};
use crate::leases::Guarantee;
use crate::model::{PoolName, PortSet, Present};
use crate::pools::{Host, PoolAddress, Zone, addresses, capacity, limit_reserved, zone};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// So many absent addresses are named in a fault.
const NAMED: usize = 8;

/// One pool.
pub(super) struct Pool {
    pub(super) config: PoolConfig,
    /// What each caller is guaranteed.
    pub(super) guarantee: Option<Arc<Guarantee>>,
    pub(super) zone: Zone,
    addresses: Vec<PoolAddress>,
    /// Those that are present and not drained: what leases are made of.
    pub(super) in_use: Vec<IpAddr>,
    /// What it goes without, since pools may not reserve so much.
    limits: Vec<String>,
    faults: Vec<String>,
}

/// All pools.
#[derive(Default)]
pub(super) struct Pools {
    pools: BTreeMap<PoolName, Pool>,
    /// What the pools ask to have kept out of the kernel's own choice.
    pub(super) reserve: PortSet,
    /// What happened to pools and was not announced yet.
    pub(super) news: BTreeMap<PoolName, News>,
}

/// What is to be told of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    Added,
    Changed,
    Removed,
}

/// What pools are made of besides their configuration.
pub(super) struct Surroundings<'a> {
    pub(super) host: &'a Host,
    pub(super) present: &'a Present,
    pub(super) draining: &'a BTreeSet<IpAddr>,
}

impl Pools {
    /// The pools of a configuration; what is leased is not touched. With none there is the one that is built in.
    /// Returns those that are no longer.
    pub(super) fn configure(
        &mut self,
        configured: &BTreeMap<PoolName, PoolConfig>,
        around: &Surroundings<'_>,
    ) -> Vec<PoolName> {
        let built_in = || PoolName::try_from("default").ok().map(|name| (name, PoolConfig::built_in()));
        let wanted: BTreeMap<PoolName, PoolConfig> =
            if configured.is_empty() { built_in().into_iter().collect() } else { configured.clone() };
        let gone: Vec<PoolName> =
            self.pools.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in &gone {
            self.pools.remove(name);
            self.tell(name.clone(), News::Removed);
        }
        for (name, config) in wanted {
            match self.pools.get_mut(&name) {
                Some(pool) if pool.config == config => {}
                Some(pool) => {
                    pool.guarantee = guarantee_of(&config);
                    pool.config = config;
                    self.tell(name, News::Changed);
                }
                None => {
                    self.pools.insert(name.clone(), Pool::new(config));
                    self.tell(name, News::Added);
                }
            }
        }
        self.refresh(around);
        gone
    }

    /// Works the pools out anew, after something around them changed.
    pub(super) fn refresh(&mut self, around: &Surroundings<'_>) {
        let mut zones: Vec<(PoolName, Zone)> = self
            .pools
            .iter()
            .map(|(name, pool)| (name.clone(), zone(&pool.config.ports, around.host)))
            .collect();
        let limits = limit_reserved(&mut zones, around.host);
        self.reserve = PortSet::default();
        for (name, zone) in zones {
            self.reserve = self.reserve.union(&zone.reserve);
            let of_this =
                limits.iter().filter(|(pool, _)| *pool == name).map(|(_, fault)| fault.clone()).collect();
            let Some(pool) = self.pools.get_mut(&name) else { continue };
            if pool.take(&name, zone, around, of_this) {
                self.tell(name, News::Changed);
            }
        }
    }

    /// Only who is there changed, and not the ports.
    pub(super) fn refresh_addresses(&mut self, present: &Present, draining: &BTreeSet<IpAddr>) {
        let mut changed = Vec::new();
        for (name, pool) in &mut self.pools {
            if pool.take_addresses(name, present, draining) {
                changed.push(name.clone());
            }
        }
        changed.into_iter().for_each(|name| self.tell(name, News::Changed));
    }

    fn tell(&mut self, name: PoolName, news: News) {
        let news = match (self.news.get(&name), news) {
            // It is told as it is when that is done.
            (Some(News::Added), News::Changed) => News::Added,
            // Gone and back within one command.
            (Some(News::Removed), News::Added) => News::Changed,
            (_, news) => news,
        };
        self.news.insert(name, news);
    }

    pub(super) fn get(&self, name: &str) -> Option<(&PoolName, &Pool)> {
        let name = PoolName::try_from(name).ok()?;
        self.pools.get_key_value(&name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PoolName, &Pool)> {
        self.pools.iter()
    }

    /// Whether any pool has an address.
    pub(super) fn have(&self, address: IpAddr) -> bool {
        self.pools.values().any(|pool| pool.addresses.iter().any(|of| of.address == address))
    }

    /// Everything that is not as it was configured.
    pub(super) fn faults(&self) -> impl Iterator<Item = &String> {
        self.pools.values().flat_map(|pool| &pool.faults)
    }
}

/// Connections to one destination of the family with fewer addresses, of those that there are.
fn capacity_of_fewer(addresses: &[IpAddr], zone: &Zone) -> u64 {
    let four = addresses.iter().filter(|address| address.is_ipv4()).count();
    let families = [four, addresses.len() - four].into_iter().filter(|addresses| *addresses > 0);
    families.min().unwrap_or(0) as u64 * zone.ports.len() as u64
}

fn guarantee_of(config: &PoolConfig) -> Option<Arc<Guarantee>> {
    let (named, others) = (pool_callers::named(&config.allow), pool_callers::may_have_others(&config.allow));
    (config.minimum > 0).then(|| Arc::new(Guarantee { ports: config.minimum, named, others }))
}

/// Whether it is an interface of which there is no address now.
fn is_bare(spec: &AddressSpec, present: &Present) -> bool {
    matches!(spec, AddressSpec::Device(_)) && addresses(std::slice::from_ref(spec), present).is_empty()
}

impl Pool {
    fn new(config: PoolConfig) -> Self {
        let nothing = PortSet::default();
        let zone = Zone { ports: nothing.clone(), left_out: Vec::new(), reserve: nothing };
        Self {
            guarantee: guarantee_of(&config),
            config,
            zone,
            addresses: Vec::new(),
            in_use: Vec::new(),
            limits: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Whether anything of it is new.
    fn take(&mut self, name: &PoolName, zone: Zone, around: &Surroundings<'_>, limits: Vec<String>) -> bool {
        let changed = self.zone != zone;
        self.zone = zone;
        self.limits = limits;
        self.take_addresses(name, around.present, around.draining) || changed
    }

    fn take_addresses(&mut self, name: &PoolName, present: &Present, draining: &BTreeSet<IpAddr>) -> bool {
        let addresses = addresses(&self.config.addresses, present);
        let usable = addresses.iter().filter(|of| of.present && !draining.contains(&of.address));
        let in_use: Vec<IpAddr> = usable.map(|of| of.address).collect();
        let mut changed = self.addresses != addresses || self.in_use != in_use;
        self.addresses = addresses;
        self.in_use = in_use;
        let faults = self.faults_of(name, present);
        changed |= self.faults != faults;
        self.faults = faults;
        changed
    }

    fn faults_of(&self, name: &PoolName, present: &Present) -> Vec<String> {
        let mut faults = self.limits.clone();
        // The kernel's range may be all there is, and nobody asked for the default pool.
        if self.zone.ports.is_empty() && !self.is_built_in() {
            faults.push(format!("pool {name}: no port is left of those that it is to have: see \"portbroker show pool {name}\""));
        }
        let absent: Vec<String> =
            self.addresses.iter().filter(|of| !of.present).map(|of| of.address.to_string()).collect();
        for device in self.config.addresses.iter().filter(|spec| is_bare(spec, present)) {
            faults.push(format!("pool {name}: {device} has no global address that can be used, or is not there: see \"ip address\""));
        }
        if !absent.is_empty() {
            let mut text = absent.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            if absent.len() > NAMED {
                text.push_str(" and more");
            }
            let all = self.addresses.len();
            faults.push(format!(
                "pool {name}: {} of its {all} addresses are not on this host: {text}",
                absent.len()
            ));
        }
        faults
    }

    /// Whether to bind one of its addresses takes `IPV6_FREEBIND`.
    pub(super) fn takes_freebind(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|of| of.address == address && of.freebind)
    }

    /// Whether it has addresses of a destination's family, be they here or not; those of interfaces come and go.
    pub(super) fn ever_reaches(&self, destination: Option<SocketAddr>) -> bool {
        let comes_and_goes = |spec: &AddressSpec| matches!(spec, AddressSpec::Device(_) | AddressSpec::Host);
        let fits = |of: &PoolAddress| destination.is_none_or(|to| to.is_ipv4() == of.address.is_ipv4());
        self.addresses.iter().any(fits)
            || self.addresses.is_empty() && self.config.addresses.iter().any(comes_and_goes)
    }

    /// Where its minimum is more than there is for all its callers.
    pub(super) fn fault_of_minimum(&self, name: &PoolName, callers: u64) -> Option<String> {
        let capacity = capacity_of_fewer(&self.in_use, &self.zone);
        let minimum = u64::from(self.config.minimum);
        let lacks = capacity > 0 && capacity < callers.saturating_mul(minimum);
        lacks.then(|| {
            let share = capacity / callers;
            format!("pool {name}: a minimum of {minimum} ports for each of {callers} callers is more than its {capacity} ports: {share} are kept for each")
        })
    }

    fn state(&self) -> &'static str {
        if self.in_use.is_empty() || self.zone.ports.is_empty() {
            "failed"
        } else if self.faults.is_empty() {
            "ready"
        } else {
            "degraded"
        }
    }

    /// `usage` says how many ports of an address are leased, and how many cool; `waiting`, how many requests wait.
    pub(super) fn view(
        &self,
        name: &PoolName,
        draining: &BTreeSet<IpAddr>,
        usage: impl Fn(IpAddr) -> (u64, u64),
        waiting: usize,
    ) -> PoolView {
        let address = |of: &PoolAddress| {
            let (leased, cooling) = usage(of.address);
            let state = match (draining.contains(&of.address), of.present) {
                (true, _) if leased == 0 => "drained",
                (true, _) => "draining",
                (false, true) => "in-use",
                (false, false) => "absent",
            };
            AddressView { address: of.address, state, leased, cooling }
        };
        PoolView {
            name: name.to_string(),
            state: self.state(),
            addresses: self.addresses.iter().map(address).collect(),
            zone: self.zone.ports.to_string(),
            left_out: self
                .zone
                .left_out
                .iter()
                .map(|(ports, why)| (ports.to_string(), why.clone()))
                .collect(),
            capacity: capacity(&self.in_use, &self.zone),
            spread: self.config.spread.as_str(),
            quota: self.config.quota.to_string(),
            minimum: self.config.minimum,
            waiting,
            allow: self.config.allow.iter().map(PoolGrant::to_string).collect(),
            origin: if self.is_built_in() { "built in".to_owned() } else { origin_text(&self.config.origin) },
            faults: self.faults.clone(),
        }
    }

    fn is_built_in(&self) -> bool {
        self.config.addresses == [AddressSpec::Host]
    }
}
