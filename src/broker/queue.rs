//! The way to the broker's task: a queue for each caller, each bounded, and the caller's turn that has had least.
//!
//! Who asks faster than it is answered waits for itself; see [`Turns`].

use super::command::{Command, Stopping};
use super::gate::Gate;
use crate::config::Limit;
use crate::limits::{Turns, Who};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Whose turn: a user's, and of root each process's, since not all that root runs is one; but uid 0 of containers is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Turn {
    uid: u32,
    pid: i32,
    contained: bool,
}

impl Turn {
    /// The daemon's own.
    pub const OWN: Self = Self { uid: 0, pid: 0, contained: false };
    /// That of uid 0 in containers.
    pub const CONTAINED: Self = Self { uid: 0, pid: 0, contained: true };

    /// That of a process.
    #[must_use]
    pub fn of(uid: u32, pid: i32) -> Self {
        Self { uid, pid: if uid == 0 { pid } else { 0 }, contained: false }
    }

    /// For whom is counted what is spent in it.
    #[must_use]
    pub fn who(self) -> Who {
        if self.contained { Who::Contained } else { Who::User(self.uid) }
    }
}

type Waiting = (Command, OwnedSemaphorePermit);

#[derive(Debug, Clone)]
pub(super) struct Queue(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    arrived: Notify,
    gate: Gate,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queue")
    }
}

#[derive(Default)]
struct State {
    turns: Turns<Turn, Waiting>,
    /// Room in the queue of each who has something in it, or waits for that; and how much that was.
    places: HashMap<Turn, (usize, Arc<Semaphore>)>,
    ended: bool,
}

impl State {
    /// The places of a caller. Where the limit is another by now, those who come have new ones.
    fn places(&mut self, turn: Turn, most: usize) -> Arc<Semaphore> {
        let of = self.places.entry(turn).or_insert_with(|| (most, Arc::new(Semaphore::new(most))));
        if of.0 != most {
            *of = (most, Arc::new(Semaphore::new(most)));
        }
        Arc::clone(&of.1)
    }
}

impl Queue {
    pub(super) fn new(gate: Gate) -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), arrived: Notify::new(), gate }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a command into the caller's queue, when there is room.
    pub(super) async fn push(&self, turn: Turn, command: Command) -> Result<(), Stopping> {
        let most = usize::try_from(self.0.gate.most(Limit::CallsPerUser)).unwrap_or(1);
        let places = {
            let mut state = self.state();
            if state.ended {
                return Err(Stopping);
            }
            state.places(turn, most)
        };
        let place = match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                self.0.gate.hit(Limit::CallsPerUser, &turn.who());
                places.acquire_owned().await.map_err(|_| Stopping)?
            }
        };
        let mut state = self.state();
        if state.ended {
            return Err(Stopping);
        }
        state.turns.push(turn, (command, place));
        drop(state);
        self.0.arrived.notify_one();
        Ok(())
    }

    /// Puts a command into the caller's queue where there is room at once, and else forgets it.
    pub(super) fn push_now(&self, turn: Turn, command: Command) {
        let most = usize::try_from(self.0.gate.most(Limit::CallsPerUser)).unwrap_or(1);
        let mut state = self.state();
        let places = state.places(turn, most);
        let Ok(place) = places.try_acquire_owned() else { return };
        if !state.ended {
            state.turns.push(turn, (command, place));
            drop(state);
            self.0.arrived.notify_one();
        }
    }

    /// The next command. [`Queue::done`] is to be told when it was obeyed.
    pub(super) async fn next(&self) -> (Turn, Command, OwnedSemaphorePermit) {
        loop {
            let next = self.state().turns.pop();
            if let Some((turn, (command, place))) = next {
                return (turn, command, place);
            }
            self.0.arrived.notified().await;
        }
    }

    /// A command was obeyed, and took so long.
    pub(super) fn done(&self, turn: Turn, place: OwnedSemaphorePermit, took: Duration) {
        drop(place);
        let mut state = self.state();
        state.turns.charge(turn, took);
        if state.places.get(&turn).is_some_and(|(_, places)| Arc::strong_count(places) == 1) {
            state.places.remove(&turn);
        }
    }

    /// Whose queue is the longest.
    pub(super) fn longest(&self) -> Option<(Who, u64)> {
        let longest = self.state().turns.longest();
        longest.map(|(turn, waiting)| (turn.who(), u64::try_from(waiting).unwrap_or_default()))
    }

    /// Nobody obeys any more: whoever waits is told so.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        let waiting = state.turns.drain();
        let places: Vec<_> = state.places.drain().map(|(_, (_, places))| places).collect();
        drop(state);
        places.iter().for_each(|places| places.close());
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use tokio::sync::oneshot;

    fn command() -> Command {
        Command::Learned(oneshot::channel().0)
    }

    #[tokio::test]
    async fn a_hundred_calls_of_one_user_are_not_before_the_one_of_another() {
        let queue = Queue::new(Gate::default());
        let (bad, good) = (Turn::of(7, 1), Turn::of(8, 2));
        let most = usize::try_from(Limits::default().get(Limit::CallsPerUser)).unwrap();
        let flood: Vec<_> = (0..100)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.push(bad, command()).await })
            })
            .collect();
        while queue.longest().is_none_or(|(_, waiting)| waiting < most as u64) {
            tokio::task::yield_now().await;
        }
        for _ in 0..20 {
            queue.push(good, command()).await.unwrap();
            let mut others = 0;
            loop {
                tokio::task::yield_now().await;
                assert!(queue.longest().unwrap().1 <= most as u64, "more wait unread");
                let (turn, _, place) = queue.next().await;
                queue.done(turn, place, Duration::from_millis(1));
                if turn == good {
                    break;
                }
                others += 1;
            }
            assert!(others <= 2, "{others} were before it");
        }
        assert!(Turn::of(0, 1) != Turn::of(0, 2), "each process of root's has a turn");
        queue.end();
        let mut stopped = 0;
        for call in flood {
            stopped += usize::from(call.await.unwrap().is_err());
        }
        assert!(stopped > 0, "who waits is told that there is nobody any more");
        assert_eq!(queue.push(good, command()).await, Err(Stopping));
        assert!(queue.state().places.is_empty());
    }
    #[tokio::test]
    async fn a_limit_that_is_lowered_holds_for_who_is_there_too() {
        let queue = Queue::new(Gate::default());
        let bad = Turn::of(7, 1);
        queue.push(bad, command()).await.unwrap();
        queue.0.gate.configure(Limits::default().with(Limit::CallsPerUser, 2));
        let most = |queue: &Queue| queue.longest().unwrap().1;
        for _ in 0..2 {
            queue.push(bad, command()).await.unwrap();
        }
        assert_eq!(most(&queue), 3, "what was there stays");
        let waits = tokio::spawn({
            let queue = queue.clone();
            async move { queue.push(bad, command()).await }
        });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(most(&queue), 3);
        for _ in 0..2 {
            let (turn, _, place) = queue.next().await;
            queue.done(turn, place, Duration::ZERO);
        }
        waits.await.unwrap().unwrap();
    }
}
