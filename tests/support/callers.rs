//! Callers of the private socket that flood it, do not read, or send what nobody wants: processes of other users.

use crate::daemon::read_until;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PROGRAM: &str = include_str!("caller.py");

/// A process that calls; ended when dropped.
pub(crate) struct Caller {
    child: Child,
    /// What it said when it was ready.
    pub(crate) said: Vec<usize>,
}

impl Caller {
    /// Starts one, and waits until it is ready.
    pub(crate) fn start(socket: &Path, uid: u32, what: &[&str]) -> Self {
        Self::start_by(Command::new("python3"), socket, uid, what)
    }

    /// The root of a container that has no users of its own.
    pub(crate) fn contained(socket: &Path, what: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "python3"]);
        Self::start_by(command, socket, 0, what)
    }

    /// By a command to which its arguments are added: where else it is to run.
    pub(crate) fn start_by(mut command: Command, socket: &Path, uid: u32, what: &[&str]) -> Self {
        command.args(["-c", PROGRAM]).arg(socket).arg(uid.to_string()).args(what);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("needs python3");
        let line = read_until(child.stdout.as_mut().unwrap(), "\n");
        let said = line.trim().strip_prefix("ready").unwrap_or_else(|| panic!("{line:?} of {what:?}"));
        let said = said.split_whitespace().map(|number| number.parse().unwrap()).collect();
        Self { child, said }
    }

    /// Tells it to end, and gives the numbers of the last line that it says.
    pub(crate) fn end(mut self) -> Vec<u64> {
        drop(self.child.stdin.take());
        let text = read_until(self.child.stdout.as_mut().unwrap(), "\n");
        assert!(self.child.wait().unwrap().success());
        text.split_whitespace().map(|number| number.parse().unwrap()).collect()
    }

    /// What came of one that measures: microseconds of each call in order of length, errors, descriptors.
    pub(crate) fn measured(mut self) -> (Vec<u64>, u64, u64) {
        let stdout = self.child.stdout.as_mut().unwrap();
        let numbers = |line: String| -> Vec<u64> {
            line.split_whitespace().map(|number| number.parse().unwrap()).collect()
        };
        let mut times = numbers(read_until(stdout, "\n"));
        let counts = numbers(read_until(stdout, "\n"));
        times.sort_unstable();
        (times, counts[0], counts[1])
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The median, and what 99 of 100 are below.
pub(crate) fn median_and_most(times: &[u64]) -> (u64, u64) {
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
