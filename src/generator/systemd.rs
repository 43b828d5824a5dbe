//! What the daemon's own unit can have only on a newer systemd than the oldest that we serve, 252.
//!
//! The unit file is one for all, and an older systemd warns of what it does not know. So the generator, which runs on
//! the host itself, gives what the systemd there has, and gives it anew when that was upgraded.

use super::delivery::HEADER;

/// What the library is called that systemd(1) is linked with, before its version.
const LIBRARY: &str = "libsystemd-shared-";
/// `Type=notify-reload` is known from then on.
const NOTIFY_RELOAD: SystemdVersion = SystemdVersion(253);
/// And `FileDescriptorStorePreserve=`.
const PRESERVE: SystemdVersion = SystemdVersion(254);

/// A version of systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SystemdVersion(pub u32);

impl SystemdVersion {
    /// That of the manager that has these mappings, of `/proc/1/maps`: the one that runs, which after an upgrade is
    /// not yet the one that is installed. `None` where it does not show, and then it has to pass for an old one.
    #[must_use]
    pub fn of_maps(maps: &str) -> Option<Self> {
        maps.lines().find_map(|line| {
            let (_, version) = line.split_once(LIBRARY)?;
            let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
            version.get(..end)?.parse().ok().map(Self)
        })
    }
}

/// The drop-in for portbroker.service; none where this systemd has nothing more.
///
/// `ExecReload=` stays beside `Type=notify-reload`: READY=1 says when a reload has ended, and nothing in that protocol
/// says that it was refused. A file that was taken by the signal is taken once more by the command, which changes
/// nothing and tells how it went.
#[must_use]
pub(super) fn drop_in(systemd: Option<SystemdVersion>) -> Option<String> {
    let systemd = systemd.filter(|version| *version >= NOTIFY_RELOAD)?;
    let mut text = format!("{HEADER}[Service]\nType=notify-reload\n");
    if systemd >= PRESERVE {
        text.push_str("FileDescriptorStorePreserve=yes\n");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Option<SystemdVersion> {
        let maps = format!(
            "55e0-55e1 r--p 00000000 fe:00 12 /usr/lib/systemd/systemd\n\
             7f00-7f01 r--p 00000000 fe:00 13                         {path}\n\
             7f03-7f04 rw-p 00000000 00:00 0\n"
        );
        SystemdVersion::of_maps(&maps)
    }

    #[test]
    fn the_version_is_that_of_the_library_as_distributions_name_it() {
        let below = "/usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-";
        assert_eq!(of(&format!("{below}252.so")), Some(SystemdVersion(252)));
        assert_eq!(of(&format!("{below}257.9-1.fc42.so (deleted)")), Some(SystemdVersion(257)));
        assert_eq!(of(&format!("{below}.so")), None);
        assert_eq!(of("/usr/lib/libc.so.6"), None);
        assert_eq!(SystemdVersion::of_maps(""), None);
    }

    #[test]
    fn an_old_one_is_given_nothing_that_it_does_not_know() {
        let has = |version: u32, what: &str| {
            drop_in(Some(SystemdVersion(version))).is_some_and(|t| t.contains(what))
        };
        assert_eq!(drop_in(None), None);
        assert_eq!(drop_in(Some(SystemdVersion(252))), None);
        assert!(has(253, "Type=notify-reload\n") && !has(253, "FileDescriptorStorePreserve="));
        assert!(has(254, "Type=notify-reload\n") && has(254, "FileDescriptorStorePreserve=yes\n"));
    }
}
