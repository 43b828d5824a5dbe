//! How many processes of this process's own memory cgroup the kernel has killed for want of memory.
//!
//! A process that was killed can be told by nothing else from one that somebody sent SIGKILL: a parent that looks at
//! the count before and after knows that there was such a kill, and it is counted before the process dies. Of the
//! unified hierarchy it is `oom_kill` in memory.events (cgroup-v2), of the legacy one in memory.oom_control.
//!
//! Without a memory cgroup that can be seen nobody knows, and nothing is said.

use std::fs;

/// The count, and the memory that the cgroup may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OomKills {
    /// Of any process in it, since it was made.
    pub kills: u64,
    /// In bytes; `None` where there is no limit but the host's memory, or one further up.
    pub limit: Option<u64>,
}

/// What is counted for the cgroup of this process.
#[must_use]
pub fn oom_kills() -> Option<OomKills> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    places(&cgroups).into_iter().find_map(|[events, limit]| {
        let kills = count(&fs::read_to_string(events).ok()?)?;
        let limit = fs::read_to_string(limit).ok().and_then(|text| limit_of(&text));
        Some(OomKills { kills, limit })
    })
}

/// The files of count and limit, by hierarchy.
fn places(cgroups: &str) -> Vec<[String; 2]> {
    let place = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let path = path.trim_end_matches('/');
        let legacy = controllers.split(',').any(|controller| controller == "memory");
        match (controllers, legacy) {
            ("", _) => {
                let directory = format!("/sys/fs/cgroup{path}");
                // Of this cgroup alone; before Linux 5.2 there is only that of those below it too.
                Some([format!("{directory}/memory.events.local"), format!("{directory}/memory.max")])
            }
            (_, true) => {
                let directory = format!("/sys/fs/cgroup/memory{path}");
                Some([
                    format!("{directory}/memory.oom_control"),
                    format!("{directory}/memory.limit_in_bytes"),
                ])
            }
            _ => None,
        }
    };
    cgroups.lines().filter_map(place).collect()
}

fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

/// `max`, or what is so much that it is none, is no limit.
fn limit_of(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_those_of_the_own_cgroup() {
        let unified = places("0::/system.slice/portbroker.service\n");
        assert_eq!(
            unified,
            [[
                "/sys/fs/cgroup/system.slice/portbroker.service/memory.events.local",
                "/sys/fs/cgroup/system.slice/portbroker.service/memory.max"
            ]]
        );
        let hybrid = places("5:devices:/\n4:hugetlb,memory:/a\n1:name=systemd:/b\n0::/\n");
        assert_eq!(hybrid.len(), 2);
        assert_eq!(hybrid[0][0], "/sys/fs/cgroup/memory/a/memory.oom_control");
        assert_eq!(hybrid[1][0], "/sys/fs/cgroup/memory.events.local");
        assert!(places("").is_empty() && places("nonsense\n:::\n").len() <= 1);
    }

    #[test]
    fn the_count_is_read_from_either_file() {
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(count("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(count("oom_kill_disable 0\n"), None);
    }

    #[test]
    fn no_limit_is_none() {
        assert_eq!(limit_of("max\n"), None);
        assert_eq!(limit_of("9223372036854771712\n"), None);
        assert_eq!(limit_of("33554432\n"), Some(32 << 20));
    }
}
