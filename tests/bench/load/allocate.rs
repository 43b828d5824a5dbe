//! What the choice of a leased port costs, over the bare system calls that take it into use.

use crate::daemon::Daemon;
use crate::ground::{destination, listen, pool, prepare, source};
use crate::measure::{Samples, Table, Target, in_microseconds, row};
use crate::netns::in_netns;
use crate::place::on_one_cpu;
use crate::way::{Held, Lender, Missed, Opener, Way, connect};
use socket2::{Domain, SockAddr, Socket, Type};
use std::net::SocketAddr;
use std::time::Instant;

/// The sides take turns of so many calls, each of which gives a median.
const CALLS: u32 = 50;
const TURNS: u32 = 150;
/// The first turns only warm up.
const WARM_UP: u32 = 10;
const PORT: u16 = 8_080;

/// The most that the choice should take.
const MICROSECONDS: f64 = 1.0;

pub(crate) fn measure() -> Vec<Table> {
    in_netns(|| {
        prepare((60_000, 60_999), 1);
        on_one_cpu(|| vec![tcp(), udp(), used()])
    })
}

/// The medians of turns, and how much more ours is in each pair of turns.
#[derive(Default)]
struct Compared {
    ours: Samples,
    bare: Samples,
    more: Samples,
}

fn in_turns(mut ours: impl FnMut(), mut bare: impl FnMut()) -> Compared {
    let mut compared = Compared::default();
    for turn in 0..WARM_UP + TURNS {
        // Whoever is first has what the other left behind: in turns, too.
        let (of_ours, of_bare) = if turn % 2 == 0 {
            let of_ours = timed(&mut ours);
            (of_ours, timed(&mut bare))
        } else {
            let of_bare = timed(&mut bare);
            (timed(&mut ours), of_bare)
        };
        if turn >= WARM_UP {
            compared.ours.push(of_ours);
            compared.bare.push(of_bare);
            compared.more.push(of_ours - of_bare);
        }
    }
    compared
}

/// The median of the calls of a turn: whoever is interrupted in one of them tells nothing of the others.
fn timed(work: &mut impl FnMut()) -> f64 {
    let mut calls = Samples::new();
    for _ in 0..CALLS {
        let begin = Instant::now();
        work();
        calls.push(in_microseconds(begin.elapsed()));
    }
    calls.median()
}

fn table(title: &str, calls: &str, compared: Compared) -> Table {
    Table {
        title: format!("{title}, {TURNS} turns of {CALLS} calls each, on one CPU"),
        unit: "µs",
        ours: row("more than the bare system calls, turn by turn", compared.more),
        target: Target { limit: MICROSECONDS, says: format!("at most {MICROSECONDS} µs") },
        others: vec![row("by Connector, in all", compared.ours), row(calls, compared.bare)],
    }
}

fn opened(opener: &mut Opener) -> Held {
    opener.open().unwrap_or_else(|missed| match missed {
        Missed::Exhausted => panic!("the pool is exhausted"),
        Missed::Failed(error) => panic!("{error}"),
    })
}

/// Ports beside the pool's, a block at a time further on, as the connector takes them of several blocks in turns: next to
/// each other they would be quicker in the kernel.
fn own_sources() -> impl Iterator<Item = SocketAddr> {
    let ports = (0..64).flat_map(|n| (0..312).map(move |block| 40_000 + 64 * block + n));
    ports.map(|port| SocketAddr::from((source(0), port)))
}

/// Ports that were never used, as each is that a process comes to first.
fn tcp() -> Table {
    let (daemon, _server) = ground();
    let mut connector = Opener::new(&of(&daemon), destination(PORT));
    let mut own = own_sources();
    let mut held = Vec::new();
    let mut of_own = Vec::new();
    let compared = in_turns(
        || held.push(opened(&mut connector)),
        || of_own.push(connect(own.next(), destination(PORT)).unwrap()),
    );
    held.iter().for_each(Held::reset_at_close);
    table("the choice of a TCP port that was never used", "socket, setsockopt, bind, connect", compared)
}

/// The same without the handshake of TCP, which takes much longer than all else.
fn udp() -> Table {
    let daemon = daemon();
    let connector = portbroker_client::Connector::new("egress").socket_path(daemon.socket());
    let mut own = own_sources();
    let mut held = Vec::new();
    let mut of_own = Vec::new();
    let compared = in_turns(
        || held.push(connector.connect_udp_blocking(destination(PORT)).unwrap()),
        || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.bind(&SockAddr::from(own.next().unwrap())).unwrap();
            socket.connect(&SockAddr::from(destination(PORT))).unwrap();
            of_own.push(socket);
        },
    );
    table("the choice of a UDP port", "socket, bind, connect", compared)
}

/// Ports that were closed a moment ago: the kernel is asked what is on each. No target of its own.
fn used() -> Table {
    let (daemon, _server) = ground();
    let mut connector = Opener::new(&of(&daemon), destination(PORT));
    let mut own = Opener::new(&Way::Own(source(0), 40_000, 41_023), destination(PORT));
    let again = |opener: &mut Opener| {
        let held = opened(opener);
        held.reset_at_close();
        opener.close(held);
    };
    let compared = in_turns(|| again(&mut connector), || again(&mut own));
    let mut table = table(
        "the choice of a port that was used, with its look-up, opened and closed",
        "socket, setsockopt, bind, connect, close",
        compared,
    );
    "no target, for comparison".clone_into(&mut table.target.says);
    table.target.limit = f64::INFINITY;
    table
}

fn ground() -> (Daemon, Socket) {
    let daemon = daemon();
    (daemon, listen(destination(PORT)))
}

fn daemon() -> Daemon {
    Daemon::start(&pool("egress", 1, "10000-29999"))
}

fn of(daemon: &Daemon) -> Way {
    Way::Connector(Lender { socket: daemon.socket(), pool: "egress".to_owned() })
}
