//! Activation over time.

use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn after(begin: Instant, milliseconds: u64) -> Instant {
    begin + Duration::from_millis(milliseconds)
}

#[test]
fn the_first_connection_starts_the_service_once() {
    let (mut activation, begin) = (Activation::default(), Instant::now());
    assert!(activation.is_waiting());
    assert_eq!(activation.woken(true, begin), Step::Start(Attempt::First).into());
    for n in 0..1000 {
        assert_eq!(activation.woken(true, after(begin, n % 900)), Step::Rest.into());
    }
    activation.held(after(begin, 900));
    assert_eq!(activation.next_due(), None);
    assert_eq!(activation.due(true, after(begin, 9000)), Step::Rest.into());
}

#[test]
fn a_service_that_exits_when_idle_is_started_by_the_next_connection() {
    let (mut activation, begin) = (Activation::default(), Instant::now());
    let mut now = begin;
    for _ in 0..5 {
        assert_eq!(activation.woken(true, now), Step::Start(Attempt::First).into());
        activation.held(now);
        assert_eq!(activation.released(false, now + SECOND), Step::Watch.into());
        now += 2 * SECOND;
    }
    assert_eq!(activation.failures(), 0);
}

#[test]
fn a_service_that_dies_is_started_after_one_two_four_seconds_and_then_every_minute() {
    let (mut activation, mut now) = (Activation::default(), Instant::now());
    let mut pauses = Vec::new();
    assert_eq!(activation.woken(true, now), Step::Start(Attempt::First).into());
    for _ in 0..9 {
        activation.held(now);
        let outcome = activation.released(true, now);
        assert_eq!(outcome, Outcome { step: Step::Rest, failure: Some(Failure::Died) });
        let next = activation.next_due().unwrap();
        pauses.push((next - now).as_secs());
        now = next;
        assert_eq!(activation.due(true, now), Step::Start(Attempt::Again).into());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);

    // Repaired: a life of ten seconds forgives everything.
    activation.held(now);
    assert_eq!(activation.released(true, now + LIFE), Step::Watch.into());
    assert_eq!(activation.woken(true, now + LIFE), Step::Start(Attempt::First).into());
}

#[test]
fn a_service_that_never_takes_its_socket_is_started_at_the_same_pace() {
    let (mut activation, begin) = (Activation::default(), Instant::now());
    activation.woken(true, begin);
    let mut times = Vec::new();
    for _ in 0..9 {
        let next = activation.next_due().unwrap();
        let outcome = activation.due(true, next);
        assert_eq!(outcome.failure, Some(Failure::NotTaken));
        assert_eq!(outcome.step, Step::Start(Attempt::Again));
        times.push((next - begin).as_secs());
    }
    assert_eq!(times, [1, 3, 7, 15, 31, 63, 123, 183, 243]);
}

#[test]
fn what_systemd_starts_by_itself_is_not_counted() {
    let (mut activation, begin) = (Activation::default(), Instant::now());
    activation.woken(true, begin);
    activation.held(begin);
    assert_eq!(activation.released(true, begin).failure, Some(Failure::Died));
    // Restart=always, a hundred times a second.
    for n in 1..90 {
        let now = after(begin, 10 * n);
        activation.held(now);
        assert_eq!(activation.released(true, now), Step::Rest.into());
        assert_eq!((activation.failures(), activation.next_due()), (1, Some(begin + SECOND)));
    }
    assert_eq!(activation.due(true, begin + SECOND), Step::Start(Attempt::Again).into());
    activation.held(begin + SECOND);
    assert_eq!(activation.released(true, begin + SECOND).failure, Some(Failure::Died));
    assert_eq!(activation.next_due(), Some(begin + 3 * SECOND));

    // Started by hand and living, it is well.
    activation.held(begin + 2 * SECOND);
    assert_eq!(activation.next_due(), Some(begin + 2 * SECOND + LIFE));
    activation.due(true, begin + 2 * SECOND + LIFE);
    assert_eq!((activation.failures(), activation.next_due()), (0, None));
}

#[test]
fn clients_that_went_away_start_nothing() {
    let (mut activation, begin) = (Activation::default(), Instant::now());
    activation.woken(true, begin);
    let outcome = activation.due(false, begin + SECOND);
    assert_eq!(outcome, Outcome { step: Step::Watch, failure: Some(Failure::NotTaken) });
    assert!(activation.is_waiting());
}

#[test]
fn a_false_alarm_is_looked_at_again_later() {
    let (mut activation, begin) = (Activation::default(), Instant::now());
    assert_eq!(activation.woken(false, begin), Step::Rest.into());
    assert_eq!(activation.due(false, begin), Step::Rest.into());
    assert_eq!(activation.due(false, begin + FALSE_ALARM), Step::Watch.into());
    assert_eq!(activation.failures(), 0);
}

/// What happens to a listener, whatever its service does.
#[derive(Debug, Clone, Copy)]
enum Event {
    Woken(bool),
    Held,
    Released(bool),
    Due(bool),
}

fn event() -> impl Strategy<Value = (u64, Event)> {
    let kind = prop_oneof![
        any::<bool>().prop_map(Event::Woken),
        Just(Event::Held),
        any::<bool>().prop_map(Event::Released),
        any::<bool>().prop_map(Event::Due),
    ];
    (0u64..20_000, kind)
}

proptest! {
    #[test]
    fn no_listener_is_ever_dead_and_no_service_is_started_in_a_hurry(events in prop::collection::vec(event(), 0..200)) {
        let (mut activation, mut now) = (Activation::default(), Instant::now());
        let mut last: Option<Instant> = None;
        for (milliseconds, event) in events {
            now = after(now, milliseconds / 10);
            let outcome = match event {
                Event::Woken(queued) => activation.woken(queued, now),
                Event::Held => { activation.held(now); Step::Rest.into() }
                Event::Released(queued) => activation.released(queued, now),
                Event::Due(queued) => activation.due(queued, now),
            };
            if let Step::Start(attempt) = outcome.step {
                prop_assert!(last.is_none_or(|last| now >= last + SPACING));
                prop_assert_eq!(attempt == Attempt::Again, activation.failures() > 0);
                last = Some(now);
            }
            prop_assert_eq!(outcome.step == Step::Watch, outcome.step == Step::Watch && activation.is_waiting());
            // Watched, held, or looked at again within a minute.
            let soon = activation.next_due().is_some_and(|due| due <= now + Duration::from_secs(60));
            prop_assert!(activation.is_waiting() || activation.is_held() || soon);
        }
    }

    #[test]
    fn while_anything_waits_it_is_started_once_a_minute_at_least(lives in prop::collection::vec(prop::option::of(0u64..9_000), 1..40)) {
        let (mut activation, mut now) = (Activation::default(), Instant::now());
        let mut started = matches!(activation.woken(true, now).step, Step::Start(_)).then_some(now).unwrap();
        for life in lives {
            if let Some(life) = life {
                activation.held(now);
                now = after(now, life);
                activation.released(true, now);
            }
            let ended = now;
            while !matches!({ now = activation.next_due().unwrap(); activation.due(true, now).step }, Step::Start(_)) {}
            prop_assert!(now - ended <= Duration::from_secs(60));
            prop_assert!(now >= started + SPACING);
            started = now;
        }
    }
}
