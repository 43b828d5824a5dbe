//! Who is at the other end: credentials that the kernel vouches for, and what /proc says of that process.
//!
//! What is read below /proc/PID counts only if the pidfd shows afterwards that the process is still there:
//! else the pid may be another's by now. The daemon has no ptrace rights, and so may not read
//! /proc/PID/ns/*; what it reads instead is open to everybody.

use super::descriptors::{self, is_shortage};
use super::process::{self, open_pidfd};
use super::sockopt::network_cookie;
use crate::model::UnitName;
use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

/// A process that calls.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Effective uid when it connected.
    pub uid: u32,
    /// Effective gid and supplementary groups then.
    pub groups: Vec<u32>,
    /// Its pid: for the log, and for paths below /proc that the pidfd vouches for.
    pub pid: i32,
    /// `None` where it is gone already, or cannot be told from another.
    pub pidfd: Option<Arc<OwnedFd>>,
    /// The number of the network namespace that its end of the connection was made in, where the kernel tells.
    network: Option<u64>,
    /// No descriptor was left for `pidfd`.
    unseen: bool,
}

impl Peer {
    /// The peer of a connected unix stream.
    pub fn of_stream(stream: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(stream, sockopt::PeerCredentials)?;
        let mut groups = peer_groups(stream)?;
        groups.push(credentials.gid());
        let pid = credentials.pid();
        let mut unseen = false;
        let pidfd = match peer_pidfd(stream) {
            Ok(pidfd) => Some(pidfd),
            Err(error) if is_shortage(&error) => {
                unseen = true;
                None
            }
            // Kernels before 6.5. A process of that pid that belongs to another user is another process; one
            // that started after this very moment cannot have connected.
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                open_pidfd(pid).ok().filter(|pidfd| process::has_user(pid, credentials.uid(), pidfd))
            }
            // The peer is gone (ESRCH, or EINVAL for one that is reaped).
            Err(_) => None,
        };
        // An accepted unix socket is of the namespace of the one that connected: unix_stream_connect() of the kernel.
        let network = network_cookie(stream).ok();
        Ok(Self { uid: credentials.uid(), groups, pid, pidfd: pidfd.map(Arc::new), network, unseen })
    }

    /// A process that somebody trustworthy named. The caller must make sure *afterwards* that this pid was
    /// still the one that was meant. A process of that pid that has none of its user ids is not.
    #[must_use]
    pub fn of_process(pid: i32, uid: u32, groups: Vec<u32>) -> Self {
        let pidfd = open_pidfd(pid).ok().filter(|pidfd| process::has_user(pid, uid, pidfd));
        Self { uid, groups, pid, pidfd: pidfd.map(Arc::new), network: None, unseen: false }
    }

    /// Whether it can be found out now who it is: for want of descriptors nothing can be read, and everybody would be
    /// nobody in particular.
    #[must_use]
    pub fn can_be_known(&self) -> bool {
        !self.unseen && descriptors::are_there_any()
    }

    /// Whether it is in the network namespace of this thread: by the socket that it connected with, or, where there is
    /// none (on a bus) or the kernel does not tell, by the numbers of the files below its /proc/PID/net, which each
    /// namespace has of its own, and which, unlike /proc/PID/ns/net, everybody may look at.
    #[must_use]
    pub fn is_in_our_network(&self) -> bool {
        if let Some(theirs) = self.network {
            return own_network().is_some_and(|own| own == theirs);
        }
        let number = |of: &str| Some(fs::metadata(format!("/proc/{of}/net/unix")).ok()?.ino());
        self.while_alive(|pid| Some(number(&pid.to_string())? == number("thread-self")?)).unwrap_or(false)
    }

    /// What `read` finds below /proc, if the process was there before and after.
    fn while_alive<T>(&self, read: impl FnOnce(i32) -> Option<T>) -> Option<T> {
        let pidfd = self.pidfd.as_ref()?;
        let found = read(self.pid)?;
        process::is_alive(pidfd).then_some(found)
    }

    /// When it started, in clock ticks since boot: with the pid, this names a process for good.
    #[must_use]
    pub fn start_time(&self) -> Option<u64> {
        self.while_alive(process::start_time)
    }

    /// The path of its cgroup in systemd's hierarchy.
    #[must_use]
    pub fn cgroup(&self) -> Option<String> {
        self.while_alive(|pid| systemd_cgroup(&process::read(pid, "cgroup")?))
    }

    /// The system unit that it runs in.
    #[must_use]
    pub fn unit(&self) -> Option<UnitName> {
        UnitName::of_cgroup(&self.cgroup()?)
    }

    /// Whether it is in the initial user, pid and mount namespaces: those of PID 1, as far as /proc shows it.
    /// The root of a container without a user namespace is uid 0 too, and not in these.
    #[must_use]
    pub fn in_initial_namespaces(&self) -> bool {
        let same_mounts = |pid| Some(root_mount(pid)? == root_mount(1)?);
        self.is_of_this_system() && self.while_alive(same_mounts).unwrap_or(false)
    }

    /// The same for the user and pid namespaces alone: no container, but perhaps a unit with other mounts.
    #[must_use]
    pub fn is_of_this_system(&self) -> bool {
        let initial = |pid| {
            let one_pid = has_one_pid(&process::read(pid, "status")?);
            Some(one_pid && maps_everything(&process::read(pid, "uid_map")?))
        };
        self.while_alive(initial).unwrap_or(false)
    }
}

/// The system unit that has a process now, whoever that is.
pub(super) fn unit_of(pid: i32) -> Option<UnitName> {
    let pidfd = open_pidfd(pid).ok().map(Arc::new);
    Peer { uid: 0, groups: Vec::new(), pid, pidfd, network: None, unseen: false }.unit()
}

/// The number of this thread's network namespace.
fn own_network() -> Option<u64> {
    network_cookie(std::os::unix::net::UnixDatagram::unbound().ok()?).ok()
}

/// The path in systemd's own hierarchy: `name=systemd` where there is one (legacy, hybrid), else the unified.
pub(super) fn systemd_cgroup(text: &str) -> Option<String> {
    let path_of = |controller: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            (controllers == controller).then(|| path.to_owned())
        })
    };
    path_of("name=systemd").or_else(|| path_of(""))
}

/// `NSpid:` has a pid for each pid namespace down from ours: one only where it is in ours.
fn has_one_pid(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.is_some_and(|pids| pids.split_whitespace().count() == 1)
}

/// The initial user namespace maps every id to itself.
fn maps_everything(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The mount id of a process's `/`: mount ids are unique on the host, so this one tells mount namespaces (and
/// chroots) apart. A mount table may be large, and no more of it is read than up to there.
fn root_mount(pid: i32) -> Option<u64> {
    let table = fs::File::open(format!("/proc/{pid}/mountinfo")).ok()?.take(1 << 20);
    let mut lines = BufReader::new(table).split(b'\n').map_while(Result::ok);
    lines.find_map(|line| mount_id_of_root(&String::from_utf8_lossy(&line)))
}

/// The mount id in a line of mountinfo that is about `/`.
fn mount_id_of_root(line: &str) -> Option<u64> {
    let mut fields = line.split(' ');
    let id = fields.next()?.parse().ok()?;
    (fields.nth(3)? == "/").then_some(id)
}

#[expect(unsafe_code, reason = "nix has no SO_PEERGROUPS")]
fn peer_groups(stream: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut size = libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: `groups` is a live buffer of `size` bytes, and the kernel writes no more than `size` says.
        let result = unsafe {
            libc::getsockopt(
                stream.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        let count = size as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // NGROUPS_MAX is 65,536.
        if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() && count <= 1 << 16 {
            groups.resize(count, 0);
        } else {
            return Err(error);
        }
    }
}

#[expect(unsafe_code, reason = "nix has no SO_PEERPIDFD")]
fn peer_pidfd(stream: &impl AsFd) -> io::Result<OwnedFd> {
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut raw: libc::c_int = -1;
    let mut size: libc::socklen_t = 4;
    // SAFETY: `raw` is a live int, and `size` says so.
    let result = unsafe {
        libc::getsockopt(
            stream.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut raw).cast(),
            &raw mut size,
        )
    };
    if result != 0 || raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor (close-on-exec) for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    #[test]
    fn the_kernel_says_who_is_there() {
        let (here, _there) = UnixStream::pair().unwrap();
        let peer = Peer::of_stream(&here).unwrap();
        assert_eq!((peer.uid, peer.pid), (nix::unistd::geteuid().as_raw(), std::process::id().cast_signed()));
        assert!(peer.groups.contains(&nix::unistd::getegid().as_raw()));
        assert!(peer.pidfd.is_some());
    }

    #[test]
    fn what_proc_says_of_a_pid_counts_only_while_its_process_lives() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id().cast_signed();
        let peer = Peer::of_process(pid, 0, Vec::new());
        assert!(peer.cgroup().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(peer.cgroup(), None);
        assert!(!peer.in_initial_namespaces());
        // As if the pid had been given to a living process while the call was under way.
        let reused = Peer { pid: std::process::id().cast_signed(), ..peer };
        assert_eq!(reused.cgroup(), None);
        assert!(!reused.in_initial_namespaces());
    }

    #[test]
    fn the_line_of_systemds_hierarchy_is_found() {
        let hybrid = "9:name=systemd:/system.slice/a.service\n2:cpu,cpuacct:/x\n0::/b\n";
        assert_eq!(systemd_cgroup(hybrid).as_deref(), Some("/system.slice/a.service"));
        assert_eq!(
            systemd_cgroup("0::/system.slice/a:b.service\n").as_deref(),
            Some("/system.slice/a:b.service")
        );
        assert_eq!(systemd_cgroup("2:cpu:/x\n"), None);
    }

    #[test]
    fn the_line_of_the_root_mount_is_found() {
        let line = "31 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw";
        assert_eq!(mount_id_of_root(line), Some(31));
        assert_eq!(mount_id_of_root("22 31 0:21 / /proc rw,relatime - proc proc rw"), None);
        assert_eq!(mount_id_of_root(""), None);
    }

    #[test]
    fn the_root_of_other_namespaces_is_not_root() {
        for flags in [&["-m"][..], &["-p", "-f"], &["-U", "-r"]] {
            let mut child = Command::new("unshare")
                .args(flags)
                .args(["sh", "-c", "echo; exec sleep 60"])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = [0];
            child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
            // With -f the shell is the child of unshare.
            let own = child.id();
            let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap();
            let pid = children.trim().parse().unwrap_or(own).cast_signed();
            let peer = Peer::of_process(pid, 0, Vec::new());
            assert!(!peer.in_initial_namespaces(), "unshare {flags:?}");
            assert!(peer.pidfd.is_some());
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
                .unwrap();
            child.wait().unwrap();
        }
        let own = Peer::of_process(std::process::id().cast_signed(), 0, Vec::new());
        assert!(own.in_initial_namespaces());
    }
}
