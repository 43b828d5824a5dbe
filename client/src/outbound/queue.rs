//! The ports of one address family that could be used now, and in what order. Pure.

use std::collections::VecDeque;

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

/// The ports of one address family.
#[derive(Debug, Default)]
pub(super) struct Queue {
    fresh: VecDeque<Rest>,
    fresh_ports: u32,
    closed: VecDeque<Port>,
    /// All of them, also those that are held and out.
    pub(super) ports: u32,
}

impl Queue {
    /// How many there are to be taken.
    pub(super) fn free(&self) -> u32 {
        self.fresh_ports.saturating_add(u32::try_from(self.closed.len()).unwrap_or(u32::MAX))
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

    /// The next one, and whether it was used before: those that were not come first, in turns over all ranges.
    pub(super) fn next(&mut self) -> Option<(Port, bool)> {
        let Some(mut rest) = self.fresh.pop_front() else {
            return self.closed.pop_front().map(|port| (port, true));
        };
        let port = Port { range: rest.range, number: rest.next, strikes: 0, blind: false };
        self.fresh_ports -= 1;
        if rest.next < rest.last {
            rest.next += 1;
            self.fresh.push_back(rest);
        }
        Some((port, false))
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
        fresh.into_iter().map(Idle::Fresh).chain(closed.into_iter().map(Idle::Used)).collect()
    }
}
