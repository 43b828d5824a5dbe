//! Sockets that are drained: surplus shards, and those that were renewed. What is decided in `listeners` is done here.
//!
//! They are the holders' until these are gone, and then closed when nothing waits in them any more. Where the kernel
//! moves what waits to the other sockets of the address, that is at once: it is asked to do so as long as there are
//! shards, or sockets to drain.

use super::Broker;
use super::effects::{inode_of, with_causes};
use super::records::Records;
use crate::kernel::migrate_requests::MigrateRequests;
use crate::kernel::socket::ListenerSocket;
use crate::listeners::{DrainStep, Facts, HolderId, Listener, SocketId, Target};
use crate::model::{Endpoint, ListenerName, SocketKind};
use crate::state::Drained;
use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::time::Instant;

/// More old sockets of one address are not kept: somebody renews it again and again.
pub(super) const MOST_OF_ONE_ENDPOINT: usize = 64;

/// Whether waiting connections go over to another socket of their group, and whether that is our doing.
pub(super) struct Migration {
    kernel: MigrateRequests,
    /// We switched it on, or an earlier daemon did, and nobody needed it before.
    ours: bool,
    /// It could not be switched, which was said; it is tried again with the next configuration.
    said: bool,
}

impl Migration {
    pub(super) fn new(kernel: MigrateRequests, records: &Records) -> Self {
        Self { kernel, ours: records.migrates(), said: false }
    }

    pub(super) fn is_on(&self) -> bool {
        self.kernel.is_on()
    }

    /// It may be possible by now.
    pub(super) fn try_again(&mut self) {
        self.said = false;
    }

    /// Writes down whether it was us.
    pub(super) fn write(&self, records: &Records) {
        records.write_migrates(self.ours);
    }

    /// Switches it on where it is needed, and off again where it is not and where that was us.
    fn want(&mut self, needed: bool, records: &Records) {
        if !(needed || self.ours) || self.said || needed == self.is_on() {
            return;
        }
        // That it is ours is written down before it is, and taken back after: what we change and then forget would stay
        // so for ever.
        records.write_migrates(true);
        match self.kernel.set(needed) {
            Ok(()) => {
                self.ours = needed;
                records.write_migrates(needed);
                let value = u8::from(needed);
                tracing::info!(event = "tcp-migrate-req", value, "set net.ipv4.tcp_migrate_req to {value}");
            }
            Err(error) => {
                records.write_migrates(self.ours);
                self.said = true;
                let error = with_causes(&error);
                tracing::warn!(error, "{error}");
            }
        }
    }
}

impl Broker {
    /// Looks at all sockets that are drained and that nobody has any more; to be called whenever that may have changed.
    pub(super) fn settle_drains(&mut self) {
        self.ask_for_migration();
        let unheld: Vec<SocketId> = self.table.draining().unheld().collect();
        for id in unheld {
            self.settle_drain(id);
        }
        self.ask_for_migration();
        self.write_draining();
    }

    fn ask_for_migration(&mut self) {
        let tcp =
            |endpoint: &Endpoint| matches!(endpoint, Endpoint::Inet(inet) if inet.kind == SocketKind::Stream);
        let has_shards = |l: &Listener| l.config.options.shards > 1 && l.config.endpoints.iter().any(tcp);
        let needed = self.table.iter().any(|(_, listener)| has_shards(listener))
            || self.table.draining().iter().any(|(_, drain)| tcp(&drain.endpoint));
        self.migration.want(needed, &self.records);
    }

    /// No daemon follows: nothing is to be as we made it.
    pub(super) fn migrate_no_more(&mut self) {
        self.migration.want(false, &self.records);
    }

    fn settle_drain(&mut self, id: SocketId) {
        loop {
            let Some(socket) = self.sockets.get(&id) else { return };
            let facts = Facts {
                waiting: socket.queue().is_ok_and(|queue| queue.waiting > 0),
                listens: self.has_listening(socket.endpoint()),
                migrates: self.migration.is_on(),
            };
            let step = self.table.drain(id, facts, Instant::now());
            let done = match step {
                DrainStep::Close => return self.close_drained(id),
                DrainStep::Leave => return,
                DrainStep::Quieten => socket.quieten(),
                DrainStep::Reopen => socket.reopen(),
            };
            if let Err(error) = done {
                // A locked filter, of a socket that is drained because of it: then it is quiet already.
                tracing::debug!(%error, endpoint = %socket.endpoint(), ?step, "cannot do that with an old socket");
            }
            if step == DrainStep::Reopen {
                return;
            }
        }
    }

    /// Whether a socket that is not drained listens there.
    fn has_listening(&self, endpoint: &Endpoint) -> bool {
        self.table.listener_at(endpoint).is_some_and(|(_, listener)| {
            let mut slots = listener.slots.iter().filter(|slot| slot.endpoint == *endpoint);
            slots.any(|slot| slot.state == Some(Target::Listening))
        })
    }

    fn close_drained(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.get(&id) {
            let (endpoint, inode) = (socket.endpoint(), inode_of(socket));
            tracing::info!(event = "drained", %endpoint, inode, "an old socket of {endpoint} has nothing more to do and is closed");
        }
        self.close_old(id);
    }

    fn close_old(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.remove(&id) else { return };
        self.unmet.forget(id);
        let endpoint = socket.endpoint().clone();
        let _ = self.hangups.remove(socket.as_fd());
        self.stored.given_up();
        socket.retire();
        let name = self.table.listener_at(&endpoint).map(|(name, _)| name.clone());
        self.changed.extend(name);
    }

    /// The old sockets of a listener in which something waits that nobody else will take: they go to whoever is
    /// handed the listener. Not where what waits goes over to the others anyway.
    pub(super) fn to_hand_on(&self, name: &ListenerName) -> Vec<SocketId> {
        // With every hand-over: to ask the kernel takes longer than all the rest of it.
        if self.table.draining().iter().next().is_none() {
            return Vec::new();
        }
        if self.migration.is_on() {
            // Of UDP and unix sockets nothing goes over.
            return self.waiting_drains(
                name,
                |endpoint| !matches!(endpoint, Endpoint::Inet(inet) if inet.kind == SocketKind::Stream),
            );
        }
        self.waiting_drains(name, |_| true)
    }

    /// The old sockets of a listener in which something waits.
    pub(super) fn waiting_drains(
        &self,
        name: &ListenerName,
        which: impl Fn(&Endpoint) -> bool,
    ) -> Vec<SocketId> {
        if self.table.draining().is_empty() {
            return Vec::new();
        }
        let Ok((_, listener)) = self.table.get(name.as_str()) else { return Vec::new() };
        let mut found = Vec::new();
        for endpoint in listener.config.endpoints.iter().filter(|endpoint| which(endpoint)) {
            let waits = |id: &SocketId| {
                let queue = self.sockets.get(id).and_then(|socket| socket.queue().ok());
                queue.is_some_and(|queue| queue.waiting > 0)
            };
            found.extend(self.table.draining().at(endpoint).filter(waits));
        }
        found
    }

    /// Ends the old sockets in which something waits, now that a listener went to somebody who cannot take them too.
    /// Nobody would ever serve who waits there, and at an open TCP socket ever more would come to wait. Who is cut
    /// off can connect again, to the sockets that are served.
    pub(super) fn end_drains(&mut self, name: &ListenerName) {
        let unheld: BTreeSet<SocketId> = self.table.draining().unheld().collect();
        for id in self.to_hand_on(name).into_iter().filter(|id| unheld.contains(id)) {
            if let Some(socket) = self.sockets.get(&id) {
                let (endpoint, inode) = (socket.endpoint(), inode_of(socket));
                tracing::warn!(event = "drained", listener = %name, %endpoint, inode, "an old socket of {endpoint} is closed, and who waited in it cut off: {name} went to a unit, which takes no old sockets");
            }
            self.table.end_drain(id);
            self.close_old(id);
        }
        self.write_draining();
    }

    /// Notes that they were handed on.
    pub(super) fn handed_on(&mut self, drains: &[SocketId], holder: HolderId) {
        for id in drains {
            if let Some(Err(error)) = self.sockets.get(id).map(ListenerSocket::reopen) {
                tracing::debug!(%error, "cannot open an old socket again");
            }
            self.table.hand_on(*id, holder);
        }
        if !drains.is_empty() {
            self.write_holders();
        }
    }

    /// Writes down which of the stored sockets are drained, for the next daemon.
    pub(super) fn write_draining(&mut self) {
        let lingering = self.table.lingering().iter().filter(|(_, linger)| linger.is_drained());
        let drains = self.table.draining().iter().map(|(id, _)| id).chain(lingering.map(|(id, _)| id));
        let sockets = drains.filter_map(|id| self.sockets.get(&id));
        let mut inodes: Vec<u64> = sockets.map(inode_of).collect();
        if self.stored.has_left() {
            // Those are for a daemon that has them.
            let ours: BTreeSet<u64> = self.sockets.values().map(inode_of).collect();
            inodes.extend(self.draining_written.inodes.iter().filter(|inode| !ours.contains(inode)));
        }
        inodes.sort_unstable();
        inodes.dedup();
        let drained = Drained { inodes };
        if drained != self.draining_written {
            self.records.write_draining(&drained);
            self.draining_written = drained;
            self.write_holders();
        }
    }
}
