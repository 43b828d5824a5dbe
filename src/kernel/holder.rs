//! Notices that a holder is gone: a process that exited, or a systemd unit that is no longer active.
//!
//! A unit is watched by its cgroup directory, which systemd makes before the first process of the unit and
//! removes when the unit becomes inactive, not between ExecStartPre= and ExecStart=, when it is empty for a
//! moment. The kernel tells the removal of a cgroup only to those who watch its *parent* (IN_DELETE; a watch on
//! the directory itself gets no IN_DELETE_SELF, seen on 6.18), so the slice is watched.

use super::epoll::EpollSet;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A holder that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HolderId(u64);

/// The number of the inotify instance in the epoll set; holders begin at 1.
const INOTIFY: u64 = 0;

/// Where cgroup hierarchies are mounted: the unified one alone, beside the old ones, or systemd's own old one.
const MOUNTS: [&str; 3] = ["", "unified", "systemd"];

#[derive(Debug)]
struct UnitWatch {
    directory: PathBuf,
    slice: WatchDescriptor,
}

/// Watches holders; each is told once.
#[derive(Debug)]
pub struct HolderWatch {
    set: EpollSet,
    inotify: Inotify,
    mount: PathBuf,
    last: u64,
    processes: BTreeMap<u64, OwnedFd>,
    units: BTreeMap<u64, UnitWatch>,
    /// How many units are watched by each watch of inotify, which has one for each directory.
    slices: HashMap<WatchDescriptor, usize>,
    gone: VecDeque<HolderId>,
}

impl HolderWatch {
    /// Watches nobody yet. To be called in a runtime.
    pub fn new() -> io::Result<Self> {
        Self::with_cgroups(Path::new("/sys/fs/cgroup"))
    }

    /// The same, with cgroups mounted elsewhere.
    pub fn with_cgroups(mount: &Path) -> io::Result<Self> {
        let set = EpollSet::new()?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        set.add(&inotify, INOTIFY, EpollFlags::EPOLLIN)?;
        Ok(Self {
            set,
            inotify,
            mount: mount.to_owned(),
            last: INOTIFY,
            processes: BTreeMap::new(),
            units: BTreeMap::new(),
            slices: HashMap::new(),
            gone: VecDeque::new(),
        })
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Watches a process by its pidfd.
    pub fn add_process(&mut self, pidfd: OwnedFd) -> io::Result<HolderId> {
        let number = self.number();
        self.set.add(&pidfd, number, EpollFlags::EPOLLIN)?;
        self.processes.insert(number, pidfd);
        Ok(HolderId(number))
    }

    /// Watches a unit by its cgroup, a path as in `/proc/PID/cgroup`. One that is not there is gone already.
    pub fn add_unit(&mut self, cgroup: &str) -> io::Result<HolderId> {
        // What happened to an earlier cgroup of the name is not this one's.
        self.read_inotify()?;
        let number = self.number();
        let Some(directory) = self.find(cgroup)? else {
            self.gone.push_back(HolderId(number));
            return Ok(HolderId(number));
        };
        let flags = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_ONLYDIR;
        let slice = directory.parent().unwrap_or(&directory).to_owned();
        match self.inotify.add_watch(&slice, flags) {
            Ok(slice) => {
                *self.slices.entry(slice).or_default() += 1;
                self.units.insert(number, UnitWatch { directory, slice });
            }
            Err(Errno::ENOENT) => {
                self.gone.push_back(HolderId(number));
                return Ok(HolderId(number));
            }
            Err(error) => return Err(error.into()),
        }
        // It may have gone before the watch was there.
        self.look_at_units();
        Ok(HolderId(number))
    }

    /// The directory of a cgroup, in whichever hierarchy has it.
    fn find(&self, cgroup: &str) -> io::Result<Option<PathBuf>> {
        let relative = cgroup.trim_start_matches('/');
        let plain = !relative.is_empty() && relative.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !plain {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{cgroup:?} is no unit's cgroup"),
            ));
        }
        let places = MOUNTS.iter().map(|name| self.mount.join(name).join(relative));
        Ok(places.into_iter().find(|directory| directory.is_dir()))
    }

    /// Watches a holder no longer.
    pub fn remove(&mut self, holder: HolderId) -> io::Result<()> {
        self.gone.retain(|gone| *gone != holder);
        if let Some(pidfd) = self.processes.remove(&holder.0) {
            self.set.remove(&pidfd)?;
        }
        if let Some(unit) = self.units.remove(&holder.0) {
            self.unwatch(unit.slice)?;
        }
        Ok(())
    }

    fn unwatch(&mut self, slice: WatchDescriptor) -> io::Result<()> {
        let Some(count) = self.slices.get_mut(&slice) else { return Ok(()) };
        *count -= 1;
        if *count == 0 {
            self.slices.remove(&slice);
            match self.inotify.rm_watch(slice) {
                // The directory is gone, and the watch with it.
                Err(Errno::EINVAL) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// The next holder that is gone. Nothing is lost where the future is dropped.
    pub async fn next(&mut self) -> io::Result<HolderId> {
        loop {
            if let Some(holder) = self.gone.pop_front() {
                self.remove(holder)?;
                return Ok(holder);
            }
            match self.set.next().await? {
                INOTIFY => self.read_inotify()?,
                number if self.processes.contains_key(&number) => self.gone.push_back(HolderId(number)),
                _ => {}
            }
        }
    }

    /// Takes all events out, since the epoll set tells of them once.
    fn read_inotify(&mut self) -> io::Result<()> {
        loop {
            match self.inotify.read_events() {
                Ok(events) => events.iter().for_each(|event| self.note(event)),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A removed directory is gone even where there is a new one of its name by now.
    fn note(&mut self, event: &InotifyEvent) {
        let Some(name) = &event.name else {
            // An overflow or the end of a watch: nothing is known but what is there now.
            return self.look_at_units();
        };
        let removed = |unit: &UnitWatch| unit.slice == event.wd && unit.directory.file_name() == Some(name);
        let gone = self.units.iter().filter(|(_, unit)| removed(unit)).map(|(number, _)| HolderId(*number));
        self.gone.extend(gone.collect::<Vec<_>>());
        self.forget_twice_told();
    }

    fn look_at_units(&mut self) {
        let gone = self.units.iter().filter(|(_, unit)| !unit.directory.is_dir());
        self.gone.extend(gone.map(|(number, _)| HolderId(*number)).collect::<Vec<_>>());
        self.forget_twice_told();
    }

    fn forget_twice_told(&mut self) {
        let mut told = BTreeSet::new();
        self.gone.retain(|holder| told.insert(*holder));
    }
}
