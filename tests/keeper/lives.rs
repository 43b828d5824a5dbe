//! From one life of the daemon to the next: what clients, services and leases see of it.

use crate::daemon::{Daemon, run};
use crate::egress::{POOL, TO, addresses};
use crate::leases::Client;
use crate::netns::{in_netns, ip, spawn};
use crate::served::{Served, Storm, eventually, listener, states};
use crate::support::{
    ADDRESS, WEB, answers, child_of, children, end_daemon, inode, install, install_script, is_answered, kept,
    kept_by_a_copy, kill_daemon, lives, logged, send, waiting, write,
};
use nix::sys::signal::Signal;
use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn a_service_and_its_clients_notice_nothing_of_kills() {
    in_netns(|| {
        let keeper = kept(WEB);
        let before = inode(&keeper, "web");
        let service = Served::start(&keeper, "web");
        let storm = Storm::start(ADDRESS, 2);
        for _ in 0..5 {
            kill_daemon(&keeper);
            assert_eq!(inode(&keeper, "web"), before);
            assert!(listener(&keeper, "web")["holder"].as_str().unwrap().starts_with("python3"));
        }
        service.end();
        kill_daemon(&keeper);
        let next = Served::start(&keeper, "web");
        assert!(storm.stop() > 0);
        next.end();
    });
}

#[test]
fn a_call_that_a_kill_interrupts_is_answered_by_the_next_daemon() {
    in_netns(|| {
        let keeper = kept(WEB);
        let before = inode(&keeper, "web");
        let client = waiting();
        let stopped = child_of(&keeper).unwrap();
        // It has the call, or will have it, and answers nothing.
        send(stopped, Signal::SIGSTOP);
        let program = "import os, socket, time
l = socket.socket(fileno=3); print(os.fstat(3).st_ino, flush=True)
l.accept()[0].send(b'ok'); time.sleep(1000)";
        let mut command = keeper.portbroker(&["exec", "web", "--", "python3", "-c", program]);
        let mut service = spawn(command.stdout(Stdio::piped()));
        std::thread::sleep(Duration::from_millis(300));
        assert!(service.try_wait().unwrap().is_none());
        send(stopped, Signal::SIGKILL);
        is_answered(client);
        let mut inode = [0; 20];
        let length = service.stdout.take().unwrap().read(&mut inode).unwrap();
        assert_eq!(String::from_utf8_lossy(&inode[..length]).trim().parse(), Ok(before));
        service.kill().unwrap();
        service.wait().unwrap();
    });
}

#[test]
fn leases_and_sessions_are_as_before() {
    in_netns(|| {
        addresses();
        let keeper = kept(POOL);
        let client = Client::of(&keeper);
        let session = client.open();
        let (lease, pairs) = client.pairs(&session, "egress", "tcp", TO, 100).unwrap();
        for _ in 0..3 {
            kill_daemon(&keeper);
            let client = Client::of(&keeper);
            assert_eq!(client.leases().iter().map(|row| row.0).collect::<Vec<_>>(), [lease]);
            let other = client.open();
            let (_, more) = client.pairs(&other, "egress", "tcp", TO, 300).expect("the rest is free");
            assert!(more.iter().all(|pair| !pairs.contains(pair)), "given out twice");
            drop(other);
            eventually("the end of the other", || client.leases().len() == 1);
        }
        let client = Client::of(&keeper);
        client.pairs(&session, "egress", "tcp", "192.0.2.9:444", 1).expect("the session goes on");
        drop(session);
        eventually("the end of the leases", || client.leases().is_empty());
    });
}

#[test]
fn a_hangup_reloads_and_what_was_added_is_kept() {
    in_netns(|| {
        let keeper = kept(WEB);
        let more = format!("{WEB}[[listener]]\nname = \"more\"\nstream = \"127.0.0.1:7802\"\n");
        write(&keeper.config(), &more);
        let daemon = child_of(&keeper).unwrap();
        send(keeper.pid(), Signal::SIGHUP);
        eventually("the reload", || run(&mut keeper.portbroker(&["show", "listener", "more"])).0 == 0);
        let before = (inode(&keeper, "web"), inode(&keeper, "more"));
        assert_eq!(child_of(&keeper), Some(daemon), "it is the same daemon");
        kill_daemon(&keeper);
        assert_eq!((inode(&keeper, "web"), inode(&keeper, "more")), before);

        // One that comes before READY waits for it, and does not end the daemon.
        write(&keeper.config(), WEB);
        let daemon = child_of(&keeper).unwrap();
        send(daemon, Signal::SIGKILL);
        eventually("the next daemon", || child_of(&keeper).is_some_and(|next| next != daemon));
        let next = child_of(&keeper).unwrap();
        send(keeper.pid(), Signal::SIGHUP);
        eventually("the reload", || run(&mut keeper.portbroker(&["show", "listener", "more"])).0 != 0);
        answers(&keeper);
        assert_eq!((child_of(&keeper), inode(&keeper, "web")), (Some(next), before.0));
    });
}

#[test]
fn faults_and_crashes_empty_no_store() {
    in_netns(|| {
        let (keeper, program) = kept_by_a_copy(WEB);
        let before = inode(&keeper, "web");
        let client = waiting();

        // Of a program that dies at once.
        install_script(&program, "#!/bin/sh\necho a crash >&2\nkill -9 $$\n");
        send(child_of(&keeper).unwrap(), Signal::SIGKILL);
        eventually("ten crashes", || keeper.log().matches("a crash").count() >= 10);
        // Of one that does not like its configuration, which ends a cold start.
        install_script(&program, "#!/bin/sh\necho a fault >&2\nexit 78\n");
        eventually("three faults", || keeper.log().matches("a fault").count() >= 3);
        // Of the real one, with faults and no last good configuration.
        write(&keeper.config(), "[[listener]]\nname = \"web\"\nstraem = \"127.0.0.1:7801\"\n");
        std::fs::remove_file(keeper.folder().join("run/portbroker/last-good.toml")).unwrap();
        install(&program);
        logged(&keeper, "stay in the descriptor store");

        let other = waiting();
        write(&keeper.config(), WEB);
        answers(&keeper);
        assert_eq!(inode(&keeper, "web"), before);
        let service = Served::start(&keeper, "web");
        is_answered(client);
        is_answered(other);
        service.end();
    });
}

#[test]
fn kills_of_a_cold_start_leave_a_daemon_that_holds_everything() {
    in_netns(|| {
        let table = |n| format!("[[listener]]\nname = \"p{n}\"\nstream = \"127.0.0.1:{n}\"\n");
        let configuration: String = (20_000..20_400).map(table).collect();
        for round in 0..6_u64 {
            let folder = tempfile::tempdir().unwrap();
            let config = folder.path().join("portbroker.toml");
            write(&config, &configuration);
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portbrokerd"));
            command.args(["--keeper", "--no-bus", "--config"]).arg(&config).arg("--root").arg(folder.path());
            command.env_remove("NOTIFY_SOCKET").stderr(Stdio::null());
            let mut keeper = spawn(&mut command);
            // The first is killed while it reads, binds, stores: wherever it is by then.
            let mut first = None;
            eventually("the first daemon", || {
                first = children(keeper.id()).first().copied();
                first.is_some()
            });
            std::thread::sleep(Duration::from_millis(round * 20));
            send(first.unwrap(), Signal::SIGKILL);
            let socket = folder.path().join("run/portbroker/bus");
            let status = |socket: &std::path::Path| {
                let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portbroker"));
                run(command.args(["--json", "status"]).env("PORTBROKER_SOCKET", socket))
            };
            let text = status(&socket).1;
            let status: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                (&status["state"], &status["listeners"]["listening"]),
                (&"running".into(), &400.into())
            );
            send(keeper.id(), Signal::SIGTERM);
            assert!(keeper.wait().unwrap().success());
        }
    });
}

#[test]
fn a_daemon_that_is_told_to_end_is_followed_by_another() {
    in_netns(|| {
        let keeper = kept(WEB);
        let before = inode(&keeper, "web");
        let reserved = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap();
        let client = waiting();
        let old = child_of(&keeper).unwrap();
        let pid = end_daemon(&keeper, Signal::SIGTERM);
        assert!(!lives(old) && lives(pid));
        assert_eq!(inode(&keeper, "web"), before);
        assert!(!keeper.log().contains("gives"), "nothing was given back meanwhile");
        assert!(reserved().contains("7801"));
        assert_eq!(states(&keeper, "web"), ["listening"]);
        let service = Served::start(&keeper, "web");
        is_answered(client);
        service.end();
    });
}

#[test]
fn a_wildcard_and_another_address_of_one_port_come_back_too() {
    in_netns(|| {
        ip("address add 192.0.2.1/32 dev lo");
        let keeper = kept(
            "[[listener]]\nname = \"web\"\nstream = [\"0.0.0.0:7801\", \"[::]:7801\"]\n\
             [[listener]]\nname = \"names\"\ndatagram = \"192.0.2.1:7853\"\nstream = \"@keeper-test\"\n",
        );
        let all = |keeper: &Daemon| {
            let of = |name| listener(keeper, name)["sockets"].clone();
            (of("web"), of("names"))
        };
        let before = all(&keeper);
        kill_daemon(&keeper);
        assert_eq!(all(&keeper), before);
    });
}
