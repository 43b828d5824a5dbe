//! The network namespaces of a host, and what is done in each.

use super::entries::{More, entries, number, number_in_link};
use super::open_proc;
use nix::sched::{CloneFlags, setns};
use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::thread;

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    /// Its inode, as in `net:[4026531840]`.
    pub inode: u64,
    /// Where it is mounted, as `/run/netns/blue`; `None`: nowhere that can be seen.
    pub mount: Option<PathBuf>,
    /// One of the processes in it, the oldest as a rule; `None`: there is none.
    pub pid: Option<u32>,
    /// Whether it is that of the caller.
    pub own: bool,
    /// `None` for the caller's own.
    handle: Option<File>,
}

/// The network namespaces that can be seen.
#[derive(Debug)]
pub struct Namespaces {
    /// The caller's own first.
    pub namespaces: Vec<Namespace>,
    /// Processes of which nobody may say in which namespace they are: others' processes, for those who are not root.
    pub unseen: usize,
}

/// Finds them, by every process and every mount.
pub fn namespaces() -> io::Result<Namespaces> {
    let own = fs::metadata("/proc/thread-self/ns/net")?.ino();
    let (of_processes, unseen) = of_processes()?;
    let mounts = mounts();
    let mut inodes: BTreeMap<u64, Option<u32>> = mounts.keys().map(|inode| (*inode, None)).collect();
    inodes.extend(of_processes.iter().map(|(inode, pid)| (*inode, Some(*pid))));
    let mut found = Vec::from([Namespace {
        inode: own,
        mount: mounts.get(&own).cloned(),
        pid: of_processes.get(&own).copied(),
        own: true,
        handle: None,
    }]);
    for (inode, pid) in inodes.into_iter().filter(|(inode, _)| *inode != own) {
        let mount = mounts.get(&inode).cloned();
        let by_process = pid.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")));
        let paths = [mount.clone(), by_process].into_iter().flatten();
        // Whoever was in it may be gone, or in another by now.
        let is_it = |file: &File| file.metadata().is_ok_and(|metadata| metadata.ino() == inode);
        if let Some(file) = paths.filter_map(|path| File::open(path).ok()).find(is_it) {
            found.push(Namespace { inode, mount, pid, own: false, handle: Some(file) });
        }
    }
    Ok(Namespaces { namespaces: found, unseen })
}

/// The namespaces of processes with the lowest pid of each, and how many processes do not show theirs.
fn of_processes() -> io::Result<(HashMap<u64, u32>, usize)> {
    let proc = open_proc()?;
    let (mut found, mut unseen) = (HashMap::new(), 0);
    entries(proc.as_fd(), &mut Vec::new(), |name| {
        if let Some(pid) = number::<u32>(name.to_bytes()) {
            let link = CString::new(format!("{pid}/ns/net")).unwrap_or_default();
            match number_in_link(proc.as_fd(), &link, b"net") {
                Some(inode) => {
                    found.entry(inode).and_modify(|first: &mut u32| *first = pid.min(*first)).or_insert(pid);
                }
                // One that has ended, but for its parent to hear of it, is in none.
                None => {
                    unseen += usize::from(fs::read_link(format!("/proc/{pid}/ns/net")).is_err_and(is_denied))
                }
            }
        }
        More::Yes
    })?;
    Ok((found, unseen))
}

fn is_denied(error: io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Where namespaces are mounted, by proc_pid_mountinfo(5).
fn mounts() -> HashMap<u64, PathBuf> {
    let table = fs::read("/proc/thread-self/mountinfo").unwrap_or_default();
    String::from_utf8_lossy(&table).lines().filter_map(mounted).collect()
}

/// The namespace in a line of mountinfo, whose fourth field is `net:[4026532182]`.
fn mounted(line: &str) -> Option<(u64, PathBuf)> {
    let mut fields = line.split(' ').skip(3);
    let (root, mount) = (fields.next()?, fields.next()?);
    let inode = root.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()?;
    // Blanks in it are written as \040, and ip-netns(8) lets nobody have them in a name.
    Some((inode, PathBuf::from(mount)))
}

/// Does something in each namespace, on a thread of its own, one after the other. An error says why one could not be
/// entered: that takes CAP_SYS_ADMIN, for all but the caller's own.
pub fn in_each<T: Send>(
    namespaces: &[Namespace],
    mut look: impl FnMut(&Namespace) -> io::Result<T> + Send,
) -> Vec<io::Result<T>> {
    let work = || {
        let own = File::open("/proc/thread-self/ns/net");
        let mut moved = false;
        let mut enter = |namespace: &Namespace| -> io::Result<()> {
            let handle = match &namespace.handle {
                Some(handle) => handle,
                None if !moved => return Ok(()),
                None => own.as_ref().map_err(|error| io::Error::from(error.kind()))?,
            };
            setns(handle, CloneFlags::CLONE_NEWNET)?;
            moved = true;
            Ok(())
        };
        namespaces.iter().map(|namespace| enter(namespace).and_then(|()| look(namespace))).collect()
    };
    // It ends with its namespace, and nobody else is moved.
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(results) => results,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_tells_a_namespace_and_its_place() {
        let line = "505 24 0:4 net:[4026532182] /run/netns/blue rw shared:1 - nsfs nsfs rw";
        assert_eq!(mounted(line), Some((4026532182, PathBuf::from("/run/netns/blue"))));
        assert_eq!(mounted("31 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"), None);
        assert_eq!(mounted("31 1 254:0 mnt:[7] /x rw - nsfs nsfs rw"), None);
        assert_eq!(mounted(""), None);
    }

    #[test]
    fn the_callers_own_comes_first_and_is_entered_without_any_right() {
        let seen = namespaces().unwrap();
        let own = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        assert!(seen.namespaces[0].own && seen.namespaces[0].inode == own);
        assert_eq!(seen.namespaces.iter().filter(|namespace| namespace.own).count(), 1);
        let inodes = in_each(&seen.namespaces[..1], |namespace| {
            let now = fs::metadata("/proc/thread-self/ns/net")?.ino();
            Ok((namespace.inode, now))
        });
        assert_eq!(inodes[0].as_ref().unwrap(), &(own, own));
    }
}
