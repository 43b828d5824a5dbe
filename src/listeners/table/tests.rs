use super::*;
use crate::config::{Idle, ListenerConfig, Origin, SocketOptions};
use crate::model::{InetEndpoint, SocketKind};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn name(text: &str) -> ListenerName {
    ListenerName::try_from(text).unwrap()
}

pub(super) fn tcp(port: u16) -> Endpoint {
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    Endpoint::Inet(InetEndpoint::new(SocketKind::Stream, address, false, None).unwrap())
}

fn config(ports: &[u16], idle: Idle) -> ListenerConfig {
    ListenerConfig {
        endpoints: ports.iter().map(|&port| tcp(port)).collect(),
        allow: Vec::new(),
        idle,
        activate: None,
        options: SocketOptions::default(),
        origin: Origin::default(),
    }
}

fn wanted(listeners: &[(&str, &[u16], Idle)]) -> BTreeMap<ListenerName, Arc<ListenerConfig>> {
    listeners.iter().map(|(n, ports, idle)| (name(n), config(ports, *idle).into())).collect()
}

/// Does what the table asks for, as a kernel would that never refuses.
pub(super) fn obey(table: &mut Table, now: Instant) {
    loop {
        let actions = table.actions(now);
        if actions.is_empty() {
            return;
        }
        for action in actions {
            match action {
                Action::Bind(id) => table.succeeded(id, Target::Refusing, now),
                Action::Set(id, target) => table.succeeded(id, target, now),
            }
        }
    }
}

fn state(table: &Table, listener: &str) -> Option<Target> {
    table.get(listener).unwrap().1.slots[0].state
}

#[test]
fn what_was_closed_when_its_time_was_up_stays_closed_over_a_restart() {
    let (mut table, start) = (Table::default(), Instant::now());
    let patient = Idle::QueueFor(Duration::from_secs(30));
    table.configure(
        &wanted(&[("closed", &[1], patient), ("open", &[2], patient), ("held", &[3], patient)]),
        start,
    );
    let found = [("closed", Target::Refusing), ("open", Target::Listening), ("held", Target::Refusing)];
    for (listener, state) in found {
        let id = table.get(listener).unwrap().1.slots[0].id;
        table.succeeded(id, state, start);
    }
    table.hold(&name("held"), HolderId(1), start);
    table.stay_closed(start);
    obey(&mut table, start);
    assert_eq!(state(&table, "closed"), Some(Target::Refusing));
    assert_eq!(state(&table, "open"), Some(Target::Listening));
    assert_eq!(state(&table, "held"), Some(Target::Listening));
    // Those who come after the next holder wait as long as ever.
    table.hold(&name("closed"), HolderId(2), start);
    table.release(HolderId(2), start);
    obey(&mut table, start);
    assert_eq!(state(&table, "closed"), Some(Target::Listening));
}

#[test]
fn a_listener_queues_from_the_start_and_refuses_only_where_it_is_asked_to() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.configure(&wanted(&[("queue", &[1], Idle::Queue), ("refuse", &[2], Idle::Refuse)]), now);
    obey(&mut table, now);
    assert_eq!(state(&table, "queue"), Some(Target::Listening));
    assert_eq!(state(&table, "refuse"), Some(Target::Refusing));
    table.hold(&name("refuse"), HolderId(1), now);
    obey(&mut table, now);
    assert_eq!(state(&table, "refuse"), Some(Target::Listening));
    assert_eq!(table.release(HolderId(1), now).free, [name("refuse")]);
    obey(&mut table, now);
    assert_eq!(state(&table, "refuse"), Some(Target::Refusing));
}

#[test]
fn patience_ends_when_it_should() {
    let (mut table, start) = (Table::default(), Instant::now());
    let at = |seconds| start + Duration::from_secs(seconds);
    table.configure(&wanted(&[("web", &[1], Idle::QueueFor(Duration::from_secs(30)))]), start);
    obey(&mut table, start);
    assert_eq!((state(&table, "web"), table.next_due()), (Some(Target::Listening), Some(at(30))));
    table.hold(&name("web"), HolderId(1), at(10));
    assert_eq!(table.next_due(), None);
    table.release(HolderId(1), at(100));
    assert_eq!(table.next_due(), Some(at(130)));
    assert_eq!(table.take_due(at(129)), []);
    assert_eq!(table.take_due(at(130)), [name("web")]);
    obey(&mut table, at(130));
    assert_eq!((state(&table, "web"), table.next_due()), (Some(Target::Refusing), None));
}

#[test]
fn a_port_that_cannot_be_bound_is_tried_again_ever_more_seldom() {
    let (mut table, mut now) = (Table::default(), Instant::now());
    table.configure(&wanted(&[("web", &[1], Idle::Queue)]), now);
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        let actions = table.actions(now);
        let [Action::Bind(id)] = actions[..] else { panic!("{actions:?}") };
        table.failed(id, "taken".into(), now);
        assert_eq!(table.actions(now), []);
        assert_eq!(table.actions_of(&name("web"), now, true), actions);
        assert_eq!(table.next_due(), Some(now + Duration::from_secs(seconds)));
        // Somebody who asks for it meanwhile does not put the next try off, nor has its reason looked for anew.
        let slot = &table.get("web").unwrap().1.slots[0];
        assert_eq!(slot.recent_error(now), Some("taken"));
        assert_eq!(slot.recent_error(now + Duration::from_secs(seconds)), None);
        table.failed(id, "taken".into(), now + Duration::from_millis(500));
        assert_eq!(table.next_due(), Some(now + Duration::from_secs(seconds)));
        now += Duration::from_secs(seconds);
    }
    assert_eq!(table.get("web").unwrap().1.slots[0].error(), Some("taken"));
    obey(&mut table, now);
    assert_eq!(table.get("web").unwrap().1.slots[0].error(), None);
    assert_eq!(table.next_due(), None);
}

#[test]
fn a_new_configuration_leaves_unchanged_sockets_alone() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.configure(&wanted(&[("a", &[1, 2], Idle::Queue), ("b", &[3], Idle::Queue)]), now);
    obey(&mut table, now);
    table.hold(&name("a"), HolderId(1), now);
    let ids: Vec<_> = table.get("a").unwrap().1.slots.iter().map(|slot| slot.id).collect();
    let b = table.get("b").unwrap().1.slots[0].id;
    let change = table.configure(&wanted(&[("a", &[2, 4], Idle::Queue), ("c", &[1], Idle::Refuse)]), now);
    assert_eq!(change, Change { close: vec![b], kept: vec![ids[1], ids[0]], linger: vec![] });
    let (_, a) = table.get("a").unwrap();
    assert_eq!((a.slots[0].id, a.slots[1].state), (ids[1], None));
    assert!(a.holders.contains(&HolderId(1)));
    assert_eq!(table.owner(ids[0]).unwrap().0, &name("c"));
    assert!(table.get("b").is_err());
}

#[test]
fn who_holds_a_socket_holds_it_under_its_new_name_too() {
    let (mut table, now) = (Table::default(), Instant::now());
    table.configure(&wanted(&[("a", &[1, 2], Idle::Refuse), ("b", &[3], Idle::Refuse)]), now);
    table.hold(&name("a"), HolderId(1), now);
    obey(&mut table, now);
    // Socket 1 is renamed, 2 goes over to a name that is there.
    table.configure(&wanted(&[("b", &[3, 2], Idle::Refuse), ("c", &[1], Idle::Refuse)]), now);
    obey(&mut table, now);
    assert_eq!(state(&table, "c"), Some(Target::Listening), "its holder serves it");
    assert_eq!(table.get("b").unwrap().1.slots[1].state, Some(Target::Listening));
    assert_eq!(table.release(HolderId(1), now).free, [name("b"), name("c")]);
    obey(&mut table, now);
    assert_eq!((state(&table, "b"), state(&table, "c")), (Some(Target::Refusing), Some(Target::Refusing)));
}

#[derive(Debug, Clone)]
enum Event {
    Hold(usize, u64),
    Release(u64),
    Wait(u64),
    Fail,
    Configure(Vec<Idle>),
}

fn any_idle() -> impl Strategy<Value = Idle> {
    prop_oneof![
        Just(Idle::Queue),
        Just(Idle::Refuse),
        (1u64..20).prop_map(|s| Idle::QueueFor(Duration::from_secs(s)))
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0usize..3, 0u64..3).prop_map(|(l, h)| Event::Hold(l, h)),
        (0u64..3).prop_map(Event::Release),
        (0u64..15).prop_map(Event::Wait),
        Just(Event::Fail),
        proptest::collection::vec(any_idle(), 0..3).prop_map(Event::Configure),
    ]
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The naive model: for each listener its idle rule, its holders, and when the last one went; and who has the sockets
/// of those that are not configured now.
struct Model(Vec<(Idle, BTreeSet<u64>, Instant)>, [BTreeSet<u64>; 3]);

impl Model {
    fn expects(&self, n: usize, now: Instant) -> Target {
        let (idle, holders, since) = &self.0[n];
        let patient = |patience: Duration| now < *since + patience;
        match idle {
            _ if !holders.is_empty() => Target::Listening,
            Idle::Queue => Target::Listening,
            Idle::QueueFor(patience) if patient(*patience) => Target::Listening,
            _ => Target::Refusing,
        }
    }

    fn configure(&mut self, idles: &[Idle], now: Instant) {
        while self.0.len() > idles.len() {
            let (_, holders, _) = self.0.pop().unwrap();
            self.1[self.0.len()] = holders;
        }
        for (n, idle) in idles.iter().enumerate() {
            match self.0.get_mut(n) {
                Some(entry) => entry.0 = *idle,
                None => self.0.push((*idle, std::mem::take(&mut self.1[n]), now)),
            }
        }
    }
}

proptest! {
    #[test]
    fn the_table_does_what_the_naive_model_does(events in proptest::collection::vec(any_event(), 1..60)) {
        let mut now = Instant::now();
        let (mut table, mut model) = (Table::default(), Model(Vec::new(), Default::default()));
        for event in events {
            match event {
                Event::Configure(idles) => {
                    let ports: Vec<[u16; 1]> = (1..4).map(|port| [port]).collect();
                    let listeners: Vec<_> = idles.iter().enumerate().map(|(n, i)| (NAMES[n], &ports[n][..], *i)).collect();
                    table.configure(&wanted(&listeners), now);
                    model.configure(&idles, now);
                }
                Event::Hold(n, holder) => {
                    table.hold(&name(NAMES[n]), HolderId(holder), now);
                    if let Some(entry) = model.0.get_mut(n) {
                        entry.1.insert(holder);
                    }
                }
                Event::Release(holder) => {
                    table.release(HolderId(holder), now);
                    for others in &mut model.1 {
                        others.remove(&holder);
                    }
                    for entry in &mut model.0 {
                        if entry.1.remove(&holder) && entry.1.is_empty() {
                            entry.2 = now;
                        }
                    }
                }
                Event::Wait(seconds) => now += Duration::from_secs(seconds),
                Event::Fail => {
                    for action in table.actions(now) {
                        let (Action::Bind(id) | Action::Set(id, _)) = action;
                        table.failed(id, "no".into(), now);
                    }
                    // Whatever failed comes again by itself, within a minute.
                    let stuck = table.iter().any(|(_, l)| l.slots.iter().any(|s| s.error().is_some()));
                    prop_assert!(!stuck || table.next_due().is_some_and(|at| at <= now + Duration::from_secs(60)));
                    now += Duration::from_secs(60);
                }
            }
            // Only what is due, or was just touched, may have something to do: nothing waits for nothing.
            let _ = table.take_due(now);
            obey(&mut table, now);
            for (n, name) in NAMES.iter().enumerate().take(model.0.len()) {
                prop_assert_eq!(state(&table, name), Some(model.expects(n, now)), "{} at {:?}", name, model.0[n]);
            }
            prop_assert!(table.next_due().is_none_or(|at| at > now));
        }
    }
}
