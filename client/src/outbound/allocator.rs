//! Finds a source for a connection: from the local blocks, past what the kernel has something on, and from the broker
//! where there is nothing left.

use super::blocks::Taken;
use super::destination::{Beside, Destination, Early, Key, Offer, Slot, Word};
use super::destinations::Destinations;
use super::error::ConnectError;
use super::helper::Helper;
use super::lookup::{Lookups, Seen};
use super::prefix::Prefixes;
use super::wait::wait;
use crate::connect::Broker;
use crate::error::Error;
use crate::lease::Protocol;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Sources that the kernel may refuse one connect.
const MOST_TRIES: u32 = 256;
/// Used ports that are looked at before the broker is asked for fresh ones.
const LOOKS: u32 = 64;
/// Where nothing is left, a port that is looked at again so soon is waited for, so long in all: a connection that was
/// closed a moment ago may end with the peer's next packet.
const SOON: Duration = Duration::from_millis(40);
const PATIENCE: Duration = Duration::from_millis(200);
/// And not looked at more often than this.
const TURN: Duration = Duration::from_millis(1);
/// How long "there is no broker" holds for those who have another choice.
const ABSENT: Duration = Duration::from_secs(1);

/// What all clones of a connector share.
#[derive(Debug)]
pub(crate) struct Allocator {
    pub(crate) pool: String,
    pub(crate) broker: Broker,
    destinations: Arc<Destinations>,
    lookups: Lookups,
    pub(crate) prefixes: Prefixes,
    helper: OnceLock<Started>,
    starting: Mutex<()>,
    unreachable: Mutex<Option<(Instant, Arc<Error>)>>,
}

#[derive(Debug)]
struct Started {
    helper: Helper,
    /// A fork has a copy of all this and no thread.
    process: u32,
}

impl Allocator {
    pub(crate) fn new(pool: String, broker: Broker) -> Self {
        Self {
            pool,
            broker,
            destinations: Arc::default(),
            lookups: Lookups::default(),
            prefixes: Prefixes::default(),
            helper: OnceLock::new(),
            starting: Mutex::new(()),
            unreachable: Mutex::new(None),
        }
    }

    /// Begins to look for a source.
    /// `patience`: how long it waits where all ports are others'.
    pub(crate) fn search(
        &self,
        protocol: Protocol,
        destination: SocketAddr,
        patience: Option<Duration>,
    ) -> Search<'_> {
        let key = Key::new(protocol, destination);
        Search {
            allocator: self,
            key,
            destination,
            looks: 0,
            refusal: None,
            early: false,
            until: None,
            patient: patience.and_then(|patience| Instant::now().checked_add(patience)),
            tried: 0,
        }
    }

    /// That there was no broker, a moment ago.
    pub(crate) fn recently_absent(&self, now: Instant) -> Option<ConnectError> {
        let unreachable = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, error) = unreachable.as_ref()?;
        (now < *at + ABSENT).then(|| ConnectError::Broker(Arc::clone(error)))
    }

    fn helper(&self) -> Result<&Helper, ConnectError> {
        if self.helper.get().is_none() {
            let _one = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
            if self.helper.get().is_none() {
                let helper = Helper::start(&self.pool, &self.broker, &self.destinations);
                let helper = helper.map_err(Error::Runtime)?;
                let _ = self.helper.set(Started { helper, process: std::process::id() });
            }
        }
        let gone = || Error::Runtime(io::Error::other("the thread has ended"));
        Ok(self.helper.get().map(|started| &started.helper).ok_or_else(gone)?)
    }

    /// Whether the blocks are this process's own: a child that was forked has a copy of them.
    fn check_process(&self) -> Result<(), ConnectError> {
        match self.helper.get() {
            Some(started) if started.process != std::process::id() => Err(ConnectError::Forked),
            _ => Ok(()),
        }
    }

    fn ask(&self, destination: &Arc<Destination>) -> Result<(), ConnectError> {
        if self.helper()?.ask(destination) {
            Ok(())
        } else {
            Err(Error::Runtime(io::Error::other("the thread has ended")).into())
        }
    }

    /// Waits until there may be more for a destination.
    async fn more(
        &self,
        destination: &Arc<Destination>,
        v4: bool,
        until: Option<Instant>,
    ) -> Result<Word, ConnectError> {
        let (word, ask) = destination.wait(v4, until);
        if ask && let Err(error) = self.ask(destination) {
            // Nobody will answer those who rely on this question.
            destination.failed(&Word::Again, Instant::now());
            return Err(error);
        }
        let gone = || Error::Runtime(io::Error::other("the thread has ended"));
        let word = word.await.map_err(|_| gone())?;
        if let Word::Failed(error) = &word
            && matches!(**error, Error::NotReachable { .. })
        {
            let mut unreachable = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
            *unreachable = Some((Instant::now(), Arc::clone(error)));
        }
        Ok(word)
    }
}

/// A source to try.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) slot: Slot,
    /// It is in TIME_WAIT for so long, if the kernel does not let it be replaced.
    time_wait: Option<Duration>,
}

/// A port out of the blocks, as [`Taken`] tells of it.
struct Leased {
    slot: Slot,
    used: bool,
    time_wait: Option<Instant>,
}

/// How far a search comes without waiting.
enum Step {
    Found(Candidate),
    Wait(Arc<Destination>, Why),
}

/// Why it has to wait.
enum Why {
    /// All ports are in use or held back.
    Nothing(Instant),
    /// Many used ports in a row are not free yet.
    Looked,
}

/// One connection's search for a source.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    allocator: &'a Allocator,
    key: Key,
    destination: SocketAddr,
    looks: u32,
    refusal: Option<Word>,
    early: bool,
    until: Option<Instant>,
    /// Until when it waits for ports that others have.
    patient: Option<Instant>,
    tried: u32,
}

impl Search<'_> {
    /// The next source to try. `or_none`: the caller has another choice, so a broker that was not there a moment ago is
    /// not asked again.
    pub(crate) async fn next(&mut self, or_none: bool) -> Result<Candidate, ConnectError> {
        loop {
            match self.step(or_none)? {
                Step::Found(candidate) => return Ok(candidate),
                Step::Wait(destination, why) => self.wait(&destination, why).await?,
            }
        }
    }

    /// As [`next`](Self::next), blocking.
    pub(crate) fn next_blocking(&mut self, or_none: bool) -> Result<Candidate, ConnectError> {
        loop {
            match self.step(or_none)? {
                Step::Found(candidate) => return Ok(candidate),
                Step::Wait(destination, why) => wait(self.wait(&destination, why))?,
            }
        }
    }

    /// Looks through the local blocks: most find something here, and no future is made for them.
    fn step(&mut self, or_none: bool) -> Result<Step, ConnectError> {
        self.allocator.check_process()?;
        let v4 = self.destination.is_ipv4();
        let mut destination = self.allocator.destinations.find(self.key);
        loop {
            let now = Instant::now();
            match destination.take(v4, now) {
                Offer::Closed => destination = self.allocator.destinations.find(self.key),
                Offer::Nothing => {
                    if or_none && let Some(error) = self.allocator.recently_absent(now) {
                        return Err(error);
                    }
                    return Ok(Step::Wait(destination, Why::Nothing(now)));
                }
                Offer::Port { taken, low, beside } => {
                    // Before anything can go wrong: both come back by themselves.
                    let Taken { used, time_wait, port, source } = taken;
                    let port =
                        Leased { slot: Slot::new(Arc::clone(&destination), port, source), used, time_wait };
                    let beside = Beside::new(&destination, beside);
                    if low && let Err(error) = self.allocator.ask(&destination) {
                        destination.failed(&Word::Again, now);
                        return Err(error);
                    }
                    let before = self.looks / LOOKS;
                    if let Some(candidate) = self.look(port, beside, now) {
                        return Ok(Step::Found(candidate));
                    }
                    if self.looks / LOOKS > before {
                        return Ok(Step::Wait(destination, Why::Looked));
                    }
                }
            }
        }
    }

    async fn wait(&mut self, destination: &Arc<Destination>, why: Why) -> Result<(), ConnectError> {
        match why {
            Why::Nothing(now) => self.nothing(destination, now).await,
            Why::Looked => self.pause(destination).await,
        }
    }

    /// What the kernel says of a port, and of used ones to be looked at with it.
    fn look(&mut self, port: Leased, beside: Beside<'_>, now: Instant) -> Option<Candidate> {
        let Leased { slot, used, time_wait } = port;
        // The kernel keeps a UDP port for one socket alone: bind(2) is the look.
        if !used || self.key.protocol == Protocol::Udp {
            let time_wait = time_wait.filter(|until| *until > now).map(|until| until - now);
            return Some(Candidate { slot, time_wait });
        }
        let lookups = &self.allocator.lookups;
        let replaceable = lookups.timestamps(now);
        let mut seen = lookups.look(slot.source, beside.sources(), self.destination).into_iter();
        let first = seen.next();
        beside.looked(now, seen.map(|seen| early(seen, now, replaceable)));
        match first {
            Some(Ok(Seen::Free)) => return Some(Candidate { slot, time_wait: None }),
            Some(Ok(Seen::TimeWait(left))) if replaceable => {
                return Some(Candidate { slot, time_wait: Some(left) });
            }
            Some(Ok(Seen::TimeWait(left))) => slot.time_wait(now, left),
            Some(Ok(Seen::Open)) => slot.open(now),
            Some(Err(_)) | None => slot.unknown(now),
        }
        self.looks += 1;
        None
    }

    /// Many used ports in a row are not free yet: fresh ones, or at least a turn for others.
    async fn pause(&mut self, destination: &Arc<Destination>) -> Result<(), ConnectError> {
        if self.refusal.is_none() {
            self.refusal = refusal(self.allocator.more(destination, self.destination.is_ipv4(), None).await?);
        } else {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// All ports are in use or held back: more of the broker's, or else those held back that may have become free.
    async fn nothing(&mut self, destination: &Arc<Destination>, now: Instant) -> Result<(), ConnectError> {
        if let Some(word) = &self.refusal {
            if !self.early && destination.look_early(now, LOOKS) {
                self.early = true;
                return Ok(());
            }
            let (held, next) = destination.held(now);
            if let (Word::Exhausted(_), Some(next)) = (word, next)
                && next < SOON
                && now < *self.until.get_or_insert(now + PATIENCE)
            {
                let back = destination.wait_here();
                if self.allocator.helper()?.wake(destination, next.max(TURN)) {
                    let _ = back.await;
                }
                return Ok(());
            }
            if let (Word::Exhausted(_), Some(patient)) = (word, self.patient)
                && now < patient
            {
                return self.wait_for_others(destination, patient, next).await;
            }
            let error = word.clone().into_error(&self.allocator.pool, self.destination, held, next);
            return error.map_or(Ok(()), Err);
        }
        self.refusal = refusal(self.allocator.more(destination, self.destination.is_ipv4(), None).await?);
        Ok(())
    }

    /// Others have all ports: until the broker has some, or one comes back here.
    async fn wait_for_others(
        &mut self,
        destination: &Arc<Destination>,
        patient: Instant,
        next: Option<Duration>,
    ) -> Result<(), ConnectError> {
        if let Some(next) = next {
            self.allocator.helper()?.wake(destination, next.max(TURN));
        }
        let v4 = self.destination.is_ipv4();
        self.refusal = refusal(self.allocator.more(destination, v4, Some(patient)).await?);
        self.early = false;
        Ok(())
    }

    /// The kernel refused a source.
    pub(crate) fn refused(&mut self, candidate: Candidate, error: io::Error) -> Result<(), ConnectError> {
        let (now, last) = (Instant::now(), candidate.slot.source);
        match candidate.time_wait {
            Some(left) => candidate.slot.time_wait(now, left),
            None => candidate.slot.refused(now),
        }
        self.count(last, error)
    }

    /// A source address is not there.
    pub(crate) fn absent(&mut self, candidate: Candidate, error: io::Error) -> Result<(), ConnectError> {
        let last = candidate.slot.source;
        candidate.slot.absent(Instant::now());
        self.count(last, error)
    }

    fn count(&mut self, last: SocketAddr, source: io::Error) -> Result<(), ConnectError> {
        self.tried += 1;
        if self.tried < MOST_TRIES {
            return Ok(());
        }
        let (pool, destination) = (self.allocator.pool.clone(), self.destination);
        Err(ConnectError::Refused { pool, destination, tried: self.tried, last, source })
    }
}

/// What the kernel says of a port before its turn. `replaceable`: a connect(2) may replace TIME_WAIT.
fn early(seen: io::Result<Seen>, now: Instant, replaceable: bool) -> Early {
    match seen {
        Ok(Seen::Free) => Early::Free(None),
        Ok(Seen::TimeWait(left)) if replaceable => Early::Free(Some(now + left)),
        Ok(Seen::TimeWait(left)) => Early::TimeWait(left),
        Ok(Seen::Open) => Early::Open,
        Err(_) => Early::Unknown,
    }
}

/// A word, where it is a refusal.
fn refusal(word: Word) -> Option<Word> {
    match word {
        Word::Again => None,
        word => Some(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_does_not_give_out_its_parents_ports() {
        let broker = Broker::new().socket_path("/nonexistent");
        let allocator = Allocator::new("egress".into(), broker.clone());
        let helper = Helper::start("egress", &broker, &allocator.destinations).unwrap();
        allocator.helper.set(Started { helper, process: std::process::id() + 1 }).unwrap();
        let destination = "192.0.2.1:80".parse().unwrap();
        let error = allocator.search(Protocol::Tcp, destination, None).next_blocking(false);
        assert!(matches!(error, Err(ConnectError::Forked)), "{error:?}");
    }
}
