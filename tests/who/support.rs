//! Processes of other users with sockets, and what `who` says of them.

use crate::daemon::{Daemon, read_until, run};
use crate::netns::spawn;
use crate::served::eventually;
use serde_json::Value;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A Python program of another user, that lives until it is dropped or told to go on.
pub(crate) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
}

const FRAME: &str = "
import socket, sys
TCP, UDP = (socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM)
def go_on():
    print('ready', flush=True)
    sys.stdin.readline()
";

impl Program {
    /// Runs it up to its first `go_on()`.
    pub(crate) fn new(uid: u32, program: &str) -> Self {
        Self::with(
            Command::new("python3").args(["-c", &format!("{FRAME}{program}\ngo_on()")]).uid(uid).gid(uid),
        )
    }

    /// The same, in another network namespace.
    pub(crate) fn inside(namespace: &str, program: &str) -> Self {
        let text = format!("{FRAME}{program}\ngo_on()");
        Self::with(Command::new("ip").args(["netns", "exec", namespace, "python3", "-c", &text]))
    }

    fn with(command: &mut Command) -> Self {
        let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let stdin = child.stdin.take();
        let mut stdout = child.stdout.take().unwrap();
        read_until(&mut stdout, "ready\n");
        Self { child, stdin, stdout }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it run to its next `go_on()`, and gives what it printed.
    pub(crate) fn go_on(&mut self) -> String {
        use std::io::Write as _;
        self.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        read_until(&mut self.stdout, "ready\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// From now on the kernel gives this port, and no other, to connections of this network namespace.
pub(crate) fn only_port(port: u16) {
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{port} {port}\n")).unwrap();
}

/// A connection of a process of user 1001 whose source port the kernel chose, and its server.
pub(crate) fn connection_from(port: u16) -> (Program, TcpListener, std::net::TcpStream) {
    // What another test starts just now may have a copy of the one before, until it is a program of its own.
    let mut server = None;
    eventually("the server's address is free", || {
        server = TcpListener::bind("127.0.0.1:9443").ok();
        server.is_some()
    });
    let server = server.unwrap();
    only_port(port);
    let program = "
import time
for _ in range(300):
    try: s = socket.socket(*TCP); s.connect(('127.0.0.1', 9443)); break
    except OSError: time.sleep(0.1)
go_on()
try: print(len(s.recv(1)))
except OSError as e: print(e.errno)
";
    let client = Program::new(1001, program);
    let (accepted, from) = server.accept().unwrap();
    assert_eq!(from.port(), port, "the kernel's choice");
    (client, server, accepted)
}

/// `portbroker`, with no broker there.
pub(crate) fn alone(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
    command.env("PORTBROKER_SOCKET", "/nonexistent/bus").args(arguments).stdin(Stdio::null());
    command
}

/// The JSON document of a command that has to end with this status.
pub(crate) fn json(command: &mut Command, wanted: i32) -> Value {
    let (status, out, errors) = run(command.arg("--json"));
    assert_eq!(status, wanted, "{out}{errors}");
    assert_eq!(out.lines().count(), 1, "{out}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in {out:?}"))
}

/// The uses of the own network namespace.
pub(crate) fn own<'a>(document: &'a Value, kind: &str) -> Vec<&'a Value> {
    let uses = document["uses"].as_array().unwrap().iter();
    uses.filter(|one| one["use"] == kind && one["network"].is_null()).collect()
}

/// The text that people read of it.
pub(crate) fn text(command: &mut Command) -> String {
    let (status, out, errors) = run(command);
    assert_eq!(status, 0, "{out}{errors}");
    out
}

/// A daemon that can close sockets, or knows that the kernel cannot; `false` then.
pub(crate) fn can_destroy(document: &Value) -> bool {
    let mut rows = document["evicted"].as_array().unwrap().iter();
    !rows.any(|row| row["reason"].as_str().is_some_and(|reason| reason.contains("CONFIG_INET_DIAG_DESTROY")))
}

/// A daemon with nothing configured but what is given.
pub(crate) fn broker(configuration: &str) -> Daemon {
    Daemon::start(&format!("[protect]\nlearn = false\n{configuration}"))
}
