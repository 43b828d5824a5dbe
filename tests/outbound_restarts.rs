//! Restarts with leases, as `tests/bench/outbound restarts` measures them, few and short. Nothing is asserted of how
//! long anything takes.

#![cfg(test)]

#[path = "bench/measure.rs"]
#[expect(dead_code, reason = "figures are for the bench")]
mod measure;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "nobody is robbed here")]
mod netns;
#[path = "bench/place.rs"]
#[expect(dead_code, reason = "figures are for the bench")]
mod place;
#[path = "bench/load/restarts.rs"]
#[expect(dead_code, reason = "figures are for the bench")]
mod restarts;
#[path = "support/supervisor.rs"]
#[expect(dead_code, reason = "nothing is asked of the command line")]
mod supervisor;

use netns::in_netns;
use restarts::{Record, Size, check};
use std::process::Command;

/// A process of the load: this program again.
fn in_role(role: &str) -> Command {
    let mut command = place::in_role(role);
    command.args(["--ignored", "--exact", "--nocapture", "role"]);
    command
}

#[test]
#[ignore = "no test: what the processes of the others do"]
fn role() {
    assert_eq!(place::role().as_deref(), Some(restarts::LESSEE), "the other tests start this one");
    restarts::live();
}

#[test]
fn restarts_lose_no_lease_and_give_none_out_twice() {
    let size = Size {
        processes: 20,
        sessions_of_each: 5,
        leases_of_a_session: 25,
        restarts: 30,
        compared_after: 10,
    };
    let outcome = in_netns(|| restarts::run(size));
    println!("{outcome:?}");
    assert_eq!(outcome.kills + outcome.ends, 30);
}

fn record(port: u16, begin: u64, end: u64) -> Record {
    Record { udp: false, port, begin, end, lease: begin, session: 1 }
}

#[test]
fn one_after_the_other_is_well() {
    assert_eq!(check(&mut [record(7, 20, u64::MAX), record(7, 10, 20), record(8, 15, 25)]), Ok(()));
    let text = record(7, 20, u64::MAX).to_string();
    assert_eq!(text.parse(), Ok(record(7, 20, u64::MAX)));
}

#[test]
fn two_at_a_time_are_found() {
    assert!(check(&mut [record(7, 19, 30), record(8, 0, 99), record(7, 10, 20)]).is_err());
    assert!(check(&mut [record(7, 19, 30), record(7, 10, u64::MAX)]).is_err());
}
