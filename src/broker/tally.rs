//! What is counted since the start, by the broker's task and by the connections.

use super::command::Handle;
use crate::metrics::{Counters, Request};
use portbroker_client::wire::ErrorName;
use std::sync::{Arc, Mutex, PoisonError};

/// The counters. A lock is held for the time of an addition.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally(Arc<Mutex<Counters>>);

impl Tally {
    /// Counts something.
    pub(super) fn count(&self, count: impl FnOnce(&mut Counters)) {
        count(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All counts, as they are now.
    pub(super) fn counters(&self) -> Counters {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Handle {
    /// A call of a member was answered with an error of this name. Members that are none of ours are not counted, and
    /// other names than ours and some of the standard's are one: whoever calls chooses neither.
    pub fn refused(&self, member: &str, error: &str) {
        let what = match member {
            "AcquireListeners" => Request::Acquire,
            "OpenSession" | "LeasePairs" | "LeaseBlocks" | "LeaseSockets" => Request::Lease,
            "Reload" | "RenewListener" | "ForgetPort" | "DrainAddress" | "Release" => Request::Administration,
            _ => return,
        };
        let standard = error.strip_prefix("org.freedesktop.DBus.Error.").unwrap_or_default();
        let standard =
            ["LimitsExceeded", "InvalidArgs", "NoReply"].into_iter().find(|name| *name == standard);
        let ours = ErrorName::from_full(error).map(ErrorName::as_str);
        let reason = ours.or(standard).unwrap_or("other");
        self.tally.count(|counters| counters.refused(what, reason));
    }
}
