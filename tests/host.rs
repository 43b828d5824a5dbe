//! What the host takes away from under the daemon: addresses, the sight of other processes, a sysctl's file. Each is
//! said while it lasts, nothing is given up for it, and all is well when it is over.

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

use daemon::{Daemon, run};
use netns::{NOBODY, in_netns, ip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use served::{Served, eventually, listener};
use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::process::Command;

fn status(daemon: &Daemon) -> (i32, String) {
    let (status, text, errors) = run(&mut daemon.portbroker(&["status"]));
    (status, text + &errors)
}

fn is_answered(address: &str) -> bool {
    let mut answer = [0; 2];
    TcpStream::connect(address).is_ok_and(|mut client| client.read_exact(&mut answer).is_ok())
}

#[test]
fn a_listener_keeps_its_socket_while_its_address_is_away() {
    in_netns(|| {
        ip("address add 192.0.2.5/32 dev lo");
        ip("address add 2001:db8::5/128 dev lo nodad");
        let daemon = Daemon::start(
            "[[listener]]\nname = \"four\"\nstream = \"192.0.2.5:7801\"\nfree-bind = false\n\
             [[listener]]\nname = \"six\"\nstream = \"[2001:db8::5]:7801\"\nfree-bind = false\n\
             [[listener]]\nname = \"free\"\nstream = \"192.0.2.5:7802\"\nfree-bind = true\n",
        );
        assert_eq!(status(&daemon).0, 0, "{:?}", status(&daemon));
        let before = ["four", "six", "free"].map(|name| listener(&daemon, name));
        let service = Served::start(&daemon, "four");
        assert!(is_answered("192.0.2.5:7801"));
        for _ in 0..2 {
            ip("address del 192.0.2.5/32 dev lo");
            ip("address del 2001:db8::5/128 dev lo");
            eventually("both are missed", || {
                let (status, text) = status(&daemon);
                status == 1
                    && text.contains("has not the address 192.0.2.5;")
                    && text.contains("2001:db8::5;")
            });
            assert!(!status(&daemon).1.contains("7802"), "this one is meant to come and go");
            assert!(daemon.log().contains("event=\"address-gone\" listener=free"));
            ip("address add 192.0.2.5/32 dev lo");
            ip("address add 2001:db8::5/128 dev lo nodad");
            eventually("a daemon that is well", || status(&daemon).0 == 0);
            assert!(is_answered("192.0.2.5:7801"));
            assert!(daemon.log().contains("event=\"address-back\" listener=four"));
        }
        service.end();
        let inode = |of: &serde_json::Value| of["sockets"][0]["inode"].clone();
        for (name, before) in ["four", "six", "free"].iter().zip(&before) {
            assert_eq!(inode(&listener(&daemon, name)), inode(before));
        }
    });
}

#[test]
fn an_address_that_comes_is_bound_at_once() {
    in_netns(|| {
        let daemon =
            Daemon::start("[[listener]]\nname = \"web\"\nstream = \"192.0.2.5:7801\"\nfree-bind = false\n");
        // So that the next try by itself is far away.
        std::thread::sleep(std::time::Duration::from_secs(4));
        let text = listener(&daemon, "web").to_string();
        assert!(text.contains("does not have the address"), "{text}");
        ip("address add 192.0.2.5/32 dev lo");
        eventually("it is bound", || listener(&daemon, "web")["state"] == "listening");
        eventually("a daemon that is well", || status(&daemon).0 == 0);
    });
}

/// How many messages the kernel had no room for in the daemon's netlink sockets: `Drops` of /proc/net/netlink.
fn lost(daemon: &Daemon) -> u64 {
    let table = fs::read_to_string(format!("/proc/{}/net/netlink", daemon.pid())).unwrap();
    let drops = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok());
    drops.sum()
}

/// More than the queue of events has room for.
#[test]
fn a_swarm_of_changes_is_seen_to_its_end() {
    in_netns(|| {
        let daemon = Daemon::start(
            "[[pool]]\nname = \"egress\"\naddresses = [\"198.51.100.1-198.51.100.250\"]\nports = \"10000-10010\"\n",
        );
        assert!(status(&daemon).1.contains("250 of its 250 addresses"), "{:?}", status(&daemon));
        assert!(daemon.log().contains("event=\"pool\""), "{}", daemon.log());
        let pid = Pid::from_raw(daemon.pid().cast_signed());
        let batch = |word: &str| {
            let lines = |n| format!("address {word} 198.51.100.{n}/32 dev lo\n");
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("batch");
            fs::write(&file, (1..=250).map(lines).collect::<String>()).unwrap();
            ip(&format!("-batch {}", file.display()));
        };
        kill(pid, Signal::SIGSTOP).unwrap();
        for _ in 0..4 {
            batch("add");
            batch("del");
        }
        batch("add");
        assert!(lost(&daemon) > 0, "the queue had room for all: provoke more");
        kill(pid, Signal::SIGCONT).unwrap();
        eventually("all are there", || status(&daemon).0 == 0);
        assert!(daemon.log().contains("pool egress is as it was configured again"));
    });
}

/// A daemon of another user in a mount namespace of its own, after these commands.
fn after(commands: &str, uid: u32, configuration: &str) -> Daemon {
    let commands =
        format!("{commands} && exec setpriv --reuid={uid} --regid={uid} --clear-groups \"$0\" \"$@\"");
    Daemon::start_with(configuration, |command| {
        let folder =
            std::path::PathBuf::from(command.get_args().skip_while(|a| *a != "--root").nth(1).unwrap());
        for path in [folder.clone(), folder.join("portbroker.toml")] {
            std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
        }
        let program = folder.join("portbrokerd");
        assert!(
            Command::new("cp")
                .arg(env!("CARGO_BIN_EXE_portbrokerd"))
                .arg(&program)
                .status()
                .unwrap()
                .success()
        );
        let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        *command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &commands]).arg(program);
        command.args(arguments).arg("--no-bus");
        command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").env_remove("XDG_RUNTIME_DIR");
    })
}

/// A command in the daemon's mount namespace.
fn inside(daemon: &Daemon, command: &str) {
    let pid = daemon.pid().to_string();
    let status = Command::new("nsenter").args(["-t", &pid, "-m", "sh", "-c", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

#[test]
fn a_proc_that_hides_other_processes_is_said_and_grants_of_users_are_kept() {
    in_netns(|| {
        let configuration = "[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7801\"\nallow = [\"user:65533\"]\n\
                             [[listener]]\nname = \"unit\"\nstream = \"127.0.0.1:7802\"\nallow = [\"unit:x.service\"]\n";
        let daemon = after("mount -t proc -o hidepid=invisible proc /proc", NOBODY, configuration);
        let (degraded, text) = status(&daemon);
        assert!(degraded == 1 && text.contains("hidepid="), "{degraded} {text}");
        assert!(daemon.log().contains("event=\"surroundings\""));
        let taken = |name: &str| run(&mut daemon.portbroker_as(NOBODY - 1, &["exec", name, "--", "true"])).0;
        assert_eq!((taken("web"), taken("unit")), (0, 77));
        inside(&daemon, "mount -o remount,hidepid=off /proc");
        eventually("no word of it", || !status(&daemon).1.contains("hidepid="));
    });
}

#[test]
fn reserved_ports_that_cannot_be_written_are_said_until_they_can() {
    in_netns(|| {
        const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        let web = "[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7801\"\n";
        let daemon = after(
            &format!("mount --bind {RESERVED} {RESERVED} && mount -o remount,bind,ro {RESERVED}"),
            0,
            web,
        );
        let (degraded, text) = status(&daemon);
        assert!(degraded == 1 && text.contains("mounted read-only"), "{degraded} {text}");
        assert!(daemon.log().contains("ports are not kept out of ephemeral allocation"));
        assert_eq!(listener(&daemon, "web")["state"], "listening");
        inside(&daemon, &format!("umount {RESERVED}"));
        let pid = Pid::from_raw(daemon.pid().cast_signed());
        kill(pid, Signal::SIGHUP).unwrap();
        eventually("a daemon that is well", || status(&daemon).0 == 0);
        assert_eq!(fs::read_to_string(RESERVED).unwrap().trim(), "7801");
    });
}
