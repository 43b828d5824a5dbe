//! Very many connections to one destination over sixteen source addresses, by many processes: none fails, and the
//! daemon has little to do with it.

use crate::crew::{Filled, Worker, fill, most};
use crate::daemon::Daemon;
use crate::ground::{Meter, Used, destination, listen, megabytes, pool, prepare};
use crate::measure::{Samples, Table, Target, row};
use crate::netns::in_netns;
use crate::way::{Lender, Way};

const SOURCES: u8 = 16;
/// Below the ports of the pool, which has none that somebody listens on.
const PORT: u16 = 900;
/// The most ports that an address has, where the kernel is left with those below.
const PORTS: u32 = 62_500;

/// The most that the daemon should have of memory, in megabytes, and of the processors, in per cent.
pub(crate) const MEGABYTES: f64 = 32.0;
const PER_CENT: f64 = 2.0;

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) connections: u32,
    pub(crate) processes: u32,
    /// The daemon's, while the connections were made.
    pub(crate) used: Used,
    /// The daemon's, at most, in megabytes.
    pub(crate) memory: f64,
    /// The daemon's, before the first connection.
    pub(crate) memory_before: f64,
}

pub(crate) fn measure(connections: u32) -> Vec<Table> {
    let Outcome { connections, processes, used, memory, memory_before } = in_netns(|| run(connections));
    let rate = f64::from(connections) / used.wall.as_secs_f64();
    let title = format!(
        "{connections} connections to one destination over {SOURCES} addresses, none failed: {processes} processes, \
         {:.1} s, {rate:.0} a second",
        used.wall.as_secs_f64()
    );
    vec![
        Table {
            title: title.clone(),
            unit: "MB",
            ours: row("VmHWM of the daemon: the most that was resident", Samples::from(memory)),
            target: Target { limit: MEGABYTES, says: format!("at most {MEGABYTES} MB") },
            others: vec![row("VmRSS before the first connection", Samples::from(memory_before))],
        },
        Table {
            title,
            unit: "%",
            ours: row("the daemon's time, user and system, of all processors", used.of_all().into()),
            target: Target { limit: PER_CENT, says: format!("at most {PER_CENT} %") },
            others: vec![row("the same of one processor", used.of_one().into())],
        },
    ]
}

/// As many as there are sources: the processes go on until there is nothing left. Panics where a connection fails or
/// one is missing.
pub(crate) fn run(connections: u32) -> Outcome {
    let ports = connections / u32::from(SOURCES);
    assert!(
        ports <= PORTS && ports * u32::from(SOURCES) == connections,
        "{connections} over {SOURCES} sources"
    );
    let first = u32::from(u16::MAX) + 1 - ports;
    prepare((1_024, 3_035), SOURCES);
    let listening = listen(destination(PORT));
    let daemon = Daemon::start(&pool("egress", SOURCES, &format!("{first}-65535")));
    let way = Way::Connector(Lender { socket: daemon.socket(), pool: "egress".to_owned() });
    let processes = processes(connections);
    let mut workers: Vec<_> = (0..processes).map(|_| Worker::start(&way, destination(PORT))).collect();
    let memory_before = megabytes(daemon.pid(), "VmRSS");
    let meter = Meter::new(daemon.pid());
    let filled = fill(&mut workers, most(), 250);
    let used = meter.read();
    let memory = megabytes(daemon.pid(), "VmHWM");
    // Ends all connections at once.
    drop(listening);
    let Filled { connections: made, exhausted, failures } = filled;
    assert_eq!((made, exhausted, failures), (connections, processes, Vec::new()));
    Outcome { connections, processes, used, memory, memory_before }
}

/// So many that none is full before the pool is: they are never quite even.
fn processes(connections: u32) -> u32 {
    (connections / (most() - 1_500) + 1).max(8)
}
