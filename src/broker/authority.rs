//! Who may do what concerns the broker as a whole.

use super::command::Refusal;
use crate::policy::{Caller, Decision, may_administer};

/// Refuses whoever may not administer, with an event in the log: `what` is what nobody else may do, `this` what it was
/// this time.
pub(super) fn administrator(caller: &Caller, what: &str, this: &str) -> Result<(), Refusal> {
    let Decision::Denied(reason) = may_administer(caller) else { return Ok(()) };
    let Caller { uid, pid, .. } = caller;
    tracing::warn!(
        event = "refusal",
        reason,
        uid,
        pid,
        "refused pid {pid} of user {uid} to {this}: {reason}"
    );
    Err(Refusal::NotAllowed { action: format!("{what}: only root may"), reason })
}
