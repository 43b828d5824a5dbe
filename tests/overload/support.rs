//! The daemon that is flooded, by whom, and what it says of its limits.

use crate::daemon::{Daemon, run};
use serde_json::Value;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who misbehaves, who does not, and who the daemon is.
pub(crate) const BAD: u32 = 61_901;
pub(crate) const GOOD: u32 = 61_902;
pub(crate) const DAEMON: u32 = 61_903;

/// A listener of so many sockets for both, and one that is nobody's.
pub(crate) fn web(sockets: u16, more: &str) -> String {
    format!(
        "{more}\n[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:5000-{}\"\nallow = [\"user:{BAD}\", \"user:{GOOD}\"]\n\
         [[listener]]\nname = \"private\"\nstream = \"127.0.0.1:4999\"\n",
        4999 + sockets
    )
}

/// A daemon of a user of its own, which has so many descriptors, no right to more, and perhaps a service manager.
pub(crate) fn with_descriptors(configuration: &str, descriptors: u32, manager: Option<&Path>) -> Daemon {
    Daemon::start_with(configuration, |command| {
        let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        let folder = PathBuf::from(arguments.iter().skip_while(|a| *a != "--root").nth(1).unwrap());
        for path in [folder.clone(), folder.join("portbroker.toml")] {
            std::os::unix::fs::chown(path, Some(DAEMON), Some(DAEMON)).unwrap();
        }
        let program = folder.join("portbrokerd");
        let mut copy = Command::new("cp");
        assert!(copy.arg(env!("CARGO_BIN_EXE_portbrokerd")).arg(&program).status().unwrap().success());
        *command = Command::new("prlimit");
        command.arg(format!("--nofile={descriptors}:{descriptors}")).arg(program).args(arguments);
        command.arg("--no-bus").uid(DAEMON).gid(DAEMON);
        for variable in
            ["NOTIFY_SOCKET", "LISTEN_FDS", "XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY", "JOURNAL_STREAM"]
        {
            command.env_remove(variable);
        }
        command.envs(manager.map(|path| ("NOTIFY_SOCKET", path)));
    })
}

pub(crate) fn status(daemon: &Daemon) -> Value {
    let (_, text, errors) = run(&mut daemon.portbroker(&["--json", "status"]));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"))
}

/// A limit as `status` shows it.
pub(crate) fn limit(daemon: &Daemon, name: &str) -> Value {
    let status = status(daemon);
    let limits = status["limits"].as_array().unwrap();
    limits.iter().find(|limit| limit["name"] == name).unwrap().clone()
}

pub(crate) fn used(daemon: &Daemon, name: &str) -> u64 {
    limit(daemon, name)["used"].as_u64().unwrap()
}

/// How often a user hit a limit.
pub(crate) fn hits(daemon: &Daemon, name: &str, uid: u32) -> u64 {
    let limit = limit(daemon, name);
    let by = limit["hit_by"].as_array().unwrap().clone();
    by.iter().find(|by| by["who"] == format!("user {uid}")).map_or(0, |by| by["times"].as_u64().unwrap())
}

pub(crate) fn open_descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Resident memory in kB.
pub(crate) fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}
