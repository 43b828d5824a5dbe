//! Loads of outbound connections, as `tests/bench/outbound` measures them, short: how many there can be at once, and
//! that no source is used twice at a time. Nothing is asserted of how long anything takes.

#![cfg(test)]

#[path = "bench/load/churn.rs"]
#[expect(dead_code, reason = "figures are for the bench")]
mod churn;
#[path = "bench/load/connect.rs"]
#[expect(dead_code, reason = "figures are for the bench")]
mod connect;
#[path = "bench/load/crew.rs"]
mod crew;
#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "it is only leased from")]
mod daemon;
#[path = "bench/load/ground.rs"]
mod ground;
#[path = "bench/load/lease.rs"]
#[expect(dead_code, reason = "figures are for the bench")]
mod lease;
#[path = "bench/load/many.rs"]
#[expect(dead_code, reason = "figures are for the bench")]
mod many;
#[path = "bench/measure.rs"]
#[expect(dead_code, reason = "figures are for the bench")]
mod measure;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "nobody is robbed here")]
mod netns;
#[path = "bench/load/one_address.rs"]
#[expect(dead_code, reason = "figures are for the bench")]
mod one_address;
#[path = "bench/place.rs"]
#[expect(dead_code, reason = "figures are for the bench")]
mod place;
#[path = "bench/load/way.rs"]
mod way;

use churn::observer::{Agreed, Look, Open, Seen, compare};
use churn::record::{self, Record, check};
use netns::in_netns;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

/// A process of a load: this program again.
fn in_role(role: &str) -> Command {
    let mut command = place::in_role(role);
    command.args(["--ignored", "--exact", "role"]);
    command
}

#[test]
#[ignore = "no test: what the processes of the others do"]
fn role() {
    match place::role().as_deref() {
        Some(crew::WORKER) => crew::work(),
        Some(churn::server::SERVER) => churn::server::serve(),
        other => panic!("no role {other:?}: the other tests start this one"),
    }
}

#[test]
fn one_address_has_all_its_ports_for_one_destination() {
    assert_eq!(in_netns(one_address::run), one_address::ALL);
}

#[test]
fn a_hundred_thousand_connections_to_one_destination_take_little_of_the_daemon() {
    let outcome = in_netns(|| many::run(100_000));
    assert_eq!(outcome.connections, 100_000);
    assert!(outcome.memory <= many::MEGABYTES, "{outcome:?}");
}

#[test]
fn no_source_is_used_twice_at_a_time_while_connections_come_and_go() {
    let size = churn::Size { turns: 1, turn: Duration::from_secs(8) };
    let outcome = in_netns(|| churn::run(size));
    println!("{outcome:?}");
}

#[test]
fn connections_are_made_and_closed_at_any_level() {
    let size =
        connect::Size { levels: &[1, 49, 60, 99], kernels_most: 60, turns: 1, calls: 100, kernels_calls: 20 };
    assert_eq!(in_netns(|| connect::run(size)).len(), 4);
}

#[test]
fn leases_are_pipelined_and_refused_with_few_alive_and_with_many() {
    let size = lease::Size { many: 2_000, turns: 1, leases: 500, refusals: 50 };
    let [few, many] = in_netns(|| lease::run(size));
    assert_eq!((few.alive, many.alive), (10, 2_000));
}

/// What a client wrote down.
fn record(cookie: u64, port: u16, begin: u64, end: u64) -> Record {
    Record { cookie, address: Ipv4Addr::LOCALHOST, port, begin, end, closed: end }
}

#[test]
fn one_after_the_other_is_well() {
    assert_eq!(check(&mut [record(1, 7, 20, 30), record(2, 7, 10, 20), record(3, 8, 15, 25)]), Ok(()));
}

#[test]
fn two_at_a_time_are_found() {
    let mut records = [record(1, 7, 10, 20), record(2, 8, 0, 99), record(3, 7, 19, 30)];
    assert!(check(&mut records).unwrap_err().starts_with("one source for two"));
    assert!(check(&mut [record(1, 7, 10, 20), record(1, 8, 10, 20)]).is_err());
}

#[test]
fn records_come_back_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records");
    let records = [record(u64::MAX, u16::MAX, 1, u64::MAX), Record::default()];
    record::write(&path, &records);
    assert_eq!(record::read(&path), records);
}

/// What the kernel showed.
fn look(begin: u64, end: u64, cookie: u64) -> Look {
    Look { begin, end, open: vec![Open { cookie, address: Ipv4Addr::LOCALHOST, port: 7 }] }
}

fn compared(looks: Vec<Look>, destroyed: &[(u64, u64)]) -> Result<Agreed, String> {
    let records = [record(1, 7, 10, 20), record(2, 7, 30, 60)];
    compare(&records, &Seen { looks, destroyed: destroyed.iter().copied().collect(), overflows: 0 })
}

#[test]
fn what_both_say_is_agreed() {
    let agreed = compared(vec![look(12, 14, 1), look(25, 32, 2)], &[(1, 21), (2, 60), (9, 1)]);
    assert_eq!(agreed, Ok(Agreed { shown: 2, ended: 2 }));
}

#[test]
fn what_the_kernel_knows_better_is_found() {
    // Nobody's, closed before, beside another, gone before its time.
    assert!(compared(vec![look(12, 14, 3)], &[]).is_err());
    assert!(compared(vec![look(21, 22, 1)], &[]).is_err());
    let records = [record(1, 7, 10, 50), record(2, 7, 30, 60)];
    let seen = Seen { looks: vec![look(35, 40, 1)], ..Seen::default() };
    assert!(compare(&records, &seen).unwrap_err().contains("open while"));
    assert!(compared(Vec::new(), &[(1, 19)]).is_err());
}
