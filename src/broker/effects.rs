//! Effects on real sockets: what the table asks for, what a holder has spoilt, what is to be shown.

use super::absent::Absent;
use super::gate::Gate;
use super::{Broker, Refusal};
use crate::kernel::socket::{BindError, ListenerSocket, Mended, SocketError, SocketState, endpoint_of};
use crate::kernel::socket_owner;
use crate::limits::Who;

use crate::listeners::{Action, SocketId, Target};
use crate::model::{Endpoint, ListenerName};
use std::os::fd::AsFd as _;
use std::time::Instant;

/// What whoever reads the faults of a configuration has to know first.
const NOT_IN_EFFECT: &str = "the configuration as it is written now was not taken, and the last good one is in effect: put the \
                             following right, and run \"portbroker reload\"";

/// An error with its causes, on one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A socket's inode number; 0 where the kernel does not tell, which it does for every socket.
pub(super) fn inode_of(socket: &ListenerSocket) -> u64 {
    socket.inode().unwrap_or_default()
}

impl Broker {
    /// Does what there is to do for a listener; `impatient` does not wait for a back-off to end.
    pub(super) fn act_on(&mut self, name: &ListenerName, impatient: bool) {
        // First what is not bound is bound, then what is bound is brought into its state.
        for impatient in [impatient, false] {
            let actions = self.table.actions_of(name, Instant::now(), impatient);
            if !actions.is_empty() {
                self.changed.insert(name.clone());
            }
            for action in actions {
                match action {
                    Action::Bind(id) => self.bind(name, id),
                    Action::Set(id, target) => self.set(name, id, target),
                }
            }
        }
    }

    fn bind(&mut self, name: &ListenerName, id: SocketId) {
        let Some((_, listener)) = self.table.owner(id) else { return };
        let Some(endpoint) = self.table.slot(id).map(|slot| slot.endpoint.clone()) else { return };
        if self.stored.has_left() && ListenerSocket::is_in_use(&endpoint, &listener.config.options) {
            // Most likely ours, and then a new one beside it would take half of its clients.
            let text = format!(
                "{endpoint} is not bound anew, for its socket may be one of those that are stored and could not be taken \
                 over: see \"portbroker status\""
            );
            return self.fail(name, id, &endpoint, text);
        }
        if !self.alone && ListenerSocket::has_company(&endpoint, &listener.config.options) {
            let ours = self.sockets.values().map(inode_of).collect();
            if socket_owner::left_behind(&endpoint, &ours) {
                let owner = socket_owner::explain(&endpoint).unwrap_or_default();
                let error = BindError::InUse { endpoint: endpoint.clone() };
                let text = format!(
                    "{error}: {owner}; it is tried again until it is free; a service that has it from an earlier \
                     broker gives it up with \"systemctl restart\""
                );
                return self.fail(name, id, &endpoint, text);
            }
        }
        match ListenerSocket::bind(&endpoint, &listener.config.options) {
            Ok(socket) => {
                self.told.bound(name, &socket);
                self.sockets.insert(id, socket);
                self.note_unmet(id);
                self.stored.added(id);
                self.table.succeeded(id, Target::Refusing, Instant::now());
            }
            Err(error) => {
                let text = self.explained(id, &endpoint, &error);
                self.fail(name, id, &endpoint, text);
            }
        }
    }

    /// The error, with who is in the way. To find that out all processes are looked at, so it is done again only when
    /// it is time for the next try, and not for everyone who asks for the listener meanwhile.
    fn explained(&self, id: SocketId, endpoint: &Endpoint, error: &BindError) -> String {
        let text = with_causes(error);
        if !matches!(error, BindError::InUse { .. }) {
            return text;
        }
        if let Some(old) = self.lingering_in_the_way(endpoint) {
            return format!("{text}: {old}");
        }
        let recent = self.table.slot(id).and_then(|slot| slot.recent_error(Instant::now()));
        if let Some(known) = recent.filter(|known| known.starts_with(&text)) {
            return known.to_owned();
        }
        match socket_owner::explain(endpoint) {
            Some(owner) => format!("{text}: {owner}; it is tried again until it is free"),
            None => text,
        }
    }

    fn fail(&mut self, name: &ListenerName, id: SocketId, endpoint: &Endpoint, error: String) {
        let known = self.table.slot(id).and_then(|slot| slot.error()) == Some(&error);
        if !known {
            self.told.failed(name, endpoint, &error);
        }
        self.table.failed(id, error, Instant::now());
        self.faulty.insert(id);
        self.changed.insert(name.clone());
    }

    fn set(&mut self, name: &ListenerName, id: SocketId, target: Target) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            self.table.lost(id, Instant::now());
            return;
        };
        let before = socket.replacements();
        let done = match target {
            Target::Listening => socket.listen(),
            Target::Refusing => socket.refuse(),
            Target::Dropping => socket.drop_datagrams(),
        };
        let endpoint = socket.endpoint().clone();
        self.replaced(id, before);
        match done {
            Ok(()) => {
                tracing::debug!(listener = %name, %endpoint, ?target, "changed its state");
                self.watch_hangups(id, target);
                self.table.succeeded(id, target, Instant::now());
            }
            Err(error) => self.fail(name, id, &endpoint, with_causes(&error)),
        }
    }

    /// A listening socket that hangs up was un-listened by its holder.
    pub(super) fn watch_hangups(&mut self, id: SocketId, target: Target) {
        let Some(socket) = self.sockets.get(&id) else { return };
        let watched = match target {
            // Nobody else has it who could.
            Target::Listening if !socket.is_given() => Ok(()),
            Target::Listening => self.hangups.add(id.number(), socket.as_fd()),
            Target::Refusing | Target::Dropping => self.hangups.remove(socket.as_fd()),
        };
        if let Err(error) = watched {
            let endpoint = socket.endpoint();
            tracing::warn!(%error, %endpoint, "cannot watch for a holder that stops {endpoint} from listening: {error}");
        }
    }

    /// Keeps the descriptor store in step where a socket was replaced by a new one.
    fn replaced(&mut self, id: SocketId, before: u32) {
        let Some(socket) = self.sockets.get(&id) else { return };
        if socket.replacements() != before {
            self.stored.given_up();
            // They are known by inode.
            self.write_holders();
        }
    }

    /// A holder is gone: what it did to the shared sockets is found and put right. `of`: on whose behalf it was, where that
    /// is known; what users do again and again has so many lines of the log, and no more.
    pub(super) fn mend(&mut self, name: &ListenerName, of: Option<&Who>) {
        let Ok((_, listener)) = self.table.get(name.as_str()) else { return };
        let bound: Vec<_> = listener.slots.iter().filter_map(|slot| Some((slot.id, slot.state?))).collect();
        for (id, state) in bound {
            let want =
                if state == Target::Listening { SocketState::Listening } else { SocketState::Reserved };
            self.repair(name, (id, state), of, |socket| socket.mend(want));
        }
    }

    fn repair(
        &mut self,
        name: &ListenerName,
        (id, state): (SocketId, Target),
        of: Option<&Who>,
        how: impl FnOnce(&mut ListenerSocket) -> Result<Mended, SocketError>,
    ) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let before = socket.replacements();
        let endpoint = socket.endpoint().clone();
        let mended = how(socket);
        self.replaced(id, before);
        let says = |gate: &Gate| of.is_none_or(|who| gate.has_a_line(who, "mended"));
        match mended {
            Ok(Mended::Nothing) => {}
            Ok(Mended::InPlace(spoilt)) => {
                // Nothing of it is shown: whoever does it without end makes no news without end.
                self.comparison.mended(name, &endpoint, false, &spoilt);
                if says(&self.gate) {
                    tracing::warn!(event = "mended", listener = %name, %endpoint, ?spoilt, "{endpoint} of {name}: its holder had changed the socket ({spoilt:?}), which is put right");
                }
                self.watch_hangups(id, state);
            }
            Ok(Mended::Replaced(spoilt)) => {
                self.changed.insert(name.clone());
                self.comparison.mended(name, &endpoint, true, &spoilt);
                if says(&self.gate) {
                    tracing::warn!(event = "replaced", listener = %name, %endpoint, ?spoilt, "{endpoint} of {name}: its holder had spoilt the socket ({spoilt:?}); a new one is in its place");
                }
                self.watch_hangups(id, state);
            }
            Err(error) => {
                self.not_repaired(id);
                self.fail(name, id, &endpoint, with_causes(&error));
                return;
            }
        }
        self.table.succeeded(id, state, Instant::now());
    }

    /// The table gets to know what the kernel says of a socket that could not be repaired, so that it is tried again.
    /// A unix socket that lost its name is nothing to hand out: it is bound anew.
    fn not_repaired(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get(&id) else { return };
        if matches!(socket.endpoint(), Endpoint::Unix(_)) && endpoint_of(socket.as_fd()).is_err() {
            let _ = self.hangups.remove(socket.as_fd());
            self.sockets.remove(&id);
            self.stored.given_up();
            self.table.lost(id, Instant::now());
        } else {
            let listens = matches!(socket.state(), Ok(SocketState::Listening));
            let state = if listens { Target::Listening } else { Target::Refusing };
            self.table.succeeded(id, state, Instant::now());
        }
    }

    /// A socket hung up. Where it should listen, somebody who shares it stopped it: it listens again.
    pub(super) fn hung_up(&mut self, number: u64) {
        let id = SocketId::from_number(number);
        let Some((name, listener)) = self.table.owner(id) else { return };
        let (name, of) = (name.clone(), self.whose(&listener.holders));
        if self.table.slot(id).and_then(|slot| slot.state) == Some(Target::Listening) {
            // The holder may be living, and keeps the options that it set for itself.
            self.repair(&name, (id, Target::Listening), of.as_ref(), ListenerSocket::listen_again);
        }
    }

    /// Gives a socket up: its listener is no longer configured.
    pub(super) fn close(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.remove(&id) {
            let endpoint = socket.endpoint();
            self.told.let_go(endpoint);
            self.unmet.forget(id);
            // It may not have been watched, and is not from now on.
            let _ = self.hangups.remove(socket.as_fd());
            self.activations.unwatch(socket.as_fd());
            self.stored.given_up();
            if let Err(error) = socket.release() {
                tracing::warn!(%error, "the path of a socket could not be removed: {error}");
            }
        }
    }

    /// Everything that is not as it was configured.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !self.configuration_faults.is_empty() {
            faults.push(NOT_IN_EFFECT.to_owned());
            faults.extend_from_slice(&self.configuration_faults);
        }
        faults.extend(self.descriptors.fault().map(str::to_owned));
        faults.extend(self.surroundings.faults());
        faults.extend(self.records.fault());
        faults.extend(self.unreadable.iter().cloned());
        faults.extend(self.protection.fault().map(str::to_owned));
        faults.extend(self.activations.faults());
        faults.extend(self.learning.faults());
        faults.extend(self.stored.faults().map(str::to_owned));
        faults.extend(self.outbound.faults());
        faults.extend(self.metrics.faults().cloned());
        faults.extend(self.absent.iter().filter_map(Absent::fault));
        faults.extend(self.unmet.failures(&self.table));
        let mut of_listeners: Vec<_> = self
            .faulty
            .iter()
            .filter_map(|id| {
                let (name, listener) = self.table.owner(*id)?;
                let place = listener.slots.iter().position(|slot| slot.id == *id)?;
                let error = listener.slots.get(place)?.error()?;
                Some((name, place, format!("listener {name:?}: {error}")))
            })
            .collect();
        of_listeners.sort();
        // Shards of one address mostly fail for one reason.
        of_listeners.dedup_by(|(.., next), (.., fault)| next == fault);
        faults.extend(of_listeners.into_iter().map(|(_, _, fault)| fault));
        faults
    }
}

impl From<crate::listeners::UnknownListener> for Refusal {
    fn from(unknown: crate::listeners::UnknownListener) -> Self {
        Self::NoSuchListener(unknown.0)
    }
}
