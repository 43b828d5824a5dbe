//! What there is at one instant, as plain values.

use super::Counters;
use std::time::Duration;

/// Queues of more listeners are not told.
pub const MOST_LISTENERS: usize = 256;
/// More pools are not told one by one.
pub const MOST_POOLS: usize = 64;
/// More addresses of pools are not told one by one.
pub const MOST_ADDRESSES: usize = 256;

/// What the broker knows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// What is not as it was configured.
    pub faults: u64,
    /// Listeners, by their state.
    pub listeners: Vec<(&'static str, u64)>,
    /// Sockets of listeners, by their state.
    pub sockets: Vec<(&'static str, u64)>,
    /// What waits in the busiest of them.
    pub queues: Vec<QueueRow>,
    /// Listeners that nobody holds.
    pub unheld: u64,
    /// Ports that are protected because services listen on them.
    pub learned: u64,
    /// What is counted since the start.
    pub counters: Counters,
    /// The limits.
    pub limits: Vec<LimitRow>,
    /// Sessions that are open.
    pub sessions: u64,
    /// Leases, cooling ones included.
    pub leases: u64,
    /// The pools.
    pub pools: Vec<PoolRow>,
    /// The busiest addresses of them.
    pub addresses: Vec<AddressRow>,
    /// The busiest destinations.
    pub forecasts: Vec<ForecastView>,
    /// How long the question for all this waited for its turn.
    pub delay: Duration,
}

/// What waits in the sockets of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueRow {
    /// Its name.
    pub listener: String,
    /// Connections, or bytes of datagrams.
    pub waiting: u64,
    /// How much there is room for; `None`: not known.
    pub limit: Option<u64>,
    /// How much found no room since the sockets were made; `None`: not known.
    pub overflows: Option<u64>,
}

impl QueueRow {
    /// Which part of it is full, in a thousandth.
    #[must_use]
    pub fn fill(&self) -> u64 {
        self.waiting.saturating_mul(1000) / self.limit.unwrap_or(u64::MAX).max(1)
    }
}

/// A limit of `[limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitRow {
    /// Its key.
    pub limit: &'static str,
    /// Its value, as it is in effect.
    pub most: u64,
    /// How much is in use.
    pub used: u64,
    /// How often it was hit.
    pub hits: u64,
}

/// A pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolRow {
    /// Its name.
    pub pool: String,
    /// `ready`, `degraded` or `failed`.
    pub state: &'static str,
    /// Connections to one destination.
    pub capacity: u64,
    /// Requests that wait.
    pub waiting: u64,
    /// Its addresses in use.
    pub addresses: u64,
    /// Leases of it, cooling ones included.
    pub leases: u64,
    /// Ports of it that are leased, over all destinations.
    pub leased: u64,
}

/// A source address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressRow {
    /// The pool that has it.
    pub pool: String,
    /// The address.
    pub address: String,
    /// Ports that are leased, over all destinations.
    pub leased: u64,
    /// Ports that cool.
    pub cooling: u64,
}

/// How the ports of a pool for one destination stand, and what comes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ForecastView {
    /// The pool.
    pub pool: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `192.0.2.1:443`; empty: any. Of UDP, where all destinations have the same ports, `0.0.0.0:0` or `[::]:0`.
    pub destination: String,
    /// Leased ports.
    pub used: u64,
    /// Ports that cool.
    pub cooling: u64,
    /// All that there are.
    pub capacity: u64,
    /// By how many ports a second used and cooling grow together.
    pub rate: f64,
    /// When nothing is left; `None`: never.
    pub exhausted_in: Option<Duration>,
    /// That was told, and is not averted.
    pub ahead: bool,
}

/// What the daemon itself takes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Process {
    /// Bytes of memory that are resident.
    pub resident: u64,
    /// Descriptors that are open.
    pub descriptors: u64,
    /// How many may be.
    pub most_descriptors: u64,
    /// Processor time.
    pub cpu: Duration,
    /// When it began, since the epoch.
    pub started: Duration,
    /// Lines of its log that were lost.
    pub lines_lost: u64,
    /// How often it was scraped.
    pub scrapes: u64,
    /// Connections of scrapers that were ended before they had their answer, for others.
    pub scrapes_ended: u64,
}
