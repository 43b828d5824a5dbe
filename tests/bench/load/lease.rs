//! How many leases of a block the daemon gives in a second, and how quick it refuses, with few leases alive and with
//! very many.

use crate::daemon::Daemon;
use crate::ground::{Meter, destination, pool, prepare};
use crate::measure::{Samples, Table, Target, in_microseconds, row};
use crate::netns::in_netns;
use futures_util::StreamExt as _;
use portbroker_client::wire::{ErrorName, MANAGER_INTERFACE, MANAGER_PATH, ManagerProxy};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use zbus::message::{Message, Type};
use zbus::proxy::CacheProperties;
use zbus::wire::{OwnedFd, OwnedObjectPath, Variant};
use zbus::{Connection, MessageStream};

const SOURCES: u8 = 16;
/// Ten leases of the most ports that a lease has are all of them.
const ZONE: &str = "24576-65535";
const FEW: u32 = 10;
const LARGE: u32 = 65_536;
/// What is leased while it is measured.
const BLOCK: u32 = 64;
/// What is leased only to be there, over so many destinations.
const SMALL: u32 = 8;
const DESTINATIONS: u16 = 4;
/// Calls that are under way at a time, on all connections together.
const UNDER_WAY: usize = 64;
const CONNECTIONS: usize = 8;

/// The least that there should be in a second, and the most that a refusal should take, in microseconds.
const A_SECOND: f64 = 10_000.0;
const REFUSAL: f64 = 200.0;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) many: u32,
    pub(crate) turns: u16,
    pub(crate) leases: u32,
    pub(crate) refusals: u32,
}

const FULL: Size = Size { many: 100_000, turns: 5, leases: 4_000, refusals: 2_000 };

/// Figures with so many leases alive, in microseconds.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) alive: u32,
    /// Wall time for one lease, pipelined on one connection, and on eight; the daemon's time on a processor.
    pub(crate) on_one: [Samples; 2],
    pub(crate) on_eight: [Samples; 2],
    /// A call and its answer: Exhausted, and a property beside it.
    pub(crate) refusal: Samples,
    pub(crate) property: Samples,
}

pub(crate) fn measure() -> Vec<Table> {
    let figures = in_netns(|| run(FULL));
    let mut tables = Vec::new();
    for Figures { alive, on_one, on_eight, refusal, property } in figures {
        let limit = 1e6 / A_SECOND;
        for (how, [wall, daemons]) in [("on one connection", on_one), ("on 8 connections", on_eight)] {
            tables.push(Table {
                title: format!(
                    "LeaseBlocks of {BLOCK} ports, pipelined {how}, {alive} leases alive: {:.0} a second \
                     ({} turns of {})",
                    1e6 / wall.median(),
                    FULL.turns,
                    FULL.leases
                ),
                unit: "µs",
                ours: row("one lease, by the clock", wall),
                target: Target { limit, says: format!("at least {A_SECOND} a second: {limit} µs") },
                others: vec![row("the daemon's time on a processor for it", daemons)],
            });
        }
        tables.push(Table {
            title: format!("LeaseBlocks refused as Exhausted, {alive} leases alive, {} calls", FULL.refusals),
            unit: "µs",
            ours: row("a call and its answer", refusal),
            target: Target { limit: REFUSAL, says: format!("at most {REFUSAL} µs") },
            others: vec![row("a call for a property, and its answer", property)],
        });
    }
    tables
}

/// With few leases alive, then with many. Panics where a lease is refused, a refusal is none, or a port is leased twice.
pub(crate) fn run(size: Size) -> [Figures; 2] {
    prepare((1_024, 3_035), SOURCES);
    let daemon = Daemon::start(&pool("egress", SOURCES, ZONE));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clients = Clients::new(&daemon).await;
        // Everything of one destination.
        let full = destination(9_000);
        let few = clients.session().await;
        let calls = (0..FEW).map(|_| call(&few.0, full, LARGE));
        let mut last = granted(clients.pipelined(1, calls).await, LARGE);
        let with_few = clients.figures(size, FEW, full, last).await;
        let mut calls = Vec::new();
        for n in 0..size.many - FEW {
            let port = 9_001 + u16::try_from(n % u32::from(DESTINATIONS)).unwrap();
            calls.push(call(&few.0, destination(port), SMALL));
        }
        last = granted(clients.pipelined(1, calls.into_iter()).await, SMALL);
        let with_many = clients.figures(size, size.many, full, last).await;
        [with_few, with_many]
    })
}

/// A session: its path, and its lifeline.
type Session = (OwnedObjectPath, OwnedFd);

struct Clients {
    connections: Vec<Connection>,
    manager: ManagerProxy<'static>,
    daemon: u32,
}

impl Clients {
    async fn new(daemon: &Daemon) -> Self {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = UnixStream::connect(daemon.socket()).unwrap();
            connections.push(zbus::connection::Builder::unix_stream(stream).p2p().build().await.unwrap());
        }
        let manager = ManagerProxy::builder(&connections[0]).cache_properties(CacheProperties::No);
        Self { manager: manager.build().await.unwrap(), connections, daemon: daemon.pid() }
    }

    async fn session(&self) -> Session {
        self.manager.open_session(HashMap::new()).await.unwrap()
    }

    /// Makes all calls, on so many of the connections: the answers.
    async fn pipelined(&self, connections: usize, calls: impl Iterator<Item = Message>) -> Vec<Message> {
        let mut shares = vec![Vec::new(); connections];
        for (n, call) in calls.enumerate() {
            shares[n % connections].push(call);
        }
        let at_a_time = UNDER_WAY / connections;
        let each = shares.into_iter().zip(&self.connections);
        let tasks: Vec<_> =
            each.map(|(calls, on)| tokio::spawn(answers(on.clone(), calls, at_a_time))).collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        all
    }

    async fn figures(&self, size: Size, alive: u32, full: SocketAddr, last: u64) -> Figures {
        let mut on_one = [Samples::new(), Samples::new()];
        let mut on_eight = [Samples::new(), Samples::new()];
        for _ in 0..size.turns {
            self.turn(1, size.leases, last, &mut on_one).await;
            self.turn(CONNECTIONS, size.leases, last, &mut on_eight).await;
        }
        let [mut refusal, mut property] = [Samples::new(), Samples::new()];
        let session = self.session().await;
        for _ in 0..size.refusals {
            let begin = Instant::now();
            let text = full.to_string();
            let refused =
                self.manager.lease_blocks(&session.0, "egress", "tcp", &text, BLOCK, HashMap::new());
            let error = refused.await.expect_err("there is nothing left");
            refusal.push(in_microseconds(begin.elapsed()));
            let name = match &error {
                zbus::Error::MethodError(name, ..) => ErrorName::from_full(name.as_str()),
                _ => None,
            };
            assert_eq!(name, Some(ErrorName::Exhausted), "{error}");
            let begin = Instant::now();
            self.manager.version().await.unwrap();
            property.push(in_microseconds(begin.elapsed()));
        }
        Figures { alive, on_one, on_eight, refusal, property }
    }

    /// Leases so many blocks, and then ends them.
    async fn turn(&self, connections: usize, leases: u32, last: u64, times: &mut [Samples; 2]) {
        let session = self.session().await;
        let calls: Vec<_> = (0..leases).map(|_| call(&session.0, destination(8_080), BLOCK)).collect();
        let meter = Meter::new(self.daemon);
        let answers = self.pipelined(connections, calls.into_iter()).await;
        let used = meter.read();
        let [wall, daemons] = times;
        wall.push(in_microseconds(used.wall) / f64::from(leases));
        daemons.push(in_microseconds(used.processor) / f64::from(leases));
        granted(answers, BLOCK);
        drop(session);
        // The kernel is asked about each port before it is free again.
        let begin = Instant::now();
        while !self.manager.list_leases(last, 1).await.unwrap().is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(120), "leases do not end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn call(session: &OwnedObjectPath, destination: SocketAddr, ports: u32) -> Message {
    let options: HashMap<&str, Variant<'_>> = HashMap::new();
    let body = (session, "egress", "tcp", destination.to_string(), ports, options);
    let call = Message::method_call(MANAGER_PATH, "LeaseBlocks");
    call.interface(MANAGER_INTERFACE).build(&body).unwrap()
}

/// Makes the calls of one connection, so many of them at a time.
async fn answers(connection: Connection, calls: Vec<Message>, at_a_time: usize) -> Vec<Message> {
    let mut stream = MessageStream::from(&connection);
    let mut answers = Vec::with_capacity(calls.len());
    let mut sent = 0;
    while answers.len() < calls.len() {
        while sent < calls.len() && sent - answers.len() < at_a_time {
            connection.send(&calls[sent]).await.unwrap();
            sent += 1;
        }
        let message = stream.next().await.expect("the daemon lives").unwrap();
        if matches!(message.message_type(), Type::MethodReturn | Type::Error) {
            answers.push(message);
        }
    }
    answers
}

/// Each answer has as many ports as were asked for, and no port is in two for one destination where that can be told:
/// the highest number of a lease.
fn granted(answers: Vec<Message>, ports: u32) -> u64 {
    let (mut highest, mut blocks) = (0, HashSet::new());
    let one_destination = ports != SMALL;
    for answer in answers {
        assert_eq!(answer.message_type(), Type::MethodReturn, "{:?}", answer.body());
        let (lease, ranges): (u64, Vec<(String, u16, u16)>) = answer.body().deserialize().unwrap();
        assert_eq!(ranges.iter().map(|(_, first, last)| u32::from(last - first) + 1).sum::<u32>(), ports);
        for (address, first, last) in ranges {
            let new = (first..=last).all(|port| blocks.insert((address.clone(), port)));
            assert!(new || !one_destination, "{address} {first}-{last} twice");
        }
        highest = highest.max(lease);
    }
    highest
}
