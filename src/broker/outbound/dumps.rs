//! Looks at whatever is on some ports, made by a thread: the kernel walks over all of its sockets for each, which takes
//! it some tens of milliseconds where there are a million, and nobody else is to wait for that.
//!
//! One at a time, with pauses: whoever leases and releases ports for any destination, over and over, costs no more than
//! a part of one processor. What waits is bounded; what finds no room is asked again later, see
//! [`Ledger::unanswered`](crate::leases::Ledger::unanswered).

use crate::kernel::tuples::Lookup;
use crate::leases::Look;
use crate::model::{Protocol, Seen, SourceRange};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Looks that may wait.
const MOST_WAITING: usize = 256;
/// So many are made in one walk.
const AT_ONCE: usize = 64;
/// The pause after a walk, in times of what it took.
const PAUSE: u32 = 2;

/// A source, a destination (port 0: none) and what has it.
pub(super) type Found = (SocketAddr, SocketAddr, Seen);

/// What was found of TCP and of UDP.
type OfBoth = io::Result<[Vec<Found>; 2]>;

/// A look at a range.
#[derive(Debug, Clone, Copy)]
pub(in crate::broker) struct Asked {
    pub(super) look: Look,
    pub(super) protocol: Protocol,
    pub(super) source: SourceRange,
}

/// Looks that were made, and what was found.
pub(in crate::broker) struct Answered {
    pub(super) asked: Vec<Asked>,
    pub(super) found: OfBoth,
}

/// What is asked, and what waits.
#[derive(Default)]
pub(super) struct Dumps {
    waiting: VecDeque<Asked>,
    asked: Vec<Asked>,
    running: Option<JoinHandle<(OfBoth, Duration)>>,
    not_before: Option<Instant>,
}

impl Dumps {
    /// Asks, soon; false where there is no room.
    pub(super) fn put(&mut self, asked: Asked) -> bool {
        let room = self.waiting.len() < MOST_WAITING;
        if room {
            self.waiting.push_back(asked);
        }
        room
    }

    /// Whether an answer about ports of this protocol is to come.
    pub(super) fn is_about(&self, protocol: Protocol) -> bool {
        self.asked.iter().chain(&self.waiting).any(|asked| asked.protocol == protocol)
    }

    /// When [`begin`](Self::begin) has something to do.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let idle = self.running.is_none() && !self.waiting.is_empty();
        idle.then(|| self.not_before.unwrap_or(now))
    }

    /// Makes those looks whose time has come. Must be called within a tokio runtime.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.next_due(now).is_none_or(|due| due > now) {
            return;
        }
        self.asked = self.waiting.drain(..self.waiting.len().min(AT_ONCE)).collect();
        let of = |protocol| {
            let of = self.asked.iter().filter(move |asked| asked.protocol == protocol);
            of.map(|asked| asked.source).collect::<Vec<_>>()
        };
        let (tcp, udp) = (of(Protocol::Tcp), of(Protocol::Udp));
        self.running = Some(tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            (found(&tcp, &udp), began.elapsed())
        }));
    }

    /// The next answer. Nothing is lost where the future is dropped.
    pub(super) async fn next(&mut self) -> Answered {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let (found, took) =
            running.await.unwrap_or_else(|error| (Err(io::Error::other(error)), Duration::ZERO));
        self.running = None;
        self.not_before = Instant::now().checked_add(took * PAUSE);
        Answered { asked: std::mem::take(&mut self.asked), found }
    }
}

fn found(tcp: &[SourceRange], udp: &[SourceRange]) -> OfBoth {
    let mut lookup = Lookup::new()?;
    Ok([lookup.ranges(Protocol::Tcp, tcp)?, lookup.ranges(Protocol::Udp, udp)?])
}
