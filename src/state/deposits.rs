//! What units were handed for their own descriptor stores: `deposits.json`.

use super::{Table, Unreadable};
use crate::model::UnitName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// More names of one unit are not remembered: a store has been emptied long before.
const MOST_NAMES: usize = 1024;

/// Names of listeners by unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deposits {
    deposits: BTreeMap<String, BTreeSet<String>>,
}

impl Deposits {
    /// Notes what a unit was handed; true where that is new.
    pub fn note(&mut self, unit: &UnitName, names: &[String]) -> bool {
        let known = self.deposits.entry(unit.to_string()).or_default();
        let before = known.len();
        known.extend(names.iter().take(MOST_NAMES.saturating_sub(before)).cloned());
        known.len() != before
    }

    /// All that a unit was handed.
    #[must_use]
    pub fn of(&self, unit: &UnitName) -> Vec<String> {
        self.deposits.get(unit.as_str()).map(|names| names.iter().cloned().collect()).unwrap_or_default()
    }
}

impl Table for Deposits {
    const FILE: &'static str = "deposits.json";
    const LOSS: &'static str =
        "what units have in their own descriptor stores is not known, and stays there until they stop";

    fn from_version_1(text: &str) -> Result<Self, Unreadable> {
        // Version 2 has the boot besides, and nothing else.
        Ok(serde_json::from_str(text)?)
    }

    fn check(&self) -> Result<(), Unreadable> {
        for (unit, names) in &self.deposits {
            UnitName::try_from(unit.as_str()).map_err(|error| Unreadable::Value(error.to_string()))?;
            if names.len() > MOST_NAMES {
                return Err(Unreadable::Value(format!("{} names of {unit}", names.len())));
            }
        }
        Ok(())
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
