//! Options of sockets that are served without them, and what remains when the broker is stopped for good.

use super::Broker;
use super::effects::with_causes;
use crate::listeners::{Listener, SocketId, Table};
use std::collections::BTreeMap;

/// What is configured and not in effect, by socket.
#[derive(Debug, Default)]
pub(super) struct NotInEffect {
    /// What could not be changed of a living socket: it goes on as it was, and the daemon is degraded.
    failures: BTreeMap<SocketId, String>,
    /// What it is served without.
    notes: BTreeMap<SocketId, Vec<String>>,
}

impl NotInEffect {
    /// Why a socket could not be changed.
    pub(super) fn failure(&self, id: SocketId) -> Option<&str> {
        self.failures.get(&id).map(String::as_str)
    }

    /// The same of all, a sentence each.
    pub(super) fn failures<'a>(&'a self, table: &'a Table) -> impl Iterator<Item = String> + 'a {
        let sentence = |(id, error): (&SocketId, &String)| {
            let (name, _) = table.owner(*id)?;
            Some(format!("listener {name:?}: {} goes on as it was: {error}", table.slot(*id)?.endpoint))
        };
        self.failures.iter().filter_map(sentence)
    }

    /// What a listener is served without.
    pub(super) fn notes_of(&self, listener: &Listener) -> Vec<String> {
        if self.notes.is_empty() {
            return Vec::new();
        }
        let of_slot = |id| self.notes.get(&id).into_iter().flatten();
        let mut notes = Vec::new();
        for slot in &listener.slots {
            for note in of_slot(slot.id).map(|note| format!("{}: {note}", slot.endpoint)) {
                // Shards of one address go without the same.
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
        notes
    }

    /// The same of all, a sentence each.
    pub(super) fn notes(&self, table: &Table) -> Vec<String> {
        let mut notes = Vec::new();
        let owners = self.notes.keys().filter_map(|id| table.owner(*id));
        let owners: BTreeMap<_, _> = owners.collect();
        for (name, listener) in owners {
            notes
                .extend(self.notes_of(listener).into_iter().map(|note| format!("listener {name:?}: {note}")));
        }
        notes
    }

    fn note(&mut self, id: SocketId, notes: Vec<String>) {
        if notes.is_empty() {
            self.notes.remove(&id);
        } else {
            self.notes.insert(id, notes);
        }
    }

    /// A socket that is closed.
    pub(super) fn forget(&mut self, id: SocketId) {
        self.failures.remove(&id);
        self.notes.remove(&id);
    }
}

impl Broker {
    /// Says what is configured for a socket and cannot be had.
    pub(super) fn note_unmet(&mut self, id: SocketId) {
        let (Some(socket), Some((name, _))) = (self.sockets.get(&id), self.table.owner(id)) else { return };
        let notes: Vec<String> = socket.unmet().iter().map(ToString::to_string).collect();
        let known = self.unmet.notes.get(&id);
        for note in notes.iter().filter(|note| known.is_none_or(|known| !known.contains(note))) {
            let endpoint = socket.endpoint();
            tracing::warn!(event = "unmet", listener = %name, %endpoint, "{endpoint} of {name}: {note}");
        }
        if known.map_or(&[][..], Vec::as_slice) != notes {
            self.changed.insert(name.clone());
        }
        self.unmet.note(id, notes);
    }

    /// Options that a bound socket can still change follow the configuration. What cannot be changed now is tried again
    /// with the next configuration.
    pub(super) fn adjust(&mut self, id: SocketId) {
        let Some((name, listener)) = self.table.owner(id) else { return };
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let options = &listener.config.options;
        if socket.options() == options && self.unmet.failure(id).is_none() {
            return;
        }
        match socket.adjust(options) {
            Ok(()) => drop(self.unmet.failures.remove(&id)),
            Err(error) => {
                let (endpoint, error) = (socket.endpoint(), with_causes(&error));
                tracing::error!(event = "unmet", listener = %name, %endpoint, error, "{endpoint} of {name} goes on as it was: {error}");
                self.unmet.failures.insert(id, error);
            }
        }
        self.note_unmet(id);
    }

    /// A socket that has come back to a listener, from an earlier daemon or from those that lingered: what its holder
    /// does to it is to be seen, and put right when that is gone.
    pub(super) fn expect_of_holder(&mut self, id: SocketId) {
        let Some(slot) = self.table.slot(id).filter(|slot| !slot.holders().is_empty()) else { return };
        let (Some(state), Some(socket)) = (slot.state, self.sockets.get_mut(&id)) else { return };
        if !socket.is_given() {
            socket.remember_options_as_made();
            self.watch_hangups(id, state);
        }
    }

    /// `RemoveOnStop=`: paths and their links go. Services that have the sockets go on, and nobody finds them.
    pub(super) fn remove_on_stop(&mut self) {
        let wanted: Vec<_> = self
            .table
            .iter()
            .filter(|(_, listener)| listener.config.options.remove_on_stop)
            .flat_map(|(_, listener)| listener.slots.iter().map(|slot| slot.id))
            .collect();
        for socket in wanted.into_iter().filter_map(|id| self.sockets.remove(&id)) {
            let endpoint = socket.endpoint().clone();
            if let Err(error) = socket.release() {
                tracing::warn!(%error, %endpoint, "the path of {endpoint} could not be removed: {error}");
            }
        }
    }
}
