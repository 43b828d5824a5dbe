//! When to look: once a minute with what is done then anyway, and soon after a unit has started, but never often.

use std::time::{Duration, Instant};

/// A unit that has just started needs a moment until it listens, and others start with it.
const AFTER_A_START: Duration = Duration::from_secs(1);
/// When to look again for what was new, and may have been there for an instant only.
const AGAIN: Duration = Duration::from_millis(2500);
/// In the long run there is at most one look in so long.
const REFILL: Duration = Duration::from_secs(10);
/// And so many may come close together.
const BURST: u32 = 5;

/// The next look.
#[derive(Debug)]
pub struct Schedule {
    due: Option<Instant>,
    /// The next look is a second one for something new, and has none after it.
    again: bool,
    spare: u32,
    refilled: Instant,
}

impl Schedule {
    /// Nothing is due but what starts from now on.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { due: None, again: false, spare: BURST, refilled: now }
    }

    /// A unit has started.
    pub fn unit_started(&mut self, now: Instant) {
        let wanted = now + AFTER_A_START;
        // One that is due already comes early enough; one that waits to look again may come sooner.
        if self.due.is_none_or(|due| due > wanted) {
            self.due = Some(wanted);
        }
        self.again = false;
    }

    /// A look was taken; `unsettled`: it saw something that has to be seen once more.
    pub fn looked(&mut self, now: Instant, unsettled: bool) {
        self.refill(now);
        self.spare = self.spare.saturating_sub(1);
        let again = unsettled && !self.again;
        self.due = again.then(|| now + AGAIN);
        self.again = again;
    }

    /// When to look; `None`: not before the next minute.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let earliest = if self.spare > 0 { self.refilled } else { self.refilled + REFILL };
        self.due.map(|due| due.max(earliest))
    }

    fn refill(&mut self, now: Instant) {
        while self.spare < BURST && now.duration_since(self.refilled) >= REFILL {
            self.refilled += REFILL;
            self.spare += 1;
        }
        if self.spare == BURST {
            self.refilled = now;
        }
    }
}
