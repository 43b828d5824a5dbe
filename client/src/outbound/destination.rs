//! The ports for one destination, as several threads and tasks share them.
//!
//! One short lock around [`Blocks`], held over no system call and no await. Whoever finds nothing waits for a word:
//! that of the helper when it has asked the broker, or that of somebody who gives a port back before.

use super::blocks::{Blocks, Port, Taken};
use super::error::ConnectError;
use crate::error::Error;
use crate::lease::{Block, Exhausted, Protocol};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Used ports that are looked at beside one that is to be used, for what many looks at a time cost is half of what they
/// cost one by one, or less.
const LOOKED_BESIDE: usize = 31;

/// What ports are leased for. A TCP port is leased for one destination; a UDP port is nobody else's in any case, so
/// that all destinations share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) protocol: Protocol,
    pub(crate) destination: Option<SocketAddr>,
}

impl Key {
    pub(crate) fn new(protocol: Protocol, destination: SocketAddr) -> Self {
        match protocol {
            // Without flow label and interface, which are no part of the 4-tuple.
            Protocol::Tcp => {
                let destination = SocketAddr::new(destination.ip(), destination.port());
                Self { protocol, destination: Some(destination) }
            }
            Protocol::Udp => Self { protocol, destination: None },
        }
    }
}

/// What whoever waits is told.
#[derive(Debug, Clone)]
pub(crate) enum Word {
    /// There may be something now.
    Again,
    /// The broker has nothing left.
    Exhausted(Exhausted),
    /// The broker cannot be asked, or refuses.
    Failed(Arc<Error>),
}

/// What is there for somebody who wants a port.
#[derive(Debug)]
pub(crate) enum Offer {
    /// This one. `low`: it is time to ask for more. `beside`: used ones to be looked at with it.
    Port { taken: Taken, low: bool, beside: Vec<Taken> },
    /// None.
    Nothing,
    /// This state has been given up: find the destination again.
    Closed,
}

/// What to ask the broker for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) ports: u32,
    pub(crate) v4: bool,
    /// Until when it may wait for them.
    pub(crate) until: Option<Instant>,
}

#[derive(Debug)]
struct State {
    blocks: Blocks,
    waiting: VecDeque<oneshot::Sender<Word>>,
    /// The broker is being asked, or will be.
    asking: Option<Want>,
    /// Not before then in the background: the broker had nothing, or was not there.
    ask_after: Option<Instant>,
    closed: bool,
}

impl State {
    /// Joins those who wait.
    fn enter(&mut self) -> oneshot::Receiver<Word> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.retain(|waiting| !waiting.is_closed());
        self.waiting.push_back(sender);
        receiver
    }
}

/// One destination.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) key: Key,
    state: Mutex<State>,
}

impl Destination {
    pub(crate) fn new(key: Key, now: Instant) -> Self {
        let blocks = Blocks::new(now);
        let state = State { blocks, waiting: VecDeque::new(), asking: None, ask_after: None, closed: false };
        Self { key, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next port. True with it: somebody has to ask the broker for more.
    pub(crate) fn take(&self, v4: bool, now: Instant) -> Offer {
        let mut state = self.lock();
        if state.closed {
            return Offer::Closed;
        }
        let Some(taken) = state.blocks.take(v4, now) else { return Offer::Nothing };
        let low = state.blocks.is_low(v4)
            && state.asking.is_none()
            && state.ask_after.is_none_or(|after| after <= now);
        if low {
            state.asking = Some(Want { ports: state.blocks.wanted(), v4, until: None });
        }
        let beside = if taken.used && self.key.protocol == Protocol::Tcp {
            state.blocks.take_beside(v4, LOOKED_BESIDE)
        } else {
            Vec::new()
        };
        Offer::Port { taken, low, beside }
    }

    /// Waits for a word; true where the caller has to see to it that the broker is asked. The broker may wait until then.
    pub(crate) fn wait(&self, v4: bool, until: Option<Instant>) -> (oneshot::Receiver<Word>, bool) {
        let mut state = self.lock();
        let receiver = state.enter();
        let ask = state.asking.is_none();
        if ask {
            state.asking = Some(Want { ports: state.blocks.wanted(), v4, until });
        }
        (receiver, ask)
    }

    /// Waits for a port that comes back, or for [`wake`](Self::wake).
    pub(crate) fn wait_here(&self) -> oneshot::Receiver<Word> {
        self.lock().enter()
    }

    /// Has all who wait look again.
    pub(crate) fn wake(&self) {
        for waiting in self.lock().waiting.drain(..) {
            let _ = waiting.send(Word::Again);
        }
    }

    /// Looks again at some that are held back; false where there are none.
    pub(crate) fn look_early(&self, now: Instant, most: u32) -> bool {
        self.lock().blocks.look_early(now, most)
    }

    /// How many are held back, and for how long the first of them still is.
    pub(crate) fn held(&self, now: Instant) -> (u32, Option<Duration>) {
        let state = self.lock();
        let due = state.blocks.next_due();
        (state.blocks.held(), due.map(|due| due.saturating_duration_since(now)))
    }

    fn hold(&self, change: impl FnOnce(&mut Blocks)) {
        change(&mut self.lock().blocks);
    }

    /// Takes ports back, and has as many of those who wait look again.
    fn back(&self, change: impl FnOnce(&mut Blocks) -> usize) {
        let mut state = self.lock();
        let mut ports = change(&mut state.blocks);
        while ports > 0
            && let Some(waiting) = state.waiting.pop_front()
        {
            // Those who have gone are passed over.
            if waiting.send(Word::Again).is_ok() {
                ports -= 1;
            }
        }
    }

    /// What the helper is to ask for.
    pub(crate) fn want(&self) -> Option<Want> {
        self.lock().asking
    }

    /// What the broker gave. The error: it gave what was here already.
    pub(crate) fn answered(&self, lease: u64, blocks: &[Block]) -> Result<(), super::blocks::Overlap> {
        let mut state = self.lock();
        state.blocks.add(lease, blocks)?;
        state.ask_after = None;
        state.asking = None;
        for waiting in state.waiting.drain(..) {
            let _ = waiting.send(Word::Again);
        }
        Ok(())
    }

    /// That the broker gave nothing: all who wait are told, and it is not asked in the background until then.
    pub(crate) fn failed(&self, word: &Word, after: Instant) {
        let mut state = self.lock();
        state.asking = None;
        state.ask_after = Some(after);
        for waiting in state.waiting.drain(..) {
            let _ = waiting.send(word.clone());
        }
    }

    /// The numbers of its leases.
    pub(crate) fn leases(&self) -> Vec<u64> {
        self.lock().blocks.leases().collect()
    }

    /// Leases that are not needed now, to be released.
    pub(crate) fn idle(&self, now: Instant) -> Vec<u64> {
        self.lock().blocks.idle(now)
    }

    /// Leases of which nothing is in use, to be released: others lack them.
    pub(crate) fn spare(&self) -> Vec<u64> {
        let mut state = self.lock();
        // Whoever waits here needs them.
        if state.waiting.iter().any(|waiting| !waiting.is_closed()) {
            Vec::new()
        } else {
            state.blocks.spare()
        }
    }

    /// Gives the state up, where it was not used for so long: its leases, to be released. From then on it is
    /// [`Offer::Closed`].
    pub(crate) fn abandon(&self, now: Instant, patience: Duration) -> Option<Vec<u64>> {
        let mut state = self.lock();
        if state.asking.is_some() || !state.waiting.is_empty() {
            return None;
        }
        let leases = state.blocks.abandoned(now, patience)?;
        state.closed = true;
        Some(leases)
    }

    /// The broker has lost all leases.
    pub(crate) fn lost(&self) {
        self.lock().blocks.lose_all();
    }
}

/// A port that is out. Dropped, it goes back as closed: the kernel is asked before it is used again, so it does not
/// matter whether a connection on it lives on elsewhere.
#[derive(Debug)]
pub(crate) struct Slot {
    destination: Arc<Destination>,
    port: Option<Port>,
    pub(crate) source: SocketAddr,
}

impl Slot {
    pub(crate) fn new(destination: Arc<Destination>, port: Port, source: SocketAddr) -> Self {
        Self { destination, port: Some(port), source }
    }

    fn give(mut self, change: impl FnOnce(&mut Blocks, Port)) {
        if let Some(port) = self.port.take() {
            self.destination.hold(|blocks| change(blocks, port));
        }
    }

    /// A connection is open on it.
    pub(crate) fn open(self, now: Instant) {
        self.give(|blocks, port| blocks.open(port, now));
    }

    /// It is in TIME_WAIT for so long.
    pub(crate) fn time_wait(self, now: Instant, left: Duration) {
        self.give(|blocks, port| blocks.time_wait(port, now, left));
    }

    /// The kernel refused it.
    pub(crate) fn refused(self, now: Instant) {
        self.give(|blocks, port| blocks.refused(port, now));
    }

    /// Its address is not there.
    pub(crate) fn absent(self, now: Instant) {
        self.give(|blocks, port| blocks.absent(port, now));
    }

    /// The kernel cannot be asked about it.
    pub(crate) fn unknown(self, now: Instant) {
        self.give(|blocks, port| blocks.unknown(port, now));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(port) = self.port.take() {
            self.destination.back(|blocks| {
                blocks.closed(port);
                1
            });
        }
    }
}

/// What the kernel says of a used port before its turn.
#[derive(Debug)]
pub(crate) enum Early {
    /// Nothing is on it but, perhaps, TIME_WAIT until then.
    Free(Option<Instant>),
    /// Something is.
    Open,
    /// TIME_WAIT for so long, which the kernel does not let be replaced.
    TimeWait(Duration),
    /// It cannot be asked.
    Unknown,
}

/// Used ports that are looked at before their turn. Dropped, they go back as closed.
#[derive(Debug)]
pub(crate) struct Beside<'a> {
    destination: &'a Destination,
    ports: Vec<Taken>,
}

impl<'a> Beside<'a> {
    pub(crate) fn new(destination: &'a Destination, ports: Vec<Taken>) -> Self {
        Self { destination, ports }
    }

    pub(crate) fn sources(&self) -> impl ExactSizeIterator<Item = SocketAddr> {
        self.ports.iter().map(|taken| taken.source)
    }

    /// What each of them turned out to be.
    pub(crate) fn looked(mut self, now: Instant, seen: impl Iterator<Item = Early>) {
        let looked = std::mem::take(&mut self.ports).into_iter().map(|taken| taken.port).zip(seen);
        self.destination.back(|blocks| {
            let mut back = 0;
            for (port, seen) in looked {
                back += 1;
                match seen {
                    Early::Free(time_wait) => blocks.looked(port, time_wait),
                    Early::Open => blocks.looked_early(port),
                    Early::TimeWait(left) => blocks.time_wait(port, now, left),
                    Early::Unknown => blocks.unknown(port, now),
                }
            }
            back
        });
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        let ports = std::mem::take(&mut self.ports);
        if !ports.is_empty() {
            self.destination.back(|blocks| {
                let count = ports.len();
                ports.into_iter().for_each(|taken| blocks.closed(taken.port));
                count
            });
        }
    }
}

impl Word {
    /// As an error for the caller, where it is one.
    pub(crate) fn into_error(
        self,
        pool: &str,
        destination: SocketAddr,
        held: u32,
        next: Option<Duration>,
    ) -> Option<ConnectError> {
        match self {
            Self::Again => None,
            Self::Failed(error) => Some(ConnectError::Broker(error)),
            Self::Exhausted(mut figures) => {
                figures.next = figures.next.into_iter().chain(next).min();
                Some(ConnectError::Exhausted { pool: pool.to_owned(), destination, figures, held })
            }
        }
    }
}
