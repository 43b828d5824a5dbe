//! Restarts of the daemon while very many leases are alive and change all the time: none is given out twice, none is
//! lost, and how long nobody has an answer.
//!
//! The daemon is killed or told to end, by turns that nobody can foresee, and now and then killed again before it is
//! ready. What is right is known from the lessees alone, each of which writes down what it had and when.

#[path = "restarts/lessee.rs"]
mod lessee;
#[path = "restarts/record.rs"]
mod record;

pub(crate) use lessee::{LESSEE, live};
pub(crate) use record::{Record, check};

use crate::measure::{Row, Samples, Table, Target, row};
use crate::netns::{in_netns, ip, spawn};
use crate::supervisor::Supervisor;
use nix::sys::signal::Signal;
use portbroker_client::wire::{LeaseRow, MAX_LEASE_ROWS, ManagerProxy};
use record::now;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Duration;
use zbus::proxy::CacheProperties;

const ADDRESS: &str = "192.0.2.1";
const DESTINATION: &str = "192.0.2.9:443";
const FIRST_PORT: u32 = 2000;
/// The most that a takeover may take.
const MILLISECONDS: f64 = 200.0;

/// How much there is of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) processes: usize,
    pub(crate) sessions_of_each: usize,
    pub(crate) leases_of_a_session: usize,
    pub(crate) restarts: usize,
    /// The books are compared after every so many.
    pub(crate) compared_after: usize,
}

pub(crate) const WHOLE: Size =
    Size { processes: 100, sessions_of_each: 5, leases_of_a_session: 100, restarts: 200, compared_after: 40 };

impl Size {
    fn leases(self) -> usize {
        self.processes * self.sessions_of_each * self.leases_of_a_session
    }

    /// Four of five sessions lease TCP ports, and these are so many; of UDP there are more than enough.
    fn ports(self) -> u32 {
        // A fifth more than are held: what is given back is soon somebody else's.
        u32::try_from(self.leases()).unwrap() * 24 / 25
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Leases that were had, in all.
    pub(crate) leases: usize,
    pub(crate) kills: usize,
    pub(crate) ends: usize,
    pub(crate) killed_before_ready: usize,
    /// Milliseconds from the start of a daemon until it is ready.
    pub(crate) ready: Samples,
    /// The same until the first answer to anybody, and until everybody has one.
    pub(crate) first_answer: Samples,
    pub(crate) all_answered: Samples,
}

struct Worker {
    child: Child,
    orders: BufReader<UnixStream>,
}

impl Worker {
    fn start(begin: &str) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = crate::in_role(LESSEE);
        let child = spawn(command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()));
        let mut worker = Self { child, orders: BufReader::new(ours) };
        worker.tell(begin);
        worker
    }

    fn tell(&mut self, order: &str) {
        writeln!(self.orders.get_mut(), "{order}").expect("the lessee lives");
    }

    fn hear(&mut self, expected: &str) {
        let mut line = String::new();
        self.orders.read_line(&mut line).expect("the lessee lives");
        assert_eq!(line.trim_end(), expected, "the lessee ended");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.orders.get_ref().shutdown(std::net::Shutdown::Both);
        if std::thread::panicking() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Tells all of them, and then hears all of them.
fn all(workers: &mut [Worker], order: &str, expected: &str) {
    workers.iter_mut().for_each(|worker| worker.tell(order));
    workers.iter_mut().for_each(|worker| worker.hear(expected));
}

/// A life of the daemon.
struct Life {
    begin: u64,
    end: u64,
    /// When it was ready, if it came so far.
    ready: Option<u64>,
}

struct World {
    size: Size,
    supervisor: Supervisor,
    workers: Vec<Worker>,
    records: BTreeMap<u64, Record>,
    /// For each lessee, when it was answered again.
    answered: Vec<Vec<u64>>,
    lives: Vec<Life>,
    outcome: Outcome,
    random: u64,
}

pub(crate) fn run(size: Size) -> Outcome {
    let last = FIRST_PORT + size.ports() - 1;
    let configuration = format!(
        "[[pool]]\nname = \"egress\"\naddresses = [\"{ADDRESS}\"]\nports = \"{FIRST_PORT}-{last}\"\n"
    );
    // Out of the way of the pool, as it should be.
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "61000 65000\n").unwrap();
    for address in [ADDRESS, "192.0.2.9"] {
        ip(&format!("address add {address}/32 dev lo"));
    }
    let mut supervisor = Supervisor::new(&configuration);
    supervisor.begin();
    supervisor.wait_until_ready();
    let begin = format!(
        "{} egress {DESTINATION} {} {}",
        supervisor.socket().display(),
        size.sessions_of_each,
        size.leases_of_a_session
    );
    let workers: Vec<Worker> = (0..size.processes).map(|_| Worker::start(&begin)).collect();
    let mut world = World {
        size,
        supervisor,
        answered: vec![Vec::new(); workers.len()],
        workers,
        records: BTreeMap::new(),
        lives: Vec::new(),
        outcome: Outcome::default(),
        random: now() | 1,
    };
    all(&mut world.workers, "fill", "filled");
    world.compare();
    world.restart_often();
    world.end()
}

impl World {
    fn any(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn restart_often(&mut self) {
        self.lives.push(Life { begin: now(), end: u64::MAX, ready: Some(now()) });
        self.workers.iter_mut().for_each(|worker| worker.tell("go"));
        for n in 1..=self.size.restarts {
            let churn = 60 + self.any(200);
            std::thread::sleep(Duration::from_millis(churn));
            let how = if self.any(3) == 0 { Signal::SIGTERM } else { Signal::SIGKILL };
            match how {
                Signal::SIGKILL => self.outcome.kills += 1,
                _ => self.outcome.ends += 1,
            }
            self.end_life(how);
            if self.any(8) == 0 {
                self.begin_life();
                let so_long = self.any(60_000);
                std::thread::sleep(Duration::from_micros(so_long));
                self.end_life(Signal::SIGKILL);
                self.outcome.killed_before_ready += 1;
            }
            self.begin_life();
            self.supervisor.wait_until_ready();
            let life = self.lives.last_mut().unwrap();
            let ready = now();
            life.ready = Some(ready);
            self.outcome.ready.push(milliseconds(life.begin, ready));
            if n % self.size.compared_after == 0 {
                all(&mut self.workers, "pause", "paused");
                self.compare();
                self.workers.iter_mut().for_each(|worker| worker.tell("go"));
            }
        }
        all(&mut self.workers, "pause", "paused");
    }

    fn begin_life(&mut self) {
        self.lives.push(Life { begin: now(), end: u64::MAX, ready: None });
        self.supervisor.begin();
    }

    fn end_life(&mut self, how: Signal) {
        self.supervisor.end(how);
        self.lives.last_mut().unwrap().end = now();
    }

    /// Nobody asks for anything now: what the lessees have is what the broker says that they have.
    fn compare(&mut self) {
        for n in 0..self.workers.len() {
            let path = self.supervisor.folder().join("written");
            self.workers[n].tell(&format!("write {}", path.display()));
            self.workers[n].hear("written");
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                if let Some(time) = line.strip_prefix("answered ") {
                    self.answered[n].push(time.parse().unwrap());
                } else {
                    let record: Record = line.parse().unwrap();
                    self.records.insert(record.lease, record);
                }
            }
        }
        let theirs = self.records.values().filter(|record| record.end == u64::MAX);
        let theirs: BTreeSet<_> =
            theirs.map(|record| (record.lease, record.session, record.udp, record.port)).collect();
        assert_eq!(theirs.len(), self.size.leases(), "each has what it should have");
        let rows = self.rows();
        let held = rows.iter().filter(|row| row.7 == "held");
        let ours: BTreeSet<_> = held.map(|row| (row.0, row.1, row.3 == "udp", the_port(row))).collect();
        let lost: Vec<_> = theirs.difference(&ours).take(5).collect();
        let unknown: Vec<_> = ours.difference(&theirs).take(5).collect();
        assert!(lost.is_empty() && unknown.is_empty(), "lost: {lost:?}, not known to anybody: {unknown:?}");
    }

    fn rows(&self) -> Vec<LeaseRow> {
        asked(&self.supervisor, async |manager| {
            let mut all: Vec<LeaseRow> = Vec::new();
            loop {
                let after = all.last().map_or(0, |row| row.0);
                let rows = manager.list_leases(after, MAX_LEASE_ROWS).await?;
                if rows.is_empty() {
                    return Ok(all);
                }
                all.extend(rows);
            }
        })
    }

    /// Everybody goes; everything comes back.
    fn end(mut self) -> Outcome {
        self.compare();
        self.workers.clear();
        let ports = self.size.ports();
        asked(&self.supervisor, async |manager| {
            let (session, _lifeline) = manager.open_session(HashMap::new()).await?;
            let deadline = std::time::Instant::now() + Duration::from_secs(60);
            for protocol in ["tcp", "udp"] {
                loop {
                    let options = HashMap::new();
                    let all = manager.lease_blocks(&session, "egress", protocol, "", ports, options).await;
                    match all {
                        Ok(_) => break,
                        Err(error) => {
                            let in_time = std::time::Instant::now() < deadline;
                            assert!(in_time, "not all of {protocol} comes back: {error}");
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    }
                }
            }
            Ok(())
        });
        let mut records: Vec<Record> = self.records.values().copied().collect();
        check(&mut records).unwrap();
        self.outcome.leases = records.len();
        let log = self.supervisor.log();
        for word in ["ERROR", "contradict", "cannot be understood"] {
            assert!(!log.contains(word), "{word} in the log");
        }
        self.sum_answers();
        self.outcome
    }

    fn sum_answers(&mut self) {
        for (life, ready) in self.lives.iter().skip(1).filter_map(|life| Some((life, life.ready?))) {
            // What is heard before may be the last word of the daemon before.
            let within = |time: &&u64| (ready..life.end).contains(*time);
            let firsts: Vec<Option<u64>> =
                self.answered.iter().map(|of| of.iter().find(within).copied()).collect();
            if let Some(first) = firsts.iter().flatten().min() {
                self.outcome.first_answer.push(milliseconds(life.begin, *first));
            }
            // Who had no answer before the next kill says nothing of how long this one took.
            if let Some(all) = firsts.iter().copied().collect::<Option<Vec<u64>>>()
                && let Some(last) = all.iter().max()
            {
                self.outcome.all_answered.push(milliseconds(life.begin, *last));
            }
        }
    }
}

fn milliseconds(from: u64, to: u64) -> f64 {
    Duration::from_nanos(to.saturating_sub(from)).as_secs_f64() * 1e3
}

fn the_port(row: &LeaseRow) -> u16 {
    let [(_, first, last)] = &row.9[..] else { panic!("{row:?}") };
    assert_eq!(first, last);
    *first
}

fn asked<T>(supervisor: &Supervisor, ask: impl AsyncFnOnce(&ManagerProxy<'_>) -> zbus::Result<T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::UnixStream::connect(supervisor.socket()).await.unwrap();
        let builder = zbus::connection::Builder::unix_stream(stream.into_std().unwrap()).p2p();
        let connection = builder.build().await.unwrap();
        let builder = ManagerProxy::builder(&connection).cache_properties(CacheProperties::No);
        ask(&builder.build().await.unwrap()).await.unwrap()
    })
}

pub(crate) fn measure() -> Vec<Table> {
    let outcome = in_netns(|| run(WHOLE));
    let Size { processes, sessions_of_each, restarts, .. } = WHOLE;
    let sessions = processes * sessions_of_each;
    println!(
        "\n{restarts} restarts ({} kills, {} ends, {} more kills before READY) with {} leases in {processes} processes \
         and {sessions} sessions: {} leases in all, none given out twice, none lost",
        outcome.kills,
        outcome.ends,
        outcome.killed_before_ready,
        WHOLE.leases(),
        outcome.leases
    );
    let table = |what: &str, samples: Samples, more: Vec<Row>| {
        let longest = row("the longest", Samples::from(samples.quantile(1.0)));
        Table {
            title: format!("{what}, {} leases, {sessions} sessions, {restarts} restarts", WHOLE.leases()),
            unit: "ms",
            ours: row("portbrokerd", samples),
            others: std::iter::once(longest).chain(more).collect(),
            target: Target { limit: MILLISECONDS, says: format!("at most {MILLISECONDS} ms") },
        }
    };
    // They all come back at once, and ask without pause from then on.
    let all = row(format!("until each of {processes} processes has one"), outcome.all_answered);
    vec![
        table("start to READY", outcome.ready, Vec::new()),
        table("start to the first answer", outcome.first_answer, vec![all]),
    ]
}
