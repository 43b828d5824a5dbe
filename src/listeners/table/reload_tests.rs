//! Random configurations, holders and restarts against a naive model: a configured endpoint never loses its socket, and
//! a lingering one lives exactly as long as its holder.

use super::tests::name;
use super::*;
use crate::config::{Idle, ListenerConfig, Origin, SocketOptions};
use crate::model::{InetEndpoint, SocketKind, UnixAddress, UnixEndpoint};
use proptest::prelude::*;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// The places that there are: three of TCP, one of UDP, and two that need one path.
const PLACES: usize = 6;
/// That of UDP is not renewed here: a new socket beside an old one that is served is bound only when it is needed.
const UDP: usize = 3;
const NAMES: [&str; 3] = ["a", "b", "c"];
const HOLDERS: u64 = 3;

fn place(n: usize) -> Endpoint {
    let inet = |kind, port: usize| {
        let address = format!("127.0.0.1:{port}").parse().unwrap();
        Endpoint::Inet(InetEndpoint::new(kind, address, false, None).unwrap())
    };
    let path = |kind| Endpoint::Unix(UnixEndpoint { kind, address: UnixAddress::parse("/run/x").unwrap() });
    match n {
        0..3 => inet(SocketKind::Stream, n + 1),
        UDP => inet(SocketKind::Datagram, 1),
        4 => path(SocketKind::Stream),
        _ => path(SocketKind::SeqPacket),
    }
}

/// Which listener each place is of.
type Places = [Option<usize>; PLACES];

fn any_places() -> impl Strategy<Value = Places> {
    let place = prop_oneof![Just(None), (0..NAMES.len()).prop_map(Some)];
    proptest::collection::vec(place, PLACES).prop_map(|places| {
        let mut places: Places = places.try_into().unwrap();
        // Both would be a fault of the configuration.
        if places[4].is_some() {
            places[5] = None;
        }
        places
    })
}

fn wanted(places: &Places) -> BTreeMap<ListenerName, Arc<ListenerConfig>> {
    let mut wanted = BTreeMap::new();
    for (n, of) in places.iter().enumerate().filter_map(|(n, of)| Some((n, (*of)?))) {
        let config = wanted.entry(name(NAMES[of])).or_insert_with(|| ListenerConfig {
            endpoints: Vec::new(),
            allow: Vec::new(),
            idle: if of == 0 { Idle::Refuse } else { Idle::Queue },
            activate: None,
            options: SocketOptions::default(),
            origin: Origin::default(),
        });
        config.endpoints.push(place(n));
    }
    wanted.into_iter().map(|(name, config)| (name, Arc::new(config))).collect()
}

#[derive(Debug, Clone)]
enum Event {
    Configure(Places),
    Hold(usize, u64),
    Release(u64),
    Renew(usize),
    /// The daemon dies; another starts with this configuration, and these have gone meanwhile.
    Restart(Places, BTreeSet<u64>),
}

fn any_event() -> impl Strategy<Value = Event> {
    let died = proptest::collection::btree_set(0..HOLDERS, 0..2);
    prop_oneof![
        3 => any_places().prop_map(Event::Configure),
        4 => (0..NAMES.len(), 0..HOLDERS).prop_map(|(l, h)| Event::Hold(l, h)),
        2 => (0..HOLDERS).prop_map(Event::Release),
        1 => (0..NAMES.len()).prop_map(Event::Renew),
        2 => (any_places(), died).prop_map(|(places, died)| Event::Restart(places, died)),
    ]
}

/// A socket and who has it.
type Held = (u64, BTreeSet<u64>);

/// The naive model: the socket of each place, and its old ones.
#[derive(Debug, Default, Clone, PartialEq)]
struct Model {
    places: Places,
    current: [Option<Held>; PLACES],
    old: [Vec<Held>; PLACES],
    last: u64,
}

impl Model {
    fn new_socket(&mut self) -> Held {
        self.last += 1;
        (self.last, BTreeSet::new())
    }

    fn configure(&mut self, places: &Places) {
        self.places = *places;
        for n in 0..PLACES {
            // The path goes to the one that is configured.
            let needed = matches!(n, 4 | 5) && places[9 - n].is_some();
            if places[n].is_none() {
                self.current[n].take_if(|(_, holders)| holders.is_empty() || needed);
                self.old[n].retain(|_| !needed);
            }
        }
        for n in 0..PLACES {
            if places[n].is_some() && self.current[n].is_none() {
                self.current[n] = Some(self.new_socket());
            }
        }
    }

    fn release(&mut self, holder: u64) {
        for n in 0..PLACES {
            if let Some((_, holders)) = &mut self.current[n] {
                holders.remove(&holder);
            }
            for (_, holders) in &mut self.old[n] {
                holders.remove(&holder);
            }
        }
    }

    /// What nobody has and nobody wants is closed.
    fn settle(&mut self) {
        for n in 0..PLACES {
            let wanted = self.places[n].is_some();
            self.current[n].take_if(|(_, holders)| !wanted && holders.is_empty());
            self.old[n].retain(|(_, holders)| !holders.is_empty());
            self.old[n].sort();
        }
    }

    fn step(&mut self, event: &Event) {
        match event {
            Event::Configure(places) => self.configure(places),
            Event::Release(holder) => self.release(*holder),
            Event::Restart(places, died) => {
                died.iter().for_each(|holder| self.release(*holder));
                self.configure(places);
            }
            Event::Hold(listener, holder) => {
                for n in (0..PLACES).filter(|n| self.places[*n] == Some(*listener)) {
                    self.current[n].as_mut().unwrap().1.insert(*holder);
                }
            }
            Event::Renew(listener) => {
                let places = self.places;
                for n in (0..PLACES).filter(|n| places[*n] == Some(*listener) && *n != UDP) {
                    let new = self.new_socket();
                    self.old[n].push(self.current[n].replace(new).unwrap());
                }
            }
        }
        self.settle();
    }

    fn holders_of(&self, listener: usize) -> BTreeSet<u64> {
        let of_this = (0..PLACES).filter(|n| self.places[*n] == Some(listener));
        of_this
            .flat_map(|n| self.current[n].iter().chain(&self.old[n]))
            .flat_map(|(_, h)| h)
            .copied()
            .collect()
    }
}

/// The table, with a kernel that never refuses, and a store.
struct Real {
    table: Table,
    sockets: HashMap<SocketId, (u64, Endpoint)>,
    last: u64,
    now: Instant,
}

impl Real {
    fn obey(&mut self) {
        loop {
            let actions = self.table.actions(self.now);
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match action {
                    Action::Bind(id) => {
                        self.bound(id, self.table.slot(id).unwrap().endpoint.clone());
                        self.table.succeeded(id, Target::Refusing, self.now);
                    }
                    Action::Set(id, target) => self.table.succeeded(id, target, self.now),
                }
            }
        }
    }

    fn bound(&mut self, id: SocketId, endpoint: Endpoint) {
        self.last += 1;
        assert!(self.sockets.insert(id, (self.last, endpoint)).is_none());
    }

    fn settle_drains(&mut self) {
        let facts = Facts { waiting: false, listens: true, migrates: true };
        for id in self.table.draining().unheld().collect::<Vec<_>>() {
            while self.table.drain(id, facts, self.now) != DrainStep::Close {}
            self.sockets.remove(&id).unwrap();
        }
    }

    fn configure(&mut self, places: &Places) {
        let change = self.table.configure(&wanted(places), self.now);
        for id in change.close {
            self.sockets.remove(&id).expect("each is closed once");
        }
    }

    fn step(&mut self, event: &Event) {
        match event {
            Event::Configure(places) => self.configure(places),
            Event::Hold(listener, holder) => {
                self.table.open(&name(NAMES[*listener]), self.now);
                self.obey();
                self.table.hold(&name(NAMES[*listener]), HolderId(*holder), self.now);
            }
            Event::Release(holder) => {
                for (id, _) in self.table.release(HolderId(*holder), self.now).ended {
                    self.sockets.remove(&id).unwrap();
                }
            }
            Event::Renew(listener) => {
                let slots =
                    self.table.get(NAMES[*listener]).map(|(_, l)| l.slots.clone()).unwrap_or_default();
                for slot in slots.into_iter().filter(|slot| slot.endpoint != place(UDP)) {
                    let new = self.table.succeed(slot.id, true, self.now).unwrap();
                    self.bound(new, slot.endpoint);
                }
            }
            Event::Restart(places, died) => self.restart(places, died),
        }
        self.obey();
        self.settle_drains();
    }

    /// As the broker does it: by what is stored, which of these are old, and who has which.
    fn restart(&mut self, places: &Places, died: &BTreeSet<u64>) {
        let inode = |id: &SocketId| self.sockets[id].0;
        let lingering = self.table.lingering().iter().filter(|(_, linger)| linger.is_drained());
        let old = self.table.draining().iter().map(|(id, _)| id).chain(lingering.map(|(id, _)| id));
        let old: HashSet<u64> = old.map(|id| inode(&id)).collect();
        let mut known: HashMap<u64, (ListenerName, BTreeSet<HolderId>)> = HashMap::new();
        for holder in (0..HOLDERS).filter(|holder| !died.contains(holder)).map(HolderId) {
            for (id, name) in self.table.sockets_of(holder) {
                known.entry(inode(&id)).or_insert((name.clone(), BTreeSet::new())).1.insert(holder);
            }
        }
        let mut stored: Vec<(u64, Endpoint)> = std::mem::take(&mut self.sockets).into_values().collect();
        self.table = Table::default();
        self.table.configure(&wanted(places), self.now);
        let slots: Vec<Slot> = self.table.iter().flat_map(|(_, listener)| listener.slots.clone()).collect();
        for slot in slots {
            let current = stored.iter().position(|(n, at)| *at == slot.endpoint && !old.contains(n));
            if let Some(current) = current {
                self.sockets.insert(slot.id, stored.swap_remove(current));
                self.table.succeeded(slot.id, Target::Listening, self.now);
            }
        }
        for (id, (inode, _)) in &self.sockets {
            for holder in known.get(inode).iter().flat_map(|(_, holders)| holders) {
                self.table.hold_socket(*id, *holder, self.now);
            }
        }
        for (inode, endpoint) in stored {
            let held = known.get(&inode);
            let id = match (self.table.listener_at(&endpoint), held) {
                (None, None) => continue,
                (None, Some(_)) if !self.table.may_linger(&endpoint) => continue,
                (None, Some((name, holders))) => {
                    self.table.linger(name.clone(), &endpoint, holders.iter().copied(), old.contains(&inode))
                }
                (Some(_), _) => {
                    let id = self.table.adopt_draining(&endpoint, BTreeSet::new());
                    for holder in held.iter().flat_map(|(_, holders)| holders) {
                        self.table.hold_socket(id, *holder, self.now);
                    }
                    id
                }
            };
            match self.sockets.entry(id) {
                Entry::Vacant(entry) => drop(entry.insert((inode, endpoint))),
                Entry::Occupied(_) => panic!("an id twice"),
            }
        }
        self.table.wait_where_served();
    }

    /// What there is, as the model has it.
    fn seen(&self, places: &Places) -> Model {
        let mut seen = Model { places: *places, last: self.last, ..Model::default() };
        let of = |id: SocketId, holders: &BTreeSet<HolderId>| {
            (self.sockets[&id].0, holders.iter().map(|holder| holder.0).collect::<BTreeSet<u64>>())
        };
        let index = |endpoint: &Endpoint| (0..PLACES).find(|n| place(*n) == *endpoint).unwrap();
        for slot in self.table.iter().flat_map(|(_, listener)| &listener.slots) {
            seen.current[index(&slot.endpoint)] = Some(of(slot.id, slot.holders()));
        }
        for (id, linger) in self.table.lingering().iter() {
            let (n, held) = (index(linger.endpoint()), of(id, linger.holders()));
            match linger.is_drained() {
                true => seen.old[n].push(held),
                false => assert_eq!(seen.current[n].replace(held), None, "two at one place"),
            }
        }
        for (id, drain) in self.table.draining().iter() {
            seen.old[index(&drain.endpoint)].push(of(id, &drain.holders));
        }
        seen.old.iter_mut().for_each(|old| old.sort());
        seen
    }
}

/// Inodes are given in the order in which sockets are bound, which need not be that of the model: only whether it is
/// the same one as before counts.
fn renumbered(model: &Model, names: &mut HashMap<u64, u64>, of: &Model) -> Model {
    for (real, ideal) in model.current.iter().zip(&of.current) {
        if let (Some(real), Some(ideal)) = (real, ideal) {
            names.entry(real.0).or_insert(ideal.0);
        }
    }
    let mut model = model.clone();
    for held in model.current.iter_mut().flatten().chain(model.old.iter_mut().flatten()) {
        held.0 = names.get(&held.0).copied().unwrap_or(u64::MAX);
    }
    model.old.iter_mut().for_each(|old| old.sort());
    model.last = of.last;
    model
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]
    #[test]
    fn a_configured_endpoint_keeps_its_socket_and_another_as_long_as_it_is_held(
        first in any_places(),
        events in proptest::collection::vec(any_event(), 1..40),
    ) {
        let mut model = Model::default();
        let mut real =
            Real { table: Table::default(), sockets: HashMap::new(), last: 0, now: Instant::now() };
        let mut numbers = HashMap::new();
        for event in std::iter::once(Event::Configure(first)).chain(events) {
            model.step(&event);
            real.step(&event);
            let seen = real.seen(&model.places);
            prop_assert_eq!(&renumbered(&seen, &mut numbers, &model), &model, "after {:?}", event);
            let there = seen.current.iter().flatten().count() + seen.old.iter().flatten().count();
            prop_assert_eq!(real.sockets.len(), there, "a socket that nobody knows of");
            for (n, of) in NAMES.iter().enumerate() {
                let Ok((_, listener)) = real.table.get(of) else { continue };
                let holders: BTreeSet<u64> = listener.holders.iter().map(|holder| holder.0).collect();
                prop_assert_eq!(&holders, &model.holders_of(n), "holders of {} after {:?}", of, event);
                let names: BTreeSet<u64> =
                    (0..HOLDERS).filter(|h| real.table.held_by(HolderId(*h)).any(|held| held.as_str() == *of)).collect();
                prop_assert_eq!(&names, &holders);
                let idle = if n == 0 { Target::Refusing } else { Target::Listening };
                let target = if holders.is_empty() { idle } else { Target::Listening };
                for slot in listener.slots.iter().filter(|slot| !slot.waits()) {
                    prop_assert_eq!(slot.state, Some(target));
                }
            }
        }
    }
}
