//! One listener and its sockets: what they should be at a moment, and what there is to do for that.

use super::{Target, idle_target};
use crate::config::ListenerConfig;
use crate::model::{Endpoint, SocketKind};
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Instant;

/// One socket of a listener, for as long as the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub(super) u64);

impl SocketId {
    /// The id as a number, for a watch that knows nothing else.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    #[cfg(test)]
    pub(super) const fn first() -> Self {
        Self(1)
    }

    /// The id again.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// Sockets by their ids.
pub type BySocket<V> = HashMap<SocketId, V, BuildHasherDefault<IdHasher>>;

/// Spreads ids, which are numbers that we gave ourselves: nobody else can choose them so that they collide.
#[derive(Debug, Default)]
pub struct IdHasher(u64);

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const UPPER: u64 = 0x7f << 57;

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        // A table takes the place from the lower bits, so that neighbours stay neighbours in memory, and tells entries
        // apart by the upper seven.
        self.0 ^ (self.0.wrapping_mul(GOLDEN) & UPPER)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = self.0.rotate_left(7) ^ number;
    }
}

/// One holder, for as long as the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HolderId(pub u64);

/// What the broker shall do to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Bind it.
    Bind(SocketId),
    /// Bring a bound socket into this state.
    Set(SocketId, Target),
}

/// Why something did not go as it should, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) error: String,
    pub(super) attempts: u32,
    pub(super) retry_at: Instant,
}

/// A socket of a listener.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Its id.
    pub id: SocketId,
    /// Where it is, or will be, bound.
    pub endpoint: Endpoint,
    /// Which of the endpoint's sockets it is, from 0.
    pub shard: u16,
    /// `None`: not bound.
    pub state: Option<Target>,
    /// None of those who hold the listener has it: clients are not sent to it before it is handed over. Only of a
    /// slot whose endpoint another one serves.
    pub(super) waits: bool,
    /// Who was handed it and is still there.
    pub(super) holders: BTreeSet<HolderId>,
    pub(super) trouble: Option<Trouble>,
}

impl Slot {
    pub(super) fn new(id: SocketId, endpoint: Endpoint, shard: u16) -> Self {
        Self { id, endpoint, shard, state: None, waits: false, holders: BTreeSet::new(), trouble: None }
    }

    /// One that somebody has, and that listens.
    pub(super) fn bound(id: SocketId, endpoint: Endpoint) -> Self {
        Self { state: Some(Target::Listening), ..Self::new(id, endpoint, 0) }
    }

    /// Who was handed it and is still there.
    #[must_use]
    pub fn holders(&self) -> &BTreeSet<HolderId> {
        &self.holders
    }

    /// Why it is not in the state that it should be in.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.trouble.as_ref().map(|trouble| trouble.error.as_str())
    }

    /// The same while it is not yet time for the next try.
    #[must_use]
    pub fn recent_error(&self, now: Instant) -> Option<&str> {
        self.trouble.as_ref().filter(|trouble| trouble.retry_at > now).map(|trouble| trouble.error.as_str())
    }

    /// Whether it is there for the next holder only. It need not be bound: its endpoint is held by another.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// `target` is what its listener's sockets should be.
    fn action(&self, target: Target) -> Option<Action> {
        let target = match (self.waits, self.endpoint.kind()) {
            (false, _) => target,
            // A bound UDP socket is one of those that the kernel sends datagrams to, whatever it does with them.
            (true, SocketKind::Datagram) => return None,
            (true, SocketKind::Stream | SocketKind::SeqPacket) => Target::Refusing,
        };
        match self.state {
            None => Some(Action::Bind(self.id)),
            Some(state) if state == target => None,
            Some(_) => Some(Action::Set(self.id, target)),
        }
    }
}

/// A listener.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its configuration.
    pub config: Arc<ListenerConfig>,
    /// Its sockets, in the order of the configuration.
    pub slots: Vec<Slot>,
    /// Who was handed any of its sockets, old ones among them, and is still there.
    pub holders: BTreeSet<HolderId>,
    pub(super) unheld_since: Instant,
    pub(super) due: Option<Instant>,
}

impl Listener {
    /// What its sockets should be now, and until when.
    pub(super) fn target(&self, now: Instant) -> (Target, Option<Instant>) {
        if self.holders.is_empty() {
            idle_target(self.config.idle, self.unheld_since, now)
        } else {
            (Target::Listening, None)
        }
    }

    /// Nobody holds it since now: all of its sockets do what it is to do meanwhile.
    pub(super) fn is_free(&mut self, now: Instant) {
        self.unheld_since = now;
        self.slots.iter_mut().for_each(|slot| slot.waits = false);
    }

    pub(super) fn actions(&self, now: Instant, impatient: bool) -> Vec<Action> {
        let (target, _) = self.target(now);
        let ripe = |slot: &&Slot| impatient || slot.trouble.as_ref().is_none_or(|t| t.retry_at <= now);
        self.slots.iter().filter(ripe).filter_map(|slot| slot.action(target)).collect()
    }

    /// Whether there is anything to do, now or after a back-off.
    pub(super) fn has_actions(&self, now: Instant) -> bool {
        let (target, _) = self.target(now);
        self.slots.iter().any(|slot| slot.action(target).is_some())
    }

    /// When to look again: the end of its patience, or the next try of what failed.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let (target, until) = self.target(now);
        let retries = self
            .slots
            .iter()
            .filter(|slot| slot.action(target).is_some())
            .filter_map(|slot| slot.trouble.as_ref().map(|trouble| trouble.retry_at));
        retries.chain(until).min()
    }
}
