//! What was said in the log last, for whoever begins to look on now: a fixed number of lines, the oldest go.
//!
//! What is not said in the log is not here either: a caller that floods it is kept from that before.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// So many are kept: some 40 kB.
const KEPT: usize = 200;
/// A message that is longer is cut: others choose some of the words.
const LONGEST: usize = 500;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// From 1 on, in the order in which they happened.
    pub number: u64,
    /// When.
    pub time: SystemTime,
    /// `error`, `warning` or `info`.
    pub level: &'static str,
    /// The log's word for it, such as `hand-over`; empty where it has none.
    pub event: String,
    /// In words.
    pub message: String,
}

/// The last of them. Clones are the same.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    last: u64,
    happenings: VecDeque<Happening>,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("History")
    }
}

impl History {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more.
    pub fn add(&self, time: SystemTime, level: &'static str, event: String, mut message: String) {
        if message.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|at| message.is_char_boundary(*at));
            message.truncate(end.unwrap_or_default());
        }
        let mut kept = self.kept();
        kept.last += 1;
        let number = kept.last;
        if kept.happenings.len() >= KEPT {
            kept.happenings.pop_front();
        }
        kept.happenings.push_back(Happening { number, time, level, event, message });
    }

    /// The last of those with a number above `after`, at most so many of them, by number.
    #[must_use]
    pub fn after(&self, after: u64, most: usize) -> Vec<Happening> {
        let kept = self.kept();
        let new = kept.happenings.iter().rev().take_while(|happening| happening.number > after).count();
        kept.happenings.iter().skip(kept.happenings.len() - new.min(most)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn numbers(history: &History, after: u64, most: usize) -> Vec<u64> {
        history.after(after, most).into_iter().map(|happening| happening.number).collect()
    }

    #[test]
    fn the_last_ones_are_kept_and_told_once() {
        let history = History::default();
        assert!(numbers(&history, 0, 9).is_empty());
        for n in 1..=KEPT + 5 {
            history.clone().add(UNIX_EPOCH, "info", "leased".into(), n.to_string());
        }
        let all = numbers(&history, 0, usize::MAX);
        assert_eq!((all.len(), all[0], all[KEPT - 1]), (KEPT, 6, 205));
        assert_eq!(numbers(&history, 203, 9), [204, 205]);
        assert_eq!(numbers(&history, 0, 2), [204, 205]);
        assert!(numbers(&history, 205, 9).is_empty() && numbers(&history, u64::MAX, 9).is_empty());
    }

    #[test]
    fn long_messages_are_cut_between_letters() {
        let history = History::default();
        history.add(UNIX_EPOCH, "info", String::new(), "é".repeat(LONGEST));
        assert_eq!(history.after(0, 1)[0].message, "é".repeat(LONGEST / 2));
    }
}
