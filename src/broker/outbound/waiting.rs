//! Requests that wait until there are ports for them, in the order of [`Waiting`](crate::leases::Waiting).
//!
//! They are tried when something became easier to get, when somebody's turn or time is up, and when pools changed; not
//! otherwise. One whose caller or session is gone waits no more.

use super::Outbound;
use super::command::LeaseRequest;
use super::forgotten::Unmet;
use super::parked::{Wanted, is_short};
use super::sessions::owner_of;
use crate::broker::command::Refusal;
use crate::leases::{Attempt, Eased, Lease, Line, Reach, Refused, Terms, Ticket};
use crate::model::PoolName;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// What becomes free while some are served is looked at again at once, so often.
const ROUNDS: usize = 16;
/// What may concern all who wait is looked at no more often: each is tried, and somebody may release all the time.
const PAUSE: Duration = Duration::from_millis(100);

impl Outbound {
    /// Where others wait for what a request would have, it has its own minimum only.
    pub(super) fn reach_of(&self, request: &LeaseRequest) -> Reach {
        if self.waiting.is_empty() {
            return Reach::Free;
        }
        let (Some(line), owner) = (line_of(request), owner_of(&request.caller)) else { return Reach::Free };
        let in_order = !request.wait.is_zero() && self.waiting.has_own(&line, &owner);
        if in_order || self.waiting.has_others(&line, &owner) { Reach::Guaranteed } else { Reach::Free }
    }

    /// A request that cannot be met now waits.
    pub(super) fn let_wait(&mut self, wanted: Wanted, now: Instant) {
        let request = wanted.request();
        // It was found, so it has a name.
        let Some(line) = line_of(request) else { return };
        let until = now.checked_add(request.wait).unwrap_or(now);
        match self.waiting.enter(line.clone(), owner_of(&request.caller), until) {
            Ok(ticket) => {
                self.wanted.insert(ticket, wanted);
                self.ledger.note_eased(true);
                // If nobody had the turn, it has it from now on.
                self.serve(vec![line], now);
            }
            Err(full) => self.answer(wanted, Err(full.into()), now),
        }
    }

    /// Serves those for whom something changed.
    pub(super) fn serve_waiting(&mut self, now: Instant) {
        for _ in 0..ROUNDS {
            if self.wanted.is_empty() {
                return;
            }
            let mut lines = self.waiting.overdue(now);
            for (ticket, line) in self.waiting.expired(now) {
                lines.extend(line);
                self.refuse(ticket, now);
            }
            let (broad, narrow): (HashSet<_>, HashSet<_>) =
                self.ledger.take_eased().into_iter().partition(Eased::is_broad);
            self.broadly.extend(broad);
            lines.extend(self.waiting.eased(&narrow));
            if self.broad_due().is_some_and(|due| due <= now) {
                self.broadly_at = Some(now);
                lines.extend(self.waiting.eased(&std::mem::take(&mut self.broadly)));
            }
            if lines.is_empty() {
                return;
            }
            self.serve(lines, now);
        }
    }

    /// When those are tried next for whom something changed that concerns many.
    fn broad_due(&self) -> Option<Instant> {
        let any = !self.broadly.is_empty();
        any.then(|| self.broadly_at.and_then(|at| at.checked_add(PAUSE)).unwrap_or_else(Instant::now))
    }

    /// When something of all this is due.
    pub(super) fn waiting_due(&self) -> Option<Instant> {
        let eased = self.ledger.has_eased().then(Instant::now);
        self.waiting.next_due().into_iter().chain(eased).chain(self.broad_due()).min()
    }

    /// Serves whoever waits: pools have changed.
    pub(super) fn serve_all(&mut self, now: Instant) {
        if !self.wanted.is_empty() {
            self.serve(self.waiting.all(), now);
        }
    }

    /// Somebody who waited is gone, or a session ended.
    pub(super) fn see_who_is_gone(&mut self, now: Instant) {
        if self.wanted.is_empty() {
            return;
        }
        let without_session = |wanted: &Wanted| self.ledger.owner_of(wanted.request().session).is_none();
        let gone = |wanted: &Wanted| wanted.is_given_up() || without_session(wanted);
        let gone: Vec<Ticket> =
            self.wanted.iter().filter(|(_, wanted)| gone(wanted)).map(|(ticket, _)| *ticket).collect();
        let mut lines = Vec::new();
        for ticket in gone {
            lines.extend(self.waiting.leave(ticket));
            if let Some(wanted) = self.wanted.remove(&ticket)
                && !wanted.is_given_up()
            {
                let refused = Refused::NoSuchSession(wanted.request().session);
                self.answer(wanted, Err(refused.into()), now);
            }
        }
        self.serve(lines, now);
    }

    fn serve(&mut self, lines: Vec<Line>, now: Instant) {
        // Nobody comes in while it is taken out.
        let mut waiting = std::mem::take(&mut self.waiting);
        for line in waiting.and_for_any(lines) {
            let pool = self.pools.get(line.pool().as_str());
            let has_minimum = pool.is_some_and(|(_, pool)| pool.guarantee.is_some());
            waiting.serve(&line, has_minimum, now, |ticket, terms| self.attempt(ticket, terms, now));
        }
        self.waiting = waiting;
        if self.waiting.is_empty() {
            self.ledger.note_eased(false);
            self.broadly.clear();
        }
    }

    fn attempt(&mut self, ticket: Ticket, terms: Terms, now: Instant) -> Attempt {
        let Some(wanted) = self.wanted.remove(&ticket).filter(|wanted| !wanted.is_given_up()) else {
            return Attempt::Gone;
        };
        let outcome = self.find_at_once(wanted.request(), terms, now);
        if is_short(&outcome) {
            self.wanted.insert(ticket, wanted);
            return Attempt::Unmet;
        }
        let attempt = if outcome.is_ok() { Attempt::Met } else { Attempt::Gone };
        self.answer(wanted, outcome, now);
        attempt
    }

    /// Its time is up: it is told how things are.
    fn refuse(&mut self, ticket: Ticket, now: Instant) {
        let Some(wanted) = self.wanted.remove(&ticket) else { return };
        let terms = Terms { reach: self.reach_of(wanted.request()), ..Terms::default() };
        let outcome = self.find_at_once(wanted.request(), terms, now);
        self.answer(wanted, outcome, now);
    }

    /// Where there is more to be looked at than others can wait for, it is tried again after a pause, as where something
    /// changed for many.
    fn find_at_once(&mut self, request: &LeaseRequest, terms: Terms, now: Instant) -> Result<Lease, Refusal> {
        self.find(request, terms, now).map_err(|unmet| match unmet {
            Unmet::Refused(refusal) => refusal,
            Unmet::Unfinished(unchecked) => {
                self.broadly.insert(Eased::Ports(request.protocol, request.destination));
                self.give_up(request, terms, unchecked, now)
            }
        })
    }
}

pub(super) fn line_of(request: &LeaseRequest) -> Option<Line> {
    let pool = PoolName::try_from(request.pool.as_str()).ok()?;
    Some(Line::of(pool, request.protocol, request.destination))
}
