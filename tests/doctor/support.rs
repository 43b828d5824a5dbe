//! Hosts to be looked at: files below a root, processes of other users, and what is found.

use crate::daemon::{read_until, run};
use crate::netns::spawn;
use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Files of a host, in a folder that everybody may read.
pub(crate) struct Root(tempfile::TempDir);

impl Root {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = Self(folder);
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn join(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    /// `portbroker doctor` on these files, with no broker there.
    pub(crate) fn doctor(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
        command.env("PORTBROKER_SOCKET", "/nonexistent/bus");
        command.args(["doctor", "--root"]).arg(self.path()).stdin(Stdio::null());
        command
    }

    /// The same by another user, who may run a copy.
    pub(crate) fn doctor_as(&self, uid: u32) -> Command {
        let program = self.join("portbroker");
        if !program.exists() {
            // By another process: a descriptor of ours that is open for writing could be in a child of another test.
            let source = env!("CARGO_BIN_EXE_portbroker");
            assert!(Command::new("cp").arg(source).arg(&program).status().unwrap().success());
        }
        let mut command = Command::new(program);
        command.env("PORTBROKER_SOCKET", "/nonexistent/bus").uid(uid).gid(uid);
        command.args(["doctor", "--root"]).arg(self.path()).stdin(Stdio::null());
        command
    }
}

/// What one line of JSON says.
pub(crate) struct Report {
    pub(crate) status: i32,
    pub(crate) document: Value,
}

pub(crate) fn report(command: &mut Command) -> Report {
    let (status, out, errors) = run(command.arg("--json"));
    assert_eq!(out.lines().count(), 1, "{out}{errors}");
    let document: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in {out:?}"));
    let wrong = document["errors"] != 0 || document["warnings"] != 0;
    assert_eq!((document["state"] == "wrong", status), (wrong, i32::from(wrong)), "{document}");
    Report { status, document }
}

impl Report {
    /// The findings of one kind in the own network namespace.
    pub(crate) fn found(&self, code: &str) -> Vec<&Value> {
        let elsewhere =
            |finding: &Value| finding["subject"].as_str().unwrap().contains(" in the network namespace ");
        let all = self.document["findings"].as_array().unwrap().iter();
        all.filter(|finding| finding["code"] == code && !elsewhere(finding)).collect()
    }

    /// The one of its kind.
    pub(crate) fn one(&self, code: &str) -> &Value {
        let found = self.found(code);
        assert_eq!(found.len(), 1, "{code}: {}", self.document);
        found[0]
    }

    /// Whether it is about this.
    pub(crate) fn has(&self, code: &str, subject: &str) -> bool {
        self.found(code).iter().any(|finding| finding["subject"] == subject)
    }
}

/// The lines by which one sees it.
pub(crate) fn evidence(finding: &Value) -> String {
    let lines = finding["evidence"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

/// A Python program of another user, that lives until it is dropped or told to go on.
pub(crate) struct Program {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

const FRAME: &str = "
import socket, sys
TCP, UDP = (socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM)
S, ADDRESS, PORT = socket.SOL_SOCKET, socket.SO_REUSEADDR, socket.SO_REUSEPORT
def made(kind, *options):
    s = socket.socket(*kind)
    for option in options: s.setsockopt(S, option, 1)
    return s
def tried(act):
    try: act(); return 'done'
    except OSError as e: return str(e.errno)
def go_on():
    print('ready', flush=True)
    sys.stdin.readline()
";

impl Program {
    /// Runs it up to its first `go_on()`.
    pub(crate) fn new(uid: u32, program: &str) -> Self {
        let text = format!("{FRAME}{program}\ngo_on()");
        let mut command = Command::new("python3");
        command.args(["-c", &text]).uid(uid).gid(uid).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn(&mut command);
        let (stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        read_until(&mut stdout, "ready\n");
        Self { child, stdin, stdout }
    }

    /// What a program says before its first `go_on()`.
    pub(crate) fn says(uid: u32, program: &str) -> String {
        let mut command = Command::new("python3");
        command.args(["-c", &format!("{FRAME}{program}")]).uid(uid).gid(uid);
        let (status, out, errors) = run(&mut command);
        assert_eq!(status, 0, "{errors}");
        out.trim_end().to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it run to its next `go_on()`, and gives what it printed.
    pub(crate) fn go_on(&mut self) -> String {
        self.stdin.write_all(b"\n").unwrap();
        read_until(&mut self.stdout, "ready\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A sysctl of this network namespace.
pub(crate) fn set(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/ipv4/{name}"), format!("{value}\n")).unwrap();
}
