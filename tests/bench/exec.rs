//! A program that is started with a socket: the whole life of the process, seen from outside.

use crate::daemon::Daemon;
use crate::measure::{Samples, Table, Target, milliseconds, row};
use crate::place::listener;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const RUNS: usize = 100;
const WARM_UP: usize = 5;

/// The most that a run should take.
const MILLISECONDS: f64 = 5.0;

pub(crate) fn measure() -> Table {
    let daemon = Daemon::start(&listener("web", 7801));
    let folder = tempfile::tempdir().unwrap();
    let holder = Holder::start(folder.path());
    let [mut ours, mut theirs, mut bare] = [const { Samples::new() }; 3];
    for n in 0..WARM_UP + RUNS {
        for (samples, mut command) in [
            (&mut ours, daemon.portbroker(&["exec", "web", "--", "true"])),
            (&mut theirs, holder.retrieve()),
            (&mut bare, Command::new("true")),
        ] {
            let (took, status) = milliseconds(|| command.status().unwrap());
            assert!(status.success(), "{command:?}");
            if n >= WARM_UP {
                samples.push(took);
            }
        }
    }
    Table {
        title: format!("the start and end of a process that is given a socket, {RUNS} runs each"),
        unit: "ms",
        ours: row("portbroker exec web -- true", ours),
        target: Target { limit: MILLISECONDS, says: format!("at most {MILLISECONDS} ms") },
        others: vec![row("s6-fdholder-retrieve SOCKET web true", theirs), row("true", bare)],
    }
}

/// s6's holder of descriptors, with one stored as `web`; killed when dropped.
struct Holder {
    daemon: Child,
    socket: PathBuf,
}

impl Holder {
    fn start(folder: &Path) -> Self {
        let (socket, rules) = (folder.join("holder"), folder.join("rules"));
        // s6-accessrules: root may do everything.
        let environment = rules.join("uid/0/env");
        std::fs::create_dir_all(&environment).unwrap();
        std::fs::write(rules.join("uid/0/allow"), "").unwrap();
        for permission in ["S6_FDHOLDER_STORE_REGEX", "S6_FDHOLDER_RETRIEVE_REGEX"] {
            std::fs::write(environment.join(permission), ".*\n").unwrap();
        }
        let mut command = Command::new("s6-fdholder-daemon");
        command.args(["-1", "-i"]).arg(rules).arg(&socket);
        let mut daemon = command.stdout(Stdio::piped()).spawn().expect("needs s6");
        // A line says that it is ready.
        daemon.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let holder = Self { daemon, socket };
        holder.store();
        holder
    }

    fn store(&self) {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let address: std::net::SocketAddr = "127.0.0.1:7802".parse().unwrap();
        listener.bind(&address.into()).unwrap();
        listener.listen(128).unwrap();
        let mut command = Command::new("s6-fdholder-store");
        command.args(["-d", "0"]).arg(&self.socket).arg("web");
        let status = command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener))).status().unwrap();
        assert!(status.success(), "s6-fdholder-store");
    }

    fn retrieve(&self) -> Command {
        let mut command = Command::new("s6-fdholder-retrieve");
        command.arg(&self.socket).args(["web", "true"]).stdin(Stdio::null());
        command
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
