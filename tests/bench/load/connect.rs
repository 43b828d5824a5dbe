//! What a connection costs, the fuller one source address is for its destination: by the broker, and by the kernel's
//! own choice.
//!
//! Both sides have as many ports, those of the kernel's default range; both are filled by connections that are open.
//! What costs so much beside them is measured in turns with another destination of which the same source address has
//! one port in a hundred in use, so that whatever else the machine does falls on both.

use crate::crew::{End, Worker};
use crate::daemon::Daemon;
use crate::ground::{destination, listen, pool, prepare};
use crate::measure::{Samples, Table, Target, in_microseconds, row};
use crate::netns::in_netns;
use crate::way::{Lender, Way};
use std::fmt;

/// The kernel's default range.
const KERNELS: (u16, u16) = (32_768, 60_999);
const PORTS: u32 = 28_232;
/// As many.
const ZONE: &str = "2000-30231";
/// Below the ports of the pool, which has none that somebody listens on.
const PORT: u16 = 900;
const REFERENCE: u16 = 901;

/// The most that a connection should cost at the highest level, to one at the lowest.
const TIMES_OF_LOW: f64 = 1.3;
/// The least that the kernel's choice should cost at the level of [`FASTER_AT`], to one by the broker.
const TIMES_FASTER: f64 = 20.0;
const FASTER_AT: u32 = 90;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Shares of the ports that are in use, in per cent, rising.
    pub(crate) levels: &'static [u32],
    /// Up to which of them the kernel's choice is measured too: it takes minutes to fill so much.
    pub(crate) kernels_most: u32,
    /// The sides take so many turns at each level.
    pub(crate) turns: u32,
    pub(crate) calls: u32,
    /// Fewer, where each takes milliseconds.
    pub(crate) kernels_calls: u32,
}

const FULL: Size =
    Size { levels: &[1, 25, 50, 75, 90, 99], kernels_most: 100, turns: 12, calls: 400, kernels_calls: 100 };

/// How long each took, in microseconds, and the means of the turns.
#[derive(Debug, Default)]
pub(crate) struct Times {
    pub(crate) all: Samples,
    pub(crate) means: Samples,
}

impl Times {
    /// Closes and opens so many.
    fn turn(&mut self, worker: &mut Worker, calls: u32) {
        let times = worker.times(calls);
        assert_eq!(times.len(), usize::try_from(calls).unwrap());
        let mut turn = Samples::new();
        for time in times {
            turn.push(in_microseconds(time));
            self.all.push(in_microseconds(time));
        }
        self.means.push(turn.mean());
    }
}

/// The figures at one level.
#[derive(Debug)]
pub(crate) struct Level {
    pub(crate) per_cent: u32,
    pub(crate) ours: Times,
    pub(crate) kernels: Times,
    /// Ours with one in a hundred in use, in the same turns.
    pub(crate) low: Times,
}

pub(crate) fn measure() -> Vec<Table> {
    let levels = in_netns(|| run(FULL));
    print!("{}", Grid(&levels));
    let last = levels.last().unwrap();
    let faster = levels.iter().find(|level| level.per_cent == FASTER_AT).unwrap();
    let low = last.low.means.median() * TIMES_OF_LOW;
    let of_kernel = faster.kernels.means.median() / TIMES_FASTER;
    let turns = format!("{} turns, a mean each", FULL.turns);
    vec![
        Table {
            title: format!("a connection with {} % of the ports in use, {turns}", last.per_cent),
            unit: "µs",
            ours: row("by Connector", last.ours.means.clone()),
            target: Target { limit: low, says: format!("at most {TIMES_OF_LOW} x 1 % = {low:.1} µs") },
            others: vec![
                row("by Connector, 1 % in use for another destination", last.low.means.clone()),
                row("by the kernel's choice", last.kernels.means.clone()),
            ],
        },
        Table {
            title: format!("a connection with {FASTER_AT} % of the ports in use, {turns}"),
            unit: "µs",
            ours: row("by Connector", faster.ours.means.clone()),
            target: Target {
                limit: of_kernel,
                says: format!("at most a {TIMES_FASTER}th of the kernel's = {of_kernel:.1} µs"),
            },
            others: vec![row("by the kernel's choice", faster.kernels.means.clone())],
        },
    ]
}

/// All levels.
struct Grid<'a>(&'a [Level]);

impl fmt::Display for Grid<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\na connection from one address to one destination, mean and 99 % in µs, {PORTS} ports"
        )?;
        writeln!(
            f,
            "  {:<14}{:>24}{:>24}{:>26}{:>10}",
            "in use", "the kernel's choice", "by Connector", "by Connector at 1 %", "faster"
        )?;
        for Level { per_cent, ours, kernels, low } in self.0 {
            let cell = |times: &Times| format!("{:.1} ({:.1})", times.all.mean(), times.all.quantile(0.99));
            writeln!(
                f,
                "  {:<14}{:>24}{:>24}{:>26}{:>8.1} x",
                format!("{per_cent} %"),
                cell(kernels),
                cell(ours),
                cell(low),
                kernels.all.mean() / ours.all.mean()
            )?;
        }
        Ok(())
    }
}

/// Panics where a connection fails.
pub(crate) fn run(size: Size) -> Vec<Level> {
    prepare(KERNELS, 1);
    let _listening = [PORT, REFERENCE].map(|port| listen(destination(port)));
    let daemon = Daemon::start(&pool("egress", 1, ZONE));
    let lender = Lender { socket: daemon.socket(), pool: "egress".to_owned() };
    let start = |way: &Way, port| Worker::start(way, destination(port));
    let connector = Way::Connector(lender.clone());
    // Two processes a side: one cannot hold so many. One of each is measured, the other only fills.
    let mut ours = [start(&connector, PORT), start(&Way::Leased(lender, PORTS / 2), PORT)];
    let mut kernels = [start(&Way::Kernel, PORT), start(&Way::Kernel, PORT)];
    let mut low = start(&connector, REFERENCE);
    open(std::slice::from_mut(&mut low), PORTS / 100);
    let mut filled = 0;
    let mut levels = Vec::new();
    for per_cent in size.levels.iter().copied() {
        let each = PORTS * per_cent / 100 / 2;
        open(&mut ours, each - filled);
        let by_kernel = per_cent <= size.kernels_most;
        if by_kernel {
            open(&mut kernels, each - filled);
        }
        filled = each;
        let [mut of_ours, mut of_kernels, mut of_low]: [Times; 3] = Default::default();
        let [connector, _] = &mut ours;
        let [kernel, _] = &mut kernels;
        // What was filled in order is closed and opened at random from here on.
        Times::default().turn(connector, size.calls);
        if by_kernel {
            Times::default().turn(kernel, size.kernels_calls);
        }
        for _ in 0..size.turns {
            of_ours.turn(connector, size.calls);
            of_low.turn(&mut low, size.calls);
            if by_kernel {
                of_kernels.turn(kernel, size.kernels_calls);
            }
        }
        levels.push(Level { per_cent, ours: of_ours, kernels: of_kernels, low: of_low });
    }
    levels
}

/// Each opens so many more, at the same time.
fn open(workers: &mut [Worker], each: u32) {
    workers.iter_mut().for_each(|worker| worker.tell_open(each));
    for worker in workers {
        let opened = worker.hear_opened();
        assert_eq!((opened.end, opened.count), (End::Done, each));
    }
}
