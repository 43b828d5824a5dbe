//! After leases of before were lost: whoever had them may go on using them, so of what the kernel has something of
//! nothing is given out.
//!
//! A request may meet many such ports, one after the other. It looks at as many as others can wait for, is put aside,
//! and goes on later, until it has what it asked for or nothing is left. What is found in use cools from then on: each
//! port is met once, and what is left is known.

use super::Outbound;
use super::command::LeaseRequest;
use super::lending::{ports_of, sources_of};
use super::parked::Parked;
use crate::broker::command::Refusal;
use crate::leases::{Lease, Refused, Terms};
use crate::model::{LeaseId, Protocol, SourceRange, Tuple};
use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// So many ports one request looks at before others have their turn …
const LOOKS: usize = 256;
/// … if that takes no longer than this.
const SLICE: Duration = Duration::from_millis(5);
/// The pause after it, in times of what it took: all of these together take no more than a third of the loop.
const PAUSE: u32 = 2;
/// More requests are not put aside.
const MOST: usize = 64;

/// Why there is no lease, or none yet.
pub(super) enum Unmet {
    Refused(Refusal),
    Unfinished(Unchecked),
}

/// A lease of which some ports have yet to be looked at.
pub(super) struct Unchecked {
    id: LeaseId,
    fresh: Vec<SocketAddr>,
}

/// What was asked of the kernel for one request.
pub(super) struct Asking {
    pub(super) protocol: Protocol,
    pub(super) destination: Option<SocketAddr>,
    /// Where everything that is used is known …
    pub(super) walked: Vec<SourceRange>,
    /// … and what that is.
    pub(super) used: HashSet<SocketAddr>,
}

/// Requests that go on when others have had their turn.
#[derive(Default)]
pub(super) struct Aside {
    waiting: VecDeque<(Parked, Unchecked)>,
    not_before: Option<Instant>,
}

impl From<Refusal> for Unmet {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Refused> for Unmet {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused.into())
    }
}

impl Unchecked {
    pub(super) fn of(lease: &Lease) -> Self {
        Self { id: lease.id, fresh: sources_of(&lease.ranges).collect() }
    }
}

impl Aside {
    /// When the next one goes on.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        (!self.waiting.is_empty()).then(|| self.not_before.unwrap_or(now))
    }
}

impl Outbound {
    /// Looks at a lease that was just made, and puts others into the place of ports that are used.
    pub(super) fn without_what_is_used(
        &mut self,
        request: &LeaseRequest,
        terms: Terms,
        Unchecked { id, mut fresh }: Unchecked,
        now: Instant,
    ) -> Result<Lease, Unmet> {
        let (begun, mut looks) = (Instant::now(), 0);
        let (protocol, destination) = (request.protocol, request.destination);
        let mut asking = Asking { protocol, destination, walked: Vec::new(), used: HashSet::new() };
        while !fresh.is_empty() {
            if looks >= LOOKS || looks > 0 && begun.elapsed() >= SLICE {
                return Err(Unmet::Unfinished(Unchecked { id, fresh }));
            }
            looks += fresh.len();
            let used = match self.looks.in_use(&mut asking, &fresh) {
                Ok(used) => used,
                Err(error) => {
                    // It was just made.
                    let _ = self.ledger.release(id, now);
                    let text = "leases of before were lost, and the kernel does not say what is in use";
                    return Err(Refusal::CannotLease(format!("{text}: {error}")).into());
                }
            };
            let pool = self.pools.get(&request.pool);
            let replace = |source| {
                let busy = Tuple { protocol, source, destination };
                let (name, pool) = pool?;
                Some(self.ledger.replace(id, &busy, &pool.offer(name), now)?.source)
            };
            fresh = used.into_iter().filter_map(replace).collect();
        }
        let Some(row) = self.ledger.get(id) else {
            return Err(Refused::NoSuchSession(request.session).into());
        };
        if ports_of(&row.ranges) >= usize::try_from(request.minimum.max(1)).unwrap_or(usize::MAX) {
            return Ok(Lease { id, ranges: row.ranges });
        }
        Err(self.give_up(request, terms, Unchecked { id, fresh }, now).into())
    }

    /// Gives a lease back that is too small, or cannot be looked at now: how things stand without it.
    pub(super) fn give_up(
        &mut self,
        request: &LeaseRequest,
        terms: Terms,
        Unchecked { id, .. }: Unchecked,
        now: Instant,
    ) -> Refusal {
        let ports = self.ledger.get(id).map_or(0, |row| ports_of(&row.ranges));
        let refusal = match self.pools.get(&request.pool) {
            Some((name, pool)) => {
                self.ledger.standing(terms, &request.wanted(), &pool.offer(name), ports, now).into()
            }
            None => Refusal::NoSuchPool(request.pool.chars().take(100).collect()),
        };
        let _ = self.ledger.release(id, now);
        refusal
    }

    /// Puts a request aside that goes on later.
    pub(super) fn put_aside(&mut self, parked: Parked, unchecked: Unchecked, now: Instant) {
        if self.aside.waiting.len() < MOST {
            return self.aside.waiting.push_back((parked, unchecked));
        }
        let _ = self.ledger.release(unchecked.id, now);
        let pool: String = parked.wanted.request().pool.chars().take(100).collect();
        let text = format!(
            "pool {pool} has much that is used by those whose leases were lost, and {MOST} requests look already for \
             what is not: try again"
        );
        self.answer(parked.wanted, Err(Refusal::CannotLease(text)), now);
    }

    /// One request goes on.
    pub(super) fn go_on(&mut self, now: Instant) {
        if self.aside.next_due(now).is_none_or(|due| due > now) {
            return;
        }
        let Some((parked, unchecked)) = self.aside.waiting.pop_front() else { return };
        if parked.wanted.is_given_up() {
            let _ = self.ledger.release(unchecked.id, now);
            return;
        }
        let request = parked.wanted.request();
        let terms = Terms { reach: self.reach_of(request), ..Terms::default() };
        let outcome = self.without_what_is_used(request, terms, unchecked, now);
        self.aside.not_before = Instant::now().checked_add(now.elapsed() * PAUSE);
        self.settle(parked, outcome, now);
    }
}
