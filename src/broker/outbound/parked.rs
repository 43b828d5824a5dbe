//! Requests that would be refused and wait for the kernel: what ended lately may be free, and that is being asked.

use super::Outbound;
use super::command::{Answer, LeaseRequest, LeasedSockets};
use crate::broker::command::Refusal;
use crate::leases::Lease;
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

/// A request that waits.
pub(super) struct Parked {
    wanted: Wanted,
    rounds: u8,
}

impl Wanted {
    fn request(&self) -> &LeaseRequest {
        match self {
            Self::Ports(request, _) | Self::Sockets(request, _) => request,
        }
    }

    fn is_given_up(&self) -> bool {
        match self {
            Self::Ports(_, reply) => reply.is_closed(),
            Self::Sockets(_, reply) => reply.is_closed(),
        }
    }
}

impl Outbound {
    /// Answers a request, now or when the kernel has said more.
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

    fn answer_or_park(&mut self, Parked { wanted, rounds }: Parked, now: Instant) {
        let protocol = wanted.request().protocol;
        // Whoever asked may be gone by now, and then nobody wants the answer.
        match wanted {
            Wanted::Ports(request, reply) => {
                let outcome = self.find_ports(&request, now);
                if rounds > 0 && is_exhausted(&outcome) && self.looks.will_know_more(protocol) {
                    let wanted = Wanted::Ports(request, reply);
                    return self.parked.push(Parked { wanted, rounds: rounds - 1 });
                }
                drop(reply.send(self.lease(&request, outcome, now)));
            }
            Wanted::Sockets(request, reply) => {
                let outcome = self.find_sockets(&request, now);
                if rounds > 0 && is_exhausted(&outcome) && self.looks.will_know_more(protocol) {
                    let wanted = Wanted::Sockets(request, reply);
                    return self.parked.push(Parked { wanted, rounds: rounds - 1 });
                }
                drop(reply.send(self.lease_sockets(&request, outcome, now)));
            }
        }
    }
}

fn is_exhausted(outcome: &Result<Lease, Refusal>) -> bool {
    matches!(outcome, Err(Refusal::Exhausted { .. }))
}
