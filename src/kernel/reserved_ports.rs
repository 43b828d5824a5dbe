//! `net.ipv4.ip_local_reserved_ports`: the ports that the kernel never chooses by itself.
//!
//! The list belongs to everybody on the host: we add ours and take only ours out again, and what others wrote
//! stays. The file has rules of its own (`proc_do_large_bitmap()` of the kernel):
//! - one `read` must take it whole: a short buffer is answered cut in the middle of a number;
//! - a `write` at offset 0 replaces the list, and one at any other offset *adds* to it;
//! - a write takes less than a page: longer ones are cut.
//!
//! `/proc/sys/net` shows the network namespace of the thread that opens the file.

use crate::model::{PortRange, PortSet};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A read takes this much: 65,536 ports, none of them adjacent, are 220 KiB.
const READ_SIZE: usize = 1 << 20;
/// A write takes less than a page of 4,096 bytes.
const WRITE_SIZE: usize = 4090;
/// Writes that another writer may spoil.
const TRIES: usize = 8;

/// The file of one `/proc`.
#[derive(Debug, Clone)]
pub struct ReservedPorts {
    reserved: PathBuf,
    range: PathBuf,
}

/// Why the list could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ReservedPortsError {
    /// The file cannot be opened for lack of a right.
    #[error(
        "cannot {action} {path}: permission denied; ephemeral connections may take the ports that are not \
         bound yet: run the daemon with CAP_NET_ADMIN, or as root"
    )]
    Denied {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file is there, and its file system says no.
    #[error(
        "cannot write {path}: it is mounted read-only; ephemeral connections may take the ports that are not \
         bound yet: except it from ProtectKernelTunables= (ReadWritePaths={path}), or from the container's \
         read-only /proc/sys"
    )]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// The file is not there.
    #[error("{path} does not exist: mount /proc, and use a kernel with IPv4")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Anything else that the kernel answered.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The text of the file is not what a kernel writes.
    #[error("cannot understand {path}: {text:?}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it said, cut.
        text: String,
    },
    /// The list is not as it was written.
    #[error(
        "wrote {path}, and it does not have these ports as it should: {ports}; another program writes it too"
    )]
    NotKept {
        /// The file.
        path: PathBuf,
        /// The ports that are missing, or are still there.
        ports: PortSet,
    },
}

impl Default for ReservedPorts {
    fn default() -> Self {
        Self::at(Path::new("/proc/sys/net/ipv4"))
    }
}

impl ReservedPorts {
    /// The two files in `directory`, which is `/proc/sys/net/ipv4`.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self {
            reserved: directory.join("ip_local_reserved_ports"),
            range: directory.join("ip_local_port_range"),
        }
    }

    /// The ports that are reserved now, ours and others'.
    pub fn read(&self) -> Result<PortSet, ReservedPortsError> {
        let text = read_whole(&self.reserved)?;
        text.parse().map_err(|_| malformed(&self.reserved, &text))
    }

    /// The range from which the kernel chooses, `ip_local_port_range`.
    pub fn ephemeral_range(&self) -> Result<PortRange, ReservedPortsError> {
        let text = read_whole(&self.range)?;
        let mut numbers = text.split_whitespace().map(str::parse::<u16>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(last)), None) => {
                PortRange::new(first, last).map_err(|_| malformed(&self.range, &text))
            }
            _ => Err(malformed(&self.range, &text)),
        }
    }

    /// Adds ports to what is there, without touching the rest, and returns those that were missing.
    ///
    /// Nothing is written where nothing is missing, so that it can be called every minute.
    pub fn add(&self, ports: &PortSet) -> Result<PortSet, ReservedPortsError> {
        let missing = ports.difference(&self.read()?);
        if missing.is_empty() {
            return Ok(missing);
        }
        let mut lost = missing.clone();
        // Two writers at the same instant: the kernel ors its words without a lock, and one of them can lose.
        for _ in 0..TRIES {
            self.write(&lost, false)?;
            lost = ports.difference(&self.read()?);
            if lost.is_empty() {
                return Ok(missing);
            }
        }
        Err(self.not_kept(lost))
    }

    /// Takes ports out and leaves the rest.
    ///
    /// The kernel has no way to take single ports out, so the list is read and replaced; what another program
    /// adds in the microseconds between the two is lost to it.
    pub fn remove(&self, ports: &PortSet) -> Result<(), ReservedPortsError> {
        let before = self.read()?;
        if before.intersection(ports).is_empty() {
            return Ok(());
        }
        let kept = before.difference(ports);
        self.write(&kept, true)?;
        let after = self.read()?;
        let wrong = after.intersection(ports).union(&kept.difference(&after));
        if wrong.is_empty() { Ok(()) } else { Err(self.not_kept(wrong)) }
    }

    fn not_kept(&self, ports: PortSet) -> ReservedPortsError {
        ReservedPortsError::NotKept { path: self.reserved.clone(), ports }
    }

    /// Writes the set in pieces; the first replaces the list where `replace` says so, the others add to it.
    fn write(&self, ports: &PortSet, replace: bool) -> Result<(), ReservedPortsError> {
        let file = OpenOptions::new()
            .write(true)
            .open(&self.reserved)
            .map_err(|source| refused("open", &self.reserved, source))?;
        for (n, text) in pieces(ports).iter().enumerate() {
            let offset = u64::from(!replace || n > 0);
            write_once(&file, text, offset).map_err(|source| refused("write", &self.reserved, source))?;
        }
        Ok(())
    }
}

/// One write(2): a second one for a rest would have another meaning.
fn write_once(file: &File, text: &str, offset: u64) -> io::Result<()> {
    if file.write_at(text.as_bytes(), offset)? < text.len() {
        return Err(io::Error::new(ErrorKind::WriteZero, "the kernel took only a part of the list"));
    }
    Ok(())
}

/// The set as lines that one write takes each; the empty set is one empty line.
fn pieces(ports: &PortSet) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut piece = String::new();
    for range in ports.ranges() {
        let text = range.to_string();
        if piece.len() + 1 + text.len() > WRITE_SIZE - 1 {
            pieces.push(std::mem::take(&mut piece));
        }
        if !piece.is_empty() {
            piece.push(',');
        }
        piece.push_str(&text);
    }
    pieces.push(piece);
    for piece in &mut pieces {
        piece.push('\n');
    }
    pieces
}

/// One read(2) with room for the longest list.
fn read_whole(path: &Path) -> Result<String, ReservedPortsError> {
    let mut buffer = vec![0; READ_SIZE];
    let length = File::open(path)
        .and_then(|mut file| file.read(&mut buffer))
        .map_err(|source| refused("read", path, source))?;
    buffer.truncate(length);
    String::from_utf8(buffer).map_err(|error| malformed(path, &String::from_utf8_lossy(error.as_bytes())))
}

fn malformed(path: &Path, text: &str) -> ReservedPortsError {
    ReservedPortsError::Malformed { path: path.to_owned(), text: text.chars().take(80).collect() }
}

fn refused(action: &'static str, path: &Path, source: io::Error) -> ReservedPortsError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::PermissionDenied => ReservedPortsError::Denied { action, path },
        ErrorKind::ReadOnlyFilesystem => ReservedPortsError::ReadOnly { path },
        ErrorKind::NotFound => ReservedPortsError::Missing { path },
        _ => ReservedPortsError::Io { action, path, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_into_writes_between_numbers() {
        let ports: PortSet = (1024..60000).step_by(2).collect();
        let pieces = pieces(&ports);
        assert!(pieces.len() > 10);
        assert!(pieces.iter().all(|piece| piece.len() <= WRITE_SIZE && piece.ends_with('\n')));
        let back: PortSet = pieces.concat().parse().unwrap();
        assert_eq!(back, ports);
    }

    #[test]
    fn the_empty_list_is_one_empty_line() {
        assert_eq!(pieces(&PortSet::default()), ["\n"]);
    }

    #[test]
    fn a_missing_file_is_said_to_be_missing() {
        let files = ReservedPorts::at(Path::new("/nonexistent"));
        assert!(matches!(files.read(), Err(ReservedPortsError::Missing { .. })));
    }
}
