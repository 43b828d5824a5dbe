//! What was read on a connection to the private socket and is not answered yet.
//!
//! A message has its memory from its first bytes on, and a caller may send it as slowly as it likes, on as many
//! connections as it has. So a long one is counted for its user before there is anything made for it, by the limits of
//! what is made for that user (`unread-bytes-per-user`), until it is answered.

use crate::broker::{Gate, Held};
use crate::limits::{Claim, Limit, Who};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Messages up to so many bytes are not counted: nearly all calls.
pub(super) const SHORT: usize = 1024;
/// How many calls of a connection may wait at once.
const WAITING: usize = 64;
/// What a call takes that waits beside others of its connection, message and all.
const WAITING_CALL: u64 = 8 * 1024;

/// The messages of one connection.
#[derive(Debug)]
pub(super) struct Incoming {
    gate: Gate,
    who: Who,
    /// Of those that were begun and did not come out yet, in their order: what is counted for a long one.
    begun: Mutex<VecDeque<Option<Held>>>,
}

impl Incoming {
    pub(super) fn new(gate: Gate, who: Who) -> Self {
        Self { gate, who, begun: Mutex::default() }
    }

    fn begun(&self) -> MutexGuard<'_, VecDeque<Option<Held>>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message of that length begins: waits until there is room for it, and says how long it may take to come where
    /// that is a long one.
    pub(super) async fn begin(&self, length: usize) -> Option<Duration> {
        if length <= SHORT {
            self.begun().push_back(None);
            return None;
        }
        let held = self.gate.bytes(&self.who, u64::try_from(length).unwrap_or(u64::MAX)).await;
        self.begun().push_back(Some(held));
        Some(Duration::from_millis(self.gate.most(Limit::UnreadTime)))
    }

    /// The next message has come out: what is counted for it, to be kept until it is answered.
    #[must_use]
    pub(super) fn next(&self) -> Option<Held> {
        self.begun().pop_front().flatten()
    }

    /// Whether a call may wait beside so many others of its connection: what is counted for it then, or why not. `long`
    /// is what is counted for its length, and would be for as long as it waits.
    pub(super) fn may_wait(&self, long: Option<&Held>, others: usize) -> Result<Held, String> {
        if long.is_some() {
            return Err(format!("a call that may wait has at most {SHORT} bytes here"));
        }
        if others >= WAITING {
            return Err(format!(
                "{others} calls wait here already, for ports or for a password: let some of them end first"
            ));
        }
        self.gate.claim(&self.who, Claim::Bytes(WAITING_CALL)).map_err(|over| {
            format!(
                "no more calls of yours wait, for ports or for a password, before some of them have ended: {} is {} here",
                over.limit.key(),
                over.most
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    const LONG: usize = 1 << 20;

    #[tokio::test]
    async fn long_messages_wait_for_room_of_their_user_and_short_ones_do_not() {
        let gate = Gate::default();
        let (one, another) =
            (Incoming::new(gate.clone(), Who::User(7)), Incoming::new(gate.clone(), Who::User(7)));
        for _ in 0..16 {
            assert!(one.begin(LONG).await.is_some());
        }
        assert_eq!(another.begin(SHORT).await, None);
        {
            let mut more = Box::pin(another.begin(LONG));
            assert!((&mut more).now_or_never().is_none(), "16M is what a user may have");
            assert!(Incoming::new(gate.clone(), Who::User(8)).begin(LONG).now_or_never().is_some());
            drop(one.next());
            assert!(more.await.is_some(), "one was answered");
        }
        assert!(another.next().is_none(), "they come out in their order");
        assert!(another.next().is_some());
        drop(one);
        assert!(
            another.begin(16 * LONG).now_or_never().is_some(),
            "with the connection goes what was counted for it"
        );
    }

    #[tokio::test]
    async fn calls_that_wait_are_counted_and_long_ones_do_not() {
        let incoming = Incoming::new(Gate::default(), Who::User(7));
        incoming.begin(LONG).await;
        let long = incoming.next();
        assert!(incoming.may_wait(long.as_ref(), 0).unwrap_err().contains("1024 bytes"));
        drop(long);
        assert!(incoming.may_wait(None, WAITING).unwrap_err().starts_with("64 calls wait here already"));
        let waiting: Vec<_> = std::iter::from_fn(|| incoming.may_wait(None, 0).ok()).collect();
        assert_eq!(waiting.len(), 2048);
        assert!(incoming.may_wait(None, 0).unwrap_err().contains("unread-bytes-per-user is 16777216"));
    }
}
