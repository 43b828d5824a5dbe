//! The ledger: sessions, leases, and what they claim.

use super::books::{Books, Step};
use super::record::{Holdings, Record, Session};
use super::schedule::Schedule;
use super::table::Table;
use super::view::{Pool, leave};
use super::waits::Tick;
use super::{
    Eased, Event, MOST_SESSIONS, MOST_SESSIONS_PER_OWNER, NoSuchLease, Orphan, Refused, UsedAfterEnd,
};
use crate::model::{LeaseId, Owner, PoolName, SessionId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How finely the ledger knows the time.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// How far somebody may go to a limit for all: a quarter is left to root and the units of the system.
pub(super) fn share(owner: &Owner, most: usize) -> usize {
    if owner.is_ordinary_user() { most / 4 * 3 } else { most }
}

/// All leases of the host.
#[derive(Debug, Clone)]
pub struct Ledger {
    origin: Instant,
    pub(super) books: Books,
    pub(super) pools: Table<PoolName, Pool>,
    pub(super) owners: Table<Owner, Holdings>,
    pub(super) sessions: HashMap<SessionId, Session>,
    pub(super) leases: BTreeMap<LeaseId, Record>,
    pub(super) schedule: Schedule,
    /// Ports that cool, of all owners.
    pub(super) cooling: usize,
    /// How many zones there were.
    pub(super) zones: u64,
    pub(super) next_session: u64,
    pub(super) next_lease: u64,
    pub(super) events: Vec<Event>,
    pub(super) used_after_end: Vec<UsedAfterEnd>,
    /// What became free, where somebody waits for it.
    pub(super) eased: Option<HashSet<Eased>>,
    pub(super) orphan_times: HashMap<PoolName, Duration>,
    pub(super) orphans: Vec<Orphan>,
    /// Events that contradicted each other, see [`Ledger::restore`].
    pub(super) contradictions: usize,
}

impl Ledger {
    /// A ledger without any lease.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            origin: now,
            books: Books::default(),
            pools: Table::default(),
            owners: Table::default(),
            sessions: HashMap::new(),
            leases: BTreeMap::new(),
            schedule: Schedule::default(),
            cooling: 0,
            zones: 0,
            next_session: 1,
            next_lease: 1,
            events: Vec::new(),
            used_after_end: Vec::new(),
            eased: None,
            orphan_times: HashMap::new(),
            orphans: Vec::new(),
            contradictions: 0,
        }
    }

    /// Opens a session for somebody.
    pub fn open_session(&mut self, owner: Owner, _now: Instant) -> Result<SessionId, Refused> {
        let most = share(&owner, MOST_SESSIONS);
        if self.sessions.len() >= most {
            return Err(Refused::NoMoreSessions(most));
        }
        let theirs = self.owners.find(&owner).and_then(|id| self.owners.get(id)).map_or(0, |o| o.sessions);
        if theirs >= MOST_SESSIONS_PER_OWNER {
            return Err(Refused::TooManySessions { owner, most: MOST_SESSIONS_PER_OWNER });
        }
        let id = SessionId(self.next_session);
        self.insert_session(id, &owner);
        self.events.push(Event::SessionOpened { id, owner });
        Ok(id)
    }

    pub(super) fn insert_session(&mut self, id: SessionId, owner: &Owner) {
        let owner = self.owners.insert(owner);
        if let Some(holdings) = self.owners.get_mut(owner) {
            holdings.sessions += 1;
        }
        self.sessions.insert(id, Session { owner, leases: BTreeSet::new() });
        self.next_session = self.next_session.max(id.0 + 1);
    }

    /// Whose session it is.
    #[must_use]
    pub fn owner_of(&self, session: SessionId) -> Option<&Owner> {
        self.sessions.get(&session).and_then(|session| self.owners.key(session.owner))
    }

    /// Whose lease it is; of a cooling one, too.
    #[must_use]
    pub fn owner_of_lease(&self, lease: LeaseId) -> Option<&Owner> {
        self.leases.get(&lease).and_then(|record| self.owners.key(record.owner))
    }

    /// All sessions.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.sessions.keys().copied()
    }

    /// Ends a lease; its ports cool.
    pub fn release(&mut self, id: LeaseId, _now: Instant) -> Result<(), NoSuchLease> {
        self.leases.get(&id).filter(|record| record.held).ok_or(NoSuchLease(id))?;
        self.events.push(Event::Released { id });
        self.end(id);
        Ok(())
    }

    /// Ends a session and all its leases. One that ended before ends no more.
    pub fn end_session(&mut self, id: SessionId, _now: Instant) {
        let Some(session) = self.sessions.remove(&id) else { return };
        self.events.push(Event::SessionEnded { id });
        for lease in session.leases {
            self.end(lease);
        }
        if let Some(holdings) = self.owners.get_mut(session.owner) {
            holdings.sessions = holdings.sessions.saturating_sub(1);
        }
        self.forget_owner(session.owner);
    }

    /// The ports of a lease cool from now on.
    pub(super) fn end(&mut self, id: LeaseId) {
        let Some(record) = self.leases.get_mut(&id).filter(|record| record.held) else { return };
        record.held = false;
        if let Some(session) = self.sessions.get_mut(&record.session) {
            session.leases.remove(&id);
        }
        let (claim, ports) = (record.claim(), record.ports());
        for range in &record.ranges {
            record.cooling.more(self.books.is_ipv4(range.address), range.ports());
        }
        if claim.destination.is_none() {
            // Whole ranges are asked for: the longer the fewer.
            record.ranges.sort_unstable_by_key(|range| (range.address, range.first));
        }
        for range in &record.ranges {
            for word in range.words() {
                self.books.step(Step::Cool, claim, range.address, word, None);
            }
        }
        if let Some(pool) = self.pools.get_mut(record.pool) {
            pool.held = pool.held.saturating_sub(u64::from(ports));
        }
        let (owner, pool) = (record.owner, record.pool);
        if let Some(holdings) = self.owners.get_mut(owner) {
            holdings.take(pool, ports);
        }
        self.eases_pool(pool);
        self.cools_more(owner, ports);
        self.schedule.begin(claim, id);
        self.forget_if_done(id);
    }

    pub(super) fn cools_more(&mut self, owner: u32, ports: u32) {
        let ports = ports as usize;
        self.cooling += ports;
        if let Some(holdings) = self.owners.get_mut(owner) {
            holdings.cooling += ports;
        }
    }

    pub(super) fn cools_less(&mut self, owner: u32, ports: u32) {
        let ports = ports as usize;
        self.cooling = self.cooling.saturating_sub(ports);
        if let Some(holdings) = self.owners.get_mut(owner) {
            holdings.cooling = holdings.cooling.saturating_sub(ports);
        }
    }

    /// A lease that ended is forgotten once nothing of it cools, and nothing of it will be looked at.
    pub(super) fn forget_if_done(&mut self, id: LeaseId) {
        let done = |record: &&Record| !record.held && record.cooling.all() == 0 && record.watched == 0;
        let Some(record) = self.leases.get(&id).filter(done) else { return };
        self.schedule.walked(record.claim(), id, None);
        let Some(record) = self.leases.remove(&id) else { return };
        self.events.push(Event::Freed { id });
        for range in &record.ranges {
            self.books.release_address(range.address);
        }
        if let Some(destination) = record.destination {
            self.books.release_destination(destination);
        }
        if let Some(pool) = self.pools.get_mut(record.pool) {
            pool.leases = pool.leases.saturating_sub(1);
            if pool.leases == 0 && pool.view.is_none() {
                self.pools.remove(record.pool);
            }
        }
        if let Some(holdings) = self.owners.get_mut(record.owner) {
            holdings.leases.remove(&id);
        }
        self.forget_owner(record.owner);
    }

    fn forget_owner(&mut self, owner: u32) {
        if self.owners.get(owner).is_some_and(Holdings::is_unused) {
            self.count_out(owner);
            self.owners.remove(owner);
        }
    }

    /// A pool is configured no more: what is leased of it lives on.
    pub fn retire(&mut self, pool: &PoolName) {
        let Some(id) = self.pools.find(pool) else { return };
        let Some(entry) = self.pools.get_mut(id) else { return };
        let (view, leases) = (entry.view.take(), entry.leases);
        leave(&mut self.books, view);
        if leases == 0 {
            self.pools.remove(id);
        }
    }

    /// Gives out nothing more of an address, which is the broker's to heed; true where that is new.
    pub fn drain(&mut self, address: IpAddr) -> bool {
        let new = !self.is_draining(address);
        if new {
            self.books.set_draining(address, true);
            self.events.push(Event::Drained { address });
        }
        new
    }

    /// Gives out of an address again; true where it was draining.
    pub fn undrain(&mut self, address: IpAddr) -> bool {
        let was = self.is_draining(address);
        if was {
            self.books.set_draining(address, false);
            self.events.push(Event::Undrained { address });
        }
        was
    }

    /// Whether nothing more is to be given out of an address.
    #[must_use]
    pub fn is_draining(&self, address: IpAddr) -> bool {
        let id = self.books.addresses.find(&address);
        id.and_then(|id| self.books.addresses.get(id)).is_some_and(|address| address.draining)
    }

    /// All addresses of which nothing more is given out.
    pub fn draining(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.books.addresses.iter().filter(|(_, _, entry)| entry.draining).map(|(_, address, _)| *address)
    }

    /// What happened since the last call, to be written down before anybody is told.
    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Who was found to use ports after the end of their lease since the last call.
    pub fn used_after_end(&mut self) -> Vec<UsedAfterEnd> {
        std::mem::take(&mut self.used_after_end)
    }

    /// The last tick that has come.
    pub(super) fn tick(&self, now: Instant) -> Tick {
        let ticks = now.saturating_duration_since(self.origin).as_millis() / TICK.as_millis();
        Tick::try_from(ticks).unwrap_or(Tick::MAX)
    }

    /// The first tick at which so much time has passed.
    pub(super) fn tick_after(&self, now: Instant, time: Duration) -> Tick {
        let then = now.saturating_duration_since(self.origin).saturating_add(time);
        Tick::try_from(then.as_millis().div_ceil(TICK.as_millis())).unwrap_or(Tick::MAX)
    }

    pub(super) fn instant(&self, tick: Tick) -> Instant {
        self.origin + TICK * tick
    }
}
