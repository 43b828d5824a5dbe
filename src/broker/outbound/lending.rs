//! Leasing and giving back: who may, what the ledger says, what is written down, what the log is told.

use super::command::{LeaseRequest, LeasedSockets};
use super::forgotten::{Unchecked, Unmet};
use super::pools::Pool;
use super::sessions::owner_of;
use super::{Outbound, view};
use crate::broker::command::Refusal;
use crate::broker::gate::whose_lines;
use crate::kernel::outbound_socket::{self, Refused as NoSocket};
use crate::leases::{Kind, Lease, NoSuchLease, Offer, Refused, Request, Terms};
use crate::limits::Who;
use crate::model::{LeaseId, Owner, PoolName, SessionId, SourceRange, Tuple};
use crate::policy::{Caller, Decision, Lend, Network, may_lease};
use std::net::SocketAddr;
use std::time::Instant;

/// How many times as many sources as sockets are asked for are tried, where the kernel refuses some.
const TRIES: usize = 8;
/// How often what ended lately is looked at before a lease is refused.
const ROUNDS: usize = 8;

impl LeaseRequest {
    /// In the words of the ledger.
    pub(super) fn wanted(&self) -> Request {
        Request {
            session: self.session,
            protocol: self.protocol,
            destination: self.destination,
            kind: self.kind,
            ports: self.ports,
            minimum: self.minimum,
        }
    }
}

impl Pool {
    pub(super) fn offer<'a>(&'a self, name: &'a PoolName) -> Offer<'a> {
        Offer {
            pool: name,
            addresses: &self.in_use,
            zone: &self.zone.ports,
            spread: self.config.spread,
            quota: self.config.quota,
            guarantee: self.guarantee.as_ref(),
        }
    }
}

impl Outbound {
    /// What came of [`find`](Self::find) is the answer.
    pub(super) fn lease(
        &mut self,
        request: &LeaseRequest,
        outcome: Result<Lease, Refusal>,
        now: Instant,
    ) -> Result<Lease, Refusal> {
        self.keep(now);
        let leased = outcome.as_ref().map(|lease| (lease.id, ports_of(&lease.ranges)));
        if let Ok((_, ports)) = leased {
            self.note_taken(request, ports, now);
        }
        self.tell_leased(request, leased);
        outcome
    }

    /// Makes sockets of what came of [`find`](Self::find). All or nothing.
    pub(super) fn lease_sockets(
        &mut self,
        request: &LeaseRequest,
        found: Result<Lease, Refusal>,
        now: Instant,
    ) -> Result<LeasedSockets, Refusal> {
        let outcome = found.and_then(|lease| {
            let made = self.make_sockets(request, &lease, now);
            if made.is_err() {
                // It was just made.
                let _ = self.ledger.release(lease.id, now);
            }
            made
        });
        self.keep(now);
        let leased = outcome.as_ref().map(|leased| (leased.id, leased.sockets.len()));
        if let Ok((_, ports)) = leased {
            self.note_taken(request, ports, now);
        }
        self.tell_leased(request, leased);
        outcome
    }

    /// Ports, for whoever binds them himself or for sockets.
    pub(super) fn find(
        &mut self,
        request: &LeaseRequest,
        terms: Terms,
        now: Instant,
    ) -> Result<Lease, Unmet> {
        let lend = if request.kind == Kind::Sockets { Lend::Sockets } else { Lend::Ports };
        let no_such_pool = || Refusal::NoSuchPool(request.pool.chars().take(100).collect());
        let (name, pool) = self.pools.get(&request.pool).ok_or_else(no_such_pool)?;
        if let Decision::Denied(reason) = may_lease(&request.caller, &pool.config.allow, lend) {
            let action = match (request.caller.network, lend) {
                (Network::Another, Lend::Ports) => format!(
                    "lease ports of pool {name}: you are in another network namespace, where you could not bind them; ask for sockets"
                ),
                _ => format!("lease of pool {name}: its configuration does not allow you to"),
            };
            return Err(Refusal::NotAllowed { action, reason }.into());
        }
        self.check_session(&request.caller, request.session)?;
        let wanted = request.wanted();
        let terms = Terms { ahead: request.ahead, ..terms };
        let mut outcome = self.ledger.lease_on(terms, &wanted, &pool.offer(name), now);
        // Some of what ended may be free, and nobody has looked yet.
        for _ in 0..ROUNDS {
            let lacks = matches!(outcome, Err(Refused::Exhausted { .. }));
            if !lacks || !self.looks.look_for(&mut self.ledger, &wanted, now) {
                break;
            }
            outcome = self.ledger.lease_on(terms, &wanted, &pool.offer(name), now);
        }
        let lease = match outcome {
            // They may come back: the destination is not at fault.
            Err(refused @ Refused::NoAddress { .. }) if pool.ever_reaches(request.destination) => {
                return Err(Refusal::CannotLease(refused.to_string()).into());
            }
            outcome => outcome?,
        };
        if !self.store.forgot() {
            return Ok(lease);
        }
        self.without_what_is_used(request, terms, Unchecked::of(&lease), now)
    }

    /// The sockets of a lease. What the kernel refuses is somebody's who did not ask us: another takes its place.
    fn make_sockets(
        &mut self,
        request: &LeaseRequest,
        lease: &Lease,
        now: Instant,
    ) -> Result<LeasedSockets, Refusal> {
        let no_such_pool = || Refusal::NoSuchPool(request.pool.clone());
        let (name, pool) = self.pools.get(&request.pool).ok_or_else(no_such_pool)?;
        let mut sources: Vec<SocketAddr> = sources_of(&lease.ranges).collect();
        sources.reverse();
        let mut tries = sources.len() * TRIES;
        let mut sockets = Vec::with_capacity(sources.len());
        while let Some(source) = sources.pop() {
            let freebind = pool.takes_freebind(source.ip());
            match outbound_socket::make(request.protocol, source, request.destination, freebind) {
                Ok(socket) => sockets.push((source, socket)),
                Err(NoSocket::Busy { .. }) if tries > 0 => {
                    tries -= 1;
                    let busy = Tuple { protocol: request.protocol, source, destination: request.destination };
                    tracing::debug!(event = "busy", %source, "{source} is used by somebody who has no lease of it");
                    let instead = self.ledger.replace(lease.id, &busy, &pool.offer(name), now);
                    let nothing = || {
                        Refusal::CannotLease(format!(
                            "{source} is in use, and pool {name} has nothing else for this destination"
                        ))
                    };
                    sources.push(instead.ok_or_else(nothing)?.source);
                }
                Err(error) => return Err(Refusal::CannotLease(error.to_string())),
            }
        }
        Ok(LeasedSockets { id: lease.id, sockets })
    }

    /// Ends a lease of the caller's, or, for an administrator, any.
    pub(super) fn release(&mut self, caller: &Caller, lease: LeaseId, now: Instant) -> Result<(), Refusal> {
        let bad = |error: NoSuchLease| Refusal::BadArgument(error.to_string());
        let owner = self.ledger.owner_of_lease(lease).ok_or_else(|| bad(NoSuchLease(lease)))?;
        if !caller.administrator && *owner != owner_of(caller) {
            return Err(Refusal::NotAllowed {
                action: format!("release lease {lease}: it is another's"),
                reason: "the lease is another's",
            });
        }
        let (who, owner) = (whose_lines(caller), owner.to_string());
        self.ledger.release(lease, now).map_err(bad)?;
        self.tally.count(|counters| counters.ended(1));
        self.keep(now);
        if self.gate.has_a_line(&who, "released") {
            tracing::info!(event = "released", lease = lease.0, owner, "{owner} gave lease {lease} back");
        } else {
            tracing::debug!(event = "released", lease = lease.0, owner, "{owner} gave lease {lease} back");
        }
        Ok(())
    }

    /// The leases after a number that a caller may see.
    pub(super) fn leases(&self, caller: &Caller, after: LeaseId, most: usize) -> Vec<view::LeaseView> {
        let own = owner_of(caller);
        let whose = if caller.administrator { None } else { Some(&own) };
        self.ledger.rows(whose, after, most).into_iter().map(view::of_row).collect()
    }

    fn tell_leased(&self, request: &LeaseRequest, outcome: Result<(LeaseId, usize), &Refusal>) {
        let destination = request.destination.map_or_else(|| "any".to_owned(), |to| to.to_string());
        let (protocol, session) = (request.protocol, request.session.0);
        let Caller { uid, pid, .. } = request.caller;
        let (who, owner) = (whose_lines(&request.caller), owner_of(&request.caller).to_string());
        let pool: String = request.pool.escape_default().take(100).collect();
        match outcome {
            Ok((lease, ports)) => {
                let lease = lease.0;
                if self.gate.has_a_line(&who, "leased") {
                    tracing::info!(event = "leased", lease, session, pool, ports, %protocol, destination, owner, uid, pid, "leased {ports} ports of {pool} for {protocol} to {destination} to {owner} (lease {lease})");
                } else {
                    tracing::debug!(event = "leased", lease, session, pool, ports, %protocol, destination, owner, uid, pid, "leased {ports} ports of {pool} for {protocol} to {destination} to {owner} (lease {lease})");
                }
            }
            Err(refusal) => {
                let reason = match refusal {
                    Refusal::NotAllowed { reason, .. } => (*reason).to_owned(),
                    other => other.to_string(),
                };
                if self.gate.has_a_line(&who, "refusal") {
                    tracing::warn!(event = "refusal", pool, %protocol, destination, owner, uid, pid, reason, "refused a lease of {pool} to {owner}: {reason}");
                } else {
                    tracing::debug!(event = "refusal", pool, %protocol, destination, owner, uid, pid, reason, "refused a lease of {pool} to {owner}: {reason}");
                }
            }
        }
    }

    pub(super) fn tell_ended(&self, session: SessionId, owner: &Owner, leases: usize) {
        let (number, who) = (session.0, Who::from(owner));
        let owner = owner.to_string();
        if leases > 0 && self.gate.has_a_line(&who, "session-ended") {
            tracing::info!(
                event = "session-ended",
                session = number,
                owner,
                leases,
                "session {session} of {owner} ended, and with it {leases} leases"
            );
        } else {
            tracing::debug!(
                event = "session-ended",
                session = number,
                owner,
                leases,
                "session {session} of {owner} ended, and with it {leases} leases"
            );
        }
    }
}

pub(super) fn sources_of(ranges: &[SourceRange]) -> impl Iterator<Item = SocketAddr> + '_ {
    ranges.iter().flat_map(|range| range.ports.iter().map(|port| SocketAddr::new(range.address, port)))
}

pub(super) fn ports_of(ranges: &[SourceRange]) -> usize {
    ranges.iter().map(|range| usize::from(range.ports.last() - range.ports.first()) + 1).sum()
}
