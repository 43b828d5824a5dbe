//! All lines that are followed.

use super::trend::{Crossing, Level, Outlook, Trend};
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// More lines are not followed.
pub const MOST_LINES: usize = 256;
/// More new ones do not wait to be.
pub const MOST_NEW: usize = 64;
/// What changes is looked at so often, and no oftener.
const SPAN: Duration = Duration::from_secs(1);

/// What is to be told of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum News {
    /// Nothing will be left of it soon.
    Ahead(Outlook),
    /// That is not so any more.
    Averted(Outlook),
}

/// The forecasts of all lines.
#[derive(Debug, Clone)]
pub struct Forecasts<K> {
    lines: HashMap<K, Trend>,
    /// Lines of which something was taken since they were looked at.
    touched: HashSet<K>,
    /// Lines that are not followed, and how much was taken of them of late.
    new: HashMap<K, u64>,
    due: Option<Instant>,
}

impl<K> Default for Forecasts<K> {
    fn default() -> Self {
        Self { lines: HashMap::new(), touched: HashSet::new(), new: HashMap::new(), due: None }
    }
}

impl<K: Clone + Eq + Hash + Ord> Forecasts<K> {
    /// Ports of a line were taken.
    pub fn took(&mut self, key: &K, ports: u64, now: Instant) {
        self.due = self.due.or_else(|| now.checked_add(SPAN));
        if self.lines.contains_key(key) {
            if !self.touched.contains(key) {
                self.touched.insert(key.clone());
            }
        } else if let Some(taken) = self.new.get_mut(key) {
            *taken = taken.saturating_add(ports);
        } else {
            if self.new.len() >= MOST_NEW {
                let least = self.new.iter().min_by_key(|(key, taken)| (**taken, *key));
                let Some(least) = least.map(|(key, _)| key.clone()) else { return };
                self.new.remove(&least);
            }
            self.new.insert(key.clone(), ports);
        }
    }

    /// When lines are to be looked at; `None` where nothing was taken.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.due
    }

    /// The lines that are to be looked at now, if it is time.
    pub fn take_due(&mut self, now: Instant) -> Vec<K> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        self.touched.drain().chain(self.new.drain().map(|(key, _)| key)).collect()
    }

    /// All lines, followed or new, to be looked at now.
    pub fn take_all(&mut self) -> Vec<K> {
        self.due = None;
        self.touched.clear();
        let new = self.new.drain().map(|(key, _)| key);
        self.lines.keys().cloned().chain(new).collect()
    }

    /// A line is so now; `None`: there is none such any more.
    pub fn see(&mut self, key: &K, level: Option<Level>, now: Instant) -> Option<News> {
        let gone = level.is_none();
        let level = level.unwrap_or_default();
        if !self.lines.contains_key(key) {
            if level.taken() == 0 || !self.make_room(&level) {
                return None;
            }
            self.new.remove(key);
            self.lines.insert(key.clone(), Trend::new(now));
        }
        let trend = self.lines.get_mut(key)?;
        let crossing = trend.see(level, now);
        let outlook = trend.outlook(now);
        // What was told is followed until it is averted.
        if !outlook.ahead && (gone || trend.is_over(now)) {
            self.lines.remove(key);
        }
        Some(match crossing? {
            Crossing::Ahead => News::Ahead(outlook),
            Crossing::Averted => News::Averted(outlook),
        })
    }

    /// A line that was so before anybody looked.
    pub fn resume(&mut self, key: K, level: Level, now: Instant) {
        if level.taken() > 0 && !self.lines.contains_key(&key) && self.make_room(&level) {
            self.lines.insert(key, Trend::resting(level, now));
        }
    }

    /// Whether there is room for a line of which so much is taken: the one of which least is, gives way.
    fn make_room(&mut self, level: &Level) -> bool {
        if self.lines.len() < MOST_LINES {
            return true;
        }
        let least = self
            .lines
            .iter()
            .min_by(|(a, x), (b, y)| x.level().share().total_cmp(&y.level().share()).then_with(|| a.cmp(b)));
        let Some((key, share)) = least.map(|(key, trend)| (key.clone(), trend.level().share())) else {
            return false;
        };
        if share >= level.share() {
            return false;
        }
        self.touched.remove(&key);
        self.lines.remove(&key);
        true
    }

    /// All lines of which something is taken, the one of which most is first.
    #[must_use]
    pub fn rows(&self, now: Instant) -> Vec<(K, Outlook)> {
        let lines = self.lines.iter().map(|(key, trend)| (key.clone(), trend.outlook(now)));
        let mut rows: Vec<(K, Outlook)> =
            lines.filter(|(_, outlook)| outlook.level.taken() > 0 || outlook.ahead).collect();
        rows.sort_by(|(a, x), (b, y)| y.level.share().total_cmp(&x.level.share()).then_with(|| a.cmp(b)));
        rows
    }
}
