//! What a daemon writes down for the one after it: text in, a table or why there is none, out.
//!
//! Pure: the files are read and written by the broker. What always holds:
//! - Every table says of which version it is, and every version that ever was is read: a file of each is kept in
//!   `tests/state`. A newer one is not guessed at: it belongs to a later daemon, and is moved aside as it is.
//! - It also says of which boot it is (since version 2). Pids, inodes and what is reserved mean nothing after a reboot,
//!   and without systemd the directory of these files may outlive one.
//! - No table holds a socket: those are in the descriptor store. Whatever is lost here costs no socket.
//!
//! Leases and what was learned have files of their own: see `leases` and `learn`.

mod deposits;
mod holders;
mod kernel;
#[cfg(test)]
mod tests;

pub use deposits::Deposits;
pub use holders::{Held, HeldSocket, HolderRecord, Holders};
pub use kernel::{Drained, MigrateRequests, ReservedPorts};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of all tables here that is written.
pub const VERSION: u32 = 2;

/// Why a text is no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is not what any version writes.
    #[error("is not what portbroker writes ({0})")]
    Malformed(String),
    /// It was written by a later daemon.
    #[error("is of version {0}, and this broker knows versions 1 to {VERSION}")]
    Newer(u32),
    /// A value that cannot be.
    #[error("has {0}, which cannot be")]
    Value(String),
}

/// One of the tables.
pub trait Table: Serialize + DeserializeOwned {
    /// Its file.
    const FILE: &'static str;
    /// What is not known where it cannot be read, for whoever reads the log.
    const LOSS: &'static str;

    /// Reads what version 1 wrote.
    fn from_version_1(text: &str) -> Result<Self, Unreadable>;

    /// Refuses what cannot be.
    fn check(&self) -> Result<(), Unreadable> {
        Ok(())
    }
}

#[derive(Deserialize)]
struct Head {
    version: u32,
    boot: Option<String>,
}

#[derive(Serialize)]
struct Whole<'a, T> {
    version: u32,
    boot: &'a str,
    #[serde(flatten)]
    table: &'a T,
}

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// The table that a text is; `None`: it is of another boot, and says nothing about this one.
pub fn read<T: Table>(text: &str, boot: &str) -> Result<Option<T>, Unreadable> {
    // Some tables of version 1 are plain text without a version.
    if !text.starts_with('{') {
        return checked(T::from_version_1(text)?);
    }
    let Head { version, boot: written } = serde_json::from_str(text)?;
    match version {
        1 => checked(T::from_version_1(text)?),
        VERSION if written.as_deref() == Some(boot) => checked(serde_json::from_str(text)?),
        VERSION if written.is_some() => Ok(None),
        VERSION => Err(Unreadable::Malformed("there is no boot".into())),
        0 => Err(Unreadable::Value("version 0".into())),
        newer => Err(Unreadable::Newer(newer)),
    }
}

fn checked<T: Table>(table: T) -> Result<Option<T>, Unreadable> {
    table.check().map(|()| Some(table))
}

/// The text that [`read`] reads.
pub fn write<T: Table>(table: &T, boot: &str) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string(&Whole { version: VERSION, boot, table })?;
    text.push('\n');
    Ok(text)
}
