//! Who may administer: root, and for each thing that administers whoever polkit says.

use super::{Caller, Decision};

/// What polkit can be asked to let others than root do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Administration {
    /// Read the configuration again.
    Reload,
    /// Give out nothing more of a source address, or give it out again.
    Drain,
    /// Close what is in the way of a port.
    Evict,
    /// End a lease of somebody else's.
    Release,
}

impl Administration {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Reload, Self::Drain, Self::Evict, Self::Release];

    /// The id of polkit's action, as in `org.portbroker.PortBroker1.policy`.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Reload => "org.portbroker.PortBroker1.reload",
            Self::Drain => "org.portbroker.PortBroker1.drain",
            Self::Evict => "org.portbroker.PortBroker1.evict",
            Self::Release => "org.portbroker.PortBroker1.release",
        }
    }

    /// What somebody may not do who may not do this.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Reload => "reload the configuration",
            Self::Drain => "drain addresses",
            Self::Evict => "evict what uses a port",
            Self::Release => "release another's lease",
        }
    }
}

/// Whether a caller may change what the broker does as a whole, such as reload it, without that anybody is asked.
pub fn may_administer(caller: &Caller) -> Decision {
    if caller.administrator { Decision::Allowed } else { Decision::Denied("only root may do this") }
}

/// Whether polkit's word counts for a caller that may not administer by itself.
///
/// To polkit every uid 0 is root and may everything: so it is never asked about one that is root of something else only.
pub fn may_be_authorized(caller: &Caller) -> Decision {
    if caller.uid == 0 {
        Decision::Denied("uid 0 outside of the initial namespaces is not root")
    } else {
        Decision::Allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Network;

    fn caller(uid: u32, administrator: bool) -> Caller {
        let (gids, network) = (Vec::new(), Network::Ours);
        Caller { uid, gids, pid: 1, unit: None, user_slice: None, administrator, network }
    }

    #[test]
    fn polkit_is_asked_about_nobody_whom_it_takes_for_root() {
        assert_eq!(may_be_authorized(&caller(1000, false)), Decision::Allowed);
        assert_ne!(may_be_authorized(&caller(0, false)), Decision::Allowed);
        assert_eq!(may_administer(&caller(0, true)), Decision::Allowed);
        assert_ne!(may_administer(&caller(0, false)), Decision::Allowed);
    }

    #[test]
    fn each_has_an_action_of_its_own() {
        let mut ids = Administration::ALL.map(Administration::id).to_vec();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), Administration::ALL.len());
    }
}
