//! The lives of the daemon, one after the other, and when the keeper's own ends: events in, acts out.
//!
//! - There is one daemon at a time: after the death of one the next starts, after a pause and for ever.
//! - What a signal asks for is remembered until it can be done: a daemon that is not READY yet is not told to stop or to
//!   reload, since it would die of that as of any signal.
//! - The keeper ends when it was told to, with the daemon's status; or with a configuration that has faults and
//!   nothing in the store to lose.

use std::time::{Duration, Instant};

/// Between two lives. Long enough that a daemon which dies at once takes no processor for itself, short enough that
/// nobody notices: connections and calls wait meanwhile. `RestartSec=` of portbroker.service.
const PAUSE: Duration = Duration::from_millis(100);
/// A daemon that is not READY by then hangs. Three times what portbroker.service has: no boot waits for this one.
const START: Duration = Duration::from_secs(30);
/// How long a daemon may take to stop: `TimeoutStopSec=` of portbroker.service.
const STOP: Duration = Duration::from_secs(10);
/// Exit status of a daemon whose configuration has faults (sysexits.h, EX_CONFIG).
const CONFIGURATION: i32 = 78;

/// How a daemon died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Start a daemon.
    Start,
    /// Tell it to reload.
    Reload,
    /// Tell it to stop for good.
    Stop,
    /// Kill it.
    Kill,
    /// Become the program that is installed now.
    Renew,
    /// End, with this status.
    End(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No daemon until then.
    Resting(Instant),
    /// A daemon that is not READY, and hangs after that.
    Starting(Instant),
    /// A daemon that is READY.
    Running,
    /// A daemon that was told to stop for good.
    Stopping,
    /// Nothing any more.
    Over(u8),
}

/// Where the daemon is in its life, and what has been asked for.
#[derive(Debug)]
pub(super) struct Life {
    phase: Phase,
    killed: bool,
    /// To stop for good, and by when.
    stop: Option<Instant>,
    reload: bool,
    renew: bool,
}

impl Life {
    /// Before the first daemon, which is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { phase: Phase::Resting(now), killed: false, stop: None, reload: false, renew: false }
    }

    /// Of a keeper that has become another program while its daemon ran.
    pub(super) fn running(now: Instant) -> Self {
        Self { phase: Phase::Running, ..Self::new(now) }
    }

    /// The daemon is READY, perhaps once more.
    pub(super) fn ready(&mut self) {
        if matches!(self.phase, Phase::Starting(_)) {
            self.phase = Phase::Running;
        }
    }

    /// SIGTERM or SIGINT.
    pub(super) fn asked_to_stop(&mut self, now: Instant) {
        self.stop.get_or_insert(now + STOP);
    }

    /// SIGHUP.
    pub(super) fn asked_to_reload(&mut self) {
        self.reload = true;
    }

    /// SIGUSR2.
    pub(super) fn asked_to_renew(&mut self) {
        self.renew = true;
    }

    /// The daemon has died, and the store has something for the next one or not.
    pub(super) fn died(&mut self, how: Death, is_store_empty: bool, now: Instant) {
        let status = match how {
            Death::Exited(status) => u8::try_from(status).unwrap_or(u8::MAX),
            // As shells say it.
            Death::Killed(signal) => u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX),
        };
        self.phase = match how {
            _ if self.phase == Phase::Stopping => Phase::Over(status),
            Death::Exited(CONFIGURATION) if is_store_empty => Phase::Over(status),
            _ => Phase::Resting(now + PAUSE),
        };
    }

    /// There is no daemon, for it could not be made.
    pub(super) fn not_started(&mut self, now: Instant) {
        self.phase = Phase::Resting(now + PAUSE);
    }

    /// The next thing to do, which counts as done from here on; none for now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Act> {
        let is_late = self.stop.is_some_and(|by| now >= by);
        match self.phase {
            Phase::Over(status) => Some(Act::End(status)),
            Phase::Resting(_) if self.stop.is_some() => {
                self.phase = Phase::Over(0);
                Some(Act::End(0))
            }
            // What was asked for before is done before: the other program would not know of it.
            Phase::Running if self.stop.is_some() => {
                self.phase = Phase::Stopping;
                Some(Act::Stop)
            }
            Phase::Running if std::mem::take(&mut self.reload) => Some(Act::Reload),
            Phase::Resting(_) | Phase::Running if std::mem::take(&mut self.renew) => Some(Act::Renew),
            Phase::Resting(until) if now >= until => {
                self.phase = Phase::Starting(now + START);
                self.killed = false;
                // It reads what there is now.
                self.reload = false;
                Some(Act::Start)
            }
            Phase::Starting(by) if now >= by || is_late => self.kill(),
            Phase::Stopping if is_late => self.kill(),
            _ => None,
        }
    }

    fn kill(&mut self) -> Option<Act> {
        (!std::mem::replace(&mut self.killed, true)).then_some(Act::Kill)
    }

    /// When there is something to do without an event, if ever.
    pub(super) fn due(&self) -> Option<Instant> {
        let of_phase = match self.phase {
            Phase::Resting(until) => Some(until),
            Phase::Starting(by) if !self.killed => Some(by),
            _ => None,
        };
        let of_stop = self.stop.filter(|_| !self.killed);
        of_phase.into_iter().chain(of_stop).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn after(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_daemon_that_dies_is_followed_by_the_next_for_ever() {
        let now = Instant::now();
        let mut life = Life::new(now);
        for round in 0..1000 {
            let now = after(now, 200 * round);
            assert_eq!(life.next(now), Some(Act::Start));
            assert_eq!(life.next(now), None);
            if round % 2 == 0 {
                life.ready();
            }
            life.died(if round % 3 == 0 { Death::Killed(9) } else { Death::Exited(1) }, true, now);
            assert_eq!(life.next(after(now, 99)), None);
            assert_eq!(life.due(), Some(after(now, 100)));
        }
    }

    #[test]
    fn faults_of_the_configuration_end_it_only_where_there_is_nothing_to_lose() {
        let now = Instant::now();
        for (empty, expected) in [(true, Some(Act::End(78))), (false, None)] {
            let mut life = Life::new(now);
            assert_eq!(life.next(now), Some(Act::Start));
            life.died(Death::Exited(78), empty, now);
            assert_eq!(life.next(now), expected);
        }
    }

    #[test]
    fn who_is_told_to_stop_ends_with_the_daemons_status() {
        let now = Instant::now();
        for (death, status) in [(Death::Exited(0), 0), (Death::Exited(7), 7), (Death::Killed(9), 137)] {
            let mut life = Life::new(now);
            assert_eq!(life.next(now), Some(Act::Start));
            life.asked_to_stop(now);
            assert_eq!(life.next(now), None, "it could not say that it is for good");
            life.ready();
            assert_eq!(life.next(now), Some(Act::Stop));
            assert_eq!(life.next(after(now, 9_999)), None);
            assert_eq!(life.due(), Some(after(now, 10_000)));
            assert_eq!(life.next(after(now, 10_000)), Some(Act::Kill));
            assert_eq!((life.next(after(now, 20_000)), life.due()), (None, None));
            life.died(death, false, now);
            assert_eq!(life.next(now), Some(Act::End(status)));
        }
    }

    #[test]
    fn between_two_lives_nothing_has_to_be_stopped() {
        let now = Instant::now();
        let mut life = Life::new(now);
        life.asked_to_stop(now);
        assert_eq!(life.next(now), Some(Act::End(0)));
    }

    #[test]
    fn a_daemon_that_is_never_ready_is_killed_once_and_followed() {
        let now = Instant::now();
        let mut life = Life::new(now);
        assert_eq!(life.next(now), Some(Act::Start));
        assert_eq!(life.due(), Some(after(now, 30_000)));
        assert_eq!(life.next(after(now, 30_000)), Some(Act::Kill));
        assert_eq!((life.next(after(now, 30_001)), life.due()), (None, None));
        life.died(Death::Killed(9), false, after(now, 30_002));
        assert_eq!(life.next(after(now, 30_102)), Some(Act::Start));
    }

    #[test]
    fn a_reload_waits_until_it_can_be_and_a_new_daemon_needs_none() {
        let now = Instant::now();
        let mut life = Life::new(now);
        life.asked_to_reload();
        assert_eq!(life.next(now), Some(Act::Start));
        life.asked_to_reload();
        assert_eq!(life.next(now), None);
        life.ready();
        assert_eq!((life.next(now), life.next(now)), (Some(Act::Reload), None));
    }

    #[test]
    fn it_becomes_another_program_between_two_lives_or_while_all_is_well() {
        let now = Instant::now();
        let mut life = Life::new(now);
        life.asked_to_renew();
        assert_eq!((life.next(now), life.next(now)), (Some(Act::Renew), Some(Act::Start)));
        life.asked_to_renew();
        assert_eq!(life.next(now), None);
        life.asked_to_reload();
        life.ready();
        assert_eq!(
            [life.next(now), life.next(now), life.next(now)],
            [Some(Act::Reload), Some(Act::Renew), None]
        );
        life.asked_to_renew();
        life.asked_to_stop(now);
        assert_eq!([life.next(now), life.next(now)], [Some(Act::Stop), None]);
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Wait(u64),
        Ready,
        Die(Death),
        Stop,
        Reload,
        Renew,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let death = prop_oneof![
            prop_oneof![Just(0), Just(1), Just(78)].prop_map(Death::Exited),
            prop_oneof![Just(2), Just(9), Just(15)].prop_map(Death::Killed),
        ];
        let step = prop_oneof![
            6 => (0..15_000_u64).prop_map(Step::Wait),
            4 => Just(Step::Ready),
            4 => death.prop_map(Step::Die),
            1 => Just(Step::Stop),
            2 => Just(Step::Reload),
            1 => Just(Step::Renew),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        /// Whatever happens, in the order in which it can.
        #[test]
        fn there_is_one_daemon_at_a_time_and_it_is_told_what_it_can_hear(steps in steps(), empty: bool) {
            let mut now = Instant::now();
            let mut life = Life::new(now);
            let (mut alive, mut ready, mut stopping, mut over) = (false, false, false, false);
            for step in steps {
                match step {
                    Step::Wait(milliseconds) => now = after(now, milliseconds),
                    Step::Ready if alive => { life.ready(); ready = true; }
                    Step::Die(how) if alive => { life.died(how, empty, now); (alive, ready) = (false, false); }
                    Step::Ready | Step::Die(_) => {}
                    Step::Stop => { life.asked_to_stop(now); stopping = true; }
                    Step::Reload => life.asked_to_reload(),
                    Step::Renew => life.asked_to_renew(),
                }
                let mut acts = 0;
                while let Some(act) = life.next(now) {
                    acts += 1;
                    prop_assert!(acts < 5, "it does not come to rest");
                    match act {
                        Act::Start => { prop_assert!(!alive && !stopping && !over); alive = true; }
                        Act::Reload => prop_assert!(ready && !stopping),
                        Act::Stop => prop_assert!(ready && stopping),
                        Act::Kill => prop_assert!(alive && (stopping || !ready)),
                        Act::Renew => prop_assert!(ready || !alive),
                        Act::End(_) => { prop_assert!(!alive); over = true; break; }
                    }
                }
                if !over {
                    // Nothing is forgotten: there is a daemon, or it is known when there will be.
                    prop_assert!(alive || life.due().is_some());
                    prop_assert!(life.due().is_none_or(|due| due > now));
                }
            }
        }
    }
}
