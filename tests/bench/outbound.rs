//! What outbound connections cost with the broker, each figure beside what it is measured against and beside its
//! target, and how much of them there can be.
//!
//! Both sides of a figure are measured in the same run, in turns, in a network namespace of their own. A slow machine
//! is no fault: it ends with 0 whatever was reached, and fails only where something is wrong: a connection that fails,
//! a source that is used twice at a time.

#![cfg(test)]

#[path = "load/allocate.rs"]
mod allocate;
#[path = "load/churn.rs"]
mod churn;
#[path = "load/connect.rs"]
mod connect;
#[path = "load/crew.rs"]
mod crew;
#[path = "load/ground.rs"]
mod ground;
#[path = "load/lease.rs"]
mod lease;
mod lease_calls;
mod ledger;
#[path = "load/many.rs"]
mod many;
#[expect(dead_code, reason = "nothing takes milliseconds here")]
mod measure;
#[path = "load/one_address.rs"]
mod one_address;
#[expect(dead_code, reason = "nothing of it but listeners")]
mod place;
#[path = "load/restarts.rs"]
mod restarts;
mod scrape;
#[path = "load/way.rs"]
mod way;

#[path = "../support/daemon.rs"]
#[expect(dead_code, reason = "nothing is tested here")]
mod daemon;
#[path = "../support/netns.rs"]
#[expect(dead_code, reason = "nobody is robbed here")]
mod netns;
#[path = "../support/supervisor.rs"]
#[expect(dead_code, reason = "nothing is asked of the command line")]
mod supervisor;

use measure::Table;
use place::in_role;

/// What can be measured: the name that the command line has for it, what it is, and how.
type Figure = (&'static str, &'static str, fn(&Options) -> Vec<Table>);

const FIGURES: [Figure; 10] = [
    ("ledger", "the ledger alone: a lease, a refusal, memory", |_| ledger::measure()),
    ("calls", "the calls alone", |_| lease_calls::measure()),
    ("allocate", "the choice of a leased port, over bare system calls", |_| allocate::measure()),
    ("connect", "a connection, the fuller the source address is; 2 minutes", |_| connect::measure()),
    ("one-address", "64,512 connections from one address", |_| one_address::measure()),
    ("many", "very many connections over 16 addresses (--connections)", |o| many::measure(o.connections)),
    ("churn", "16 processes, one destination, 90 % in use; 3 minutes", |_| churn::measure()),
    ("restarts", "200 restarts with 50,000 leases alive that change all the time; 3 minutes", |_| {
        restarts::measure()
    }),
    ("scrape", "the metrics, with 1,000 listeners and 100,000 leases", |_| scrape::measure()),
    ("lease", "leases a second, refusals, with 10 and 100,000 leases alive", |_| lease::measure()),
];

struct Options {
    connections: u32,
}

fn main() {
    match place::role().as_deref() {
        None => {}
        Some(crew::WORKER) => return crew::work(),
        Some(churn::server::SERVER) => return churn::server::serve(),
        Some(restarts::LESSEE) => return restarts::live(),
        Some(unknown) => panic!("no role {unknown:?}"),
    }
    let mut options = Options { connections: 100_000 };
    let mut chosen = Vec::new();
    // "--bench" is cargo's.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--help" => return help(),
            "--connections" => {
                let count = arguments.next().and_then(|count| count.parse().ok());
                options.connections = count.expect("--connections takes a number");
            }
            name => {
                let figure = FIGURES.iter().find(|(known, ..)| *known == name);
                chosen.push(figure.unwrap_or_else(|| panic!("no figure {name:?}: see --help")));
            }
        }
    }
    if chosen.is_empty() {
        chosen.extend(&FIGURES);
    }
    println!("{}", measure::machine());
    for (_, _, figure) in chosen {
        for table in figure(&options) {
            print!("{table}");
        }
    }
}

fn help() {
    println!("outbound [--connections N] [FIGURE…]: all of them, unless some are named\n");
    for (name, what, _) in FIGURES {
        println!("  {name:<14}{what}");
    }
    println!(
        "\n  --connections N   for many: a multiple of 16, at most 1,000,000, which takes 6 GB; default 100,000"
    );
}
