//! What is asked for, made whole: of connections, rate and lifetime, any two say the third (Little's law).
//!
//! Where all three are said and more connections than `rate × lifetime` are open at once, the rest come as a burst, on
//! top of those that come evenly. Where fewer are, that is a contradiction.

use super::quantity::{MOST, Rate, shown};
use crate::model::Protocol;
use std::time::Duration;

/// `TCP_TIMEWAIT_LEN`, include/net/tcp.h: the end that closes first keeps the tuple for so long.
pub const TIME_WAIT: Duration = Duration::from_secs(60);
/// More connections at once are no host's.
pub const MOST_CONNECTIONS: u64 = MOST;
/// Nothing lives longer, nor comes more seldom.
pub const MOST_TIME: Duration = Duration::from_secs(10 * 366 * 86_400);
/// More than one connection in a nanosecond.
const MOST_RATE: u128 = 1_000_000_000;

/// What somebody wants to have planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Connections that are open at once, at most.
    pub connections: Option<u64>,
    /// New ones.
    pub rate: Option<Rate>,
    /// How long each is open.
    pub lifetime: Option<Duration>,
    /// How long a source stays taken after that; `None`: what the protocol says.
    pub time_wait: Option<Duration>,
    /// How many destinations share them evenly.
    pub destinations: u64,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// Why that is no load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// One of three, or none.
    #[error(
        "two of --connections, --rate and --lifetime are needed: the third follows from them (connections = rate × lifetime)"
    )]
    TooLittle,
    /// They do not agree.
    #[error(
        "{rate} that live {lifetime} each are {even} open at once, and --connections says at most {connections}: leave one of the three out, or make --connections larger, or --rate or --lifetime smaller"
    )]
    Contradiction {
        /// As it was said.
        rate: String,
        /// As it was said.
        lifetime: String,
        /// What follows from the two.
        even: String,
        /// As it was said.
        connections: String,
    },
    /// Nothing lives for no time.
    #[error("--lifetime is no time at all: write how long a connection is open, as in 30s")]
    NoLifetime,
    /// A time that no host sees the end of.
    #[error("{0} is longer than ten years: that is no plan")]
    TooLong(&'static str),
    /// More connections than are planned for.
    #[error("{0} connections at once are more than are planned for: {MOST_CONNECTIONS} at most")]
    TooMany(String),
    /// More than one in a nanosecond.
    #[error("that is a rate of more than 1,000,000,000 a second: no host connects as quickly")]
    TooFast,
    /// It has none.
    #[error("UDP has no TIME_WAIT: leave --time-wait out")]
    NoTimeWait,
}

/// A load of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Open at once, at most.
    pub connections: u64,
    /// New ones, evenly.
    pub rate: Rate,
    /// How long each is open.
    pub lifetime: Duration,
    /// How long its source stays taken after that.
    pub time_wait: Duration,
    /// How many of `connections` come in a burst, on top of the rate.
    pub burst: u64,
    /// How many destinations share them evenly.
    pub destinations: u64,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl Load {
    /// Makes what was asked whole, or says why it cannot be.
    pub fn new(asked: &Asked) -> Result<Self, LoadError> {
        in_bounds(asked.lifetime, "--lifetime")?;
        in_bounds(asked.time_wait, "--time-wait")?;
        let (connections, rate, lifetime) = match (asked.connections, asked.rate, asked.lifetime) {
            (_, _, Some(lifetime)) if lifetime.is_zero() => return Err(LoadError::NoLifetime),
            (Some(connections), Some(rate), Some(lifetime)) => (connections, rate, lifetime),
            (Some(connections), None, Some(lifetime)) => {
                (connections, Rate { count: connections, per: lifetime }, lifetime)
            }
            (Some(connections), Some(rate), None) => (connections, rate, lifetime_of(connections, rate)?),
            (None, Some(rate), Some(lifetime)) => {
                let connections = rate.in_time(lifetime);
                let too_many = || LoadError::TooMany(shown(connections));
                (u64::try_from(connections).map_err(|_| too_many())?, rate, lifetime)
            }
            _ => return Err(LoadError::TooLittle),
        };
        let time_wait = match (asked.protocol, asked.time_wait) {
            (Protocol::Udp, Some(_)) => return Err(LoadError::NoTimeWait),
            (Protocol::Udp, None) => Duration::ZERO,
            (Protocol::Tcp, time_wait) => time_wait.unwrap_or(TIME_WAIT),
        };
        if connections > MOST_CONNECTIONS {
            return Err(LoadError::TooMany(shown(connections)));
        }
        in_bounds(Some(lifetime), "the lifetime that follows")?;
        if rate.in_time(Duration::from_secs(1)) > MOST_RATE {
            return Err(LoadError::TooFast);
        }
        let even = rate.in_time(lifetime);
        let burst = u128::from(connections).checked_sub(even).ok_or_else(|| LoadError::Contradiction {
            rate: rate.to_string(),
            lifetime: humantime::format_duration(lifetime).to_string(),
            even: shown(even),
            connections: shown(connections),
        })?;
        Ok(Self {
            connections,
            rate,
            lifetime,
            time_wait,
            burst: u64::try_from(burst).unwrap_or(connections),
            destinations: asked.destinations.max(1),
            protocol: asked.protocol,
        })
    }

    /// How long a source is taken by one connection.
    #[must_use]
    pub fn occupied(&self) -> Duration {
        self.lifetime.saturating_add(self.time_wait)
    }

    /// Among how many destinations the sources of one (address, port) are shared: a UDP port is leased to one alone.
    #[must_use]
    pub fn sharers(&self) -> u64 {
        if self.protocol == Protocol::Udp { 1 } else { self.destinations }
    }

    /// The tuples of one destination that are taken at once by what comes evenly within a time of the beginning, when
    /// each is taken for `occupied`.
    pub(super) fn even(&self, time: Duration, occupied: Duration) -> u128 {
        let each = u128::from(self.sharers()) * self.rate.per.as_nanos().max(1);
        (u128::from(self.rate.count) * time.min(occupied).as_nanos()).div_ceil(each)
    }

    /// The tuples of one destination that a burst adds.
    #[must_use]
    pub fn burst_of_each(&self) -> u128 {
        u128::from(self.burst.div_ceil(self.sharers()))
    }

    /// The tuples of one destination that are taken at once, at most; of UDP, those of all destinations.
    #[must_use]
    pub fn peak(&self) -> u128 {
        self.even(self.occupied(), self.occupied()) + self.burst_of_each()
    }
}

/// Whatever is multiplied afterwards is small enough then.
fn in_bounds(time: Option<Duration>, name: &'static str) -> Result<(), LoadError> {
    if time.is_some_and(|time| time > MOST_TIME) { Err(LoadError::TooLong(name)) } else { Ok(()) }
}

fn lifetime_of(connections: u64, rate: Rate) -> Result<Duration, LoadError> {
    let nanos = u128::from(connections) * rate.per.as_nanos() / u128::from(rate.count.max(1));
    let nanos = u64::try_from(nanos).map_err(|_| LoadError::TooLong("the lifetime that follows"))?;
    if nanos == 0 { Err(LoadError::TooFast) } else { Ok(Duration::from_nanos(nanos)) }
}
