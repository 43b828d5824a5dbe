//! What is to be asked of the kernel, and when.

use super::books::Claim;
use super::ledger::Ledger;
use super::record::{Range, Record};
use super::schedule::{Asked, Look, MOST_ASKED, Spot, Timed, Walk, Why};
use super::waits::{Tick, Waits};
use crate::model::{LeaseId, PortRange, Protocol, SourceRange, Tuple};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// More ports are not asked for in one look.
const MOST_OF_A_LOOK: u16 = 1024;

impl Ledger {
    /// At most `most` looks that are due. Each has to be answered by [`looked`](Self::looked), or given back by
    /// [`unanswered`](Self::unanswered).
    pub fn due(&mut self, now: Instant, most: usize) -> Vec<Look> {
        let most = most.min(MOST_ASKED.saturating_sub(self.schedule.asked.len()));
        let tick = self.tick(now);
        let mut looks = Vec::new();
        self.ask_urgent(most, &mut looks);
        self.ask_timed(tick, most, &mut looks);
        self.ask_watched(tick, most, &mut looks);
        self.ask_pending(None, most, &mut looks);
        looks
    }

    /// At most `most` looks at what ended and is in the way of a destination, before it is refused: whoever is told
    /// Exhausted asks these, answers them, and tries again, until there is none.
    pub fn pending(&mut self, protocol: Protocol, destination: Option<SocketAddr>, most: usize) -> Vec<Look> {
        let most = most.min(MOST_ASKED.saturating_sub(self.schedule.asked.len()));
        let mut looks = Vec::new();
        let id = destination.map(|destination| {
            let plain = SocketAddr::new(destination.ip(), destination.port());
            self.books.destinations.find(&plain).unwrap_or(u32::MAX)
        });
        self.ask_pending(Some(Claim::of(protocol, id)), most, &mut looks);
        looks
    }

    /// When there is something to look at; a time that has passed means at once.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        if self.schedule.is_pending() {
            return Some(self.instant(0));
        }
        self.schedule.first().map(|tick| self.instant(tick))
    }

    /// Whether anything that cools has an open socket, so that it is worth being told when sockets go.
    #[must_use]
    pub fn holds_open(&self) -> bool {
        !self.schedule.open.is_empty()
    }

    /// In how long a port in the way of a claim is expected to be free.
    pub(super) fn next_free(&self, claim: Claim, now: Instant) -> Option<Duration> {
        let own = claim.destination.and_then(|id| self.books.destinations.get(id)).map(|d| &d.waits);
        let other = match claim.destination {
            Some(_) => self.schedule.waits_alone.get(&claim.protocol),
            None => self.schedule.waits_all.get(&claim.protocol),
        };
        let first = [own, other].into_iter().flatten().filter_map(Waits::first).min()?;
        Some(self.instant(first).saturating_duration_since(now))
    }

    /// A port of a lease is looked at again at a time, not because of an open socket.
    pub(super) fn wait(&mut self, lease: LeaseId, spot: Spot, at: Tick) {
        let Spot { claim, address, port } = spot;
        self.schedule.put(at, Timed { lease, address, port, open: false });
        self.schedule.waits_all.entry(claim.protocol).or_default().add(at);
        match claim.destination {
            None => self.schedule.waits_alone.entry(claim.protocol).or_default().add(at),
            Some(id) => {
                if let Some(destination) = self.books.destinations.get_mut(id) {
                    destination.waits.add(at);
                }
            }
        }
    }

    fn waited(&mut self, claim: Claim, at: Tick) {
        self.schedule.waits_all.entry(claim.protocol).or_default().take(at);
        match claim.destination {
            None => self.schedule.waits_alone.entry(claim.protocol).or_default().take(at),
            Some(id) => {
                if let Some(destination) = self.books.destinations.get_mut(id) {
                    destination.waits.take(at);
                }
            }
        }
    }

    fn look_of(&self, claim: Claim, address: u32, first: u16, last: u16) -> Option<Look> {
        let source = *self.books.addresses.key(address)?;
        let protocol = claim.protocol;
        Some(match claim.destination {
            Some(id) => {
                let destination = Some(*self.books.destinations.key(id)?);
                Look::Exact(Tuple { protocol, source: SocketAddr::new(source, first), destination })
            }
            None => {
                let ports = PortRange::new(first, last).ok()?;
                Look::Range { protocol, source: SourceRange { address: source, ports } }
            }
        })
    }

    fn ask(&mut self, look: Look, asked: Asked, looks: &mut Vec<Look>) {
        let before = self.schedule.asked.insert(look, asked);
        // The same was asked for a second look, whose lease need wait no longer.
        if let Some(before) = before.filter(|before| before.why == Why::Watched) {
            self.unwatch(before.lease);
        }
        looks.push(look);
    }

    fn ask_urgent(&mut self, most: usize, looks: &mut Vec<Look>) {
        while looks.len() < most {
            let Some(spot) = self.schedule.urgent.pop_front() else { return };
            let Some(lease) = self.schedule.open.get(&spot).map(|open| open.lease) else { continue };
            if let Some(look) = self.look_of(spot.claim, spot.address, spot.port, spot.port) {
                self.ask(look, Asked { lease, address: spot.address, why: Why::Cooling }, looks);
            }
        }
    }

    fn ask_timed(&mut self, now: Tick, most: usize, looks: &mut Vec<Look>) {
        while looks.len() < most {
            let Some((tick, timed)) = self.schedule.pop_due(now) else { return };
            let Some(claim) = self.begun(tick, timed) else { continue };
            let Timed { lease, address, port, .. } = timed;
            let (mut first, mut last) = (port, port);
            while claim.destination.is_none() && last - first < MOST_OF_A_LOOK {
                let beside = |next: &Timed| {
                    (next.lease, next.address) == (lease, address)
                        && (next.port.checked_add(1) == Some(first) || last.checked_add(1) == Some(next.port))
                };
                let Some(next) = self.schedule.pop_beside(tick, beside) else { break };
                if self.begun(tick, next).is_none() {
                    break;
                }
                (first, last) = (first.min(next.port), last.max(next.port));
            }
            if let Some(look) = self.look_of(claim, address, first, last) {
                self.ask(look, Asked { lease, address, why: Why::Cooling }, looks);
            }
        }
    }

    /// The claim of what was taken out of a bucket; `None` where it was looked at in the meantime.
    fn begun(&mut self, tick: Tick, timed: Timed) -> Option<Claim> {
        let claim = self.leases.get(&timed.lease)?.claim();
        if timed.open {
            let spot = Spot { claim, address: timed.address, port: timed.port };
            let open = self.schedule.open.get_mut(&spot)?;
            if open.at != Some(tick) || open.lease != timed.lease {
                return None;
            }
            open.at = None;
        } else {
            self.waited(claim, tick);
        }
        Some(claim)
    }

    fn ask_watched(&mut self, now: Tick, most: usize, looks: &mut Vec<Look>) {
        while looks.len() < most && self.schedule.watched.front().is_some_and(|watched| watched.at <= now) {
            let Some(watched) = self.schedule.watched.pop_front() else { return };
            let claim = self.leases.get(&watched.lease).map(Record::claim);
            let (first, last) = watched.look.ports();
            let untouched = claim.is_some_and(|claim| {
                (first..=last).any(|port| !self.is_taken(Spot { claim, address: watched.address, port }))
            });
            // What is asked for another reason cools: it was leased again meanwhile.
            if untouched && !self.schedule.asked.contains_key(&watched.look) {
                let asked = Asked { lease: watched.lease, address: watched.address, why: Why::Watched };
                self.ask(watched.look, asked, looks);
            } else {
                self.unwatch(watched.lease);
            }
        }
    }

    /// Whether anything is in the way of a claim.
    pub(super) fn is_taken(&self, spot: Spot) -> bool {
        self.books.taken(spot.claim, spot.address, spot.port / 64) >> (spot.port % 64) & 1 == 1
    }

    /// A second look is not to come any more.
    pub(super) fn unwatch(&mut self, lease: LeaseId) {
        if let Some(record) = self.leases.get_mut(&lease) {
            record.watched = record.watched.saturating_sub(1);
            self.forget_if_done(lease);
        }
    }

    fn ask_pending(&mut self, of: Option<Claim>, most: usize, looks: &mut Vec<Look>) {
        while looks.len() < most {
            let Some((lease, walk)) = self.schedule.next_pending(of) else { return };
            let Some(record) = self.leases.get(&lease) else { return };
            let claim = record.claim();
            let step = step(record, claim, walk);
            self.schedule.walked(claim, lease, step.map(|(_, next)| next));
            let Some((ports, _)) = step else { continue };
            if let Some(look) = self.look_of(claim, ports.address, ports.first, ports.last) {
                self.ask(look, Asked { lease, address: ports.address, why: Why::Ended }, looks);
            }
        }
    }
}

/// The ports that come next on the walk through a lease, and where it goes on then.
fn step(record: &Record, claim: Claim, walk: Walk) -> Option<(Range, Walk)> {
    let mut ports = *record.ranges.get(walk.range)?;
    ports.first = walk.port.unwrap_or(ports.first);
    let end = ports.last;
    let on = |range, port: u16| Walk { range, port: port.checked_add(1) };
    if claim.destination.is_some() {
        ports.last = ports.first;
        let next = if ports.first < end {
            on(walk.range, ports.first)
        } else {
            Walk { range: walk.range + 1, port: None }
        };
        return Some((ports, next));
    }
    let limit = ports.first.saturating_add(MOST_OF_A_LOOK - 1);
    if end > limit {
        ports.last = limit;
        return Some((ports, on(walk.range, limit)));
    }
    let mut range = walk.range + 1;
    while let Some(next) = record.ranges.get(range) {
        let beside = next.address == ports.address && ports.last.checked_add(1) == Some(next.first);
        if !beside || next.last > limit {
            break;
        }
        ports.last = next.last;
        range += 1;
    }
    Some((ports, Walk { range, port: None }))
}
