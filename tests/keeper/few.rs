//! A daemon that may have less than the one before: fewer descriptors than are stored, or too little memory.

use crate::daemon::{Daemon, run};
use crate::egress::{POOL, TO, addresses};
use crate::leases::Client;
use crate::memory::{MemoryCgroup, squeeze_out};
use crate::netns::in_netns;
use crate::places::unprivileged;
use crate::served::{Served, Storm, eventually, reload, states};
use crate::support::{
    ADDRESS, WEB, answers, child_of, inode, install, install_script, kept_by_a_copy, kill_daemon, logged,
    send, write,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::Path;

fn listeners(ports: std::ops::Range<u16>) -> String {
    let table = |n| format!("[[listener]]\nname = \"p{n}\"\nstream = \"127.0.0.1:{n}\"\nidle = \"refuse\"\n");
    ports.map(table).collect()
}

/// State, inode and holder by name.
fn shown(keeper: &Daemon) -> BTreeMap<String, (String, u64, String)> {
    let (status, text, errors) = run(&mut keeper.portbroker(&["--json", "list", "listeners"]));
    assert_eq!(status, 0, "{errors}");
    let list: Value = serde_json::from_str(&text).unwrap();
    let row = |row: &Value| {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        (text("name"), (text("state"), row["sockets"][0]["inode"].as_u64().unwrap_or(0), text("holder")))
    };
    list.as_array().unwrap().iter().map(row).collect()
}

/// From the next start on the daemon has this limit, which a shell sets (ulimit). The real program is beside it.
fn limit(program: &Path, ulimit: &str) {
    let real = program.with_extension("real");
    install(&real);
    install_script(program, &format!("#!/bin/sh\nulimit {ulimit} && exec {} \"$@\"\n", real.display()));
}

fn status(keeper: &Daemon) -> (i32, String) {
    let (status, text, errors) = run(&mut keeper.portbroker(&["status"]));
    (status, text + &errors)
}

/// `may_send`: whether descriptors in flight may be more than open ones, which is root's right.
fn few(keeper: &Daemon, program: &Path, may_send: bool) {
    let faults = status(keeper).0;
    // Of the first and the last, one is taken over and the other is not.
    let services = ["p20000", "p20299"].map(|name| Served::start(keeper, name));
    let before = shown(keeper);
    let held = |name: &str| before[name].2.starts_with("python3");
    assert!(held("p20000") && held("p20299"));

    limit(program, "-n 200");
    let daemon = kill_daemon(keeper);
    let (code, text) = status(keeper);
    assert!(code == 1 && text.contains("of 300 stored sockets can be taken over"), "{text}");
    assert!(text.contains("200 descriptors") && text.contains("ulimit -n"), "{text}");
    let now = shown(keeper);
    let (taken, left): (Vec<_>, Vec<_>) = now.iter().partition(|(_, (_, inode, _))| *inode != 0);
    println!("{} of 300 are taken over", taken.len());
    assert!(taken.len() >= 100 && taken.len() < 200, "{}", taken.len());
    assert!(taken.iter().all(|(name, row)| before.get(*name) == Some(row)));
    for port in [20_000, 20_299] {
        let mut answer = [0; 2];
        std::io::Read::read_exact(&mut TcpStream::connect(("127.0.0.1", port)).unwrap(), &mut answer)
            .unwrap();
        assert_eq!(&answer, b"ok");
    }
    let free = |of: &[(&String, &(String, u64, String))]| {
        of.iter().find(|(_, row)| row.2.is_empty()).map(|(name, _)| (*name).clone()).unwrap()
    };
    let (code, _, text) = run(&mut keeper.portbroker(&["exec", &free(&taken), "--", "true"]));
    assert_eq!(code == 0, may_send, "{text}");
    assert!(may_send || text.contains("no sockets can be sent to anybody"), "{text}");
    let (code, _, text) = run(&mut keeper.portbroker(&["exec", &free(&left), "--", "true"]));
    assert!(code == 1 && (text.contains("is not bound anew") || !may_send), "{text}");
    assert_eq!(child_of(keeper), Some(daemon), "it is the same daemon");

    install(program);
    kill_daemon(keeper);
    eventually("all as before", || status(keeper).0 == faults);
    assert_eq!(shown(keeper), before);
    services.into_iter().for_each(Served::end);
    // Their ends were seen, though one of them was nobody's for a life.
    for port in ["p20000", "p20299"] {
        eventually("it refuses again", || states(keeper, port) == ["reserved"]);
    }
}

#[test]
fn with_fewer_descriptors_than_are_stored_the_rest_stays_stored() {
    in_netns(|| {
        let (keeper, program) = kept_by_a_copy(&listeners(20_000..20_300));
        few(&keeper, &program, true);
    });
}

#[test]
fn without_privileges_nothing_is_sent_while_more_is_stored_than_may_be_open() {
    in_netns(|| {
        let keeper = unprivileged(&listeners(20_000..20_300), |_| {});
        let program = keeper.folder().join("portbrokerd");
        few(&keeper, &program, false);
    });
}

#[test]
fn a_daemon_that_the_kernel_kills_for_want_of_memory_is_followed_by_one_that_has_everything() {
    in_netns(|| {
        addresses();
        let cgroup = MemoryCgroup::new("keeper");
        let keeper = Daemon::start_with(&format!("{WEB}{POOL}"), |command| {
            command.args(["--no-bus", "--keeper"]);
            *command = cgroup.starting(command);
        });
        let before = inode(&keeper, "web");
        let service = Served::start(&keeper, "web");
        let client = Client::of(&keeper);
        let session = client.open();
        let (lease, _) = client.pairs(&session, "egress", "tcp", TO, 100).unwrap();
        let storm = Storm::start(ADDRESS, 2);
        for round in 1..=3 {
            let daemon = child_of(&keeper).unwrap();
            squeeze_out(&cgroup, daemon);
            eventually("the next daemon", || child_of(&keeper).is_some_and(|next| next != daemon));
            answers(&keeper);
            assert_eq!(inode(&keeper, "web"), before);
            let leases = Client::of(&keeper).leases();
            assert_eq!(leases.iter().map(|row| row.0).collect::<Vec<_>>(), [lease]);
            eventually("it is said", || keeper.log().matches("for want of memory").count() == round);
        }
        assert!(storm.stop() > 0);
        // A death by somebody's SIGKILL is none for want of memory.
        kill_daemon(&keeper);
        assert_eq!(keeper.log().matches("for want of memory").count(), 3, "{}", keeper.log());
        service.end();
        drop(session);
    });
}

#[test]
fn a_configuration_that_does_not_fit_into_memory_loses_nothing_and_can_be_put_right() {
    in_netns(|| {
        let (keeper, program) = kept_by_a_copy(WEB);
        let before = inode(&keeper, "web");
        let service = Served::start(&keeper, "web");
        let storm = Storm::start(ADDRESS, 2);
        // What the daemon has by now, and a little.
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", child_of(&keeper).unwrap())).unwrap();
        let pages: u64 = statm.split_whitespace().next().unwrap().parse().unwrap();
        limit(&program, &format!("-v {}", pages * 4 + 6 * 1024));
        kill_daemon(&keeper);
        assert_eq!(status(&keeper).0, 0, "with this configuration it has enough");

        let table = |n| {
            format!(
                "[[listener]]\nname = \"p{n}\"\nstream = \"127.0.0.{}:{}\"\n",
                n / 5000 + 2,
                20_000 + n % 5000
            )
        };
        let large: String = (0..12_000).map(table).collect();
        write(&keeper.config(), &format!("{WEB}{large}"));
        let daemon = child_of(&keeper).unwrap();
        send(keeper.pid(), Signal::SIGHUP);
        eventually("its end", || child_of(&keeper) != Some(daemon));
        logged(&keeper, "memory allocation of");
        eventually("two tries more", || keeper.log().matches("memory allocation of").count() >= 3);

        write(&keeper.config(), WEB);
        answers(&keeper);
        assert_eq!((status(&keeper).0, inode(&keeper, "web")), (0, before));
        reload(&keeper, &format!("{WEB}{}", listeners(20_000..20_010)));
        assert_eq!(inode(&keeper, "web"), before);
        assert!(storm.stop() > 0);
        service.end();
    });
}
