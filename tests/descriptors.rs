//! A daemon that runs out of descriptors: it goes on with what it has, says so, can be told what to do about it, and
//! goes on with the rest when there are some again.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/leases.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod leases;
#[path = "support/manager.rs"]
#[expect(dead_code, reason = "it is always there")]
mod manager;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;

use daemon::{Daemon, run};
use leases::{Client, eventually};
use manager::Manager;
use netns::{NOBODY, in_netns};
use portbroker_client::wire::ErrorName;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpStream;
use std::process::Command;

const POOL: &str = "[[pool]]\nname = \"egress\"\naddresses = [\"127.0.0.2\"]\nports = \"10000-19999\"\n\
                    allow = [\"user:0\", \"user:65534\"]\n";

fn listeners(ports: impl IntoIterator<Item = u16>) -> String {
    let table = |port| format!("[[listener]]\nname = \"p{port}\"\nstream = \"127.0.0.1:{port}\"\n");
    ports.into_iter().map(table).collect()
}

/// A daemon that may have so many descriptors at the most.
fn limited(configuration: &str, most: u32, change: impl FnOnce(&mut Command)) -> Daemon {
    Daemon::start_with(configuration, |command| {
        command.arg("--no-bus");
        change(command);
        let mut within = Command::new("prlimit");
        within.arg(format!("--nofile={most}:{most}")).arg("--").arg(command.get_program());
        within.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => within.env(name, value),
                None => within.env_remove(name),
            };
        }
        *command = within;
    })
}

/// From now on.
fn limit(daemon: &Daemon, most: usize) {
    let pid = daemon.pid().to_string();
    let status = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={most}:20000")]).status();
    assert!(status.unwrap().success());
}

fn open(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

/// State and inode by name.
fn shown(daemon: &Daemon) -> BTreeMap<String, (String, u64)> {
    let (status, text, errors) = run(&mut daemon.portbroker(&["--json", "list", "listeners"]));
    assert_eq!(status, 0, "{errors}");
    let list: Value = serde_json::from_str(&text).unwrap();
    let row = |row: &Value| {
        let inode = row["sockets"][0]["inode"].as_u64().unwrap_or(0);
        (row["name"].as_str().unwrap().to_owned(), (row["state"].as_str().unwrap().to_owned(), inode))
    };
    list.as_array().unwrap().iter().map(row).collect()
}

fn status(daemon: &Daemon) -> (i32, String) {
    let (status, text, errors) = run(&mut daemon.portbroker(&["status"]));
    (status, text + &errors)
}

fn is_short(daemon: &Daemon) -> bool {
    let (status, text) = status(daemon);
    status == 1 && text.contains("raise LimitNOFILE= of the broker")
}

/// What it has used of a processor, in hundredths of a second.
fn used(daemon: &Daemon) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn more_listeners_than_descriptors_are_served_as_far_as_they_go_and_can_be_reduced() {
    in_netns(|| {
        let daemon = limited(&(listeners(7000..7400) + POOL), 256, |_| {});
        assert!(is_short(&daemon), "{:?}", status(&daemon));
        let before = shown(&daemon);
        let bound: BTreeMap<_, _> = before.iter().filter(|(_, (state, _))| state == "listening").collect();
        assert!((100..250).contains(&bound.len()), "{} of 400 are bound", bound.len());
        let failed = before.keys().find(|name| !bound.contains_key(name)).unwrap();
        let (_, text, _) = run(&mut daemon.portbroker(&["--json", "show", "listener", failed]));
        assert!(text.contains("no descriptor is left for it"), "{text}");

        // An administrator is heard, and served; others are turned away, and cost next to nothing.
        let first = *bound.keys().next().unwrap();
        assert_eq!(run(&mut daemon.portbroker(&["exec", first, "--", "true"])).0, 0);
        assert_eq!(run(&mut daemon.portbroker_as(NOBODY, &["list", "pools"])).0, 69);
        let (began, quiet) = (used(&daemon), std::time::Duration::from_secs(2));
        std::thread::sleep(quiet);
        assert!(used(&daemon) - began < 40, "a fifth of a processor for nothing");

        // No more than one word of it.
        let log = daemon.log();
        assert_eq!(log.matches("event=\"descriptors\"").count(), 1, "{log}");

        // With fewer it is well again, and nothing was closed that is to stay.
        fs::write(daemon.config(), listeners(7000..7050) + POOL).unwrap();
        let (reloaded, _, errors) = run(&mut daemon.portbroker(&["reload"]));
        assert_eq!(reloaded, 0, "{errors}");
        eventually("a daemon that is well", || status(&daemon).0 == 0);
        let now = shown(&daemon);
        assert_eq!(now.len(), 50);
        assert!(now.iter().all(|(name, now)| !bound.contains_key(name) || before.get(name) == Some(now)));
        assert_eq!(run(&mut daemon.portbroker_as(NOBODY, &["list", "pools"])).0, 0);
    });
}

#[test]
fn a_reload_that_runs_out_half_way_goes_on_by_itself_when_there_are_some_again() {
    in_netns(|| {
        let daemon = limited(&listeners(7000..7020), 20_000, |_| {});
        let before = shown(&daemon);
        limit(&daemon, open(&daemon) + 100);
        fs::write(daemon.config(), listeners(7000..7200)).unwrap();
        run(&mut daemon.portbroker(&["reload"]));
        assert!(is_short(&daemon), "{:?}", status(&daemon));
        let bound = shown(&daemon).values().filter(|(state, _)| state == "listening").count();
        assert!((20..200).contains(&bound), "{bound}");
        limit(&daemon, 20_000);
        eventually("all listeners", || {
            shown(&daemon).values().all(|(state, inode)| state == "listening" && *inode != 0)
        });
        eventually("a daemon that is well", || status(&daemon).0 == 0);
        let now = shown(&daemon);
        assert!(now.len() == 200 && before.iter().all(|(name, before)| now.get(name) == Some(before)));
        assert!(daemon.log().contains("there are enough descriptors again"));
    });
}

#[test]
fn with_no_descriptor_left_at_all_everything_is_refused_with_the_reason_and_nothing_is_lost() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        let notify = folder.path().join("notify");
        let mut manager = Manager::new(notify.clone());
        let configuration = listeners(7000..7100) + POOL;
        let daemon = limited(&configuration, 20_000, |command| {
            command.env("NOTIFY_SOCKET", &notify);
        });
        let before = shown(&daemon);
        let client = Client::of(&daemon);
        let session = client.open();
        let inodes: BTreeSet<u64> = before.values().map(|(_, inode)| *inode).collect();
        assert_eq!(manager.kept(), inodes);

        // Fewer than there are.
        limit(&daemon, open(&daemon) - 20);
        let refused = client.try_open().err().unwrap();
        assert_eq!(refused.name, Some(ErrorName::NotReady), "{refused:?}");
        assert!(refused.text.contains("Too many open files"), "{refused:?}");
        let refused = client.sockets(&session, "egress", "tcp", "127.0.0.1:443", 2).err().unwrap();
        assert_eq!(refused.name, Some(ErrorName::NotReady), "{refused:?}");
        assert!(refused.text.contains("raise LimitNOFILE="), "{refused:?}");
        let sessions = daemon.folder().join("run/portbroker/sessions");
        assert_eq!(
            fs::read_dir(&sessions).unwrap().count(),
            1,
            "nothing is left of the other session: {:?} {refused:?}",
            fs::read_dir(&sessions).unwrap().collect::<Vec<_>>()
        );
        // Those take none.
        assert_eq!(client.pairs(&session, "egress", "tcp", "127.0.0.1:443", 2).unwrap().1.len(), 2);

        // An administrator is answered by the ones that are kept for that.
        assert!(is_short(&daemon), "{:?}", status(&daemon));
        let (acquired, _, text) = run(&mut daemon.portbroker(&["exec", "p7000", "--", "true"]));
        assert!(acquired == 1 && text.contains("no descriptor left"), "{acquired} {text}");
        fs::write(daemon.config(), listeners(7000..7101) + POOL).unwrap();
        let (reloaded, _, text) = run(&mut daemon.portbroker(&["reload"]));
        assert!(reloaded == 1 && text.contains("no descriptor left"), "{reloaded} {text}");

        // Whoever knows a listener finds it.
        for port in 7000..7100 {
            drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
        }
        let began = used(&daemon);
        // The accept loop has somebody to accept and cannot.
        let held: Vec<_> =
            (0..20).map(|_| std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap()).collect();
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert!(used(&daemon) - began < 40, "it spins: {} ms", (used(&daemon) - began) * 10);
        drop(held);

        limit(&daemon, 20_000);
        eventually("it is told to reload", || run(&mut daemon.portbroker(&["reload"])).0 == 0);
        eventually("a daemon that is well", || status(&daemon).0 == 0);
        let now = shown(&daemon);
        assert!(before.iter().all(|(name, before)| now.get(name) == Some(before)));
        let inodes: BTreeSet<u64> = now.values().map(|(_, inode)| *inode).collect();
        assert_eq!(inodes.len(), 101);
        eventually("all are stored", || manager.kept() == inodes);
        client.open();
        assert_eq!(client.sockets(&session, "egress", "tcp", "127.0.0.1:443", 2).unwrap().1.len(), 2);
        assert_eq!(run(&mut daemon.portbroker(&["exec", "p7000", "--", "true"])).0, 0);
    });
}

#[test]
fn a_store_that_no_box_can_be_made_for_is_told_when_one_can() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        let notify = folder.path().join("notify");
        let mut manager = Manager::new(notify.clone());
        let daemon = limited(&listeners(7000..7010), 20_000, |command| {
            command.env("NOTIFY_SOCKET", &notify);
        });
        // The removal of a listener takes a new box. It is read before there are none left.
        fs::write(daemon.config(), listeners(7000..7009)).unwrap();
        let kept = manager.kept();
        let gone = shown(&daemon)["p7009"].1;
        limit(&daemon, open(&daemon) + 1);
        run(&mut daemon.portbroker(&["reload"]));
        let still = manager.kept();
        assert!(still.is_superset(&kept) || !still.contains(&gone), "nothing that is to stay is lost");
        limit(&daemon, 20_000);
        eventually("it is told to reload", || run(&mut daemon.portbroker(&["reload"])).0 == 0);
        let now: BTreeSet<u64> = shown(&daemon).values().map(|(_, inode)| *inode).collect();
        eventually("the store has what there is", || manager.kept() == now && !now.contains(&gone));
        eventually("a daemon that is well", || status(&daemon).0 == 0);
    });
}
