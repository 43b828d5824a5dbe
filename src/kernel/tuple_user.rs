//! Who uses a source: for the warning that somebody goes on using it after its lease ended.
//!
//! For a log and nothing else: it looks through the descriptors of other processes, as far as it may see them, which
//! takes a while, and they may have changed meanwhile. The network namespace is that of the calling thread.

use super::cgroups::Cgroups;
use super::socket_owner::{Who, processes_of};
use super::tuples::{Holder, Lookup};
use crate::model::{Tuple, UnitName};
use std::collections::HashSet;
use std::fmt;
use std::io;

/// Whoever has a socket there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TupleUser {
    /// The user that made the socket.
    pub uid: u32,
    /// The unit of the process that has it, or else of the one that made it.
    pub unit: Option<UnitName>,
    /// Name and pid of a process that has it.
    pub process: Option<(String, u32)>,
}

impl fmt::Display for TupleUser {
    /// `python3 (pid 812, crawler.service, uid 1000)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((name, pid)) => write!(f, "{name} (pid {pid}, ")?,
            None => f.write_str("a process that cannot be seen (")?,
        }
        if let Some(unit) = &self.unit {
            write!(f, "{unit}, ")?;
        }
        write!(f, "uid {})", self.uid)
    }
}

/// Who has a socket of this tuple, or one that is bound to its source and connected nowhere.
///
/// Nobody where there is none, and where its owner closed it and the kernel alone still has it. It looks at up to
/// 200,000 descriptors: not to be called where others wait.
pub fn users_of(tuple: &Tuple) -> io::Result<Vec<TupleUser>> {
    let holders = Lookup::new()?.holders(tuple)?;
    if holders.is_empty() {
        return Ok(Vec::new());
    }
    let inodes: HashSet<u64> = holders.iter().map(|holder| u64::from(holder.inode)).collect();
    let processes = processes_of(&inodes);
    let user = |holder: &Holder| {
        let (process, unit) = match processes.get(&u64::from(holder.inode)) {
            Some(Who::Process(name, pid, unit)) => (Some((name.clone(), *pid)), unit.as_deref()),
            _ => (None, None),
        };
        let unit = unit.and_then(|unit| UnitName::try_from(unit).ok());
        TupleUser { uid: holder.uid, unit: unit.or_else(|| unit_of_cgroup(holder.cgroup)), process }
    };
    Ok(holders.iter().map(user).collect())
}

/// The unit of a cgroup as sock_diag tells it of a socket: of who made it, which for a socket that was handed out is
/// the broker. `None` where it is gone, or of a part of a unit only.
#[must_use]
pub fn unit_of_cgroup(cgroup: u64) -> Option<UnitName> {
    let paths = Cgroups::find()?.paths();
    UnitName::of_cgroup(paths.get(&cgroup)?)
}
