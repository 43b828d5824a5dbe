//! What the daemon needs of the system around it and does not see: other processes, and the cgroups of units.

use super::Broker;
use crate::kernel::process::are_others_hidden;

/// What is not seen, a sentence each.
#[derive(Debug, Default)]
pub(super) struct Surroundings(Vec<&'static str>);

const HIDDEN: &str = "/proc hides the processes of other users from the daemon (hidepid=), so it cannot tell the units of \
                      callers, nor who is root of this host: grants of units are refused, and only the daemon's own user \
                      is an administrator; mount /proc without hidepid=, or with gid= of the daemon's group";
const BLIND: &str = "the cgroup hierarchy that systemd uses is not mounted below /sys/fs/cgroup any more, so it cannot be \
                     seen when units end that hold listeners: they keep them until it is mounted again";

impl Surroundings {
    pub(super) fn faults(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|fault| (*fault).to_owned())
    }
}

impl Broker {
    /// Looks around. What can be seen again is looked at.
    pub(super) fn look_around(&mut self) {
        let mut faults = Vec::new();
        faults.extend(are_others_hidden().then_some(HIDDEN));
        faults.extend(self.holders.is_blind().then_some(BLIND));
        let before = std::mem::take(&mut self.surroundings.0);
        for fault in faults.iter().filter(|fault| !before.contains(fault)) {
            tracing::error!(event = "surroundings", "{fault}");
        }
        if !before.is_empty() && faults.is_empty() {
            tracing::info!(event = "surroundings", "other processes and units are seen again");
        }
        self.touched |= before != faults;
        if before.contains(&BLIND) && !faults.contains(&BLIND) {
            self.holders.look_again();
        }
        self.surroundings.0 = faults;
    }
}
