//! What the next daemon has to know after a crash, in files of the runtime directory: who holds what, which
//! reserved ports are ours, and the last configuration that was good.
//!
//! All of it may be lost without losing a socket: those are in systemd's descriptor store. The directory is mostly
//! on a tmpfs, so what is written here lives as long as the kernel's own state; where it is not, the tables say of
//! which boot they are. What cannot be read is moved aside, is told of in the log and, as long as it is there, in
//! `status`.

use crate::kernel::boot::boot_id;
use crate::state::{self, Deposits, Drained, Holders, MigrateRequests, ReservedPorts, Table};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Larger than any table of ours: ten thousand listeners with a holder each take two megabytes.
const MOST: u64 = 64 << 20;
/// What a file is called that could not be read.
const ASIDE: &str = "unreadable";
/// The journal of leases, which is moved aside by those who keep it.
const JOURNAL: (&str, &str) =
    ("leases", "leases of then are not known, and their ports rest until nothing uses them");

/// What a file has to say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told<T> {
    /// This.
    Known(T),
    /// There is none, or it is of another boot.
    Nothing,
    /// It cannot be read, and that was said.
    Lost,
}

impl<T: Default> Told<T> {
    fn or_default(self) -> T {
        match self {
            Self::Known(table) => table,
            Self::Nothing | Self::Lost => T::default(),
        }
    }
}

/// The files.
#[derive(Debug, Clone)]
pub(super) struct Records {
    directory: PathBuf,
    boot: String,
}

impl Records {
    pub(super) fn new(directory: &Path) -> Self {
        let boot = boot_id().unwrap_or_else(|error| {
            tracing::warn!(%error, "the kernel does not tell which boot this is: {error}");
            String::new()
        });
        Self { directory: directory.to_path_buf(), boot }
    }

    pub(super) fn read_holders(&self) -> Told<Holders> {
        self.read()
    }

    pub(super) fn write_holders(&self, holders: &Holders) {
        self.write(holders);
    }

    /// What units have in their stores.
    pub(super) fn read_deposits(&self) -> Deposits {
        self.read().or_default()
    }

    pub(super) fn write_deposits(&self, deposits: &Deposits) {
        self.write(deposits);
    }

    /// The reserved ports that are ours.
    pub(super) fn read_ports(&self) -> ReservedPorts {
        self.read().or_default()
    }

    pub(super) fn write_ports(&self, ports: &ReservedPorts) {
        self.write(ports);
    }

    /// The inodes of the sockets that were drained. What cannot be read is known by there being one too many.
    pub(super) fn read_draining(&self) -> Drained {
        self.read().or_default()
    }

    pub(super) fn write_draining(&self, drained: &Drained) {
        self.write(drained);
    }

    /// Whether it was us who switched net.ipv4.tcp_migrate_req on.
    pub(super) fn migrates(&self) -> bool {
        self.read::<MigrateRequests>().or_default().ours
    }

    pub(super) fn write_migrates(&self, ours: bool) {
        self.write(&MigrateRequests { ours });
    }

    /// Where the last good configuration is.
    pub(super) fn last_good(&self) -> PathBuf {
        self.directory.join("last-good.toml")
    }

    pub(super) fn write_last_good(&self, text: &str) {
        self.replace("last-good.toml", text);
    }

    /// What could not be read and is still there: a sentence each.
    pub(super) fn faults(&self) -> Vec<String> {
        let of = |(name, loss): (&str, &str)| {
            let path = self.aside(name);
            path.symlink_metadata().ok()?;
            let path = path.display();
            Some(format!(
                "{path} could not be read by a daemon of before, so {loss}; remove it when you have looked at it"
            ))
        };
        let tables = [
            (Holders::FILE, Holders::LOSS),
            (Deposits::FILE, Deposits::LOSS),
            (ReservedPorts::FILE, ReservedPorts::LOSS),
            (MigrateRequests::FILE, MigrateRequests::LOSS),
            (Drained::FILE, Drained::LOSS),
            JOURNAL,
        ];
        tables.into_iter().filter_map(of).collect()
    }

    fn aside(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.{ASIDE}"))
    }

    fn read<T: Table>(&self) -> Told<T> {
        let path = self.directory.join(T::FILE);
        let shown = path.display();
        let reason = match read_capped(&path) {
            Ok(None) => return Told::Nothing,
            Ok(Some(text)) => match state::read(&text, &self.boot) {
                Ok(Some(table)) => return Told::Known(table),
                Ok(None) => {
                    tracing::info!(event = "state", "{shown} is of another boot, and is not needed any more");
                    return Told::Nothing;
                }
                Err(error) => error.to_string(),
            },
            Err(error) => format!("cannot be read ({error})"),
        };
        let aside = self.aside(T::FILE);
        let moved = match std::fs::rename(&path, &aside) {
            Ok(()) => format!("it was moved to {}", aside.display()),
            Err(error) => format!("and it cannot be moved aside ({error})"),
        };
        tracing::error!(event = "state", "{shown} {reason}: {moved}; {}", T::LOSS);
        Told::Lost
    }

    fn write<T: Table>(&self, table: &T) {
        match state::write(table, &self.boot) {
            Ok(text) => self.replace(T::FILE, &text),
            Err(error) => tracing::warn!(%error, "cannot write down {}: {error}", T::FILE),
        }
    }

    /// Replaces a file as a whole, so that a crash leaves the old one or the new one.
    fn replace(&self, name: &str, text: &str) {
        let path = self.directory.join(name);
        let temporary = self.directory.join(format!(".{name}.new"));
        let write = || -> io::Result<()> {
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            std::fs::rename(&temporary, &path)
        };
        if let Err(error) = write() {
            // A full file system is no fuller for it.
            let _ = std::fs::remove_file(&temporary);
            let path = path.display();
            tracing::warn!(%error, %path, "cannot write {path}, which the next daemon should know: {error}");
        }
    }
}

/// `None` where there is no file. What is no text, or too long, is invalid data.
fn read_capped(path: &Path) -> io::Result<Option<String>> {
    let metadata = match path.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => return Ok(None),
        metadata => metadata?,
    };
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is no file"));
    }
    if metadata.len() > MOST {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("it has {} bytes", metadata.len())));
    }
    let mut text = String::new();
    std::fs::File::open(path)?.take(MOST).read_to_string(&mut text)?;
    Ok(Some(text))
}
