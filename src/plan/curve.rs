//! The tuples of one destination over time: a load that begins, goes on, and has its burst, if it has one.

use super::load::Load;
use std::time::Duration;

/// How many tuples are taken at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Since the load began.
    pub time: Duration,
    /// By connections that are open.
    pub open: u128,
    /// By those that are closed, in TIME_WAIT.
    pub waiting: u128,
}

/// The load over time.
#[derive(Debug, Clone, Copy)]
pub struct Curve<'a> {
    load: &'a Load,
}

impl<'a> Curve<'a> {
    /// Of this load.
    #[must_use]
    pub fn new(load: &'a Load) -> Self {
        Self { load }
    }

    /// When the burst comes: when all is even for a while. `None`: there is none.
    #[must_use]
    pub fn burst(&self) -> Option<Duration> {
        (self.load.burst > 0).then(|| self.load.occupied().saturating_mul(3) / 2)
    }

    /// After that nothing is new.
    #[must_use]
    pub fn end(&self) -> Duration {
        let occupied = self.load.occupied();
        match self.burst() {
            Some(burst) => burst.saturating_add(occupied.saturating_mul(3) / 2),
            None => occupied.saturating_mul(3) / 2,
        }
    }

    /// What is taken at a time.
    #[must_use]
    pub fn at(&self, time: Duration) -> Moment {
        let Self { load } = self;
        let burst = |lasts: Duration| match self.burst() {
            Some(begin) if time >= begin && time < begin.saturating_add(lasts) => load.burst_of_each(),
            _ => 0,
        };
        let open = load.even(time, load.lifetime) + burst(load.lifetime);
        let all = load.even(time, load.occupied()) + burst(load.occupied());
        Moment { time, open, waiting: all.saturating_sub(open) }
    }

    /// When so many tuples are taken for the first time; `None`: never.
    #[must_use]
    pub fn reaches(&self, tuples: u128) -> Option<Duration> {
        let Self { load } = self;
        let occupied = load.occupied();
        if tuples <= load.even(occupied, occupied) {
            let each = u128::from(load.sharers()) * load.rate.per.as_nanos();
            // One more begins at the very moment.
            let nanos = tuples.saturating_sub(1) * each / u128::from(load.rate.count.max(1));
            return u64::try_from(nanos).ok().map(Duration::from_nanos);
        }
        self.burst().filter(|_| tuples <= load.peak())
    }

    /// The curve at so many moments, from its beginning to its end.
    #[must_use]
    pub fn sampled(&self, moments: u32) -> Vec<Moment> {
        let step = self.end() / moments.max(2).saturating_sub(1);
        (0..moments.max(2)).map(|n| self.at(step.saturating_mul(n))).collect()
    }
}
