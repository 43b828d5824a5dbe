//! The one thread of a connector that talks to the broker.
//!
//! It is made when the first block is needed and ends with the connector. One thread, and not tasks of the caller's
//! runtime, so that connectors serve std and tokio alike, outlive any runtime, and ask for the next block also while
//! the caller's threads are busy: asking is a call in a few hundred connections. It owns the session, so the lifeline
//! closes when the connector goes, and not when the last connection does: the broker sees by itself what is open.
//!
//! It has one connection to the broker for all its questions, which is closed when nothing is asked for a while. On it the
//! broker says when others lack ports of the pool; it is asked for what besides now and then. What is not in use of that is
//! given back then.

use super::destination::{Destination, Key, Want, Word};
use super::destinations::Destinations;
use crate::connect::Broker;
use crate::error::Error;
use crate::kept::Kept;
use crate::lease::{Block, Exhausted, Lease, Protocol, Target};
use crate::session::Session;
use crate::wire::ErrorName;
use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{RwLock, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// How often idle blocks are looked for.
const SWEEP: Duration = Duration::from_secs(15);
/// The last block of a destination is kept for so long, as long as there are not many destinations.
const PATIENCE: Duration = Duration::from_secs(300);
const PATIENCE_OF_MANY: Duration = Duration::from_secs(60);
const MANY: usize = 1_024;
/// A daemon that gave a session is waited for so long, for it is being restarted.
const RESTART: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(50);
/// Not asked in the background for so long after a refusal.
const REFUSED: Duration = Duration::from_secs(1);
/// Questions at a time; and those besides that wait for ports, for a destination each.
const QUESTIONS: usize = 16;
const LONG_QUESTIONS: usize = 32;

/// The thread, as the connector has it; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Helper {
    // At most one for each destination, see `Destination::wait`, and one for each thread and task that waits.
    questions: mpsc::UnboundedSender<Question>,
}

/// What it is told to do.
enum Question {
    /// Ask the broker for what the destination wants.
    Ask(Arc<Destination>),
    /// Wake those who wait for the destination, after this time.
    Wake(Arc<Destination>, Duration),
}

impl Helper {
    /// Starts it.
    pub(crate) fn start(pool: &str, broker: &Broker, destinations: &Arc<Destinations>) -> io::Result<Self> {
        let (questions, receiver) = mpsc::unbounded_channel();
        let (broker, kept) = broker.keeping();
        let worker = Arc::new(Worker {
            pool: pool.to_owned(),
            compared: AtomicU64::new(broker.lost()),
            broker,
            kept,
            destinations: Arc::clone(destinations),
            session: tokio::sync::Mutex::new(None),
            turns: Semaphore::new(QUESTIONS),
            long_turns: Semaphore::new(LONG_QUESTIONS),
            unreleased: Mutex::new(Vec::new()),
            books: RwLock::new(()),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let run = move || runtime.block_on(run(worker, receiver));
        std::thread::Builder::new().name("portbroker".into()).spawn(run)?;
        Ok(Self { questions })
    }

    /// Has it ask for what a destination wants. False where it is not there any more.
    pub(crate) fn ask(&self, destination: &Arc<Destination>) -> bool {
        self.questions.send(Question::Ask(Arc::clone(destination))).is_ok()
    }

    /// Has it wake those who wait for a destination, later. False where it is not there any more.
    pub(crate) fn wake(&self, destination: &Arc<Destination>, after: Duration) -> bool {
        self.questions.send(Question::Wake(Arc::clone(destination), after)).is_ok()
    }
}

async fn run(worker: Arc<Worker>, mut questions: mpsc::UnboundedReceiver<Question>) {
    let mut tasks = JoinSet::new();
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let kept = Arc::clone(&worker.kept);
    tasks.spawn(async move { kept.close_when_idle().await });
    let kept = Arc::clone(&worker.kept);
    loop {
        let worker = Arc::clone(&worker);
        tokio::select! {
            question = questions.recv() => match question {
                Some(Question::Wake(destination, after)) => {
                    tasks.spawn(async move {
                        tokio::time::sleep(after).await;
                        destination.wake();
                    });
                }
                Some(Question::Ask(destination)) => {
                    tasks.spawn(async move {
                        worker.serve(&destination).await;
                        worker.compare().await;
                    });
                }
                None => return,
            },
            () = kept.wanted() => { tasks.spawn(async move { worker.give_back().await }); }
            _ = tick.tick() => { tasks.spawn(async move { worker.sweep().await }); }
            Some(_) = tasks.join_next() => {}
        }
    }
}

struct Worker {
    pool: String,
    broker: Broker,
    kept: Arc<Kept>,
    destinations: Arc<Destinations>,
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    turns: Semaphore,
    long_turns: Semaphore,
    /// Leases that are not needed and could not be released yet.
    unreleased: Mutex<Vec<u64>>,
    /// Read by each question, until its answer is in the books; written by whoever compares these with the broker's.
    books: RwLock<()>,
    /// How many answers had been lost when they were compared.
    compared: AtomicU64,
}

impl Worker {
    async fn serve(&self, destination: &Destination) {
        let Some(want) = destination.want() else { return };
        let mut answer = Answer { destination, given: false };
        let turns = if want.until.is_some() { &self.long_turns } else { &self.turns };
        let _turn = turns.acquire().await;
        let _books = self.books.read().await;
        let error = match self.ask(&destination.key, want).await {
            Ok(lease) => match destination.answered(lease.id, &lease.items) {
                Ok(()) => {
                    answer.given = true;
                    return;
                }
                Err(overlap) => {
                    self.release(vec![lease.id]).await;
                    Error::Reply(overlap.to_string())
                }
            },
            Err(error) => error,
        };
        let word = match error {
            Error::Exhausted { figures, .. } => Word::Exhausted(figures),
            error => Word::Failed(Arc::new(error)),
        };
        answer.given = true;
        destination.failed(&word, Instant::now() + REFUSED);
    }

    /// Asks the broker, and does what can be done about its refusal.
    async fn ask(&self, key: &Key, want: Want) -> Result<Lease<Block>, Error> {
        let Key { protocol, destination } = *key;
        let target = Target { pool: self.pool.clone(), protocol, destination };
        let deadline = Instant::now() + RESTART;
        let (mut returned, mut lost) = (false, false);
        loop {
            let known = self.session.lock().await.is_some();
            let session = self.session().await?;
            let wait =
                want.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
            let error = match session.waiting(wait).ahead().blocks(&target, want.ports, 1).await {
                Ok(lease) if lease.items.iter().any(|block| block.address.is_ipv4() == want.v4) => {
                    return Ok(lease);
                }
                Ok(lease) => {
                    self.release(vec![lease.id]).await;
                    let message = "the pool has ports of the other address family only".to_owned();
                    return Err(Error::Exhausted { message, figures: Exhausted::default() });
                }
                Err(error) => error,
            };
            match error {
                Error::Refused { name: ErrorName::QuotaExceeded, .. } if !returned => {
                    returned = true;
                    if !self.give_up_others(key).await {
                        return Err(error);
                    }
                }
                Error::Refused { name: ErrorName::NoSuchSession, .. } if !lost => {
                    lost = true;
                    self.lose(&session).await;
                }
                Error::NotReachable { .. } if known && Instant::now() < deadline => {
                    tokio::time::sleep(RETRY).await;
                }
                error => return Err(error),
            }
        }
    }

    async fn session(&self) -> Result<Arc<Session>, Error> {
        let mut session = self.session.lock().await;
        if let Some(session) = session.as_ref() {
            return Ok(Arc::clone(session));
        }
        let opened = Arc::new(self.broker.open_session().await?);
        *session = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// The broker does not know the session: it has lost its memory, and leases our ports to others.
    async fn lose(&self, lost: &Arc<Session>) {
        let mut session = self.session.lock().await;
        if session.as_ref().is_some_and(|session| Arc::ptr_eq(session, lost)) {
            *session = None;
            self.destinations.all().iter().for_each(|destination| destination.lost());
            self.lock_unreleased().clear();
        }
    }

    /// Releases what other destinations have and do not use: for a quota that is used up.
    async fn give_up_others(&self, key: &Key) -> bool {
        let mut leases = Vec::new();
        for destination in self.destinations.all() {
            if destination.key != *key {
                leases.extend(self.destinations.abandon(
                    &destination,
                    Instant::now(),
                    Duration::from_secs(1),
                ));
            }
        }
        let some = !leases.is_empty();
        self.release(leases).await;
        some
    }

    /// Releases what is not in use of that which others lack. (A broker of an earlier version does not say.)
    async fn give_back(&self) {
        let Some(session) = self.session.lock().await.clone() else { return };
        let destinations = self.destinations.all();
        if destinations.iter().all(|destination| destination.leases().is_empty()) {
            return;
        }
        let Ok(wanted) = session.wanted().await else { return };
        let mut leases = Vec::new();
        for (pool, protocol, destination) in wanted {
            let key = Key {
                protocol: if protocol == Protocol::Udp.as_str() { Protocol::Udp } else { Protocol::Tcp },
                destination: destination.parse().ok(),
            };
            let ours = destinations.iter().filter(|destination| pool == self.pool && destination.key == key);
            leases.extend(ours.flat_map(|destination| destination.spare()));
        }
        self.release(leases).await;
    }

    /// Releases what was not needed of late.
    async fn sweep(&self) {
        let destinations = self.destinations.all();
        let patience = if destinations.len() > MANY { PATIENCE_OF_MANY } else { PATIENCE };
        let mut leases = Vec::new();
        for destination in destinations {
            let now = Instant::now();
            leases.extend(destination.idle(now));
            leases.extend(self.destinations.abandon(&destination, now, patience));
        }
        self.release(leases).await;
        self.give_back().await;
        self.compare().await;
    }

    /// After answers were lost: releases what the broker leased and we never heard of.
    async fn compare(&self) {
        let lost = self.broker.lost();
        let Some(session) = self.session.lock().await.clone() else { return };
        if lost == self.compared.load(Ordering::Relaxed) {
            return;
        }
        // Where there are questions now, one of these compares when it is answered.
        let Ok(_books) = self.books.try_write() else { return };
        let Ok(leased) = session.leases().await else { return };
        let mut known: HashSet<u64> = self.lock_unreleased().iter().copied().collect();
        known.extend(self.destinations.all().iter().flat_map(|destination| destination.leases()));
        self.release(leased.into_iter().filter(|lease| !known.contains(lease)).collect()).await;
        self.compared.store(lost, Ordering::Relaxed);
    }

    /// Releases leases, and those that could not be before.
    async fn release(&self, leases: Vec<u64>) {
        let mut leases = leases;
        leases.append(&mut self.lock_unreleased());
        let session = self.session.lock().await.clone();
        let Some(session) = session else { return };
        while let Some(lease) = leases.pop() {
            if let Err(Error::NotReachable { .. }) = session.release(lease).await {
                leases.push(lease);
                break;
            }
            // Any other error: there is no such lease, so there is nothing to release.
        }
        self.lock_unreleased().append(&mut leases);
    }

    fn lock_unreleased(&self) -> std::sync::MutexGuard<'_, Vec<u64>> {
        self.unreleased.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees to it that those who wait are told something, also where this thread ends in the middle of it.
struct Answer<'a> {
    destination: &'a Destination,
    given: bool,
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if !self.given {
            let error = Error::Runtime(io::Error::other("the question was given up"));
            self.destination.failed(&Word::Failed(Arc::new(error)), Instant::now() + REFUSED);
        }
    }
}
