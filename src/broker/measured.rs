//! What there is to measure, at one instant: of listeners and what waits in them, of pools and forecasts.

use super::Broker;
use super::view;
use crate::kernel::socket::ListenerSocket;
use crate::listeners::Listener;
use crate::metrics::{LimitRow, MOST_LISTENERS, QueueRow, Snapshot};
use std::collections::BTreeMap;
use std::time::Instant;

/// Of more sockets it is not asked what waits in them: every question is a system call, and others wait meanwhile.
const MOST_SOCKETS: usize = 2048;

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

impl Broker {
    /// What there is now; `asked` is when somebody wanted to know.
    pub(super) fn measure(&mut self, asked: Instant) -> Snapshot {
        let delay = asked.elapsed();
        self.look_at_descriptors();
        let mut snapshot = Snapshot {
            faults: count(self.faults().len()),
            learned: count(self.learning.count()),
            counters: self.tally.counters(),
            queues: self.busiest_queues(),
            delay,
            ..Snapshot::default()
        };
        let limits = self.gate.usage(self.queue.longest());
        let row = |usage: &crate::limits::Usage| LimitRow {
            limit: usage.limit.key(),
            most: usage.most,
            used: usage.used,
            hits: usage.hits,
        };
        snapshot.limits = limits.iter().map(row).collect();
        self.count_listeners(&mut snapshot);
        self.outbound.measure(&mut snapshot, self.metrics.destinations());
        snapshot
    }

    fn count_listeners(&self, snapshot: &mut Snapshot) {
        let words = ["listening", "reserved", "failed", "draining", "lingering"];
        let mut listeners: BTreeMap<&'static str, u64> = words.map(|word| (word, 0)).into();
        listeners.remove("draining");
        let mut sockets: BTreeMap<&'static str, u64> = words.map(|word| (word, 0)).into();
        let mut add = |word: &'static str, more: u64| *sockets.entry(word).or_default() += more;
        for (_, listener) in self.table.iter() {
            let states: Vec<&'static str> = states(listener).collect();
            states.iter().for_each(|word| add(word, 1));
            *listeners.entry(worst(&states)).or_default() += 1;
            snapshot.unheld += u64::from(listener.holders.is_empty());
        }
        add("draining", count(self.table.draining().iter().count()));
        for name in self.table.lingering().names() {
            add("lingering", count(self.table.lingering().of(name.as_str()).count()));
            if self.table.get(name.as_str()).is_err() {
                *listeners.entry("lingering").or_default() += 1;
            }
        }
        snapshot.listeners = listeners.into_iter().collect();
        snapshot.sockets = sockets.into_iter().collect();
    }

    /// The listeners in which most waits, or which most found no room in.
    fn busiest_queues(&self) -> Vec<QueueRow> {
        let mut left = MOST_SOCKETS;
        let mut rows = Vec::new();
        for (name, listener) in self.table.iter() {
            let Some(rest) = left.checked_sub(listener.slots.len()) else { break };
            left = rest;
            let sockets = listener.slots.iter().filter_map(|slot| self.sockets.get(&slot.id));
            rows.extend(queue_of(name.as_str(), sockets));
        }
        rows.sort_by(|a, b| {
            let by = |row: &QueueRow| (row.fill(), row.waiting, row.overflows);
            by(b).cmp(&by(a)).then_with(|| a.listener.cmp(&b.listener))
        });
        rows.truncate(MOST_LISTENERS);
        rows
    }
}

fn states(listener: &Listener) -> impl Iterator<Item = &'static str> {
    listener.slots.iter().map(|slot| if slot.waits() { "reserved" } else { view::state_word(slot.state) })
}

/// As [`view::worst`] has it.
fn worst(states: &[&'static str]) -> &'static str {
    ["failed", "reserved"].into_iter().find(|word| states.contains(word)).unwrap_or("listening")
}

/// What waits in all sockets of a listener.
fn queue_of<'a>(name: &str, sockets: impl Iterator<Item = &'a ListenerSocket>) -> Option<QueueRow> {
    let add = |sum: Option<u64>, more: Option<u32>| Some(sum.unwrap_or(0) + u64::from(more?)).or(sum);
    let mut row: Option<QueueRow> = None;
    for queue in sockets.filter_map(|socket| socket.queue().ok()) {
        let row = row.get_or_insert_with(|| QueueRow { listener: name.to_owned(), ..QueueRow::default() });
        row.waiting += u64::from(queue.waiting);
        row.limit = add(row.limit, queue.limit);
        row.overflows = add(row.overflows, queue.overflows);
    }
    row
}
