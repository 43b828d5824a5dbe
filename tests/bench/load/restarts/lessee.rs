//! A process that leases and gives back without pause, and writes down what it had and when: this program again.
//!
//! It asks as a program does that knows the interface and no library. Where an answer is lost because the daemon went
//! away, it asks the next daemon what became of the question: a release is sent again, and a lease that it does not
//! know of is given back.

use super::record::{Record, now};
use portbroker_client::wire::{ErrorName, ManagerProxy, SESSION_PREFIX};
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath};

/// The role of these processes.
pub(crate) const LESSEE: &str = "lessee";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries to reach a daemon, or to get a port of a full pool.
const PAUSE: Duration = Duration::from_millis(2);
const NO_REPLY: &str = "org.freedesktop.DBus.Error.NoReply";
/// Rows that are asked for at once.
const ROWS: u32 = 500;

/// The whole life of a lessee: it is told what to do a line at a time on its standard input, which is a socket.
pub(crate) fn live() {
    let stdin = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut answers = stdin.try_clone().unwrap();
    let (send, orders) = mpsc::channel::<String>();
    std::thread::spawn(move || {
        for line in BufReader::new(stdin).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begin = orders.recv().expect("what to lease");
    let mut life = Life::new(&begin);
    let mut goes = false;
    loop {
        let order = if goes { orders.try_recv() } else { orders.recv().map_err(Into::into) };
        let answer = match order.as_deref() {
            Ok("fill") => runtime.block_on(life.fill()),
            Ok("go") => {
                goes = true;
                continue;
            }
            Ok("pause") => {
                goes = false;
                // So that the question after it is not one whose answer is lost.
                runtime.block_on(life.catch_up());
                "paused".to_owned()
            }
            Ok(order) => life.write_down(Path::new(order.strip_prefix("write ").expect("an order"))),
            Err(mpsc::TryRecvError::Empty) => {
                runtime.block_on(life.change_one());
                continue;
            }
            // Whoever gave orders is gone.
            Err(mpsc::TryRecvError::Disconnected) => return,
        };
        let _ = writeln!(answers, "{answer}");
    }
}

struct Session {
    id: u64,
    path: OwnedObjectPath,
    /// The leases end with it.
    _lifeline: OwnedFd,
    udp: bool,
    held: Vec<Record>,
}

/// What a lessee has.
struct Life {
    socket: PathBuf,
    pool: String,
    destination: String,
    sessions: usize,
    each: usize,
    connection: Option<Connection>,
    open: Vec<Session>,
    ended: Vec<Record>,
    /// When the first answer came after each loss of the connection.
    answered: Vec<u64>,
    was_cut: bool,
    /// The highest number of a lease that it was told.
    highest: u64,
    random: u64,
}

/// What a question came to; an error of the broker's by its name.
type Answer<T> = Result<T, (Option<ErrorName>, String)>;

impl Life {
    /// `SOCKET POOL DESTINATION SESSIONS LEASES`.
    fn new(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let [socket, pool, destination, sessions, each] = words[..] else { panic!("{line:?}") };
        Self {
            socket: socket.into(),
            pool: pool.to_owned(),
            destination: destination.to_owned(),
            sessions: sessions.parse().unwrap(),
            each: each.parse().unwrap(),
            connection: None,
            open: Vec::new(),
            ended: Vec::new(),
            answered: Vec::new(),
            was_cut: false,
            highest: 0,
            random: u64::from(std::process::id()) | 1 << 40,
        }
    }

    /// Any number below a limit: xorshift64.
    fn any(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % u64::try_from(below).unwrap()).unwrap()
    }

    async fn connected(&mut self) -> Connection {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(connection) = &self.connection {
                return connection.clone();
            }
            let connect = async {
                let stream =
                    tokio::net::UnixStream::connect(&self.socket).await.map_err(zbus::Error::from)?;
                zbus::connection::Builder::unix_stream(stream.into_std()?).p2p().build().await
            };
            match connect.await {
                Ok(connection) => self.connection = Some(connection),
                Err(error) => {
                    assert!(Instant::now() < deadline, "no daemon: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Asks once; `None`: the answer was lost, and nobody knows whether the question was heard.
    async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&ManagerProxy<'_>) -> zbus::Result<T>,
    ) -> Option<Answer<T>> {
        let connection = self.connected().await;
        let builder = ManagerProxy::builder(&connection).cache_properties(CacheProperties::No);
        let manager = builder.build().await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, question(&manager)).await.expect("an answer, or the end");
        let answer = match answer {
            Ok(answer) => Ok(answer),
            // A daemon that is told to end says so to whoever waits.
            Err(zbus::Error::MethodError(name, ..)) if name.as_str() == NO_REPLY => {
                (self.connection, self.was_cut) = (None, true);
                return None;
            }
            Err(zbus::Error::MethodError(name, text, _)) => {
                Err((ErrorName::from_full(name.as_str()), text.unwrap_or_default()))
            }
            Err(_) => {
                (self.connection, self.was_cut) = (None, true);
                return None;
            }
        };
        if std::mem::take(&mut self.was_cut) {
            self.answered.push(now());
        }
        Some(answer)
    }

    async fn fill(&mut self) -> String {
        for n in 0..self.sessions {
            let opened = self.ask(async |manager| manager.open_session(HashMap::new()).await).await;
            let (path, lifeline) = opened.expect("no restart yet").unwrap();
            let id = path.as_str().strip_prefix(SESSION_PREFIX).unwrap().parse().unwrap();
            let udp = n % 5 == 4;
            self.open.push(Session { id, path, _lifeline: lifeline.into(), udp, held: Vec::new() });
            while self.open[n].held.len() < self.each {
                self.lease(n).await;
            }
        }
        "filled".to_owned()
    }

    /// Leases a port more on a session.
    async fn lease(&mut self, n: usize) {
        let deadline = Instant::now() + PATIENCE;
        let (pool, destination) = (self.pool.clone(), self.destination.clone());
        let (path, udp, id) = (self.open[n].path.clone(), self.open[n].udp, self.open[n].id);
        let protocol = if udp { "udp" } else { "tcp" };
        loop {
            let answer = self
                .ask(async |manager| {
                    manager.lease_pairs(&path, &pool, protocol, &destination, 1, HashMap::new()).await
                })
                .await;
            match answer {
                Some(Ok((lease, pairs))) => {
                    let [(_, port)] = pairs[..] else { panic!("{pairs:?}") };
                    self.highest = self.highest.max(lease);
                    let (begin, end) = (now(), u64::MAX);
                    self.open[n].held.push(Record { udp, port, begin, end, lease, session: id });
                    return;
                }
                Some(Err((Some(ErrorName::Exhausted), text))) => {
                    assert!(Instant::now() < deadline, "nothing comes back: {text}");
                    tokio::time::sleep(PAUSE).await;
                }
                Some(Err(error)) => panic!("session {id}: {error:?}"),
                None => self.give_back_unknown().await,
            }
        }
    }

    /// Gives one back and leases another.
    async fn change_one(&mut self) {
        let n = self.any(self.open.len());
        let at = self.any(self.open[n].held.len());
        let record = Record { end: now(), ..self.open[n].held.swap_remove(at) };
        self.release(record.lease).await;
        self.ended.push(record);
        self.lease(n).await;
    }

    async fn release(&mut self, lease: u64) {
        let mut was_lost = false;
        loop {
            match self.ask(async |manager| manager.release(lease).await).await {
                Some(Ok(())) => return,
                // The daemon that went away had done it.
                Some(Err((Some(ErrorName::BadArgument), _))) if was_lost => return,
                Some(Err(error)) => panic!("lease {lease} was lost: {error:?}"),
                None => was_lost = true,
            }
        }
    }

    /// Leases that were given in an answer that was lost: those of these sessions with a number above all that this
    /// process was told.
    async fn give_back_unknown(&mut self) {
        let mut after = self.highest;
        loop {
            let Some(rows) = self.ask(async |manager| manager.list_leases(after, ROWS).await).await else {
                continue;
            };
            let rows = rows.unwrap();
            let mine: HashSet<u64> = self.open.iter().map(|session| session.id).collect();
            let unknown = rows.iter().filter(|row| mine.contains(&row.1) && row.7 == "held");
            for lease in unknown.map(|row| row.0).collect::<Vec<_>>() {
                self.release(lease).await;
            }
            match rows.last() {
                Some(last) => after = last.0,
                None => return,
            }
            self.highest = after;
        }
    }

    /// Waits for a daemon that answers.
    async fn catch_up(&mut self) {
        while self.ask(async |manager| manager.list_leases(u64::MAX, 1).await).await.is_none() {}
    }

    /// What it had and has, when it was answered again, and nothing else.
    fn write_down(&mut self, path: &Path) -> String {
        let mut text = String::new();
        for record in self.ended.drain(..).chain(self.open.iter().flat_map(|session| session.held.clone())) {
            writeln!(text, "{record}").unwrap();
        }
        for time in self.answered.drain(..) {
            writeln!(text, "answered {time}").unwrap();
        }
        std::fs::write(path, text).unwrap();
        "written".to_owned()
    }
}
