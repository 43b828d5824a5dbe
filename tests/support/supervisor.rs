//! In the place of systemd: starts the daemon, keeps what it puts into the descriptor store, and gives that to the
//! next one, with a private socket in whose queue callers wait meanwhile.

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsFd as _, AsRawFd, FromRawFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A daemon that does not come up is a fault, and not to be waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts daemons, one after the other.
pub(crate) struct Supervisor {
    folder: tempfile::TempDir,
    notify: UnixDatagram,
    private: OwnedFd,
    store: BTreeMap<String, Vec<OwnedFd>>,
    child: Option<Child>,
}

impl Supervisor {
    /// With this configuration; nothing runs yet.
    pub(crate) fn new(configuration: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("portbroker.toml"), configuration).unwrap();
        let notify = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let private = UnixListener::bind(folder.path().join("bus")).unwrap().into();
        Self { folder, notify, private, store: BTreeMap::new(), child: None }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the daemon writes down what the next one has to know.
    pub(crate) fn runtime_directory(&self) -> PathBuf {
        self.folder.path().join("run/portbroker")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("bus")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn configure(&self, configuration: &str) {
        fs::write(self.folder.path().join("portbroker.toml"), configuration).unwrap();
    }

    /// The daemon, by exec as systemd does it: with LISTEN_PID and descriptors from 3 on.
    fn command(&self) -> Command {
        let private = ("portbroker", &self.private);
        let stored =
            self.store.iter().flat_map(|(name, all)| all.iter().map(move |one| (name.as_str(), one)));
        let passed: Vec<(&str, &OwnedFd)> = std::iter::once(private).chain(stored).collect();
        let mut moves = String::new();
        for (n, (_, descriptor)) in passed.iter().enumerate() {
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
            moves.push_str(&format!(" {}<&{}", 3 + n, descriptor.as_raw_fd()));
        }
        let names: Vec<&str> = passed.iter().map(|(name, _)| *name).collect();
        let folder = self.folder.path();
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("export LISTEN_PID=$$; exec \"$0\" \"$@\"{moves}"));
        command.arg(env!("CARGO_BIN_EXE_portbrokerd")).arg("--no-bus");
        command.arg("--config").arg(folder.join("portbroker.toml")).arg("--root").arg(folder);
        command.env("LISTEN_FDS", passed.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        command.env("NOTIFY_SOCKET", folder.join("notify"));
        command.env_remove("RUNTIME_DIRECTORY").env_remove("STATE_DIRECTORY").env_remove("JOURNAL_STREAM");
        let log = fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        command.stdin(Stdio::null()).stderr(log);
        command
    }

    /// Starts a daemon, and does not wait for it.
    pub(crate) fn begin(&mut self) {
        assert!(self.child.is_none(), "one runs already");
        self.child = Some(crate::netns::spawn(&mut self.command()));
    }

    /// Waits until it says that it is ready.
    pub(crate) fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.catch_up() {
            let mut readable = [PollFd::new(self.notify.as_fd(), PollFlags::POLLIN)];
            poll(&mut readable, PollTimeout::from(100_u16)).unwrap();
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}: {}", self.log());
        }
    }

    /// Does what the messages say that are there; whether one says that the daemon is ready.
    pub(crate) fn catch_up(&mut self) -> bool {
        let mut ready = false;
        while let Some((text, descriptors)) = receive(&self.notify) {
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
            if text.contains("FDSTORE=1") {
                self.store.entry(name.to_owned()).or_default().extend(descriptors);
            } else if text.contains("FDSTOREREMOVE=1") {
                self.store.remove(name);
            }
            ready |= text.lines().any(|line| line == "READY=1");
        }
        ready
    }

    /// Ends the daemon by a signal, and has what it stored.
    pub(crate) fn end(&mut self, how: Signal) {
        let mut child = self.child.take().expect("a daemon runs");
        kill(Pid::from_raw(child.id().cast_signed()), how).unwrap();
        child.wait().unwrap();
        self.catch_up();
    }

    /// Waits for a daemon that gives up.
    pub(crate) fn wait_until_it_ends(&mut self) {
        let mut child = self.child.take().expect("a daemon runs");
        child.wait().unwrap();
        self.catch_up();
    }

    /// A call of the command line, to this daemon.
    pub(crate) fn portbroker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
        command.env("PORTBROKER_SOCKET", self.socket()).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        command.args(arguments);
        command
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.char_indices().rev().nth(20_000).map_or(0, |(at, _)| at);
            eprintln!("the end of the daemon's log:\n{}", &log[from..]);
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A message with its descriptors, if there is one.
#[expect(unsafe_code, reason = "the numbers of a message become owners")]
fn receive(from: &impl AsRawFd) -> Option<(String, Vec<OwnedFd>)> {
    let mut bytes = vec![0; 8192];
    let mut room = nix::cmsg_space!([i32; 253]);
    let (length, raw) = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<UnixAddr>(from.as_raw_fd(), &mut parts, Some(&mut room), flags).ok()?;
        let rights = message.cmsgs().unwrap().filter_map(|part| match part {
            ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        (message.bytes, rights.flatten().collect::<Vec<_>>())
    };
    bytes.truncate(length);
    // SAFETY: recvmsg(2) has just put them into our table, and told nobody else of them.
    let owned = raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }).collect();
    Some((String::from_utf8(bytes).unwrap(), owned))
}
