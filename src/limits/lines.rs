//! Which lines of the log somebody still has: who makes very many of them has some, and then a sum.
//!
//! As long as the log takes nothing no new span begins: what one can have in its buffer is what he has in one span.

use super::Who;
use crate::config::LOG_SPAN;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// So many ordinary users have lines of their own in a span, and those beyond them have theirs together: one person can
/// have many uids (subuid(5)).
const USERS: usize = 64;
/// While the log takes nothing, how often it is looked whether sums can be written.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whose lines are counted together: one user's or unit's, or those of all users beyond [`USERS`].
type Whose = Option<Who>;

#[derive(Debug)]
struct Written {
    since: Instant,
    lines: u64,
    /// By what they are about.
    left_out: BTreeMap<&'static str, u64>,
}

/// Lines that were left out of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// On whose behalf they would have been; `None`: of many users.
    pub whose: Option<Who>,
    /// In which time.
    pub time: Duration,
    /// How many, by what they are about.
    pub lines: Vec<(&'static str, u64)>,
}

impl LeftOut {
    /// All of them.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.lines.iter().map(|(_, count)| count).sum()
    }
}

/// As in `995 more lines like these on behalf of user 7 in the last 10 s: 500 leased, 495 released`.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} more lines like these on behalf of ", self.count())?;
        match &self.whose {
            Some(who) => write!(f, "{who}")?,
            None => f.write_str("other users")?,
        }
        write!(f, " in the last {} s: ", self.time.as_secs().max(1))?;
        for (n, (about, count)) in self.lines.iter().enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            write!(f, "{comma}{count} {about}")?;
        }
        Ok(())
    }
}

/// Lines by whose they are.
#[derive(Debug, Default)]
pub(super) struct Lines {
    written: BTreeMap<Whose, Written>,
    users: usize,
    /// The log took nothing when there were sums to write.
    not_before: Option<Instant>,
}

fn is_user(whose: &Whose) -> bool {
    whose.as_ref().is_some_and(|who| !who.is_preferred())
}

impl Lines {
    /// Counts one more, about something; whether it is written. `flows`: the log takes lines.
    pub(super) fn has_a_line(
        &mut self,
        who: &Who,
        about: &'static str,
        most: u64,
        flows: bool,
        now: Instant,
    ) -> bool {
        let mut whose = Some(who.clone());
        if !self.written.contains_key(&whose) && is_user(&whose) {
            if self.users >= USERS {
                self.forget_past(flows, now);
            }
            if self.users >= USERS {
                whose = None;
            } else {
                self.users += 1;
            }
        }
        let fresh = || Written { since: now, lines: 0, left_out: BTreeMap::new() };
        let written = self.written.entry(whose).or_insert_with(fresh);
        let is_past = now.saturating_duration_since(written.since) >= LOG_SPAN;
        if flows && is_past && written.left_out.is_empty() {
            *written = fresh();
        }
        let writes = written.lines < most;
        if writes {
            written.lines += 1;
        } else {
            *written.left_out.entry(about).or_default() += 1;
        }
        writes
    }

    /// Those of which nothing was left out, and whose span is over.
    fn forget_past(&mut self, flows: bool, now: Instant) {
        let is_past = |written: &Written| now.saturating_duration_since(written.since) >= LOG_SPAN;
        if flows {
            self.written.retain(|_, written| !written.left_out.is_empty() || !is_past(written));
        }
        self.users = self.written.keys().filter(|whose| is_user(whose)).count();
    }

    /// When there is a sum to write.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let due = self.written.values().filter(|written| !written.left_out.is_empty());
        let due = due.filter_map(|written| written.since.checked_add(LOG_SPAN)).min()?;
        Some(self.not_before.map_or(due, |not_before| due.max(not_before)))
    }

    /// What was left out in spans that are over.
    pub(super) fn sums(&mut self, flows: bool, now: Instant) -> Vec<LeftOut> {
        self.not_before = if flows { None } else { now.checked_add(LOOK_AGAIN) };
        let mut sums = Vec::new();
        if !flows {
            return sums;
        }
        self.written.retain(|whose, written| {
            let time = now.saturating_duration_since(written.since);
            let over = time >= LOG_SPAN;
            if over && !written.left_out.is_empty() {
                let lines = std::mem::take(&mut written.left_out).into_iter().collect();
                sums.push(LeftOut { whose: whose.clone(), time, lines });
            }
            !over
        });
        self.forget_past(flows, now);
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BAD: Who = Who::User(7);
    const GOOD: Who = Who::User(8);

    #[test]
    fn a_flood_is_some_lines_and_a_sum_and_others_have_theirs() {
        let (mut lines, begin) = (Lines::default(), Instant::now());
        let about = |n: u32| if n.is_multiple_of(2) { "leased" } else { "released" };
        let written = (0..1000).filter(|n| lines.has_a_line(&BAD, about(*n), 5, true, begin)).count();
        assert_eq!(written, 5);
        assert!(lines.has_a_line(&GOOD, "leased", 5, true, begin));
        let due = lines.next_due().unwrap();
        assert_eq!(lines.sums(true, begin), []);
        let sums = lines.sums(true, due);
        let text = "995 more lines like these on behalf of user 7 in the last 10 s: 497 leased, 498 released";
        assert_eq!(sums.iter().map(ToString::to_string).collect::<Vec<_>>(), [text]);
        assert_eq!((lines.next_due(), lines.sums(true, due + LOG_SPAN)), (None, Vec::new()));
        assert!(lines.written.is_empty() && lines.has_a_line(&BAD, "leased", 5, true, due));
    }

    #[test]
    fn who_writes_seldom_is_never_cut_short() {
        let (mut lines, begin) = (Lines::default(), Instant::now());
        assert!((0..100).all(|n| lines.has_a_line(&BAD, "leased", 2, true, begin + LOG_SPAN / 2 * n)));
    }

    #[test]
    fn while_the_log_takes_nothing_a_flood_has_no_more_than_in_one_span() {
        let (mut lines, begin) = (Lines::default(), Instant::now());
        let hours = 0..3600;
        let written =
            hours.filter(|n| lines.has_a_line(&BAD, "leased", 5, false, begin + LOG_SPAN * *n)).count();
        assert_eq!(written, 5);
        assert!(lines.has_a_line(&GOOD, "leased", 5, false, begin + LOG_SPAN * 3600));
        let later = begin + LOG_SPAN * 3600;
        assert_eq!(lines.sums(false, later), []);
        assert_eq!(lines.next_due(), Some(later + LOOK_AGAIN), "nobody is woken without end");
        let sums = lines.sums(true, later + LOOK_AGAIN);
        assert_eq!(sums.iter().map(LeftOut::count).collect::<Vec<_>>(), [3595]);
        assert!(lines.has_a_line(&BAD, "leased", 5, true, later + LOOK_AGAIN));
    }

    #[test]
    fn two_thousand_uids_have_no_more_than_so_many_users_and_root_has_its_own() {
        let (mut lines, begin) = (Lines::default(), Instant::now());
        let flood = (0..5).flat_map(|n| (1..=2000).map(move |uid| (n, Who::User(uid))));
        let written = flood.filter(|(_, who)| lines.has_a_line(who, "leased", 3, true, begin)).count();
        assert_eq!(written, (USERS + 1) * 3);
        assert!(lines.has_a_line(&Who::User(0), "leased", 3, true, begin));
        let sums = lines.sums(true, begin + LOG_SPAN);
        assert_eq!(sums.len(), USERS + 1);
        assert!(sums[0].to_string().contains("on behalf of other users"), "{}", sums[0]);
        assert!(lines.written.is_empty() && lines.users == 0);
    }

    proptest! {
        #[test]
        fn every_line_is_written_or_in_a_sum_and_none_has_more_than_its_share(
            steps in proptest::collection::vec((0u32..4, 0u64..4000, any::<bool>()), 1..300)
        ) {
            let (mut lines, mut now) = (Lines::default(), Instant::now());
            let (mut made, mut written, mut summed) = ([0; 4], [0; 4], [0; 4]);
            let mut recent: Vec<(u32, Instant)> = Vec::new();
            let mut add = |sums: Vec<LeftOut>| for sum in sums {
                if let Some(Who::User(uid)) = sum.whose {
                    summed[uid as usize] += sum.count();
                }
            };
            for (uid, wait, flows) in steps {
                now += Duration::from_millis(wait);
                if lines.next_due().is_some_and(|due| due <= now) {
                    add(lines.sums(flows, now));
                }
                made[uid as usize] += 1;
                if lines.has_a_line(&Who::User(uid), "leased", 3, flows, now) {
                    written[uid as usize] += 1;
                    recent.push((uid, now));
                    let lately = recent.iter().filter(|(of, at)| *of == uid && now - *at < LOG_SPAN / 2).count();
                    prop_assert!(lately <= 6, "{} lines", lately);
                }
            }
            add(lines.sums(true, now + LOG_SPAN));
            for uid in 0..4 {
                prop_assert_eq!(made[uid], written[uid] + summed[uid]);
            }
        }
    }
}
