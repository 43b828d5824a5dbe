//! The holders of an earlier daemon: which of them live, and which of the sockets that came are theirs.
//!
//! A socket is known by its inode, whatever its listener is called by now, and whether there is one at all.

use super::Broker;
use super::comparison::Found;
use super::effects::inode_of;
use super::handover::shown;
use super::holders::UNKNOWN;
use super::records::Told as Recorded;
use crate::config::{Idle, SocketOptions};
use crate::kernel::holder::HolderClaim;
use crate::kernel::socket::{AdoptError, ListenerSocket};
use crate::listeners::{HolderId, Listener, Slot, SocketId, Target};
use crate::model::{Endpoint, ListenerName, UnitName};
use crate::state::{Held, HolderRecord, Holders};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Who has a socket, and the name of its listener when that was written down.
type Known = (BTreeSet<HolderId>, ListenerName);

/// Those who live.
#[derive(Debug, Default)]
pub(super) struct KnownHolders {
    by_inode: BTreeMap<u64, Known>,
    incomplete: bool,
}

impl KnownHolders {
    /// Who has a socket.
    pub(super) fn of(&self, inode: u64) -> Option<&Known> {
        self.by_inode.get(&inode)
    }

    /// Whether it is known of some only which listeners they hold, and not which sockets they have.
    pub(super) fn is_incomplete(&self) -> bool {
        self.incomplete
    }
}

impl Broker {
    /// Finds them again, and mends the listeners of those that are gone. To be called when the sockets of listeners
    /// are taken over; what is drained or lingers goes by the result.
    pub(super) fn find_holders(
        &mut self,
        is_takeover: bool,
        is_surplus: impl Fn(&Endpoint) -> bool,
    ) -> KnownHolders {
        let mut known = KnownHolders::default();
        let records = match self.records.read_holders() {
            Recorded::Known(Holders { holders }) => holders,
            Recorded::Nothing if !is_takeover => Vec::new(),
            lost => {
                // Every daemon writes it before it hands anything over. Where there is none, somebody took it away, or
                // nothing was handed over yet: old sockets there are none then.
                let is_lost = lost == Recorded::Lost;
                self.look_at_taken_over(Vec::new());
                self.presume_holders(|endpoint| is_lost && is_surplus(endpoint));
                return KnownHolders { incomplete: true, ..known };
            }
        };
        let mut gone = Vec::new();
        // Of ten thousand sockets it takes a while to ask for the inodes.
        let sockets = if records.is_empty() { HashMap::new() } else { self.by_inode() };
        for held in records {
            let holder = self.admit_again(&held.holder);
            match holder {
                Some(_) => self.comparison.count(Found::Holders, 1),
                None => self.comparison.differs(Found::HoldersGone, || {
                    format!("{}, which held {}, is gone", held.holder, shown(&held.listeners))
                }),
            }
            match &held.sockets {
                Some(_) => self.hold_sockets(holder, &held, &sockets, &mut known, &mut gone),
                None => {
                    known.incomplete = true;
                    self.hold_listeners(holder, &held, &mut gone);
                }
            }
        }
        self.look_at_taken_over(gone);
        known
    }

    /// Nobody knows who holds what: what listens, and would not if nobody held it, may be somebody's; and so may an old
    /// socket, beside which the new one is not to take clients.
    fn presume_holders(&mut self, is_surplus: impl Fn(&Endpoint) -> bool) {
        let old = |slot: &Slot| is_surplus(&slot.endpoint);
        let is_presumed = |listener: &Listener| {
            let listens = |slot: &Slot| slot.state == Some(Target::Listening);
            (listener.config.idle != Idle::Queue && listener.slots.iter().any(listens))
                || listener.slots.iter().any(old)
        };
        let presumed = self.table.iter().filter(|(_, listener)| is_presumed(listener));
        let names: Vec<ListenerName> = presumed.map(|(name, _)| name.clone()).collect();
        for name in &names {
            self.holders.admit_unknown();
            drop(self.table.hold(name, UNKNOWN, Instant::now()));
        }
    }

    fn by_inode(&self) -> HashMap<u64, SocketId> {
        self.sockets.iter().map(|(id, socket)| (inode_of(socket), *id)).collect()
    }

    fn admit_again(&mut self, record: &HolderRecord) -> Option<HolderId> {
        let claim = match record {
            HolderRecord::Process { pid, start } => HolderClaim::process(*pid, *start),
            HolderRecord::Unit { unit, cgroup, life } => UnitName::try_from(unit.as_str())
                .ok()
                .map(|unit| HolderClaim::Unit { unit, cgroup: cgroup.clone(), life: *life }),
            HolderRecord::Unknown => return Some(self.holders.admit_unknown()),
        };
        match self.holders.admit(claim?) {
            Ok(Some((id, _))) => Some(id),
            _ => None,
        }
    }

    fn hold_sockets(
        &mut self,
        holder: Option<HolderId>,
        held: &Held,
        sockets: &HashMap<u64, SocketId>,
        known: &mut KnownHolders,
        gone: &mut Vec<ListenerName>,
    ) {
        let mut seen = BTreeSet::new();
        let mut left = Vec::new();
        for socket in held.sockets.iter().flatten() {
            if let (Some(holder), Ok(name)) = (holder, ListenerName::try_from(socket.listener.as_str())) {
                let of_this = known.by_inode.entry(socket.inode).or_insert((BTreeSet::new(), name));
                of_this.0.insert(holder);
            }
            let Some(&id) = sockets.get(&socket.inode) else {
                left.push(socket.clone());
                continue;
            };
            let Some(name) = self.table.owner(id).map(|(name, _)| name.clone()) else { continue };
            if seen.insert(name.clone()) {
                self.expect_as_made(&name);
            }
            match holder {
                Some(holder) => self.table.hold_socket(id, holder, Instant::now()),
                None => gone.push(name),
            }
        }
        if self.stored.has_left() {
            self.holders.leave(&held.holder, left);
        }
    }

    fn hold_listeners(&mut self, holder: Option<HolderId>, held: &Held, gone: &mut Vec<ListenerName>) {
        for name in held.listeners.iter().filter_map(|name| ListenerName::try_from(name.as_str()).ok()) {
            self.expect_as_made(&name);
            match holder {
                Some(holder) => drop(self.table.hold(&name, holder, Instant::now())),
                None => gone.push(name),
            }
        }
    }

    /// A socket that was stored and whose endpoint is not configured: it lingers where somebody has it.
    pub(super) fn adopt_lingering(&mut self, endpoint: &Endpoint, socket: OwnedFd, held: Option<&Known>) {
        let Some((holders, name)) = held else {
            self.told.let_go(endpoint);
            self.comparison.differs(Found::LetGo, || format!("{endpoint} is no longer configured: let go"));
            return self.stored.given_up();
        };
        match lingering(socket, endpoint) {
            Ok(socket) if !self.table.may_linger(endpoint) => {
                self.told.let_go(endpoint);
                self.comparison
                    .differs(Found::LetGo, || format!("{endpoint} has the path of another now: let go"));
                self.stored.given_up();
                if let Err(error) = socket.release() {
                    tracing::warn!(%error, "the path of a socket could not be removed: {error}");
                }
            }
            Ok(socket) => {
                let drained = self.draining_written.inodes.contains(&inode_of(&socket));
                let id = self.table.linger(name.clone(), endpoint, holders.iter().copied(), drained);
                self.sockets.insert(id, socket);
                self.comparison.count(Found::Lingering, 1);
                self.say_lingers(id);
            }
            Err(error) => {
                tracing::warn!(%error, %endpoint, "the socket of {endpoint}, which is no longer configured, is let go: {error}");
                let what = || format!("{endpoint}, which lingers, cannot be taken over: {error}");
                self.comparison.differs(Found::Unusable, what);
                self.stored.given_up();
            }
        }
    }
}

/// As it is: its holder serves it. A path goes with it in the end.
fn lingering(socket: OwnedFd, endpoint: &Endpoint) -> Result<ListenerSocket, AdoptError> {
    let options = SocketOptions::default();
    match endpoint {
        Endpoint::Inet(_) => ListenerSocket::adopt_draining(socket, endpoint, &options),
        Endpoint::Unix(_) => ListenerSocket::adopt_known(socket, endpoint, &options),
    }
}
