//! Many processes that close and open connections to one destination that has few sources left.
//!
//! No source is used twice at a time, by two records that know nothing of each other: what each client wrote down of
//! its connections, and what an observer had from the kernel. Beside them the same load by processes that have ranges
//! of ports of their own and bind them without a broker.

#[path = "churn/observer.rs"]
pub(crate) mod observer;
#[path = "churn/record.rs"]
pub(crate) mod record;
#[path = "churn/server.rs"]
pub(crate) mod server;

use crate::crew::{Filled, Worker, fill};
use crate::daemon::Daemon;
use crate::ground::{destination, pool, prepare, source};
use crate::measure::{Samples, Table, Target, row};
use crate::netns::in_netns;
use crate::way::{Lender, Way};
use observer::{Observer, Seen};
use record::Record;
use server::Server;
use std::path::Path;
use std::time::Duration;

const PROCESSES: u16 = 16;
/// The ports of one process, were they divided: so many that what all of them have leased ahead is less than is free.
const PORTS: u16 = 2_000;
/// Of these, how many are open at any time.
const OPEN: u32 = 1_800;
/// Of the pool and of the processes' own, each on an address of its own.
const FIRST: u16 = 10_000;
const PORT: u16 = 8_080;

/// The share of the throughput of processes with ports of their own that there should be.
const THROUGHPUT: f64 = 0.95;

/// How long the load is on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// The sides take so many turns each.
    pub(crate) turns: u32,
    pub(crate) turn: Duration,
}

const FULL: Size = Size { turns: 5, turn: Duration::from_secs(12) };

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// How many were opened in one second, in each turn.
    pub(crate) ours: Samples,
    pub(crate) own: Samples,
    pub(crate) connections: usize,
    /// How many of these the kernel's own record has, and how often it had no room.
    pub(crate) shown: usize,
    pub(crate) ended: usize,
    pub(crate) overflows: u32,
}

pub(crate) fn measure() -> Vec<Table> {
    let outcome = in_netns(|| run(FULL));
    let limit = 1e6 / (outcome.own.median() * THROUGHPUT);
    let each = |per_second: &Samples| per_second.map(|count| 1e6 / count);
    vec![Table {
        title: format!(
            "a connection closed and another opened, {PROCESSES} processes, one destination, 90 % of its sources in \
             use,\n{} turns of {} s each: {:.0} a second, {:.0} without a broker\n{} connections, no source twice at a \
             time by the clients' records;\nby the kernel's {} were open when looked at, {} ended, no word lost: {}",
            FULL.turns,
            FULL.turn.as_secs(),
            outcome.ours.median(),
            outcome.own.median(),
            outcome.connections,
            outcome.shown,
            outcome.ended,
            outcome.overflows == 0,
        ),
        unit: "µs",
        ours: row("by Connector, all processes together", each(&outcome.ours)),
        target: Target {
            limit,
            says: format!("at least {THROUGHPUT} of the throughput without a broker: {limit:.2} µs"),
        },
        others: vec![row("by bind(2) in ports of the process's own", each(&outcome.own))],
    }]
}

/// Panics where a source was used twice at a time, a connection failed, or the records do not agree.
pub(crate) fn run(size: Size) -> Outcome {
    prepare((60_000, 60_999), 2);
    let last = FIRST + PROCESSES * PORTS - 1;
    let daemon = Daemon::start(&pool("egress", 1, &format!("{FIRST}-{last}")));
    // So many can hold all connections of both sides.
    let servers = [PORT; 4].map(|port| Server::start(destination(port)));
    let observer = Observer::start(PORT);
    let lender = Lender { socket: daemon.socket(), pool: "egress".to_owned() };
    let mut ours = workers(|_| Way::Connector(lender.clone()));
    let mut own = workers(|n| {
        let first = FIRST + n * PORTS;
        Way::Own(source(1), first, first + PORTS - 1)
    });
    for side in [&mut ours, &mut own] {
        let Filled { connections, exhausted, failures } = fill(side, OPEN, 100);
        assert_eq!((connections, exhausted, failures), (OPEN * u32::from(PROCESSES), 0, Vec::new()));
    }
    let [mut of_ours, mut of_own] = [const { Samples::new() }; 2];
    for _ in 0..size.turns {
        for (side, samples) in [(&mut ours, &mut of_ours), (&mut own, &mut of_own)] {
            samples.push(churn(side, size.turn));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let mut records = [&mut ours, &mut own].map(|side| written(side, folder.path())).concat();
    let seen = observer.stop();
    drop((ours, own, servers));
    let (shown, ended) = agree(&mut records, &seen);
    let connections = records.len();
    Outcome { ours: of_ours, own: of_own, connections, shown, ended, overflows: seen.overflows }
}

fn workers(way: impl Fn(u16) -> Way) -> Vec<Worker> {
    (0..PROCESSES).map(|n| Worker::start(&way(n), destination(PORT))).collect()
}

/// Connections in a second, by all of them together.
fn churn(workers: &mut [Worker], time: Duration) -> f64 {
    workers.iter_mut().for_each(|worker| worker.tell_churn(time));
    let churned = workers.iter_mut().map(Worker::hear_churned);
    churned.map(|churned| f64::from(churned.count) / churned.time.as_secs_f64()).sum()
}

fn written(workers: &mut [Worker], folder: &Path) -> Vec<Record> {
    let path = folder.join("records");
    workers
        .iter_mut()
        .flat_map(|worker| {
            worker.write_down(&path);
            record::read(&path)
        })
        .collect()
}

fn agree(records: &mut [Record], seen: &Seen) -> (usize, usize) {
    record::check(records).unwrap_or_else(|fault| panic!("by the clients' records: {fault}"));
    let agreed = observer::compare(records, seen).unwrap_or_else(|fault| panic!("by the kernel: {fault}"));
    assert!(agreed.shown > 0, "the observer saw nothing");
    // All of them have ended by now, and of each there was a word, unless some were lost.
    assert!(seen.overflows > 0 || agreed.ended == records.len(), "{agreed:?} of {}", records.len());
    (agreed.shown, agreed.ended)
}
