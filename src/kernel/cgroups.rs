//! Which cgroup an inode number belongs to, in the unified hierarchy; and which life a unit is in.
//!
//! Only slices are gone into: what is below a unit is that unit's own matter. systemd keeps the same tree in the
//! unified hierarchy in each of its modes but the purely legacy one.

use super::boot::boot_id;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Where the unified hierarchy is mounted: beside the legacy ones, or alone.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
/// Where systemd tells journald, and us, the invocation ids of units.
pub(super) const INVOCATIONS: &str = "/run/systemd/units";
/// More cgroups are not looked at.
const MOST: usize = 20_000;

/// The unified hierarchy, as far as it can be seen from here.
#[derive(Debug, Clone)]
pub struct Cgroups {
    root: PathBuf,
    /// Tells numbers of this boot from those of another.
    boot: String,
}

impl Cgroups {
    /// Finds it; `None` where there is none, as on hosts that have the legacy hierarchies only.
    #[must_use]
    pub fn find() -> Option<Self> {
        let is_unified =
            |root: &str| statfs(root).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
        let root = MOUNTS.into_iter().find(|root| is_unified(root))?;
        let boot = boot_id().unwrap_or_default();
        Some(Self { root: PathBuf::from(root), boot: boot.replace('-', "") })
    }

    /// The paths of all cgroups below slices, by inode number.
    #[must_use]
    pub fn paths(&self) -> HashMap<u64, String> {
        let mut paths = HashMap::new();
        let mut slices = vec![String::new()];
        while let Some(slice) = slices.pop() {
            let entries = fs::read_dir(self.directory(&slice)).into_iter().flatten().flatten();
            for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                let Ok(name) = entry.file_name().into_string() else { continue };
                let path = format!("{slice}/{name}");
                if paths.len() >= MOST {
                    return paths;
                }
                if name.ends_with(".slice") {
                    slices.push(path.clone());
                }
                paths.insert(entry.ino(), path);
            }
        }
        paths
    }

    /// Whether a path still is the cgroup of this number.
    #[must_use]
    pub fn is(&self, path: &str, inode: u64) -> bool {
        fs::metadata(self.directory(path)).is_ok_and(|metadata| metadata.ino() == inode)
    }

    /// What tells the present life of a unit from its next: the invocation id, which is new also where the unit is
    /// started again without a stop; or else the number of its cgroup.
    #[must_use]
    pub fn life(&self, unit: &str, inode: u64) -> String {
        let link = fs::read_link(Path::new(INVOCATIONS).join(format!("invocation:{unit}")));
        let id = link.ok().and_then(|target| target.into_os_string().into_string().ok());
        id.unwrap_or_else(|| format!("{}:{inode}", self.boot))
    }

    fn directory(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_gone_into_and_units_are_not() {
        let root = tempfile::tempdir().unwrap();
        let cgroups = Cgroups { root: root.path().to_owned(), boot: "b".into() };
        for path in
            ["init.scope", "system.slice/a.service/inner.slice", "system.slice/system-x.slice/x@1.service"]
        {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        fs::write(root.path().join("system.slice/cgroup.procs"), "").unwrap();
        let found = cgroups.paths();
        let mut paths: Vec<&str> = found.values().map(String::as_str).collect();
        paths.sort_unstable();
        let expected = [
            "/init.scope",
            "/system.slice",
            "/system.slice/a.service",
            "/system.slice/system-x.slice",
            "/system.slice/system-x.slice/x@1.service",
        ];
        assert_eq!(paths, expected);
        for (inode, path) in found {
            assert!(cgroups.is(&path, inode) && !cgroups.is(&path, inode + 1_000_000));
        }
        assert_eq!(cgroups.life("no-such-unit-anywhere.service", 7), "b:7");
    }
}
