//! What is shown of pools and leases: plain values, taken at one instant, for the bus to convert.

use crate::leases::Row;
use crate::model::SourceRange;
use std::net::IpAddr;

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// `ready`, `degraded` (not all of it is as configured) or `failed` (nothing can be leased).
    pub state: &'static str,
    /// Its addresses.
    pub addresses: Vec<AddressView>,
    /// The ports of each that can be leased.
    pub zone: String,
    /// Which ports were left out, and why.
    pub left_out: Vec<(String, String)>,
    /// Connections to one destination.
    pub capacity: u64,
    /// `least-used`, `round-robin` or `sticky`.
    pub spread: &'static str,
    /// As in the configuration, or empty.
    pub quota: String,
    /// Ports that are kept for each caller; 0: none.
    pub minimum: u32,
    /// Requests that wait for ports.
    pub waiting: usize,
    /// As in the configuration.
    pub allow: Vec<String>,
    /// `FILE:LINE`, or `built in`.
    pub origin: String,
    /// What is not as it was configured, a sentence each.
    pub faults: Vec<String>,
}

/// An address of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressView {
    /// The address.
    pub address: IpAddr,
    /// `in-use`, `absent`, `draining`, `drained`.
    pub state: &'static str,
    /// Leased ports, over all destinations and both protocols.
    pub leased: u64,
    /// Ports that cool.
    pub cooling: u64,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    /// Its number.
    pub id: u64,
    /// Its session's number.
    pub session: u64,
    /// Its pool.
    pub pool: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Its destination; empty: any.
    pub destination: String,
    /// `pairs`, `blocks` or `sockets`.
    pub kind: &'static str,
    /// How many ports it has.
    pub ports: u32,
    /// `held`, or `cooling` after its end.
    pub state: &'static str,
    /// `crawler.service`, `uid 1000`.
    pub owner: String,
    /// Its ports.
    pub ranges: Vec<SourceRange>,
    /// How many of them cool.
    pub cooling: u32,
}

pub(super) fn of_row(row: Row) -> LeaseView {
    LeaseView {
        id: row.id.0,
        session: row.session.0,
        pool: row.pool.to_string(),
        protocol: row.protocol.to_string(),
        destination: row.destination.map(|to| to.to_string()).unwrap_or_default(),
        kind: row.kind.as_str(),
        ports: row.ports,
        state: if row.held { "held" } else { "cooling" },
        owner: row.owner.to_string(),
        ranges: row.ranges,
        cooling: row.cooling,
    }
}
