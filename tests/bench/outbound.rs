//! How quick leases are, and what they keep in memory, each figure beside what it is measured against and beside
//! its target.
//!
//! A slow machine is no fault: it ends with 0 whatever was reached, and fails only where something cannot be
//! measured.

#![cfg(test)]

#[path = "../support/daemon.rs"]
#[expect(dead_code, reason = "tests use the rest")]
mod daemon;
mod lease_calls;
mod ledger;
#[expect(dead_code, reason = "other benches use the rest")]
mod measure;
#[path = "../support/netns.rs"]
#[expect(dead_code, reason = "tests use the rest")]
mod netns;

use measure::Table;

/// What can be measured: the name that the command line has for it, and how.
type Figure = (&'static str, fn() -> Vec<Table>);

const FIGURES: [Figure; 2] = [("ledger", ledger::measure), ("calls", lease_calls::measure)];

fn main() {
    // "--bench" is cargo's.
    let names: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    for name in &names {
        assert!(FIGURES.iter().any(|(known, _)| known == name), "no figure {name:?}");
    }
    for (name, figure) in FIGURES {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            figure().iter().for_each(|table| print!("{table}"));
        }
    }
}
