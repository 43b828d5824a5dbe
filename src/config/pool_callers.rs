//! Who, by a pool's `allow`, will ask for its ports: for whom a minimum is kept before anybody has asked.

use super::PoolGrant;
use crate::model::Owner;
use std::collections::BTreeSet;

/// The callers that the grants name: units, and users. (A user's services in units of the system are callers of their
/// own, and count when they have asked.)
#[must_use]
pub fn named(grants: &[PoolGrant]) -> BTreeSet<Owner> {
    let owner = |grant: &PoolGrant| {
        let PoolGrant::Of { grant, .. } = grant else { return None };
        let user = grant.user.as_ref().and_then(|user| user.id).map(Owner::User);
        grant.unit.clone().map(Owner::Unit).or(user)
    };
    grants.iter().filter_map(owner).collect()
}

/// Whether there may be callers that the grants do not name: members of groups, or everybody.
#[must_use]
pub fn may_have_others(grants: &[PoolGrant]) -> bool {
    grants.iter().any(|grant| match grant {
        PoolGrant::Everybody => true,
        PoolGrant::Of { grant, .. } => grant.unit.is_none() && grant.user.is_none(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Accounts, Grant};

    fn grants(texts: &[&str]) -> Vec<PoolGrant> {
        let accounts = Accounts::parse("deploy:x:1000:1000::/:/bin/sh\n", "web:x:33:\n");
        let of = |text: &&str| PoolGrant::Of { grant: accounts.grant(text).unwrap(), sockets: false };
        texts.iter().map(of).collect()
    }

    #[test]
    fn units_and_users_are_named_and_groups_are_not() {
        let all =
            grants(&["unit:a.service", "user:deploy", "unit:a.service+user:deploy", "user:later", "user:7"]);
        let names: Vec<String> = named(&all).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a.service", "uid 7", "uid 1000"]);
        assert!(!may_have_others(&all));
        assert!(may_have_others(&grants(&["user:deploy", "group:web"])));
        assert!(!may_have_others(&grants(&["user:deploy+group:web"])));
        assert!(may_have_others(&[PoolGrant::Everybody]) && named(&[PoolGrant::Everybody]).is_empty());
        let nobody = PoolGrant::Of { grant: Grant::default(), sockets: false };
        assert!(may_have_others(&[nobody]));
    }
}
