//! From exec to READY with ten thousand listeners, beside a process that makes the same system calls and nothing else.

use crate::acquire::descriptors;
use crate::measure::{Samples, Table, Target, in_milliseconds, row};
use crate::place::{in_role, listener};
use socket2::{Domain, SockAddr, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 9;
const FIRST: u16 = 10_000;
pub(crate) const LISTENERS: u16 = 10_000;

/// What the daemon may take in addition to half as much again as the bare loop.
const MILLISECONDS: f64 = 100.0;

pub(crate) fn measure() -> Table {
    let [mut stored, mut unstored, mut bare] = [const { Samples::new() }; 3];
    for n in 0..=RUNS {
        let of_bare = until_ready(in_role(BARE));
        let folder = daemons_folder();
        let of_stored = until_ready(daemon(folder.path()));
        let folder = daemons_folder();
        let of_unstored = until_it_answers(daemon(folder.path()), &folder.path().join("bus"));
        // The first run warms up.
        if n > 0 {
            bare.push(of_bare);
            stored.push(of_stored);
            unstored.push(of_unstored);
        }
    }
    let limit = bare.median().mul_add(1.5, MILLISECONDS);
    Table {
        title: format!("exec to READY with {LISTENERS} listeners, {RUNS} runs each"),
        unit: "ms",
        ours: row("portbrokerd, the sockets into the descriptor store", stored),
        target: Target {
            limit,
            says: format!("at most 1.5 x the bare loop + {MILLISECONDS} ms = {limit:.1} ms"),
        },
        others: vec![
            row("a bare loop of the same system calls, without the store", bare),
            row("portbrokerd without NOTIFY_SOCKET, to its first answer", unstored),
        ],
    }
}

/// An ended process is no child any more, and its sockets are closed.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn daemons_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tables: String = (0..LISTENERS).map(|n| listener(&format!("l{n}"), FIRST + n)).collect();
    std::fs::write(folder.path().join("portbroker.toml"), tables).unwrap();
    folder
}

pub(crate) fn daemon(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portbrokerd"));
    command.arg("--no-bus").arg("--root").arg(folder).arg("--config").arg(folder.join("portbroker.toml"));
    command.arg("--socket").arg(folder.join("bus"));
    for variable in ["LISTEN_FDS", "LISTEN_PID", "RUNTIME_DIRECTORY", "JOURNAL_STREAM"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stderr(std::fs::File::create(folder.join("log")).unwrap());
    command
}

/// In the place of systemd: takes what comes for the store and closes it, until READY comes.
fn until_ready(mut command: Command) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    command.env("NOTIFY_SOCKET", &path);
    let begin = Instant::now();
    let _process = Ended(command.spawn().unwrap());
    let mut buffer = [0; 4096];
    loop {
        let (length, received) = descriptors(socket.as_raw_fd(), &mut buffer);
        for descriptor in received {
            nix::unistd::close(descriptor).unwrap();
        }
        if buffer[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            return in_milliseconds(begin.elapsed());
        }
    }
}

/// Until a call of the private socket is answered, which is after the ports are bound.
fn until_it_answers(mut command: Command, socket: &Path) -> f64 {
    command.env_remove("NOTIFY_SOCKET");
    let begin = Instant::now();
    let mut process = Ended(command.spawn().unwrap());
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(_) => std::thread::sleep(Duration::from_micros(500)),
        }
        assert!(process.0.try_wait().unwrap().is_none(), "the daemon ended");
    };
    // The first word of the handshake is answered when the daemon serves.
    std::io::Write::write_all(&mut stream, b"\0AUTH EXTERNAL\r\n").unwrap();
    std::io::Read::read_exact(&mut stream, &mut [0; 4]).unwrap();
    in_milliseconds(begin.elapsed())
}

/// The role that binds and listens without ado.
pub(crate) const BARE: &str = "bare";

/// The whole life of [`BARE`]: the system calls that a listener takes in `portbroker::kernel::socket`.
pub(crate) fn bare() {
    let sockets: Vec<Socket> = (0..LISTENERS)
        .map(|n| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_freebind_v4(true).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + n)))).unwrap();
            socket.set_reuse_address(false).unwrap();
            socket.listen(4096).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket
        })
        .collect();
    let path = std::env::var_os("NOTIFY_SOCKET").unwrap();
    UnixDatagram::unbound().unwrap().send_to(b"READY=1", path).unwrap();
    // Until it is killed.
    std::thread::park();
    drop(sockets);
}
