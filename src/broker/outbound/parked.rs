//! Requests for ports, and those among them that would be refused and wait for the kernel: what ended lately may be free,
//! and that is being asked.

use super::Outbound;
use super::command::{Answer, LeaseRequest, LeasedSockets};
use super::forgotten::Unmet;
use super::waiting::line_of;
use crate::broker::command::Refusal;
use crate::leases::{Lease, Terms};
use std::time::Instant;

/// More requests do not wait, and are refused at once.
const MOST: usize = 256;
/// For so many answers of the kernel one request waits.
const ROUNDS: u8 = 4;

/// A request, with whoever waits for its answer.
pub(super) enum Wanted {
    Ports(LeaseRequest, Answer<Lease>),
    Sockets(LeaseRequest, Answer<LeasedSockets>),
}

/// A request that waits for the kernel.
pub(super) struct Parked {
    pub(super) wanted: Wanted,
    rounds: u8,
}

impl Wanted {
    pub(super) fn request(&self) -> &LeaseRequest {
        match self {
            Self::Ports(request, _) | Self::Sockets(request, _) => request,
        }
    }

    pub(super) fn is_given_up(&self) -> bool {
        match self {
            Self::Ports(_, reply) => reply.is_closed(),
            Self::Sockets(_, reply) => reply.is_closed(),
        }
    }
}

impl Outbound {
    /// Answers a request, now or later.
    pub(super) fn answer_lease(&mut self, wanted: Wanted, now: Instant) {
        let rounds = if self.parked.len() < MOST { ROUNDS } else { 0 };
        self.answer_or_park(Parked { wanted, rounds }, now);
    }

    /// The kernel has said more.
    pub(super) fn answer_parked(&mut self, now: Instant) {
        for parked in std::mem::take(&mut self.parked) {
            if !parked.wanted.is_given_up() {
                self.answer_or_park(parked, now);
            }
        }
    }

    fn answer_or_park(&mut self, parked: Parked, now: Instant) {
        let request = parked.wanted.request();
        let terms = Terms { reach: self.reach_of(request), ..Terms::default() };
        let outcome = self.find(request, terms, now);
        self.settle(parked, outcome, now);
    }

    /// What was found out is the answer, or the request waits.
    pub(super) fn settle(&mut self, parked: Parked, outcome: Result<Lease, Unmet>, now: Instant) {
        let outcome = match outcome {
            Ok(lease) => Ok(lease),
            Err(Unmet::Refused(refusal)) => Err(refusal),
            Err(Unmet::Unfinished(unchecked)) => return self.put_aside(parked, unchecked, now),
        };
        let Parked { wanted, rounds } = parked;
        let request = wanted.request();
        if is_short(&outcome)
            && let Some(line) = line_of(request)
        {
            self.lacking.note(line, request.session, now);
        }
        if is_short(&outcome) && !request.wait.is_zero() {
            return self.let_wait(wanted, now);
        }
        if rounds > 0 && is_short(&outcome) && self.looks.will_know_more(request.protocol) {
            return self.parked.push(Parked { wanted, rounds: rounds - 1 });
        }
        self.answer(wanted, outcome, now);
    }

    /// Whoever asked may be gone by now, and then nobody wants the answer.
    pub(super) fn answer(&mut self, wanted: Wanted, outcome: Result<Lease, Refusal>, now: Instant) {
        match wanted {
            Wanted::Ports(request, reply) => drop(reply.send(self.lease(&request, outcome, now))),
            Wanted::Sockets(request, reply) => drop(reply.send(self.lease_sockets(&request, outcome, now))),
        }
    }
}

/// Whether there is not enough, and others have it.
pub(super) fn is_short(outcome: &Result<Lease, Refusal>) -> bool {
    matches!(outcome, Err(Refusal::Exhausted { .. } | Refusal::SharedQuotaExceeded(_)))
}
