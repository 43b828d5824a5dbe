//! One line: what is taken, and how that changes.
//!
//! Its rates are how far it is now from what it was on the average of some seconds, and of a minute. A burst moves the
//! first, a sawtooth too; only what goes on moves both, and the later of the two ends is the forecast. What falls is
//! forgotten in the same seconds.
//!
//! Ports that cool come free by themselves after the kernel's TIME_WAIT. So what cools grows for no longer than that,
//! whatever its rate is, and what is leased grows on.

use std::time::{Duration, Instant};

/// An end that comes within this time is told.
pub const AHEAD: Duration = Duration::from_secs(300);
/// What was told is averted when the end is so many times as far away.
const AVERTED: u32 = 2;
/// What was told is not averted before this.
const PAUSE: Duration = Duration::from_secs(60);
/// What comes and goes is told again after a pause that doubles up to this, and after it as if for the first time.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// How long a port cools, at most, that nobody uses: TCP_TIMEWAIT_LEN of the kernel.
const COOLS: f64 = 60.0;
/// What is to be told must have gone on so long: a burst looks like a climb when it comes.
const GOES_ON: Duration = Duration::from_secs(5);
/// An end that comes sooner than this is told at once.
const AT_ONCE: Duration = Duration::from_secs(10);
/// The averages, in seconds.
const FAST: f64 = 10.0;
const SLOW: f64 = 60.0;
/// Slower than a port in an hour is not at all.
const LEAST_RATE: f64 = 1.0 / 3600.0;

/// How many ports of a line are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Level {
    /// Leased.
    pub used: u64,
    /// Given back, and not known to be free.
    pub cooling: u64,
    /// All that there are.
    pub capacity: u64,
}

impl Level {
    /// Leased or cooling.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.used.saturating_add(self.cooling)
    }

    /// The others.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.taken())
    }

    /// Which part is taken.
    pub(super) fn share(&self) -> f64 {
        if self.capacity == 0 { 0.0 } else { float(self.taken()) / float(self.capacity) }
    }
}

/// How a line stands, and what comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlook {
    /// What is taken.
    pub level: Level,
    /// By how many ports a second that grows; below zero where it falls.
    pub rate: f64,
    /// When nothing is left, if it goes on so; `None`: never.
    pub exhausted_in: Option<Duration>,
    /// It is near, and not averted; it is told unless that came and went of late.
    pub ahead: bool,
}

/// What a line was, on the average of a time.
#[derive(Debug, Clone, Copy)]
struct Average {
    seconds: f64,
    used: f64,
    cooling: f64,
}

/// By how many ports a second each grows.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rates {
    used: f64,
    cooling: f64,
}

/// Whether something is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crossing {
    Ahead,
    Averted,
}

/// One line.
#[derive(Debug, Clone)]
pub(super) struct Trend {
    level: Level,
    at: Instant,
    averages: [Average; 2],
    /// Since when it seems that the end is near, and what was taken then.
    seems: Option<(Instant, u64)>,
    /// Since when the end is near, and whether that was told.
    near: Option<(Instant, bool)>,
    /// When it was told last, and how long it is not told again.
    told: Option<(Instant, Duration)>,
}

/// Counts are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "counts of ports are far below 2^52")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

impl Average {
    /// The level was the same for some seconds.
    fn pass(&mut self, level: &Level, seconds: f64) {
        let left = (-seconds / self.seconds).exp();
        self.used = float(level.used) + (self.used - float(level.used)) * left;
        self.cooling = float(level.cooling) + (self.cooling - float(level.cooling)) * left;
    }

    fn rates(&self, level: &Level) -> Rates {
        Rates {
            used: (float(level.used) - self.used) / self.seconds,
            cooling: (float(level.cooling) - self.cooling) / self.seconds,
        }
    }
}

impl Rates {
    fn sum(self) -> f64 {
        self.used + self.cooling
    }

    /// In how many seconds nothing is left. What cools grows for a minute at most, or falls until nothing of it is left;
    /// after that only what is leased counts.
    fn end(self, level: &Level) -> Option<f64> {
        let free = float(level.free());
        if free <= 0.0 {
            return Some(0.0);
        }
        let turn = if self.cooling < 0.0 { float(level.cooling) / -self.cooling } else { COOLS };
        let soon = free / self.sum();
        if self.sum() > LEAST_RATE && soon <= turn {
            return Some(soon);
        }
        let left = free - self.sum() * turn;
        (self.used > LEAST_RATE).then(|| turn + left / self.used)
    }
}

impl Trend {
    /// A line of which nothing was taken before.
    pub(super) fn new(now: Instant) -> Self {
        let average = |seconds| Average { seconds, used: 0.0, cooling: 0.0 };
        Self {
            level: Level::default(),
            at: now,
            averages: [average(FAST), average(SLOW)],
            seems: None,
            near: None,
            told: None,
        }
    }

    /// A line that was as it is for long.
    pub(super) fn resting(level: Level, now: Instant) -> Self {
        let (used, cooling) = (float(level.used), float(level.cooling));
        let average = |seconds| Average { seconds, used, cooling };
        Self { level, at: now, averages: [average(FAST), average(SLOW)], seems: None, near: None, told: None }
    }

    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// Nothing is taken, nor was of late.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let average = |average: Average| average.used + average.cooling;
        self.level.taken() == 0 && self.averages_at(now).map(average).iter().all(|average| *average < 1.0)
    }

    fn averages_at(&self, now: Instant) -> [Average; 2] {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        let mut averages = self.averages;
        averages.iter_mut().for_each(|average| average.pass(&self.level, seconds));
        averages
    }

    /// Until now it was as it was, and now it is so.
    pub(super) fn see(&mut self, level: Level, now: Instant) -> Option<Crossing> {
        self.averages = self.averages_at(now);
        (self.at, self.level) = (self.at.max(now), level);
        self.cross(now)
    }

    /// How it stands now, if nothing has changed since it was seen.
    pub(super) fn outlook(&self, now: Instant) -> Outlook {
        let level = self.level;
        let end = |rates: &Rates| rates.end(&level).unwrap_or(f64::INFINITY);
        let [fast, slow] = self.averages_at(now).map(|average| average.rates(&level));
        let rates = if end(&slow) >= end(&fast) { slow } else { fast };
        let exhausted_in = rates.end(&level).and_then(|end| Duration::try_from_secs_f64(end).ok());
        let exhausted_in = exhausted_in.filter(|_| level.capacity > 0);
        Outlook { level, rate: rates.sum(), exhausted_in, ahead: self.near.is_some() }
    }

    /// The end is near where it comes soon and half is taken already, for at the begin everything grows; or where a
    /// twentieth is left, whatever the rate.
    fn cross(&mut self, now: Instant) -> Option<Crossing> {
        let Outlook { level, exhausted_in, .. } = self.outlook(now);
        let (taken, capacity) = (level.taken(), level.capacity);
        let within = |time: Duration| exhausted_in.is_some_and(|end| end <= time);
        match self.near {
            None => {
                let near = within(AHEAD) && taken >= capacity.div_ceil(2);
                let goes_on = near && self.goes_on(now);
                let full = level.free() <= capacity / 20;
                if capacity == 0 || !(goes_on || near && within(AT_ONCE) || full) {
                    return None;
                }
                self.seems = None;
                let tells = self.tells(now);
                self.near = Some((now, tells));
                tells.then_some(Crossing::Ahead)
            }
            Some((since, was_told)) => {
                let far = !within(AHEAD * AVERTED) || taken < capacity / 8 * 3;
                let room = level.free() > capacity / 10 || taken == 0;
                let over = (far && room) || capacity == 0;
                if !over || now.saturating_duration_since(since) < PAUSE {
                    return None;
                }
                self.near = None;
                was_told.then_some(Crossing::Averted)
            }
        }
    }

    /// Whether it is not too soon to tell it again.
    fn tells(&mut self, now: Instant) -> bool {
        let next = match self.told {
            Some((told, pause)) => {
                let since = now.saturating_duration_since(told);
                if since < pause {
                    return false;
                }
                if since < LONGEST_PAUSE { (pause * 2).min(LONGEST_PAUSE) } else { PAUSE }
            }
            None => PAUSE,
        };
        self.told = Some((now, next));
        true
    }

    /// Whether it has grown as fast as it seems, for long enough.
    fn goes_on(&mut self, now: Instant) -> bool {
        let taken = self.level.taken();
        let (since, before) = *self.seems.get_or_insert((now, taken));
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        if seconds < GOES_ON.as_secs_f64() {
            return false;
        }
        let grown = float(taken.saturating_sub(before)) / seconds;
        let goes_on = float(self.level.free()) <= grown * AHEAD.as_secs_f64();
        if !goes_on {
            self.seems = Some((now, taken));
        }
        goes_on
    }
}
