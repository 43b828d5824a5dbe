//! Taking a configuration: at the start, and anew while everything goes on.

use super::Broker;
use super::authority::administrator;
use super::command::{Notice, Refusal};
use super::options::adjust;
use crate::config::{Checked, build, show};
use crate::kernel::memory::give_back_freed;
use crate::kernel::socket::ListenerSocket;
use crate::kernel::store;
use crate::listeners::{Change, SocketId};
use crate::model::{Endpoint, ListenerName, SocketKind};
use crate::policy::Caller;
use crate::sources::{Locations, gather};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub struct Loader {
    /// Files.
    pub locations: Locations,
    /// Sockets that came with LISTEN_FDS and a name.
    pub inherited: Vec<(ListenerName, Vec<Endpoint>)>,
}

impl Loader {
    /// Reads and checks everything.
    pub(super) fn load(&self) -> Checked {
        build(&gather(&self.locations, self.inherited.clone()))
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
    /// Takes the configuration as it is now on disk, or leaves everything as it is and says why.
    pub(super) fn reload(&mut self, caller: Option<Caller>) -> Result<(), Refusal> {
        if let Some(caller) = &caller {
            administrator(caller, "reload the configuration", "reload the configuration")?;
        }
        store::notify_reloading();
        let outcome = self.take_configuration();
        // Also where it was refused: the daemon serves as before.
        store::notify_ready();
        outcome
    }

    fn take_configuration(&mut self) -> Result<(), Refusal> {
        let checked = self.loader.load();
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
        tracing::info!(event = "reloaded", listeners, "took the configuration: {listeners} listeners",);
        Ok(())
    }

    /// Puts a valid configuration into effect.
    pub(super) fn apply(&mut self, checked: &Checked) {
        let before: BTreeSet<ListenerName> = self.table.iter().map(|(name, _)| name.clone()).collect();
        let change = self.table.configure(&checked.config.listeners, Instant::now());
        self.put_into_effect(checked, change);
        self.tell_names(&before);
        self.write_holders();
        self.write_last_good(checked);
    }

    /// Brings every socket into the state that the table has for it.
    pub(super) fn put_into_effect(&mut self, checked: &Checked, change: Change) {
        let unbound = self.table.iter().flat_map(|(_, l)| &l.slots).filter(|slot| slot.state.is_none());
        let unbound: Vec<Endpoint> = unbound.map(|slot| slot.endpoint.clone()).collect();
        // A TCP port goes over to its new address without a gap, since ours may be bound beside each other;
        // other kinds of socket have to go first where they are in the way.
        let (first, last): (Vec<_>, Vec<_>) =
            change.close.into_iter().partition(|id| self.is_in_the_way(*id, &unbound));
        first.into_iter().for_each(|id| self.close(id));
        // A stored socket is bound as long as it is stored.
        self.keep_stored();
        for id in change.kept {
            self.adjust(id);
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
        self.protect(&checked.config.protect.ports);
        self.touched = true;
        self.told.sum_up();
    }

    /// The configuration that is in effect, for a day when the one on disk has faults.
    pub(super) fn write_last_good(&self, checked: &Checked) {
        self.records.write_last_good(&show::to_toml(&checked.config));
    }

    fn is_in_the_way(&self, id: SocketId, unbound: &[Endpoint]) -> bool {
        let Some(old) = self.sockets.get(&id).map(ListenerSocket::endpoint) else { return true };
        let shares = matches!(old, Endpoint::Inet(_)) && old.kind() == SocketKind::Stream;
        !shares && unbound.iter().any(|endpoint| endpoint.conflicts_with(old))
    }

    /// Options that a bound socket can still change follow the configuration.
    fn adjust(&mut self, id: SocketId) {
        let Some((name, listener)) = self.table.owner(id) else { return };
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        adjust(name, socket, &listener.config.options);
    }

    /// Names that came and went, for those who watch.
    fn tell_names(&mut self, before: &BTreeSet<ListenerName>) {
        let now: BTreeSet<ListenerName> = self.table.iter().map(|(name, _)| name.clone()).collect();
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
