//! What the kernel answered.

use super::access::Share;
use super::books::{Claim, Step};
use super::ledger::Ledger;
use super::schedule::{Asked, Look, MOST_WATCHED, Open, Spot, Timed, Watched, Why};
use super::{Event, UsedAfterEnd};
use crate::model::{LeaseId, PortRange, Seen, SourceRange, Tuple};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// An open socket is looked at again after so long, and then after twice as long …
const OPEN_FIRST: Duration = Duration::from_secs(1);
/// … up to this.
const OPEN_LAST: Duration = Duration::from_secs(30);
/// What was free when its lease ended is looked at again after so long.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// What could not be asked is asked again after so long.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(1);
/// No TIME_WAIT is longer (Linux: a minute).
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// More are not kept to be said.
const MOST_SAID: usize = 256;

impl Ledger {
    /// What the kernel answered to a look: what it has; whatever it does not name is free.
    pub fn looked(&mut self, look: Look, answers: Vec<(Tuple, Seen)>, now: Instant) {
        let Some(asked) = self.schedule.asked.remove(&look) else { return };
        let worst = worst(&look, answers);
        match asked.why {
            Why::Watched => self.watched(&look, asked, &worst, now),
            Why::Ended | Why::Cooling => self.settle(&look, asked, &worst, now),
        }
    }

    /// The kernel could not be asked: it is, later.
    pub fn unanswered(&mut self, look: Look, now: Instant) {
        let Some(asked) = self.schedule.asked.remove(&look) else { return };
        if asked.why == Why::Watched {
            return self.unwatch(asked.lease);
        }
        let Some(claim) = self.leases.get(&asked.lease).map(|record| record.claim()) else { return };
        let (first, last) = look.ports();
        let at = self.tick_after(now, ASK_AGAIN);
        for port in first..=last {
            let spot = Spot { claim, address: asked.address, port };
            if let Some(open) = self.schedule.open.get_mut(&spot) {
                open.at = Some(at);
                self.schedule.put(at, Timed { lease: asked.lease, address: asked.address, port, open: true });
            } else {
                self.wait(asked.lease, spot, at);
            }
        }
    }

    /// A socket was closed: what it had is looked at. By its number, for after a reset the kernel does not know any
    /// more whom it was connected to; and by its tuple, for of several on a port only one is known here.
    pub fn destroyed(&mut self, tuple: &Tuple, cookie: u64, _now: Instant) {
        if let Some(spot) = self.schedule.with_socket(cookie) {
            self.hurry(spot);
        }
        let Some(address) = self.books.addresses.find(&tuple.source.ip()) else { return };
        let plain = tuple.destination.map(|it| SocketAddr::new(it.ip(), it.port()));
        let destination = plain.and_then(|plain| self.books.destinations.find(&plain));
        let own = Claim { protocol: tuple.protocol, destination };
        let alone = Claim { destination: None, ..own };
        for claim in [own, alone] {
            self.hurry(Spot { claim, address, port: tuple.source.port() });
        }
    }

    /// Nobody knows which sockets were closed: everything that cools with one is looked at.
    pub fn look_at_all_again(&mut self, _now: Instant) {
        let all: Vec<Spot> = self.schedule.open.keys().copied().collect();
        for spot in all {
            self.hurry(spot);
        }
    }

    fn hurry(&mut self, spot: Spot) {
        let Some(open) = self.schedule.open.get_mut(&spot) else { return };
        if open.at.take().is_some() {
            self.schedule.urgent.push_back(spot);
        } else {
            // It is urgent already, or asked just now; that answer may be older than what happened.
            open.interval = 0;
        }
    }

    /// What became of ports that cool.
    fn settle(&mut self, look: &Look, asked: Asked, worst: &HashMap<u16, (Tuple, Seen)>, now: Instant) {
        let Some(claim) = self.leases.get(&asked.lease).map(|record| record.claim()) else { return };
        let (first, last) = look.ports();
        // The run of free ports that has been walked through, to be watched as one.
        let mut free: Option<(u16, u16)> = None;
        for port in first..=last {
            let spot = Spot { claim, address: asked.address, port };
            match worst.get(&port) {
                None | Some((_, Seen::Free)) => {
                    self.free(asked.lease, spot);
                    free = Some((free.map_or(port, |(first, _)| first), port));
                    continue;
                }
                Some((_, Seen::TimeWait(left))) => {
                    self.schedule.closed(spot);
                    let left = (*left).clamp(Duration::from_millis(1), LONGEST_WAIT);
                    self.wait(asked.lease, spot, self.tick_after(now, left));
                }
                Some((tuple, Seen::Open { cookie, uid, cgroup })) => {
                    self.stays_open(asked, spot, *tuple, (*cookie, *uid, *cgroup), now);
                }
            }
            self.watch(look, asked, free.take(), now);
        }
        self.watch(look, asked, free, now);
        self.forget_if_done(asked.lease);
    }

    fn free(&mut self, lease: LeaseId, spot: Spot) {
        self.schedule.closed(spot);
        let word = (spot.port / 64, 1 << (spot.port % 64));
        self.books.step(Step::Free, spot.claim, spot.address, word, None);
        if let Some(record) = self.leases.get_mut(&lease) {
            record.cooling.less(self.books.is_ipv4(spot.address), 1);
            let (owner, pool) = (record.owner, record.pool);
            self.cools_less(owner, 1);
            self.share(pool, spot.claim, owner, spot.address, Share::Less(1));
        }
        self.eases(spot.claim);
    }

    /// A port has a socket: it is looked at again, at growing intervals.
    fn stays_open(
        &mut self,
        asked: Asked,
        spot: Spot,
        tuple: Tuple,
        (cookie, uid, cgroup): (u64, u32, u64),
        now: Instant,
    ) {
        let (least, most) = (ticks(OPEN_FIRST), ticks(OPEN_LAST));
        let before = self.schedule.open.get(&spot);
        // Of a port that is claimed alone there may be several sockets, and which one is answered says nothing.
        let another =
            spot.claim.destination.is_some() && before.is_some_and(|before| before.cookie != cookie);
        let interval =
            before.filter(|_| !another).map_or(least, |before| (before.interval * 2).clamp(least, most));
        let at = self.tick(now).saturating_add(interval);
        let at = self.adopt(asked.lease, tuple, cookie, now).map_or(at, |close| close.min(at));
        self.schedule.opened(spot, Open { lease: asked.lease, cookie, interval, at: Some(at) });
        let Spot { address, port, .. } = spot;
        self.schedule.put(at, Timed { lease: asked.lease, address, port, open: true });
        if another {
            self.warn(asked.lease, tuple, uid, cgroup);
        }
    }

    /// Ports that were free as soon as their lease ended get a second look.
    fn watch(&mut self, look: &Look, asked: Asked, ports: Option<(u16, u16)>, now: Instant) {
        let Some((first, last)) = ports.filter(|_| asked.why == Why::Ended) else { return };
        let look = match (look, PortRange::new(first, last)) {
            (Look::Range { protocol, source }, Ok(ports)) => {
                Look::Range { protocol: *protocol, source: SourceRange { ports, ..*source } }
            }
            _ => *look,
        };
        let at = self.tick_after(now, SECOND_LOOK);
        if let Some(record) = self.leases.get_mut(&asked.lease) {
            record.watched += 1;
            self.schedule.watched.push_back(Watched { at, lease: asked.lease, address: asked.address, look });
        }
        if self.schedule.watched.len() > MOST_WATCHED
            && let Some(oldest) = self.schedule.watched.pop_front()
        {
            self.unwatch(oldest.lease);
        }
    }

    /// What became of ports that had been free; what was leased again meanwhile is of no interest.
    fn watched(&mut self, look: &Look, asked: Asked, worst: &HashMap<u16, (Tuple, Seen)>, now: Instant) {
        let Some(claim) = self.leases.get(&asked.lease).map(|record| record.claim()) else { return };
        let (first, last) = look.ports();
        for port in first..=last {
            let spot = Spot { claim, address: asked.address, port };
            let Some((tuple, seen)) = worst.get(&port).filter(|_| !self.is_taken(spot)) else { continue };
            if *seen == Seen::Free {
                continue;
            }
            self.books.step(Step::Seize, claim, asked.address, (port / 64, 1 << (port % 64)), None);
            if let Some(record) = self.leases.get_mut(&asked.lease) {
                record.cooling.more(self.books.is_ipv4(asked.address), 1);
                let (owner, pool) = (record.owner, record.pool);
                self.cools_more(owner, 1);
                self.share(pool, claim, owner, asked.address, Share::More(1));
            }
            match *seen {
                Seen::Open { cookie, uid, cgroup } => {
                    self.stays_open(asked, spot, *tuple, (cookie, uid, cgroup), now);
                    self.warn(asked.lease, *tuple, uid, cgroup);
                }
                Seen::TimeWait(left) => {
                    let left = left.clamp(Duration::from_millis(1), LONGEST_WAIT);
                    self.wait(asked.lease, spot, self.tick_after(now, left));
                }
                Seen::Free => {}
            }
        }
        self.unwatch(asked.lease);
    }

    fn warn(&mut self, lease: LeaseId, tuple: Tuple, uid: u32, cgroup: u64) {
        let Some(record) = self.leases.get_mut(&lease).filter(|record| !record.warned) else { return };
        record.warned = true;
        self.events.push(Event::Warned { id: lease });
        let (Some(owner), Some(pool)) = (self.owners.key(record.owner), self.pools.key(record.pool)) else {
            return;
        };
        let (owner, pool) = (owner.clone(), pool.clone());
        if self.used_after_end.len() < MOST_SAID {
            self.used_after_end.push(UsedAfterEnd { lease, owner, pool, tuple, uid, cgroup });
        }
    }
}

fn ticks(time: Duration) -> u32 {
    u32::try_from(time.as_millis() / super::ledger::TICK.as_millis()).unwrap_or(u32::MAX)
}

/// Of each port what keeps it longest.
fn worst(look: &Look, answers: Vec<(Tuple, Seen)>) -> HashMap<u16, (Tuple, Seen)> {
    let (first, last) = look.ports();
    let weight = |seen: &Seen| match seen {
        Seen::Free => (0, Duration::ZERO),
        Seen::TimeWait(left) => (1, *left),
        Seen::Open { .. } => (2, Duration::ZERO),
    };
    let mut worst: HashMap<u16, (Tuple, Seen)> = HashMap::new();
    for (tuple, seen) in answers {
        let port = tuple.source.port();
        let of_look = match look {
            Look::Exact(asked) => *asked == tuple,
            Look::Range { source, .. } => {
                source.address == tuple.source.ip() && (first..=last).contains(&port)
            }
        };
        let worse = worst.get(&port).is_none_or(|(_, before)| weight(before) < weight(&seen));
        if of_look && worse {
            worst.insert(port, (tuple, seen));
        }
    }
    worst
}
