//! Listeners by name, their sockets, their holders, and when to look at them again.

use super::draining::{DrainStep, Draining, Facts};
use super::listener::{Action, BySocket, HolderId, Listener, Slot, SocketId, Trouble};
use super::{Target, back_off};
use crate::config::ListenerConfig;
use crate::model::{Endpoint, ListenerName};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// What a new configuration does to the sockets that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// No longer configured: close them.
    pub close: Vec<SocketId>,
    /// Kept, but their options may have changed.
    pub kept: Vec<SocketId>,
}

/// The sockets and holders that are there while a new configuration is taken.
#[derive(Default)]
struct There {
    /// By endpoint, in the order of the shards, with their listeners.
    slots: HashMap<Endpoint, VecDeque<(Slot, ListenerName)>>,
    holders: BTreeMap<ListenerName, (BTreeSet<HolderId>, Instant)>,
}

impl There {
    fn add(&mut self, name: ListenerName, listener: Listener) {
        for slot in listener.slots {
            self.slots.entry(slot.endpoint.clone()).or_default().push_back((slot, name.clone()));
        }
        self.holders.insert(name, (listener.holders, listener.unheld_since));
    }

    /// The next socket of an endpoint, as this shard.
    fn take(&mut self, endpoint: &Endpoint, shard: u16) -> Option<(Slot, ListenerName)> {
        let (slot, of) = self.slots.get_mut(endpoint)?.pop_front()?;
        Some((Slot { shard, ..slot }, of))
    }
}

/// All listeners.
#[derive(Debug, Default)]
pub struct Table {
    listeners: BTreeMap<ListenerName, Listener>,
    owners: BySocket<ListenerName>,
    held: HashMap<HolderId, BTreeSet<ListenerName>>,
    draining: Draining,
    due: BTreeSet<(Instant, ListenerName)>,
    last_id: u64,
}

/// No listener has that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no listener {0:?}")]
pub struct UnknownListener(pub String);

impl Table {
    /// Takes a new configuration. A socket whose endpoint is in it stays as it is, under whatever name; a new
    /// endpoint gets a slot that is not bound yet. The holders of a name that stays keep it, and those of a socket
    /// that goes to another name hold that one too: they have the socket, whatever it is called now. Shards that are
    /// no longer asked for are drained.
    pub fn configure(
        &mut self,
        wanted: &BTreeMap<ListenerName, Arc<ListenerConfig>>,
        now: Instant,
    ) -> Change {
        let old = std::mem::take(&mut self.listeners);
        self.owners.clear();
        self.owners.reserve(wanted.len());
        self.due.clear();
        let mut change = Change::default();
        let mut there = There::default();
        for (name, listener) in old {
            there.add(name, listener);
        }
        for (name, config) in wanted {
            let (mut held_by, unheld_since) =
                there.holders.get(name).cloned().unwrap_or((BTreeSet::new(), now));
            let mut slots = Vec::with_capacity(config.sockets());
            for endpoint in &config.endpoints {
                for shard in 0..config.options.shards {
                    let slot = match there.take(endpoint, shard) {
                        Some((slot, of)) => {
                            change.kept.push(slot.id);
                            if of != *name
                                && let Some((others, _)) = there.holders.get(&of)
                            {
                                held_by.extend(others);
                            }
                            slot
                        }
                        None => self.new_slot(endpoint, shard),
                    };
                    self.owners.insert(slot.id, name.clone());
                    slots.push(slot);
                }
            }
            for holder in &held_by {
                self.held.entry(*holder).or_default().insert(name.clone());
            }
            // What is new beside a shard that somebody holds, that one does not have.
            for slot in slots.iter_mut().filter(|slot| slot.state.is_none() && slot.shard > 0) {
                slot.waits = !held_by.is_empty();
            }
            let config = Arc::clone(config);
            let mut listener = Listener { config, slots, holders: held_by, unheld_since, due: None };
            listener.due = listener.next_due(now);
            self.due.extend(listener.due.map(|at| (at, name.clone())));
            self.listeners.insert(name.clone(), listener);
        }
        if !(there.slots.is_empty() && self.draining.is_empty()) {
            self.let_go(there, wanted, &mut change);
        }
        for names in self.held.values_mut() {
            names.retain(|name| self.listeners.contains_key(name));
        }
        change
    }

    /// What is left of the sockets that were there: surplus shards are drained, the rest is closed.
    fn let_go(
        &mut self,
        there: There,
        wanted: &BTreeMap<ListenerName, Arc<ListenerConfig>>,
        change: &mut Change,
    ) {
        let configured: HashSet<&Endpoint> = wanted.values().flat_map(|config| &config.endpoints).collect();
        for (endpoint, slots) in there.slots {
            for (slot, of) in slots {
                if slot.state.is_some() && configured.contains(&endpoint) {
                    let holders = there.holders.get(&of).map(|(holders, _)| holders.clone());
                    self.draining.add(slot.id, endpoint.clone(), holders.unwrap_or_default());
                } else {
                    change.close.push(slot.id);
                }
            }
        }
        change.close.extend(self.draining.retain(|endpoint| configured.contains(endpoint)));
        change.close.sort_unstable();
    }

    fn new_slot(&mut self, endpoint: &Endpoint, shard: u16) -> Slot {
        self.last_id += 1;
        let id = SocketId(self.last_id);
        Slot { id, endpoint: endpoint.clone(), shard, state: None, waits: false, trouble: None }
    }

    /// All listeners, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ListenerName, &Listener)> {
        self.listeners.iter()
    }

    /// One listener.
    pub fn get(&self, name: &str) -> Result<(&ListenerName, &Listener), UnknownListener> {
        let unknown = || UnknownListener(name.chars().take(ListenerName::MAX).collect());
        self.listeners.get_key_value(name).ok_or_else(unknown)
    }

    /// The listener that a socket belongs to.
    #[must_use]
    pub fn owner(&self, id: SocketId) -> Option<(&ListenerName, &Listener)> {
        self.listeners.get_key_value(self.owners.get(&id)?)
    }

    /// A socket's slot.
    #[must_use]
    pub fn slot(&self, id: SocketId) -> Option<&Slot> {
        self.owner(id)?.1.slots.iter().find(|slot| slot.id == id)
    }

    fn change_slot(&mut self, id: SocketId, now: Instant, change: impl FnOnce(&mut Slot)) {
        let Some(name) = self.owners.get(&id) else { return };
        let Some(listener) = self.listeners.get_mut(name) else { return };
        if let Some(slot) = listener.slots.iter_mut().find(|slot| slot.id == id) {
            change(slot);
        }
        reschedule(&mut self.due, name, listener, now);
    }

    /// An action was done, or the kernel showed that the socket is in this state now.
    pub fn succeeded(&mut self, id: SocketId, state: Target, now: Instant) {
        self.change_slot(id, now, |slot| {
            slot.state = Some(state);
            slot.trouble = None;
        });
    }

    /// An action failed; the socket is as it was, and the action comes again after a back-off. An impatient try
    /// leaves the back-off as it is: whoever asks again and again does not put the next try off.
    pub fn failed(&mut self, id: SocketId, error: String, now: Instant) {
        self.change_slot(id, now, |slot| {
            if let Some(trouble) = slot.trouble.as_mut().filter(|trouble| trouble.retry_at > now) {
                trouble.error = error;
                return;
            }
            let attempts = slot.trouble.as_ref().map_or(0, |t| t.attempts).saturating_add(1);
            slot.trouble = Some(Trouble { error, attempts, retry_at: now + back_off(attempts) });
        });
    }

    /// A socket is lost and has to be bound anew.
    pub fn lost(&mut self, id: SocketId, now: Instant) {
        self.change_slot(id, now, |slot| slot.state = None);
    }

    /// A listener is about to be handed over whole: what waited for that is to listen too. Returns what did.
    pub fn open(&mut self, name: &ListenerName, now: Instant) -> Vec<SocketId> {
        let Some(listener) = self.listeners.get_mut(name) else { return Vec::new() };
        let waiting = listener.slots.iter_mut().filter(|slot| slot.waits);
        let opened = waiting.map(|slot| {
            slot.waits = false;
            slot.id
        });
        let opened = opened.collect();
        self.reschedule(name, now);
        opened
    }

    /// It was not handed over after all: of what [`Table::open`] returned, what does not listen yet waits again. What
    /// does may have taken clients, and stays.
    pub fn wait_again(&mut self, name: &ListenerName, opened: &[SocketId], now: Instant) {
        let Some(listener) = self.listeners.get_mut(name) else { return };
        if !listener.holders.is_empty() {
            let slots = listener.slots.iter_mut().filter(|slot| opened.contains(&slot.id));
            slots.filter(|slot| slot.state != Some(Target::Listening)).for_each(|slot| slot.waits = true);
        }
        self.reschedule(name, now);
    }

    /// A socket has a successor: the slot is the new one's, which is bound, and the old one is drained. `waits`: those
    /// who hold the listener are well served by the old one.
    pub fn succeed(&mut self, id: SocketId, waits: bool, now: Instant) -> Option<SocketId> {
        let name = self.owners.get(&id)?.clone();
        self.last_id += 1;
        let new = SocketId(self.last_id);
        let listener = self.listeners.get_mut(&name)?;
        let slot = listener.slots.iter_mut().find(|slot| slot.id == id)?;
        *slot = Slot {
            id: new,
            state: Some(Target::Refusing),
            waits: waits && !listener.holders.is_empty(),
            trouble: None,
            ..slot.clone()
        };
        self.draining.add(id, slot.endpoint.clone(), listener.holders.clone());
        self.owners.remove(&id);
        self.owners.insert(new, name.clone());
        self.reschedule(&name, now);
        Some(new)
    }

    /// A socket of an earlier daemon is one too many for its endpoint. These have it; `None`: nobody knows, and whoever
    /// holds the listener may.
    pub fn adopt_draining(&mut self, endpoint: &Endpoint, holders: Option<BTreeSet<HolderId>>) -> SocketId {
        self.last_id += 1;
        let id = SocketId(self.last_id);
        let of_listener = || self.listener_at(endpoint).map(|(_, listener)| listener.holders.clone());
        let holders = holders.or_else(of_listener).unwrap_or_default();
        self.draining.add(id, endpoint.clone(), holders);
        id
    }

    /// After a start: what does not listen beside a socket that does, and that somebody holds, was waiting for the next
    /// holder, or is new.
    pub fn wait_where_served(&mut self) {
        for listener in self.listeners.values_mut().filter(|listener| !listener.holders.is_empty()) {
            let listens = |slot: &&Slot| slot.state == Some(Target::Listening);
            let drains = self.draining.iter().filter(|(_, drain)| !drain.holders.is_empty());
            let served: HashSet<Endpoint> = listener
                .slots
                .iter()
                .filter(listens)
                .map(|slot| slot.endpoint.clone())
                .chain(drains.map(|(_, drain)| drain.endpoint.clone()))
                .collect();
            let others = listener.slots.iter_mut().filter(|slot| !listens(&&**slot));
            others.for_each(|slot| slot.waits = served.contains(&slot.endpoint));
        }
    }

    /// The listener that an endpoint belongs to.
    #[must_use]
    pub fn listener_at(&self, endpoint: &Endpoint) -> Option<(&ListenerName, &Listener)> {
        self.listeners.iter().find(|(_, listener)| listener.config.endpoints.contains(endpoint))
    }

    /// The sockets that are drained.
    #[must_use]
    pub fn draining(&self) -> &Draining {
        &self.draining
    }

    /// What to do with a socket that is drained and that nobody has any more.
    pub fn drain(&mut self, id: SocketId, facts: Facts, now: Instant) -> DrainStep {
        self.draining.step(id, facts, now)
    }

    /// A socket that is drained is closed, whatever waits in it.
    pub fn end_drain(&mut self, id: SocketId) {
        self.draining.remove(id);
    }

    /// Somebody was handed a socket that is drained.
    pub fn hand_on(&mut self, id: SocketId, holder: HolderId) {
        self.draining.hold(id, holder);
    }

    /// Somebody holds a listener from now on.
    pub fn hold(&mut self, name: &ListenerName, holder: HolderId, now: Instant) {
        if let Some(listener) = self.listeners.get_mut(name) {
            listener.holders.insert(holder);
            self.held.entry(holder).or_default().insert(name.clone());
            self.reschedule(name, now);
        }
    }

    /// The listeners that somebody holds.
    pub fn held_by(&self, holder: HolderId) -> impl Iterator<Item = &ListenerName> {
        self.held.get(&holder).into_iter().flatten()
    }

    /// A holder is gone. Returns the listeners that nobody holds now.
    pub fn release(&mut self, holder: HolderId, now: Instant) -> Vec<ListenerName> {
        let names = self.held.remove(&holder).unwrap_or_default();
        self.draining.release(holder);
        let mut free = Vec::new();
        for name in names {
            if let Some(listener) = self.listeners.get_mut(&name) {
                if listener.holders.remove(&holder) && listener.holders.is_empty() {
                    listener.is_free(now);
                    free.push(name.clone());
                }
                self.reschedule(&name, now);
            }
        }
        free
    }

    /// A holder has no claim to one listener any more, and keeps its others.
    pub fn release_one(&mut self, name: &ListenerName, holder: HolderId, now: Instant) {
        let Some(listener) = self.listeners.get_mut(name) else { return };
        if listener.holders.remove(&holder) && listener.holders.is_empty() {
            listener.is_free(now);
        }
        if let Some(names) = self.held.get_mut(&holder) {
            names.remove(name);
        }
        self.reschedule(name, now);
    }

    /// A holder has none of the old sockets of a listener any more.
    pub fn leave_drains(&mut self, name: &ListenerName, holder: HolderId) {
        if let Some(listener) = self.listeners.get(name) {
            self.draining.leave(&listener.config.endpoints, holder);
        }
    }

    /// What there is to do for one listener; `impatient` does not wait for a back-off to end.
    #[must_use]
    pub fn actions_of(&self, name: &ListenerName, now: Instant, impatient: bool) -> Vec<Action> {
        self.listeners.get(name).map(|listener| listener.actions(now, impatient)).unwrap_or_default()
    }

    /// What there is to do for all listeners.
    #[must_use]
    pub fn actions(&self, now: Instant) -> Vec<Action> {
        self.listeners.values().flat_map(|listener| listener.actions(now, false)).collect()
    }

    /// The listeners that there is something to do for, by name, where nobody waits for a back-off to end.
    #[must_use]
    pub fn waiting_for_action(&self, now: Instant) -> Vec<ListenerName> {
        let waits = |listener: &Listener| listener.has_actions(now);
        self.listeners.iter().filter(|(_, l)| waits(l)).map(|(name, _)| name.clone()).collect()
    }

    /// The listeners whose time has come, and which are to be asked for their actions.
    pub fn take_due(&mut self, now: Instant) -> Vec<ListenerName> {
        let due: Vec<_> =
            self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, name)| name.clone()).collect();
        for name in &due {
            self.reschedule(name, now);
        }
        due
    }

    /// When [`Table::take_due`] has something to say, or a socket that is drained is to be looked at.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at).into_iter().chain(self.draining.next_due()).min()
    }

    /// Keeps `due` in step with one listener. A time that has passed is kept: it is due until it is acted on.
    fn reschedule(&mut self, name: &ListenerName, now: Instant) {
        if let Some(listener) = self.listeners.get_mut(name) {
            reschedule(&mut self.due, name, listener, now);
        }
    }
}

fn reschedule(
    due: &mut BTreeSet<(Instant, ListenerName)>,
    name: &ListenerName,
    listener: &mut Listener,
    now: Instant,
) {
    let next = listener.next_due(now);
    let before = std::mem::replace(&mut listener.due, next);
    if before != next {
        before.map(|at| due.remove(&(at, name.clone())));
        due.extend(next.map(|at| (at, name.clone())));
    }
}

#[cfg(test)]
mod shard_tests;
#[cfg(test)]
mod tests;
