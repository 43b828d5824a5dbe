//! Processes: pidfds, start times, names.

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd};

/// pidfd_open(2).
#[expect(unsafe_code, reason = "nix has no pidfd_open")]
pub(super) fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let raw = i32::try_from(result).map_err(io::Error::other)?;
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor (close-on-exec) for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// poll(2) that does not wait. Where nothing is ready it is interrupted by a signal that is pending all the same (seen
/// on Linux 6.18, with a storm of SIGHUP), and asks again then.
pub(super) fn poll_now(descriptors: &mut [PollFd<'_>]) -> nix::Result<i32> {
    loop {
        match poll(descriptors, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// Whether the process has not exited. A pidfd is readable from the exit on, zombies included.
pub(super) fn is_alive(pidfd: &impl AsFd) -> bool {
    let mut descriptors = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    matches!(poll_now(&mut descriptors), Ok(0))
}

/// A small file below /proc/PID. It has no length that could be asked for, and each read makes the kernel write
/// some of it: so with room for all of it, in one. A process may have any bytes in its name.
pub(super) fn read(pid: i32, file: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(4096);
    File::open(format!("/proc/{pid}/{file}")).ok()?.take(1 << 20).read_to_end(&mut bytes).ok()?;
    Some(
        String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}

/// How many descriptors this process may have open, and its user in flight (`RLIMIT_NOFILE`).
#[must_use]
pub fn descriptor_limit() -> u64 {
    // It is always there.
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// Whether one of a process's user ids (real, effective, saved, of the file system) is this one.
pub(super) fn has_user(pid: i32, uid: u32, pidfd: &OwnedFd) -> bool {
    let status = read(pid, "status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    ids.split_whitespace().any(|id| id.parse() == Ok(uid)) && is_alive(pidfd)
}

/// When a process started, in clock ticks since boot: with the pid, this names a process for good.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    start_time_in(&read(pid, "stat")?)
}

/// The command name may contain blanks and parentheses: what counts comes after the last `)`.
fn start_time_in(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(19)?.parse().ok()
}

/// The name of a process, as ps(1) shows it, made fit to print.
pub(super) fn name(pid: i32) -> String {
    read(pid, "comm").unwrap_or_default().trim_end().escape_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_a_strange_name_has_a_start_time() {
        let fields = (4..=21).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(start_time_in(&format!("7 (a) S (b)) S {fields} 4711 23\n")), Some(4711));
        assert_eq!(start_time_in("7 (a"), None);
        assert!(start_time(std::process::id().cast_signed()).is_some_and(|ticks| ticks > 0));
    }
}
