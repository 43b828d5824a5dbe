//! A keeper and its daemon.

use crate::daemon::{Daemon, run};
use crate::served::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) const WEB: &str = "[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7801\"\n";
pub(crate) const ADDRESS: &str = "127.0.0.1:7801";

/// A keeper; it and its daemon are killed when it is dropped.
pub(crate) fn kept(configuration: &str) -> Daemon {
    Daemon::start_with(configuration, |command| {
        command.args(["--no-bus", "--keeper"]);
    })
}

/// The same, of a copy of the program that the test may replace: at `program` in its folder.
pub(crate) fn kept_by_a_copy(configuration: &str) -> (Daemon, PathBuf) {
    let mut program = PathBuf::new();
    let daemon = Daemon::start_with(configuration, |command| {
        let folder = PathBuf::from(command.get_args().skip_while(|a| *a != "--root").nth(1).unwrap());
        program = folder.join("program");
        install(&program);
        let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        *command = Command::new(&program);
        command.args(arguments).args(["--no-bus", "--keeper"]).env_remove("NOTIFY_SOCKET");
    });
    (daemon, program)
}

/// As a package does it: beside it, and then in its place.
pub(crate) fn install(program: &Path) {
    let new = program.with_extension("new");
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_portbrokerd")).arg(&new).status().unwrap();
    assert!(copied.success());
    std::fs::rename(new, program).unwrap();
}

/// Puts a script in the place of a program.
pub(crate) fn install_script(program: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let new = program.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(new, program).unwrap();
}

/// The children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The daemon of a keeper, if it has one just now.
pub(crate) fn child_of(keeper: &Daemon) -> Option<u32> {
    children(keeper.pid()).first().copied()
}

pub(crate) fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Ends the daemon by a signal, and waits until another one answers.
pub(crate) fn end_daemon(keeper: &Daemon, signal: Signal) -> u32 {
    let before = child_of(keeper).unwrap();
    send(before, signal);
    let mut now = 0;
    eventually("the next daemon", || {
        now = child_of(keeper).unwrap_or(before);
        now != before
    });
    answers(keeper);
    now
}

pub(crate) fn kill_daemon(keeper: &Daemon) -> u32 {
    end_daemon(keeper, Signal::SIGKILL)
}

/// A call, which waits in the private socket for as long as there is no daemon.
pub(crate) fn answers(keeper: &Daemon) {
    let (status, text, errors) = run(&mut keeper.portbroker(&["status"]));
    assert!(status < 2, "{status}: {text}{errors}");
}

/// The inode of the first socket of a listener.
pub(crate) fn inode(keeper: &Daemon, name: &str) -> u64 {
    crate::served::listener(keeper, name)["sockets"][0]["inode"].as_u64().unwrap()
}

/// A client that waits in a queue.
pub(crate) fn waiting() -> TcpStream {
    TcpStream::connect(ADDRESS).unwrap()
}

/// It is answered with `ok` at last.
pub(crate) fn is_answered(mut client: TcpStream) {
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = [0; 2];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ok");
}

/// Whether a process is there and no zombie.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

pub(crate) fn write(path: &Path, text: &str) {
    std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// The log, once it has this.
pub(crate) fn logged(keeper: &Daemon, text: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !keeper.log().contains(text) {
        assert!(Instant::now() < deadline, "the log does not come to {text:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
