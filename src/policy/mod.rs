//! Who may do what: pure decisions over a caller that `bus` has identified.
//!
//! Default deny. The reason of a denial goes to the log, never to the caller, who could learn from it what
//! it could not know.

mod administration;
mod lease;

pub use administration::{Administration, may_administer, may_be_authorized};
pub use lease::{Lend, may_lease};

use crate::config::Grant;
use crate::model::UnitName;

/// Who asks, as far as the kernel vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Effective uid when it connected.
    pub uid: u32,
    /// Effective gid and supplementary groups.
    pub gids: Vec<u32>,
    /// Process id, for the log: never a proof.
    pub pid: i32,
    /// The system unit whose cgroup it is in; `None` where it has none or it cannot be told for sure.
    pub unit: Option<UnitName>,
    /// The slice of the user to whom that belongs, as all of a user's logins do: they share one quota.
    pub user_slice: Option<UnitName>,
    /// Uid 0 in the initial user, pid and mount namespaces, or the daemon's own user where that is not root; or, for
    /// one call, whom polkit lets do what it asks for.
    pub administrator: bool,
    /// Where its sockets are.
    pub network: Network,
}

/// A network namespace, as seen from the daemon's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The daemon's own.
    Ours,
    /// Another, or it cannot be told.
    Another,
}

/// An answer of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Do it.
    Allowed,
    /// Do not; the reason is for the log.
    Denied(&'static str),
}

impl Grant {
    /// Whether all that the grant names holds for this caller. A grant that names nothing matches nobody,
    /// nor does one that names an account without a known id.
    #[must_use]
    pub fn matches(&self, caller: &Caller) -> bool {
        let names_something = self.unit.is_some() || self.user.is_some() || self.group.is_some();
        names_something
            && self.unit.as_ref().is_none_or(|unit| caller.unit.as_ref() == Some(unit))
            && self.user.as_ref().is_none_or(|user| user.id == Some(caller.uid))
            && self.group.as_ref().is_none_or(|group| group.id.is_some_and(|id| caller.gids.contains(&id)))
    }
}

/// Whether a caller may take the sockets of a listener with these grants.
pub fn may_acquire(caller: &Caller, grants: &[Grant]) -> Decision {
    if caller.administrator || grants.iter().any(|grant| grant.matches(caller)) {
        Decision::Allowed
    } else if caller.uid == 0 {
        Decision::Denied("uid 0 outside of the initial namespaces is not root, and no grant matches")
    } else {
        Decision::Denied("no grant matches")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Account;
    use proptest::prelude::*;

    fn unit(name: &str) -> UnitName {
        UnitName::try_from(name).unwrap()
    }

    fn account(id: u32) -> Option<Account> {
        Some(Account { name: format!("account{id}"), id: Some(id) })
    }

    fn caller(uid: u32, gids: &[u32], of: Option<&str>) -> Caller {
        Caller {
            uid,
            gids: gids.to_vec(),
            pid: 1,
            user_slice: None,
            unit: of.map(unit),
            administrator: false,
            network: Network::Ours,
        }
    }

    #[test]
    fn nobody_may_take_a_listener_without_grants_but_root() {
        assert_eq!(may_acquire(&caller(1000, &[1000], None), &[]), Decision::Denied("no grant matches"));
        assert_ne!(may_acquire(&caller(0, &[0], None), &[]), Decision::Allowed);
        let root = Caller { administrator: true, ..caller(0, &[0], None) };
        assert_eq!(may_acquire(&root, &[]), Decision::Allowed);
    }

    #[test]
    fn another_unit_of_the_same_user_may_not() {
        let grants = [Grant { unit: Some(unit("mariadb.service")), ..Grant::default() }];
        assert_eq!(may_acquire(&caller(27, &[27], Some("mariadb.service")), &grants), Decision::Allowed);
        assert_ne!(may_acquire(&caller(27, &[27], Some("other.service")), &grants), Decision::Allowed);
        assert_ne!(may_acquire(&caller(27, &[27], None), &grants), Decision::Allowed);
    }

    #[test]
    fn a_grant_of_unit_and_user_asks_for_both() {
        let both = [Grant { unit: Some(unit("a.service")), user: account(7), group: None }];
        assert_eq!(may_acquire(&caller(7, &[], Some("a.service")), &both), Decision::Allowed);
        assert_ne!(may_acquire(&caller(8, &[], Some("a.service")), &both), Decision::Allowed);
        assert_ne!(may_acquire(&caller(7, &[], Some("b.service")), &both), Decision::Allowed);
    }

    #[test]
    fn an_unknown_account_matches_nobody() {
        let unknown = Some(Account { name: "nobody-yet".into(), id: None });
        let grants = [
            Grant { user: unknown.clone(), ..Grant::default() },
            Grant { group: unknown, ..Grant::default() },
        ];
        assert_ne!(may_acquire(&caller(7, &[7], None), &grants), Decision::Allowed);
        assert_ne!(may_acquire(&caller(7, &[7], None), &[Grant::default()]), Decision::Allowed);
    }

    proptest! {
        #[test]
        fn adding_a_grant_never_takes_a_right_away(uid in 0u32..4, gid in 0u32..4, users in proptest::collection::vec(0u32..4, 0..4), groups in proptest::collection::vec(0u32..4, 0..4)) {
            let who = caller(uid, &[gid], None);
            let mut grants = Vec::new();
            let mut allowed = false;
            let all = users.iter().map(|&u| Grant { user: account(u), ..Grant::default() })
                .chain(groups.iter().map(|&g| Grant { group: account(g), ..Grant::default() }));
            for grant in all {
                grants.push(grant);
                let now = may_acquire(&who, &grants) == Decision::Allowed;
                prop_assert!(now || !allowed);
                allowed = now;
            }
            prop_assert_eq!(allowed, users.contains(&uid) || groups.contains(&gid));
        }
    }
}
