//! Who holds which sockets: `holders.json`.
//!
//! Version 1 knew listeners by their names alone, so that one which was renamed while no daemon ran was nobody's
//! afterwards, and every old socket of a listener was taken to be every holder's. Version 2 has the inodes too: a holder
//! holds its sockets, whatever the configuration calls them.

use super::{Table, Unreadable};
use crate::model::ListenerName;
use serde::{Deserialize, Serialize};

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

/// A holder and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Who.
    pub holder: HolderRecord,
    /// Listeners, by the names that they had.
    pub listeners: Vec<HeldListener>,
    /// Old sockets that are drained and that it has, by their inodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drained: Vec<u64>,
}

/// A listener that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HeldListener {
    /// Its name.
    pub name: String,
    /// The inodes of its sockets; version 1 has none.
    pub inodes: Vec<u64>,
}

/// All holders.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holders {
    /// A holder each.
    pub holders: Vec<Held>,
    /// Whether it tells which sockets they have: version 1 does not.
    #[serde(skip, default = "of_version_2")]
    pub has_inodes: bool,
}

fn of_version_2() -> bool {
    true
}

impl Holders {
    /// These, with their sockets.
    #[must_use]
    pub fn new(mut holders: Vec<Held>) -> Self {
        holders.sort_by(|a, b| (&a.listeners, &a.holder).cmp(&(&b.listeners, &b.holder)));
        Self { holders, has_inodes: true }
    }
}

#[derive(Deserialize)]
struct Version1 {
    holders: Vec<Held1>,
}

#[derive(Deserialize)]
struct Held1 {
    holder: HolderRecord,
    listeners: Vec<String>,
}

impl Table for Holders {
    const FILE: &'static str = "holders.json";
    const LOSS: &'static str =
        "who holds what is not known until it is asked for again; what is served stays so";

    fn from_version_1(text: &str) -> Result<Self, Unreadable> {
        let listener = |name| HeldListener { name, inodes: Vec::new() };
        let held = |Held1 { holder, listeners }| Held {
            holder,
            listeners: listeners.into_iter().map(listener).collect(),
            drained: Vec::new(),
        };
        let Version1 { holders } = serde_json::from_str(text)?;
        Ok(Self { holders: holders.into_iter().map(held).collect(), has_inodes: false })
    }

    fn check(&self) -> Result<(), Unreadable> {
        for listener in self.holders.iter().flat_map(|held| &held.listeners) {
            ListenerName::try_from(listener.name.as_str())
                .map_err(|error| Unreadable::Value(error.to_string()))?;
        }
        Ok(())
    }
}
