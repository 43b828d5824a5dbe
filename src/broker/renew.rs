//! A new socket in place of one that a holder has spoilt, beside the old one until that is drained.

use super::authority::administrator;
use super::command::Refusal;
use super::draining::MOST_OF_ONE_ENDPOINT;
use super::effects::{inode_of, with_causes};
use super::{Broker, handover};
use crate::listeners::SocketId;
use crate::model::{Endpoint, ListenerName, SocketKind};
use crate::policy::Caller;
use std::time::Instant;

/// Clients still come to the old socket of a TCP address, and must, where its holder serves them well.
fn is_tcp(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Inet(inet) if inet.kind == SocketKind::Stream)
}

impl Broker {
    /// Gives every socket of a listener a successor.
    pub(super) fn renew(&mut self, caller: &Caller, name: &str) -> Result<(), Refusal> {
        let shown = handover::shown(&[name.to_owned()]);
        administrator(caller, &self.gate, "renew listeners", &format!("renew {shown}"))?;
        let (name, listener) = self.table.get(name)?;
        let name = name.clone();
        let bound: Vec<SocketId> =
            listener.slots.iter().filter(|slot| slot.state.is_some()).map(|slot| slot.id).collect();
        for id in &bound {
            self.can_be_renewed(&name, *id)?;
        }
        let renewed = bound.into_iter().try_for_each(|id| self.renew_socket(&name, id));
        self.act_on(&name, true);
        self.settle_drains();
        self.changed.insert(name);
        renewed
    }

    fn can_be_renewed(&self, name: &ListenerName, id: SocketId) -> Result<(), Refusal> {
        let Some(socket) = self.sockets.get(&id) else { return Ok(()) };
        let endpoint = socket.endpoint();
        if socket.is_abstract() {
            return Err(Refusal::BadArgument(format!(
                "{endpoint} of {name:?} cannot be renewed while somebody has it: an abstract name has one socket. \
                 Stop its holder: what that did to it is mended then"
            )));
        }
        if self.table.draining().at(endpoint).count() >= MOST_OF_ONE_ENDPOINT {
            return Err(Refusal::BadArgument(format!(
                "{endpoint} of {name:?} has {MOST_OF_ONE_ENDPOINT} old sockets already: restart its holder"
            )));
        }
        Ok(())
    }

    fn renew_socket(&mut self, name: &ListenerName, id: SocketId) -> Result<(), Refusal> {
        let Some(old) = self.sockets.get_mut(&id) else { return Ok(()) };
        // Before: what it takes to be bound beside it changes it.
        let serves = is_tcp(old.endpoint()) && !old.keeps_clients_out();
        let new = match old.successor() {
            Ok(new) => new,
            Err(error) => {
                let text = with_causes(&error);
                // A unix path may have been lost on the way: it is seen and put right as after a holder's end.
                self.mend(name, None);
                return Err(Refusal::NotReady(name.to_string(), text));
            }
        };
        let Some(new_id) = self.table.succeed(id, serves, Instant::now()) else { return Ok(()) };
        let (endpoint, inode) = (new.endpoint().clone(), inode_of(&new));
        tracing::info!(event = "renewed", listener = %name, %endpoint, inode, "{endpoint} of {name} has a new socket; the old one is drained");
        self.sockets.insert(new_id, new);
        self.unmet.forget(id);
        self.note_unmet(new_id);
        self.stored.added(new_id);
        Ok(())
    }
}
