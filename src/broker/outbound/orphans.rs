//! Closes what ended sessions left open, where a pool says so.
//!
//! To say who had it all processes are looked at, and that has to be done before; so a thread does both, one at a time,
//! and others do not wait. What could not be closed is looked at again with everything that cools.

use crate::kernel::tuple_close::{CloseError, Closer as Kernel};
use crate::kernel::tuple_user::users_of;
use crate::leases::Orphan;
use crate::model::LeaseId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What closes them.
#[derive(Debug, Default)]
pub(super) struct Closer {
    /// It never can, and that was said.
    hopeless: Arc<AtomicBool>,
    busy: Arc<AtomicBool>,
}

impl Closer {
    /// Closes these, soon.
    pub(super) fn close(&self, orphans: Vec<Orphan>) {
        // What is not closed now is told again when it is looked at the next time.
        if orphans.is_empty()
            || self.hopeless.load(Ordering::Relaxed)
            || self.busy.swap(true, Ordering::Acquire)
        {
            return;
        }
        let (hopeless, busy) = (Arc::clone(&self.hopeless), Arc::clone(&self.busy));
        let thread = std::thread::Builder::new().name("orphans".into());
        let spawned = thread.spawn(move || {
            close_all(orphans, &hopeless);
            busy.store(false, Ordering::Release);
        });
        if let Err(error) = spawned {
            self.busy.store(false, Ordering::Release);
            tracing::warn!(%error, "what ended sessions left open is not closed yet: {error}");
        }
    }
}

fn close_all(orphans: Vec<Orphan>, hopeless: &AtomicBool) {
    let mut kernel = match Kernel::new() {
        Ok(kernel) => kernel,
        Err(error) => {
            return tracing::warn!(%error, "what ended sessions left open is not closed yet: {error}");
        }
    };
    let mut by_lease: BTreeMap<LeaseId, Vec<Orphan>> = BTreeMap::new();
    for orphan in orphans {
        by_lease.entry(orphan.lease).or_default().push(orphan);
    }
    for of_lease in by_lease.values() {
        match close_of_lease(&mut kernel, of_lease) {
            Ok(()) => {}
            Err(error @ (CloseError::Unsupported | CloseError::NotPermitted)) => {
                hopeless.store(true, Ordering::Relaxed);
                return tracing::error!(
                    event = "orphans",
                    %error,
                    "what ended sessions left open is not closed, and cools until it ends by itself: {error}"
                );
            }
            Err(error) => tracing::warn!(event = "orphans", %error, "{error}"),
        }
    }
}

/// Closes those of one lease, and tells of them in one line.
fn close_of_lease(kernel: &mut Kernel, orphans: &[Orphan]) -> Result<(), CloseError> {
    let Some(first) = orphans.first() else { return Ok(()) };
    let who = who(first);
    let mut closed = 0usize;
    let mut failure = None;
    for orphan in orphans {
        match kernel.close(&orphan.tuple, orphan.cookie) {
            Ok(true) => closed += 1,
            Ok(false) => {}
            Err(error @ (CloseError::Unsupported | CloseError::NotPermitted)) => return Err(error),
            Err(error) => failure = Some(error),
        }
    }
    if closed > 0 {
        let Orphan { lease, owner, pool, tuple, .. } = first;
        let source = tuple.source;
        let destination = tuple.destination.map(|to| to.to_string()).unwrap_or_default();
        tracing::warn!(
            event = "orphans-closed",
            lease = lease.0,
            %owner,
            %pool,
            closed,
            %source,
            destination,
            "closed {closed} connections that lease {lease} of {owner} left open when its session ended; the first, \
             {source} to {destination}, had {who}"
        );
    }
    failure.map_or(Ok(()), Err)
}

fn who(orphan: &Orphan) -> String {
    let users: Vec<String> =
        users_of(&orphan.tuple).unwrap_or_default().iter().take(4).map(ToString::to_string).collect();
    if users.is_empty() { "nobody any more".to_owned() } else { users.join(", ") }
}
