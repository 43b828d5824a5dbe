//! The figure: the daemon of a booted system is killed again and again while clients connect without pause, and nobody
//! notices.
//!
//! `tests/support/kills.py` is the load and says what is counted. `PORTBROKER_KILLS` is how many kills there are, 100 by
//! default; `BINDIR` is where other programs are than this build's, such as `target/release`; with `LAB_ROOT` it is
//! another systemd that starts the daemon again.

#![cfg(test)]

use portbroker_lab::{Lab, prepare};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

const CONFIGURATION: &str = "/etc/portbroker/portbroker.toml";
const LISTENERS: u64 = 1000;
/// What must not be seen once.
const FAULTS: [&str; 8] =
    ["refused", "unanswered", "lost", "accepted", "stolen", "strange", "moved", "failed"];
/// What must have been seen, or the figure says nothing.
const SEEN: [&str; 6] = ["before_ready", "during_acquire", "during_reload", "answered", "kept-out", "tried"];

fn booted(name: &str) -> Lab {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let load = include_str!("support/kills.py");
    let listeners = Command::new("python3")
        .args(["-c", load, "configuration", &LISTENERS.to_string()])
        .output()
        .expect("python3");
    let listeners = String::from_utf8(listeners.stdout).unwrap();
    assert!(listeners.contains("[[listener]]"), "{listeners}");
    let built = std::env::var_os("BINDIR").map(|directory| root.join(directory).join("portbroker"));
    let program = built.unwrap_or_else(|| env!("CARGO_BIN_EXE_portbroker").into());
    prepare(name).install(root, &program).file("/opt/kills.py", load).file(CONFIGURATION, &listeners).boot()
}

/// One at a time: each takes all of the machine.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wanted(default: u64) -> u64 {
    match std::env::var("PORTBROKER_KILLS") {
        Ok(text) => text.parse().expect("PORTBROKER_KILLS is a number"),
        Err(_) => default,
    }
}

/// The counts of a run of so many kills, and of something that is done meanwhile, again and again.
fn kill(lab: &Lab, kills: u64, mut meanwhile: impl FnMut()) -> Value {
    let count = kills.to_string();
    let arguments = ["run", "--parent", "1", "--config", CONFIGURATION, "--kills", &count];
    let mut load = lab
        .command(["python3", "/opt/kills.py"].into_iter().chain(arguments))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nsenter");
    let ended = loop {
        if let Some(status) = load.try_wait().expect("the load") {
            break status;
        }
        meanwhile();
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    let output = load.wait_with_output().expect("the load");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}{errors}");
    let result: Value =
        text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    assert!(ended.success(), "the load found faults, or failed: {ended}");
    result
}

/// What is said of a run, and what has to be true of each.
fn judge(lab: &Lab, kills: u64, result: &Value) {
    let of = |what: &str| result[what].as_u64().unwrap_or_else(|| panic!("{what} was not counted"));
    println!(
        "systemd {}: {} kills ({} before READY, {} inside AcquireListeners, {} inside reload) in {} s: {} clients \
         answered, {} refused, {} unanswered; the longest without an answer from the daemon was {} ms, from a service \
         {} ms",
        lab.systemd(),
        of("kills"),
        of("before_ready"),
        of("during_acquire"),
        of("during_reload"),
        result["seconds"],
        of("answered"),
        of("refused"),
        of("unanswered"),
        of("longest_without_answer_ms"),
        of("slowest_ms"),
    );
    assert!(of("kills") >= kills);
    assert_eq!(FAULTS.map(of), [0; FAULTS.len()], "{FAULTS:?}");
    for what in SEEN {
        assert_ne!(of(what), 0, "{what}");
    }
    assert_eq!(of("waited"), LISTENERS / 3, "who waited all the time was answered");
    assert_eq!(
        (&result["status"]["state"], &result["status"]["faults"]),
        (&"running".into(), &Value::Array(vec![]))
    );

    // Not once was one of them missing in the store, nor a new one put in its place.
    let journal = lab.ok("journalctl -u portbroker -o cat");
    let takeovers = journal.lines().filter(|line| line.contains("stored sockets over, with")).count();
    assert!(takeovers > 0, "{journal}");
    let missing = |line: &&str| {
        let of_all = line.split(['h', 'q', 'r']).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        of_all
            && (line.contains("is not among what was stored")
                || line.contains("a new socket is in its place"))
    };
    assert_eq!(journal.lines().find(missing), None);
    let errors = lab.ok("journalctl -u portbroker -t portbrokerd -p err -o cat");
    assert_eq!(errors, "");
}

#[test]
fn nobody_notices_that_the_daemon_is_killed_again_and_again() {
    let _alone = alone();
    let lab = booted("figure");
    let kills = wanted(100);
    let result = kill(&lab, kills, || {});
    judge(&lab, kills, &result);
}

#[test]
fn nor_while_systemd_executes_itself_anew_and_reloads() {
    let _alone = alone();
    let lab = booted("reexec");
    let (mut times, kills) = (0, wanted(100) / 5);
    let result = kill(&lab, kills, || {
        times += 1;
        let what = if times % 3 == 0 { "daemon-reload" } else { "daemon-reexec" };
        // Its answer may be lost on the way.
        let _ = lab.sh(&format!("systemctl {what}"));
        std::thread::sleep(std::time::Duration::from_millis(700));
    });
    println!("systemd executed itself anew, or reloaded, {times} times");
    assert!(times >= 3);
    judge(&lab, kills, &result);
}
