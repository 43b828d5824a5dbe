//! When to start the service of a listener that nobody holds: on the first connection, and again after a back-off
//! for as long as connections wait.
//!
//! Pure: what happened, `now`, and whether anything waits in the sockets' queues in; a [`Step`] out. What always
//! holds: while nobody holds the listener, either its sockets are watched or there is a time at which it is looked
//! at again, so no listener is ever dead; and two starts are never closer than [`SPACING`].
//!
//! It must not count connections: a million of them that wait are one start.

use super::back_off;
use std::time::{Duration, Instant};

/// How close two starts of one service may be. A service that takes one connection and ends at once is started for
/// the next one no faster than this, so that one which dies of each connection takes no processor for itself.
const SPACING: Duration = Duration::from_millis(200);

/// A holder that lived for so long has done its work: its end is no failure, whatever waits by then.
const LIFE: Duration = Duration::from_secs(10);

/// How long sockets are left alone that woke us for nothing (an error that is pending on a datagram socket).
const FALSE_ALARM: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until something happens or [`Activation::next_due`].
    Rest,
    /// Watch the sockets: [`Activation::woken`] is to be told of what comes, and of what is there already.
    Watch,
    /// Start the service.
    Start(Attempt),
}

/// Which start it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// Nothing is known against it.
    First,
    /// The one before failed, so systemd may have given the service up by its own limit.
    Again,
}

/// Why a start counts as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nobody took the listener in the time that there was.
    NotTaken,
    /// Its holder was gone soon, and connections still waited.
    Died,
}

/// What to do, and what was found out on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// What is to be done.
    pub step: Step,
    /// The last start has just turned out to be a failure.
    pub failure: Option<Failure>,
}

impl From<Step> for Outcome {
    fn from(step: Step) -> Self {
        Self { step, failure: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing waits; the sockets are watched.
    Waiting,
    /// It is not to be started before this.
    Pausing { until: Instant },
    /// It was started, and has until then to take the listener.
    Starting { until: Instant },
    /// Somebody holds the listener.
    Held { since: Instant },
}

/// The life of one listener's service, as far as the broker sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    phase: Phase,
    /// Starts in a row that failed.
    failures: u32,
    /// Whether a start is not counted yet. What systemd starts by itself (`Restart=`) is no start of ours.
    uncounted: bool,
    /// The next start is not to be before this.
    earliest: Option<Instant>,
}

impl Default for Activation {
    fn default() -> Self {
        Self { phase: Phase::Waiting, failures: 0, uncounted: false, earliest: None }
    }
}

impl Activation {
    /// Whether its sockets are to be watched.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.phase == Phase::Waiting
    }

    /// Whether somebody is known to hold the listener.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Held { .. })
    }

    /// How many starts in a row have failed.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When to call [`Activation::due`].
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Pausing { until } | Phase::Starting { until } => Some(until),
            // Until it has shown that it lives.
            Phase::Held { since } if self.failures > 0 => Some(since + LIFE),
            Phase::Waiting | Phase::Held { .. } => None,
        }
    }

    /// A watched socket has something to say; `queued`: a connection or datagram waits.
    pub fn woken(&mut self, queued: bool, now: Instant) -> Outcome {
        match self.phase {
            Phase::Waiting if queued => self.start_or_pause(now),
            Phase::Waiting => {
                self.phase = Phase::Pausing { until: now + FALSE_ALARM };
                Step::Rest.into()
            }
            // One start is enough for however many come.
            Phase::Pausing { .. } | Phase::Starting { .. } | Phase::Held { .. } => Step::Rest.into(),
        }
    }

    /// Somebody holds the listener from now on.
    pub fn held(&mut self, now: Instant) {
        if !self.is_held() {
            self.phase = Phase::Held { since: now };
        }
    }

    /// Nobody holds it any more; `queued`: connections or datagrams still wait.
    pub fn released(&mut self, queued: bool, now: Instant) -> Outcome {
        let Phase::Held { since } = self.phase else { return Step::Rest.into() };
        let soon = now.saturating_duration_since(since) < LIFE;
        if soon && queued {
            return self.died(now);
        }
        // It did what was there to do, and ended: idle, or stopped by somebody.
        self.failures = 0;
        self.uncounted = false;
        self.phase = Phase::Waiting;
        Step::Watch.into()
    }

    /// The time of [`Activation::next_due`] has come.
    pub fn due(&mut self, queued: bool, now: Instant) -> Outcome {
        let (until, starting) = match self.phase {
            Phase::Pausing { until } => (until, false),
            Phase::Starting { until } => (until, true),
            Phase::Held { since } => {
                if now.saturating_duration_since(since) >= LIFE {
                    self.failures = 0;
                }
                return Step::Rest.into();
            }
            Phase::Waiting => return Step::Rest.into(),
        };
        if now < until {
            return Step::Rest.into();
        }
        let failure = starting.then_some(Failure::NotTaken);
        if starting {
            self.failed();
        }
        if queued {
            return Outcome { failure, ..self.start_or_pause(now) };
        }
        self.phase = Phase::Waiting;
        Outcome { step: Step::Watch, failure }
    }

    /// Each start of ours is counted once, however often systemd itself starts the service after it; so is the
    /// first death of a service that somebody else started.
    fn died(&mut self, now: Instant) -> Outcome {
        let counts = self.uncounted || self.failures == 0;
        if counts {
            self.failed();
        }
        let pending = self.earliest.filter(|earliest| !counts && *earliest > now);
        let until = pending.unwrap_or(now + back_off(self.failures));
        self.earliest = Some(until);
        self.phase = Phase::Pausing { until };
        Outcome { step: Step::Rest, failure: counts.then_some(Failure::Died) }
    }

    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.uncounted = false;
    }

    fn start_or_pause(&mut self, now: Instant) -> Outcome {
        if let Some(until) = self.earliest.filter(|earliest| *earliest > now) {
            self.phase = Phase::Pausing { until };
            return Step::Rest.into();
        }
        self.earliest = Some(now + SPACING);
        self.uncounted = true;
        // A service that is slow is started again meanwhile, which does nothing to it.
        self.phase = Phase::Starting { until: now + back_off(self.failures.saturating_add(1)) };
        Step::Start(if self.failures == 0 { Attempt::First } else { Attempt::Again }).into()
    }
}

#[cfg(test)]
#[path = "activation_tests.rs"]
mod tests;
