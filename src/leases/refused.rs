//! Why nothing is leased.

use super::destination::DestinationError;
use crate::model::{LeaseId, Owner, PoolName, SessionId};
use std::time::Duration;

/// Why a session is not opened, or nothing is leased.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has ended, or there never was one.
    #[error(
        "there is no session {0}: it ended with its lifeline, or belongs to an earlier start of the host"
    )]
    NoSuchSession(SessionId),
    /// A limit on sessions.
    #[error(
        "there are {most} sessions of {owner} already: close lifelines, one is enough for any number of leases"
    )]
    TooManySessions {
        /// Whose.
        owner: Owner,
        /// How many there may be.
        most: usize,
    },
    /// A limit on all sessions.
    #[error("there are {0} sessions already, the most there can be")]
    NoMoreSessions(usize),
    /// A limit on leases.
    #[error("there are {most} leases of {owner} already: release some, or lease more ports at a time")]
    TooManyLeases {
        /// Whose.
        owner: Owner,
        /// How many there may be.
        most: usize,
    },
    /// A limit on all leases.
    #[error("there are {0} leases already, the most there can be")]
    NoMoreLeases(usize),
    /// A limit on what cools of an owner.
    #[error(
        "{cooling} ports of leases of {owner} that ended still cool, and more than {most} are not remembered: \
         wait until some are free, and keep leases longer"
    )]
    TooMuchCooling {
        /// Whose.
        owner: Owner,
        /// How many cool.
        cooling: usize,
        /// The limit.
        most: usize,
    },
    /// A limit on what cools of all owners.
    #[error(
        "{cooling} ports of leases that ended still cool, the most that are remembered: wait until some are free"
    )]
    NothingMoreCools {
        /// How many cool.
        cooling: usize,
    },
    /// Nothing was asked for.
    #[error("a lease has at least one port: ask for 1 or more")]
    NoPorts,
    /// Too much was asked for.
    #[error("{ports} ports were asked for, and one lease has at most {most}: ask in several")]
    TooManyPorts {
        /// How many were asked for.
        ports: u32,
        /// How many there may be.
        most: u32,
    },
    /// No destination.
    #[error(transparent)]
    Destination(#[from] DestinationError),
    /// The pool has nothing of that family now.
    #[error("pool {pool} has no {family} address in use, and the destination takes one")]
    NoAddress {
        /// The pool.
        pool: PoolName,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// Every port of the zone was left out.
    #[error(
        "pool {pool} has no ports that can be leased: `portbroker show pool {pool}` says what was left out"
    )]
    EmptyZone {
        /// The pool.
        pool: PoolName,
    },
    /// The caller's share.
    #[error(
        "{owner} holds {held} ports of pool {pool}, its quota is {quota}, and {minimum} more were asked for: \
         release some, or have the quota raised"
    )]
    QuotaExceeded {
        /// The pool.
        pool: PoolName,
        /// Who asked.
        owner: Owner,
        /// Ports held.
        held: u64,
        /// The limit.
        quota: u64,
        /// How many would have done.
        minimum: u32,
    },
    /// What all callers together may have.
    #[error(
        "all callers together hold {held} ports of pool {pool}, and may hold {quota}: {minimum} more do not fit; \
         a [[pool]] of one's own has no such limit"
    )]
    SharedQuotaExceeded {
        /// The pool.
        pool: PoolName,
        /// Ports held.
        held: u64,
        /// The limit.
        quota: u64,
        /// How many would have done.
        minimum: u32,
    },
    /// Nothing, or not enough, is left for the destination.
    #[error(
        "pool {pool} has {free} of {capacity} ports left for this destination, and {minimum} were asked for: \
         {used} are leased, {cooling} cool{}{}", kept_words(*.kept), next_words(*.next)
    )]
    Exhausted {
        /// The pool.
        pool: PoolName,
        /// Ports of all addresses in use of the right family.
        capacity: u64,
        /// Of these, leased.
        used: u64,
        /// Of these, cooling.
        cooling: u64,
        /// Of these, left.
        free: u64,
        /// Of these, for others: kept for their minimum, or waited for.
        kept: u64,
        /// How many would have done.
        minimum: u32,
        /// When the next cooling one is expected to be free; `None`: nobody knows.
        next: Option<Duration>,
    },
}

fn kept_words(kept: u64) -> String {
    if kept > 0 {
        format!(", and {kept} are for others, by their minimum or because they wait")
    } else {
        String::new()
    }
}

fn next_words(next: Option<Duration>) -> String {
    next.map(|next| format!("; the next is expected in {:.1} s", next.as_secs_f64())).unwrap_or_default()
}

/// It has ended, or there never was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no lease {0}: it was released, or ended with its session")]
pub struct NoSuchLease(pub LeaseId);
