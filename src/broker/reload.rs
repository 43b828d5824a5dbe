//! Taking a configuration: at the start, and anew while everything goes on.

use super::Broker;
use super::authority::administrator;
use super::command::{Notice, Refusal};
use super::hidden::mind_what_is_hidden;
use crate::config::{Checked, Config, build, show};
use crate::kernel::memory::give_back_freed;
use crate::kernel::process::descriptor_limit;
use crate::kernel::socket::ListenerSocket;
use crate::kernel::store;
use crate::limits::Room;
use crate::listeners::{Change, SocketId};
use crate::model::{Endpoint, ListenerName, SocketKind, UnixAddress};
use crate::policy::Caller;
use crate::sources::{Locations, gather, settled};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};

/// The answer to somebody who asked for a reload.
type Reply = oneshot::Sender<Result<(), Refusal>>;
/// What was read.
pub(super) type Read = Result<Box<Checked>, JoinError>;

/// Reloads that are under way.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    reading: Option<JoinHandle<Box<Checked>>>,
    /// Who waits for what is being read.
    asked: Vec<Reply>,
    /// Who asked since that began.
    next: Vec<Reply>,
}

impl Reloads {
    /// Returns when the configuration was read. What was not awaited to its end is not lost.
    pub(super) async fn read(&mut self) -> Read {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let read = reading.await;
        self.reading = None;
        read
    }
}

/// Endpoints that are to be bound, so that of ten thousand not all are compared with each that goes.
#[derive(Default)]
struct Unbound {
    by_port: HashMap<u16, Vec<Endpoint>>,
    unix: HashSet<UnixAddress>,
}

impl Unbound {
    fn of(endpoints: impl Iterator<Item = Endpoint>) -> Self {
        let mut unbound = Self::default();
        for endpoint in endpoints {
            match endpoint {
                Endpoint::Unix(unix) => {
                    unbound.unix.insert(unix.address);
                }
                Endpoint::Inet(ref inet) => {
                    unbound.by_port.entry(inet.address.port()).or_default().push(endpoint);
                }
            }
        }
        unbound
    }

    fn conflict_with(&self, other: &Endpoint) -> bool {
        match other {
            Endpoint::Unix(unix) => self.unix.contains(&unix.address),
            Endpoint::Inet(inet) => {
                let there = self.by_port.get(&inet.address.port()).into_iter().flatten();
                there.into_iter().any(|endpoint| endpoint.conflicts_with(other))
            }
        }
    }
}

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub struct Loader {
    /// Files.
    pub locations: Locations,
    /// Sockets that came with LISTEN_FDS and a name.
    pub inherited: Vec<(ListenerName, Vec<Endpoint>)>,
}

impl Loader {
    /// Reads and checks everything, as it is when nobody writes it any more.
    pub(super) fn load(&self) -> Checked {
        build(&settled(|| gather(&self.locations, self.inherited.clone())))
    }

    /// Reads one file in place of everything: the last good configuration.
    pub(super) fn load_file(&self, path: PathBuf) -> Checked {
        let locations = Locations { config: Some(path), ..self.locations.clone() };
        build(&gather(&locations, self.inherited.clone()))
    }
}

/// The errors among the faults, a line each; `None` where there are only warnings, which are logged.
pub(super) fn errors_of(checked: &Checked) -> Option<Vec<String>> {
    for warning in checked.faults.iter().filter(|fault| !fault.is_error()) {
        tracing::warn!(event = "configuration", "{warning}");
    }
    let errors: Vec<String> =
        checked.faults.iter().filter(|f| f.is_error()).map(ToString::to_string).collect();
    if errors.is_empty() { None } else { Some(errors) }
}

impl Broker {
    /// Has the configuration read as it is now on disk. It is read beside everything else, since that takes a while;
    /// whoever asks while it is being read may mean what was written since, and so it is read again for them, once for
    /// all.
    pub(super) fn reload(&mut self, caller: Option<Caller>, reply: Reply) {
        if let Some(caller) = &caller
            && let Err(refusal) =
                administrator(caller, &self.gate, "reload the configuration", "reload the configuration")
        {
            return drop(reply.send(Err(refusal)));
        }
        self.reloads.next.push(reply);
        self.read_next();
    }

    fn read_next(&mut self) {
        if self.reloads.reading.is_none() && !self.reloads.next.is_empty() {
            let loader = self.loader.clone();
            self.reloads.asked = std::mem::take(&mut self.reloads.next);
            store::notify_reloading();
            self.reloads.reading = Some(tokio::task::spawn_blocking(move || Box::new(loader.load())));
        }
    }

    /// The configuration was read: it is taken, or everything stays as it is.
    pub(super) fn take_read(&mut self, read: Read) {
        let asked = std::mem::take(&mut self.reloads.asked);
        let outcome = match read {
            Ok(checked) => self.take(*checked),
            Err(error) => {
                Err(Refusal::InvalidConfiguration(format!("it could not be read to its end: {error}")))
            }
        };
        // A crash must not lose what they were told is there.
        self.keep_stored();
        for reply in asked {
            // Whoever asked may be gone by now, and then nobody wants the answer.
            let _ = reply.send(outcome.clone());
        }
        // Also where it was refused: the daemon serves as before.
        store::notify_ready();
        self.read_next();
    }

    fn take(&mut self, mut checked: Checked) -> Result<(), Refusal> {
        let begun = Instant::now();
        mind_what_is_hidden(&mut checked, &self.records.last_good(), || {
            let before = self.table.iter();
            Some(before.map(|(name, listener)| (name.clone(), Arc::clone(&listener.config))).collect())
        });
        self.touched = true;
        if let Some(errors) = errors_of(&checked) {
            for error in &errors {
                tracing::error!(event = "configuration", "{error}");
            }
            self.configuration_faults = errors.clone();
            return Err(Refusal::InvalidConfiguration(errors.join("\n")));
        }
        self.configuration_faults.clear();
        self.apply(&checked);
        let listeners = checked.config.listeners.len();
        drop(checked);
        give_back_freed();
        let took = begun.elapsed();
        tracing::info!(
            event = "reloaded",
            listeners,
            ?took,
            "took the configuration: {listeners} listeners, in {took:?}"
        );
        Ok(())
    }

    /// Puts a valid configuration into effect.
    pub(super) fn apply(&mut self, checked: &Checked) {
        let before = self.shown_names();
        let change = self.table.configure(&checked.config.listeners, Instant::now());
        self.put_into_effect(checked, change);
        self.tell_names(&before);
        self.write_holders();
        self.write_last_good(checked);
    }

    /// Brings every socket into the state that the table has for it.
    pub(super) fn put_into_effect(&mut self, checked: &Checked, change: Change) {
        let unbound = self.table.iter().flat_map(|(_, l)| &l.slots).filter(|slot| slot.state.is_none());
        let unbound = Unbound::of(unbound.map(|slot| slot.endpoint.clone()));
        // A TCP port goes over to its new address without a gap, since ours may be bound beside each other;
        // other kinds of socket have to go first where they are in the way.
        let (first, last): (Vec<_>, Vec<_>) =
            change.close.into_iter().partition(|id| self.is_in_the_way(*id, &unbound));
        first.into_iter().for_each(|id| self.close(id));
        // A stored socket is bound as long as it is stored.
        self.keep_stored();
        for id in change.kept {
            self.adjust(id);
            self.expect_of_holder(id);
        }
        for id in change.linger {
            self.say_lingers(id);
        }
        for name in &self.table.waiting_for_action(Instant::now()) {
            self.act_on(name, true);
        }
        last.into_iter().for_each(|id| self.close(id));
        self.follow_all();
        // The last good configuration is a single file, and knows nothing of units.
        self.configure_learning(&checked.config, self.configuration_faults.is_empty());
        self.migration.try_again();
        self.settle_drains();
        self.keep_stored();
        self.configure_pools(&checked.config);
        self.configure_limits(&checked.config);
        self.configure_metrics(&checked.config.metrics);
        self.protect(&checked.config.protect.ports);
        self.touched = true;
        self.told.sum_up();
    }

    /// The limits of a configuration, and how much of them there is room for.
    fn configure_limits(&mut self, config: &Config) {
        self.gate.configure(config.limits);
        self.see_room();
        self.shown.forget();
    }

    /// How many descriptors there are, and are in use for sockets.
    pub(super) fn see_room(&self) {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let sockets = number(self.sockets.len());
        let stored = if self.stored.is_active() { sockets } else { 0 };
        self.gate.see_room(Room { descriptors: descriptor_limit(), sockets, stored });
    }

    /// The configuration that is in effect, for a day when the one on disk has faults.
    pub(super) fn write_last_good(&self, checked: &Checked) {
        self.records.write_last_good(&show::to_toml(&checked.config));
    }

    fn is_in_the_way(&self, id: SocketId, unbound: &Unbound) -> bool {
        let Some(old) = self.sockets.get(&id).map(ListenerSocket::endpoint) else { return true };
        let shares = matches!(old, Endpoint::Inet(_)) && old.kind() == SocketKind::Stream;
        !shares && unbound.conflict_with(old)
    }

    /// Names that came and went, for those who watch.
    fn tell_names(&mut self, before: &BTreeSet<ListenerName>) {
        let now = self.shown_names();
        for name in &now {
            if before.contains(name) {
                self.changed.insert(name.clone());
                continue;
            }
            self.changed.remove(name);
            if let Some(view) = self.show(name.as_str()) {
                let _ = self.notices.send(Notice::Added(Box::new(view)));
            }
        }
        for name in before.iter().filter(|name| !now.contains(*name)) {
            self.changed.remove(name);
            let _ = self.notices.send(Notice::Removed(name.to_string()));
        }
    }
}
