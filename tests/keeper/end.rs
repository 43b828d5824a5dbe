//! The end of a keeper: when it is told to, when it cannot begin, and when it is killed.

use crate::daemon::run;
use crate::netns::{in_netns, spawn};
use crate::served::eventually;
use crate::support::{
    ADDRESS, WEB, answers, child_of, inode, install, install_script, kept, kept_by_a_copy, lives, logged,
    send, write,
};
use nix::sys::signal::Signal;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// A keeper whose end the test waits for.
fn keeper_in(folder: &std::path::Path, configuration: &str) -> Child {
    let config = folder.join("portbroker.toml");
    write(&config, configuration);
    let mut command = Command::new(env!("CARGO_BIN_EXE_portbrokerd"));
    command.args(["--keeper", "--no-bus"]).arg("--config").arg(config).arg("--root").arg(folder);
    command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stderr(Stdio::piped());
    spawn(&mut command)
}

#[test]
fn told_to_stop_it_stops_the_daemon_for_good() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        in_netns(|| {
            let before = std::fs::read_to_string(RESERVED).unwrap();
            let mut keeper = kept(WEB);
            let daemon = child_of(&keeper).unwrap();
            assert!(std::fs::read_to_string(RESERVED).unwrap().contains("7801"));
            send(keeper.pid(), signal);
            assert_eq!(keeper.wait().code(), Some(0));
            assert!(!lives(daemon));
            assert_eq!(std::fs::read_to_string(RESERVED).unwrap(), before, "what was ours is given back");
            TcpStream::connect(ADDRESS).expect_err("nobody listens any more");
        });
    }
}

#[test]
fn told_to_stop_at_any_moment_of_a_start_it_leaves_nobody() {
    in_netns(|| {
        for round in 0..8_u64 {
            let mut keeper = kept(WEB);
            let old = child_of(&keeper).unwrap();
            send(old, Signal::SIGKILL);
            std::thread::sleep(std::time::Duration::from_millis(round * 30));
            let new = child_of(&keeper);
            send(keeper.pid(), Signal::SIGTERM);
            // 137 where it was told before it saw the death: then that is how the daemon stopped.
            let status = keeper.wait().code();
            assert!(matches!(status, Some(0 | 137)), "{status:?}: {}", keeper.log());
            assert!(!new.is_some_and(lives));
            TcpStream::connect(ADDRESS).expect_err("nobody listens any more");
        }
    });
}

#[test]
fn a_daemon_that_hangs_before_it_is_ready_is_killed_and_followed() {
    in_netns(|| {
        let (keeper, program) = kept_by_a_copy(WEB);
        let before = inode(&keeper, "web");
        install_script(&program, "#!/bin/sh\necho hangs >&2\nexec sleep 1000\n");
        send(child_of(&keeper).unwrap(), Signal::SIGKILL);
        logged(&keeper, "hangs");
        let hangs = child_of(&keeper).unwrap();
        install(&program);
        // Longer than it may take, and than other tests wait.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(90);
        while lives(hangs) {
            assert!(std::time::Instant::now() < deadline, "it hangs for ever");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        answers(&keeper);
        assert_eq!(inode(&keeper, "web"), before);
    });
}

#[test]
fn a_daemon_that_does_not_stop_is_killed_and_its_status_is_the_keepers() {
    in_netns(|| {
        let (mut keeper, program) = kept_by_a_copy(WEB);
        // Ready by word of its own, and deaf.
        install_script(
            &program,
            "#!/usr/bin/env python3
import os, signal, socket, time
signal.signal(signal.SIGINT, lambda *_: os._exit(7))
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])
print('ready', flush=True)
time.sleep(1000)
",
        );
        let old = child_of(&keeper).unwrap();
        send(old, Signal::SIGKILL);
        eventually("the other program", || {
            let name = child_of(&keeper).map(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")));
            name.is_some_and(|name| name.unwrap_or_default().starts_with("python3"))
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
        send(keeper.pid(), Signal::SIGTERM);
        assert_eq!(keeper.wait().code(), Some(7));
    });
}

#[test]
fn a_cold_start_with_a_faulty_configuration_ends_it_with_78() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        let output = keeper_in(folder.path(), "[[listener]]\nstraem = 1\n").wait_with_output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{log}");
        assert!(log.contains("straem") && log.matches("event=\"start\"").count() == 1, "{log}");
    });
}

#[test]
fn no_daemon_outlives_its_keeper_and_the_next_keeper_finds_all_ports_free() {
    in_netns(|| {
        let keeper = kept(WEB);
        let daemon = child_of(&keeper).unwrap();
        send(keeper.pid(), Signal::SIGKILL);
        eventually("the end of the daemon", || !lives(daemon));
        let folder = keeper.folder().to_owned();
        let mut next = keeper_in(&folder, WEB);
        let status = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
            run(command.arg("status").env("PORTBROKER_SOCKET", folder.join("run/portbroker/bus"))).0
        };
        eventually("the answer of the next", || status() == 0);
        TcpStream::connect(ADDRESS).unwrap();
        // Killed while its daemon is not READY yet, too.
        let daemon = crate::support::children(next.id())[0];
        send(daemon, Signal::SIGKILL);
        eventually("another daemon", || {
            crate::support::children(next.id()).first().is_some_and(|pid| *pid != daemon)
        });
        let daemon = crate::support::children(next.id())[0];
        next.kill().unwrap();
        next.wait().unwrap();
        eventually("the end of that daemon", || !lives(daemon));
        drop(keeper);
    });
}

#[test]
fn a_daemon_whose_keeper_is_gone_before_it_begins_does_not_begin() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portbrokerd"));
    command.arg("--no-bus").arg("--root").arg(folder.path());
    let (status, _, errors) = run(command.env("PORTBROKER_KEEPER", "1").env("NOTIFY_SOCKET", "/nowhere"));
    assert_eq!(status, 1);
    assert!(errors.contains("its keeper has ended"), "{errors}");
}

#[test]
fn there_is_one_keeper_for_one_place() {
    in_netns(|| {
        let keeper = kept(WEB);
        let before = inode(&keeper, "web");
        let refused = |arguments: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_portbrokerd"));
            command.args(arguments).arg("--config").arg(keeper.config()).arg("--root").arg(keeper.folder());
            let (status, _, errors) = run(command.arg("--no-bus").env_remove("NOTIFY_SOCKET"));
            assert_eq!(status, 1);
            assert!(errors.contains("another portbrokerd runs with"), "{errors}");
        };
        refused(&["--keeper"]);
        refused(&[]);
        assert_eq!(inode(&keeper, "web"), before);
    });
}
