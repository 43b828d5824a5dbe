//! Who a process is: name, user, unit, age; and the unit of whoever made a socket that no process can be seen to have.

use super::super::peer::systemd_cgroup;
use super::super::process;
use super::super::tuple_user::unit_of_cgroup;
use crate::model::{Process, UnitName};
use nix::time::{ClockId, clock_gettime};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::time::Duration;

/// `USER_HZ`, in which /proc counts time: 100 on all architectures that there is Rust for.
const TICKS: u64 = 100;

/// These processes, each looked at once. Those that are gone are left out, and of one whose pid was given to another
/// meanwhile the other is told.
pub fn processes(pids: impl IntoIterator<Item = u32>) -> io::Result<HashMap<u32, Process>> {
    let pids: BTreeSet<u32> = pids.into_iter().collect();
    let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
    Ok(pids.into_iter().filter_map(|pid| Some((pid, look(pid, now)?))).collect())
}

fn look(pid: u32, now: Duration) -> Option<Process> {
    let number = i32::try_from(pid).ok()?;
    let status = process::read(number, "status")?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = ids.and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok());
    let cgroup = process::read(number, "cgroup").and_then(|text| systemd_cgroup(&text));
    let started = process::start_time(number).map(|start| {
        Duration::from_secs(start / TICKS) + Duration::from_millis(start % TICKS * 1000 / TICKS)
    });
    Some(Process {
        pid,
        name: process::name(number),
        uid,
        unit: cgroup.and_then(|cgroup| UnitName::of_cgroup(&cgroup)),
        age: started.map(|started| now.saturating_sub(started)),
    })
}

/// The unit in which a socket was made, by the cgroup that the kernel tells of it: for sockets whose process may not be
/// seen.
#[must_use]
pub fn unit_of_maker(cgroup: u64) -> Option<UnitName> {
    if cgroup == 0 { None } else { unit_of_cgroup(cgroup) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_by_name_user_and_age() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = processes([child.id(), child.id(), 0]).unwrap();
        assert_eq!(found.len(), 1);
        let process = &found[&child.id()];
        assert_eq!((process.name.as_str(), process.uid), ("sleep", Some(nix::unistd::geteuid().as_raw())));
        assert!(process.age.is_some_and(|age| age < Duration::from_secs(600)), "{process:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(processes([child.id()]).unwrap().is_empty());
    }
}
