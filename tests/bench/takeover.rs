//! From exec to READY of a daemon that follows a killed one, with ten thousand sockets in the descriptor store.

use crate::acquire::descriptors;
use crate::measure::{Samples, Table, Target, in_milliseconds, milliseconds, row};
use crate::ready::{Ended, LISTENERS, daemon, daemons_folder};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 9;
/// The most that a takeover may take.
const MILLISECONDS: f64 = 100.0;
/// The most that a list of all may take.
const MILLISECONDS_OF_A_LIST: f64 = 1000.0;

/// In the place of systemd: keeps what comes for the store, and gives it to the next daemon.
struct Supervisor {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
    store: BTreeMap<String, Vec<OwnedFd>>,
}

impl Supervisor {
    fn new() -> Self {
        let folder = daemons_folder();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { folder, socket, store: BTreeMap::new() }
    }

    /// The next daemon, which gets what is in the store, by exec as systemd does it.
    fn command(&self) -> Command {
        let daemon = daemon(self.folder.path());
        let stored: Vec<_> =
            self.store.iter().flat_map(|(name, all)| all.iter().map(move |one| (name, one))).collect();
        let (mut moves, mut names) = (String::new(), Vec::new());
        for (n, (name, descriptor)) in stored.iter().enumerate() {
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
            moves.push_str(&format!(" {}<&{}", 3 + n, descriptor.as_raw_fd()));
            names.push(name.as_str());
        }
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("export LISTEN_PID=$$; exec \"$0\" \"$@\"{moves}"));
        command.arg(daemon.get_program()).args(daemon.get_args());
        command.env("LISTEN_FDS", stored.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        command.env_remove("RUNTIME_DIRECTORY").env_remove("JOURNAL_STREAM");
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stderr(log);
        command
    }

    fn start(&mut self) -> (f64, Ended) {
        let mut command = self.command();
        let begin = Instant::now();
        let process = Ended(command.spawn().unwrap());
        let mut buffer = [0; 4096];
        loop {
            let (length, received) = descriptors(self.socket.as_raw_fd(), &mut buffer);
            let text = std::str::from_utf8(&buffer[..length]).unwrap();
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
            if let Some(name) = name.filter(|_| text.contains("FDSTORE=1")) {
                let owned = received.iter().map(|raw| owned(*raw));
                self.store.entry(name.to_owned()).or_default().extend(owned);
            } else if let Some(name) = name.filter(|_| text.contains("FDSTOREREMOVE=1")) {
                self.store.remove(name);
            } else if text.lines().any(|line| line == "READY=1") {
                return (in_milliseconds(begin.elapsed()), process);
            }
        }
    }
}

#[expect(unsafe_code, reason = "the numbers of a message become owners")]
fn owned(raw: i32) -> OwnedFd {
    // SAFETY: recvmsg(2) has just put it into our table, and told nobody else of it.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

pub(crate) fn measure() -> Table {
    let mut supervisor = Supervisor::new();
    let (cold, first) = supervisor.start();
    drop(first);
    let stored: usize = supervisor.store.values().map(Vec::len).sum();
    assert_eq!(stored, 2, "a box has two ends");
    let [mut taken, mut bare] = [const { Samples::new() }; 2];
    for n in 0..=RUNS {
        let mut nothing = Command::new("bash");
        let (of_bare, status) = milliseconds(|| nothing.args(["-c", "exec true"]).status().unwrap());
        assert!(status.success());
        let (time, daemon) = supervisor.start();
        let log = std::fs::read_to_string(supervisor.folder.path().join("log")).unwrap();
        assert!(log.contains(&format!("{LISTENERS} in all")) && log.contains("taken-over"), "{log}");
        // The first run warms up; it is killed when it is dropped, as all are.
        if n > 0 {
            taken.push(time);
            bare.push(of_bare);
        }
        drop(daemon);
    }
    Table {
        title: format!("exec to READY after a kill, {LISTENERS} sockets in the store, {RUNS} runs"),
        unit: "ms",
        ours: row("portbrokerd, from a box", taken),
        target: Target { limit: MILLISECONDS, says: format!("at most {MILLISECONDS} ms") },
        others: vec![
            row("of it, the shell that execs", bare),
            row("the cold start before them", Samples::from(cold)),
        ],
    }
}

pub(crate) fn measure_list() -> Table {
    let mut supervisor = Supervisor::new();
    let (_, daemon) = supervisor.start();
    let mut samples = Samples::new();
    for n in 0..=RUNS {
        let (time, output) = milliseconds(|| list(supervisor.folder.path()));
        assert_eq!(output.matches("127.0.0.1:").count(), usize::from(LISTENERS));
        if n > 0 {
            samples.push(time);
        }
    }
    drop(daemon);
    let limit = MILLISECONDS_OF_A_LIST;
    Table {
        title: format!("portbroker list listeners with {LISTENERS} of them, {RUNS} runs"),
        unit: "ms",
        ours: row("the whole program", samples),
        target: Target { limit, says: format!("at most {limit} ms") },
        others: Vec::new(),
    }
}

fn list(folder: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
    command.args(["list", "listeners"]).env("PORTBROKER_SOCKET", folder.join("bus"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
