//! The start: sockets of an earlier life and of socket units are taken over, the rest is bound.

use super::activation::Activations;
use super::command::Handle;
use super::comparison::{Comparison, Found as Counted};
use super::descriptors::Descriptors;
use super::draining::Migration;
use super::gate::Gate;
use super::hidden::mind_what_is_hidden;
use super::holders::Holders;
use super::known_holders::KnownHolders;
use super::learning::Learning;
use super::log_gauge::LogGauge;
use super::options::NotInEffect;
use super::outbound::Outbound;
use super::protection::Protection;
use super::queue::{Queue, Turn};
use super::records::Records;
use super::reload::{Loader, Reloads, errors_of};
use super::scrape_sockets::ScrapeSockets;
use super::shown::Shown;
use super::stored::Stored;
use super::surroundings::Surroundings;
use super::tally::Tally;
use super::told::Told;
use super::{ASSERT_RESERVED_PORTS, Broker, NOTICES};
use crate::config::{Checked, Fault};
use crate::kernel::hangups::HangupWatch;
use crate::kernel::holder::HolderWatch;
use crate::kernel::migrate_requests::MigrateRequests;
use crate::kernel::reserved_ports::ReservedPorts;
use crate::kernel::socket::{Identity, ListenerSocket, SocketState, endpoint_of, identify_stored, inode};
use crate::kernel::socket_owner;
use crate::kernel::stored_sockets::{STORED, StoredSockets, leave_what_has_no_room};
use crate::kernel::timer::Every;
use crate::listeners::{BySocket, Change, Slot, Target};
use crate::model::{Endpoint, ListenerName};
use crate::sources::Locations;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::broadcast;

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
    /// How its log is.
    pub log: LogGauge,
}

/// Sockets that came with LISTEN_FDS.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Those that an earlier daemon had put into systemd's store, under its names.
    stored: Vec<(String, OwnedFd)>,
    /// The names of those of which this process has no copy, for want of descriptors.
    left: Vec<String>,
    /// Those that a socket unit, or another starter, gave a listener's name.
    named: Vec<(ListenerName, OwnedFd)>,
}

impl Inheritance {
    /// Sorts what came with LISTEN_FDS. What has no valid name is closed, and the log says so. To be called before other
    /// descriptors are opened: where there are hardly any, there are some afterwards.
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
        inheritance.left = leave_what_has_no_room(&mut inheritance.stored);
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
    if stored.len() < WORTH_A_THREAD {
        return (Identified::of(stored), other());
    }
    // Where there can be no thread (its stack takes memory) it is done here, so what it would take is kept at hand.
    let stored = Mutex::new(stored);
    let identify =
        || Identified::of(std::mem::take(&mut *stored.lock().unwrap_or_else(PoisonError::into_inner)));
    std::thread::scope(|scope| {
        let known = std::thread::Builder::new().spawn_scoped(scope, identify);
        let other = other();
        match known {
            Ok(known) => (known.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), other),
            Err(_) => (identify(), other),
        }
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
        let Inheritance { stored, left, named } = start.inheritance;
        let (store, stored) = StoredSockets::from_env(stored, &left);
        let is_takeover = !stored.is_empty() || store.unseen().is_some();
        let (inherited, named) = endpoints_of(named);
        let loader = Loader { locations: start.locations, inherited };
        let records = Records::new(&start.runtime_directory);
        let (stored, chosen) = identify_beside(stored, || choose(&loader, &records, is_takeover));
        let (checked, configuration_faults) = chosen?;
        let (notices, _) = broadcast::channel(NOTICES);
        let gate = Gate::new(start.log.clone());
        let queue = Queue::new(gate.clone());
        let tally = Tally::default();
        let handle = Handle {
            queue: queue.clone(),
            turn: Turn::OWN,
            gate: gate.clone(),
            notices: notices.downgrade(),
            history: super::History::default(),
            tally: tally.clone(),
        };
        let mut broker = Self {
            table: crate::listeners::Table::default(),
            sockets: BySocket::default(),
            hangups: HangupWatch::new()?,
            activations: Activations::new(start.runtime_directory.clone())?,
            holders: Holders::new(HolderWatch::new()?),
            protection: Protection::new(ReservedPorts::default(), &records),
            learning: Learning::new(&start.state_directory),
            migration: Migration::new(MigrateRequests::default(), &records),
            outbound: Outbound::new(&start.runtime_directory, gate.clone(), tally.clone())?,
            draining_written: records.read_draining(),
            deposits: records.read_deposits(),
            // What was stored listens, and is our user's.
            alone: !is_takeover && !socket_owner::our_user_listens(),
            assert: Every::new(ASSERT_RESERVED_PORTS)?,
            stored: Stored::new(store),
            descriptors: Descriptors::default(),
            surroundings: Surroundings::default(),
            unreadable: Vec::new(),
            records,
            loader,
            configuration_faults,
            announced: Vec::new(),
            touched: true,
            unseen: BTreeSet::new(),
            comparison: Comparison::new(is_takeover),
            told: Told::default(),
            started_with: None,
            trim_at: None,
            faulty: BTreeSet::new(),
            absent: BTreeSet::new(),
            unmet: NotInEffect::default(),
            reloads: Reloads::default(),
            changed: BTreeSet::new(),
            notices,
            shown: Shown::default(),
            queue,
            gate,
            metrics: ScrapeSockets::new(&start.runtime_directory),
            tally,
        };
        if broker.stored.has_left() {
            broker.gate.see_overfull();
        }
        broker.take_over(stored, named, &checked, is_takeover);
        if is_takeover {
            broker.table.stay_closed(Instant::now());
            broker.compare();
        }
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
        let left = usize::try_from(self.stored.left()).unwrap_or(usize::MAX);
        let taken = found.values().map(Vec::len).sum::<usize>() + refused.len();
        self.comparison.count(Counted::Stored, taken.saturating_add(left));
        self.comparison.count(Counted::Left, left);
        for error in refused {
            tracing::warn!(%error, "a stored socket is none of ours: {error}");
            self.comparison
                .differs(Counted::Unusable, || format!("a stored socket is none of ours: {error}"));
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
        let old: HashSet<u64> = self.draining_written.inodes.iter().copied().collect();
        let slots: Vec<_> =
            self.table.iter().flat_map(|(n, l)| l.slots.iter().map(|s| (n.clone(), s.clone()))).collect();
        for (listener, slot) in slots {
            let Some(candidates) = found.get_mut(&slot.endpoint) else { continue };
            let is_old = |inode: u64| old.contains(&inode);
            let is_current = |c: &Candidate| {
                old.is_empty() || !(c.stored.is_some() && inode(c.socket.as_fd()).is_some_and(is_old))
            };
            // Where a kill came before it was written down which one is old: one that is drained, and that nobody
            // has, has been closed to clients.
            let listens = |c: &Candidate| c.stored.as_ref().is_some_and(|identity| identity.listens);
            let current = candidates.iter().position(|c| is_current(c) && listens(c));
            let Some(current) = current.or_else(|| candidates.iter().position(is_current)) else { continue };
            self.adopt(&listener, &slot, candidates.remove(current));
        }
        let known = self
            .find_holders(is_takeover, |endpoint| found.get(endpoint).is_some_and(|left| !left.is_empty()));
        for (endpoint, candidates) in found {
            for candidate in candidates {
                self.adopt_surplus(&endpoint, candidate, &known);
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
                if is_stored {
                    self.comparison.count(Counted::Kept, 1);
                    self.comparison.options(listener, &slot.endpoint, socket.was_unmet(), &socket.unmet());
                }
                self.sockets.insert(slot.id, socket);
                self.note_unmet(slot.id);
                self.table.succeeded(slot.id, state, Instant::now());
                self.watch_hangups(slot.id, state);
                if !is_stored {
                    self.stored.added(slot.id);
                }
            }
            Err(error) => {
                tracing::error!(%listener, endpoint = %slot.endpoint, %error, "cannot take {} for {listener} over: {error}", slot.endpoint);
                if is_stored {
                    let endpoint = &slot.endpoint;
                    let what = || format!("{endpoint} of {listener} cannot be taken over: {error}");
                    self.comparison.differs(Counted::Unusable, what);
                    self.stored.given_up();
                }
            }
        }
    }

    /// A socket that no listener has a place for: one of an endpoint that is configured is drained, and another one
    /// lingers where somebody has it.
    fn adopt_surplus(&mut self, endpoint: &Endpoint, candidate: Candidate, known: &KnownHolders) {
        if candidate.stored.is_none() {
            return;
        }
        let held = inode(candidate.socket.as_fd()).and_then(|inode| known.of(inode));
        let Some((_, listener)) = self.table.listener_at(endpoint) else {
            return self.adopt_lingering(endpoint, candidate.socket, held);
        };
        let holders = match held {
            Some((holders, _)) => holders.clone(),
            // An earlier version did not write down who has which: whoever holds the listener may have it.
            None if known.is_incomplete() => listener.holders.clone(),
            None => BTreeSet::new(),
        };
        match ListenerSocket::adopt_draining(candidate.socket, endpoint, &listener.config.options) {
            Ok(socket) => {
                let id = self.table.adopt_draining(endpoint, BTreeSet::new());
                for holder in holders {
                    self.table.hold_socket(id, holder, Instant::now());
                }
                self.sockets.insert(id, socket);
                self.comparison.count(Counted::Draining, 1);
            }
            Err(error) => {
                tracing::warn!(%error, %endpoint, "an old socket of {endpoint} is let go: {error}");
                let what = || format!("an old socket of {endpoint} cannot be taken over: {error}");
                self.comparison.differs(Counted::Unusable, what);
                self.stored.given_up();
            }
        }
    }
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
    let mut checked = loader.load();
    if inherited {
        mind_what_is_hidden(&mut checked, &records.last_good(), || {
            let last_good = loader.load_file(records.last_good());
            let is_good = !last_good.faults.iter().any(Fault::is_error);
            is_good.then(|| last_good.config.listeners.into_iter().collect())
        });
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::show;
    use std::fs;

    #[test]
    fn after_a_restart_a_unit_that_cannot_be_read_any_more_has_its_listeners_still() {
        const TOO_LARGE: usize = 5 << 20;
        let place = tempfile::tempdir().unwrap();
        let units = place.path().join("etc/systemd/system");
        fs::create_dir_all(&units).unwrap();
        let section = |port| format!("[X-PortBroker]\nListenStream=127.0.0.1:{port}\n");
        fs::write(units.join("a.service"), section(8001)).unwrap();
        fs::write(units.join("b.service"), section(8002)).unwrap();
        let locations = Locations { root: place.path().to_owned(), config: None };
        let loader = Loader { locations, inherited: Vec::new() };
        let records = Records::new(place.path());
        let (before, faults) = choose(&loader, &records, true).unwrap();
        assert_eq!((before.config.listeners.len(), faults.len()), (2, 0));
        records.write_last_good(&show::to_toml(&before.config));
        // What never had one, and one that was taken out, make no difference.
        fs::write(units.join("c.service"), "x".repeat(TOO_LARGE)).unwrap();
        fs::remove_file(units.join("b.service")).unwrap();
        let (after, faults) = choose(&loader, &records, true).unwrap();
        assert_eq!((after.config.listeners.len(), faults.len()), (1, 0));
        fs::write(units.join("a.service"), section(8001) + &"#".repeat(TOO_LARGE)).unwrap();
        let (after, faults) = choose(&loader, &records, true).unwrap();
        assert_eq!(after.config.listeners.len(), 2, "the last good ones");
        assert!(faults.len() == 1 && faults[0].contains("a.service: error: cannot be read"), "{faults:?}");
        let (cold, faults) = choose(&loader, &records, false).unwrap();
        assert_eq!((cold.config.listeners.len(), faults.len()), (0, 0), "of nothing nothing can be lost");
    }
}
