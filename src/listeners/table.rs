//! Listeners by name, their sockets, their holders, and when to look at them again.

use super::{Target, back_off, idle_target};
use crate::config::ListenerConfig;
use crate::model::{Endpoint, ListenerName};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

/// One socket of a listener, for as long as the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(u64);

impl SocketId {
    /// The id as a number, for a watch that knows nothing else.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// The id again.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// One holder, for as long as the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HolderId(pub u64);

/// What the broker shall do to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Bind it.
    Bind(SocketId),
    /// Bring a bound socket into this state.
    Set(SocketId, Target),
}

/// What a new configuration does to the sockets that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// No longer configured: close them.
    pub close: Vec<SocketId>,
    /// Kept, but their options may have changed.
    pub kept: Vec<SocketId>,
}

/// Why something did not go as it should, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trouble {
    error: String,
    attempts: u32,
    retry_at: Instant,
}

/// A socket of a listener.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Its id.
    pub id: SocketId,
    /// Where it is, or will be, bound.
    pub endpoint: Endpoint,
    /// `None`: not bound.
    pub state: Option<Target>,
    trouble: Option<Trouble>,
}

impl Slot {
    /// Why it is not in the state that it should be in.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.trouble.as_ref().map(|trouble| trouble.error.as_str())
    }

    /// The same while it is not yet time for the next try.
    #[must_use]
    pub fn recent_error(&self, now: Instant) -> Option<&str> {
        self.trouble.as_ref().filter(|trouble| trouble.retry_at > now).map(|trouble| trouble.error.as_str())
    }

    fn action(&self, target: Target) -> Option<Action> {
        match self.state {
            None => Some(Action::Bind(self.id)),
            Some(state) if state == target => None,
            Some(_) => Some(Action::Set(self.id, target)),
        }
    }
}

/// A listener.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its configuration.
    pub config: ListenerConfig,
    /// Its sockets, in the order of the configuration.
    pub slots: Vec<Slot>,
    /// Who was handed it and is still there.
    pub holders: BTreeSet<HolderId>,
    unheld_since: Instant,
    due: Option<Instant>,
}

impl Listener {
    /// What its sockets should be now, and until when.
    fn target(&self, now: Instant) -> (Target, Option<Instant>) {
        if self.holders.is_empty() {
            idle_target(self.config.idle, self.unheld_since, now)
        } else {
            (Target::Listening, None)
        }
    }

    fn actions(&self, now: Instant, impatient: bool) -> Vec<Action> {
        let (target, _) = self.target(now);
        let ripe = |slot: &&Slot| impatient || slot.trouble.as_ref().is_none_or(|t| t.retry_at <= now);
        self.slots.iter().filter(ripe).filter_map(|slot| slot.action(target)).collect()
    }

    /// When to look again: the end of its patience, or the next try of what failed.
    fn next_due(&self, now: Instant) -> Option<Instant> {
        let (target, until) = self.target(now);
        let retries = self
            .slots
            .iter()
            .filter(|slot| slot.action(target).is_some())
            .filter_map(|slot| slot.trouble.as_ref().map(|trouble| trouble.retry_at));
        retries.chain(until).min()
    }
}

/// All listeners.
#[derive(Debug, Default)]
pub struct Table {
    listeners: BTreeMap<ListenerName, Listener>,
    owners: HashMap<SocketId, ListenerName>,
    held: HashMap<HolderId, BTreeSet<ListenerName>>,
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
    /// that goes to another name hold that one too: they have the socket, whatever it is called now.
    pub fn configure(&mut self, wanted: &BTreeMap<ListenerName, ListenerConfig>, now: Instant) -> Change {
        let old = std::mem::take(&mut self.listeners);
        self.owners.clear();
        self.due.clear();
        let mut change = Change::default();
        let mut slots: HashMap<Endpoint, (Slot, ListenerName)> = HashMap::new();
        let mut holders = BTreeMap::new();
        for (name, listener) in old {
            let of = |slot: Slot| (slot.endpoint.clone(), (slot, name.clone()));
            slots.extend(listener.slots.into_iter().map(of));
            holders.insert(name, (listener.holders, listener.unheld_since));
        }
        for (name, config) in wanted {
            let mut of_listener = Vec::with_capacity(config.endpoints.len());
            let (mut held_by, unheld_since) = holders.get(name).cloned().unwrap_or((BTreeSet::new(), now));
            for endpoint in &config.endpoints {
                let slot = match slots.remove(endpoint) {
                    Some((slot, of)) => {
                        change.kept.push(slot.id);
                        if of != *name
                            && let Some((others, _)) = holders.get(&of)
                        {
                            held_by.extend(others);
                        }
                        slot
                    }
                    None => self.new_slot(endpoint),
                };
                self.owners.insert(slot.id, name.clone());
                of_listener.push(slot);
            }
            for holder in &held_by {
                self.held.entry(*holder).or_default().insert(name.clone());
            }
            let listener = Listener {
                config: config.clone(),
                slots: of_listener,
                holders: held_by,
                unheld_since,
                due: None,
            };
            self.listeners.insert(name.clone(), listener);
            self.reschedule(name, now);
        }
        change.close = slots.into_values().map(|(slot, _)| slot.id).collect();
        change.close.sort_unstable();
        for names in self.held.values_mut() {
            names.retain(|name| self.listeners.contains_key(name));
        }
        change
    }

    fn new_slot(&mut self, endpoint: &Endpoint) -> Slot {
        self.last_id += 1;
        Slot { id: SocketId(self.last_id), endpoint: endpoint.clone(), state: None, trouble: None }
    }

    /// All listeners, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ListenerName, &Listener)> {
        self.listeners.iter()
    }

    /// One listener.
    pub fn get(&self, name: &str) -> Result<(&ListenerName, &Listener), UnknownListener> {
        let unknown = || UnknownListener(name.chars().take(ListenerName::MAX).collect());
        let key = ListenerName::try_from(name).map_err(|_| unknown())?;
        self.listeners.get_key_value(&key).ok_or_else(unknown)
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
        let Some(name) = self.owners.get(&id).cloned() else { return };
        let slots = self.listeners.get_mut(&name).map(|listener| listener.slots.iter_mut());
        if let Some(slot) = slots.and_then(|mut slots| slots.find(|slot| slot.id == id)) {
            change(slot);
        }
        self.reschedule(&name, now);
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
        let mut free = Vec::new();
        for name in names {
            if let Some(listener) = self.listeners.get_mut(&name) {
                if listener.holders.remove(&holder) && listener.holders.is_empty() {
                    listener.unheld_since = now;
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
            listener.unheld_since = now;
        }
        if let Some(names) = self.held.get_mut(&holder) {
            names.remove(name);
        }
        self.reschedule(name, now);
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

    /// The listeners whose time has come, and which are to be asked for their actions.
    pub fn take_due(&mut self, now: Instant) -> Vec<ListenerName> {
        let due: Vec<_> =
            self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, name)| name.clone()).collect();
        for name in &due {
            self.reschedule(name, now);
        }
        due
    }

    /// When [`Table::take_due`] has something to say.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Keeps `due` in step with one listener. A time that has passed is kept: it is due until it is acted on.
    fn reschedule(&mut self, name: &ListenerName, now: Instant) {
        let Some(listener) = self.listeners.get_mut(name) else { return };
        if let Some(at) = listener.due.take() {
            self.due.remove(&(at, name.clone()));
        }
        listener.due = listener.next_due(now);
        if let Some(at) = listener.due {
            self.due.insert((at, name.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
