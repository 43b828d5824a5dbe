//! The real `portbrokerd` in a folder of the test's own; for tests in a network namespace of their own (`netns`).

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
}

impl Daemon {
    /// Starts one with this configuration, and waits until it answers.
    pub(crate) fn start(configuration: &str) -> Self {
        Self::start_with(configuration, |command| {
            command.arg("--no-bus");
        })
    }

    pub(crate) fn start_with(configuration: &str, change: impl FnOnce(&mut Command)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Other users shall reach the socket.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let config = folder.path().join("portbroker.toml");
        fs::write(&config, configuration).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_portbrokerd"));
        command.arg("--config").arg(&config).arg("--root").arg(folder.path());
        command.arg("--socket").arg(folder.path().join("bus"));
        for variable in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "RUNTIME_DIRECTORY", "JOURNAL_STREAM"] {
            command.env_remove(variable);
        }
        change(&mut command);
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        let mut daemon = Self { child, folder };
        daemon.wait_until_it_answers();
        daemon
    }

    fn wait_until_it_answers(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        // Its socket is there before everything is held, and calls wait in it.
        while run(&mut self.portbroker(&["list", "listeners"])).0 != 0 {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{ended:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("bus")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("portbroker.toml")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs as another user, in a folder that is that user's.
    pub(crate) fn start_as(uid: u32, configuration: &str) -> Self {
        Self::start_with(configuration, |command| {
            let folder = PathBuf::from(command.get_args().skip_while(|a| *a != "--root").nth(1).unwrap());
            for path in [folder.clone(), folder.join("portbroker.toml")] {
                std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
            }
            let program = folder.join("portbrokerd");
            copy_program(env!("CARGO_BIN_EXE_portbrokerd"), &program);
            let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
            *command = Command::new(program);
            command.args(arguments).arg("--no-bus").uid(uid).gid(uid);
            command.env_remove("NOTIFY_SOCKET").env_remove("LISTEN_FDS").env_remove("XDG_RUNTIME_DIR");
        })
    }

    /// The status with which it ends by itself.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    /// Ends the daemon as an administrator would.
    pub(crate) fn terminate(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    /// Kills the daemon and starts it anew in the same folder, with another configuration.
    pub(crate) fn restart_after_kill(&mut self, configuration: &str) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        fs::write(self.config(), configuration).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_portbrokerd"));
        command.arg("--config").arg(self.config()).arg("--root").arg(self.folder()).arg("--no-bus");
        command.arg("--socket").arg(self.socket()).stdin(Stdio::null());
        let log = fs::File::options().append(true).open(self.folder().join("log")).unwrap();
        self.child = command.stderr(log).spawn().unwrap();
        self.wait_until_it_answers();
    }

    /// A call of the command line as another user.
    pub(crate) fn portbroker_as(&self, uid: u32, arguments: &[&str]) -> Command {
        let program = self.folder().join("portbroker");
        if !program.exists() {
            copy_program(env!("CARGO_BIN_EXE_portbroker"), &program);
        }
        let mut command = Command::new(program);
        command.env("PORTBROKER_SOCKET", self.socket()).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        command.args(arguments).uid(uid).gid(uid);
        command
    }

    /// A call of the command line, to this daemon.
    pub(crate) fn portbroker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
        command.env("PORTBROKER_SOCKET", self.socket()).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        command.args(arguments);
        command
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies a program to where another user may run it; by another process, for a descriptor of ours that is open
/// for writing could be in a child of another test just then, and the program be busy.
fn copy_program(from: &str, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}

/// Exit status, standard output, standard error.
pub(crate) fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Everything that a process writes up to this text.
pub(crate) fn read_until(from: &mut impl Read, end: &str) -> String {
    let (mut text, mut byte) = (String::new(), [0]);
    while !text.ends_with(end) {
        from.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {text:?}"));
        text.push(char::from(byte[0]));
    }
    text
}
