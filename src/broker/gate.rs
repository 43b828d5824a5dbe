//! The books of who has how much of the broker, as all who spend it on behalf of callers share them.
//!
//! A lock is held for the time of an addition, and never while anybody waits. What was taken is a [`Held`], and is
//! given back when that is dropped, wherever the call ends.

use super::command::Refusal;
use super::log_gauge::LogGauge;
use super::outbound::owner_of;
use crate::config::{Limit, Limits};
use crate::kernel::stream::are_too_many_in_flight;
use crate::limits::{Books, Claim, Over, Room, Usage, Who};
use crate::model::UnitName;
use crate::policy::Caller;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

/// Something that may have been read meanwhile, and can find that out.
pub trait Debtor: Send + Sync {
    /// Gives back what was read.
    fn settle(&self);
}

/// By the number of their connection, each with whom it is counted for.
type Debtors = HashMap<u64, (Who, Arc<dyn Debtor>)>;

/// The books.
#[derive(Clone, Default)]
pub struct Gate(Arc<Inner>);

#[derive(Default)]
struct Inner {
    books: Mutex<Books>,
    /// Connections with descriptors that may be unread.
    debtors: Mutex<Debtors>,
    /// More is stored than could be taken over, and all of that is in flight.
    overfull: AtomicBool,
    freed: Notify,
    log: LogGauge,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

/// Something that is counted; no more when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Held {
    gate: Gate,
    who: Who,
    claim: Claim,
}

impl Held {
    /// For whom it is counted.
    #[must_use]
    pub fn who(&self) -> &Who {
        &self.who
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gate.books().give_back(&self.who, self.claim);
        if matches!(self.claim, Claim::Bytes(_)) {
            self.gate.0.freed.notify_waiters();
        }
    }
}

/// For whom a caller's descriptors are counted. What a user runs is no system unit, though each of its logins is a
/// scope and its own manager a service: it would have as many shares as logins, and the part that is kept free.
fn who(caller: &Caller) -> Who {
    let is_service = |unit: &UnitName| unit.as_str().ends_with(".service");
    match caller.unit.as_ref().filter(|_| caller.user_slice.is_none()) {
        Some(unit) if is_service(unit) || !caller.administrator => Who::Unit(unit.clone()),
        None if caller.uid == 0 && !caller.administrator => Who::Contained,
        _ => Who::User(caller.uid),
    }
}

impl Gate {
    pub(super) fn new(log: LogGauge) -> Self {
        Self(Arc::new(Inner { log, ..Inner::default() }))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn configure(&self, limits: Limits) {
        self.books().configure(limits);
        self.0.log.set_most(limits.get(Limit::LogBuffer));
        self.0.freed.notify_waiters();
    }

    pub(super) fn see_room(&self, room: Room) {
        self.books().see_room(room);
    }

    /// More is stored than the process may have open: from now on the kernel is asked whether anything can be sent.
    pub(super) fn see_overfull(&self) {
        self.0.overfull.store(true, Ordering::Relaxed);
    }

    /// A limit as it is in effect.
    #[must_use]
    pub fn most(&self, limit: Limit) -> u64 {
        self.books().most(limit)
    }

    /// Counts it, or says which limit that would be over.
    pub fn claim(&self, who: &Who, claim: Claim) -> Result<Held, Over> {
        let limit = match self.take(who, claim) {
            Ok(held) => return Ok(held),
            Err(limit) => limit,
        };
        if matches!(claim, Claim::Descriptors(_)) {
            self.settle((limit == Limit::UnreadDescriptorsPerUser).then_some(who));
            if let Ok(held) = self.take(who, claim) {
                return Ok(held);
            }
        }
        Err(self.hit(limit, who))
    }

    /// Counts descriptors before they are made for a caller.
    pub fn descriptors(&self, caller: &Caller, count: usize) -> Result<Held, Refusal> {
        if self.0.overfull.load(Ordering::Relaxed) && are_too_many_in_flight() {
            return Err(Refusal::CannotSend(
                "no sockets can be sent to anybody: more of them are stored than the broker may have descriptors, and the \
                 kernel counts them as sent and not read; raise LimitNOFILE= of the broker as \"portbroker status\" says, \
                 and \"systemctl restart portbroker\""
                    .to_owned(),
            ));
        }
        let who = who(caller);
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.claim(&who, Claim::Descriptors(count)).map_err(|over| {
            Refusal::OverLimit(format!(
                "no more sockets are sent to you before you have read those that were: {} is {} here; read the \
                 replies to your calls, or close their connections",
                over.limit.key(),
                over.most
            ))
        })
    }

    /// Counts a process that is to hold listeners.
    pub(super) fn holder(&self, caller: &Caller) -> Result<Held, Refusal> {
        self.claim(&who(caller), Claim::Holder).map_err(|over| {
            Refusal::OverLimit(format!(
                "no more processes of yours are handed sockets before some of those that were have ended: {} is {} here; \
                 take them once, and pass them on",
                over.limit.key(),
                over.most
            ))
        })
    }

    fn take(&self, who: &Who, claim: Claim) -> Result<Held, Limit> {
        self.books().take(who, claim)?;
        Ok(Held { gate: self.clone(), who: who.clone(), claim })
    }

    /// Waits until there is room for a reply of so many bytes.
    pub async fn bytes(&self, who: &Who, bytes: u64) -> Held {
        let claim = Claim::Bytes(bytes);
        loop {
            // Before the books are asked: what is given back after that is heard of.
            let freed = self.0.freed.notified();
            match self.take(who, claim) {
                Ok(held) => return held,
                Err(limit) => drop(self.hit(limit, who)),
            }
            freed.await;
        }
    }

    /// Somebody is kept within a limit: it is counted, and now and then said.
    pub fn hit(&self, limit: Limit, who: &Who) -> Over {
        let over = self.books().hit(limit, who, Instant::now());
        if over.says {
            let (key, most) = (limit.key(), over.most);
            let value = limit.written(most);
            tracing::warn!(event = "limit", limit = key, most, %who, "{who} is kept within {key} = {value} of [limits]");
        }
        over
    }

    /// A connection that may have something unread. It is asked whenever somebody would get no more.
    pub fn owes(&self, number: u64, who: Who, debtor: Arc<dyn Debtor>) {
        self.debtors().insert(number, (who, debtor));
    }

    /// It has nothing unread any more.
    pub fn owes_nothing(&self, number: u64) {
        // Dropped outside of the lock: it may be the last one who has it.
        let debtor = self.debtors().remove(&number);
        drop(debtor);
    }

    fn debtors(&self) -> MutexGuard<'_, Debtors> {
        self.0.debtors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks connections what was read: those of one, or all.
    pub fn settle(&self, of: Option<&Who>) {
        let debtors: Vec<_> = {
            let all = self.debtors();
            let wanted = all.values().filter(|(who, _)| of.is_none_or(|of| of == who));
            wanted.map(|(_, debtor)| Arc::clone(debtor)).collect()
        };
        debtors.iter().for_each(|debtor| debtor.settle());
    }

    /// Whether a line of the log on somebody's behalf is written; `about` is what the sum of the others calls it.
    #[must_use]
    pub fn has_a_line(&self, who: &Who, about: &'static str) -> bool {
        self.books().has_a_line(who, about, self.0.log.flows(), Instant::now())
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.books().next_due()
    }

    /// Says what was left out of the log.
    pub(super) fn say_left_out(&self) {
        let sums = self.books().left_out(self.0.log.flows(), Instant::now());
        for sum in sums {
            let who = sum.whose.as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::warn!(event = "left-out", who, lines = sum.count(), "{sum}");
        }
    }

    pub(super) fn usage(&self, calls: Option<(Who, u64)>) -> Vec<Usage> {
        self.settle(None);
        self.books().usage(calls, self.0.log.usage())
    }
}

/// On whose behalf lines of the log about a caller are: a user's, whatever uids its containers have; of root's, each
/// unit's.
pub(super) fn whose_lines(caller: &Caller) -> Who {
    match Who::from(&owner_of(caller)) {
        Who::Unit(_) if caller.uid != 0 => Who::User(caller.uid),
        who => who,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Network;

    fn caller(uid: u32, cgroup: &str) -> Caller {
        Caller {
            uid,
            gids: Vec::new(),
            pid: 1,
            unit: UnitName::of_cgroup(cgroup),
            user_slice: UnitName::of_user(cgroup),
            administrator: uid == 0 && cgroup == "/init.scope",
            network: Network::Ours,
        }
    }

    fn take_all(gate: &Gate, caller: &Caller, kept: &mut Vec<Held>) {
        while let Ok(held) = gate.descriptors(caller, 1) {
            kept.push(held);
        }
    }

    #[test]
    fn neither_all_the_logins_of_a_user_nor_containers_have_what_is_kept_for_root_and_services() {
        let gate = Gate::default();
        let mut kept = Vec::new();
        for login in 0..20 {
            let session = format!("/user.slice/user-1000.slice/session-{login}.scope");
            take_all(&gate, &caller(1000, &session), &mut kept);
        }
        let own_manager = "/user.slice/user-1000.slice/user@1000.service/app.slice/db.service";
        take_all(&gate, &caller(1000, own_manager), &mut kept);
        let of_one = kept.len();
        take_all(&gate, &caller(1001, "/user.slice/user-1001.slice/session-99.scope"), &mut kept);
        assert_eq!(kept.len(), 2 * of_one, "another user has as many");
        for container in 0..20 {
            take_all(&gate, &caller(0, &format!("/docker/{container}")), &mut kept);
            take_all(&gate, &caller(0, &format!("/system.slice/docker-{container}.scope")), &mut kept);
        }
        for served in [caller(0, "/init.scope"), caller(33, "/system.slice/web.service")] {
            assert!(gate.descriptors(&served, 20).is_ok(), "{served:?}");
        }
    }
}
