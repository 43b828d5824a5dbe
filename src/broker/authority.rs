//! Who may do what concerns the broker as a whole.

use super::command::Refusal;
use super::gate::{Gate, whose_lines};
use crate::policy::{Caller, Decision, may_administer};

/// Refuses whoever may not administer, with an event in the log: `what` is what nobody else may do, `this` what it was
/// this time.
pub(super) fn administrator(caller: &Caller, gate: &Gate, what: &str, this: &str) -> Result<(), Refusal> {
    let Decision::Denied(reason) = may_administer(caller) else { return Ok(()) };
    let Caller { uid, pid, .. } = caller;
    if gate.has_a_line(&whose_lines(caller), "refusal") {
        tracing::warn!(
            event = "refusal",
            reason,
            uid,
            pid,
            "refused pid {pid} of user {uid} to {this}: {reason}"
        );
    }
    Err(Refusal::NotAllowed { action: format!("{what}: only root may"), reason })
}
