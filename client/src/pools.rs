//! Pools and leases as the broker shows them, and what an administrator does with them.
//!
//! For leasing see the crate's root.

use crate::connect::{Broker, get_all, is_standard, managed_objects, manager};
use crate::error::Error;
use crate::inspect::{Properties, take};
use crate::wire::{self, ErrorName, ForecastRow, LeaseRow, LeftOutRow, ManagedObjects, PoolAddressRow};
use std::collections::HashMap;
use std::time::Duration;
use zbus::fdo::Error as Standard;
use zbus::wire::Variant;

/// How a pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// `ready`, `degraded` or `failed`.
    pub state: String,
    /// Its source addresses.
    pub addresses: Vec<PoolAddress>,
    /// The ports of each address that can be leased: `1024-32767`.
    pub zone: String,
    /// What was left out of the zone, and why.
    pub left_out: Vec<LeftOut>,
    /// Connections to one destination and protocol: of IPv4 or IPv6, which has more.
    pub capacity: u64,
    /// `least-used`, `round-robin` or `sticky`.
    pub spread: String,
    /// Empty, `20000 ports`, `a quarter`.
    pub quota: String,
    /// Ports that are kept for each caller, for each destination; 0: none.
    pub minimum: u32,
    /// Requests that wait for ports.
    pub waiting: u32,
    /// Who may lease from it, as in the configuration.
    pub allow: Vec<String>,
    /// Where it is configured: `FILE:LINE`, or `built in`.
    pub origin: String,
    /// What is not as it was configured, a sentence each.
    pub faults: Vec<String>,
}

/// A source address of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolAddress {
    /// The address.
    pub address: String,
    /// `in-use`, `absent`, `draining` or `drained`.
    pub state: String,
    /// Ports that are leased, of both protocols and for all destinations.
    pub leased: u32,
    /// Ports that are leased no more, and that the kernel may still use.
    pub cooling: u32,
}

/// Ports that a pool does not lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// `80,8000-8010`
    pub ports: String,
    /// Why.
    pub reason: String,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Its number.
    pub lease: u64,
    /// The number of its session.
    pub session: u64,
    /// Its pool.
    pub pool: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Whom it is for; `None`: anybody.
    pub destination: Option<String>,
    /// `pairs`, `blocks` or `sockets`.
    pub kind: String,
    /// How many ports it has.
    pub ports: u32,
    /// `held`, or `cooling` after its end.
    pub state: String,
    /// Whose it is: `crawler.service`, `uid 1000`.
    pub owner: String,
    /// `(address, first port, last port)`
    pub ranges: Vec<(String, u16, u16)>,
    /// How many of its ports cool.
    pub cooling: u32,
}

/// How the ports of a pool for one destination stand, and what comes.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// The pool.
    pub pool: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `192.0.2.1:443`; `None`: leases for any destination. UDP ports are the same for all destinations, and theirs is
    /// `0.0.0.0:0` or `[::]:0`.
    pub destination: Option<String>,
    /// Ports that are leased.
    pub used: u32,
    /// Ports that are leased no more, and that the kernel may still use.
    pub cooling: u32,
    /// All that there are.
    pub capacity: u32,
    /// By how many ports a second used and cooling grow together; below zero where they fall.
    pub rate: f64,
    /// When nothing is left if it goes on so; `None`: never.
    pub exhausted_in: Option<Duration>,
    /// The end was told as near, by a signal and in the log, and is not averted.
    pub ahead: bool,
}

impl Forecast {
    /// Which part of the ports is used or cooling, from 0 to 1.
    #[must_use]
    pub fn taken(&self) -> f64 {
        let taken = f64::from(self.used) + f64::from(self.cooling);
        if self.capacity == 0 { 0.0 } else { taken / f64::from(self.capacity) }
    }
}

impl From<ForecastRow> for Forecast {
    fn from(row: ForecastRow) -> Self {
        let (pool, protocol, destination, used, cooling, capacity, rate, seconds, ahead) = row;
        let destination = Some(destination).filter(|destination| !destination.is_empty());
        let exhausted_in = (seconds != wire::NEVER).then(|| Duration::from_secs(seconds));
        Self { pool, protocol, destination, used, cooling, capacity, rate, exhausted_in, ahead }
    }
}

impl PoolStatus {
    /// Takes all pools out, by name.
    pub(crate) fn read_all(objects: &mut ManagedObjects) -> Result<Vec<Self>, Error> {
        let mut pools = objects
            .values_mut()
            .filter_map(|interfaces| interfaces.remove(wire::POOL_INTERFACE))
            .map(Self::read)
            .collect::<Result<Vec<_>, _>>()?;
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pools)
    }

    pub(crate) fn read(mut properties: Properties) -> Result<Self, Error> {
        let addresses: Vec<PoolAddressRow> = take(&mut properties, "Addresses")?;
        let left_out: Vec<LeftOutRow> = take(&mut properties, "LeftOut")?;
        Ok(Self {
            name: take(&mut properties, "Name")?,
            state: take(&mut properties, "State")?,
            addresses: addresses.into_iter().map(PoolAddress::from).collect(),
            zone: take(&mut properties, "Zone")?,
            left_out: left_out.into_iter().map(|(ports, reason)| LeftOut { ports, reason }).collect(),
            capacity: take(&mut properties, "Capacity")?,
            spread: take(&mut properties, "Spread")?,
            quota: take(&mut properties, "Quota")?,
            // A broker of an earlier version has neither.
            minimum: take(&mut properties, "Minimum").unwrap_or_default(),
            waiting: take(&mut properties, "Waiting").unwrap_or_default(),
            allow: take(&mut properties, "Allow")?,
            origin: take(&mut properties, "Origin")?,
            faults: take(&mut properties, "Faults")?,
        })
    }
}

impl From<PoolAddressRow> for PoolAddress {
    fn from((address, state, leased, cooling): PoolAddressRow) -> Self {
        Self { address, state, leased, cooling }
    }
}

impl From<LeaseRow> for LeaseStatus {
    fn from(row: LeaseRow) -> Self {
        let (lease, session, pool, protocol, destination, kind, ports, state, owner, ranges, cooling) = row;
        let destination = Some(destination).filter(|destination| !destination.is_empty());
        Self { lease, session, pool, protocol, destination, kind, ports, state, owner, ranges, cooling }
    }
}

impl Broker {
    /// All pools, by name.
    pub async fn pools(&self) -> Result<Vec<PoolStatus>, Error> {
        let mut objects =
            self.ask(|connection| Box::pin(async move { managed_objects(&connection).await })).await?;
        PoolStatus::read_all(&mut objects)
    }

    /// One pool.
    pub async fn pool(&self, name: &str) -> Result<PoolStatus, Error> {
        let path = wire::pool_path(name);
        let path = path.as_str();
        let properties = self
            .ask(|connection| Box::pin(async move { get_all(&connection, path, wire::POOL_INTERFACE).await }))
            .await;
        PoolStatus::read(properties.map_err(|error| no_such_pool(error, name))?)
    }

    /// The leases with a number above `after`, by number: the caller's own, or all of them for root. As many as one
    /// answer has; ask again with the last one's number until there are none.
    pub async fn leases(&self, after: u64) -> Result<Vec<LeaseStatus>, Error> {
        let rows = self
            .ask(|connection| {
                Box::pin(
                    async move { manager(&connection).await?.list_leases(after, wire::MAX_LEASE_ROWS).await },
                )
            })
            .await?;
        Ok(rows.into_iter().map(LeaseStatus::from).collect())
    }

    /// The forecasts of the pools' destinations, the one of which the greatest part is taken first: of what the caller has
    /// leases for, or of all for root. At most [`wire::MAX_FORECAST_ROWS`]. A broker of an earlier version has none.
    pub async fn forecasts(&self) -> Result<Vec<Forecast>, Error> {
        let rows = self
            .ask(|connection| {
                Box::pin(
                    async move { manager(&connection).await?.list_forecasts(wire::MAX_FORECAST_ROWS).await },
                )
            })
            .await;
        match rows {
            Err(error) if is_standard(&error, |standard| matches!(standard, Standard::UnknownMethod(_))) => {
                Ok(Vec::new())
            }
            rows => Ok(rows?.into_iter().map(Forecast::from).collect()),
        }
    }

    /// Ends a lease of the caller's own, or any for root and whom polkit lets.
    pub async fn release(&self, lease: u64) -> Result<(), Error> {
        self.administer("Release", &lease).await
    }

    /// Gives out nothing more of a source address, or (`undo`) gives it out again. For root, and whom polkit lets.
    pub async fn drain(&self, address: &str, undo: bool) -> Result<(), Error> {
        let options = HashMap::from([(wire::OPTION_UNDO, Variant::from(undo))]);
        self.administer("DrainAddress", &(address, options)).await
    }
}

/// A pool that does not exist has no object, which the standard has its own error for.
fn no_such_pool(error: Error, name: &str) -> Error {
    if is_standard(&error, |standard| matches!(standard, Standard::UnknownObject(_))) {
        Error::Refused { name: ErrorName::NoSuchPool, message: format!("no pool is named {name:?}") }
    } else {
        error
    }
}
