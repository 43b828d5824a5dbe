//! Thousands of leased connections that end at once: more than the kernel's queue of ends has room for.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/leases.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod leases;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;

use daemon::Daemon;
use leases::{Client, eventually};
use netns::{in_netns, spawn};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Both ends of each are told of; the queue has room for some 15,000.
const CONNECTIONS: u32 = 19_000;
const POOL: &str = "[[pool]]\nname = \"egress\"\naddresses = [\"127.0.0.2\"]\nports = \"10000-28999\"\n";
const TO: &str = "127.0.0.1:443";

/// Accepts everything and keeps it.
const SERVE: &str = "
import socket
l = socket.socket(); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.bind(('127.0.0.1', 443)); l.listen(4096); print('ready', flush=True)
kept = []
while True: kept.append(l.accept()[0])
";

/// Connects from all ports of the pool and keeps that.
const CONNECT: &str = "
import socket, sys
kept = []
for port in range(10000, 29000):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('127.0.0.2', port)); s.connect(('127.0.0.1', 443)); kept.append(s)
print('ready', flush=True)
sys.stdin.read()
";

fn python(program: &str) -> Child {
    let mut command = Command::new("python3");
    let mut child = spawn(command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn ends_that_nobody_was_told_of_are_found_by_looking() {
    in_netns(|| {
        let daemon = Daemon::start_with(POOL, |command| {
            command.arg("--no-bus").env("RUST_LOG", "info,portbroker::broker::outbound::looks=debug");
        });
        let client = Client::of(&daemon);
        let session = client.open();
        client.blocks(&session, "egress", TO, CONNECTIONS, None).unwrap();
        let (service, clients) = (python(SERVE), python(CONNECT));
        drop(session);
        // All of them are looked at, and seen to be open.
        eventually("the end of the lease", || client.address("egress", "127.0.0.2").2 == CONNECTIONS);
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(client.address("egress", "127.0.0.2"), ("in-use".into(), 0, CONNECTIONS));
        let pid = Pid::from_raw(daemon.pid().cast_signed());
        kill(pid, Signal::SIGSTOP).unwrap();
        // The service first, so that TIME_WAIT is on its side.
        end(service);
        std::thread::sleep(Duration::from_millis(500));
        end(clients);
        std::thread::sleep(Duration::from_millis(500));
        kill(pid, Signal::SIGCONT).unwrap();
        eventually("all ports", || client.address("egress", "127.0.0.2").2 == 0);
        assert!(daemon.log().contains("overflow"), "the queue had room for all");
        let session = client.open();
        client.blocks(&session, "egress", TO, CONNECTIONS, None).unwrap();
    });
}
