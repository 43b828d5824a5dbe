//! What was sent on a connection to the private socket, and whether it was read.
//!
//! Descriptors that were sent and not read are in flight, count against the broker, and cannot be taken back: not even
//! by closing our end, only by the other end's. So a connection that ended with something unread is kept, closed in
//! both directions, with its place among the user's connections, until the kernel says that nothing waits there.
//!
//! A connection that reads nothing for the time that `[limits]` says is ended.

use crate::broker::{Debtor, Gate, Held};
use crate::kernel::memory::give_back_freed;
use crate::kernel::stream;
use crate::limits::{Limit, Unread, Who};
use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Notify;

/// How often connections are looked at that have not read everything.
const LOOK: Duration = Duration::from_secs(1);

/// When so many connections have ended, the memory that they had is given back, this much later.
const MANY: u64 = 256;
const TRIM_AFTER: Duration = Duration::from_secs(1);

/// All connections that may have something unread.
#[derive(Clone, Default)]
pub(super) struct Unreads(Arc<Inner>);

#[derive(Default)]
struct Inner {
    last: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Outgoing>>>,
    more: Notify,
    ended: AtomicU64,
    trims: AtomicBool,
}

/// The outgoing side of one connection.
pub(super) struct Outgoing {
    number: u64,
    uid: u32,
    pid: i32,
    stream: OwnedWriteHalf,
    gate: Gate,
    all: Unreads,
    state: Mutex<State>,
}

struct State {
    /// Counted for replies that are about to be sent, in their order.
    carried: VecDeque<Vec<Held>>,
    unread: Unread<Vec<Held>>,
    /// What waited at the last look, and since when nothing of it was read.
    waiting: u64,
    since: Instant,
    /// Whether it is looked at.
    is_looked_at: bool,
    /// The place of a connection that ended.
    place: Option<Held>,
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outgoing({})", self.number)
    }
}

impl Unreads {
    /// The outgoing side of a connection.
    pub(super) fn begin(&self, stream: OwnedWriteHalf, uid: u32, pid: i32, gate: Gate) -> Arc<Outgoing> {
        let state = State {
            carried: VecDeque::new(),
            unread: Unread::new(stream::least_weight()),
            waiting: 0,
            since: Instant::now(),
            is_looked_at: false,
            place: None,
        };
        let number = self.0.last.fetch_add(1, Ordering::Relaxed);
        Arc::new(Outgoing { number, uid, pid, stream, gate, all: self.clone(), state: Mutex::new(state) })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Outgoing>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One ended. Where many do, malloc(3) would keep what they had.
    fn ended(&self) {
        if self.0.ended.fetch_add(1, Ordering::Relaxed) < MANY || self.0.trims.swap(true, Ordering::Relaxed) {
            return;
        }
        let all = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(TRIM_AFTER).await;
            all.0.ended.store(0, Ordering::Relaxed);
            all.0.trims.store(false, Ordering::Relaxed);
            give_back_freed();
        });
    }

    /// Looks at them for as long as the daemon runs; sleeps while there are none.
    pub(super) async fn look(&self) {
        loop {
            let more = self.0.more.notified();
            if self.open().is_empty() {
                more.await;
            }
            tokio::time::sleep(LOOK).await;
            let all: Vec<_> = self.open().values().cloned().collect();
            let now = Instant::now();
            let read: Vec<u64> = all.iter().filter(|o| o.look(now)).map(|o| o.number).collect();
            for number in read {
                // Dropped outside of the lock.
                let gone = self.open().remove(&number);
                drop(gone);
            }
        }
    }
}

impl Outgoing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream.
    pub(super) fn stream(&self) -> &UnixStream {
        self.stream.as_ref()
    }

    /// The kernel takes no descriptors of ours just now.
    pub(super) fn no_room(&self) {
        self.gate.hit(Limit::UnreadDescriptors, &Who::User(self.uid));
    }

    /// The next message with descriptors is counted so.
    pub(super) fn carry(&self, held: Vec<Held>) {
        self.state().carried.push_back(held);
    }

    /// So much was sent, with descriptors or without.
    pub(super) fn sent(self: &Arc<Self>, bytes: usize, with_descriptors: bool) {
        let waiting = self.waiting();
        let mut state = self.state();
        let held = if with_descriptors { state.carried.pop_front() } else { None };
        let who = held.as_ref().and_then(|held| held.first()).map(|held| held.who().clone());
        state.unread.sent(bytes, held);
        // What was sent just now weighs at least that: with less there was something read.
        let unread = state.waiting.saturating_add(stream::least_weight());
        if !state.is_looked_at || waiting < unread {
            state.since = Instant::now();
        }
        state.waiting = waiting;
        let begins = !std::mem::replace(&mut state.is_looked_at, true);
        drop(state);
        if let Some(who) = who {
            self.gate.owes(self.number, who, Arc::clone(self) as Arc<dyn Debtor>);
        }
        if begins {
            self.all.open().insert(self.number, Arc::clone(self));
            self.all.0.more.notify_one();
        }
    }

    /// Whether nobody is there any more to read anything.
    pub(super) fn is_gone(&self) -> bool {
        stream::is_gone(&self.stream().as_fd())
    }

    fn waiting(&self) -> u64 {
        // What the kernel knows nothing of is not to be counted for ever.
        stream::unread(&self.stream().as_fd()).unwrap_or_default()
    }

    /// Looks what was read; how much was not.
    fn see(&self) -> u64 {
        let waiting = self.waiting();
        let mut state = self.state();
        if waiting < state.waiting || waiting == 0 {
            state.since = Instant::now();
        }
        state.waiting = waiting;
        state.unread.settle(waiting);
        let none = state.unread.is_empty();
        drop(state);
        if none {
            self.gate.owes_nothing(self.number);
        }
        waiting
    }

    /// Whether nothing is left to look at.
    fn look(&self, now: Instant) -> bool {
        let waiting = self.see();
        let mut state = self.state();
        if waiting == 0 {
            state.is_looked_at = false;
            let place = state.place.take();
            drop(state);
            drop(place);
            return true;
        }
        let patience = Duration::from_millis(self.gate.most(Limit::UnreadTime));
        let is_stuck = state.place.is_none() && now.saturating_duration_since(state.since) >= patience;
        drop(state);
        if is_stuck {
            self.give_up(patience);
        }
        false
    }

    fn give_up(&self, patience: Duration) {
        let (uid, pid) = (self.uid, self.pid);
        self.gate.hit(Limit::UnreadTime, &Who::User(uid));
        if self.gate.has_a_line(&Who::User(uid), "unread") {
            let seconds = patience.as_secs();
            tracing::warn!(
                event = "unread",
                uid,
                pid,
                "ends a connection of pid {pid} of user {uid}, which read nothing of what was sent to it for {seconds} s"
            );
        }
        self.shut_down();
    }

    /// Nothing goes either way any more.
    pub(super) fn shut_down(&self) {
        // A peer that is gone already has nothing to be told.
        let _ = stream::shut_down(&self.stream().as_fd());
    }

    /// The connection ended; its place is free when all was read.
    pub(super) fn end(self: &Arc<Self>, place: Held) {
        self.shut_down();
        self.all.ended();
        let carried = std::mem::take(&mut self.state().carried);
        drop(carried);
        if self.see() == 0 {
            let gone = self.all.open().remove(&self.number);
            drop(gone);
            return;
        }
        self.state().place = Some(place);
        // It is looked at since it was sent to.
    }
}

impl Debtor for Outgoing {
    fn settle(&self) {
        self.see();
    }
}
