//! Which port of the leased blocks is next: the local half of allocation.
//!
//! Pure: the time, and what the kernel said of a tuple, are arguments. For one destination (for UDP: for all of them).
//!
//! What always holds: a port is in exactly one place: never used yet (`fresh`), used and closed (`closed`, least
//! recently closed first), held back until a time (`held`), or out with somebody, who then has its only [`Port`].
//! Taking and giving back cost the same however many ports there are; holding back, which is the exception, costs a
//! heap's logarithm.
//!
//! Fresh ports come first, for nothing can be on them, in turns over all ranges, so that the addresses are used
//! evenly. A used one is given out with the word that it was, and whoever takes it asks the kernel first.

use super::demand::Demand;
use super::held::Held;
pub(crate) use super::queue::Port;
use super::queue::{Idle, Known, Queue, Rest};
use crate::lease::Block;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// What the first lease has, and what every other is a multiple of.
pub(crate) const LEAST: u32 = 64;
/// What one lease has at most.
pub(crate) const MOST: u32 = 1_024;

/// Most of what is open still is about to end: the peer's last packet is on its way.
const OPEN_FIRST: Duration = Duration::from_millis(2);
const OPEN_MOST: Duration = Duration::from_secs(30);
const REFUSED_FIRST: Duration = Duration::from_secs(1);
const REFUSED_MOST: Duration = Duration::from_secs(64);
/// FIN_WAIT2 and TIME_WAIT of a closed connection, 60 s each, and a bit.
const BLIND: Duration = Duration::from_secs(125);
/// What was looked at less than this ago is not looked at again out of turn.
const LOOKED: Duration = Duration::from_millis(1);

/// What [`Blocks::take`] gives.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) port: Port,
    pub(crate) source: SocketAddr,
    /// Something may still be on it: ask the kernel.
    pub(crate) used: bool,
    /// The kernel has it in TIME_WAIT, and nothing else, until then.
    pub(crate) time_wait: Option<Instant>,
}

#[derive(Debug)]
struct Range {
    address: IpAddr,
    first: u16,
    last: u16,
    out: u32,
    /// Its lease has ended: what comes back is forgotten.
    gone: bool,
}

impl Range {
    fn ports(&self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

#[derive(Debug)]
struct Lease {
    ranges: Vec<u32>,
    ports: u32,
}

/// The ports that this process has for a destination.
#[derive(Debug)]
pub(crate) struct Blocks {
    leases: BTreeMap<u64, Lease>,
    ranges: Vec<Option<Range>>,
    vacant: Vec<u32>,
    /// First port to last, by address: no port comes in twice.
    known: BTreeMap<(IpAddr, u16), u16>,
    v4: Queue,
    v6: Queue,
    held: BinaryHeap<Held<Idle>>,
    held_ports: u32,
    out: u32,
    absent: HashMap<IpAddr, (u8, Instant)>,
    /// Leases were lost: ports that come now may be in use still.
    distrusted: bool,
    demand: Demand,
    used_last: Instant,
}

/// A lease with ports that are here already: whoever gave it is not to be trusted with the rest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{address} ports {first} to {last} were leased twice")]
pub(crate) struct Overlap {
    address: IpAddr,
    first: u16,
    last: u16,
}

impl Blocks {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            leases: BTreeMap::new(),
            ranges: Vec::new(),
            vacant: Vec::new(),
            known: BTreeMap::new(),
            v4: Queue::default(),
            v6: Queue::default(),
            held: BinaryHeap::new(),
            held_ports: 0,
            out: 0,
            absent: HashMap::new(),
            distrusted: false,
            demand: Demand::new(now),
            used_last: now,
        }
    }

    /// Adds a lease; all of it, or nothing.
    pub(crate) fn add(&mut self, lease: u64, blocks: &[Block]) -> Result<(), Overlap> {
        for (n, block) in blocks.iter().enumerate() {
            if self.knows(block) || self.leases.contains_key(&lease) {
                // Those before it were ours a moment ago.
                blocks.iter().take(n).for_each(|block| {
                    self.known.remove(&(block.address, block.first));
                });
                let Block { address, first, last } = *block;
                return Err(Overlap { address, first, last });
            }
            self.known.insert((block.address, block.first), block.last);
        }
        let mut ranges = Vec::with_capacity(blocks.len());
        for block in blocks {
            let &Block { address, first, last } = block;
            let range = self.seat(Range { address, first, last, out: 0, gone: false });
            ranges.push(range);
            let queue = self.queue(block.address.is_ipv4());
            queue.ports += block.ports();
            queue.add(Idle::Fresh(Rest { range, next: block.first, last: block.last }));
        }
        let ports = blocks.iter().map(Block::ports).sum();
        self.leases.insert(lease, Lease { ranges, ports });
        Ok(())
    }

    fn knows(&self, block: &Block) -> bool {
        let before = self.known.range(..=(block.address, block.last)).next_back();
        before.is_some_and(|((address, _), last)| *address == block.address && *last >= block.first)
    }

    fn seat(&mut self, range: Range) -> u32 {
        if let Some(index) = self.vacant.pop() {
            if let Some(seat) = self.ranges.get_mut(position(index)) {
                *seat = Some(range);
            }
            return index;
        }
        self.ranges.push(Some(range));
        count(self.ranges.len() - 1)
    }

    /// The next port of a family. What was held back and is due comes back first.
    pub(crate) fn take(&mut self, v4: bool, now: Instant) -> Option<Taken> {
        while self.held.peek().is_some_and(|held| held.until <= now) {
            self.unhold();
        }
        self.used_last = now;
        let (port, known) = self.queue(v4).next()?;
        let taken = self.out(port, known)?;
        self.note();
        Some(taken)
    }

    /// Used ports besides the one that was just taken, for one look at all of them: what is free of them comes back by
    /// [`looked`](Self::looked).
    pub(crate) fn take_beside(&mut self, v4: bool, most: usize) -> Vec<Taken> {
        let ports: Vec<Port> = self.queue(v4).next_closed(most).collect();
        ports.into_iter().filter_map(|port| self.out(port, Known::Nothing)).collect()
    }

    fn out(&mut self, port: Port, known: Known) -> Option<Taken> {
        let range = self.ranges.get_mut(position(port.range)).and_then(Option::as_mut)?;
        range.out += 1;
        self.out += 1;
        let source = SocketAddr::new(range.address, port.number);
        let (used, time_wait) = match known {
            Known::Fresh => (self.distrusted, None),
            Known::Looked(time_wait) => (false, time_wait),
            Known::Nothing => (true, None),
        };
        Some(Taken { source, used: used && !port.blind, time_wait, port })
    }

    /// Something was on it when it was looked at before its turn: it waits for that, as if nobody had looked.
    pub(crate) fn looked_early(&mut self, port: Port) {
        if let Some(v4) = self.back(&port) {
            self.queue(v4).add(Idle::Used(port));
        }
    }

    /// The kernel was asked about it, and has nothing on it but, perhaps, TIME_WAIT until then.
    pub(crate) fn looked(&mut self, port: Port, time_wait: Option<Instant>) {
        if let Some(v4) = self.back(&port) {
            self.queue(v4).add_looked(Port { strikes: 0, blind: false, ..port }, time_wait);
        }
    }

    /// Its connection was closed, or never came about.
    pub(crate) fn closed(&mut self, port: Port) {
        if let Some(v4) = self.back(&port) {
            self.queue(v4).add(Idle::Used(Port { strikes: 0, blind: false, ..port }));
        }
    }

    /// The kernel has an open connection on it (or FIN_WAIT2, which would let itself be replaced, to the peer's cost).
    pub(crate) fn open(&mut self, port: Port, now: Instant) {
        let wait = grown(OPEN_FIRST, port.strikes, OPEN_MOST);
        self.hold(port, now, now + wait, false);
    }

    /// The kernel has it in TIME_WAIT for so long.
    pub(crate) fn time_wait(&mut self, port: Port, now: Instant, left: Duration) {
        self.hold(port, now, now + left, true);
    }

    /// bind(2) or connect(2) refused it: somebody else is on it.
    pub(crate) fn refused(&mut self, port: Port, now: Instant) {
        let wait = grown(REFUSED_FIRST, port.strikes, REFUSED_MOST);
        self.hold(port, now, now + wait, true);
    }

    /// The kernel cannot be asked about it: it is left alone until nothing can be on it, and then taken unasked.
    pub(crate) fn unknown(&mut self, port: Port, now: Instant) {
        self.hold(Port { blind: true, ..port }, now, now + BLIND, true);
    }

    fn hold(&mut self, port: Port, now: Instant, until: Instant, certain: bool) {
        if self.back(&port).is_some() {
            let port = Port { strikes: port.strikes.saturating_add(1), ..port };
            self.held_ports += 1;
            self.held.push(Held { until, since: now, certain, idle: Idle::Used(port) });
        }
        self.note();
    }

    /// Its address is none of this host's: no port of it is tried for a while.
    pub(crate) fn absent(&mut self, port: Port, now: Instant) {
        let Some(address) = self.address(port.range) else { return };
        if self.back(&port).is_none() {
            return;
        }
        let (strikes, last) = self.absent.entry(address).or_insert((0, now));
        if now > *last + 2 * REFUSED_MOST {
            *strikes = 0;
        }
        let until = now + grown(REFUSED_FIRST, *strikes, REFUSED_MOST);
        (*strikes, *last) = (strikes.saturating_add(1), now);
        let ranges = &self.ranges;
        let is = |range: u32| {
            ranges.get(position(range)).and_then(Option::as_ref).is_some_and(|r| r.address == address)
        };
        let queue = if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        let idle = queue.take_out(is).into_iter().chain([Idle::Used(port)]);
        for idle in idle {
            self.held_ports += idle.ports();
            self.held.push(Held { until, since: now, certain: true, idle });
        }
        self.note();
    }

    /// Takes a port off the books of those that are out; the family, unless its lease has ended.
    fn back(&mut self, port: &Port) -> Option<bool> {
        let range = self.ranges.get_mut(position(port.range)).and_then(Option::as_mut)?;
        range.out -= 1;
        let (gone, last, v4) = (range.gone, range.out == 0, range.address.is_ipv4());
        self.out -= 1;
        if gone && last {
            self.vacate(port.range);
        }
        (!gone).then_some(v4)
    }

    fn vacate(&mut self, index: u32) {
        if self.ranges.get_mut(position(index)).and_then(Option::take).is_some() {
            self.vacant.push(index);
        }
    }

    /// Brings what is held and due next back into the queues.
    fn unhold(&mut self) {
        let Some(held) = self.held.pop() else { return };
        self.held_ports -= held.idle.ports();
        let Some(address) = self.address(held.idle.range()) else { return };
        self.queue(address.is_ipv4()).add(held.idle);
    }

    /// Brings back some of what is held only because it was open when last looked at: there is nothing else left.
    /// False where there are none.
    pub(crate) fn look_early(&mut self, now: Instant, most: u32) -> bool {
        let mut some = false;
        for _ in 0..most {
            let early = |held: &Held<Idle>| !held.certain && held.since + LOOKED <= now;
            if !self.held.peek().is_some_and(early) {
                break;
            }
            self.unhold();
            some = true;
        }
        some
    }

    /// When the next of those that are held comes back.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.held.peek().map(|held| held.until)
    }

    /// How many are held back.
    pub(crate) fn held(&self) -> u32 {
        self.held_ports
    }

    /// Whether it is time to ask for more of a family: a few are left, more than are used in the time that asking
    /// takes.
    pub(crate) fn is_low(&self, v4: bool) -> bool {
        let queue = if v4 { &self.v4 } else { &self.v6 };
        queue.free() < (queue.ports / 4).min(LEAST)
    }

    /// How many ports to ask for: a sixteenth of those in use. So what this process has and does not use stays below
    /// a tenth, and others find the pool exhausted only when it nearly is.
    pub(crate) fn wanted(&self) -> u32 {
        (self.out / 16).next_multiple_of(LEAST).clamp(LEAST, MOST)
    }

    /// The numbers of the leases.
    pub(crate) fn leases(&self) -> impl Iterator<Item = u64> {
        self.leases.keys().copied()
    }

    /// Leases that were not needed of late, and of which no port is out. They are forgotten here, to be released.
    pub(crate) fn idle(&mut self, now: Instant) -> Vec<u64> {
        let need = self.demand.most(self.out + self.held_ports, now);
        let least = need.saturating_add((need / 8).max(LEAST));
        let mut ports: u32 = self.leases.values().map(|lease| lease.ports).sum();
        let mut chosen = Vec::new();
        for (&id, lease) in self.leases.iter().rev() {
            if ports - lease.ports >= least && lease.ranges.iter().all(|&range| self.is_quiet(range)) {
                ports -= lease.ports;
                chosen.push(id);
            }
        }
        self.forget(&chosen);
        chosen
    }

    /// Leases of which no port is out. They are forgotten here, to be released.
    pub(crate) fn spare(&mut self) -> Vec<u64> {
        let is_spare = |lease: &Lease| lease.ranges.iter().all(|&range| self.is_quiet(range));
        let chosen: Vec<u64> =
            self.leases.iter().filter(|(_, lease)| is_spare(lease)).map(|(&id, _)| id).collect();
        self.forget(&chosen);
        chosen
    }

    /// All leases, where nothing was taken for so long and nothing is out; `None` where that is not so.
    pub(crate) fn abandoned(&mut self, now: Instant, patience: Duration) -> Option<Vec<u64>> {
        if self.out > 0 || now < self.used_last + patience {
            return None;
        }
        let all: Vec<u64> = self.leases.keys().copied().collect();
        self.forget(&all);
        Some(all)
    }

    /// Forgets leases that have ended. What is out of them is forgotten when it comes back.
    pub(crate) fn forget(&mut self, leases: &[u64]) {
        if leases.is_empty() {
            return;
        }
        for lease in leases.iter().filter_map(|id| self.leases.remove(id)) {
            for index in lease.ranges {
                if let Some(range) = self.ranges.get_mut(position(index)).and_then(Option::as_mut) {
                    range.gone = true;
                    self.known.remove(&(range.address, range.first));
                }
            }
        }
        self.purge();
        let empty: Vec<u32> = (0..count(self.ranges.len())).filter(|&range| self.is_empty(range)).collect();
        empty.into_iter().for_each(|range| self.vacate(range));
    }

    /// Forgets all leases: the broker does not know them any more, and may lease their ports again.
    pub(crate) fn lose_all(&mut self) {
        self.distrusted = true;
        let all: Vec<u64> = self.leases.keys().copied().collect();
        self.forget(&all);
    }

    /// Takes the ports of ended leases out of all queues.
    fn purge(&mut self) {
        let ranges = &self.ranges;
        let stays = |range: u32| {
            ranges.get(position(range)).and_then(Option::as_ref).is_some_and(|range| !range.gone)
        };
        for queue in [&mut self.v4, &mut self.v6] {
            queue.take_out(|range| !stays(range));
        }
        self.held.retain(|held| stays(held.idle.range()));
        self.held_ports = self.held.iter().map(|held| held.idle.ports()).sum();
        let of = |v4| {
            let ranges = ranges.iter().flatten().filter(|range| !range.gone && range.address.is_ipv4() == v4);
            ranges.map(Range::ports).sum::<u32>()
        };
        (self.v4.ports, self.v6.ports) = (of(true), of(false));
    }

    fn is_quiet(&self, index: u32) -> bool {
        self.ranges.get(position(index)).and_then(Option::as_ref).is_none_or(|range| range.out == 0)
    }

    fn is_empty(&self, index: u32) -> bool {
        let range = self.ranges.get(position(index)).and_then(Option::as_ref);
        range.is_some_and(|range| range.gone && range.out == 0)
    }

    fn note(&mut self) {
        self.demand.note(self.out + self.held_ports);
    }

    fn address(&self, index: u32) -> Option<IpAddr> {
        self.ranges.get(position(index)).and_then(Option::as_ref).map(|range| range.address)
    }

    fn queue(&mut self, v4: bool) -> &mut Queue {
        if v4 { &mut self.v4 } else { &mut self.v6 }
    }
}

/// Doubles with each time before, up to `most`.
fn grown(first: Duration, times: u8, most: Duration) -> Duration {
    first.saturating_mul(1 << u32::from(times).min(16)).min(most)
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn position(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
