//! Looks at sockets that were taken over: their holders may have changed them while no daemon was there.
//!
//! To look at a socket takes some fifty system calls. So at the start it is done for those whose holder went
//! meanwhile; others, which nobody held when the last daemon wrote that down, are looked at when they are asked for,
//! or else a few at a time when the daemon serves.
//!
//! What a socket is to be like is forgotten with the daemon that made it. Of one that nobody held it is what it is
//! like now; of one that somebody held it is what a new one would be like, since its holder may have changed it.

use super::Broker;
use crate::listeners::SocketId;
use crate::model::ListenerName;

/// Listeners that are looked at between two other things that the daemon does.
const SOME: usize = 16;

impl Broker {
    /// After the holders are known: `gone` are listeners whose holder is gone.
    pub(super) fn look_at_taken_over(&mut self, gone: Vec<ListenerName>) {
        let taken = self.table.iter().filter(|(_, l)| l.slots.iter().any(|slot| slot.state.is_some()));
        self.unseen = taken.map(|(name, _)| name.clone()).collect();
        gone.iter().for_each(|name| self.look_at(name));
    }

    /// Looks at a listener that was taken over, unless that was done before. The sockets of a living holder are left
    /// as they are; what it does to them from now on is seen.
    pub(super) fn look_at(&mut self, name: &ListenerName) {
        if !self.unseen.remove(name) {
            return;
        }
        let Ok((_, listener)) = self.table.get(name.as_str()) else { return };
        let ids: Vec<SocketId> = listener.slots.iter().map(|slot| slot.id).collect();
        let is_held = !listener.holders.is_empty();
        // Who held it once may have left a copy with somebody.
        for id in ids {
            self.settle(id);
            self.prepare_to_give(id);
        }
        if !is_held {
            self.comparison.looking = true;
            self.mend(name, None);
            self.comparison.looking = false;
        }
    }

    /// Somebody held this listener, and may still. What a socket unit has set on its own sockets is intended.
    pub(super) fn expect_as_made(&mut self, name: &ListenerName) {
        let Ok((_, listener)) = self.table.get(name.as_str()) else { return };
        let inherited = |endpoint| self.loader.inherited.iter().any(|(_, theirs)| theirs.contains(endpoint));
        let ours = listener.slots.iter().filter(|slot| !inherited(&slot.endpoint));
        let ours: Vec<_> = ours.filter_map(|slot| Some((slot.id, slot.state?))).collect();
        for (id, state) in ours {
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.settle();
                socket.remember_options_as_made();
                self.watch_hangups(id, state);
            }
        }
    }

    fn settle(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            socket.settle();
        }
    }

    /// Before somebody else gets a socket: what it is like now is remembered, and its hangups are watched.
    pub(super) fn prepare_to_give(&mut self, id: SocketId) {
        let state = self.table.slot(id).and_then(|slot| slot.state);
        if let (Some(socket), Some(state)) = (self.sockets.get_mut(&id), state)
            && !socket.is_given()
        {
            socket.remember_options();
            self.watch_hangups(id, state);
        }
    }

    /// Looks at a few of those that nobody has asked for.
    pub(super) fn look_at_some(&mut self) {
        let some: Vec<ListenerName> = self.unseen.iter().take(SOME).cloned().collect();
        for name in &some {
            self.look_at(name);
            self.act_on(name, false);
        }
    }
}
