//! Worlds of which the end is known, and what is foretold in them.

use super::trend::{Crossing, Trend};
use super::*;
use proptest::prelude::*;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

fn level(used: u64, cooling: u64, capacity: u64) -> Level {
    Level { used, cooling, capacity }
}

/// Ports that are leased at a rate, held for some seconds, and cool for some; who looks each second.
struct Churn {
    rate: u64,
    held: usize,
    cools: usize,
}

impl Churn {
    fn level(&self, second: usize, capacity: u64) -> Level {
        let used = self.rate * second.min(self.held) as u64;
        let cooling = self.rate * second.saturating_sub(self.held).min(self.cools) as u64;
        level(used.min(capacity), cooling.min(capacity - used.min(capacity)), capacity)
    }
}

#[test]
fn a_steady_climb_is_told_before_its_end_and_the_time_is_right() {
    let begin = Instant::now();
    // 10 a second, of 28,232: ends after 2,823 s.
    let (mut trend, capacity) = (Trend::new(begin), 28_232);
    let mut told = None;
    for second in 0..2823_u32 {
        let now = begin + SECOND * second;
        let crossing = trend.see(level(u64::from(second) * 10, 0, capacity), now);
        if second > 600 {
            let expected = 2823.2 - f64::from(second);
            let end = trend.outlook(now).exhausted_in.unwrap().as_secs_f64();
            assert!((end - expected).abs() < expected * 0.07 + 2.0, "{second}: {end} in place of {expected}");
        }
        if crossing.is_some() {
            assert_eq!((crossing, told), (Some(Crossing::Ahead), None), "once");
            told = Some(2823 - second);
        }
    }
    let told = told.unwrap();
    assert!((270..=340).contains(&told), "{told} s before");
}

#[test]
fn what_climbs_fast_is_told_before_its_end_too() {
    for seconds in [8_u64, 10, 28, 60, 120, 600] {
        let (begin, capacity) = (Instant::now(), 60_000);
        let mut trend = Trend::new(begin);
        let told = (0..seconds).find(|second| {
            let now = begin + SECOND * u32::try_from(*second).unwrap();
            trend.see(level(capacity * second / seconds, 0, capacity), now).is_some()
        });
        assert!(told.is_some_and(|told| told < seconds), "in {seconds} s: told at {told:?}");
    }
}

#[test]
fn a_burst_is_no_climb() {
    let begin = Instant::now();
    let mut trend = Trend::new(begin);
    trend.see(level(5000, 0, 28_232), begin);
    let then = trend.outlook(begin + SECOND * 5);
    let later = trend.outlook(begin + SECOND * 60);
    assert!(then.rate > later.rate && later.rate < 10.0, "{then:?} {later:?}");
    assert!(later.exhausted_in.is_none_or(|end| end > SECOND * 1800), "{later:?}");
    assert!(trend.outlook(begin + SECOND * 900).exhausted_in.is_none());
}

#[test]
fn what_falls_never_ends() {
    let begin = Instant::now();
    let mut trend = Trend::resting(level(20_000, 0, 28_232), begin);
    for second in 1..200_u32 {
        let now = begin + SECOND * second;
        assert_eq!(trend.see(level(u64::from(20_000 - second * 100), 0, 28_232), now), None);
        let outlook = trend.outlook(now);
        assert!(outlook.rate < 0.0 && outlook.exhausted_in.is_none(), "{outlook:?}");
    }
}

#[test]
fn what_cools_comes_free_and_is_no_end() {
    // 200 a second, held for a second, cooling for a minute: 12,200 at most.
    let churn = Churn { rate: 200, held: 1, cools: 60 };
    let begin = Instant::now();
    let mut trend = Trend::new(begin);
    for second in 0..1200_usize {
        let now = begin + SECOND * u32::try_from(second).unwrap();
        let crossing = trend.see(churn.level(second, 28_232), now);
        assert_eq!(crossing, None, "at {second} s: {:?}", trend.outlook(now));
        let outlook = trend.outlook(now);
        // Extended to a straight line it would end within 140 s; it must not once the leased ones have settled.
        if second > 60 {
            assert!(outlook.exhausted_in.is_none_or(|end| end > SECOND * 3600), "{second}: {outlook:?}");
        }
    }
}

#[test]
fn a_churn_that_needs_more_than_there_is_is_told() {
    let churn = Churn { rate: 600, held: 5, cools: 60 };
    let begin = Instant::now();
    let mut trend = Trend::new(begin);
    let full = (0..).find(|second| churn.level(*second, 28_232).free() == 0).unwrap();
    let told = (0..full).find(|second| {
        let now = begin + SECOND * u32::try_from(*second).unwrap();
        trend.see(churn.level(*second, 28_232), now).is_some()
    });
    assert!(told.is_some_and(|told| told + 10 < full), "{told:?} of {full}");
}

/// What is told in an hour of teeth of a minute, of 20,000 ports.
fn told_of_teeth(lowest: u64, highest: u64) -> Vec<Crossing> {
    let begin = Instant::now();
    let mut trend = Trend::new(begin);
    let level_at = |second: u32| level(lowest + (highest - lowest) * u64::from(second % 60) / 60, 0, 20_000);
    (0..3600_u32).filter_map(|second| trend.see(level_at(second), begin + SECOND * second)).collect()
}

#[test]
fn small_teeth_are_no_climb_and_nor_is_their_first_jump() {
    assert_eq!(told_of_teeth(12_000, 12_300), []);
}

#[test]
fn large_teeth_that_come_and_go_are_told_less_and_less_often() {
    let told = told_of_teeth(12_000, 18_000);
    let ahead = told.iter().filter(|crossing| **crossing == Crossing::Ahead).count();
    assert!((1..=7).contains(&ahead), "{told:?}");
}

#[test]
fn nearly_full_is_told_without_any_rate_and_averted_where_there_is_room() {
    let begin = Instant::now();
    let mut trend = Trend::resting(level(960, 0, 1000), begin);
    let at = |second: u32| begin + SECOND * second;
    assert_eq!(trend.see(level(960, 0, 1000), at(1)), Some(Crossing::Ahead));
    assert_eq!(trend.see(level(920, 0, 1000), at(200)), None, "not far enough");
    assert_eq!(trend.see(level(960, 0, 1000), at(210)), None, "it was told");
    assert_eq!(trend.see(level(300, 0, 1000), at(900)), Some(Crossing::Averted));
    assert_eq!(trend.see(level(960, 0, 1000), at(901)), Some(Crossing::Ahead));
    assert_eq!(trend.see(level(100, 0, 1000), at(902)), None, "too soon to say");
    assert_eq!(trend.see(level(100, 0, 1000), at(999)), Some(Crossing::Averted));
    assert_eq!(trend.see(level(960, 0, 1000), at(1000)), None, "and too soon to say that it came back");
    assert!(trend.outlook(at(1000)).ahead, "but it is so");
    assert_eq!(trend.see(level(100, 0, 1000), at(1100)), None);
    assert_eq!(trend.see(level(960, 0, 1000), at(1200)), Some(Crossing::Ahead));
}

#[test]
fn nothing_is_foretold_of_what_has_no_ports() {
    let begin = Instant::now();
    let mut trend = Trend::new(begin);
    assert_eq!(trend.see(level(0, 0, 0), begin), None);
    assert_eq!(trend.outlook(begin).exhausted_in, None);
    // Its addresses have gone: what is leased is leased.
    assert_eq!(trend.see(level(10, 0, 0), begin + SECOND), None);
}

#[test]
fn only_so_many_lines_are_followed_and_they_are_the_busiest() {
    let (begin, mut forecasts) = (Instant::now(), Forecasts::<u64>::default());
    for n in 0..100_000_u64 {
        let now = begin + SECOND / 1000 * u32::try_from(n).unwrap();
        forecasts.took(&n, 1 + n % 7, now);
        for key in forecasts.take_due(now) {
            // The three that matter take of everybody's, and are seen among all the others.
            forecasts.see(&key, Some(level(1 + key % 7, 0, 1000)), now);
        }
        if n % 100 == 0 {
            for busy in 1_000_000..1_000_003 {
                forecasts.took(&busy, 64, now);
            }
        }
        let mut all = forecasts.take_due(now);
        all.sort_unstable();
        assert!(all.len() <= MOST_LINES + MOST_NEW);
        for key in all {
            let used = if key >= 1_000_000 { 500 } else { 1 + key % 7 };
            forecasts.see(&key, Some(level(used, 0, 1000)), now);
        }
    }
    let now = begin + SECOND * 101;
    for key in forecasts.take_all() {
        let used = if key >= 1_000_000 { 500 } else { 1 + key % 7 };
        forecasts.see(&key, Some(level(used, 0, 1000)), now);
    }
    let rows = forecasts.rows(now);
    assert_eq!(rows.len(), MOST_LINES);
    let first: Vec<u64> = rows.iter().take(3).map(|(key, _)| *key).collect();
    assert_eq!(first, [1_000_000, 1_000_001, 1_000_002]);
}

#[test]
fn a_line_that_is_gone_or_empty_for_long_is_forgotten() {
    let (begin, mut forecasts) = (Instant::now(), Forecasts::<u8>::default());
    for key in [1, 2] {
        forecasts.took(&key, 400, begin);
        assert_eq!(forecasts.see(&key, Some(level(400, 0, 1000)), begin), None);
    }
    let then = begin + SECOND * 60;
    forecasts.see(&1, None, then);
    forecasts.see(&2, Some(level(0, 0, 1000)), then);
    assert!(forecasts.rows(then).is_empty(), "nothing is taken");
    assert_eq!(forecasts.take_all(), [2]);
    forecasts.see(&2, Some(level(0, 0, 1000)), begin + SECOND * 900);
    assert_eq!(forecasts.take_all(), [0_u8; 0]);
}

#[test]
fn it_is_due_only_after_something_was_taken() {
    let (begin, mut forecasts) = (Instant::now(), Forecasts::<u8>::default());
    assert_eq!(forecasts.next_due(), None);
    forecasts.took(&1, 1, begin);
    let due = forecasts.next_due().unwrap();
    assert!(forecasts.take_due(begin).is_empty());
    assert_eq!(forecasts.take_due(due), [1]);
    assert_eq!((forecasts.next_due(), forecasts.take_due(due + SECOND)), (None, Vec::new()));
}

/// What is seen of a line: how long after the last time, and what.
fn sights() -> impl Strategy<Value = Vec<(u64, Level)>> {
    let one = (0_u64..120_000, 0_u64..40_000, 0_u64..40_000, 0_u64..70_000);
    prop::collection::vec(
        one.prop_map(|(ms, used, cooling, capacity)| (ms, level(used, cooling, capacity))),
        1..60,
    )
}

proptest! {
    #[test]
    fn whatever_is_seen_it_is_told_in_turns_and_every_number_is_one(sights in sights()) {
        let (mut now, mut last) = (Instant::now(), None);
        let mut trend = Trend::new(now);
        for (ms, seen) in sights {
            now += Duration::from_millis(ms);
            if let Some(crossing) = trend.see(seen, now) {
                prop_assert_ne!(last.unwrap_or(Crossing::Averted), crossing, "twice the same");
                last = Some(crossing);
            }
            let outlook = trend.outlook(now);
            prop_assert!(outlook.rate.is_finite());
            prop_assert!(outlook.ahead || last != Some(Crossing::Ahead));
            prop_assert_eq!(outlook.level, seen);
            if seen.capacity > 0 && seen.free() == 0 {
                prop_assert_eq!(outlook.exhausted_in, Some(Duration::ZERO));
            }
            if let Some(end) = outlook.exhausted_in {
                // Nothing is left no sooner than at the rate of a second.
                prop_assert!(end > Duration::ZERO || seen.free() == 0);
            }
        }
    }

    #[test]
    fn to_look_oftener_changes_nothing(sights in sights(), looks in 1_u32..20) {
        let mut now = Instant::now();
        let (mut seldom, mut often) = (Trend::new(now), Trend::new(now));
        for (ms, seen) in sights {
            let step = Duration::from_millis(ms) / looks;
            let before = often.outlook(now).level;
            for _ in 1..looks {
                now += step;
                often.see(before, now);
            }
            now += step;
            seldom.see(seen, now);
            often.see(seen, now);
            let (a, b) = (seldom.outlook(now), often.outlook(now));
            prop_assert!((a.rate - b.rate).abs() < 1e-6 * (1.0 + a.rate.abs()), "{a:?} {b:?}");
        }
    }

    #[test]
    fn what_rests_is_never_told_to_end_below_the_last_twentieth(
        used in 0_u64..900, cooling in 0_u64..50, seconds in 300_u32..5000,
    ) {
        let begin = Instant::now();
        let mut trend = Trend::resting(level(used, cooling, 1000), begin);
        for n in 1..20 {
            prop_assert_eq!(trend.see(level(used, cooling, 1000), begin + SECOND * seconds * n), None);
        }
        prop_assert_eq!(trend.outlook(begin + SECOND * seconds * 20).exhausted_in, None);
    }

    /// Against the world itself: leases at a rate, held, cooling. Below half of what there is nothing is ever told; what
    /// ends is told before.
    #[test]
    fn a_churn_is_told_exactly_where_it_matters(
        rate in 1_u64..2000, held in 0_usize..900, capacity in 2000_u64..200_000,
    ) {
        let churn = Churn { rate, held, cools: 60 };
        let most = rate * (held as u64 + 60);
        let begin = Instant::now();
        let mut trend = Trend::new(begin);
        let last = held + 400;
        let mut told = None;
        for second in 0..last {
            let now = begin + SECOND * u32::try_from(second).unwrap();
            let seen = churn.level(second, capacity);
            if seen.free() == 0 {
                prop_assert!(told.is_some() || second < 10, "nothing was told until {second} s");
                return Ok(());
            }
            if trend.see(seen, now) == Some(Crossing::Ahead) {
                told = told.or(Some(second));
            }
        }
        if most < capacity / 2 {
            prop_assert_eq!(told, None);
        }
        let now = begin + SECOND * u32::try_from(last + 600).unwrap();
        let settled = trend.outlook(now);
        prop_assert!(settled.exhausted_in.is_none(), "{settled:?}");
    }
}
