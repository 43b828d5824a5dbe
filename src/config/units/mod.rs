//! systemd units as the configuration sees them: their settings in the order in which systemd applies them.
//!
//! A [`Unit`] is what is left once files were found, drop-ins merged and lines joined; what a setting
//! means is not known here. No I/O: `sources::units` reads the files.

mod parse;
mod specifiers;

pub use parse::{MAX_LINE, parse};
pub use specifiers::SpecifierError;

use super::Origin;
use crate::model::UnitName;

/// The section of a unit that says what it listens on; systemd ignores sections that begin with `X-`.
pub const SECTION: &str = "X-PortBroker";

/// A unit: its fragment and its drop-ins, in the order in which systemd applies them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its full name; of a template's instance, the instance's.
    pub name: UnitName,
    /// Whether systemd starts it by itself: a `.wants` or `.requires` directory has a link to it.
    pub enabled: bool,
    /// Every assignment, empty ones too.
    pub settings: Vec<Setting>,
}

/// One assignment of a unit file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `Service` of `[Service]`.
    pub section: String,
    /// What is before the `=`.
    pub key: String,
    /// What is behind it: continuations joined, specifiers not expanded.
    pub value: String,
    /// Where the key begins.
    pub origin: Origin,
}

impl Unit {
    /// The assignments of a key, from the last empty one on: that one resets the list.
    #[must_use]
    pub fn values(&self, section: &str, key: &str) -> Vec<&Setting> {
        let mut values = Vec::new();
        for setting in self.settings.iter().filter(|s| s.section == section && s.key == key) {
            if setting.value.is_empty() {
                values.clear();
            } else {
                values.push(setting);
            }
        }
        values
    }

    /// The assignment of a key that counts where there can be only one: the last; none after a reset.
    #[must_use]
    pub fn value(&self, section: &str, key: &str) -> Option<&Setting> {
        self.values(section, key).pop()
    }

    /// Whether it has anything in a section, even a reset.
    #[must_use]
    pub fn has_section(&self, section: &str) -> bool {
        self.settings.iter().any(|setting| setting.section == section)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(lines: &[(&str, &str)]) -> Unit {
        let setting = |&(key, value): &(&str, &str)| Setting {
            section: "Service".into(),
            key: key.into(),
            value: value.into(),
            origin: Origin::default(),
        };
        Unit {
            name: UnitName::try_from("a.service").unwrap(),
            enabled: false,
            settings: lines.iter().map(setting).collect(),
        }
    }

    #[test]
    fn an_empty_assignment_resets_what_was_before_it() {
        let unit = unit(&[("A", "1"), ("B", "x"), ("A", ""), ("A", "2"), ("A", "3"), ("B", "")]);
        let texts = |key| unit.values("Service", key).iter().map(|s| s.value.clone()).collect::<Vec<_>>();
        assert_eq!(texts("A"), ["2", "3"]);
        assert_eq!(unit.value("Service", "A").unwrap().value, "3");
        assert_eq!(unit.value("Service", "B"), None);
        assert_eq!(unit.value("Unit", "A"), None);
        assert!(unit.has_section("Service") && !unit.has_section("Unit"));
    }
}
