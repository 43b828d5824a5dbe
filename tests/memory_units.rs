//! Callers that flood a daemon which may have little memory, on a booted system: its limits keep it below that, or it is
//! killed and comes back, and nothing is lost.

#![cfg(test)]

#[path = "support/callers.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod callers;
#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/memory.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod memory;

use callers::{Caller, median_and_most};
use memory::MemoryCgroup;
use portbroker_lab::{Lab, prepare};
use serde_json::Value;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const FILE: &str = "/etc/portbroker/portbroker.toml";
const SOCKET: &str = "/run/portbroker/bus";
/// Who misbehaves: so many users from this one on. And who does not.
const BAD: u32 = 61_920;
const GOOD: u32 = 61_919;
/// Over what the daemon has when nobody calls.
const MEMORY: u64 = 32 << 20;
/// What portbroker.toml(5) says of that much.
const LIMITS: &str = "[limits]\nconnections = 256\nconnections-per-user = 20\nunread-bytes = \"4M\"\nunread-bytes-per-user = \"1M\"\n";

/// What the users do, each of them on as many connections as it gets.
static FLOODS: [&[&str]; 12] = [
    &["press", "refused"],
    &["press", "objects"],
    &["press", "acquire"],
    &["press", "long"],
    &["press", "drip-long"],
    &["press", "property"],
    &["press", "names"],
    &["press", "wait"],
    &["flood", "acquire"],
    &["flood", "refused"],
    &["flood", "manager"],
    &["idle"],
];

fn configuration(limits: &str) -> String {
    let users: Vec<String> = (GOOD..BAD + 64).map(|uid| format!("\"user:{uid}\"")).collect();
    let mut text = format!(
        "{limits}[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:5000-5019\"\nallow = [{}]\n\
         [[listener]]\nname = \"private\"\nstream = \"127.0.0.1:4999\"\n",
        users.join(", ")
    );
    for n in 0..500 {
        text += &format!("[[listener]]\nname = \"l{n}\"\nstream = \"127.0.0.1:{}\"\n", 10_000 + n);
    }
    text
}

fn call(lab: &Lab, uid: u32, what: &[&str]) -> Caller {
    Caller::start_by(lab.command(["python3"]), Path::new(SOCKET), uid, what)
}

/// So many users that flood it at one time, with so many connections each.
fn crowd(
    lab: &Lab,
    floods: &'static [&'static [&'static str]],
    users: u32,
    connections: &str,
) -> Vec<Caller> {
    let start = |(uid, flood): (u32, &'static &'static [&'static str])| {
        let what = [*flood, &[connections]].concat();
        move || call(lab, uid, &what)
    };
    std::thread::scope(|scope| {
        let starts = (BAD..BAD + users).zip(floods.iter().cycle()).map(start);
        let started: Vec<_> = starts.map(|start| scope.spawn(start)).collect();
        started.into_iter().map(|caller| caller.join().expect("a caller")).collect()
    })
}

fn inodes(lab: &Lab) -> String {
    lab.ok("portbroker --json list listeners | grep -o '\"inode\":[0-9]*'")
}

fn pid(lab: &Lab) -> String {
    lab.show("portbroker", "MainPID")
}

/// The daemon from now on in a cgroup of its own, as `MemoryMax=` would have it where systemd has the controller.
fn confine(lab: &Lab, name: &str) -> MemoryCgroup {
    let cgroup = MemoryCgroup::new(name);
    cgroup.put(lab.pid_outside(&pid(lab)));
    // What it has already is not counted there.
    cgroup.limit(MEMORY);
    cgroup
}

#[test]
fn limits_keep_the_daemon_within_its_memory_and_without_them_nothing_is_lost_but_the_daemon() {
    let lab = prepare("memory")
        .install(
            Path::new(env!("CARGO_MANIFEST_DIR")),
            &std::env::var_os("BINDIR").map_or_else(
                || env!("CARGO_BIN_EXE_portbroker").into(),
                |d| Path::new(&d).join("portbroker"),
            ),
        )
        .file(FILE, &configuration(LIMITS))
        .boot();
    lab.wait_for("portbroker status", 20);
    let (before, first) = (inodes(&lab), pid(&lab));

    lab.step("limits that fit");
    let cgroup = confine(&lab, "limits");
    let bad = crowd(&lab, &FLOODS, 12, "64");
    let connections: usize = bad.iter().filter_map(|caller| caller.said.first()).sum();
    let begun = Instant::now();
    let (times, errors, sockets) = call(&lab, GOOD, &["measure", "acquire", "100"]).measured();
    assert_eq!((errors, sockets), (0, 100 * 20), "somebody else is handed sockets meanwhile");
    lab.ok("portbroker list listeners");
    // Whoever presses fills everything that there is to fill.
    sleep(Duration::from_secs(5).saturating_sub(begun.elapsed()));
    let status: Value = serde_json::from_str(&lab.ok("portbroker --json status || true")).unwrap();
    let hit: Vec<&str> = status["limits"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|l| l["hits"] != 0)
        .filter_map(|l| l["name"].as_str())
        .collect();
    let (median, slow) = median_and_most(&times);
    println!(
        "12 users flood it over {connections} connections: at most {} kB over what it had, of {} kB; limits that were hit: {}; \
         20 sockets for another meanwhile {median} µs, 99 of 100 below {slow} µs",
        cgroup.most() >> 10,
        MEMORY >> 10,
        hit.join(", ")
    );
    assert!(connections >= 200, "{connections}");
    assert_eq!((cgroup.kills(), pid(&lab)), (0, first.clone()), "it was killed");
    assert!(inodes(&lab) == before);
    drop(bad);
    lab.wait_for("portbroker status", 60);

    lab.step("limits that do not");
    lab.write(FILE, &configuration(""));
    lab.ok("portbroker reload");
    let bad = crowd(&lab, &FLOODS[..4], 16, "128");
    let begun = Instant::now();
    while cgroup.kills() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it was not killed: {} bytes", cgroup.most());
        sleep(Duration::from_millis(50));
    }
    lab.wait_for("portbroker --json status | grep -q '\"state\":\"running\"'", 60);
    assert_ne!(pid(&lab), first);
    assert!(inodes(&lab) == before);
    let (_, errors, sockets) = call(&lab, 0, &["measure", "acquire", "20"]).measured();
    assert_eq!((errors, sockets), (0, 20 * 20));
    drop(bad);
}
