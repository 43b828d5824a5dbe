//! Which lines of the log somebody still has: who makes very many of them has some, and then a sum.

use crate::config::LOG_SPAN;
use std::collections::BTreeMap;
use std::time::Instant;

#[derive(Debug)]
struct Written {
    since: Instant,
    lines: u64,
    left_out: u64,
}

/// Lines that were left out of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    /// Whose.
    pub uid: u32,
    /// How many.
    pub lines: u64,
}

/// Lines by user.
#[derive(Debug, Default)]
pub(super) struct Lines(BTreeMap<u32, Written>);

impl Lines {
    /// Counts one more; whether it is written.
    pub(super) fn has_a_line(&mut self, uid: u32, most: u64, now: Instant) -> bool {
        let fresh = || Written { since: now, lines: 0, left_out: 0 };
        let written = self.0.entry(uid).or_insert_with(fresh);
        if written.left_out == 0 && now.saturating_duration_since(written.since) >= LOG_SPAN {
            *written = fresh();
        }
        let writes = written.lines < most;
        if writes {
            written.lines += 1;
        } else {
            written.left_out += 1;
        }
        writes
    }

    /// When there is a sum to write, or something to forget.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0
            .values()
            .filter(|w| w.left_out > 0)
            .filter_map(|written| written.since.checked_add(LOG_SPAN))
            .min()
    }

    /// What was left out in spans that are over.
    pub(super) fn sums(&mut self, now: Instant) -> Vec<LeftOut> {
        let mut sums = Vec::new();
        self.0.retain(|uid, written| {
            let over = now.saturating_duration_since(written.since) >= LOG_SPAN;
            if over && written.left_out > 0 {
                sums.push(LeftOut { uid: *uid, lines: written.left_out });
            }
            !over
        });
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_some_lines_and_a_sum_and_others_have_theirs() {
        let (mut lines, begin) = (Lines::default(), Instant::now());
        let written = (0..1000).filter(|_| lines.has_a_line(7, 5, begin)).count();
        assert_eq!(written, 5);
        assert!(lines.has_a_line(8, 5, begin));
        let due = lines.next_due().unwrap();
        assert_eq!(lines.sums(begin), []);
        assert_eq!(lines.sums(due), [LeftOut { uid: 7, lines: 995 }]);
        assert_eq!((lines.next_due(), lines.sums(due + LOG_SPAN)), (None, Vec::new()));
        assert!(lines.0.is_empty() && lines.has_a_line(7, 5, due));
    }

    #[test]
    fn who_writes_seldom_is_never_cut_short() {
        let (mut lines, begin) = (Lines::default(), Instant::now());
        assert!((0..100).all(|n| lines.has_a_line(7, 2, begin + LOG_SPAN / 2 * n)));
    }
}
