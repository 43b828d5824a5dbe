//! What is said in the log of leases: a line for each, and for thousands of them one for all.
//!
//! Ten thousand lines a second take longer to write than the leases take to make, and nobody reads them.

use std::time::{Duration, Instant};

/// So many lines are written in one [`SPAN`]; the others are at the level of debug, and counted.
const LINES: u32 = 20;
/// How long lines are counted together.
const SPAN: Duration = Duration::from_secs(10);

/// What there is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tale {
    Leased {
        ports: usize,
    },
    Ended {
        leases: usize,
    },
    Refused,
    /// Ports of a lease are used after its end.
    Misused,
}

/// How many there were in a span, and were not told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Untold {
    pub(super) leased: usize,
    pub(super) ports: usize,
    pub(super) ended: usize,
    pub(super) refused: usize,
    pub(super) misused: usize,
}

/// Lines that were written lately.
#[derive(Debug, Default)]
pub(super) struct Told {
    since: Option<Instant>,
    lines: u32,
    untold: Untold,
}

impl Told {
    /// Counts one more; whether it has a line of its own.
    pub(super) fn has_a_line(&mut self, tale: Tale, now: Instant) -> bool {
        let began = *self.since.get_or_insert(now);
        if self.untold == Untold::default() && now.saturating_duration_since(began) >= SPAN {
            (self.since, self.lines) = (Some(now), 0);
        }
        self.lines = self.lines.saturating_add(1);
        if self.lines <= LINES {
            return true;
        }
        match tale {
            Tale::Leased { ports } => {
                self.untold.leased += 1;
                self.untold.ports += ports;
            }
            Tale::Ended { leases } => self.untold.ended += leases,
            Tale::Refused => self.untold.refused += 1,
            Tale::Misused => self.untold.misused += 1,
        }
        false
    }

    /// When the sum is due; `None` where all was told.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.since?.checked_add(SPAN).filter(|_| self.untold != Untold::default())
    }

    /// The sum of what was not told, where it is due; a new span begins.
    pub(super) fn sum(&mut self, now: Instant) -> Option<Untold> {
        self.next_due().filter(|due| *due <= now)?;
        self.since = None;
        self.lines = 0;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_told_and_many_are_summed_up() {
        let (mut told, begin) = (Told::default(), Instant::now());
        for n in 0..LINES {
            assert!(told.has_a_line(Tale::Leased { ports: 1 }, begin + SPAN / 100 * n));
        }
        assert_eq!(told.next_due(), None);
        assert!(!told.has_a_line(Tale::Leased { ports: 64 }, begin));
        assert!(!told.has_a_line(Tale::Ended { leases: 7 }, begin));
        assert!(!told.has_a_line(Tale::Refused, begin));
        assert_eq!((told.next_due(), told.sum(begin)), (Some(begin + SPAN), None));
        let sum = Untold { leased: 1, ports: 64, ended: 7, refused: 1, misused: 0 };
        assert_eq!(told.sum(begin + SPAN), Some(sum));
        assert!(told.has_a_line(Tale::Refused, begin + SPAN));
        assert_eq!(told.sum(begin + SPAN * 9), None);
    }

    #[test]
    fn seldom_ones_are_always_told() {
        let (mut told, begin) = (Told::default(), Instant::now());
        assert!((0..100).all(|n| told.has_a_line(Tale::Refused, begin + SPAN / 2 * n)));
    }
}
