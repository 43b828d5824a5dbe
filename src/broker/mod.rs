//! The broker: one task that owns all state. Commands in, decisions of the pure rooms, effects on the kernel.
//!
//! Nothing here waits for anybody: every effect is a system call that returns at once, so commands are
//! answered in order and no lock is needed. A socket of a configured listener is never closed here but to be
//! replaced by another that holds the same port already.

mod absent;
mod activation;
mod authority;
mod command;
mod comparison;
mod deposits;
mod descriptors;
mod draining;
mod effects;
mod evict;
mod gate;
mod handover;
mod hidden;
mod history;
mod holders;
mod inspection;
mod known_holders;
mod learned_file;
mod learning;
mod lingering;
mod log_gauge;
mod lookout;
mod measured;
mod options;
mod outbound;
mod protection;
mod queue;
mod records;
mod reload;
mod renew;
mod scrape_sockets;
mod shown;
mod stored;
mod surroundings;
mod takeover;
mod tally;
mod told;
mod unwritten;
mod view;

pub use crate::learn::Learned;
pub use crate::leases::{Kind, Lease};
pub use command::{Acquire, Handed, Handle, NamedSocket, Notice, ObjectKind, Refusal, Stopping};
pub use evict::{Evicted, Eviction, Outcome};
pub use gate::{Debtor, Gate, Held};
pub use history::{Happening, History};
pub use log_gauge::LogGauge;
pub use lookout::Lookout;
pub use outbound::{
    AddressView, Drain, ForecastView, LeaseRequest, LeaseView, LeasedSockets, PoolView, Shortage,
};
pub use queue::Turn;
pub use reload::Loader;
pub use scrape_sockets::{ScrapeChange, ScrapePlace, ScrapeSocket};
pub use takeover::{Inheritance, Start, StartError};
pub use view::{ListenerView, QueueView, SocketView, Summary, TakeoverView, View, Waiting};

use crate::config::Checked;
use crate::kernel::hangups::HangupWatch;
use crate::kernel::memory::{give_back_freed, keep_little_free};
use crate::kernel::socket::ListenerSocket;
use crate::kernel::timer::Every;
use crate::listeners::{BySocket, SocketId, Table};
use crate::model::ListenerName;
use crate::state::{Deposits, Drained};
use absent::Absent;
use activation::Activations;
use command::Command;
use comparison::Comparison;
use descriptors::Descriptors;
use draining::Migration;
use holders::Holders;
use learning::{Due, Learning};
use options::NotInEffect;
use outbound::{Happened, Outbound};
use protection::Protection;
use queue::Queue;
use records::Records;
use reload::{Read, Reloads, errors_of};
use scrape_sockets::ScrapeSockets;
use shown::Shown;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use stored::Stored;
use surroundings::Surroundings;
use tally::Tally;
use tokio::sync::{OwnedSemaphorePermit, broadcast, oneshot};
use told::Told;

/// How often the reserved ports are read again, to see whether somebody wiped them.
const ASSERT_RESERVED_PORTS: Duration = Duration::from_secs(60);
/// Notices that a slow connection may be behind before it misses some.
const NOTICES: usize = 1024;

/// An answer about more sockets than this takes megabytes.
const MANY: usize = 1000;
/// Such an answer is sent by then.
const TRIM_AFTER: Duration = Duration::from_millis(500);

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
    sockets: BySocket<ListenerSocket>,
    hangups: HangupWatch,
    activations: Activations,
    holders: Holders,
    protection: Protection,
    learning: Learning,
    migration: Migration,
    outbound: Outbound,
    /// The inodes of sockets that are drained, as they were written down last.
    draining_written: Drained,
    assert: Every,
    /// What each unit has been handed for its own descriptor store since the boot.
    deposits: Deposits,
    /// No socket of our user listened when this start began, so none can be in our company: it need not be asked
    /// for each of many sockets.
    alone: bool,
    stored: Stored,
    descriptors: Descriptors,
    surroundings: Surroundings,
    records: Records,
    /// What of an earlier daemon's records could not be read and lies aside, as it was looked at last.
    unreadable: Vec<String>,
    loader: Loader,
    /// Sockets that were taken over and have yet to be looked at.
    unseen: BTreeSet<ListenerName>,
    /// What this start has found to differ.
    comparison: Comparison,
    /// What was done to sockets and is in no line of the log yet.
    told: Told,
    /// Every socket that is not as configured, and perhaps some that are again: not all of ten thousand are to be
    /// asked each time.
    faulty: BTreeSet<SocketId>,
    /// Those whose address the host has not.
    absent: BTreeSet<Absent>,
    unmet: NotInEffect,
    reloads: Reloads,
    /// When to give the memory back that a long answer has taken.
    trim_at: Option<Instant>,
    /// The configuration of the start, for what can wait until the daemon is ready.
    started_with: Option<Checked>,
    /// Faults of the configuration that was refused, where the daemon goes on with an older one.
    configuration_faults: Vec<String>,
    /// Something happened that may have changed the faults.
    touched: bool,
    /// Faults that were announced last.
    announced: Vec<String>,
    /// Listeners that changed since the last announcement.
    changed: BTreeSet<ListenerName>,
    notices: broadcast::Sender<Notice>,
    /// What was shown of all, and is the same still.
    shown: Shown,
    queue: Queue,
    gate: Gate,
    metrics: ScrapeSockets,
    tally: Tally,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.queue.end();
    }
}

enum Event {
    Command(Turn, Command, OwnedSemaphorePermit),
    HolderGone(u64),
    HungUp(u64),
    Arrived(u64),
    Due,
    Inspect,
    AssertReservedPorts,
    Look,
    LearnedWritten,
    Outbound(Happened),
    Read(Box<Read>),
}

impl Broker {
    /// Serves until it is told to stop.
    pub async fn run(mut self, mut stop: oneshot::Receiver<Stop>) {
        self.finish_start();
        loop {
            self.sum_up_takeover();
            let event = tokio::select! {
                biased;
                told = &mut stop => {
                    if told == Ok(Stop::ForGood) {
                        self.protect_nothing();
                        self.remove_on_stop();
                        self.migrate_no_more();
                        self.end_metrics();
                    }
                    self.learning.finish().await;
                    return;
                }
                event = self.next_event() => event,
            };
            // These can come without end: whoever brings calls has to run in between.
            let without_end = matches!(event, Event::HungUp(_));
            self.handle(event);
            self.glance_at_descriptors();
            self.follow_changed();
            self.keep_stored();
            self.keep_records();
            self.told.sum_up();
            if without_end || self.touched || !self.changed.is_empty() {
                // Whoever waits for an answer has it before the onlookers hear of it.
                tokio::task::yield_now().await;
            }
            self.announce();
        }
    }

    async fn next_event(&mut self) -> Event {
        let due = self.table.next_due().into_iter().chain(self.activations.next_due());
        let due = due.chain(self.trim_at).chain(self.stored.next_due()).chain(self.gate.next_due());
        let due = due.chain(self.descriptors.next_due()).chain(self.records.next_due()).min();
        tokio::select! {
            biased;
            id = self.holders.gone() => Event::HolderGone(id),
            // Each of these in its turn: a holder can make its sockets hang up without end, and callers can call
            // without end, and neither may keep the others waiting.
            event = async {
                tokio::select! {
                    id = self.hangups.next() => Event::HungUp(id),
                    id = self.activations.arrived() => Event::Arrived(id),
                    (turn, command, place) = self.queue.next() => Event::Command(turn, command, place),
                    () = until(due) => Event::Due,
                    () = tokio::task::yield_now(), if !self.unseen.is_empty() => Event::Inspect,
                    () = self.assert.next() => Event::AssertReservedPorts,
                    due = self.learning.due() => match due {
                        Due::Look => Event::Look,
                        Due::Written => Event::LearnedWritten,
                    },
                    happened = self.outbound.next() => Event::Outbound(happened),
                    read = self.reloads.read() => Event::Read(Box::new(read)),
                }
            } => event,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Command(turn, command, place) => {
                let begun = Instant::now();
                self.obey(command);
                self.queue.done(turn, place, begun.elapsed());
            }
            Event::HolderGone(id) => self.holder_gone(id),
            Event::HungUp(id) => self.hung_up(id),
            Event::Arrived(id) => self.arrived(id),
            Event::Due => self.do_what_is_due(Instant::now()),
            Event::Inspect => self.look_at_some(),
            Event::AssertReservedPorts => {
                self.assert_reserved_ports();
                self.look_around();
                if self.records.are_gone() && self.records.fault().is_none() {
                    self.write_everything();
                }
                self.glance_at_activations();
                self.look();
                self.look_at_pools();
                self.look_at_forecasts();
                self.settle_metrics();
                self.look_aside();
            }
            Event::Look => {
                self.look();
                self.look_at_pools();
            }
            Event::LearnedWritten => self.learned_is_written(),
            Event::Outbound(happened) => self.outbound_happened(happened),
            Event::Read(read) => self.take_read(*read),
        }
    }

    fn do_what_is_due(&mut self, now: Instant) {
        for name in self.table.take_due(now) {
            self.act_on(&name, false);
        }
        self.retry_activations(now);
        if self.trim_at.is_some_and(|at| at <= now) {
            self.trim_at = None;
            give_back_freed();
        }
        self.gate.say_left_out();
        self.settle_drains();
    }

    /// Writes down what could not be, and everything where all of it is gone.
    fn keep_records(&mut self) {
        let had_fault = self.records.fault().is_some();
        self.records.retry(Instant::now());
        if self.records.are_new() | self.outbound.lost_its_journal() {
            tracing::error!(
                event = "state",
                "files of the runtime directory were removed: what this daemon knows is written anew; sessions of which \
                 the lifelines went too end with its next restart"
            );
            self.write_everything();
        }
        self.touched |= had_fault != self.records.fault().is_some();
    }

    fn write_everything(&mut self) {
        self.write_holders();
        self.records.write_deposits(&self.deposits);
        self.records.write_draining(&self.draining_written);
        self.protection.write(&self.records);
        self.migration.write(&self.records);
        self.outbound.write_everything(Instant::now());
        self.settle_metrics();
        let checked = self.loader.load();
        if errors_of(&checked).is_none() {
            self.write_last_good(&checked);
        }
    }

    /// What nobody has to wait for.
    fn finish_start(&mut self) {
        if let Some(checked) = self.started_with.take() {
            self.finish_pools();
            self.look_around();
            self.compare_with_last();
            self.write_holders();
            self.write_last_good(&checked);
            drop(checked);
            keep_little_free();
            give_back_freed();
        }
    }

    /// Somebody may have removed what lay aside.
    fn look_aside(&mut self) {
        let unreadable = self.records.faults();
        self.touched |= unreadable != self.unreadable;
        self.unreadable = unreadable;
    }

    fn obey(&mut self, command: Command) {
        // Whoever asked may be gone by now, and then nobody wants the answer.
        match command {
            Command::Acquire(request, reply) => drop(reply.send(self.acquire(request))),
            Command::Reload(caller, reply) => self.reload(caller, reply),
            Command::Learned(reply) => drop(reply.send(self.learning.learned())),
            Command::Evict(caller, what, reply) => self.evict(&caller, what, reply),
            Command::Forget(caller, port, reply) => drop(reply.send(self.forget(&caller, port))),
            Command::Renew(caller, name, reply) => drop(reply.send(self.renew(&caller, &name))),
            Command::Queues(name, reply) => drop(reply.send(self.queues(&name))),
            Command::Waiting(after, most, reply) => drop(reply.send(self.what_waits(&after, most))),
            Command::Deposits(unit, reply) => drop(reply.send(self.deposits.of(&unit))),
            Command::Outbound(ask) => self.answer_outbound(ask),
            Command::LookAtDescriptors => self.look_at_descriptors(),
            Command::Summary(reply) => {
                self.look_at_descriptors();
                self.look_around();
                drop(reply.send(self.summary()));
            }
            Command::Exists(kind, name, reply) => drop(reply.send(self.exists(kind, &name))),
            Command::View(reply) => {
                if self.sockets.len() > MANY {
                    self.trim_at = self.trim_at.or(Instant::now().checked_add(TRIM_AFTER));
                }
                drop(reply.send(self.view()));
            }
            Command::Show(name, reply) => drop(reply.send(self.show(&name))),
            Command::Measure(asked, reply) => drop(reply.send(self.measure(asked))),
        }
    }

    /// Tells those who watch the objects what changed.
    fn announce(&mut self) {
        for name in std::mem::take(&mut self.changed) {
            self.touched = true;
            self.shown.changed(&name);
            if let Some(view) = self.show(name.as_str()) {
                // No receivers is no fault.
                let _ = self.notices.send(Notice::Changed(Box::new(view)));
            }
        }
        self.announce_pools();
        if !std::mem::take(&mut self.touched) {
            return;
        }
        let table = &self.table;
        self.faulty.retain(|id| table.slot(*id).is_some_and(|slot| slot.error().is_some()));
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
