//! The verbs of pools and leases, with the real daemon: `lease`, `list pools|leases`, `show pool`, `release`, `drain`.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;
#[path = "support/served.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod served;

use daemon::{Daemon, read_until, run};
use netns::{NOBODY, in_netns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use served::eventually;
use std::process::{Child, Command, Stdio};

const POOL: &str = "
[[pool]]
name = \"egress\"
addresses = [\"127.0.0.2-127.0.0.3\", \"192.0.2.1\"]
ports = \"20000-20009\"
allow = [\"user:65534\"]
";
const TO: &str = "127.0.0.1:9999";

fn json(daemon: &Daemon, arguments: &[&str]) -> Value {
    let (status, out, errors) = run(&mut daemon.portbroker(&[&["--json"], arguments].concat()));
    assert_eq!(status, 0, "{arguments:?}: {errors}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error} in {out:?}"))
}

fn fails(command: &mut Command, wanted: i32, text: &str) {
    let (status, out, errors) = run(command);
    assert_eq!((status, out.as_str()), (wanted, ""), "{errors}");
    assert!(errors.contains(text) && !errors.contains("panicked"), "{errors:?} has no {text:?}");
}

/// A lease that is held, and what was printed.
fn held(command: &mut Command) -> (Child, Value) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let line = read_until(child.stdout.as_mut().unwrap(), "\n");
    (child, serde_json::from_str(&line).unwrap())
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

fn leases(daemon: &Daemon) -> usize {
    json(daemon, &["list", "leases"]).as_array().unwrap().len()
}

#[test]
fn pairs_and_blocks_are_printed_and_held_until_the_interrupt() {
    in_netns(|| {
        let daemon = Daemon::start(POOL);
        let (mut pairs, line) =
            held(&mut daemon.portbroker(&["lease", "egress", "--to", TO, "--count", "4"]));
        let rows = line["pairs"].as_array().unwrap();
        assert_eq!(rows.len(), 4);
        for address in ["127.0.0.2", "127.0.0.3"] {
            assert_eq!(rows.iter().filter(|row| row["address"] == address).count(), 2, "{line}");
        }
        assert!(rows.iter().all(|row| (20000..=20009).contains(&row["port"].as_u64().unwrap())));
        let (mut blocks, line) = held(&mut daemon.portbroker(&[
            "lease",
            "egress",
            "--to",
            "any",
            "--block",
            "6",
            "--protocol",
            "udp",
        ]));
        let ports = |row: &Value| row["last"].as_u64().unwrap() - row["first"].as_u64().unwrap() + 1;
        assert_eq!(line["blocks"].as_array().unwrap().iter().map(ports).sum::<u64>(), 6, "{line}");

        let listed = json(&daemon, &["list", "leases"]);
        let row =
            |kind: &str| listed.as_array().unwrap().iter().find(|row| row["kind"] == kind).unwrap().clone();
        assert_eq!(row("pairs")["destination"], TO);
        assert_eq!((&row("pairs")["ports"], &row("pairs")["state"]), (&json!(4), &json!("held")));
        assert_eq!((&row("pairs")["owner"], &row("pairs")["pool"]), (&json!("uid 0"), &json!("egress")));
        assert_eq!(row("blocks")["destination"], Value::Null);
        assert_eq!(row("blocks")["protocol"], "udp");
        let (_, text, _) = run(&mut daemon.portbroker(&["list", "leases"]));
        assert!(text.starts_with("LEASE") && text.contains(TO) && text.contains("any"), "{text}");

        send(&pairs, Signal::SIGINT);
        assert!(pairs.wait().unwrap().success());
        send(&blocks, Signal::SIGTERM);
        assert!(blocks.wait().unwrap().success());
        eventually("the leases end", || leases(&daemon) == 0);
    });
}

#[test]
fn a_command_has_the_lease_while_it_runs_and_its_status_is_ours() {
    in_netns(|| {
        let daemon = Daemon::start(POOL);
        let lease = |command: &[&str]| {
            daemon.portbroker(&[&["lease", "egress", "--to", TO, "--count", "2", "--"], command].concat())
        };
        let (status, out, _) = run(&mut lease(&["sh", "-c", "echo \"$PORTBROKER_LEASE\"; exit 7"]));
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!((status, lines.len()), (7, 2), "{out}");
        assert_eq!(lines[0], lines[1]);
        eventually("the lease ends with the command", || leases(&daemon) == 0);

        let program = "
import json, os, socket
server = socket.create_server(('127.0.0.1', 9999))
for pair in json.loads(os.environ['PORTBROKER_LEASE'])['pairs']:
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((pair['address'], pair['port'])); s.connect(('127.0.0.1', 9999)); print(s.getsockname()[1])
";
        let (status, out, errors) = run(&mut lease(&["python3", "-c", program]));
        assert_eq!((status, out.lines().count()), (0, 3), "{errors}");

        // What is sent to us is sent on, and its end is ours.
        let (mut child, _) =
            held(&mut lease(&["sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.1; done"]));
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(leases(&daemon) >= 1);
        send(&child, Signal::SIGTERM);
        assert_eq!(child.wait().unwrap().code(), Some(9));
        let (mut child, _) = held(&mut lease(&["sleep", "60"]));
        send(&child, Signal::SIGHUP);
        assert_eq!(child.wait().unwrap().code(), Some(129));
        let (status, _, errors) = run(&mut lease(&["/no/such/program"]));
        assert!(status == 1 && errors.contains("/no/such/program"), "{errors}");
    });
}

#[test]
fn a_pool_is_shown_with_its_addresses_and_drained() {
    in_netns(|| {
        let daemon = Daemon::start(POOL);
        let (mut child, line) =
            held(&mut daemon.portbroker(&["lease", "egress", "--to", TO, "--count", "20"]));
        let address =
            |daemon: &Daemon, n: usize| json(daemon, &["show", "pool", "egress"])["addresses"][n].clone();
        let pool = json(&daemon, &["show", "pool", "egress"]);
        assert_eq!(
            (&pool["name"], &pool["zone"], &pool["capacity"]),
            (&json!("egress"), &json!("20000-20009"), &json!(20))
        );
        assert_eq!(pool["state"], "degraded", "192.0.2.1 is not here: {pool}");
        assert_eq!(
            address(&daemon, 0),
            json!({"address": "127.0.0.2", "state": "in-use", "leased": 10, "cooling": 0})
        );
        assert_eq!(address(&daemon, 2)["state"], "absent");
        let (_, text, _) = run(&mut daemon.portbroker(&["show", "pool", "egress"]));
        assert!(text.contains("127.0.0.3 in-use, 10 leased") && text.contains("user:65534"), "{text}");
        let (_, text, _) = run(&mut daemon.portbroker(&["list", "pools"]));
        assert!(text.contains("2 of 3") && text.contains("20000-20009"), "{text}");

        assert_eq!(json(&daemon, &["drain", "127.0.0.2"]), json!({"address": "127.0.0.2", "draining": true}));
        assert_eq!(address(&daemon, 0)["state"], "draining");
        fails(
            &mut daemon.portbroker(&["lease", "egress", "--to", "127.0.0.1:2", "--count", "11"]),
            1,
            "Exhausted",
        );
        json(&daemon, &["release", &line["lease"].to_string()]);
        eventually("the last lease is gone", || address(&daemon, 0)["state"] == "drained");
        json(&daemon, &["drain", "--undo", "127.0.0.2"]);
        assert_eq!(address(&daemon, 0)["state"], "in-use");
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn refusals_say_why_and_have_their_exit_status() {
    in_netns(|| {
        let daemon = Daemon::start(POOL);
        let verb = |arguments: &str| daemon.portbroker(&arguments.split(' ').collect::<Vec<_>>());
        fails(&mut verb("lease nowhere --to 127.0.0.1:1"), 1, "NoSuchPool");
        fails(&mut verb("show pool nowhere"), 1, "NoSuchPool");
        fails(&mut verb("lease egress --to [::1]:1"), 1, "BadArgument");
        fails(&mut verb("lease egress --to 127.0.0.1:1 --count 21"), 1, "Exhausted");
        fails(&mut verb("lease egress --to 127.0.0.1:1 --count 0"), 2, "count");
        fails(&mut verb("lease egress --to localhost:1"), 2, "names are not looked up");
        fails(&mut verb("lease egress"), 2, "--to");
        fails(&mut verb("release 999"), 1, "BadArgument");
        fails(&mut verb("drain 198.51.100.1"), 1, "BadArgument");
        fails(&mut verb("drain eth0"), 2, "eth0");
        let (mut child, line) = held(&mut verb("lease egress --to 127.0.0.1:1"));
        let other = |arguments: &str| daemon.portbroker_as(1, &arguments.split(' ').collect::<Vec<_>>());
        fails(&mut other("lease egress --to 127.0.0.1:1"), 77, "NotAllowed");
        fails(&mut other("drain 127.0.0.2"), 77, "NotAllowed");
        fails(&mut other(&format!("release {}", line["lease"])), 77, "NotAllowed");
        let (status, out, _) = run(&mut other("--json list leases"));
        assert_eq!((status, out.trim()), (0, "[]"), "others' leases are nobody's business");
        let (status, out, errors) =
            run(&mut daemon.portbroker_as(NOBODY, &["lease", "egress", "--to", "127.0.0.1:1", "--", "true"]));
        assert_eq!((status, out.lines().count()), (0, 1), "{errors}");
        child.kill().unwrap();
        child.wait().unwrap();
        let socket = daemon.folder().join("nobody-there");
        let mut nowhere = verb("lease egress --to 127.0.0.1:1");
        fails(nowhere.env("PORTBROKER_SOCKET", socket), 69, "not reachable");
    });
}
