//! What /proc tells of a process, believed only while a pidfd shows that it is still the same process.
//!
//! A pid is a number that is used again: everything is read first, and only then is the pidfd asked whether the
//! process still lives; if so, /proc spoke of it. The daemon is not root, so only files that everybody may read
//! are used, and not /proc/PID/ns.
#![expect(unsafe_code, reason = "pidfd_open, which nix does not have")]

use crate::model::UnitName;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// No more of a file in /proc is read than this: its length can be in the hands of the process.
const MOST_READ: u64 = 1 << 20;

/// A process, by its pid and a descriptor that is it for ever.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
    proc: PathBuf,
}

/// The cgroup of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// The path in systemd's hierarchy, absolute.
    pub path: String,
    /// The system unit that it belongs to.
    pub unit: Option<UnitName>,
}

/// Why nothing can be said of a process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It is gone; what was read may be about another.
    #[error("process {pid} has exited")]
    Gone {
        /// Its pid.
        pid: u32,
    },
    /// A file could not be read.
    #[error("cannot read {path} of process {pid}", path = path.display())]
    Proc {
        /// Its pid.
        pid: u32,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel gave no descriptor for it.
    #[error("cannot get a descriptor for process {pid}")]
    Pidfd {
        /// Its pid.
        pid: u32,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A descriptor for the process that has a pid now, pidfd_open(2).
pub fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(result) {
        // SAFETY: the call succeeded, so this is a new descriptor, which nobody else owns. It is close-on-exec.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the process of a pidfd has exited; a zombie has.
pub fn has_exited(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut entries = [PollFd::new(pidfd, PollFlags::POLLIN)];
    Ok(poll(&mut entries, PollTimeout::ZERO)? > 0)
}

impl Process {
    /// The process of a pidfd, with the pid that the kernel told together with it.
    #[must_use]
    pub fn new(pid: u32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, proc: PathBuf::from("/proc") }
    }

    /// The process that has a pid now.
    pub fn open(pid: u32) -> Result<Self, ProcessError> {
        let pidfd = open_pidfd(pid).map_err(|source| match source.raw_os_error() {
            Some(libc::ESRCH) => ProcessError::Gone { pid },
            _ => ProcessError::Pidfd { pid, source },
        })?;
        Ok(Self::new(pid, pidfd))
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A copy of its descriptor, to watch it by.
    pub fn pidfd(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// Whether it lives; unknown counts as no.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        has_exited(self.pidfd.as_fd()).is_ok_and(|exited| !exited)
    }

    /// Reads a file of it, and only then makes sure that it is still the one that has the pid.
    fn read(&self, name: &str) -> Result<String, ProcessError> {
        let path = self.proc.join(self.pid.to_string()).join(name);
        let text = read_some(&path);
        if !self.is_alive() {
            return Err(ProcessError::Gone { pid: self.pid });
        }
        text.map_err(|source| ProcessError::Proc { pid: self.pid, path, source })
    }

    /// Its cgroup, and the unit that this belongs to. `None` where systemd has no hierarchy.
    pub fn cgroup(&self) -> Result<Option<Cgroup>, ProcessError> {
        let text = self.read("cgroup")?;
        let path = systemd_cgroup(&text).map(str::to_owned);
        Ok(path.map(|path| Cgroup { unit: UnitName::of_cgroup(&path), path }))
    }

    /// Its name, as `ps` shows it.
    pub fn name(&self) -> Result<String, ProcessError> {
        Ok(self.read("comm")?.trim_end_matches('\n').to_owned())
    }

    /// When it started, in clock ticks since boot.
    pub fn start_time(&self) -> Result<u64, ProcessError> {
        let text = self.read("stat")?;
        start_time_of(&text).ok_or_else(|| ProcessError::Proc {
            pid: self.pid,
            path: self.proc.join("PID/stat"),
            source: io::ErrorKind::InvalidData.into(),
        })
    }

    /// Whether one of its user ids (real, effective, saved, of the file system) is this one.
    pub(super) fn has_user(&self, uid: u32) -> Result<bool, ProcessError> {
        let text = self.read("status")?;
        let ids = field(&text, "Uid:").unwrap_or_default();
        Ok(ids.split_whitespace().any(|id| id.parse() == Ok(uid)))
    }

    /// Whether it is in the initial user, pid and mount namespaces, where uid 0 is the root of the host.
    ///
    /// Anything that cannot be read or does not fit counts as no.
    #[must_use]
    pub fn in_initial_namespaces(&self) -> bool {
        let initial = || -> Result<bool, ProcessError> {
            let user = is_identity_map(&self.read("uid_map")?);
            let pid = has_one_pid(&self.read("status")?);
            let init = read_some(&self.proc.join("1/mountinfo")).unwrap_or_default();
            let mount = shares_root_mount(&self.read("mountinfo")?, &init);
            Ok(user && pid && mount)
        };
        initial().unwrap_or(false)
    }
}

/// Reads a file of /proc, up to a bound.
fn read_some(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_READ).read_to_end(&mut bytes)?;
    // Paths and names in it may be no UTF-8, which must not hide the rest.
    text.push_str(&String::from_utf8_lossy(&bytes));
    Ok(text)
}

/// The path in systemd's hierarchy: its own of version 1, where there is one, or the unified one.
fn systemd_cgroup(text: &str) -> Option<&str> {
    let path_of = |controllers: &str| {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, found, path) = (parts.next()?, parts.next()?, parts.next()?);
            (found == controllers).then_some(path)
        })
    };
    let path = path_of("name=systemd").or_else(|| path_of(""))?;
    (path.starts_with('/') && !path.ends_with(" (deleted)")).then_some(path)
}

/// Field 22 of /proc/PID/stat; the name before it can contain anything, so counting begins after its last ')'.
fn start_time_of(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// A line of /proc/PID/status.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

/// Whether every user id is itself: the initial namespace has exactly this map.
fn is_identity_map(uid_map: &str) -> bool {
    let mut words = uid_map.split_whitespace();
    let map = (words.next(), words.next(), words.next(), words.next());
    map == (Some("0"), Some("0"), Some("4294967295"), None)
}

/// Whether a process has a pid in one namespace only, that of /proc.
fn has_one_pid(status: &str) -> bool {
    field(status, "NSpid:").is_some_and(|pids| pids.split_whitespace().count() == 1)
}

/// Whether two processes have the same mount as their root directory. A mount belongs to one mount namespace,
/// and a process that changed its root has no mount at `/`, or another one.
fn shares_root_mount(mountinfo: &str, other: &str) -> bool {
    let roots = |text: &str| -> Vec<String> {
        let ids = text.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let id = words.next()?;
            // mount id, parent id, device, root within the file system, mount point
            (words.nth(3)? == "/").then(|| id.to_owned())
        });
        ids.collect()
    };
    let theirs = roots(other);
    roots(mountinfo).iter().any(|id| theirs.contains(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_cgroup_is_that_of_systemds_hierarchy() {
        let unified = "0::/system.slice/mariadb.service\n";
        assert_eq!(systemd_cgroup(unified), Some("/system.slice/mariadb.service"));
        let hybrid = "12:pids:/other\n1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service\n";
        assert_eq!(systemd_cgroup(hybrid), Some("/system.slice/a.service"));
        assert_eq!(systemd_cgroup("0::/system.slice/a.service (deleted)\n"), None);
        assert_eq!(systemd_cgroup("4:memory:/x\n"), None);
        assert_eq!(systemd_cgroup("0::/system.slice/a:b.service\n"), Some("/system.slice/a:b.service"));
    }

    #[test]
    fn a_name_cannot_forge_the_start_time() {
        let stat = "812 (x) R 1 2 3) S 1 812 812 0 -1 4194560 1 0 0 0 7 7 0 0 20 0 1 0 4711 9 9";
        assert_eq!(start_time_of(stat), Some(4711));
        assert_eq!(start_time_of("812"), None);
    }

    #[test]
    fn only_the_full_identity_map_is_the_initial_user_namespace() {
        assert!(is_identity_map("         0          0 4294967295\n"));
        assert!(!is_identity_map("         0     100000      65536\n"));
        assert!(!is_identity_map("0 0 1\n1 1 4294967294\n"));
        assert!(!is_identity_map(""));
    }

    #[test]
    fn a_process_with_pids_in_two_namespaces_is_in_a_container() {
        assert!(has_one_pid("Name:\tx\nNSpid:\t812\nNSpgid:\t812\n"));
        assert!(!has_one_pid("NSpid:\t812\t1\n"));
        assert!(!has_one_pid("Name:\tNSpid:\t1\n"));
    }

    #[test]
    fn the_root_mount_is_compared_by_its_id() {
        let init = "27 1 254:0 / / rw - ext4 /dev/vda rw\n30 27 0:5 / /dev rw - devtmpfs d rw\n";
        assert!(shares_root_mount(init, init));
        assert!(!shares_root_mount("127 1 254:0 / / rw - ext4 /dev/vda rw\n", init));
        assert!(!shares_root_mount("30 27 0:5 / /dev rw - devtmpfs d rw\n", init));
        assert!(!shares_root_mount("", ""));
    }

    /// A process that has exited, not reaped: /proc still shows its pid.
    fn zombie() -> (std::process::Child, Process) {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        assert!(process.is_alive() && process.name().is_ok());
        drop(child.stdin.take());
        while process.is_alive() {
            std::thread::yield_now();
        }
        (child, process)
    }

    #[test]
    fn nothing_is_believed_of_a_process_that_exited_although_its_pid_is_there() {
        let (mut child, process) = zombie();
        assert!(Path::new(&format!("/proc/{}/cgroup", process.pid())).exists());
        assert!(matches!(process.cgroup(), Err(ProcessError::Gone { .. })));
        assert!(matches!(process.name(), Err(ProcessError::Gone { .. })));
        assert!(matches!(process.start_time(), Err(ProcessError::Gone { .. })));
        assert!(!process.in_initial_namespaces());
        child.wait().unwrap();
        assert!(matches!(Process::open(process.pid()), Err(ProcessError::Gone { .. })));
    }

    #[test]
    fn a_pid_that_another_process_has_by_now_is_refused() {
        let (mut child, dead) = zombie();
        // As if the pid had come round: the number is a living process's, the descriptor is not.
        let pidfd = dead.pidfd().unwrap();
        let reused = Process::new(std::process::id(), pidfd);
        assert!(matches!(reused.cgroup(), Err(ProcessError::Gone { .. })));
        assert!(!reused.in_initial_namespaces());
        child.wait().unwrap();
    }
}
