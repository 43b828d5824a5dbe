//! Properties of the objects, as D-Bus values.

use crate::broker::{
    Happening, Learned, ListenerView, PoolView, QueueView, Summary, TakeoverView, View, Waiting,
};
use crate::limits::Usage;
use portbroker_client::wire::{
    EventRow, LISTENER_INTERFACE, LearnedRow, LimitRow, POOL_INTERFACE, PoolAddressRow, WaitingRow,
    listener_path, pool_path,
};
use serde::{Serialize, Serializer};
use std::collections::HashMap;
use std::time::UNIX_EPOCH;
use zbus::message::Message;
use zbus::wire::{Signature, Type};
use zbus::{ObjectPath, OwnedObjectPath, Variant};

/// Property values by name.
pub(super) type Properties = HashMap<&'static str, Variant<'static>>;

/// So many objects make an answer that takes long.
pub(super) const MANY: usize = 200;
/// What one object takes of an answer, about, in bytes.
pub(super) const LENGTH_OF_ONE: usize = 600;

/// All objects with their interfaces with their properties, what GetManagedObjects returns: each is made of the view
/// when it is written. The manager itself is not below its own path, and so not among them.
struct Objects<'a>(&'a View);

/// The answer to GetManagedObjects.
pub(super) fn objects(call: &Message, view: &View) -> zbus::Result<Message> {
    Message::method_return(&call.header()).build(&Objects(view))
}

impl Type for Objects<'_> {
    const SIGNATURE: &'static Signature =
        <HashMap<OwnedObjectPath, HashMap<&'static str, Properties>> as Type>::SIGNATURE;
}

impl Serialize for Objects<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let listeners = self.0.listeners.iter().map(|listener| {
            (path_of(&listener.name), HashMap::from([(LISTENER_INTERFACE, of_listener(listener))]))
        });
        let pools = self
            .0
            .pools
            .iter()
            .map(|pool| (path_of_pool(&pool.name), HashMap::from([(POOL_INTERFACE, of_pool(pool))])));
        serializer.collect_map(listeners.chain(pools))
    }
}

/// How much of each limit is in use.
fn of_limits(limits: &[Usage]) -> Vec<LimitRow> {
    let row = |usage: &Usage| {
        let by = usage.by.iter().map(|(who, times)| (who.to_string(), *times)).collect();
        let greatest = usage.greatest.as_ref().map(ToString::to_string).unwrap_or_default();
        (usage.limit.key().to_owned(), usage.most, usage.used, usage.hits, greatest, by)
    };
    limits.iter().map(row).collect()
}

pub(super) fn of_manager(view: &Summary) -> Properties {
    let state = if view.faults.is_empty() { "running" } else { "degraded" };
    HashMap::from([
        ("Version", Variant::new(env!("CARGO_PKG_VERSION"))),
        ("State", Variant::new(state)),
        ("Faults", Variant::new(view.faults.clone())),
        ("Notes", Variant::new(view.notes.clone())),
        ("Limits", Variant::new(of_limits(&view.limits))),
        ("LearnedPorts", Variant::new(u32::try_from(view.learned).unwrap_or(u32::MAX))),
        ("Takeover", Variant::new(of_takeover(view.takeover.as_ref()))),
        (
            "TakeoverDifferences",
            Variant::new(view.takeover.as_ref().map(|t| t.differences.clone()).unwrap_or_default()),
        ),
    ])
}

/// Counts by name; none of a cold start.
fn of_takeover(takeover: Option<&TakeoverView>) -> HashMap<String, u32> {
    let counts = takeover.into_iter().flat_map(|takeover| &takeover.counts);
    counts.map(|(word, count)| ((*word).to_owned(), *count)).collect()
}

/// What ListLearned returns: port, protocol, unit, first and last seen.
pub(super) fn of_learned(learned: Vec<Learned>) -> Vec<LearnedRow> {
    learned
        .into_iter()
        .map(|l| (l.port, l.protocol.to_string(), l.unit.to_string(), l.first.0, l.last.0))
        .collect()
}

pub(super) fn of_listener(view: &ListenerView) -> Properties {
    let sockets: Vec<(String, String, u64, String)> = view
        .sockets
        .iter()
        .map(|s| (s.endpoint.clone(), s.state.to_owned(), s.inode, s.error.clone()))
        .collect();
    HashMap::from([
        ("Name", Variant::new(view.name.clone())),
        ("State", Variant::new(view.state)),
        ("Sockets", Variant::new(sockets)),
        ("Holders", Variant::new(view.holders.clone())),
        ("Notes", Variant::new(view.notes.clone())),
        ("Idle", Variant::new(view.idle.clone())),
        ("Activate", Variant::new(view.activate.clone())),
        ("ActivationError", Variant::new(view.activation_error.clone())),
        ("Allow", Variant::new(view.allow.clone())),
        ("Origin", Variant::new(view.origin.clone())),
    ])
}

pub(super) fn of_pool(view: &PoolView) -> Properties {
    let number = |ports: u64| u32::try_from(ports).unwrap_or(u32::MAX);
    let addresses: Vec<PoolAddressRow> = view
        .addresses
        .iter()
        .map(|a| (a.address.to_string(), a.state.to_owned(), number(a.leased), number(a.cooling)))
        .collect();
    HashMap::from([
        ("Name", Variant::new(view.name.clone())),
        ("State", Variant::new(view.state)),
        ("Addresses", Variant::new(addresses)),
        ("Zone", Variant::new(view.zone.clone())),
        ("LeftOut", Variant::new(view.left_out.clone())),
        ("Capacity", Variant::new(view.capacity)),
        ("Spread", Variant::new(view.spread)),
        ("Quota", Variant::new(view.quota.clone())),
        ("Minimum", Variant::new(view.minimum)),
        ("Waiting", Variant::new(u32::try_from(view.waiting).unwrap_or(u32::MAX))),
        ("Allow", Variant::new(view.allow.clone())),
        ("Origin", Variant::new(view.origin.clone())),
        ("Faults", Variant::new(view.faults.clone())),
    ])
}

/// What the method Queues returns: facts by the inode of the socket, what is not known left out.
pub(super) fn of_queues(queues: &[QueueView]) -> Vec<(u64, Properties)> {
    let facts = |queue: &QueueView| {
        let facts =
            [("waiting", Some(queue.waiting)), ("limit", queue.limit), ("overflows", queue.overflows)];
        let known = facts.into_iter().filter_map(|(key, value)| Some((key, Variant::new(value?))));
        (queue.inode, known.collect())
    };
    queues.iter().map(facts).collect()
}

/// What ListQueues returns.
pub(super) fn of_waiting(waiting: Waiting) -> (String, Vec<WaitingRow>) {
    let row = |(name, queue): (String, QueueView)| {
        let QueueView { inode, waiting, limit, overflows } = queue;
        (name, inode, waiting, limit.unwrap_or_default(), overflows.unwrap_or_default())
    };
    (waiting.next.unwrap_or_default(), waiting.sockets.into_iter().map(row).collect())
}

/// What ListEvents returns.
pub(super) fn of_happenings(happenings: Vec<Happening>) -> Vec<EventRow> {
    let row = |Happening { number, time, level, event, message }: Happening| {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        (number, u64::try_from(since.as_micros()).unwrap_or(u64::MAX), level.to_owned(), event, message)
    };
    happenings.into_iter().map(row).collect()
}

pub(super) fn path_of(name: &str) -> OwnedObjectPath {
    // Only letters, digits and `_` come out of the escaping, so this is always an object path.
    ObjectPath::from_string_unchecked(listener_path(name)).into()
}

pub(super) fn path_of_pool(name: &str) -> OwnedObjectPath {
    // As for listeners.
    ObjectPath::from_string_unchecked(pool_path(name)).into()
}
