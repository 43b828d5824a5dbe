//! What units have in their own descriptor stores.
//!
//! systemd does not tell which names a store has, and keeps them over a restart of the unit. So a listener that
//! was renamed would stay there under its old name, and take the place of the new one: a full store drops what
//! comes without a word. The broker remembers what it handed out, and `portbroker deposit` takes it out first.

use super::Broker;
use super::command::Acquire;
use crate::kernel::holder::HolderClaim;
use crate::model::UnitName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// More names of one unit are not remembered: a store has been emptied long before.
const MOST_NAMES: usize = 1024;

/// Names of listeners by unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Deposits(BTreeMap<String, BTreeSet<String>>);

impl Deposits {
    /// Notes what a unit was handed; true where that is new.
    fn note(&mut self, unit: &UnitName, names: &[String]) -> bool {
        let known = self.0.entry(unit.to_string()).or_default();
        let before = known.len();
        known.extend(names.iter().take(MOST_NAMES.saturating_sub(before)).cloned());
        known.len() != before
    }

    /// All that a unit was handed.
    pub(super) fn of(&self, unit: &UnitName) -> Vec<String> {
        self.0.get(unit.as_str()).map(|names| names.iter().cloned().collect()).unwrap_or_default()
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_unit_was_handed_is_remembered_by_unit() {
        let mut deposits = Deposits::default();
        let (a, b) = (UnitName::try_from("a.service").unwrap(), UnitName::try_from("b.service").unwrap());
        assert!(deposits.note(&a, &["old".into()]));
        assert!(!deposits.note(&a, &["old".into()]));
        assert!(deposits.note(&a, &["new".into()]));
        assert_eq!(deposits.of(&a), ["new", "old"]);
        assert!(deposits.of(&b).is_empty());
        let many: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
        deposits.note(&b, &many);
        assert_eq!(deposits.of(&b).len(), MOST_NAMES);
    }
}
