//! How many come in within a second: a few at once, and then one after the other.

use std::time::{Duration, Instant};

/// So many may come at once.
const AT_ONCE: u32 = 32;

/// Lets in so many a second.
#[derive(Debug)]
pub(super) struct Pace {
    /// What one takes.
    each: Duration,
    /// When the last of those who came in would have, had they come in order.
    reached: Instant,
}

impl Pace {
    pub(super) fn new(a_second: u32, now: Instant) -> Self {
        Self { each: Duration::from_secs(1) / a_second.max(1), reached: now }
    }

    /// One more comes in; how long it has to wait before.
    fn one(&mut self, now: Instant) -> Duration {
        let earliest = now.checked_sub(self.each * AT_ONCE).unwrap_or(now);
        self.reached = self.reached.max(earliest) + self.each;
        self.reached.saturating_duration_since(now)
    }

    /// Waits for the turn of one more.
    pub(super) async fn wait(&mut self) {
        let pause = self.one(Instant::now());
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_come_in_at_once_and_the_others_one_by_one() {
        let begin = Instant::now();
        let now = begin + Duration::from_secs(10);
        let mut pace = Pace::new(100, begin);
        for n in 0..AT_ONCE {
            assert_eq!(pace.one(now), Duration::ZERO, "{n}");
        }
        for n in 1..50 {
            assert_eq!(pace.one(now), Duration::from_millis(10) * n);
        }
        assert_eq!(pace.one(now + Duration::from_secs(60)), Duration::ZERO);
    }
}
