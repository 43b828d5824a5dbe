//! What somebody lacked of late: those who have ports to spare are told, and give them back.
//!
//! A session is told only of what it has leases of itself, so nobody learns whom others connect to.

use super::Outbound;
use crate::broker::command::Refusal;
use crate::leases::Line;
use crate::model::{PoolName, SessionId};
use crate::policy::Caller;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// So long it is remembered.
const LATELY: Duration = Duration::from_secs(30);
/// More is not remembered at a time.
const MOST: usize = 1024;
/// A pool is not told of more often.
const PAUSE: Duration = Duration::from_secs(1);

/// Who lacked something last.
#[derive(Debug)]
struct Lack {
    at: Instant,
    session: SessionId,
    /// So did another session.
    several: bool,
}

/// What was lacked.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    lines: HashMap<Line, Lack>,
    told: HashMap<PoolName, Instant>,
    /// Pools that are to be told of.
    pub(super) news: BTreeSet<PoolName>,
}

impl Wanted {
    /// A session lacks ports.
    pub(super) fn note(&mut self, line: Line, session: SessionId, now: Instant) {
        if self.lines.len() >= MOST && !self.lines.contains_key(&line) {
            self.forget_old(now);
            if self.lines.len() >= MOST {
                return;
            }
        }
        let pool = line.pool().clone();
        let lack = self.lines.entry(line).or_insert(Lack { at: now, session, several: false });
        lack.several |= lack.session != session;
        (lack.at, lack.session) = (now, session);
        if self.told.get(&pool).is_none_or(|told| now.saturating_duration_since(*told) >= PAUSE) {
            self.told.insert(pool.clone(), now);
            self.news.insert(pool);
        }
    }

    fn forget_old(&mut self, now: Instant) {
        self.lines.retain(|_, lack| now.saturating_duration_since(lack.at) < LATELY);
        self.told.retain(|_, told| now.saturating_duration_since(*told) < LATELY);
    }

    /// Whether others than a session lack what it has.
    fn is_lacked(&self, held: &Line, session: SessionId) -> bool {
        let others = |lack: &Lack| lack.several || lack.session != session;
        if held.is_for_one() {
            let lines = [held.clone(), held.for_any()];
            return lines.iter().any(|line| self.lines.get(line).is_some_and(others));
        }
        self.lines.iter().any(|(line, lack)| line.is_beside(held) && others(lack))
    }
}

impl Outbound {
    /// For what of its leases others lack ports: pool, protocol, destination.
    pub(super) fn wanted_of(
        &mut self,
        caller: &Caller,
        session: SessionId,
        now: Instant,
    ) -> Result<Vec<(String, String, String)>, Refusal> {
        self.check_session(caller, session)?;
        self.lacking.forget_old(now);
        if self.lacking.lines.is_empty() {
            return Ok(Vec::new());
        }
        let mut rows = BTreeSet::new();
        for (pool, protocol, destination) in self.ledger.held_by(session) {
            let line = Line::of(pool.clone(), protocol, destination);
            if self.lacking.is_lacked(&line, session) {
                let destination = destination.map(|to| to.to_string()).unwrap_or_default();
                rows.insert((pool.to_string(), protocol.to_string(), destination));
            }
        }
        Ok(rows.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn line(protocol: Protocol, to: &str) -> Line {
        Line::of(PoolName::try_from("p").unwrap(), protocol, to.parse().ok())
    }

    #[test]
    fn a_session_is_told_of_what_others_lack_and_not_of_what_it_lacks_itself() {
        let (mut wanted, now) = (Wanted::default(), Instant::now());
        let (a, b) = (SessionId(1), SessionId(2));
        let one = || line(Protocol::Tcp, "192.0.2.1:1");
        wanted.note(one(), a, now);
        assert!(!wanted.is_lacked(&one(), a) && wanted.is_lacked(&one(), b));
        assert!(!wanted.is_lacked(&line(Protocol::Tcp, "192.0.2.1:2"), b));
        assert!(wanted.is_lacked(&line(Protocol::Tcp, ""), b), "ports for any destination are in its way");
        assert!(!wanted.is_lacked(&line(Protocol::Udp, ""), b));
        wanted.note(one(), b, now);
        assert!(wanted.is_lacked(&one(), a) && wanted.is_lacked(&one(), b));
        wanted.note(line(Protocol::Udp, "192.0.2.1:1"), a, now);
        assert!(
            wanted.is_lacked(&line(Protocol::Udp, "[2001:db8::1]:1"), b)
                && wanted.is_lacked(&line(Protocol::Udp, ""), b)
        );
        wanted.forget_old(now + LATELY);
        assert!(!wanted.is_lacked(&one(), a));
    }

    #[test]
    fn a_pool_is_told_of_once_a_second() {
        let (mut wanted, now) = (Wanted::default(), Instant::now());
        let mut told = 0;
        for tenth in 0..30 {
            let n = tenth + 1;
            wanted.note(
                line(Protocol::Tcp, &format!("192.0.2.1:{n}")),
                SessionId(1),
                now + PAUSE / 10 * tenth,
            );
            told += std::mem::take(&mut wanted.news).len();
        }
        assert_eq!(told, 3);
    }

    #[test]
    fn not_more_than_so_much_is_remembered() {
        let (mut wanted, now) = (Wanted::default(), Instant::now());
        for n in 1..=2000 {
            wanted.note(line(Protocol::Tcp, &format!("192.0.2.1:{n}")), SessionId(1), now);
        }
        assert_eq!(wanted.lines.len(), MOST);
        wanted.note(line(Protocol::Tcp, "192.0.2.1:2000"), SessionId(1), now + LATELY);
        assert_eq!(wanted.lines.len(), 1);
    }
}
