//! `net.ipv4.tcp_migrate_req` (Linux 5.14): whether connections that wait in a TCP socket go over to the other sockets
//! of its `SO_REUSEPORT` group when it stops listening. Off, they are reset.
//!
//! `/proc/sys/net` shows the network namespace of the thread that opens the file; CAP_NET_ADMIN there is enough to
//! write it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file of one `/proc`.
#[derive(Debug, Clone)]
pub struct MigrateRequests(PathBuf);

/// Why it could not be changed.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot write {path}; connections that wait in a socket which is not needed any more wait for the next \
     process that takes its listener, and are cut off where a unit takes it: set it to 1 yourself, or let the daemon write it (CAP_NET_ADMIN, ReadWritePaths={path})"
)]
pub struct MigrateRequestsError {
    path: PathBuf,
    source: io::Error,
}

impl Default for MigrateRequests {
    fn default() -> Self {
        Self(Path::new("/proc/sys/net/ipv4/tcp_migrate_req").to_path_buf())
    }
}

impl MigrateRequests {
    /// Whether they go over; a kernel that does not know it, or would not tell, lets them not.
    #[must_use]
    pub fn is_on(&self) -> bool {
        fs::read_to_string(&self.0).is_ok_and(|text| text.trim() == "1")
    }

    /// Switches it.
    pub fn set(&self, on: bool) -> Result<(), MigrateRequestsError> {
        let value = if on { "1\n" } else { "0\n" };
        fs::write(&self.0, value).map_err(|source| MigrateRequestsError { path: self.0.clone(), source })
    }
}
