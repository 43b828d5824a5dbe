//! The figure: kills at random instants, with a thousand listeners, while clients connect without pause.
//!
//! `tests/support/kills.py` is the load, as on a booted systemd (`tests/kills.rs`). `PORTBROKER_KILLS` is how many kills
//! there are, 100 by default; `BINDIR` is where other programs are than this build's, such as `target/release`.

use crate::daemon::Daemon;
use crate::netns::{in_netns, spawn};
use serde_json::Value;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/kills.py");
const LISTENERS: u32 = 1000;

fn program(name: &str) -> PathBuf {
    let built = std::env::var_os("BINDIR");
    let built = built.map(|directory| Path::new(env!("CARGO_MANIFEST_DIR")).join(directory));
    let debug = || Path::new(env!("CARGO_BIN_EXE_portbroker")).parent().unwrap().to_owned();
    built.unwrap_or_else(debug).join(name)
}

fn kills() -> u64 {
    std::env::var("PORTBROKER_KILLS")
        .map_or(100, |kills| kills.parse().expect("PORTBROKER_KILLS is a number"))
}

#[test]
fn kills_at_random_instants_are_seen_by_no_client() {
    let configuration =
        Command::new("python3").args([PROGRAM, "configuration", &LISTENERS.to_string()]).output();
    let configuration = String::from_utf8(configuration.unwrap().stdout).unwrap();
    let text = in_netns(|| {
        let keeper = Daemon::start_with(&configuration, |command| {
            let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
            *command = Command::new(program("portbrokerd"));
            command.args(arguments).args(["--no-bus", "--keeper"]).env_remove("NOTIFY_SOCKET");
        });
        let mut command = Command::new("python3");
        command
            .args([PROGRAM, "run", "--parent", &keeper.pid().to_string()])
            .arg("--config")
            .arg(keeper.config());
        command.args(["--kills", &kills().to_string(), "--listeners", &LISTENERS.to_string()]);
        command.env("PORTBROKER", program("portbroker")).env("PORTBROKER_SOCKET", keeper.socket());
        let mut program = spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()));
        let mut text = String::new();
        program.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(program.wait().unwrap().success(), "{text}");
        text
    });
    println!("{text}");
    let result: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let number = |key: &str| result[key].as_u64().unwrap_or_default();
    for key in ["refused", "unanswered", "lost", "accepted", "stolen", "strange", "moved", "failed"] {
        assert_eq!(result[key], 0, "{key}");
    }
    assert!(number("kills") >= kills());
    assert_eq!(number("waited"), u64::from(LISTENERS / 3));
    for key in ["before_ready", "during_acquire", "during_reload", "answered", "queued", "kept-out", "tried"]
    {
        assert!(number(key) > 0, "{key}: nothing was tried");
    }
    assert_eq!(result["status"]["faults"], serde_json::json!([]));
    println!(
        "{} kills: 0 refused, 0 unanswered of {}; at most {} ms without an answer from the daemon",
        number("kills"),
        number("answered"),
        number("longest_without_answer_ms")
    );
}
