//! The broker: one task that owns all state. Commands in, decisions of the pure rooms, effects on the kernel.
//!
//! Nothing here waits for anybody: every effect is a system call that returns at once, so commands are
//! answered in order and no lock is needed. A socket of a configured listener is never closed here but to be
//! replaced by another that holds the same port already.

mod activation;
mod command;
mod deposits;
mod draining;
mod effects;
mod handover;
mod holders;
mod learned_file;
mod learning;
mod lookout;
mod options;
mod protection;
mod records;
mod reload;
mod renew;
mod takeover;
mod view;

pub use crate::learn::Learned;
pub use command::{Acquire, Handle, NamedSocket, Notice, Refusal, Stopping};
pub use lookout::Lookout;
pub use reload::Loader;
pub use takeover::{Inheritance, Start, StartError};
pub use view::{ListenerView, QueueView, SocketView, View};

use crate::kernel::hangups::HangupWatch;
use crate::kernel::socket::ListenerSocket;
use crate::kernel::store::Store;
use crate::kernel::timer::Every;
use crate::listeners::{SocketId, Table};
use crate::model::ListenerName;
use activation::Activations;
use command::Command;
use deposits::Deposits;
use draining::Migration;
use holders::Holders;
use learning::Learning;
use protection::Protection;
use records::Records;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, mpsc, oneshot};

/// How often the reserved ports are read again, to see whether somebody wiped them.
const ASSERT_RESERVED_PORTS: Duration = Duration::from_secs(60);
/// Commands that may wait; more wait in their senders.
const COMMANDS: usize = 64;
/// Notices that a slow connection may be behind before it misses some.
const NOTICES: usize = 1024;

/// How the daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Another one follows: what is protected stays so in between.
    Restart,
    /// None follows: what is ours is given back.
    ForGood,
}

/// The state of everything.
pub struct Broker {
    table: Table,
    sockets: HashMap<SocketId, ListenerSocket>,
    hangups: HangupWatch,
    activations: Activations,
    holders: Holders,
    protection: Protection,
    learning: Learning,
    migration: Migration,
    /// The inodes of sockets that are drained, as they were written down last.
    draining_written: Vec<u64>,
    assert: Every,
    /// What each unit has been handed for its own descriptor store since the boot.
    deposits: Deposits,
    /// No socket of our user listened when this start began, so none can be in our company: it need not be asked
    /// for each of many sockets.
    alone: bool,
    store: Store,
    records: Records,
    loader: Loader,
    /// Faults of the configuration that was refused, where the daemon goes on with an older one.
    configuration_faults: Vec<String>,
    /// Something happened that may have changed the faults.
    touched: bool,
    /// Faults that were announced last.
    announced: Vec<String>,
    /// Listeners that changed since the last announcement.
    changed: BTreeSet<ListenerName>,
    notices: broadcast::Sender<Notice>,
    commands: mpsc::Receiver<Command>,
}

enum Event {
    Command(Option<Command>),
    HolderGone(u64),
    HungUp(u64),
    Arrived(u64),
    Due,
    AssertReservedPorts,
    Look,
}

impl Broker {
    /// Serves until it is told to stop, or nobody has a handle any more.
    pub async fn run(mut self, mut stop: oneshot::Receiver<Stop>) {
        loop {
            let due = self.table.next_due().into_iter().chain(self.activations.next_due()).min();
            let event = tokio::select! {
                biased;
                told = &mut stop => {
                    if told == Ok(Stop::ForGood) {
                        self.protect_nothing();
                        self.remove_on_stop();
                        self.migrate_no_more();
                    }
                    return;
                }
                id = self.holders.gone() => Event::HolderGone(id),
                // Each of these in its turn: a holder can make its sockets hang up without end, and callers can call
                // without end, and neither may keep the others waiting.
                event = async {
                    tokio::select! {
                        id = self.hangups.next() => Event::HungUp(id),
                        id = self.activations.arrived() => Event::Arrived(id),
                        command = self.commands.recv() => Event::Command(command),
                        () = until(due) => Event::Due,
                        () = self.assert.next() => Event::AssertReservedPorts,
                        () = self.learning.due() => Event::Look,
                    }
                } => event,
            };
            match event {
                Event::Command(None) => return,
                Event::Command(Some(command)) => self.obey(command),
                Event::HolderGone(id) => self.holder_gone(id),
                Event::HungUp(id) => self.hung_up(id),
                Event::Arrived(id) => self.arrived(id),
                Event::Due => {
                    let now = Instant::now();
                    for name in self.table.take_due(now) {
                        self.act_on(&name, false);
                    }
                    self.retry_activations(now);
                    self.settle_drains();
                }
                Event::AssertReservedPorts => {
                    self.assert_reserved_ports();
                    self.look();
                }
                Event::Look => self.look(),
            }
            self.follow_changed();
            if self.touched || !self.changed.is_empty() {
                // Whoever waits for an answer has it before the onlookers hear of it.
                tokio::task::yield_now().await;
            }
            self.announce();
        }
    }

    fn obey(&mut self, command: Command) {
        // Whoever asked may be gone by now, and then nobody wants the answer.
        match command {
            Command::Acquire(request, reply) => drop(reply.send(self.acquire(request))),
            Command::Reload(caller, reply) => drop(reply.send(self.reload(caller))),
            Command::Learned(reply) => drop(reply.send(self.learning.learned())),
            Command::Forget(caller, port, reply) => drop(reply.send(self.forget(&caller, port))),
            Command::Renew(caller, name, reply) => drop(reply.send(self.renew(&caller, &name))),
            Command::Queues(name, reply) => drop(reply.send(self.queues(&name))),
            Command::Deposits(unit, reply) => drop(reply.send(self.deposits.of(&unit))),
            Command::View(reply) => drop(reply.send(self.view())),
            Command::Show(name, reply) => drop(reply.send(self.show(&name))),
        }
    }

    /// Tells those who watch the objects what changed.
    fn announce(&mut self) {
        for name in std::mem::take(&mut self.changed) {
            self.touched = true;
            if let Some(view) = self.show(name.as_str()) {
                // No receivers is no fault.
                let _ = self.notices.send(Notice::Changed(Box::new(view)));
            }
        }
        if !std::mem::take(&mut self.touched) {
            return;
        }
        let faults = self.faults();
        if faults != self.announced {
            self.announced.clone_from(&faults);
            let _ = self.notices.send(Notice::Manager(faults));
        }
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
