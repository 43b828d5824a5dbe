//! Which process has which socket, by the links of `/proc/*/fd`.
//!
//! The kernel tells it in no other way, and makes two objects for each descriptor that is looked at; so this is what a look
//! at a host's sockets costs. It is divided among threads, by processes, and of one with many descriptors by their numbers.

use super::entries::{More, entries, number, number_in_link};
use super::{open_directory, open_proc};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use nix::unistd::{Whence, lseek};
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// So many descriptors of one process are one piece of the work.
const PIECE: u32 = 4096;
/// More threads are of no use: they meet in the kernel's tables.
const MOST_THREADS: usize = 4;

/// A process that has a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Descriptor {
    /// The socket's inode.
    pub inode: u32,
    /// The process.
    pub pid: u32,
    /// One of its descriptors.
    pub number: u32,
}

/// The descriptors that were asked for, as far as they may be seen.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// By inode, then by pid.
    pub rows: Vec<Descriptor>,
    /// Processes whose descriptors may not be looked at: others' processes, for those who are not root.
    pub unseen: usize,
}

impl Descriptors {
    /// Those of one socket.
    #[must_use]
    pub fn of(&self, inode: u32) -> &[Descriptor] {
        let from = self.rows.partition_point(|row| row.inode < inode);
        let rest = self.rows.get(from..).unwrap_or_default();
        rest.get(..rest.partition_point(|row| row.inode == inode)).unwrap_or_default()
    }
}

/// Some of the descriptors of a process.
#[derive(Debug, Clone, Copy)]
struct Piece {
    pid: u32,
    from: u32,
    /// Below this number; `None`: to the last.
    to: Option<u32>,
}

/// Every descriptor in every process that is a socket whose inode is wanted.
///
/// A process that comes or goes meanwhile is seen or not, as it happens.
pub fn descriptors(wanted: impl Fn(u32) -> bool + Sync) -> io::Result<Descriptors> {
    let proc = open_proc()?;
    let pieces = pieces(proc.as_fd())?;
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut found, mut buffer) = (Descriptors::default(), Vec::new());
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            look(proc.as_fd(), *piece, &wanted, &mut found, &mut buffer);
        }
        found
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let mut found = thread::scope(|scope| {
        // Where no thread can be made, this one does it all.
        let others: Vec<_> =
            (1..threads).map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
        let mut found = work();
        for other in others {
            match other.join() {
                Ok(more) => {
                    found.rows.extend(more.rows);
                    found.unseen += more.unseen;
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        found
    });
    found.rows.sort_unstable();
    found.rows.dedup_by_key(|row| (row.inode, row.pid));
    Ok(found)
}

/// The inodes of all sockets that this process has.
pub fn own_sockets() -> io::Result<HashSet<u32>> {
    let proc = open_proc()?;
    let whole = Piece { pid: std::process::id(), from: 0, to: None };
    let mut found = Descriptors::default();
    look(proc.as_fd(), whole, &|_| true, &mut found, &mut Vec::new());
    if found.unseen > 0 {
        return Err(Errno::EACCES.into());
    }
    Ok(found.rows.iter().map(|row| row.inode).collect())
}

/// All processes; those with many descriptors in pieces.
fn pieces(proc: BorrowedFd<'_>) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    entries(proc, &mut Vec::new(), |name| {
        if let Some(pid) = number::<u32>(name.to_bytes()) {
            // From Linux 6.2 on this is how many descriptors it has, and 0 before.
            let count =
                fstatat(proc, format!("{pid}/fd").as_str(), AtFlags::empty()).map_or(0, |stat| stat.st_size);
            let count = u32::try_from(count).unwrap_or_default();
            let bounds: Vec<u32> = (0..count.max(1)).step_by(PIECE as usize).collect();
            let ends = bounds.iter().skip(1).copied().map(Some).chain([None]);
            pieces.extend(bounds.iter().zip(ends).map(|(from, to)| Piece { pid, from: *from, to }));
        }
        More::Yes
    })?;
    Ok(pieces)
}

fn look(
    proc: BorrowedFd<'_>,
    piece: Piece,
    wanted: &impl Fn(u32) -> bool,
    found: &mut Descriptors,
    buffer: &mut Vec<u8>,
) {
    let Piece { pid, from, to } = piece;
    let directory = match open_directory(proc, &format!("{pid}/fd")) {
        Ok(directory) => directory,
        Err(Errno::EACCES | Errno::EPERM) => {
            found.unseen += usize::from(from == 0);
            return;
        }
        // It is gone.
        Err(_) => return,
    };
    // The entries are `.`, `..`, and the descriptors by number: proc_readfd_common() of the kernel.
    if from > 0 && lseek(&directory, i64::from(from) + 2, Whence::SeekSet).is_err() {
        return;
    }
    // A process that ends meanwhile has no more of them.
    let _ = entries(directory.as_fd(), buffer, |name| {
        let Some(number) = number::<u32>(name.to_bytes()) else { return More::Yes };
        if to.is_some_and(|to| number >= to) {
            return More::No;
        }
        let inode = number_in_link(directory.as_fd(), name, b"socket");
        if let Some(inode) = inode.and_then(|inode| u32::try_from(inode).ok()).filter(|inode| wanted(*inode))
        {
            found.rows.push(Descriptor { inode, pid, number });
        }
        More::Yes
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::UnixDatagram;

    fn inode(socket: &impl std::os::fd::AsRawFd) -> u32 {
        let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
        std::fs::metadata(path).unwrap().ino().try_into().unwrap()
    }

    #[test]
    fn a_wanted_socket_is_found_once_for_each_process_and_no_other_is() {
        let (socket, other) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UnixDatagram::unbound().unwrap());
        let _copy = socket.try_clone().unwrap();
        let wanted = inode(&socket);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(std::os::fd::OwnedFd::from(socket.try_clone().unwrap()))
            .spawn()
            .unwrap();
        let found = descriptors(|inode| inode == wanted).unwrap();
        // Another test's child may have a copy for a moment.
        let mut pids: Vec<u32> = found.of(wanted).iter().map(|row| row.pid).collect();
        pids.retain(|pid| [std::process::id(), child.id()].contains(pid));
        pids.sort_unstable();
        let mut expected = [std::process::id(), child.id()];
        expected.sort_unstable();
        assert_eq!(pids, expected);
        assert!(found.rows.iter().all(|row| row.inode == wanted));
        assert!(found.of(inode(&other)).is_empty() && found.of(wanted + 1).is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_with_many_descriptors_is_looked_at_in_pieces_that_overlap_nowhere() {
        // Its own children have none of these: they are close-on-exec.
        let sockets: Vec<UnixDatagram> = (0..600).map(|_| UnixDatagram::unbound().unwrap()).collect();
        let proc = open_proc().unwrap();
        let pid = std::process::id();
        let mut wanted: Vec<u32> = sockets.iter().map(inode).collect();
        wanted.sort_unstable();
        let mut found = Descriptors::default();
        for (from, to) in [(0, Some(100)), (100, Some(350)), (350, None)] {
            let is_wanted = |inode| wanted.binary_search(&inode).is_ok();
            look(proc.as_fd(), Piece { pid, from, to }, &is_wanted, &mut found, &mut Vec::new());
        }
        let mut inodes: Vec<u32> = found.rows.iter().map(|row| row.inode).collect();
        inodes.sort_unstable();
        assert_eq!(inodes, wanted);
    }
}
