//! A process, as far as it matters to whoever asks who has a socket.

use super::UnitName;
use std::fmt;
use std::time::Duration;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its name, fit to print.
    pub name: String,
    /// Its effective user; `None`: not told.
    pub uid: Option<u32>,
    /// The system unit that it runs in.
    pub unit: Option<UnitName>,
    /// How long ago it started.
    pub age: Option<Duration>,
}

impl fmt::Display for Process {
    /// `mariadbd (pid 812, mariadb.service)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.unit {
            Some(unit) => write!(f, "{} (pid {}, {unit})", self.name, self.pid),
            None => write!(f, "{} (pid {})", self.name, self.pid),
        }
    }
}
