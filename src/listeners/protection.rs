//! Which ports to put into the kernel's reserved ports and which to take out again.

use crate::model::PortSet;

/// What to do to `net.ipv4.ip_local_reserved_ports`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Missing there.
    pub add: PortSet,
    /// There because of us, and no longer wanted.
    pub remove: PortSet,
    /// What is ours when that is done: to be written down *before* it is done, so that a crash in between
    /// leaves nothing behind that nobody owns.
    pub ours: PortSet,
}

/// Plans the change from what the kernel has to what is wanted. `ours` are the ports that earlier plans
/// added; a port that somebody else had put there is never ours, and never taken out.
#[must_use]
pub fn plan(kernel: &PortSet, wanted: &PortSet, ours: &PortSet) -> Plan {
    let add = wanted.difference(kernel);
    let still_ours = ours.intersection(wanted);
    Plan { remove: ours.difference(wanted).intersection(kernel), ours: still_ours.union(&add), add }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(text: &str) -> PortSet {
        text.parse().unwrap()
    }

    #[test]
    fn what_others_reserved_is_left_to_them() {
        let first = plan(&set("3306,9000"), &set("3306,5432"), &PortSet::default());
        assert_eq!((first.add, first.remove, first.ours.clone()), (set("5432"), set(""), set("5432")));
        let gone = plan(&set("3306,5432,9000"), &set(""), &first.ours);
        assert_eq!((gone.add, gone.remove, gone.ours), (set(""), set("5432"), set("")));
    }

    #[test]
    fn a_wipe_by_somebody_is_mended() {
        let wiped = plan(&set("9000"), &set("3306"), &set("3306"));
        assert_eq!((wiped.add, wiped.remove, wiped.ours), (set("3306"), set(""), set("3306")));
    }

    proptest! {
        #[test]
        fn everything_wanted_is_there_and_nothing_of_others_is_lost(
            others in proptest::collection::btree_set(1u16..50, 0..20),
            steps in proptest::collection::vec((proptest::collection::btree_set(1u16..50, 0..20), any::<bool>()), 1..8),
        ) {
            let others: PortSet = others.into_iter().collect();
            let (mut kernel, mut ours) = (others.clone(), PortSet::default());
            for (wanted, wipe) in steps {
                let wanted: PortSet = wanted.into_iter().collect();
                if wipe {
                    kernel = others.clone();
                }
                let plan = plan(&kernel, &wanted, &ours);
                kernel = kernel.difference(&plan.remove).union(&plan.add);
                ours = plan.ours;
                prop_assert!(wanted.difference(&kernel).is_empty());
                prop_assert!(others.difference(&kernel).is_empty());
                prop_assert_eq!(kernel.difference(&others).difference(&wanted), PortSet::default());
            }
        }
    }
}
