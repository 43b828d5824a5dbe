//! Services that are started by the first connection to a listener that nobody holds.
//!
//! When and how often is decided by [`Activation`]; here the sockets are watched, and what is to be started is
//! said to `portbroker-activate.socket`, since the daemon has no right to start anything. Nothing is accepted or
//! read here: what waits stays in the kernel's queue, whose length is the backlog.

use super::Broker;
use crate::kernel::arrivals::{ArrivalWatch, is_queued};
use crate::kernel::socket::ListenerSocket;
use crate::kernel::triggers;
use crate::listeners::{Activation, Attempt, Failure, Listener, Outcome, SocketId, Step, Target};
use crate::model::{ListenerName, UnitName};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

/// All listeners whose services are started by connections.
pub(super) struct Activations {
    watch: ArrivalWatch,
    by_name: BTreeMap<ListenerName, Activated>,
    due: BTreeSet<(Instant, ListenerName)>,
    runtime_directory: PathBuf,
}

struct Activated {
    unit: UnitName,
    machine: Activation,
    due: Option<Instant>,
    /// Why the last start failed.
    failure: Option<Failure>,
    /// The same in words, with when it is looked at again.
    error: Option<String>,
}

impl Activations {
    /// None yet. Must be called within a tokio runtime.
    pub(super) fn new(runtime_directory: PathBuf) -> std::io::Result<Self> {
        let watch = ArrivalWatch::new()?;
        Ok(Self { watch, by_name: BTreeMap::new(), due: BTreeSet::new(), runtime_directory })
    }

    /// The id of the next watched socket that something comes to.
    pub(super) async fn arrived(&self) -> u64 {
        self.watch.next().await
    }

    /// When there is something to be looked at again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// What goes wrong with a listener's service.
    pub(super) fn error(&self, name: &ListenerName) -> Option<&str> {
        self.by_name.get(name)?.error.as_deref()
    }

    /// All that goes wrong, a sentence each.
    pub(super) fn faults(&self) -> impl Iterator<Item = String> {
        self.by_name.iter().filter_map(|(name, activated)| {
            Some(format!("listener {name:?}: {}: {}", activated.unit, activated.error.as_ref()?))
        })
    }

    /// A socket that is given up.
    pub(super) fn unwatch(&self, socket: BorrowedFd<'_>) {
        // It may not have been watched, and is not from now on.
        let _ = self.watch.remove(socket);
    }

    /// Whether it was known.
    fn forget(&mut self, name: &ListenerName) -> bool {
        let Some(activated) = self.by_name.remove(name) else { return false };
        if let Some(at) = activated.due {
            self.due.remove(&(at, name.clone()));
        }
        true
    }

    fn reschedule(&mut self, name: &ListenerName) {
        let Some(activated) = self.by_name.get_mut(name) else { return };
        let due = activated.machine.next_due();
        if let Some(at) = std::mem::replace(&mut activated.due, due) {
            self.due.remove(&(at, name.clone()));
        }
        self.due.extend(due.map(|at| (at, name.clone())));
    }
}

impl Broker {
    /// Follows what became of listeners since the last time.
    pub(super) fn follow_changed(&mut self) {
        for name in self.changed.clone() {
            self.follow(&name);
        }
    }

    /// Follows a new configuration.
    pub(super) fn follow_all(&mut self) {
        let names: BTreeSet<ListenerName> = self
            .table
            .iter()
            .filter(|(_, listener)| listener.config.activate.is_some())
            .map(|(name, _)| name.clone())
            .chain(self.activations.by_name.keys().cloned())
            .collect();
        for name in &names {
            self.follow(name);
        }
    }

    /// Brings a listener's activation in step with its configuration and its holders.
    fn follow(&mut self, name: &ListenerName) {
        let now = Instant::now();
        let listener = self.table.get(name.as_str()).ok().map(|(_, listener)| listener);
        let Some((listener, unit)) = listener.and_then(|l| Some((l, l.config.activate.clone()?))) else {
            if self.activations.forget(name) {
                self.each_socket(name, |watch, _, socket| watch.remove(socket));
            }
            return;
        };
        let held = !listener.holders.is_empty();
        if self.activations.by_name.get(name).is_some_and(|activated| activated.unit != unit) {
            self.activations.forget(name);
        }
        let queued = !held && self.is_queued(listener);
        let fresh =
            || Activated { unit, machine: Activation::default(), due: None, failure: None, error: None };
        let activated = self.activations.by_name.entry(name.clone()).or_insert_with(fresh);
        let machine = &mut activated.machine;
        let outcome = match (machine.is_held(), held) {
            (false, true) => {
                machine.held(now);
                // One that dies again and again is no better for being there now.
                if activated.failure == Some(Failure::NotTaken) {
                    activated.error = None;
                }
                Step::Rest.into()
            }
            (true, false) => machine.released(queued, now),
            // Its sockets may be others by now.
            (false, false) if machine.is_waiting() => Step::Watch.into(),
            (false, false) | (true, true) => Step::Rest.into(),
        };
        self.carry_out(name, outcome, now);
        self.start_for_old(name, now);
    }

    /// Nobody watches old sockets, to which nobody comes any more: what waits in them was there before.
    fn start_for_old(&mut self, name: &ListenerName, now: Instant) {
        let waits =
            self.table.get(name.as_str()).is_ok_and(|(_, listener)| self.old_sockets(listener).any(waits));
        let Some(activated) = self.activations.by_name.get_mut(name) else { return };
        if waits && activated.machine.is_waiting() {
            let outcome = activated.machine.woken(true, now);
            self.carry_out(name, outcome, now);
        }
    }

    /// A connection or datagram came to a socket that is watched.
    pub(super) fn arrived(&mut self, number: u64) {
        let Some((name, listener)) = self.table.owner(SocketId::from_number(number)) else { return };
        let (name, queued) = (name.clone(), self.is_queued(listener));
        let now = Instant::now();
        let Some(activated) = self.activations.by_name.get_mut(&name) else { return };
        let outcome = activated.machine.woken(queued, now);
        self.carry_out(&name, outcome, now);
    }

    /// Starts again what is due.
    pub(super) fn retry_activations(&mut self, now: Instant) {
        let due = self.activations.due.iter().take_while(|(at, _)| *at <= now);
        for name in due.map(|(_, name)| name.clone()).collect::<Vec<_>>() {
            let queued = self.table.get(name.as_str()).is_ok_and(|(_, listener)| self.is_queued(listener));
            let Some(activated) = self.activations.by_name.get_mut(&name) else { continue };
            let outcome = activated.machine.due(queued, now);
            self.carry_out(&name, outcome, now);
        }
    }

    /// Looks at the queues of listeners that are held, whose sockets nobody here watches.
    pub(super) fn glance_at_activations(&mut self) {
        let names: Vec<ListenerName> = self.activations.by_name.keys().cloned().collect();
        for name in names {
            let queued = self.table.get(name.as_str()).is_ok_and(|(_, listener)| self.is_queued(listener));
            let Some(activated) = self.activations.by_name.get_mut(&name) else { continue };
            let step = activated.machine.glance(queued);
            self.carry_out(&name, step.into(), Instant::now());
        }
    }

    fn carry_out(&mut self, name: &ListenerName, outcome: Outcome, now: Instant) {
        let refused = match outcome.step {
            Step::Rest => None,
            Step::Watch => {
                self.each_socket(name, |watch, id, socket| watch.add(id.number(), socket));
                None
            }
            Step::Start(attempt) => self.start_service(name, attempt).err(),
        };
        self.activations.reschedule(name);
        let Some(activated) = self.activations.by_name.get_mut(name) else { return };
        if let Some(failure) = outcome.failure {
            activated.failure = Some(failure);
        } else if activated.machine.failures() == 0 && refused.is_none() && activated.error.take().is_some() {
            self.touched = true;
        }
        let unit = &activated.unit;
        let what = match (refused, outcome.failure) {
            (Some(error), _) => format!("the broker cannot say that it is to be started: {error}"),
            (None, Some(Failure::NotTaken)) => "it was started and has not taken the listener".to_owned(),
            (None, Some(Failure::Died)) => {
                "it was started and ended with connections still waiting".to_owned()
            }
            (None, None) => return,
        };
        let next = next_try(activated.due, now);
        let error = format!("{what}; {next}; see \"systemctl status {unit} portbroker-activate.service\"");
        let failures = activated.machine.failures();
        tracing::warn!(event = "activation", listener = %name, %unit, failures, "{unit}, which {name} waits for: {error}");
        activated.error = Some(error);
        self.changed.insert(name.clone());
    }

    fn start_service(&self, name: &ListenerName, attempt: Attempt) -> std::io::Result<()> {
        let Some(activated) = self.activations.by_name.get(name) else { return Ok(()) };
        let unit = &activated.unit;
        let failures = activated.machine.failures();
        if attempt == Attempt::First {
            tracing::info!(event = "activate", listener = %name, %unit, "a connection waits for {name}: starting {unit}");
        } else {
            tracing::info!(event = "activate", listener = %name, %unit, failures, "connections still wait for {name}: starting {unit} again");
        }
        triggers::send(&self.activations.runtime_directory, unit, attempt == Attempt::Again)
    }

    /// Whether anything waits in a listener's queues.
    fn is_queued(&self, listener: &Listener) -> bool {
        let sockets = listener.slots.iter().filter_map(|slot| self.sockets.get(&slot.id));
        sockets.chain(self.old_sockets(listener)).any(waits)
    }

    /// Sockets of a listener that are drained and that nobody has.
    fn old_sockets(&self, listener: &Listener) -> impl Iterator<Item = &ListenerSocket> {
        let drains = self.table.draining().iter().filter(|(_, drain)| drain.holders.is_empty());
        let endpoints = &listener.config.endpoints;
        let ids = drains.filter(|(_, drain)| endpoints.contains(&drain.endpoint)).map(|(id, _)| id);
        ids.filter_map(|id| self.sockets.get(&id))
    }

    /// Does something with each of a listener's sockets that listen. Others would hang up at once.
    fn each_socket(
        &self,
        name: &ListenerName,
        what: impl Fn(&ArrivalWatch, SocketId, BorrowedFd<'_>) -> std::io::Result<()>,
    ) {
        let Ok((_, listener)) = self.table.get(name.as_str()) else { return };
        for slot in listener.slots.iter().filter(|slot| slot.state == Some(Target::Listening)) {
            let Some(socket) = self.sockets.get(&slot.id) else { continue };
            if let Err(error) = what(&self.activations.watch, slot.id, socket.as_fd()) {
                let endpoint = socket.endpoint();
                tracing::warn!(%error, %endpoint, "cannot watch {endpoint} for connections: {error}");
            }
        }
    }
}

fn waits(socket: &ListenerSocket) -> bool {
    is_queued(socket.as_fd()).unwrap_or(false)
}

/// When it is tried again, as a time of day: the text stands for as long as nothing new happens.
fn next_try(due: Option<Instant>, now: Instant) -> String {
    let Some(due) = due else { return "it is started again by the next connection".to_owned() };
    let time = SystemTime::now() + due.saturating_duration_since(now);
    format!("it is looked at again at {}", humantime::format_rfc3339_seconds(time))
}
