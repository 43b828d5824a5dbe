//! What this process takes of the host.

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::unistd::{SysconfVar, sysconf};
use std::time::Duration;

/// What it takes now; 0 for what the kernel does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnUsage {
    /// Bytes of memory that are resident.
    pub resident: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// How many may be open.
    pub most_descriptors: u64,
    /// Processor time.
    pub cpu: Duration,
}

/// Looks. A few system calls, whatever this process has open (from Linux 6.2 on).
#[must_use]
pub fn own_usage() -> OwnUsage {
    OwnUsage {
        resident: resident().unwrap_or_default(),
        descriptors: descriptors().unwrap_or_default(),
        most_descriptors: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
        cpu: cpu().unwrap_or_default(),
    }
}

fn resident() -> Option<u64> {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(u64::try_from(page).ok()?)
}

fn descriptors() -> Option<u64> {
    // proc_pid_fd(5): from Linux 6.2 on its size is how many there are.
    let told = std::fs::metadata("/proc/self/fd").ok()?.len();
    if told > 0 {
        return Some(told);
    }
    // One of them is the directory itself.
    let counted = std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    u64::try_from(counted).ok()
}

fn cpu() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let time = |of: nix::sys::time::TimeVal| {
        let (seconds, micros) = (u64::try_from(of.tv_sec()).ok()?, u64::try_from(of.tv_usec()).ok()?);
        Some(Duration::from_secs(seconds) + Duration::from_micros(micros))
    };
    Some(time(usage.user_time())? + time(usage.system_time())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_counted() {
        let before = own_usage();
        assert!(before.resident > 100_000 && before.most_descriptors >= before.descriptors);
        let pipes: Vec<_> = (0..50).map(|_| nix::unistd::pipe().unwrap()).collect();
        // Other tests open and close some meanwhile.
        assert!(own_usage().descriptors >= before.descriptors + 50, "{before:?} {:?}", own_usage());
        drop(pipes);
    }
}
