//! How quick the broker is, each figure beside what it is measured against and beside its target.
//!
//! Both sides of a figure are measured in the same run, in turns, in a network namespace of their own. A slow
//! machine is no fault: it ends with 0 whatever was reached, and fails only where something cannot be measured.

#![cfg(test)]

mod acquire;
mod activate;
mod exec;
mod generator;
mod idle;
mod learn;
#[expect(dead_code, reason = "the figures of outbound connections use the rest")]
mod measure;
mod memory;
mod place;
mod ready;
mod takeover;

#[path = "../support/bus.rs"]
mod bus;
#[path = "../support/daemon.rs"]
#[expect(dead_code, reason = "nothing is tested here")]
mod daemon;
#[path = "../support/netns.rs"]
#[expect(dead_code, reason = "nobody is robbed here")]
mod netns;

use measure::Table;

/// What can be measured: the name that the command line has for it, and how.
type Figure = (&'static str, fn() -> Table);

const FIGURES: [Figure; 11] = [
    ("acquire", acquire::measure),
    ("exec", exec::measure),
    ("ready", ready::measure),
    ("takeover", takeover::measure),
    ("list", takeover::measure_list),
    ("memory", memory::measure),
    ("memory-of-many", memory::measure_many),
    ("generator", generator::measure),
    ("learn", learn::measure),
    ("idle", idle::measure),
    ("activate", activate::measure),
];

fn main() {
    match place::role().as_deref() {
        None => {}
        Some(acquire::GIVER) => return acquire::give(),
        Some(ready::BARE) => return ready::bare(),
        Some(unknown) => panic!("no role {unknown:?}"),
    }
    // "--bench" is cargo's.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let (options, names): (Vec<_>, Vec<_>) = arguments.iter().partition(|argument| argument.starts_with('-'));
    assert!(options.iter().all(|option| *option == "--idle"), "no option but --idle: {options:?}");
    for name in &names {
        assert!(FIGURES.iter().any(|(known, _)| known == name), "no figure {name:?}");
    }
    netns::in_netns(|| {
        println!("{}", measure::machine());
        for (name, figure) in FIGURES {
            if names.is_empty() || names.iter().any(|wanted| *wanted == name) {
                let traced = name == "idle" && !options.is_empty();
                print!("{}", if traced { idle::trace() } else { figure() });
            }
        }
    });
}
