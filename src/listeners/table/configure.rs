//! A new configuration: which sockets stay, which come, and what becomes of those that are not configured any more.

use super::Table;
use crate::config::ListenerConfig;
use crate::listeners::lingering::{Linger, Lingering};
use crate::listeners::listener::{HolderId, Listener, Slot, SocketId};
use crate::model::{Endpoint, ListenerName, UnixAddress, UnixEndpoint};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// All listeners of a configuration.
type Wanted = BTreeMap<ListenerName, Arc<ListenerConfig>>;

/// What a new configuration does to the sockets that are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// No longer configured, and nobody has them: close them.
    pub close: Vec<SocketId>,
    /// Kept, but their options may have changed.
    pub kept: Vec<SocketId>,
    /// No longer configured, and somebody has them: from now on they linger.
    pub linger: Vec<SocketId>,
}

/// The sockets that are there while a new configuration is taken.
#[derive(Default)]
struct There {
    /// By endpoint, in the order of the shards, with their listeners.
    slots: HashMap<Endpoint, VecDeque<(Slot, ListenerName)>>,
    /// Since when nobody holds a listener, of those that nobody does.
    unheld: HashMap<ListenerName, Instant>,
}

impl There {
    fn add(&mut self, name: ListenerName, listener: Listener) {
        if listener.holders.is_empty() {
            self.unheld.insert(name.clone(), listener.unheld_since);
        }
        for slot in listener.slots {
            self.add_slot(slot, name.clone());
        }
    }

    fn add_slot(&mut self, slot: Slot, of: ListenerName) {
        self.slots.entry(slot.endpoint.clone()).or_default().push_back((slot, of));
    }

    /// The next socket of an endpoint, as this shard.
    fn take(&mut self, endpoint: &Endpoint, shard: u16) -> Option<Slot> {
        let (slot, _) = self.slots.get_mut(endpoint)?.pop_front()?;
        Some(Slot { shard, ..slot })
    }
}

/// Where a configuration has sockets.
struct Places<'a> {
    endpoints: HashSet<&'a Endpoint>,
    paths: HashSet<&'a UnixAddress>,
}

impl<'a> Places<'a> {
    fn of(wanted: &'a Wanted) -> Self {
        let endpoints: HashSet<&Endpoint> = wanted.values().flat_map(|config| &config.endpoints).collect();
        let paths = endpoints.iter().filter_map(|endpoint| path_of(endpoint)).collect();
        Self { endpoints, paths }
    }

    /// Whether a socket that is not configured keeps its address from one that is, and can be made to give it up: the
    /// file of a unix socket goes to the new one. Ports and abstract names are free only when their holder closes them.
    fn need(&self, endpoint: &Endpoint) -> bool {
        path_of(endpoint).is_some_and(|path| self.paths.contains(path))
    }
}

fn path_of(endpoint: &Endpoint) -> Option<&UnixAddress> {
    match endpoint {
        Endpoint::Unix(UnixEndpoint { address: address @ UnixAddress::Path(_), .. }) => Some(address),
        _ => None,
    }
}

impl Table {
    /// Takes a new configuration. A socket whose endpoint is in it stays as it is, under whatever name, and with those
    /// who have it; a new endpoint gets a slot that is not bound yet. Shards that are no longer asked for are drained.
    /// What is not configured any more lingers as long as somebody has it, and else is closed.
    pub fn configure(&mut self, wanted: &Wanted, now: Instant) -> Change {
        let old = std::mem::take(&mut self.listeners);
        self.owners.clear();
        self.owners.reserve(wanted.len());
        self.held.clear();
        self.due.clear();
        let mut change = Change::default();
        let mut there = There::default();
        let names = self.names_of_drains(&old);
        for (name, listener) in old {
            there.add(name, listener);
        }
        if !self.lingering.is_empty() {
            self.bring_back(wanted, &mut there, &mut change);
        }
        for (name, config) in wanted {
            let listener = self.made_of(name, config, &mut there, &mut change, now);
            for holder in &listener.holders {
                self.held.entry(*holder).or_default().insert(name.clone());
            }
            self.due.extend(listener.due.map(|at| (at, name.clone())));
            self.listeners.insert(name.clone(), listener);
        }
        there.slots.retain(|_, slots| !slots.is_empty());
        if !(there.slots.is_empty() && self.draining.is_empty()) {
            self.let_go(there, &names, wanted, &mut change);
        }
        change.close.sort_unstable();
        change
    }

    /// A listener of the new configuration, with the sockets that are there for it.
    fn made_of(
        &mut self,
        name: &ListenerName,
        config: &Arc<ListenerConfig>,
        there: &mut There,
        change: &mut Change,
        now: Instant,
    ) -> Listener {
        let mut holders = BTreeSet::new();
        let mut slots = Vec::with_capacity(config.sockets());
        for endpoint in &config.endpoints {
            let of_old: Vec<HolderId> = if self.draining.is_empty() {
                Vec::new()
            } else {
                self.draining.holders_at(endpoint).collect()
            };
            for shard in 0..config.options.shards {
                let mut slot = match there.take(endpoint, shard) {
                    Some(slot) => {
                        change.kept.push(slot.id);
                        holders.extend(&slot.holders);
                        slot
                    }
                    None => self.new_slot(endpoint, shard),
                };
                // What is new beside one that somebody holds, that one does not have.
                slot.waits |= slot.state.is_none() && (shard > 0 || !of_old.is_empty());
                self.owners.insert(slot.id, name.clone());
                slots.push(slot);
            }
            holders.extend(of_old);
        }
        if holders.is_empty() {
            slots.iter_mut().for_each(|slot| slot.waits = false);
        }
        let unheld_since = there.unheld.get(name).copied().unwrap_or(now);
        let mut listener = Listener { config: Arc::clone(config), slots, holders, unheld_since, due: None };
        listener.due = listener.next_due(now);
        listener
    }

    /// Sockets that linger and whose endpoint is configured again.
    fn bring_back(&mut self, wanted: &Wanted, there: &mut There, change: &mut Change) {
        let places = Places::of(wanted);
        for Linger { name, slot, drained } in
            self.lingering.take(|linger| places.endpoints.contains(linger.endpoint()))
        {
            if drained {
                self.draining.add(slot.id, slot.endpoint, slot.holders);
            } else {
                there.add_slot(slot, name);
            }
        }
        change.close.extend(self.lingering.take(|l| places.need(l.endpoint())).iter().map(|l| l.slot.id));
    }

    /// The listeners of the sockets that are drained.
    fn names_of_drains(
        &self,
        listeners: &BTreeMap<ListenerName, Listener>,
    ) -> HashMap<Endpoint, ListenerName> {
        let drained: HashSet<&Endpoint> = self.draining.iter().map(|(_, drain)| &drain.endpoint).collect();
        if drained.is_empty() {
            return HashMap::new();
        }
        let all = listeners.iter().flat_map(|(name, l)| l.config.endpoints.iter().map(move |at| (at, name)));
        all.filter(|(at, _)| drained.contains(at)).map(|(at, name)| (at.clone(), name.clone())).collect()
    }

    /// What is left of the sockets that were there: surplus shards are drained, the rest lingers or is closed.
    fn let_go(
        &mut self,
        there: There,
        names: &HashMap<Endpoint, ListenerName>,
        wanted: &Wanted,
        change: &mut Change,
    ) {
        let places = Places::of(wanted);
        for (endpoint, slots) in there.slots {
            for (slot, of) in slots {
                if slot.state.is_none() {
                    change.close.push(slot.id);
                } else if places.endpoints.contains(&endpoint) {
                    self.draining.add(slot.id, endpoint.clone(), slot.holders);
                } else {
                    self.linger_or_close(Linger { name: of, slot, drained: false }, &places, change);
                }
            }
        }
        for (id, drain) in self.draining.take(|endpoint| !places.endpoints.contains(endpoint)) {
            let Some(name) = names.get(&drain.endpoint).cloned() else {
                change.close.push(id);
                continue;
            };
            let slot = Slot { holders: drain.holders, ..Slot::bound(id, drain.endpoint) };
            self.linger_or_close(Linger { name, slot, drained: true }, &places, change);
        }
    }

    fn linger_or_close(&mut self, linger: Linger, places: &Places<'_>, change: &mut Change) {
        if linger.holders().is_empty() || places.need(linger.endpoint()) {
            change.close.push(linger.slot.id);
        } else {
            change.linger.push(linger.slot.id);
            self.lingering.add(linger);
        }
    }

    /// The sockets that are no longer configured and that somebody has.
    #[must_use]
    pub fn lingering(&self) -> &Lingering {
        &self.lingering
    }

    /// Whether a socket that is not configured may stay: it does not have the path that one that is needs.
    #[must_use]
    pub fn may_linger(&self, endpoint: &Endpoint) -> bool {
        let Some(path) = path_of(endpoint) else { return true };
        let mut endpoints = self.listeners.values().flat_map(|listener| &listener.config.endpoints);
        !endpoints.any(|other| path_of(other) == Some(path))
    }

    /// A socket of an earlier daemon that lingers, with those who have it; `drained`: it was an old one beside others.
    pub fn linger(
        &mut self,
        name: ListenerName,
        endpoint: &Endpoint,
        holders: impl IntoIterator<Item = HolderId>,
        drained: bool,
    ) -> SocketId {
        let id = self.next_id();
        let slot = Slot { holders: holders.into_iter().collect(), ..Slot::bound(id, endpoint.clone()) };
        self.lingering.add(Linger { name, slot, drained });
        id
    }
}
