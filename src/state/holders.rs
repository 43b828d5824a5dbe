//! Who holds which sockets: `holders.json`.
//!
//! Version 1 knew listeners by their names alone, so that one which was renamed while no daemon ran was nobody's
//! afterwards, and every old socket of a listener was taken to be every holder's. Version 2 has the inodes too: a holder
//! holds its sockets, whatever the configuration calls them.

use super::{Table, Unreadable};
use crate::model::ListenerName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// How a holder is found again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HolderRecord {
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
    /// Somebody whom no file tells of: what an earlier daemon had written down was lost.
    Unknown,
}

impl fmt::Display for HolderRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, .. } => write!(f, "process {pid}"),
            Self::Unit { unit, .. } => f.write_str(unit),
            Self::Unknown => f.write_str("somebody"),
        }
    }
}

/// A holder and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Who.
    pub holder: HolderRecord,
    /// Listeners, by the names that they had.
    pub listeners: Vec<String>,
    /// What it was handed, old sockets too, whatever that is called by now; `None`: version 1 wrote this down.
    #[serde(default)]
    pub sockets: Option<Vec<HeldSocket>>,
}

/// A socket that somebody has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldSocket {
    /// Which.
    pub inode: u64,
    /// The name of its listener when this was written down.
    pub listener: String,
}

/// All holders.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holders {
    /// A holder each.
    pub holders: Vec<Held>,
}

impl Holders {
    /// These, always in one order.
    #[must_use]
    pub fn new(mut holders: Vec<Held>) -> Self {
        holders.iter_mut().flat_map(|held| &mut held.sockets).for_each(|sockets| sockets.sort_unstable());
        holders.sort_by(|a, b| (&a.listeners, &a.holder).cmp(&(&b.listeners, &b.holder)));
        Self { holders }
    }

    /// The same, and what others are known to have, by whatever holder.
    #[must_use]
    pub fn with(self, left: &[Held]) -> Self {
        let mut holders = self.holders;
        for one in left {
            match holders.iter_mut().find(|held| held.holder == one.holder) {
                Some(Held { sockets: Some(sockets), .. }) => {
                    let known: BTreeSet<u64> = sockets.iter().map(|socket| socket.inode).collect();
                    let more = one.sockets.iter().flatten().filter(|socket| !known.contains(&socket.inode));
                    sockets.extend(more.cloned());
                }
                Some(_) => {}
                None => holders.push(one.clone()),
            }
        }
        Self::new(holders)
    }
}

impl Table for Holders {
    const FILE: &'static str = "holders.json";
    const LOSS: &'static str =
        "who holds what is not known until it is asked for again; what is served stays so";

    fn from_version_1(text: &str) -> Result<Self, Unreadable> {
        // It has no sockets, and no boot.
        Ok(serde_json::from_str(text)?)
    }

    fn check(&self) -> Result<(), Unreadable> {
        let of = |held: &'_ Held| -> Vec<String> {
            let sockets = held.sockets.iter().flatten().map(|socket| socket.listener.clone());
            held.listeners.iter().cloned().chain(sockets).collect()
        };
        for name in self.holders.iter().flat_map(of) {
            ListenerName::try_from(name.as_str()).map_err(|error| Unreadable::Value(error.to_string()))?;
        }
        Ok(())
    }
}
