//! Who may lease of a pool.

use super::{Caller, Decision, Network};
use crate::config::PoolGrant;

/// What is asked of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lend {
    /// Addresses and ports, which the caller binds itself.
    Ports,
    /// Sockets that the broker has bound, in its own network namespace.
    Sockets,
}

/// Whether a caller may lease of a pool with these grants.
///
/// Ports are of no use to who cannot bind them, so they are only for callers in the daemon's network namespace. A
/// socket hands its network namespace over, so a caller in another one needs a grant that says so.
pub fn may_lease(caller: &Caller, grants: &[PoolGrant], what: Lend) -> Decision {
    if caller.network == Network::Another && what == Lend::Ports {
        return Decision::Denied("the caller is in another network namespace, where it could not bind them");
    }
    let matches = |grant: &PoolGrant| match (grant, caller.network) {
        (PoolGrant::Everybody, Network::Ours) => true,
        (PoolGrant::Everybody, Network::Another) => false,
        (PoolGrant::Of { grant, sockets }, network) => {
            (*sockets || network == Network::Ours) && grant.matches(caller)
        }
    };
    if caller.administrator || grants.iter().any(matches) {
        Decision::Allowed
    } else if caller.network == Network::Another {
        Decision::Denied("no grant with \"+sockets\" matches, and the caller is in another network namespace")
    } else {
        Decision::Denied("no grant matches")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Account, Grant};

    fn caller(uid: u32, network: Network) -> Caller {
        Caller { uid, gids: Vec::new(), pid: 1, unit: None, administrator: false, network }
    }

    fn of(uid: u32, sockets: bool) -> PoolGrant {
        let user = Some(Account { name: "somebody".into(), id: Some(uid) });
        PoolGrant::Of { grant: Grant { user, ..Grant::default() }, sockets }
    }

    fn may(caller: &Caller, grants: &[PoolGrant], what: Lend) -> bool {
        may_lease(caller, grants, what) == Decision::Allowed
    }

    #[test]
    fn without_a_grant_only_root_may() {
        let root = Caller { administrator: true, ..caller(0, Network::Ours) };
        for what in [Lend::Ports, Lend::Sockets] {
            assert!(!may(&caller(7, Network::Ours), &[], what));
            assert!(!may(&caller(7, Network::Ours), &[of(8, true)], what));
            assert!(may(&root, &[], what));
            assert!(may(&caller(7, Network::Ours), &[of(7, false)], what));
            assert!(may(&caller(7, Network::Ours), &[PoolGrant::Everybody], what));
        }
    }

    #[test]
    fn another_namespace_gets_sockets_by_a_grant_for_it_and_never_ports() {
        let outside = caller(7, Network::Another);
        for grants in [&[][..], &[PoolGrant::Everybody], &[of(7, false)], &[of(8, true)]] {
            assert!(!may(&outside, grants, Lend::Sockets), "{grants:?}");
        }
        assert!(may(&outside, &[of(7, false), of(7, true)], Lend::Sockets));
        let root = Caller { administrator: true, ..outside.clone() };
        assert!(may(&root, &[], Lend::Sockets));
        for who in [outside, root] {
            assert!(!may(&who, &[of(7, true), PoolGrant::Everybody], Lend::Ports));
        }
    }
}
