//! The ports of one address family that could be used now, and in what order. Pure.

use std::collections::VecDeque;
use std::time::Instant;

/// A port that is out with somebody. There is one of it, so it cannot be given back twice.
#[derive(Debug)]
pub(crate) struct Port {
    pub(super) range: u32,
    pub(super) number: u16,
    pub(super) strikes: u8,
    pub(super) blind: bool,
}

/// A range from its next port on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    pub(super) range: u32,
    pub(super) next: u16,
    pub(super) last: u16,
}

impl Rest {
    fn ports(self) -> u32 {
        u32::from(self.last) - u32::from(self.next) + 1
    }
}

/// Ports that nobody has.
#[derive(Debug)]
pub(super) enum Idle {
    Fresh(Rest),
    Used(Port),
}

impl Idle {
    pub(super) fn ports(&self) -> u32 {
        match self {
            Self::Fresh(rest) => rest.ports(),
            Self::Used(_) => 1,
        }
    }

    pub(super) fn range(&self) -> u32 {
        match self {
            Self::Fresh(rest) => rest.range,
            Self::Used(port) => port.range,
        }
    }
}

/// What is known of a port that is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// It was never used.
    Fresh,
    /// It was used, and the kernel has shown since that nothing is on it, or only a TIME_WAIT until then. That stays
    /// true, for nobody else may use it.
    Looked(Option<Instant>),
    /// It was used.
    Nothing,
}

/// The ports of one address family.
#[derive(Debug, Default)]
pub(super) struct Queue {
    fresh: VecDeque<Rest>,
    fresh_ports: u32,
    looked: VecDeque<(Port, Option<Instant>)>,
    closed: VecDeque<Port>,
    /// All of them, also those that are held and out.
    pub(super) ports: u32,
}

impl Queue {
    /// How many there are to be taken.
    pub(super) fn free(&self) -> u32 {
        let used = self.looked.len() + self.closed.len();
        self.fresh_ports.saturating_add(u32::try_from(used).unwrap_or(u32::MAX))
    }

    /// Puts some at the end.
    pub(super) fn add(&mut self, idle: Idle) {
        match idle {
            Idle::Fresh(rest) => {
                self.fresh_ports += rest.ports();
                self.fresh.push_back(rest);
            }
            Idle::Used(port) => self.closed.push_back(port),
        }
    }

    /// Puts one back that was looked at.
    pub(super) fn add_looked(&mut self, port: Port, time_wait: Option<Instant>) {
        self.looked.push_back((port, time_wait));
    }

    /// Used ones that can be looked at together with the one that was next: no more than so many, and of few none, for
    /// those were closed a moment ago, and others want them too.
    pub(super) fn next_closed(&mut self, most: usize) -> impl Iterator<Item = Port> {
        let count = most.min(self.closed.len() / 4);
        self.closed.drain(..count)
    }

    /// The next one: those that were not used come first, in turns over all ranges.
    pub(super) fn next(&mut self) -> Option<(Port, Known)> {
        let Some(mut rest) = self.fresh.pop_front() else {
            if let Some((port, time_wait)) = self.looked.pop_front() {
                return Some((port, Known::Looked(time_wait)));
            }
            return self.closed.pop_front().map(|port| (port, Known::Nothing));
        };
        let port = Port { range: rest.range, number: rest.next, strikes: 0, blind: false };
        self.fresh_ports -= 1;
        if rest.next < rest.last {
            rest.next += 1;
            self.fresh.push_back(rest);
        }
        Some((port, Known::Fresh))
    }

    /// Takes those of some ranges out.
    pub(super) fn take_out(&mut self, which: impl Fn(u32) -> bool) -> Vec<Idle> {
        let (fresh, others): (VecDeque<Rest>, _) =
            std::mem::take(&mut self.fresh).into_iter().partition(|rest| which(rest.range));
        self.fresh = others;
        self.fresh_ports = self.fresh.iter().map(|rest| rest.ports()).sum();
        let (closed, others): (VecDeque<Port>, _) =
            std::mem::take(&mut self.closed).into_iter().partition(|port| which(port.range));
        self.closed = others;
        let (looked, others): (VecDeque<_>, _) =
            std::mem::take(&mut self.looked).into_iter().partition(|(port, _)| which(port.range));
        self.looked = others;
        let used = looked.into_iter().map(|(port, _)| port).chain(closed);
        fresh.into_iter().map(Idle::Fresh).chain(used.map(Idle::Used)).collect()
    }
}
