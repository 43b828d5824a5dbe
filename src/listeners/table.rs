//! Listeners by name, their sockets, their holders, and when to look at them again.

mod configure;
mod holders;

use super::draining::{DrainStep, Draining, Facts};
use super::lingering::Lingering;
use super::listener::{Action, BySocket, HolderId, Listener, Slot, SocketId, Trouble};
use super::{Target, back_off};
use crate::config::Idle;
use crate::model::{Endpoint, ListenerName};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

pub use configure::Change;
pub use holders::Released;

/// All listeners.
#[derive(Debug, Default)]
pub struct Table {
    listeners: BTreeMap<ListenerName, Listener>,
    owners: BySocket<ListenerName>,
    held: HashMap<HolderId, BTreeSet<ListenerName>>,
    draining: Draining,
    lingering: Lingering,
    due: BTreeSet<(Instant, ListenerName)>,
    last_id: u64,
}

/// No listener has that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no listener {0:?}")]
pub struct UnknownListener(pub String);

impl Table {
    fn next_id(&mut self) -> SocketId {
        self.last_id += 1;
        SocketId(self.last_id)
    }

    fn new_slot(&mut self, endpoint: &Endpoint, shard: u16) -> Slot {
        Slot::new(self.next_id(), endpoint.clone(), shard)
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
        let new = self.next_id();
        let listener = self.listeners.get_mut(&name)?;
        let slot = listener.slots.iter_mut().find(|slot| slot.id == id)?;
        let successor = Slot {
            state: Some(Target::Refusing),
            waits: waits && !listener.holders.is_empty(),
            ..Slot::new(new, slot.endpoint.clone(), slot.shard)
        };
        let old = std::mem::replace(slot, successor);
        self.draining.add(id, old.endpoint, old.holders);
        self.owners.remove(&id);
        self.owners.insert(new, name.clone());
        self.reschedule(&name, now);
        Some(new)
    }

    /// A socket of an earlier daemon is one too many for its endpoint; `holders`: who has it, as far as that is known.
    pub fn adopt_draining(&mut self, endpoint: &Endpoint, holders: BTreeSet<HolderId>) -> SocketId {
        let id = self.next_id();
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

    /// After a start: what nobody holds and is closed has been waited for long enough, `idle = "queue 30s"`. How long
    /// before is not known; but clients that were refused a moment ago are not to wait in vain because of a restart.
    pub fn stay_closed(&mut self, now: Instant) {
        for (name, listener) in &mut self.listeners {
            let Idle::QueueFor(patience) = listener.config.idle else { continue };
            let mut bound = listener.slots.iter().filter_map(|slot| slot.state).peekable();
            let was_closed = bound.peek().is_some() && bound.all(|state| state == Target::Refusing);
            if was_closed && listener.holders.is_empty() {
                listener.unheld_since = now.checked_sub(patience).unwrap_or(listener.unheld_since);
                reschedule(&mut self.due, name, listener, now);
            }
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
mod reload_tests;
#[cfg(test)]
mod shard_tests;
#[cfg(test)]
mod tests;
