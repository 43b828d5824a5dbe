//! What of the kernel's own state is our doing, and which stored sockets are old: `reserved-ports`, `tcp-migrate-req`
//! and `draining`.
//!
//! Version 1 of these was plain text, without a version and without a boot: in a directory that outlives a reboot it
//! would have had us take away what somebody else reserved since.

use super::{Table, Unreadable};
use crate::model::PortSet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The reserved ports that are ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservedPorts {
    /// Which.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub ports: PortSet,
}

fn as_text<S: Serializer>(ports: &PortSet, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(ports)
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PortSet, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

impl Table for ReservedPorts {
    const FILE: &'static str = "reserved-ports";
    const LOSS: &'static str =
        "which reserved ports are ours is not known, and they stay reserved until a reboot";

    fn from_version_1(text: &str) -> Result<Self, Unreadable> {
        let ports = text.trim().parse().map_err(|error| Unreadable::Malformed(format!("{error}")))?;
        Ok(Self { ports })
    }
}

/// Whether it was us who switched `net.ipv4.tcp_migrate_req` on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrateRequests {
    /// It was.
    pub ours: bool,
}

impl Table for MigrateRequests {
    const FILE: &'static str = "tcp-migrate-req";
    const LOSS: &'static str =
        "whether net.ipv4.tcp_migrate_req is ours is not known, and it stays as it is until a reboot";

    fn from_version_1(text: &str) -> Result<Self, Unreadable> {
        match text.trim() {
            "1" => Ok(Self { ours: true }),
            "0" | "" => Ok(Self { ours: false }),
            _ => Err(Unreadable::Malformed("neither 0 nor 1".into())),
        }
    }
}

/// The inodes of the stored sockets that are drained.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Sorted.
    pub inodes: Vec<u64>,
}

impl Table for Drained {
    const FILE: &'static str = "draining";
    const LOSS: &'static str =
        "which of several sockets of one address is the old one is not known, and any of them is drained";

    fn from_version_1(text: &str) -> Result<Self, Unreadable> {
        let inode = |word: &str| word.parse().map_err(|error| Unreadable::Malformed(format!("{error}")));
        Ok(Self { inodes: text.split_ascii_whitespace().map(inode).collect::<Result<_, _>>()? })
    }
}
