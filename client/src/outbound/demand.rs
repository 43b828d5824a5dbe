//! How many ports were needed of late. Pure.

use std::time::{Duration, Instant};

/// What was needed in the last two to three such spans is kept: what is returned was idle for a minute.
const SPAN: Duration = Duration::from_secs(30);

/// How many ports were out or held at a time, at most, of late.
#[derive(Debug)]
pub(crate) struct Demand {
    since: Instant,
    now: u32,
    before: u32,
    earlier: u32,
}

impl Demand {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, now: 0, before: 0, earlier: 0 }
    }

    /// So many are needed now.
    pub(crate) fn note(&mut self, current: u32) {
        self.now = self.now.max(current);
    }

    /// The most that were needed of late, where so many are now.
    pub(crate) fn most(&mut self, current: u32, now: Instant) -> u32 {
        while now >= self.since + SPAN {
            (self.earlier, self.before, self.now) = (self.before, self.now, current);
            // After a long time without a look all of them are as now.
            self.since = if now > self.since + 4 * SPAN { now - SPAN } else { self.since + SPAN };
        }
        self.now.max(self.before).max(self.earlier)
    }
}
