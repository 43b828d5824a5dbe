//! Takes a lease: what is asked for is weighed first, and only what fits is taken.

use super::access::Share;
use super::books::{Claim, Step};
use super::destination::checked;
use super::ledger::{Ledger, share};
use super::pick::{Ground, Mask};
use super::record::{Cooling, Range, Record};
use super::spread::{Candidate, Turns, hash, hash_of_destination, preference};
use super::view::refresh;
use super::{
    Event, Kind, Lease, MOST_COOLING, MOST_COOLING_PER_OWNER, MOST_LEASES, MOST_LEASES_PER_OWNER, MOST_PORTS,
    Offer, Reach, Refused, Request, Terms,
};
use crate::config::{Quota, Spread};
use crate::model::{LeaseId, Owner, PortRange, SourceRange};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

/// Ports of a word of an address.
pub(super) type Piece = (u32, Mask);

/// What a request comes down to.
#[derive(Debug, Clone, Copy)]
struct Order {
    owner: u32,
    pool: u32,
    destination: Option<SocketAddr>,
    claim: Claim,
    minimum: u32,
}

impl Ledger {
    /// Leases at least `minimum` ports and at most `ports`.
    pub fn lease(&mut self, request: &Request, offer: &Offer<'_>, now: Instant) -> Result<Lease, Refused> {
        self.lease_on(Terms::default(), request, offer, now)
    }

    /// The same on certain terms.
    pub fn lease_on(
        &mut self,
        terms: Terms,
        request: &Request,
        offer: &Offer<'_>,
        now: Instant,
    ) -> Result<Lease, Refused> {
        let session = self.sessions.get(&request.session);
        let owner = session.ok_or(Refused::NoSuchSession(request.session))?.owner;
        let (destination, minimum) = self.fits(request, owner)?;
        let order = self.order(request, owner, destination, minimum, offer);
        let mut candidates = self.candidates(&order, offer);
        let free = self.weigh(&order, offer, &mut candidates, terms.reach, now)?;
        let ports = self.within_quota(&order, offer, terms.grant(request.ports, minimum, free))?;
        Ok(self.take(request, &order, offer, candidates, ports))
    }

    /// Takes one port more, whatever the quota says: it comes in place of another one.
    pub(super) fn one_more(
        &mut self,
        request: &Request,
        owner: u32,
        offer: &Offer<'_>,
        now: Instant,
    ) -> Option<Range> {
        let order = self.order(request, owner, request.destination, 1, offer);
        let mut candidates = self.candidates(&order, offer);
        self.weigh(&order, offer, &mut candidates, Reach::Free, now).ok()?;
        let pieces = self.take_singles(&order, offer.spread, candidates, 1);
        pieces.into_iter().find_map(|(address, (word, mask))| Range::of_word(address, word, mask).next())
    }

    fn order(
        &mut self,
        request: &Request,
        owner: u32,
        destination: Option<SocketAddr>,
        minimum: u32,
        offer: &Offer<'_>,
    ) -> Order {
        let pool = refresh(&mut self.pools, &mut self.books, &mut self.zones, offer);
        self.count_in(pool, owner, offer);
        let known = destination.and_then(|destination| self.books.destinations.find(&destination));
        // A number that no destination has: nothing is claimed for a new one.
        let claim = Claim::of(request.protocol, destination.map(|_| known.unwrap_or(u32::MAX)));
        Order { owner, pool, destination, claim, minimum }
    }

    /// What can be said of a request without looking at the pool.
    fn fits(&self, request: &Request, owner: u32) -> Result<(Option<SocketAddr>, u32), Refused> {
        if request.ports == 0 {
            return Err(Refused::NoPorts);
        }
        if request.ports > MOST_PORTS {
            return Err(Refused::TooManyPorts { ports: request.ports, most: MOST_PORTS });
        }
        let theirs = self.owners.row(owner);
        if let Some((owner, _)) = theirs.filter(|(_, o)| o.leases.len() >= MOST_LEASES_PER_OWNER) {
            return Err(Refused::TooManyLeases { owner: owner.clone(), most: MOST_LEASES_PER_OWNER });
        }
        if let Some((owner, holdings)) = theirs.filter(|(_, o)| o.cooling >= MOST_COOLING_PER_OWNER) {
            let (owner, cooling) = (owner.clone(), holdings.cooling);
            return Err(Refused::TooMuchCooling { owner, cooling, most: MOST_COOLING_PER_OWNER });
        }
        let share = |most| theirs.map_or(most, |(owner, _)| share(owner, most));
        if self.cooling >= share(MOST_COOLING) {
            return Err(Refused::NothingMoreCools { cooling: self.cooling });
        }
        if self.leases.len() >= share(MOST_LEASES) {
            return Err(Refused::NoMoreLeases(share(MOST_LEASES)));
        }
        let destination = request.destination.map(checked).transpose()?;
        Ok((destination, request.minimum.clamp(1, request.ports)))
    }

    /// The addresses of the destination's family, and how they stand.
    fn candidates(&mut self, order: &Order, offer: &Offer<'_>) -> Vec<Candidate> {
        let Some(view) = self.pools.get(order.pool).and_then(|pool| pool.view.as_ref()) else {
            return Vec::new();
        };
        let mut of = hash_of_destination(order.destination);
        if let (Spread::Sticky, Some(owner)) = (offer.spread, self.owners.key(order.owner)) {
            of ^= match owner {
                Owner::Unit(unit) => hash(unit.as_str().as_bytes()),
                Owner::User(uid) => hash(&uid.to_le_bytes()),
            };
        }
        let mut candidates = Vec::with_capacity(offer.addresses.len());
        for (place, (ip, address)) in view.addresses().enumerate() {
            if order.destination.is_some_and(|destination| destination.is_ipv4() != ip.is_ipv4()) {
                continue;
            }
            let room = self.books.room(order.claim, address, view);
            let total = self.books.side(address, order.claim.protocol).map_or(0, |side| side.claims.total());
            candidates.push(Candidate {
                place,
                address,
                v4: ip.is_ipv4(),
                used: self.books.slots(order.claim, address).claimed(),
                total,
                room,
                preference: preference(of, ip),
            });
        }
        candidates
    }

    /// How many ports there are within reach, where they are enough.
    fn weigh(
        &self,
        order: &Order,
        offer: &Offer<'_>,
        candidates: &mut Vec<Candidate>,
        reach: Reach,
        now: Instant,
    ) -> Result<u32, Refused> {
        if candidates.is_empty() {
            let family = match order.destination {
                Some(SocketAddr::V4(_)) => "IPv4",
                Some(SocketAddr::V6(_)) => "IPv6",
                None => "IPv4 or IPv6",
            };
            return Err(Refused::NoAddress { pool: offer.pool.clone(), family });
        }
        if offer.zone.is_empty() {
            return Err(Refused::EmptyZone { pool: offer.pool.clone() });
        }
        let rooms = rooms(candidates);
        let whose = (order.pool, order.owner, order.claim);
        let reached = self.within_reach(whose, order.minimum, reach, candidates);
        if reached < u64::from(order.minimum) {
            return Err(self.exhausted(order, offer, rooms, reached, now));
        }
        Ok(u32::try_from(reached).unwrap_or(u32::MAX))
    }

    fn exhausted(
        &self,
        order: &Order,
        offer: &Offer<'_>,
        (used, cooling, free): (u64, u64, u64),
        reached: u64,
        now: Instant,
    ) -> Refused {
        let (pool, capacity, kept) =
            (offer.pool.clone(), used + cooling + free, free.saturating_sub(reached));
        let (minimum, next) = (order.minimum, self.next_free(order.claim, now));
        Refused::Exhausted { pool, capacity, used, cooling, free, kept, minimum, next }
    }

    /// How things stand for a request that cannot be met, where a lease of so many ports that was made for it is given
    /// back.
    pub fn standing(
        &mut self,
        terms: Terms,
        request: &Request,
        offer: &Offer<'_>,
        given_back: usize,
        now: Instant,
    ) -> Refused {
        let Some(owner) = self.sessions.get(&request.session).map(|session| session.owner) else {
            return Refused::NoSuchSession(request.session);
        };
        let minimum = request.minimum.clamp(1, request.ports.max(1));
        let order = self.order(request, owner, request.destination, minimum, offer);
        let mut candidates = self.candidates(&order, offer);
        let whose = (order.pool, order.owner, order.claim);
        let (used, cooling, free) = rooms(&candidates);
        let given_back = u64::try_from(given_back).unwrap_or(u64::MAX).min(used);
        let reached = self.within_reach(whose, minimum, terms.reach, &mut candidates) + given_back;
        let rooms = (used - given_back, cooling, free + given_back);
        self.exhausted(&order, offer, rooms, reached, now)
    }

    /// As many of the ports as the quota has room for, where they are enough.
    fn within_quota(&self, order: &Order, offer: &Offer<'_>, ports: u32) -> Result<u32, Refused> {
        let Some(pool) = self.pools.get(order.pool) else { return Ok(ports) };
        let capacity = pool.view.as_ref().map_or(0, |view| view.capacity());
        let (quota, shared) = match offer.quota {
            Quota::None => return Ok(ports),
            Quota::PortsPerCaller(ports) => (u64::from(ports), u64::MAX),
            Quota::Quarter => (capacity / 4, capacity / 4 * 3),
        };
        let Some((owner, holdings)) = self.owners.row(order.owner) else { return Ok(ports) };
        let minimum = order.minimum;
        let held = holdings.held(order.pool);
        let left = quota.saturating_sub(held);
        if left < u64::from(minimum) {
            let (pool, owner) = (offer.pool.clone(), owner.clone());
            return Err(Refused::QuotaExceeded { pool, owner, held, quota, minimum });
        }
        let left_of_all = shared.saturating_sub(pool.held);
        if left_of_all < u64::from(minimum) {
            let (held, pool) = (pool.held, offer.pool.clone());
            return Err(Refused::SharedQuotaExceeded { pool, held, quota: shared, minimum });
        }
        Ok(ports.min(u32::try_from(left.min(left_of_all)).unwrap_or(u32::MAX)))
    }

    /// Takes ports that are known to be there.
    fn take(
        &mut self,
        request: &Request,
        order: &Order,
        offer: &Offer<'_>,
        candidates: Vec<Candidate>,
        ports: u32,
    ) -> Lease {
        let id = LeaseId(self.next_lease);
        let destination = order.destination.map(|destination| self.books.use_destination(destination));
        let order = Order { claim: Claim::of(request.protocol, destination), ..*order };
        let pieces = match request.kind {
            Kind::Blocks => self.take_blocks(&order, offer.spread, candidates, ports),
            Kind::Pairs | Kind::Sockets => self.take_singles(&order, offer.spread, candidates, ports),
        };
        let ranges =
            pieces.into_iter().flat_map(|(address, (word, mask))| Range::of_word(address, word, mask));
        let record = Record {
            session: request.session,
            owner: order.owner,
            pool: order.pool,
            destination,
            protocol: request.protocol,
            kind: request.kind,
            held: true,
            warned: false,
            ranges: ranges.collect(),
            cooling: Cooling::default(),
            watched: 0,
            orphaned: None,
        };
        let ranges = self.source_ranges(&record.ranges);
        self.insert_lease(id, record);
        self.events.push(Event::Leased {
            id,
            session: request.session,
            pool: offer.pool.clone(),
            protocol: request.protocol,
            destination: order.destination,
            kind: request.kind,
            ranges: ranges.clone(),
        });
        Lease { id, ranges }
    }

    /// Puts a lease where it can be found. Its ports and its destination are taken already.
    pub(super) fn insert_lease(&mut self, id: LeaseId, record: Record) {
        self.next_lease = self.next_lease.max(id.0 + 1);
        for range in &record.ranges {
            self.books.keep_address(range.address);
            let more = Share::More(range.ports());
            self.share(record.pool, record.claim(), record.owner, range.address, more);
        }
        let ports = if record.held { record.ports() } else { 0 };
        if let Some(pool) = self.pools.get_mut(record.pool) {
            pool.leases += 1;
            pool.held += u64::from(ports);
        }
        if let Some(holdings) = self.owners.get_mut(record.owner) {
            holdings.leases.insert(id);
            if record.held {
                holdings.add(record.pool, ports);
            }
        }
        if let Some(session) = self.sessions.get_mut(&record.session).filter(|_| record.held) {
            session.leases.insert(id);
        }
        self.leases.insert(id, record);
    }

    /// Pieces of at most 64 ports, each of the address whose turn it is.
    fn take_blocks(
        &mut self,
        order: &Order,
        spread: Spread,
        mut candidates: Vec<Candidate>,
        ports: u32,
    ) -> Vec<Piece> {
        let Some(pool) = self.pools.get_mut(order.pool) else { return Vec::new() };
        let Some(view) = pool.view.as_mut() else { return Vec::new() };
        let offset = hash_of_destination(order.destination);
        let mut turns = Turns::new(spread, &candidates, view.next);
        let (mut pieces, mut rest) = (Vec::new(), ports);
        while let Some(n) = turns.next().filter(|_| rest > 0) {
            let Some(candidate) = candidates.get_mut(n) else { continue };
            let ground = Ground::new(&self.books, view, order.claim, candidate.address, offset);
            let Some((word, mask)) = ground.block(rest) else { continue };
            self.books.step(Step::Hold, order.claim, candidate.address, (word, mask), Some(view.zone_id()));
            pieces.push((candidate.address, (word, mask)));
            rest -= mask.count_ones();
            candidate.took(mask.count_ones());
            view.next = candidate.place + 1;
            turns.had(n, candidate);
        }
        pieces
    }

    /// Single ports, each of the address whose turn it is: the turns first, then the ports of each address at once.
    fn take_singles(
        &mut self,
        order: &Order,
        spread: Spread,
        mut candidates: Vec<Candidate>,
        ports: u32,
    ) -> Vec<Piece> {
        let Some(pool) = self.pools.get_mut(order.pool) else { return Vec::new() };
        let Some(view) = pool.view.as_mut() else { return Vec::new() };
        let offset = hash_of_destination(order.destination);
        let mut turns = Turns::new(spread, &candidates, view.next);
        let mut had: Vec<usize> = Vec::new();
        let mut of_each: Vec<u32> = vec![0; candidates.len()];
        for _ in 0..ports {
            let Some(n) = turns.next() else { break };
            let (Some(candidate), Some(count)) = (candidates.get_mut(n), of_each.get_mut(n)) else { break };
            had.push(n);
            *count += 1;
            candidate.took(1);
            view.next = candidate.place + 1;
            turns.had(n, candidate);
        }
        let mut found: Vec<VecDeque<Piece>> = Vec::with_capacity(candidates.len());
        for (candidate, count) in candidates.iter().zip(of_each) {
            let (mut mine, mut rest) = (VecDeque::new(), count);
            while rest > 0 {
                let masks =
                    Ground::new(&self.books, view, order.claim, candidate.address, offset).singles(rest);
                if masks.is_empty() {
                    break;
                }
                for (word, mask) in masks {
                    let zone = Some(view.zone_id());
                    self.books.step(Step::Hold, order.claim, candidate.address, (word, mask), zone);
                    rest -= mask.count_ones();
                    mine.extend(bits(mask).map(|bit| (candidate.address, (word, bit))));
                }
            }
            found.push(mine);
        }
        had.into_iter().filter_map(|n| found.get_mut(n)?.pop_front()).collect()
    }

    pub(super) fn source_ranges(&self, ranges: &[Range]) -> Vec<SourceRange> {
        let range = |range: &Range| {
            let address = *self.books.addresses.key(range.address)?;
            Some(SourceRange { address, ports: PortRange::new(range.first, range.last).ok()? })
        };
        ranges.iter().filter_map(range).collect()
    }
}

/// How many ports are held, cool and are free.
fn rooms(candidates: &[Candidate]) -> (u64, u64, u64) {
    let sum = |of: fn(&Candidate) -> u32| candidates.iter().map(|c| u64::from(of(c))).sum::<u64>();
    (sum(|c| c.room.held), sum(|c| c.room.cooling), sum(|c| c.room.free))
}

/// The bits of a mask, one at a time.
fn bits(mask: u64) -> impl Iterator<Item = u64> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let bit = rest & rest.wrapping_neg();
        rest &= !bit;
        (bit != 0).then_some(bit)
    })
}
