//! What looks at the whole host: each figure beside one bare pass that reads every link of /proc/*/fd.
//!
//! Both sides of a figure are measured in the same run, in turns, beside 50,000 sockets in a network namespace of their
//! own. A slow machine is no fault: it ends with 0 whatever was reached, and fails only where something cannot be
//! measured.

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "the crowd that is looked at binds as services do")]

mod crowd;
mod doctor;
#[expect(dead_code, reason = "the figures of the daemon use the rest")]
mod measure;
#[expect(dead_code, reason = "nothing is pinned to a CPU here")]
mod place;
mod who;

#[path = "../support/netns.rs"]
#[expect(dead_code, reason = "nobody is robbed here")]
mod netns;

use measure::Table;

/// What can be measured: the name that the command line has for it, and how.
type Figure = (&'static str, fn() -> Table);

const FIGURES: [Figure; 3] =
    [("who", who::measure), ("who-busy", who::measure_busy), ("doctor", doctor::measure)];

fn main() {
    match place::role().as_deref() {
        None => {}
        Some(crowd::MEMBER) => return crowd::be_one(),
        Some(unknown) => panic!("no role {unknown:?}"),
    }
    // "--bench" is cargo's.
    let names: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    for name in &names {
        assert!(FIGURES.iter().any(|(known, _)| known == name), "no figure {name:?}");
    }
    netns::in_netns(|| {
        println!("{}", measure::machine());
        let _crowd = crowd::Crowd::gather();
        for (name, figure) in FIGURES {
            if names.is_empty() || names.iter().any(|wanted| wanted == name) {
                print!("{}", figure());
            }
        }
    });
}
