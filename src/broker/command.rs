//! What can be asked of the broker, and how it refuses. The handle is what the bus has of it.

use super::evict::{self, Eviction};
use super::gate::{Gate, Held};
use super::history::{Happening, History};
use super::outbound::{Ask, ForecastView, PoolView, Shortage};
use super::queue::{Queue, Turn};
use super::tally::Tally;
use super::view::{ListenerView, QueueView, Summary, View, Waiting as WhatWaits};
use crate::kernel::holder::HolderClaim;
use crate::learn::Learned;
use crate::metrics::Snapshot;
use crate::model::{ListenerName, UnitName};
use crate::policy::{Caller, Decision, may_administer};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{broadcast, oneshot};

/// A request for the sockets of listeners.
#[derive(Debug)]
pub struct Acquire {
    /// Who asks.
    pub caller: Caller,
    /// Who holds them from then on; `None` where the process is gone already.
    pub holder: Option<HolderClaim>,
    /// Names of listeners, in the order in which the sockets are wanted.
    pub names: Vec<String>,
    /// How many sockets a message takes on the way that the request came.
    pub limit: usize,
}

/// A socket and the name of its listener.
pub type NamedSocket = (ListenerName, OwnedFd);

/// Sockets that are handed over.
#[derive(Debug)]
pub struct Handed {
    /// In the order in which they were asked for.
    pub sockets: Vec<NamedSocket>,
    /// They are counted until their receiver has read them.
    pub held: Vec<Held>,
}

/// Why the broker refuses. The text goes to the caller, the D-Bus error's name is the variant's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No listener has that name.
    #[error("there is no listener {0:?}: see \"portbroker list listeners\"")]
    NoSuchListener(String),
    /// The policy says no.
    #[error("you may not {action}")]
    NotAllowed {
        /// What was asked for.
        action: String,
        /// Why not: for the log, and not for the caller.
        reason: &'static str,
    },
    /// Its socket is not bound (yet).
    #[error("listener {0:?} is not ready: {1}")]
    NotReady(String, String),
    /// No pool has that name.
    #[error("there is no pool {0:?}: see \"portbroker list pools\"")]
    NoSuchPool(String),
    /// A pool has not enough left for a destination.
    #[error("{text}")]
    Exhausted {
        /// What there is, in words.
        text: String,
        /// What there is, in numbers.
        shortage: Shortage,
    },
    /// The caller would have more than its share of a pool.
    #[error("{0}")]
    QuotaExceeded(String),
    /// All callers together would have more than what they may have of a pool.
    #[error("{0}")]
    SharedQuotaExceeded(String),
    /// The session is over, or unknown: its client opens another.
    #[error("{0}")]
    NoSuchSession(String),
    /// What a lease takes cannot be made.
    #[error("{0}")]
    CannotLease(String),
    /// What is on a port cannot be found out.
    #[error("{0}")]
    CannotEvict(String),
    /// They do not go into one message.
    #[error("{0}")]
    TooManySockets(String),
    /// A limit of `[limits]`.
    #[error("{0}")]
    OverLimit(String),
    /// The kernel lets no descriptor be sent to anybody.
    #[error("{0}")]
    CannotSend(String),
    /// An argument is wrong.
    #[error("{0}")]
    BadArgument(String),
    /// The configuration has faults.
    #[error("the configuration was not taken, the one before goes on:\n{0}")]
    InvalidConfiguration(String),
}

/// What happened that those who watch the objects want to know.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A listener is new.
    Added(Box<ListenerView>),
    /// Properties of a listener changed.
    Changed(Box<ListenerView>),
    /// A listener is no longer configured.
    Removed(String),
    /// A pool is new.
    PoolAdded(Box<PoolView>),
    /// Properties of a pool changed.
    PoolChanged(Box<PoolView>),
    /// Somebody lacks ports of a pool.
    PoolWanted(String),
    /// Ports of a pool will be used up soon.
    ExhaustionAhead(Box<ForecastView>),
    /// A pool is no longer configured.
    PoolRemoved(String),
    /// Something of the manager's own properties changed.
    Manager(Vec<String>),
}

pub(super) enum Command {
    Acquire(Acquire, oneshot::Sender<Result<Handed, Refusal>>),
    Reload(Option<Caller>, oneshot::Sender<Result<(), Refusal>>),
    Renew(Caller, String, oneshot::Sender<Result<(), Refusal>>),
    Queues(String, oneshot::Sender<Option<Vec<QueueView>>>),
    Waiting(String, usize, oneshot::Sender<WhatWaits>),
    Deposits(UnitName, oneshot::Sender<Vec<String>>),
    Learned(oneshot::Sender<Vec<Learned>>),
    Evict(Caller, Eviction, evict::Reply),
    Forget(Caller, u16, oneshot::Sender<Result<(), Refusal>>),
    Outbound(Ask),
    LookAtDescriptors,
    Summary(oneshot::Sender<Summary>),
    View(oneshot::Sender<Arc<View>>),
    Exists(ObjectKind, String, oneshot::Sender<bool>),
    Show(String, oneshot::Sender<Option<ListenerView>>),
    /// Since when it waits.
    Measure(Instant, oneshot::Sender<Snapshot>),
}

/// The broker is gone, and so will this process be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker is stopping")]
pub struct Stopping;

/// What there are objects of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// Listeners.
    Listener,
    /// Pools.
    Pool,
}

/// The way to the broker's task, in the turn of one caller. Its queue is bounded: who asks faster than it answers
/// waits.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) queue: Queue,
    pub(super) turn: Turn,
    pub(super) gate: Gate,
    pub(super) notices: broadcast::WeakSender<Notice>,
    pub(super) history: History,
    pub(super) tally: Tally,
}

impl Handle {
    /// The same, for another caller.
    #[must_use]
    pub fn in_turn_of(&self, turn: Turn) -> Self {
        Self { turn, ..self.clone() }
    }

    /// The same, with the history that the log is kept in.
    #[must_use]
    pub fn with_history(self, history: History) -> Self {
        Self { history, ..self }
    }

    /// Whose turn it takes.
    #[must_use]
    pub fn turn(&self) -> Turn {
        self.turn
    }

    /// The books of who has how much.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Stopping> {
        let (reply, answer) = oneshot::channel();
        self.queue.push(self.turn, command(reply)).await?;
        answer.await.map_err(|_| Stopping)
    }

    /// Sockets of listeners, all or nothing, each a new descriptor of the broker's own socket.
    pub async fn acquire(&self, request: Acquire) -> Result<Result<Handed, Refusal>, Stopping> {
        self.ask(|reply| Command::Acquire(request, reply)).await
    }

    /// Reads the configuration again; `None` is the daemon itself (SIGHUP, daemon-reload).
    pub async fn reload(&self, caller: Option<Caller>) -> Result<Result<(), Refusal>, Stopping> {
        self.ask(|reply| Command::Reload(caller, reply)).await
    }

    /// New sockets for a listener, beside the old ones until these are drained.
    pub async fn renew(&self, caller: Caller, name: String) -> Result<Result<(), Refusal>, Stopping> {
        self.ask(|reply| Command::Renew(caller, name, reply)).await
    }

    /// What waits in the sockets of a listener; `None`: there is no such listener.
    pub async fn queues(&self, name: String) -> Result<Option<Vec<QueueView>>, Stopping> {
        self.ask(|reply| Command::Queues(name, reply)).await
    }

    /// What waits in the sockets of the listeners after one, of at most so many listeners.
    pub async fn what_waits(&self, after: String, most: usize) -> Result<WhatWaits, Stopping> {
        self.ask(|reply| Command::Waiting(after, most, reply)).await
    }

    /// What was said in the log after a number: for administrators, as the log is.
    pub fn happenings(&self, caller: &Caller, after: u64, most: usize) -> Result<Vec<Happening>, Refusal> {
        match may_administer(caller) {
            Decision::Allowed => Ok(self.history.after(after, most)),
            // Whoever looks on asks, and it is no fault of theirs: it is not in the log.
            Decision::Denied(reason) => {
                Err(Refusal::NotAllowed { action: "see what happened: only root may".to_owned(), reason })
            }
        }
    }

    /// The names that a unit has been handed for its descriptor store since the boot.
    pub async fn deposits(&self, unit: UnitName) -> Result<Vec<String>, Stopping> {
        self.ask(|reply| Command::Deposits(unit, reply)).await
    }

    /// The ports that were learned, by port.
    pub async fn learned(&self) -> Result<Vec<Learned>, Stopping> {
        self.ask(Command::Learned).await
    }

    /// Forgets a learned port.
    pub async fn forget(&self, caller: Caller, port: u16) -> Result<Result<(), Refusal>, Stopping> {
        self.ask(|reply| Command::Forget(caller, port, reply)).await
    }

    /// A connection could not be taken for want of descriptors. Where the broker has much to do it sees that by itself.
    pub fn is_out_of_descriptors(&self) {
        self.queue.push_now(Turn::OWN, Command::LookAtDescriptors);
    }

    /// How the broker is.
    pub async fn summary(&self) -> Result<Summary, Stopping> {
        self.ask(Command::Summary).await
    }

    /// Everything.
    pub async fn view(&self) -> Result<Arc<View>, Stopping> {
        self.ask(Command::View).await
    }

    /// Whether there is a listener or pool of that name.
    pub async fn exists(&self, kind: ObjectKind, name: String) -> Result<bool, Stopping> {
        self.ask(|reply| Command::Exists(kind, name, reply)).await
    }

    /// One listener.
    pub async fn show(&self, name: String) -> Result<Option<ListenerView>, Stopping> {
        self.ask(|reply| Command::Show(name, reply)).await
    }

    /// What there is to measure.
    pub async fn measure(&self) -> Result<Snapshot, Stopping> {
        let asked = Instant::now();
        self.ask(|reply| Command::Measure(asked, reply)).await
    }

    /// Notices from now on; `None` when the broker is stopping.
    #[must_use]
    pub fn notices(&self) -> Option<broadcast::Receiver<Notice>> {
        self.notices.upgrade().map(|sender| sender.subscribe())
    }
}
