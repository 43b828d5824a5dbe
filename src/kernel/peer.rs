//! Who is at the other end of a unix stream, by what the kernel noted when it connected.
//!
//! A user and groups are always known. The process is known only where its identity is certain: by SO_PEERPIDFD
//! (kernel 6.5), or, before that, by a pid whose process is not younger than this look at it and has the user
//! that connected. Without a process there is no unit and no root of the host.
#![expect(unsafe_code, reason = "SO_PEERGROUPS, which nix does not have, and clock_gettime")]

use super::process::{Process, ProcessError};
use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The most supplementary groups that a process can have, NGROUPS_MAX.
const MOST_GROUPS: usize = 65_536;

/// A caller.
#[derive(Debug)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// Its process, where that is certain.
    pub process: Option<Process>,
}

/// Why nothing is known of a peer.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the {what} of a client")]
pub struct PeerError {
    what: &'static str,
    source: io::Error,
}

impl Peer {
    /// The process that connected a unix stream. To be called as soon as it was accepted.
    pub fn of_stream(stream: impl AsFd) -> Result<Self, PeerError> {
        let failed = |what| move |source: io::Error| PeerError { what, source };
        let credentials = getsockopt(&stream, sockopt::PeerCredentials)
            .map_err(|error| failed("credentials")(error.into()))?;
        let groups = peer_groups(&stream).map_err(failed("groups"))?;
        // 0: it is in a pid namespace that we cannot see into.
        let pid = u32::try_from(credentials.pid()).ok().filter(|&pid| pid != 0);
        let uid = credentials.uid();
        let process = match (pid, getsockopt(&stream, sockopt::PeerPidfd)) {
            (Some(pid), Ok(pidfd)) => Some(Process::new(pid, pidfd)),
            (Some(pid), Err(nix::Error::ENOPROTOOPT)) => by_pid(pid, uid),
            // It exited already.
            _ => None,
        };
        Ok(Self { uid, gid: credentials.gid(), groups, process })
    }

    /// A caller whose ids a bus told. The bus has to be asked again, after this, whether it is still this pid.
    #[must_use]
    pub fn of_bus(uid: u32, gid: u32, groups: Vec<u32>, pid: u32) -> Self {
        Self { uid, gid, groups, process: by_pid(pid, uid) }
    }

    /// Whether it is root of the host, and not of a container.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.uid == 0 && self.process.as_ref().is_some_and(Process::in_initial_namespaces)
    }
}

/// The process that has a pid, where it is not younger than this look and has the user that connected: a pid
/// that another process gets from now on, or that is another user's by now, is not believed.
///
/// /proc tells the start in ticks of 10 ms, and a command line connects within its first: the same tick counts.
fn by_pid(pid: u32, uid: u32) -> Option<Process> {
    let now = ticks_since_boot()?;
    let identify = || -> Result<Option<Process>, ProcessError> {
        let process = Process::open(pid)?;
        let certain = process.start_time()? <= now && process.has_user(uid)?;
        Ok(certain.then_some(process))
    };
    identify().ok().flatten()
}

/// The clock by which /proc/PID/stat tells when a process started.
fn ticks_since_boot() -> Option<u64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: now is a timespec that outlives the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    // SAFETY: sysconf takes an integer and touches no memory of ours.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok()?;
    let seconds = u64::try_from(now.tv_sec).ok()?;
    let nanoseconds = u64::try_from(now.tv_nsec).ok()?;
    let ticks = seconds * per_second + nanoseconds * per_second / 1_000_000_000;
    (result == 0).then_some(ticks)
}

/// The supplementary groups of the process that connected, SO_PEERGROUPS.
fn peer_groups(stream: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<u32> = vec![0; 64];
    loop {
        let mut length = libc::socklen_t::try_from(size_of_val(groups.as_slice())).unwrap_or(0);
        // SAFETY: length is the size in bytes of what groups points to, and both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                stream.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = usize::try_from(length).unwrap_or(0) / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // The kernel says how many there are.
            Some(libc::ERANGE) if count > groups.len() && count <= MOST_GROUPS => groups.resize(count, 0),
            // A socket of a kind that keeps none (socketpair(2) before 4.13).
            Some(libc::ENODATA) => return Ok(Vec::new()),
            _ => return Err(error),
        }
    }
}
