//! Tells of those who go on using ports after their lease ended.

use crate::kernel::tuple_user::users_of;
use crate::leases::UsedAfterEnd;

/// Writes a line for each, with who it is. To find that out all processes are looked at, so others do not wait for it:
/// a thread does it, and ends.
pub(super) fn report(all: Vec<UsedAfterEnd>) {
    let thread = std::thread::Builder::new().name("misuse".into());
    let spawned = thread.spawn(move || all.iter().for_each(|used| tell(used, &who(used))));
    if let Err(error) = spawned {
        tracing::warn!(%error, "ports are used after the end of their lease, and it cannot be found out by whom: {error}");
    }
}

/// The same without looking for anybody.
pub(super) fn report_briefly(used: &UsedAfterEnd) {
    let UsedAfterEnd { lease, owner, uid, tuple, .. } = used;
    tracing::debug!(event = "used-after-end", lease = lease.0, %owner, uid, source = %tuple.source, "lease {lease} has ended, and uid {uid} goes on using {}", tuple.source);
}

fn who(used: &UsedAfterEnd) -> String {
    let found = users_of(&used.tuple).unwrap_or_default();
    let users: Vec<String> = found.iter().take(4).map(ToString::to_string).collect();
    if users.is_empty() { format!("uid {}", used.uid) } else { users.join(", ") }
}

fn tell(used: &UsedAfterEnd, who: &str) {
    let UsedAfterEnd { lease, owner, pool, tuple, uid, cgroup } = used;
    let source = tuple.source;
    let destination = tuple.destination.map_or_else(|| "any".to_owned(), |to| to.to_string());
    tracing::warn!(
        event = "used-after-end",
        lease = lease.0,
        %owner,
        %pool,
        %source,
        destination,
        uid,
        cgroup,
        "lease {lease} of {owner} has ended, and {who} goes on using {source}, to {destination}: it is held until that ends"
    );
}
