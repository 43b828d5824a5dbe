//! The table of listeners: which state each of their sockets should have, and what to do about it.
//!
//! Pure: events and `now` in, [`Action`]s out. The broker performs an action on the real socket and reports
//! the result with [`Table::succeeded`] or [`Table::failed`]; a failed one comes again after a back-off.
//! A port that is configured is never given up: only the removal of its listener closes its last socket, and that not
//! before its holders are gone: see [`Lingering`]. Sockets that are too many, or have a successor, are drained first:
//! see [`Draining`].

mod activation;
mod draining;
mod lingering;
mod listener;
mod protection;
mod table;

pub use activation::{Activation, Attempt, Failure, Outcome, Step};
pub use draining::{Drain, DrainStep, Draining, Facts};
pub use lingering::{Linger, Lingering};
pub use listener::{Action, BySocket, HolderId, IdHasher, Listener, Slot, SocketId};
pub use protection::{Plan, plan};
pub use table::{Change, Released, Table, UnknownListener};

use crate::config::Idle;
use std::time::{Duration, Instant};

/// The state that a listener's socket should have, or has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Accepts into its queue (streams), receives (datagrams).
    Listening,
    /// Bound; clients are refused.
    Refusing,
    /// Bound; datagrams are thrown away.
    Dropping,
}

/// What a socket should be while nobody holds its listener since `unheld_since`, and until when.
fn idle_target(idle: Idle, unheld_since: Instant, now: Instant) -> (Target, Option<Instant>) {
    match idle {
        Idle::Queue => (Target::Listening, None),
        Idle::Refuse => (Target::Refusing, None),
        Idle::Drop => (Target::Dropping, None),
        Idle::QueueFor(patience) => match unheld_since.checked_add(patience) {
            Some(end) if end <= now => (Target::Refusing, None),
            end => (Target::Listening, end),
        },
    }
}

/// How long to wait after the `attempts`-th failure in a row: 1 s, doubled up to a minute.
fn back_off(attempts: u32) -> Duration {
    Duration::from_secs(1 << attempts.saturating_sub(1).min(6)).min(Duration::from_secs(60))
}
