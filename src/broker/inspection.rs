//! Looks at sockets that were taken over: their holders may have changed them while no daemon was there.
//!
//! To look at a socket takes some fifty system calls. So at the start it is done for those whose holder went
//! meanwhile; others, which nobody held when the last daemon wrote that down, are looked at when they are asked for,
//! or else a few at a time when the daemon serves.

use super::Broker;
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
        if listener.holders.is_empty() {
            return self.mend(name);
        }
        for slot in &listener.slots {
            if let Some(socket) = self.sockets.get_mut(&slot.id) {
                socket.remember_options();
            }
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
