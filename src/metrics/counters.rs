//! What only grows while the daemon runs.

use std::collections::BTreeMap;

/// What somebody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// Sockets of listeners.
    Acquire,
    /// Ports.
    Lease,
    /// What only administrators may.
    Administration,
}

impl Request {
    /// As a label has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Lease => "lease",
            Self::Administration => "administration",
        }
    }
}

/// Counts since the start of the daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls that were answered with sockets of listeners.
    pub handovers: u64,
    /// Sockets of listeners that were handed over.
    pub sockets: u64,
    /// Leases that were made.
    pub leases: u64,
    /// Ports of these.
    pub ports: u64,
    /// Leases that were given back, or ended with their session.
    pub ended: u64,
    /// Ends that were foretold.
    pub foretold: u64,
    /// What was refused, by what it was and the name of the error.
    pub refusals: BTreeMap<(Request, &'static str), u64>,
}

impl Counters {
    /// Sockets were handed over.
    pub fn handed_over(&mut self, sockets: usize) {
        self.handovers = self.handovers.saturating_add(1);
        self.sockets = self.sockets.saturating_add(count(sockets));
    }

    /// Ports were leased.
    pub fn leased(&mut self, ports: usize) {
        self.leases = self.leases.saturating_add(1);
        self.ports = self.ports.saturating_add(count(ports));
    }

    /// Leases ended.
    pub fn ended(&mut self, leases: usize) {
        self.ended = self.ended.saturating_add(count(leases));
    }

    /// Something was refused. There are as many reasons as the interface has errors.
    pub fn refused(&mut self, what: Request, error: &'static str) {
        let refused = self.refusals.entry((what, error)).or_default();
        *refused = refused.saturating_add(1);
    }
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
