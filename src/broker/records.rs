//! What the next daemon has to know after a crash, in files of the runtime directory: who holds what, which
//! reserved ports are ours, and the last configuration that was good.
//!
//! All of it may be lost without losing a socket: those are in systemd's descriptor store. The directory is
//! on a tmpfs, so what is written here lives exactly as long as the kernel's own state.

use super::deposits::Deposits;
use super::unwritten::Unwritten;
use crate::kernel::holder::HolderClaim;
use crate::model::PortSet;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The version of the files' format; a file of another version is not read.
const VERSION: u32 = 1;

/// How a holder is found again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum HolderRecord {
    /// A process, told from a later one of the same pid by its start time (in clock ticks since boot).
    Process {
        /// Its pid.
        pid: i32,
        /// Its start time.
        start: u64,
    },
    /// A systemd unit, by its cgroup.
    Unit {
        /// The unit's name.
        unit: String,
        /// The path as in /proc/PID/cgroup.
        cgroup: String,
        /// The inode of its directory.
        life: Option<u64>,
    },
}

impl From<&HolderClaim> for HolderRecord {
    fn from(claim: &HolderClaim) -> Self {
        match claim {
            HolderClaim::Process { pid, start, .. } => Self::Process { pid: *pid, start: *start },
            HolderClaim::Unit { unit, cgroup, life } => {
                Self::Unit { unit: unit.to_string(), cgroup: cgroup.clone(), life: *life }
            }
        }
    }
}

impl fmt::Display for HolderRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, .. } => write!(f, "process {pid}"),
            Self::Unit { unit, .. } => f.write_str(unit),
        }
    }
}

/// A holder and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) holder: HolderRecord,
    pub(super) listeners: Vec<String>,
    /// What it was handed, whatever that is called by now; `None`: an earlier version wrote this down.
    #[serde(default)]
    pub(super) sockets: Option<Vec<HeldSocket>>,
}

/// A socket that somebody has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeldSocket {
    pub(super) inode: u64,
    /// The name of its listener when this was written down.
    pub(super) listener: String,
}

#[derive(Serialize, Deserialize)]
struct HoldersFile {
    version: u32,
    holders: Vec<Held>,
}

#[derive(Serialize, Deserialize)]
struct DepositsFile {
    version: u32,
    deposits: Deposits,
}

/// The files.
#[derive(Debug, Clone)]
pub(super) struct Records {
    directory: PathBuf,
    unwritten: RefCell<Unwritten>,
}

impl Records {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_path_buf(), unwritten: RefCell::default() }
    }

    pub(super) fn read_holders(&self) -> Vec<Held> {
        let Some(text) = self.read("holders.json") else { return Vec::new() };
        match serde_json::from_str::<HoldersFile>(&text) {
            Ok(file) if file.version == VERSION => file.holders,
            Ok(file) => {
                tracing::warn!(
                    version = file.version,
                    "holders.json is of another version; holders are not known until they ask again"
                );
                Vec::new()
            }
            Err(error) => {
                tracing::warn!(%error, "holders.json cannot be read, holders are not known until they ask again: {error}");
                Vec::new()
            }
        }
    }

    pub(super) fn write_holders(&self, mut holders: Vec<Held>) {
        holders.sort_by(|a, b| a.listeners.cmp(&b.listeners));
        match serde_json::to_string(&HoldersFile { version: VERSION, holders }) {
            Ok(text) => self.write("holders.json", &text),
            Err(error) => tracing::warn!(%error, "cannot write down who holds what: {error}"),
        }
    }

    /// What units have in their stores. What cannot be read is not known, and stays there until a unit stops.
    pub(super) fn read_deposits(&self) -> Deposits {
        let Some(text) = self.read("deposits.json") else { return Deposits::default() };
        match serde_json::from_str::<DepositsFile>(&text) {
            Ok(file) if file.version == VERSION => file.deposits,
            _ => {
                tracing::warn!("deposits.json cannot be read; what units have in their stores is not known");
                Deposits::default()
            }
        }
    }

    pub(super) fn write_deposits(&self, deposits: &Deposits) {
        match serde_json::to_string(&DepositsFile { version: VERSION, deposits: deposits.clone() }) {
            Ok(text) => self.write("deposits.json", &text),
            Err(error) => {
                tracing::warn!(%error, "cannot write down what units have in their stores: {error}")
            }
        }
    }

    /// The reserved ports that are ours. What cannot be read is nobody's, and stays reserved until a reboot.
    pub(super) fn read_ports(&self) -> PortSet {
        let text = self.read("reserved-ports").unwrap_or_default();
        text.parse().unwrap_or_else(|error| {
            tracing::warn!(%error, "the list of our reserved ports cannot be read, they stay reserved until a reboot: {error}");
            PortSet::default()
        })
    }

    pub(super) fn write_ports(&self, ports: &PortSet) {
        self.write("reserved-ports", &format!("{ports}\n"));
    }

    /// The inodes of the sockets that were drained. What cannot be read is known by there being one too many.
    pub(super) fn read_draining(&self) -> Vec<u64> {
        let text = self.read("draining").unwrap_or_default();
        text.split_ascii_whitespace().filter_map(|inode| inode.parse().ok()).collect()
    }

    pub(super) fn write_draining(&self, inodes: &[u64]) {
        let lines: String = inodes.iter().map(|inode| format!("{inode}\n")).collect();
        self.write("draining", &lines);
    }

    /// Whether it was us who switched net.ipv4.tcp_migrate_req on.
    pub(super) fn migrates(&self) -> bool {
        self.read("tcp-migrate-req").is_some_and(|text| text.trim() == "1")
    }

    pub(super) fn write_migrates(&self, ours: bool) {
        self.write("tcp-migrate-req", if ours { "1\n" } else { "0\n" });
    }

    /// Where the last good configuration is.
    pub(super) fn last_good(&self) -> PathBuf {
        self.directory.join("last-good.toml")
    }

    pub(super) fn write_last_good(&self, text: &str) {
        self.write("last-good.toml", text);
    }

    fn read(&self, name: &str) -> Option<String> {
        let path = self.directory.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "cannot read what the last daemon wrote down: {error}");
                None
            }
        }
    }

    /// Replaces a file as a whole, so that a crash leaves the old one or the new one.
    fn write(&self, name: &str, text: &str) {
        self.unwritten.borrow_mut().write(&self.directory, name, text);
    }

    /// Why not all is written, if so.
    pub(super) fn fault(&self) -> Option<String> {
        self.unwritten.borrow().fault().map(str::to_owned)
    }

    /// When [`Self::retry`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.unwritten.borrow().next_due()
    }

    /// Writes what could not be written, where it is time for that.
    pub(super) fn retry(&self, now: Instant) {
        self.unwritten.borrow_mut().retry(&self.directory, now);
    }

    /// Whether the directory had gone, and is there again, with nothing in it.
    pub(super) fn are_new(&self) -> bool {
        self.unwritten.borrow_mut().take_is_new()
    }

    /// Whether what was written is there no more.
    pub(super) fn are_gone(&self) -> bool {
        !self.directory.join("holders.json").exists()
    }
}
