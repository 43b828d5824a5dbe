//! Watches holders: a process by its pidfd, a unit by its cgroup.
//!
//! systemd removes a unit's cgroup when the unit becomes inactive or fails, and not before: between
//! ExecStartPre= and ExecStart= it is empty for a moment and still there. So its removal is the end, not its
//! emptiness. The kernel reports a removed cgroup only to those who watch the directory above it (seen on
//! Linux 6.18: no IN_DELETE_SELF).

use super::async_fd::{EpollSet, Registered};
use super::peer::Peer;
use super::process;
use crate::model::UnitName;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where cgroups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Who is to be watched.
#[derive(Debug, Clone)]
pub enum HolderClaim {
    /// A process.
    Process {
        /// Its pid.
        pid: i32,
        /// Its start time, in clock ticks since boot.
        start: u64,
        /// Its name.
        name: String,
        /// The process itself.
        pidfd: Arc<OwnedFd>,
    },
    /// A systemd unit.
    Unit {
        /// Its name.
        unit: UnitName,
        /// The path of its cgroup, as in /proc/PID/cgroup.
        cgroup: String,
        /// The inode of that directory, which tells this life of the unit from its next one; `None`: whichever
        /// is there.
        life: Option<u64>,
    },
}

/// The start time of a process that is hidden from us.
const UNSEEN: u64 = 0;

fn unseen() -> Option<u64> {
    process::are_others_hidden().then_some(UNSEEN)
}

impl HolderClaim {
    /// The process of a caller; `None` where it is gone.
    #[must_use]
    pub fn process_of(peer: &Peer) -> Option<Self> {
        let pidfd = peer.pidfd.clone()?;
        let claim = Self::Process {
            pid: peer.pid,
            start: process::start_time(peer.pid).or_else(unseen)?,
            name: process::name(peer.pid),
            pidfd,
        };
        claim.presence_of_process().then_some(claim)
    }

    /// The unit of a caller; `None` where it is in none.
    #[must_use]
    pub fn unit_of(peer: &Peer) -> Option<Self> {
        let cgroup = peer.cgroup()?;
        let unit = UnitName::of_cgroup(&cgroup)?;
        // The unit's own directory, wherever below it the caller is.
        let mut own = String::new();
        for component in cgroup.split('/').filter(|component| !component.is_empty()) {
            own.push('/');
            own.push_str(component);
            if !component.ends_with(".slice") {
                break;
            }
        }
        let life = directory_of(Path::new(CGROUPS), &own).and_then(|directory| inode_of(&directory));
        Some(Self::Unit { unit, cgroup: own, life })
    }

    /// A process that an earlier daemon knew; `None` where it is gone, whoever has its pid now.
    #[must_use]
    pub fn process(pid: i32, start: u64) -> Option<Self> {
        let pidfd = Arc::new(process::open_pidfd(pid).ok()?);
        // Where nobody can tell, it is taken for the one that is meant: a listener stays held for too long at the worst.
        let found = process::start_time(pid).or_else(unseen)?;
        if found != start && ![found, start].contains(&UNSEEN) {
            return None;
        }
        let claim = Self::Process { pid, start, name: process::name(pid), pidfd };
        claim.presence_of_process().then_some(claim)
    }

    fn presence_of_process(&self) -> bool {
        matches!(self, Self::Process { pidfd, .. } if process::is_alive(pidfd))
    }
}

impl fmt::Display for HolderClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, name, .. } => f.write_str(&shown(*pid, name)),
            Self::Unit { unit, .. } => write!(f, "{unit}"),
        }
    }
}

fn shown(pid: i32, name: &str) -> String {
    format!("{name}[{pid}]")
}

/// A process as it is called now, if it is still the one that started then.
#[must_use]
pub fn shown_process(pid: i32, start: u64) -> Option<String> {
    let name = process::name(pid);
    (process::start_time(pid) == Some(start)).then(|| shown(pid, &name))
}

/// Whether a holder is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    There,
    /// It is not.
    Gone,
}

enum Watched {
    Process(Arc<OwnedFd>),
    Unit { hierarchy: PathBuf, directory: PathBuf, inode: u64, parent: WatchDescriptor },
}

/// All holders that are watched, by the numbers that the caller gave them.
pub struct HolderWatch {
    processes: Registered<EpollSet>,
    cgroups: Registered<Inotify>,
    root: PathBuf,
    watched: HashMap<u64, Watched>,
    gone: VecDeque<u64>,
}

impl HolderWatch {
    /// Watches nobody yet. Must be called within a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Self::below(Path::new(CGROUPS))
    }

    fn below(root: &Path) -> io::Result<Self> {
        let processes = EpollSet(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let cgroups = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Self {
            processes: Registered::new(processes)?,
            cgroups: Registered::new(cgroups)?,
            root: root.to_path_buf(),
            watched: HashMap::new(),
            gone: VecDeque::new(),
        })
    }

    /// Watches a holder from now on, or says that it is gone already.
    pub fn add(&mut self, id: u64, claim: HolderClaim) -> io::Result<Presence> {
        let watched = match claim {
            HolderClaim::Process { pidfd, .. } => {
                if !process::is_alive(&pidfd) {
                    return Ok(Presence::Gone);
                }
                self.processes.get().0.add(&pidfd, EpollEvent::new(EpollFlags::EPOLLIN, id))?;
                Watched::Process(pidfd)
            }
            HolderClaim::Unit { cgroup, life, .. } => match self.watch_cgroup(&cgroup, life)? {
                Some(watched) => watched,
                None => return Ok(Presence::Gone),
            },
        };
        self.watched.insert(id, watched);
        Ok(Presence::There)
    }

    /// The directory is in the hierarchy that systemd uses: unified, or its own one of the legacy kind.
    fn watch_cgroup(&self, cgroup: &str, life: Option<u64>) -> io::Result<Option<Watched>> {
        let Some((hierarchy, directory)) = found_below(&self.root, cgroup) else {
            if hierarchies(&self.root).iter().any(|hierarchy| is_mounted(hierarchy)) {
                return Ok(None);
            }
            let text =
                format!("no cgroup hierarchy is mounted at {}, where units are watched", self.root.display());
            return Err(io::Error::other(text));
        };
        let Some(above) = directory.parent() else { return Ok(None) };
        // First the watch, then the look: what is removed in between is seen by the one or the other.
        let flags = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        let parent = match self.cgroups.get().add_watch(above, flags) {
            Ok(parent) => parent,
            Err(Errno::ENOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let inode = inode_of(&directory).filter(|inode| life.is_none_or(|life| life == *inode));
        Ok(inode.map(|inode| Watched::Unit { hierarchy, directory, inode, parent }))
    }

    /// Whether a holder is still there, by a look now.
    #[must_use]
    pub fn presence(&self, id: u64) -> Presence {
        match self.watched.get(&id) {
            Some(watched) if is_there(watched) => Presence::There,
            _ => Presence::Gone,
        }
    }

    /// Watches units anew, and looks which are gone: where the hierarchy was unmounted and is back nothing told of that.
    pub fn look_again(&mut self) {
        let flags = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        for watched in self.watched.values_mut() {
            if let Watched::Unit { directory, parent, .. } = watched
                && let Some(above) = directory.parent()
                && let Ok(again) = self.cgroups.get().add_watch(above, flags)
            {
                *parent = again;
            }
        }
        self.see_gone();
    }

    fn see_gone(&mut self) {
        let is_gone = |w: &Watched| matches!(w, Watched::Unit { .. }) && !is_there(w);
        self.gone = self.watched.iter().filter(|(_, w)| is_gone(w)).map(|(id, _)| *id).collect();
    }

    /// Whether any of them is a unit, of which nothing is seen while no hierarchy is mounted.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        self.watched
            .values()
            .any(|watched| matches!(watched, Watched::Unit { hierarchy, .. } if !is_mounted(hierarchy)))
    }

    /// Watches it no more.
    pub fn remove(&mut self, id: u64) {
        match self.watched.remove(&id) {
            Some(Watched::Process(pidfd)) => {
                // Gone from the set already where it was reported.
                let _ = self.processes.get().0.delete(&pidfd);
            }
            Some(Watched::Unit { parent, .. }) => {
                let shares =
                    |other: &Watched| matches!(other, Watched::Unit { parent: p, .. } if *p == parent);
                if !self.watched.values().any(shares) {
                    let _ = self.cgroups.get().rm_watch(parent);
                }
            }
            None => {}
        }
    }

    /// The next holder that is gone. It has to be removed then.
    pub async fn next(&mut self) -> u64 {
        loop {
            if let Some(id) = self.gone.pop_front() {
                return id;
            }
            let exited = self.processes.wait(|set| {
                let mut events = [EpollEvent::empty()];
                let count = set.0.wait(&mut events, EpollTimeout::ZERO)?;
                Ok(events.first().filter(|_| count > 0).map(EpollEvent::data))
            });
            let removed = self.cgroups.wait(|inotify| match inotify.read_events() {
                Ok(_) => Ok(Some(())),
                Err(Errno::EAGAIN) => Ok(None),
                Err(error) => Err(error.into()),
            });
            let found = tokio::select! {
                exited = exited => exited.map(Some),
                removed = removed => removed.map(|()| None),
            };
            match found {
                Ok(Some(id)) => return id,
                // Whose directory it was matters less than whose is not there any more: events get lost when
                // the queue overflows, directories do not.
                Ok(None) => self.see_gone(),
                Err(error) => {
                    tracing::error!(%error, "cannot watch holders any more");
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

fn is_there(watched: &Watched) -> bool {
    match watched {
        Watched::Process(pidfd) => process::is_alive(pidfd),
        // A directory of the same name that was made anew has another inode. Where the hierarchy itself is not mounted
        // any more nobody can tell, and nobody is to lose a listener for that.
        Watched::Unit { directory, inode, hierarchy, .. } => {
            inode_of(directory) == Some(*inode) || !is_mounted(hierarchy)
        }
    }
}

/// The directory of a cgroup, in whichever hierarchy systemd uses.
fn directory_of(root: &Path, cgroup: &str) -> Option<PathBuf> {
    found_below(root, cgroup).map(|(_, directory)| directory)
}

/// The same, with the hierarchy's own directory before it.
fn found_below(root: &Path, cgroup: &str) -> Option<(PathBuf, PathBuf)> {
    let relative = cgroup.trim_start_matches('/');
    let both = hierarchies(root).into_iter().map(|hierarchy| (hierarchy.join(relative), hierarchy));
    both.map(|(directory, hierarchy)| (hierarchy, directory)).find(|(_, directory)| directory.is_dir())
}

fn hierarchies(root: &Path) -> [PathBuf; 3] {
    [root.join("systemd"), root.join("unified"), root.to_path_buf()]
}

/// Every cgroup has this file, the topmost too.
fn is_mounted(hierarchy: &Path) -> bool {
    hierarchy.join("cgroup.procs").exists()
}

fn inode_of(directory: &Path) -> Option<u64> {
    std::fs::metadata(directory).ok().map(|metadata| metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Duration;

    async fn soon(watch: &mut HolderWatch) -> Option<u64> {
        tokio::time::timeout(Duration::from_secs(5), watch.next()).await.ok()
    }

    fn is_silent(result: Result<u64, tokio::time::error::Elapsed>) -> bool {
        result.is_err()
    }

    #[tokio::test]
    async fn the_exit_of_a_process_is_seen() {
        let mut watch = HolderWatch::new().unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let peer = Peer::of_process(child.id().cast_signed(), 0, Vec::new());
        let claim = HolderClaim::process_of(&peer).unwrap();
        assert_eq!(claim.to_string(), format!("sleep[{}]", child.id()));
        assert_eq!(watch.add(1, claim.clone()).unwrap(), Presence::There);
        let HolderClaim::Process { pid, start, .. } = &claim else { panic!("{claim:?}") };
        assert!(HolderClaim::process(*pid, *start).is_some());
        assert!(HolderClaim::process(*pid, *start + 1).is_none(), "another process of that pid");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(soon(&mut watch).await, Some(1));
        assert_eq!(watch.presence(1), Presence::Gone);
        watch.remove(1);
        assert_eq!(watch.add(2, claim).unwrap(), Presence::Gone);
        assert!(HolderClaim::process_of(&peer).is_none());
    }

    /// Real cgroups, wherever this machine has a hierarchy that can be written to.
    fn cgroup_root() -> PathBuf {
        let candidates = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let writable = |root: &&str| {
            let probe = Path::new(root).join(format!("portbroker-probe-{}", std::process::id()));
            std::fs::create_dir(&probe).and_then(|()| std::fs::remove_dir(&probe)).is_ok()
        };
        candidates.iter().find(|root| writable(root)).map(PathBuf::from).expect("root can make cgroups")
    }

    #[tokio::test]
    async fn the_end_of_a_unit_is_the_removal_of_its_cgroup_not_its_emptiness() {
        let root = cgroup_root();
        let name = format!("portbroker-test-{}.service", std::process::id());
        let directory = root.join(&name);
        std::fs::create_dir(&directory).unwrap();
        let mut watch = HolderWatch::below(&root).unwrap();
        let claim = HolderClaim::Unit {
            unit: UnitName::try_from(&*name).unwrap(),
            cgroup: format!("/{name}"),
            life: None,
        };
        assert_eq!(watch.add(1, claim.clone()).unwrap(), Presence::There);
        // Empty all the time, and others come and go beside it.
        let other = root.join(format!("portbroker-other-{}", std::process::id()));
        std::fs::create_dir(&other).unwrap();
        std::fs::remove_dir(&other).unwrap();
        let silence = tokio::time::timeout(Duration::from_millis(100), watch.next()).await;
        assert!(is_silent(silence));
        std::fs::remove_dir(&directory).unwrap();
        std::fs::create_dir(&directory).unwrap();
        assert_eq!(
            watch.presence(1),
            Presence::Gone,
            "a new directory of the same name is another unit's life"
        );
        assert_eq!(soon(&mut watch).await, Some(1));
        watch.remove(1);
        assert_eq!(watch.add(2, claim.clone()).unwrap(), Presence::There);
        std::fs::remove_dir(&directory).unwrap();
        assert_eq!(soon(&mut watch).await, Some(2));
        watch.remove(2);
        assert_eq!(watch.add(3, claim).unwrap(), Presence::Gone);
        // The next life of the unit is not the one that an earlier daemon knew.
        std::fs::create_dir(&directory).unwrap();
        let now = inode_of(&directory).unwrap();
        for (life, presence) in [(now - 1, Presence::Gone), (now, Presence::There)] {
            let unit = UnitName::try_from(&*name).unwrap();
            let claim = HolderClaim::Unit { unit, cgroup: format!("/{name}"), life: Some(life) };
            assert_eq!(watch.add(life, claim).unwrap(), presence);
        }
        std::fs::remove_dir(&directory).unwrap();
    }
}
