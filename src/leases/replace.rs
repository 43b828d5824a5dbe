//! Another port for one that the kernel refused.

use super::access::Share;
use super::books::Step;
use super::ledger::Ledger;
use super::looks::ASK_AGAIN;
use super::record::{Cooling, Range, Record};
use super::schedule::Spot;
use super::{Event, Kind, Offer, Request};
use crate::model::{LeaseId, SourceRange, Tuple};
use std::net::SocketAddr;
use std::time::Instant;

impl Ledger {
    /// The kernel refused a port of a lease: it cools, and the lease has another one instead, which is returned, or
    /// one less, where there is none.
    pub fn replace(
        &mut self,
        lease: LeaseId,
        busy: &Tuple,
        offer: &Offer<'_>,
        now: Instant,
    ) -> Option<Tuple> {
        let record = self.leases.get(&lease).filter(|record| record.held)?;
        let address = self.books.addresses.find(&busy.source.ip())?;
        let port = busy.source.port();
        let at = record.ranges.iter().position(|range| range.has(address, port))?;
        let request = Request {
            session: record.session,
            protocol: record.protocol,
            destination: record.destination.and_then(|id| self.books.destinations.key(id)).copied(),
            kind: Kind::Pairs,
            ports: 1,
            minimum: 1,
        };
        let owner = record.owner;
        self.books.keep_address(address);
        let instead = self.one_more(&request, owner, offer, now);
        self.exchange(lease, at, Range { address, first: port, last: port }, instead);
        let with = instead
            .and_then(|range| Some(SocketAddr::new(*self.books.addresses.key(range.address)?, range.first)));
        self.events.push(Event::Replaced { id: lease, busy: busy.source, with });
        self.cool_alone(lease, Range { address, first: port, last: port }, now);
        self.books.release_address(address);
        with.map(|source| Tuple { source, ..*busy })
    }

    /// Puts another port, or none, into the place of one of a lease's range.
    fn exchange(&mut self, lease: LeaseId, at: usize, busy: Range, instead: Option<Range>) {
        let Some(record) = self.leases.get_mut(&lease) else { return };
        let mut ranges: Vec<Range> = Vec::with_capacity(record.ranges.len() + 2);
        for (n, range) in record.ranges.iter().enumerate() {
            if n != at {
                ranges.push(*range);
                continue;
            }
            ranges.extend((range.first < busy.first).then(|| Range { last: busy.first - 1, ..*range }));
            ranges.extend(instead);
            ranges.extend((busy.last < range.last).then(|| Range { first: busy.last + 1, ..*range }));
        }
        for range in &ranges {
            self.books.keep_address(range.address);
        }
        let before = std::mem::replace(&mut record.ranges, ranges.into_boxed_slice());
        let (claim, owner, pool) = (record.claim(), record.owner, record.pool);
        for range in before {
            self.books.release_address(range.address);
        }
        self.share(pool, claim, owner, busy.address, Share::Less(1));
        if let Some(instead) = instead {
            self.share(pool, claim, owner, instead.address, Share::More(1));
        }
        if instead.is_none() {
            if let Some(entry) = self.pools.get_mut(pool) {
                entry.held = entry.held.saturating_sub(1);
            }
            if let Some(holdings) = self.owners.get_mut(owner) {
                holdings.take(pool, 1);
            }
        }
    }

    /// A port that a lease gave up cools as a lease of its own, so that it is known after a restart as well.
    fn cool_alone(&mut self, of: LeaseId, range: Range, now: Instant) {
        let Some(record) = self.leases.get(&of) else { return };
        let mut cooling = Cooling::default();
        cooling.more(self.books.is_ipv4(range.address), 1);
        let stray = Record { held: false, ranges: Box::new([range]), cooling, watched: 0, ..record.clone() };
        let (claim, session, protocol, kind) = (stray.claim(), stray.session, stray.protocol, stray.kind);
        let id = LeaseId(self.next_lease);
        let destination = record.destination.and_then(|id| self.books.destinations.key(id)).copied();
        if let Some(entry) = record.destination.and_then(|id| self.books.destinations.get_mut(id)) {
            entry.leases += 1;
        }
        let pool = self.pools.key(stray.pool).cloned();
        let owner = stray.owner;
        self.insert_lease(id, stray);
        self.cools_more(owner, 1);
        let word = (range.first / 64, 1 << (range.first % 64));
        self.books.step(Step::Cool, claim, range.address, word, None);
        // The kernel may not show what is in its way, and then it would be refused again and again.
        let at = self.tick_after(now, ASK_AGAIN);
        self.wait(id, Spot { claim, address: range.address, port: range.first }, at);
        let ranges: Vec<SourceRange> = self.source_ranges(&[range]);
        if let Some(pool) = pool {
            self.events.push(Event::Leased { id, session, pool, protocol, destination, kind, ranges });
            self.events.push(Event::Released { id });
        }
    }
}
