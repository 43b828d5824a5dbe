//! The start: sockets of an earlier life and of socket units are taken over, the rest is bound.

use super::activation::Activations;
use super::command::Handle;
use super::draining::Migration;
use super::effects::inode_of;
use super::holders::Holders;
use super::learning::Learning;
use super::options::say_unmet;
use super::outbound::Outbound;
use super::protection::Protection;
use super::records::{Records, Told as Recorded};
use super::reload::{Loader, errors_of};
use super::stored::Stored;
use super::told::Told;
use super::{ASSERT_RESERVED_PORTS, Broker, COMMANDS, NOTICES};
use crate::config::{Checked, Idle};
use crate::kernel::hangups::HangupWatch;
use crate::kernel::holder::{HolderClaim, HolderWatch};
use crate::kernel::migrate_requests::MigrateRequests;
use crate::kernel::reserved_ports::ReservedPorts;
use crate::kernel::socket::{Identity, ListenerSocket, SocketState, endpoint_of, identify_stored, inode};
use crate::kernel::socket_owner;
use crate::kernel::stored_sockets::{STORED, StoredSockets};
use crate::kernel::timer::Every;
use crate::listeners::{BySocket, Change, HolderId, Listener, Slot, SocketId, Target};
use crate::model::{Endpoint, ListenerName, UnitName};
use crate::sources::Locations;
use crate::state::{Held, HolderRecord, Holders as HoldersFile};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;
use tokio::sync::{broadcast, mpsc};

/// What the broker starts with.
#[derive(Debug)]
pub struct Start {
    /// Where the configuration is.
    pub locations: Locations,
    /// Where it writes down what the next daemon has to know; it exists.
    pub runtime_directory: PathBuf,
    /// Where it keeps what it has learned; it may be missing.
    pub state_directory: PathBuf,
    /// Sockets that came with LISTEN_FDS, by name, without the private socket.
    pub inheritance: Inheritance,
}

/// Sockets that came with LISTEN_FDS.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Those that an earlier daemon had put into systemd's store, under its names.
    stored: Vec<(String, OwnedFd)>,
    /// Those that a socket unit, or another starter, gave a listener's name.
    named: Vec<(ListenerName, OwnedFd)>,
}

impl Inheritance {
    /// Sorts what came with LISTEN_FDS. What has no valid name is closed, and the log says so.
    #[must_use]
    pub fn new(sockets: Vec<(String, OwnedFd)>) -> Self {
        let mut inheritance = Self::default();
        for (name, socket) in sockets {
            if name.starts_with(STORED) {
                inheritance.stored.push((name, socket));
            } else {
                match ListenerName::try_from(name.as_str()) {
                    Ok(name) => inheritance.named.push((name, socket)),
                    Err(error) => {
                        tracing::warn!(%error, name, "the inherited socket {name:?} is closed: {error}")
                    }
                }
            }
        }
        inheritance
    }
}

/// A socket that came, and what the kernel says that it is, where it was stored.
struct Candidate {
    socket: OwnedFd,
    stored: Option<Identity>,
}

/// Sockets that were stored, by what the kernel says that they are.
#[derive(Default)]
struct Identified {
    found: Found,
    /// Why the others are none of ours.
    refused: Vec<std::io::Error>,
}

impl Identified {
    fn of(stored: Vec<OwnedFd>) -> Self {
        let mut identified = Self { found: Found::with_capacity(stored.len()), refused: Vec::new() };
        for socket in stored {
            match identify_stored(socket.as_fd()) {
                Ok(identity) => {
                    let of_endpoint = identified.found.entry(identity.endpoint.clone()).or_default();
                    of_endpoint.push(Candidate { socket, stored: Some(identity) });
                }
                Err(error) => identified.refused.push(error),
            }
        }
        identified
    }
}

/// Fewer sockets than this are identified sooner than a thread begins.
const WORTH_A_THREAD: usize = 1000;

/// Asks the kernel what the stored sockets are, and does something else besides: of ten thousand listeners, reading
/// the configuration takes as long, and every client waits meanwhile.
fn identify_beside<T>(stored: Vec<OwnedFd>, other: impl FnOnce() -> T) -> (Identified, T) {
    let few = stored.len() < WORTH_A_THREAD;
    let identify = || Identified::of(stored);
    if few {
        return (identify(), other());
    }
    std::thread::scope(|scope| {
        let known = scope.spawn(identify);
        let other = other();
        (known.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), other)
    })
}

/// What came, by what the kernel says that it is bound to. An endpoint may have several: shards, and old sockets that
/// are drained.
type Found = HashMap<Endpoint, Vec<Candidate>>;

/// The broker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has errors, and nothing was inherited that would have to be kept.
    #[error("the configuration has faults:\n{0}")]
    Configuration(String),
    /// The same, with sockets that would be lost if the daemon gave up.
    #[error(
        "the configuration has faults, and there is no last good one to go on with ({last_good}); the sockets stay in the \
         descriptor store, and connections wait in them, until it is put right:\n{faults}"
    )]
    Stuck {
        /// What is wrong with the configuration.
        faults: String,
        /// What is wrong with the last good one.
        last_good: String,
    },
    /// The kernel refused what the broker cannot do without.
    #[error("cannot watch sockets and holders: {0}")]
    Kernel(#[from] std::io::Error),
}

impl Broker {
    /// Takes over what there is, binds what is missing, and brings everything into its state.
    pub fn start(start: Start) -> Result<(Self, Handle), StartError> {
        let (store, stored) = StoredSockets::from_env(start.inheritance.stored);
        let is_takeover = !stored.is_empty();
        let (inherited, named) = endpoints_of(start.inheritance.named);
        let loader = Loader { locations: start.locations, inherited };
        let records = Records::new(&start.runtime_directory);
        let (stored, chosen) = identify_beside(stored, || choose(&loader, &records, is_takeover));
        let (checked, configuration_faults) = chosen?;
        let (send, commands) = mpsc::channel(COMMANDS);
        let (notices, _) = broadcast::channel(NOTICES);
        let handle = Handle { commands: send, notices: notices.downgrade() };
        let mut broker = Self {
            table: crate::listeners::Table::default(),
            sockets: BySocket::default(),
            hangups: HangupWatch::new()?,
            activations: Activations::new(start.runtime_directory.clone())?,
            holders: Holders::new(HolderWatch::new()?),
            protection: Protection::new(ReservedPorts::default(), &records),
            learning: Learning::new(&start.state_directory),
            migration: Migration::new(MigrateRequests::default(), &records),
            outbound: Outbound::new(&start.runtime_directory)?,
            draining_written: records.read_draining(),
            deposits: records.read_deposits(),
            // What was stored listens, and is our user's.
            alone: !is_takeover && !socket_owner::our_user_listens(),
            assert: Every::new(ASSERT_RESERVED_PORTS)?,
            stored: Stored::new(store),
            unreadable: Vec::new(),
            records,
            loader,
            configuration_faults,
            announced: Vec::new(),
            touched: true,
            unseen: BTreeSet::new(),
            told: Told::default(),
            started_with: None,
            trim_at: None,
            faulty: BTreeSet::new(),
            changed: BTreeSet::new(),
            notices,
            commands,
        };
        broker.take_over(stored, named, &checked, is_takeover);
        broker.put_into_effect(&checked, Change::default());
        broker.alone = false;
        broker.look_aside();
        broker.changed.clear();
        broker.started_with = Some(checked);
        Ok((broker, handle))
    }

    /// Matches the sockets that came with the configuration, by what the kernel says that they are.
    fn take_over(
        &mut self,
        stored: Identified,
        named: Vec<(Endpoint, OwnedFd)>,
        checked: &Checked,
        is_takeover: bool,
    ) {
        let Identified { mut found, refused } = stored;
        for error in refused {
            tracing::warn!(%error, "a stored socket is none of ours: {error}");
            self.stored.given_up();
        }
        for (endpoint, socket) in named {
            // Stored is what the last daemon had: where that is not what the socket unit gives once more,
            // then because the socket unit's own had been spoilt. Of several of one address the last one counts.
            let of_endpoint = found.entry(endpoint).or_default();
            if of_endpoint.iter().all(|candidate| candidate.stored.is_none()) {
                *of_endpoint = vec![Candidate { socket, stored: None }];
            }
        }
        // The table has its slots from here on, and `put_into_effect` binds what is missing.
        self.table.configure(&checked.config.listeners, Instant::now());
        self.sockets.reserve(found.len().max(checked.config.listeners.len()));
        // Those that somebody has are written down with who has them, too.
        let recorded = self.records.read_holders();
        let old =
            recorded.table().into_iter().flat_map(|holders| &holders.holders).flat_map(|held| &held.drained);
        let old: HashSet<u64> = self.draining_written.inodes.iter().chain(old).copied().collect();
        let slots: Vec<_> =
            self.table.iter().flat_map(|(n, l)| l.slots.iter().map(|s| (n.clone(), s.clone()))).collect();
        for (listener, slot) in slots {
            let Some(candidates) = found.get_mut(&slot.endpoint) else { continue };
            let is_old = |inode: u64| old.contains(&inode);
            let is_current = |c: &Candidate| {
                old.is_empty() || !(c.stored.is_some() && inode(c.socket.as_fd()).is_some_and(is_old))
            };
            let Some(current) = candidates.iter().position(is_current) else { continue };
            self.adopt(&listener, &slot, candidates.remove(current));
        }
        let held = self.find_holders(recorded, is_takeover, &found);
        for (endpoint, candidates) in found {
            for candidate in candidates {
                self.adopt_surplus(&endpoint, candidate, held.as_ref());
            }
        }
        self.table.wait_where_served();
    }

    fn adopt(&mut self, listener: &ListenerName, slot: &Slot, candidate: Candidate) {
        let Ok((_, owner)) = self.table.get(listener.as_str()) else { return };
        let options = &owner.config.options;
        let is_stored = candidate.stored.is_some();
        let adopted = match &candidate.stored {
            Some(identity) => ListenerSocket::adopt_stored(candidate.socket, identity, options),
            None => ListenerSocket::adopt_known(candidate.socket, &slot.endpoint, options),
        };
        match adopted {
            Ok(socket) => {
                let state = match socket.expected_state() {
                    SocketState::Listening => Target::Listening,
                    SocketState::Reserved => Target::Refusing,
                };
                self.told.taken_over(listener, &socket);
                say_unmet(listener, &socket);
                self.sockets.insert(slot.id, socket);
                self.table.succeeded(slot.id, state, Instant::now());
                self.watch_hangups(slot.id, state);
                if !is_stored {
                    self.stored.added(slot.id);
                }
            }
            Err(error) => {
                tracing::error!(%listener, endpoint = %slot.endpoint, %error, "cannot take {} for {listener} over: {error}", slot.endpoint);
                if is_stored {
                    self.stored.given_up();
                }
            }
        }
    }

    /// A socket that no listener has a place for: one of an endpoint that is configured is drained.
    fn adopt_surplus(&mut self, endpoint: &Endpoint, candidate: Candidate, held: Option<&HeldInodes>) {
        if candidate.stored.is_none() {
            return;
        }
        let Some((_, listener)) = self.table.listener_at(endpoint) else {
            self.told.let_go(endpoint);
            return self.stored.given_up();
        };
        match ListenerSocket::adopt_draining(candidate.socket, endpoint, &listener.config.options) {
            Ok(socket) => {
                let holders = held.map(|held| held.get(&inode_of(&socket)).cloned().unwrap_or_default());
                let id = self.table.adopt_draining(endpoint, holders);
                self.sockets.insert(id, socket);
            }
            Err(error) => {
                tracing::warn!(%error, %endpoint, "an old socket of {endpoint} is let go: {error}");
                self.stored.given_up();
            }
        }
    }

    /// Finds the holders of the earlier daemon again, and mends the listeners of those that are gone. Returns who has
    /// which sockets, where that is known.
    fn find_holders(
        &mut self,
        recorded: Recorded<HoldersFile>,
        is_takeover: bool,
        surplus: &Found,
    ) -> Option<HeldInodes> {
        let holders = match recorded {
            Recorded::Known(holders) => holders,
            Recorded::Nothing if !is_takeover => HoldersFile::default(),
            lost => {
                self.look_at_taken_over(Vec::new());
                // Every daemon writes it before it hands anything over. Where there is none, somebody took it away, or
                // nothing was handed over yet: old sockets there are none then.
                let nothing = Found::default();
                self.presume_holders(if lost == Recorded::Lost { surplus } else { &nothing });
                return None;
            }
        };
        let by_inode = self.by_inode(&holders);
        let mut known = HeldInodes::default();
        let mut gone = Vec::new();
        for held in &holders.holders {
            let holder = self.holder_again(&held.holder);
            if let Some(id) = holder {
                let inodes = held.listeners.iter().flat_map(|listener| &listener.inodes).chain(&held.drained);
                inodes.for_each(|inode| {
                    known.entry(*inode).or_default().insert(id);
                });
            }
            for name in held_names(held, &by_inode) {
                self.expect_as_made(&name);
                match holder {
                    Some(id) => self.table.hold(&name, id, Instant::now()),
                    None => gone.push(name),
                }
            }
        }
        self.look_at_taken_over(gone);
        holders.has_inodes.then_some(known)
    }

    fn holder_again(&mut self, record: &HolderRecord) -> Option<HolderId> {
        let claim = match record {
            HolderRecord::Process { pid, start } => HolderClaim::process(*pid, *start)?,
            HolderRecord::Unit { unit, cgroup, life } => {
                let unit = UnitName::try_from(unit.as_str()).ok()?;
                HolderClaim::Unit { unit, cgroup: cgroup.clone(), life: *life }
            }
            HolderRecord::Unknown => return Some(self.holders.admit_unknown()),
        };
        Some(self.holders.admit(claim).ok()??.0)
    }

    /// The listeners of now, by the inodes that holders have.
    fn by_inode(&self, holders: &HoldersFile) -> HashMap<u64, ListenerName> {
        if !holders.has_inodes || holders.holders.is_empty() {
            return HashMap::new();
        }
        let of = |(id, socket): (&SocketId, _)| Some((inode_of(socket), self.table.owner(*id)?.0.clone()));
        self.sockets.iter().filter_map(of).collect()
    }

    /// Nobody knows who holds what: what listens, and would not if nobody held it, may be somebody's; and so may an old
    /// socket, beside which the new one is not to take clients.
    fn presume_holders(&mut self, surplus: &Found) {
        let is_surplus = |slot: &Slot| surplus.get(&slot.endpoint).is_some_and(|left| !left.is_empty());
        let listens = |listener: &Listener| {
            (listener.config.idle != Idle::Queue || listener.slots.iter().any(is_surplus))
                && listener.slots.iter().any(|slot| slot.state == Some(Target::Listening) || is_surplus(slot))
        };
        let names: Vec<ListenerName> =
            self.table.iter().filter(|(_, l)| listens(l)).map(|(name, _)| name.clone()).collect();
        if names.is_empty() {
            return;
        }
        let unknown = self.holders.admit_unknown();
        for name in &names {
            self.table.hold(name, unknown, Instant::now());
        }
    }
}

/// Who has which sockets.
type HeldInodes = HashMap<u64, BTreeSet<HolderId>>;

/// What a holder holds, under the names of now: by its name, and by its sockets whatever they are called.
fn held_names(held: &Held, by_inode: &HashMap<u64, ListenerName>) -> BTreeSet<ListenerName> {
    let names = held.listeners.iter().filter_map(|held| ListenerName::try_from(held.name.as_str()).ok());
    let inodes = held.listeners.iter().flat_map(|held| &held.inodes);
    names.chain(inodes.filter_map(|inode| by_inode.get(inode).cloned())).collect()
}

/// The named sockets by listener, as the configuration wants to know them, and each with its endpoint.
type Named = (Vec<(ListenerName, Vec<Endpoint>)>, Vec<(Endpoint, OwnedFd)>);

fn endpoints_of(named: Vec<(ListenerName, OwnedFd)>) -> Named {
    let mut found = Vec::new();
    let mut inherited: Vec<(ListenerName, Vec<Endpoint>)> = Vec::new();
    for (name, socket) in named {
        let endpoint = match endpoint_of(socket.as_fd()) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                tracing::warn!(%error, listener = %name, "what was inherited as {name} is no bound socket and is closed: {error}");
                continue;
            }
        };
        match inherited.iter_mut().find(|(known, _)| *known == name) {
            Some((_, endpoints)) => endpoints.push(endpoint.clone()),
            None => inherited.push((name, vec![endpoint.clone()])),
        }
        found.push((endpoint, socket));
    }
    (inherited, found)
}

/// The configuration to start with: the one on disk, or, where that has errors and sockets were inherited
/// that must not be lost, the last good one, with the errors.
fn choose(loader: &Loader, records: &Records, inherited: bool) -> Result<(Checked, Vec<String>), StartError> {
    let checked = loader.load();
    let Some(errors) = errors_of(&checked) else { return Ok((checked, Vec::new())) };
    if inherited {
        let last_good = loader.load_file(records.last_good());
        if let Some(of_last_good) = errors_of(&last_good) {
            let (faults, last_good) = (errors.join("\n"), of_last_good.join("; "));
            return Err(StartError::Stuck { faults, last_good });
        }
        for error in &errors {
            tracing::error!(event = "configuration", "{error}");
        }
        tracing::error!("the configuration has faults; the last good one goes on");
        return Ok((last_good, errors));
    }
    Err(StartError::Configuration(errors.join("\n")))
}
