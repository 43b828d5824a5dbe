//! The ledger as events, and back.
//!
//! What is restored has the same sessions and held leases. Of what had ended and still cooled, all ports are asked of
//! the kernel anew, but for those that were leased again since.

use super::books::{Claim, Step};
use super::ledger::Ledger;
use super::record::{Cooling, Range, Record};
use super::{Event, Kind};
use crate::model::{LeaseId, Owner, PoolName, PortRange, Protocol, SessionId, SourceRange};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// A lease as its events tell of it.
#[derive(Debug)]
struct Told {
    session: SessionId,
    owner: Owner,
    pool: PoolName,
    protocol: Protocol,
    destination: Option<SocketAddr>,
    kind: Kind,
    ranges: Vec<SourceRange>,
    held: bool,
    warned: bool,
}

/// The sum of events.
#[derive(Debug, Default)]
struct Sum {
    sessions: HashMap<SessionId, (Owner, Vec<LeaseId>)>,
    /// Sessions that there were.
    ended: HashSet<SessionId>,
    leases: BTreeMap<LeaseId, Told>,
    draining: BTreeSet<IpAddr>,
    session: u64,
    lease: u64,
    contradictions: usize,
}

impl Sum {
    fn add(&mut self, event: Event) {
        match event {
            Event::Numbered { session, lease } => {
                self.session = self.session.max(session.0);
                self.lease = self.lease.max(lease.0);
            }
            Event::SessionOpened { id, owner } => {
                self.session = self.session.max(id.0 + 1);
                // Were it opened anew, it would not end what hangs on it, or what hung on it would be somebody else's.
                if self.sessions.contains_key(&id) || self.ended.contains(&id) {
                    self.contradictions += 1;
                    return;
                }
                self.sessions.insert(id, (owner, Vec::new()));
            }
            Event::SessionEnded { id } => match self.sessions.remove(&id) {
                Some((_, leases)) => {
                    self.ended.insert(id);
                    leases.into_iter().for_each(|lease| self.end(lease));
                }
                None => self.contradictions += 1,
            },
            Event::Leased { id, session, pool, protocol, destination, kind, ranges } => {
                self.lease = self.lease.max(id.0 + 1);
                let known = self.leases.contains_key(&id);
                let Some((owner, leases)) = self.sessions.get_mut(&session).filter(|_| !known) else {
                    self.contradictions += 1;
                    return;
                };
                leases.push(id);
                let owner = owner.clone();
                let told = Told {
                    session,
                    owner,
                    pool,
                    protocol,
                    destination,
                    kind,
                    ranges,
                    held: true,
                    warned: false,
                };
                self.leases.insert(id, told);
            }
            Event::Held { session, pool, protocol, destination, kind, leases } => {
                for (id, ranges) in leases {
                    let pool = pool.clone();
                    self.add(Event::Leased { id, session, pool, protocol, destination, kind, ranges });
                }
            }
            Event::Warned { id } => {
                // One whose last port was free before that was written is not there any more.
                if let Some(told) = self.leases.get_mut(&id) {
                    told.warned = true;
                }
            }
            Event::Replaced { id, busy, with } => match self.leases.get_mut(&id) {
                Some(told) => told.ranges = exchanged(&told.ranges, busy, with),
                None => self.contradictions += 1,
            },
            Event::Released { id } => self.end(id),
            Event::Freed { id } => {
                self.leases.remove(&id);
            }
            Event::Drained { address } => {
                self.draining.insert(address);
            }
            Event::Undrained { address } => {
                self.draining.remove(&address);
            }
        }
    }

    fn end(&mut self, id: LeaseId) {
        // One that was freed before its session ended is not there any more.
        if let Some(told) = self.leases.get_mut(&id) {
            told.held = false;
        }
    }
}

/// Ranges with one port less, and another one in its place.
fn exchanged(ranges: &[SourceRange], busy: SocketAddr, with: Option<SocketAddr>) -> Vec<SourceRange> {
    let range =
        |address, first, last| Some(SourceRange { address, ports: PortRange::new(first, last).ok()? });
    let port = busy.port();
    let mut exchanged = Vec::with_capacity(ranges.len() + 2);
    for it in ranges {
        let (first, last) = (it.ports.first(), it.ports.last());
        if it.address != busy.ip() || !(first..=last).contains(&port) {
            exchanged.push(*it);
            continue;
        }
        // An end before its beginning is no range, and left out.
        exchanged.extend(range(it.address, first, port.saturating_sub(1)));
        exchanged.extend(with.and_then(|with| range(with.ip(), with.port(), with.port())));
        exchanged.extend(port.checked_add(1).and_then(|next| range(it.address, next, last)));
    }
    exchanged
}

impl Ledger {
    /// All that has to be known to [`restore`](Self::restore) it: fewer events than there were.
    pub fn snapshot(&self) -> impl Iterator<Item = Event> + '_ {
        let opened = |id: SessionId, owner: u32| {
            Some(Event::SessionOpened { id, owner: self.owners.key(owner)?.clone() })
        };
        let ended: BTreeMap<SessionId, u32> = self
            .leases
            .values()
            .filter(|record| !self.sessions.contains_key(&record.session))
            .map(|record| (record.session, record.owner))
            .collect();
        let gone: Vec<SessionId> = ended.keys().copied().collect();
        let numbers =
            Event::Numbered { session: SessionId(self.next_session), lease: LeaseId(self.next_lease) };
        std::iter::once(numbers)
            .chain(self.draining().map(|address| Event::Drained { address }))
            .chain(self.sessions.iter().filter_map(move |(id, session)| opened(*id, session.owner)))
            .chain(ended.into_iter().filter_map(move |(id, owner)| opened(id, owner)))
            .chain(self.all_held())
            .chain(self.leases.iter().filter(|(_, record)| !record.held).flat_map(|(id, record)| {
                let warned = record.warned.then_some(Event::Warned { id: *id });
                let end = std::iter::once(Event::Released { id: *id }).chain(warned);
                self.leased(*id, record).into_iter().chain(end)
            }))
            .chain(gone.into_iter().map(|id| Event::SessionEnded { id }))
    }

    /// What is held, by session and what the leases have in common.
    fn all_held(&self) -> impl Iterator<Item = Event> + '_ {
        let mut alike: BTreeMap<_, Vec<LeaseId>> = BTreeMap::new();
        for (id, record) in self.leases.iter().filter(|(_, record)| record.held) {
            let Record { session, pool, protocol, destination, kind, .. } = record;
            alike.entry((*session, *pool, *protocol, *destination, *kind)).or_default().push(*id);
        }
        alike.into_iter().filter_map(|((session, pool, protocol, destination, kind), ids)| {
            let ranges = |id| Some((id, self.source_ranges(&self.leases.get(&id)?.ranges)));
            Some(Event::Held {
                session,
                pool: self.pools.key(pool)?.clone(),
                protocol,
                destination: destination.and_then(|id| self.books.destinations.key(id)).copied(),
                kind,
                leases: ids.into_iter().filter_map(ranges).collect(),
            })
        })
    }

    fn leased(&self, id: LeaseId, record: &Record) -> Option<Event> {
        Some(Event::Leased {
            id,
            session: record.session,
            pool: self.pools.key(record.pool)?.clone(),
            protocol: record.protocol,
            destination: record.destination.and_then(|id| self.books.destinations.key(id)).copied(),
            kind: record.kind,
            ranges: self.source_ranges(&record.ranges),
        })
    }

    /// The ledger that these events tell of, be they all that there were, or a snapshot and those after it. What is
    /// written down from then on follows a [`snapshot`](Self::snapshot) of it: an ended lease may have lost ports
    /// that were leased again since.
    #[must_use]
    pub fn restore(events: impl IntoIterator<Item = Event>, now: Instant) -> Self {
        let mut sum = Sum::default();
        for event in events {
            sum.add(event);
        }
        let mut ledger = Self::new(now);
        ledger.contradictions = sum.contradictions;
        for address in sum.draining {
            ledger.books.set_draining(address, true);
        }
        for (id, (owner, _)) in &sum.sessions {
            ledger.insert_session(*id, owner);
        }
        // What is held first, and then the newest: a port that another lease has too was free before it was leased
        // again, be it to an older lease in place of one that the kernel refused.
        let (held, ended): (Vec<_>, Vec<_>) = sum.leases.into_iter().partition(|(_, told)| told.held);
        for (id, told) in held.into_iter().chain(ended.into_iter().rev()) {
            ledger.restore_lease(id, told);
        }
        ledger.next_session = ledger.next_session.max(sum.session);
        ledger.next_lease = ledger.next_lease.max(sum.lease);
        ledger
    }

    /// How many events contradicted those before them: none but where the journal is not ours, or a fault.
    #[must_use]
    pub fn contradictions(&self) -> usize {
        self.contradictions
    }

    fn restore_lease(&mut self, id: LeaseId, told: Told) {
        let destination = told.destination.map(|destination| self.books.use_destination(destination));
        let claim = Claim::of(told.protocol, destination);
        let mut ranges: Vec<Range> = Vec::with_capacity(told.ranges.len());
        let mut used: Vec<u32> = Vec::new();
        let mut cut = false;
        for range in &told.ranges {
            let address = self.books.use_address(range.address);
            used.push(address);
            let whole = Range { address, first: range.ports.first(), last: range.ports.last() };
            let mut left = Vec::new();
            for (word, mask) in whole.words() {
                let free = mask & !self.books.taken(claim, address, word);
                cut |= free != mask;
                left.extend(Range::of_word(address, word, free));
                if free != 0 {
                    self.books.step(Step::Hold, claim, address, (word, free), None);
                }
            }
            let uncut = left.iter().map(|range| range.ports()).sum::<u32>() == whole.ports();
            ranges.extend(if uncut { vec![whole] } else { left });
        }
        if cut && told.held {
            self.contradictions += 1;
        }
        let record = Record {
            session: told.session,
            owner: self.owners.insert(&told.owner),
            pool: self.pools.insert(&told.pool),
            destination,
            protocol: told.protocol,
            kind: told.kind,
            held: true,
            warned: told.warned,
            ranges: ranges.into_boxed_slice(),
            cooling: Cooling::default(),
            watched: 0,
            orphaned: None,
        };
        self.insert_lease(id, record);
        if !told.held {
            self.end(id);
        }
        for address in used {
            self.books.release_address(address);
        }
    }
}
