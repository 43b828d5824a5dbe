//! What units have in their own descriptor stores.
//!
//! systemd does not tell which names a store has, and keeps them over a restart of the unit. So a listener that
//! was renamed would stay there under its old name, and take the place of the new one: a full store drops what
//! comes without a word. The broker remembers what it handed out, and `portbroker deposit` takes it out first.

use super::Broker;
use super::command::Acquire;
use crate::kernel::holder::HolderClaim;

impl Broker {
    /// Remembers a hand-over that goes into the store of a unit.
    pub(super) fn note_deposit(&mut self, request: &Acquire) {
        // Only services have a store. Sessions have scopes, a new one for each login, and would be remembered for ever.
        if let Some(HolderClaim::Unit { unit, .. }) = &request.holder
            && unit.as_str().ends_with(".service")
            && self.deposits.note(unit, &request.names)
        {
            self.records.write_deposits(&self.deposits);
        }
    }
}
