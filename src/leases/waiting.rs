//! Who waits for ports that are used up, and whose turn it is.
//!
//! Whoever waits for the same ports stands in one *line*: for TCP that is a pool and a destination, for UDP a pool and an
//! address family, since a UDP port is nobody else's whatever the destination. In a line owners take turns, one request
//! each; of one owner the requests are in the order in which they came. What always holds:
//! - Nobody gets ports for which another owner waits, but in its turn, or of its own guaranteed minimum.
//! - Who has the turn and needs more than there is keeps it for a while, so that what comes free adds up: a second at
//!   first, and twice as long each time that this was not enough, up to [`LONGEST`], in which everything that cools
//!   comes free. Then it is the next one's turn. So neither do small requests keep a big one waiting for ever, nor a
//!   big one the small ones.
//! - Leases for any destination come after those with one.
//!
//! Pure: time is an argument, and how a request is met is another's. Who waits is bounded, for each owner and in all.

use super::access::{Eased, Reach, Terms};
use super::ledger::share;
use crate::model::{Owner, PoolName, Protocol};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// More requests at a time do not wait for anybody.
pub const MOST_WAITING: usize = 2048;
/// More requests of one owner at a time do not wait.
pub const MOST_WAITING_PER_OWNER: usize = 128;

/// How long a turn is kept at first by a request that needs more than there is …
const FIRST: Duration = Duration::from_secs(1);
/// … and at most: a TIME_WAIT, and a bit.
const LONGEST: Duration = Duration::from_secs(64);

/// A request that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Ports for which several may wait.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line {
    pool: PoolName,
    protocol: Protocol,
    to: To,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum To {
    /// A TCP destination.
    One(SocketAddr),
    /// All UDP destinations of a family.
    Four,
    Six,
    /// Any destination.
    Any,
}

/// Why a request does not wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// A limit for each owner.
    #[error("{most} requests of {owner} wait for ports already: let some of them end first")]
    OfOwner {
        /// Whose.
        owner: Owner,
        /// How many there may be.
        most: usize,
    },
    /// A limit for all.
    #[error("{0} requests wait for ports already, the most that may")]
    OfAll(usize),
}

/// What came of trying to meet a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It has its ports.
    Met,
    /// There are not enough.
    Unmet,
    /// It waits no more, for another reason.
    Gone,
}

/// An owner in a line.
#[derive(Debug, Clone)]
struct Standing {
    tickets: VecDeque<Ticket>,
    /// How long it keeps its next turn.
    patience: Duration,
}

/// The owners that wait for the same ports.
#[derive(Debug, Clone, Default)]
struct Queue {
    /// Whose turn it is, and who comes after.
    turns: VecDeque<Owner>,
    standing: BTreeMap<Owner, Standing>,
    /// Until when the first one keeps its turn, where there was not enough for it.
    until: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Waiter {
    line: Line,
    owner: Owner,
    until: Instant,
}

/// All who wait.
#[derive(Debug, Clone, Default)]
pub struct Waiting {
    lines: HashMap<Line, Queue>,
    waiters: HashMap<Ticket, Waiter>,
    deadlines: BTreeSet<(Instant, Ticket)>,
    per_owner: HashMap<Owner, usize>,
    next: u64,
}

impl Line {
    /// Where a request stands.
    #[must_use]
    pub fn of(pool: PoolName, protocol: Protocol, destination: Option<SocketAddr>) -> Self {
        let to = match (protocol, destination.map(|to| (to.ip(), to.port()))) {
            (_, None) => To::Any,
            (Protocol::Tcp, Some((ip, port))) => To::One(SocketAddr::new(ip, port)),
            (Protocol::Udp, Some((IpAddr::V4(_), _))) => To::Four,
            (Protocol::Udp, Some((IpAddr::V6(_), _))) => To::Six,
        };
        Self { pool, protocol, to }
    }

    /// Whether it is that of one TCP destination.
    #[must_use]
    pub fn is_for_one(&self) -> bool {
        matches!(self.to, To::One(_))
    }

    /// The line beside it of those who want ports for any destination.
    #[must_use]
    pub fn for_any(&self) -> Self {
        Self { to: To::Any, ..self.clone() }
    }

    /// Whether it is one of the same pool and protocol.
    #[must_use]
    pub fn is_beside(&self, other: &Self) -> bool {
        self.pool == other.pool && self.protocol == other.protocol
    }

    /// Of which pool.
    #[must_use]
    pub fn pool(&self) -> &PoolName {
        &self.pool
    }

    /// Whether it may be easier to get something here.
    fn is_eased(&self, eased: &Eased) -> bool {
        match eased {
            Eased::Pool(pool) => self.pool == *pool,
            Eased::Ports(protocol, _) if *protocol != self.protocol => false,
            Eased::Ports(Protocol::Tcp, Some(destination)) => match &self.to {
                To::One(own) => own == destination,
                _ => true,
            },
            Eased::Ports(..) => true,
        }
    }

    /// Whether whoever stands here has to let those of another line go first.
    fn comes_after(&self, other: &Self) -> bool {
        self.pool == other.pool
            && self.protocol == other.protocol
            && (self.to == other.to || self.to == To::Any)
    }
}

impl Waiting {
    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// How many requests wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// How many wait for something of a pool.
    #[must_use]
    pub fn of_pool(&self, pool: &PoolName) -> usize {
        self.waiters.values().filter(|waiter| waiter.line.pool == *pool).count()
    }

    /// Whether other owners wait for what a request of this one would have.
    #[must_use]
    pub fn has_others(&self, line: &Line, owner: &Owner) -> bool {
        let others = |queue: &Queue| queue.turns.iter().any(|other| other != owner);
        if self.is_empty() {
            return false;
        }
        if line.to == To::Any {
            return self.lines.iter().any(|(other, queue)| line.comes_after(other) && others(queue));
        }
        self.lines.get(line).is_some_and(others)
    }

    /// Whether a request of this owner has others of its own before it.
    #[must_use]
    pub fn has_own(&self, line: &Line, owner: &Owner) -> bool {
        self.lines.get(line).is_some_and(|queue| queue.standing.contains_key(owner))
    }

    /// A request waits from now on, until then.
    pub fn enter(&mut self, line: Line, owner: Owner, until: Instant) -> Result<Ticket, Full> {
        let most = share(&owner, MOST_WAITING);
        if self.waiters.len() >= most {
            return Err(Full::OfAll(most));
        }
        let of_owner = self.per_owner.entry(owner.clone()).or_default();
        if *of_owner >= MOST_WAITING_PER_OWNER {
            return Err(Full::OfOwner { owner, most: MOST_WAITING_PER_OWNER });
        }
        *of_owner += 1;
        let ticket = Ticket(self.next);
        self.next += 1;
        let queue = self.lines.entry(line.clone()).or_default();
        let standing = queue.standing.entry(owner.clone()).or_insert_with(|| {
            queue.turns.push_back(owner.clone());
            Standing { tickets: VecDeque::new(), patience: FIRST }
        });
        standing.tickets.push_back(ticket);
        self.deadlines.insert((until, ticket));
        self.waiters.insert(ticket, Waiter { line, owner, until });
        Ok(ticket)
    }

    /// A request waits no more; its line, where somebody may have ports now that had to let it go first: the next one of
    /// the line, or, where nobody of its owner is left in it, who waits for any destination.
    pub fn leave(&mut self, ticket: Ticket) -> Option<Line> {
        let Waiter { line, owner, until } = self.waiters.remove(&ticket)?;
        self.deadlines.remove(&(until, ticket));
        if let Some(count) = self.per_owner.get_mut(&owner) {
            *count -= 1;
            if *count == 0 {
                self.per_owner.remove(&owner);
            }
        }
        let queue = self.lines.get_mut(&line)?;
        let standing = queue.standing.get_mut(&owner)?;
        let had_turn = queue.turns.front() == Some(&owner) && standing.tickets.front() == Some(&ticket);
        standing.tickets.retain(|other| *other != ticket);
        let was_last = standing.tickets.is_empty();
        if was_last {
            queue.standing.remove(&owner);
            queue.turns.retain(|other| *other != owner);
        }
        if had_turn {
            queue.until = None;
        }
        if queue.turns.is_empty() {
            self.lines.remove(&line);
        }
        (had_turn || was_last).then_some(line)
    }

    /// Takes out those whose time is up.
    pub fn expired(&mut self, now: Instant) -> Vec<(Ticket, Option<Line>)> {
        let mut expired = Vec::new();
        while let Some((_, ticket)) = self.deadlines.first().copied().filter(|(until, _)| *until <= now) {
            expired.push((ticket, self.leave(ticket)));
        }
        expired
    }

    /// When somebody's time, or turn, is up.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let turns = self.lines.values().filter_map(|queue| queue.until).min();
        let deadline = self.deadlines.first().map(|(until, _)| *until);
        turns.into_iter().chain(deadline).min()
    }

    /// The lines in which it may be easier to get something, those for any destination last.
    #[must_use]
    pub fn eased(&self, eased: &HashSet<Eased>) -> Vec<Line> {
        self.lines_where(|line, _| eased.iter().any(|eased| line.is_eased(eased)))
    }

    /// The lines whose turn is over.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Vec<Line> {
        self.lines_where(|_, queue| queue.until.is_some_and(|until| until <= now))
    }

    /// These lines, and those for any destination after them.
    #[must_use]
    pub fn and_for_any(&self, mut lines: Vec<Line>) -> Vec<Line> {
        lines.extend(self.lines_where(|line, _| line.to == To::Any));
        lines.sort_unstable();
        lines.dedup();
        lines
    }

    /// All lines.
    #[must_use]
    pub fn all(&self) -> Vec<Line> {
        self.lines_where(|_, _| true)
    }

    fn lines_where(&self, is: impl Fn(&Line, &Queue) -> bool) -> Vec<Line> {
        let mut lines: Vec<Line> =
            self.lines.iter().filter(|(line, queue)| is(line, queue)).map(|(line, _)| line.clone()).collect();
        lines.sort_unstable();
        lines
    }

    /// Meets who waits in a line, as far as there is something: those whose turn it is, and where the pool guarantees a
    /// minimum, each whose minimum it is.
    pub fn serve(
        &mut self,
        line: &Line,
        has_minimum: bool,
        now: Instant,
        mut attempt: impl FnMut(Ticket, Terms) -> Attempt,
    ) {
        self.serve_turns(line, now, &mut attempt);
        if has_minimum {
            self.serve_minimums(line, &mut attempt);
        }
    }

    fn serve_turns(&mut self, line: &Line, now: Instant, attempt: &mut impl FnMut(Ticket, Terms) -> Attempt) {
        let mut passed = 0;
        while let Some((ticket, among)) = self.first(line) {
            let has_to_wait = line.to == To::Any
                && self.waiters.get(&ticket).is_some_and(|of| self.has_others(line, &of.owner));
            if has_to_wait && self.lines.iter().any(|(other, _)| other != line && line.comes_after(other)) {
                if let Some(queue) = self.lines.get_mut(line) {
                    queue.until = None;
                }
                return;
            }
            let terms = Terms { among, ..Terms::default() };
            match attempt(ticket, terms) {
                Attempt::Gone => {
                    self.leave(ticket);
                }
                Attempt::Met => {
                    self.rotate(line, |_| FIRST);
                    self.leave(ticket);
                    passed = 0;
                }
                Attempt::Unmet => {
                    let Some(queue) = self.lines.get_mut(line) else { return };
                    let patience = queue.turns.front().and_then(|owner| queue.standing.get(owner));
                    let patience = patience.map_or(FIRST, |standing| standing.patience);
                    if *queue.until.get_or_insert(now + patience) > now {
                        return;
                    }
                    self.rotate(line, |patience| (patience * 2).min(LONGEST));
                    passed += 1;
                    if passed > self.lines.get(line).map_or(0, |queue| queue.turns.len()) {
                        return;
                    }
                }
            }
        }
    }

    fn serve_minimums(&mut self, line: &Line, attempt: &mut impl FnMut(Ticket, Terms) -> Attempt) {
        let Some(queue) = self.lines.get(line) else { return };
        let terms = Terms { reach: Reach::Guaranteed, ..Terms::default() };
        for owner in queue.turns.clone() {
            loop {
                let standing = self.lines.get(line).and_then(|queue| queue.standing.get(&owner));
                let Some(ticket) = standing.and_then(|standing| standing.tickets.front()).copied() else {
                    break;
                };
                if attempt(ticket, terms) == Attempt::Unmet {
                    break;
                }
                self.leave(ticket);
            }
        }
    }

    /// Whose turn it is, and among how many.
    fn first(&self, line: &Line) -> Option<(Ticket, u32)> {
        let queue = self.lines.get(line)?;
        let ticket = queue.standing.get(queue.turns.front()?)?.tickets.front()?;
        Some((*ticket, u32::try_from(queue.turns.len()).unwrap_or(u32::MAX)))
    }

    /// It is the next one's turn.
    fn rotate(&mut self, line: &Line, patience: impl FnOnce(Duration) -> Duration) {
        let Some(queue) = self.lines.get_mut(line) else { return };
        queue.until = None;
        let Some(owner) = queue.turns.pop_front() else { return };
        if let Some(standing) = queue.standing.get_mut(&owner) {
            standing.patience = patience(standing.patience);
        }
        queue.turns.push_back(owner);
    }
}
