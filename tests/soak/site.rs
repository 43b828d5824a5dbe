//! The daemon with a service manager of the test's own, which kills it and starts it anew with what it had stored.

use crate::manager::Manager;
use crate::netns::{spawn, undisturbed};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// As the namespace of this thread has it.
pub(crate) const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Where all of it happens.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    private: UnixListener,
    bus: String,
    state: Mutex<State>,
}

struct State {
    manager: Manager,
    child: Option<Child>,
}

/// What should be as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figures {
    /// `RssAnon`, in kB.
    pub(crate) memory: u64,
    pub(crate) descriptors: usize,
    /// Descriptors in the service manager's store, and sockets in these.
    pub(crate) stored: usize,
    pub(crate) sockets: usize,
    pub(crate) reserved: String,
    pub(crate) files: BTreeSet<String>,
    pub(crate) leases: usize,
    pub(crate) sessions: usize,
    pub(crate) holders: usize,
}

impl Figures {
    /// The others, to be compared.
    pub(crate) fn but_memory(&self) -> Self {
        Self { memory: 0, ..self.clone() }
    }
}

impl Site {
    /// Starts the first daemon: there is none to be killed before it.
    pub(crate) fn start(configuration: &str, bus: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let private = UnixListener::bind(folder.path().join("bus")).unwrap();
        fs::set_permissions(folder.path().join("bus"), fs::Permissions::from_mode(0o666)).unwrap();
        let manager = Manager::new(folder.path().join("notify"));
        let state = Mutex::new(State { manager, child: None });
        let site = Self { folder, private, bus: bus.to_owned(), state };
        site.configure(configuration);
        site.kill();
        site
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder().join("bus")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap()
    }

    /// Puts a file in the place of the configuration; a reload takes it.
    pub(crate) fn configure(&self, text: &str) {
        let new = self.folder().join("portbroker.toml.new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.folder().join("portbroker.toml")).unwrap();
    }

    fn daemon(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portbrokerd"));
        command.arg("--config").arg(self.folder().join("portbroker.toml")).arg("--root").arg(self.folder());
        command.env("DBUS_SYSTEM_BUS_ADDRESS", &self.bus).env("RUST_LOG", "warn");
        command.env_remove("RUNTIME_DIRECTORY").env_remove("JOURNAL_STREAM");
        command
    }

    fn start_again(&self, state: &mut State) {
        let mut command = state.manager.starting(&self.daemon(), &self.private);
        let log = fs::File::options().append(true).create(true).open(self.folder().join("log")).unwrap();
        let child = undisturbed(|| command.stdin(Stdio::null()).stderr(log).spawn()).unwrap();
        state.child = Some(child);
    }

    /// Kills the daemon, and starts it anew at once.
    pub(crate) fn kill(&self) {
        let mut state = self.state.lock().unwrap();
        if let Some(child) = &mut state.child {
            child.kill().unwrap();
            let ended = child.wait().unwrap();
            assert_eq!(ended.code(), None, "it ended by itself: {ended}\n{}", self.log());
        }
        self.start_again(&mut state);
    }

    /// Does what the daemon's messages say. It must never have ended by itself.
    pub(crate) fn catch_up(&self) {
        let mut state = self.state.lock().unwrap();
        state.manager.catch_up();
        let ended = state.child.as_mut().and_then(|child| child.try_wait().unwrap());
        assert!(ended.is_none(), "it ended by itself: {ended:?}\n{}", self.log());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.state.lock().unwrap().child.as_ref().unwrap().id()
    }

    /// A call of the command line.
    pub(crate) fn portbroker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
        command.env("PORTBROKER_SOCKET", self.socket()).env_remove("NOTIFY_SOCKET");
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Exit status, and what it writes.
    pub(crate) fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = self.portbroker(arguments);
        let child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    fn list(&self, what: &str) -> Vec<Value> {
        let (status, text) = self.run(&["--json", "list", what]);
        assert_eq!(status, Some(0), "{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The inodes of the sockets of a listener, by name.
    pub(crate) fn inodes(&self) -> BTreeMap<String, Vec<u64>> {
        let inodes = |row: &Value| {
            row["sockets"].as_array().unwrap().iter().map(|s| s["inode"].as_u64().unwrap_or(0)).collect()
        };
        self.list("listeners")
            .iter()
            .map(|row| (row["name"].as_str().unwrap().to_owned(), inodes(row)))
            .collect()
    }

    /// How it is now.
    pub(crate) fn figures(&self) -> Figures {
        let rows = self.list("listeners");
        let runtime = self.folder().join("run/portbroker");
        let names = |directory: PathBuf| {
            let entries = fs::read_dir(directory).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<BTreeSet<_>>()
        };
        let leases = self.list("leases").len();
        let pid = self.pid();
        let (stored, sockets) = {
            let mut state = self.state.lock().unwrap();
            let sockets = state.manager.kept().len();
            (state.manager.store.values().map(Vec::len).sum(), sockets)
        };
        // Our own questions take some, for a moment.
        let open = |_| {
            std::thread::sleep(Duration::from_millis(30));
            fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
        };
        let descriptors = (0..8).map(open).min().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        Figures {
            memory: memory.trim().trim_end_matches(" kB").parse().unwrap(),
            descriptors,
            stored,
            sockets,
            reserved: fs::read_to_string(RESERVED).unwrap().trim().to_owned(),
            sessions: names(runtime.join("sessions")).len(),
            files: names(runtime),
            leases,
            holders: rows.iter().filter(|row| !row["holder"].is_null()).count(),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("the end of the daemon's log, the last line first:\n{}", tail.join("\n"));
        }
        let state = self.state.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(child) = &mut state.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
