//! Who has which sockets: they come with a hand-over, stay with the sockets wherever a configuration puts these, and
//! go.

use super::Table;
use crate::listeners::lingering::Linger;
use crate::listeners::listener::{HolderId, SocketId};
use crate::model::{Endpoint, ListenerName};
use std::time::Instant;

/// What the end of a holder changes.
#[derive(Debug, Default)]
pub struct Released {
    /// Listeners that nobody holds now.
    pub free: Vec<ListenerName>,
    /// Sockets that lingered for it alone, to be closed: the table knows nothing of them any more.
    pub ended: Vec<(SocketId, Linger)>,
}

impl Table {
    /// Somebody has all sockets of a listener from now on. Returns those that it did not have.
    pub fn hold(&mut self, name: &ListenerName, holder: HolderId, now: Instant) -> Vec<SocketId> {
        let Some(listener) = self.listeners.get_mut(name) else { return Vec::new() };
        listener.holders.insert(holder);
        let newly =
            listener.slots.iter_mut().filter_map(|slot| slot.holders.insert(holder).then_some(slot.id));
        let newly = newly.collect();
        self.held.entry(holder).or_default().insert(name.clone());
        self.reschedule(name, now);
        newly
    }

    /// Somebody has one socket, whatever it is now: that of an earlier daemon's holder.
    pub fn hold_socket(&mut self, id: SocketId, holder: HolderId, now: Instant) {
        self.lingering.hold(id, holder);
        self.draining.hold(id, holder);
        let drained = self.draining.endpoint_of(id);
        let name = match drained {
            Some(endpoint) => self.listener_at(endpoint).map(|(name, _)| name.clone()),
            None => self.owners.get(&id).cloned(),
        };
        let Some(name) = name else { return };
        if let Some(listener) = self.listeners.get_mut(&name) {
            listener.holders.insert(holder);
            let mut slots = listener.slots.iter_mut();
            if let Some(slot) = slots.find(|slot| slot.id == id) {
                slot.holders.insert(holder);
            }
            self.held.entry(holder).or_default().insert(name.clone());
            self.reschedule(&name, now);
        }
    }

    /// Somebody was handed a socket that is drained.
    pub fn hand_on(&mut self, id: SocketId, holder: HolderId) {
        self.draining.hold(id, holder);
    }

    /// The listeners that somebody holds.
    pub fn held_by(&self, holder: HolderId) -> impl Iterator<Item = &ListenerName> {
        self.held.get(&holder).into_iter().flatten()
    }

    /// The sockets that somebody has, with the names of their listeners.
    pub fn sockets_of(&self, holder: HolderId) -> impl Iterator<Item = (SocketId, &ListenerName)> {
        let listeners = self.held_by(holder).filter_map(|name| self.listeners.get_key_value(name));
        let slots =
            listeners.flat_map(|(name, listener)| listener.slots.iter().map(move |slot| (name, slot)));
        let slots = slots.filter(move |(_, slot)| slot.holders.contains(&holder));
        let drains = self.draining.iter().filter(move |(_, drain)| drain.holders.contains(&holder));
        let drains = drains.filter_map(|(id, drain)| Some((id, self.listener_at(&drain.endpoint)?.0)));
        let lingering = self.lingering.iter().filter(move |(_, linger)| linger.holders().contains(&holder));
        slots.map(|(name, slot)| (slot.id, name)).chain(drains).chain(lingering.map(|(id, l)| (id, &l.name)))
    }

    /// A holder is gone.
    pub fn release(&mut self, holder: HolderId, now: Instant) -> Released {
        let names = self.held.remove(&holder).unwrap_or_default();
        self.draining.release(holder);
        let ended =
            self.lingering.release(holder).into_iter().map(|linger| (linger.slot.id, linger)).collect();
        let mut free = Vec::new();
        for name in names {
            if let Some(listener) = self.listeners.get_mut(&name) {
                for slot in &mut listener.slots {
                    slot.holders.remove(&holder);
                }
                if listener.holders.remove(&holder) && listener.holders.is_empty() {
                    listener.is_free(now);
                    free.push(name.clone());
                }
                self.reschedule(&name, now);
            }
        }
        Released { free, ended }
    }

    /// A holder has none of the old sockets of a listener any more.
    pub fn leave_drains(&mut self, name: &ListenerName, holder: HolderId) {
        if let Some(listener) = self.listeners.get(name) {
            self.draining.leave(&listener.config.endpoints, holder);
        }
    }

    /// A holder did not get these sockets of a listener after all, and keeps what it had.
    pub fn release_some(&mut self, name: &ListenerName, holder: HolderId, which: &[SocketId], now: Instant) {
        let Some(listener) = self.listeners.get_mut(name) else { return };
        for slot in listener.slots.iter_mut().filter(|slot| which.contains(&slot.id)) {
            slot.holders.remove(&holder);
        }
        let has_old = |endpoint: &Endpoint| self.draining.holders_at(endpoint).any(|of_old| of_old == holder);
        let keeps = listener.slots.iter().any(|slot| slot.holders.contains(&holder))
            || listener.config.endpoints.iter().any(has_old);
        if !keeps {
            if listener.holders.remove(&holder) && listener.holders.is_empty() {
                listener.is_free(now);
            }
            if let Some(names) = self.held.get_mut(&holder) {
                names.remove(name);
            }
        }
        self.reschedule(name, now);
    }
}
