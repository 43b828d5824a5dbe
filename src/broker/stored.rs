//! Keeps systemd's store in step with the sockets: what an event has added goes in together, and what it has given up
//! goes by one new box without it.
//!
//! What an event adds is stored before anybody is handed it, or has the answer to a reload: see the callers of
//! [`Broker::keep_stored`].

use super::Broker;
use super::effects::inode_of;
use crate::kernel::socket::ListenerSocket;
use crate::kernel::stored_sockets::{Kept, StoredSockets};
use crate::listeners::SocketId;
use std::os::fd::AsFd as _;

/// The store, and what has yet to be told to it.
#[derive(Debug)]
pub(super) struct Stored {
    store: StoredSockets,
    added: Vec<SocketId>,
    given_up: bool,
}

impl Stored {
    pub(super) fn new(store: StoredSockets) -> Self {
        Self { store, added: Vec::new(), given_up: false }
    }

    /// This socket is new.
    pub(super) fn added(&mut self, id: SocketId) {
        self.added.push(id);
    }

    /// A socket that is stored is to be stored no more.
    pub(super) fn given_up(&mut self) {
        self.given_up = true;
    }
}

fn kept(socket: &ListenerSocket) -> Kept<'_> {
    (inode_of(socket), socket.as_fd())
}

impl Broker {
    /// Tells the store what has changed since the last call.
    pub(super) fn keep_stored(&mut self) {
        let Stored { store, added, given_up } = &mut self.stored;
        if std::mem::take(given_up) || store.is_outdated(self.sockets.len()) {
            store.rewrite(&self.sockets.values().map(kept).collect::<Vec<_>>());
        } else if !added.is_empty() {
            let sockets = added.iter().filter_map(|id| self.sockets.get(id));
            store.add(&sockets.map(kept).collect::<Vec<_>>());
        }
        added.clear();
    }
}
