//! Listeners with several sockets for each address, with the real daemon: their number changes while clients come.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;
#[path = "support/served.rs"]
mod served;

use daemon::Daemon;
use netns::in_netns;
use served::{Served, Storm, eventually, listener, reload, states};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

const WEB: &str = "127.0.0.1:7801";
const MIGRATE: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

fn web(shards: u16) -> String {
    format!("[[listener]]\nname = \"web\"\nstream = \"{WEB}\"\nreuse-port = {shards}\n")
}

fn migrates() -> String {
    fs::read_to_string(MIGRATE).unwrap().trim().to_owned()
}

fn pause() {
    std::thread::sleep(Duration::from_millis(150));
}

#[test]
fn no_client_is_lost_while_the_number_of_shards_changes_under_a_storm() {
    in_netns(|| {
        let daemon = Daemon::start(&web(4));
        assert_eq!(states(&daemon, "web"), ["listening"; 4]);
        assert_eq!(migrates(), "1");
        let mut service = Served::start(&daemon, "web");
        let storm = Storm::start(WEB, 6);
        for _ in 0..4 {
            pause();
            reload(&daemon, &web(2));
            assert_eq!(states(&daemon, "web"), ["listening", "listening", "draining", "draining"]);
            pause();
            // The next life of the service is there before the old one goes, and has two.
            let next = Served::start(&daemon, "web");
            service.end();
            eventually("the surplus is closed", || states(&daemon, "web").len() == 2);
            pause();
            reload(&daemon, &web(4));
            assert_eq!(states(&daemon, "web"), ["listening", "listening", "reserved", "reserved"]);
            pause();
            let last = Served::start(&daemon, "web");
            assert_eq!(states(&daemon, "web"), ["listening"; 4]);
            next.end();
            service = last;
        }
        // The same with nobody there for a moment.
        for shards in [2, 4, 1, 3] {
            reload(&daemon, &web(shards));
            service.end();
            eventually("all that is left listens", || {
                states(&daemon, "web") == vec!["listening"; usize::from(shards)]
            });
            pause();
            service = Served::start(&daemon, "web");
        }
        pause();
        let served = storm.stop();
        assert!(served > 500, "only {served} clients");
        service.end();
    });
}

#[test]
fn the_kernels_setting_is_ours_only_as_long_as_it_is_needed() {
    in_netns(|| {
        assert_eq!(migrates(), "0");
        let mut daemon = Daemon::start(&web(1));
        assert_eq!(migrates(), "0", "a single socket needs it not");
        reload(&daemon, &web(2));
        assert_eq!(migrates(), "1");
        reload(&daemon, &web(1));
        assert_eq!(migrates(), "0");
        reload(&daemon, &web(2));
        daemon.restart_after_kill(&web(1));
        assert_eq!(migrates(), "0", "an earlier daemon switched it on");
        reload(&daemon, &web(2));
        daemon.terminate();
        assert_eq!(migrates(), "0", "for good");
    });
    in_netns(|| {
        fs::write(MIGRATE, "1\n").unwrap();
        let mut daemon = Daemon::start(&web(2));
        reload(&daemon, &web(1));
        daemon.terminate();
        assert_eq!(migrates(), "1", "somebody else's");
    });
}

#[test]
fn where_the_kernel_does_not_move_what_waits_the_next_holder_gets_it() {
    in_netns(|| {
        let daemon = Daemon::start_as(1001, &web(3));
        assert_eq!(migrates(), "0");
        let text = "draining: cannot write /proc/sys/net/ipv4/tcp_migrate_req";
        assert_eq!(daemon.log().matches(text).count(), 1, "{}", daemon.log());
        let clients: Vec<_> = (0..60).map(|_| TcpStream::connect(WEB).unwrap()).collect();
        reload_as(&daemon, &web(1));
        assert_eq!(states(&daemon, "web"), ["listening", "draining", "draining"]);
        let mut program = daemon.portbroker_as(1001, &["exec", "web", "--", "python3", "-c", TAKE_60]);
        let (status, taken, errors) = daemon::run(&mut program);
        assert_eq!((status, taken.as_str()), (0, "60 from 3 of web:web:web\n"), "{errors}");
        eventually("the surplus is closed", || states(&daemon, "web") == ["listening"]);
        drop(clients);
    });
}

const TAKE_60: &str = "
import os, select, socket
ls = [socket.socket(fileno=fd) for fd in range(3, 3 + int(os.environ['LISTEN_FDS']))]
taken = 0
while taken < 60:
    for l in select.select(ls, [], [])[0]: l.accept(); taken += 1
print(taken, 'from', len(ls), 'of', os.environ['LISTEN_FDNAMES'])
";

/// A daemon of that user takes it from that user.
fn reload_as(daemon: &Daemon, configuration: &str) {
    fs::write(daemon.config(), configuration).unwrap();
    let (status, _, errors) = daemon::run(&mut daemon.portbroker_as(1001, &["reload"]));
    // It says that reserved ports take a privilege which this daemon does not have.
    assert_eq!(status, 0, "{errors}");
}

/// Sockets of one address, as an earlier daemon would have had them.
fn stored(count: usize) -> Vec<Socket> {
    let address: SocketAddr = WEB.parse().unwrap();
    let one = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SockAddr::from(address)).unwrap();
        socket.listen(100).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket
    };
    (0..count).map(|_| one()).collect()
}

fn inode(socket: &Socket) -> u64 {
    nix::sys::stat::fstat(socket).unwrap().st_ino
}

#[test]
fn the_next_daemon_finds_shards_and_those_that_are_drained_among_what_was_stored() {
    in_netns(|| {
        let sockets = stored(4);
        let clients: Vec<_> = (0..40).map(|_| TcpStream::connect(WEB).unwrap()).collect();
        let inodes: Vec<u64> = sockets.iter().map(inode).collect();
        let daemon = Daemon::start_with(&web(3), |command| {
            let folder = command.get_args().skip_while(|a| *a != "--root").nth(1).unwrap();
            let runtime = std::path::Path::new(folder).join("run/portbroker");
            fs::create_dir_all(&runtime).unwrap();
            // The second one had a successor.
            fs::write(runtime.join("draining"), format!("{}\n", inodes[1])).unwrap();
            pass(command, &sockets, &inodes);
        });
        drop(sockets);
        let shown = listener(&daemon, "web");
        let shown: Vec<u64> =
            shown["sockets"].as_array().unwrap().iter().map(|s| s["inode"].as_u64().unwrap()).collect();
        assert_eq!(shown, [inodes[0], inodes[2], inodes[3]], "the second one went over to the others");
        let (_, taken, errors) = daemon::run(
            daemon.portbroker(&["exec", "web", "--", "python3", "-c"]).arg(TAKE_60.replace("60", "40")),
        );
        assert_eq!(taken, "40 from 3 of web:web:web\n", "{errors}");
        drop(clients);
    });
}

/// Has a command started with sockets, under the names that they would have in the descriptor store.
fn pass(command: &mut std::process::Command, sockets: &[Socket], inodes: &[u64]) {
    let names: Vec<String> = inodes.iter().map(|inode| format!("portbroker.{inode}")).collect();
    let moves: Vec<String> =
        sockets.iter().enumerate().map(|(n, socket)| format!("{}<&{}", n + 3, socket.as_raw_fd())).collect();
    for socket in sockets {
        socket.set_cloexec(false).unwrap();
    }
    let script = format!("export LISTEN_PID=$$; exec \"$0\" \"$@\" {}", moves.join(" "));
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", &script]).arg(command.get_program()).args(command.get_args()).arg("--no-bus");
    shell.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    shell.env_remove("NOTIFY_SOCKET").env_remove("RUNTIME_DIRECTORY").env_remove("JOURNAL_STREAM");
    *command = shell;
}

#[test]
fn a_queue_that_overflows_is_seen_and_a_service_that_keeps_up_has_none() {
    in_netns(|| {
        let daemon = Daemon::start(&format!("{}backlog = 2\n", web(1)));
        let facts = |key: &str| listener(&daemon, "web")["sockets"][0][key].as_u64();
        assert_eq!((facts("queue"), facts("backlog"), facts("overflows")), (Some(0), Some(2), Some(0)));
        let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(WEB).unwrap()).collect();
        let late = TcpStream::connect_timeout(&WEB.parse().unwrap(), Duration::from_millis(300));
        assert!(late.is_err());
        assert_eq!(facts("queue"), Some(3));
        assert!(facts("overflows") > Some(0));
        let (_, text, _) = daemon::run(&mut daemon.portbroker(&["show", "listener", "web"]));
        assert!(text.contains(", queue 3 of 2, ") && text.contains(" found no room"), "{text}");
        let service = Served::start(&daemon, "web");
        eventually("the queue is empty", || facts("queue") == Some(0));
        service.end();
        drop(clients);
        let (status, text, _) = daemon::run(&mut daemon.portbroker(&["--json", "list", "listeners"]));
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(status == 0 && list[0]["sockets"][0]["queue"].is_null(), "{text}");
    });
}
