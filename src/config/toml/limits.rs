//! `[limits]`: how much of the broker one user may have, and all together.

use super::{Item, Reader};
use crate::config::fault::Place;
use crate::config::limits::{Limit, Limits};
use std::collections::BTreeMap;
use toml::de::{DeTable, DeValue};

/// The sections of all files, each value with its place.
#[derive(Debug, Clone, Default)]
pub(in crate::config) struct LimitsSection(BTreeMap<Limit, (u64, Place)>);

impl LimitsSection {
    /// Adds the section of a later file: the last value counts.
    pub(in crate::config) fn add(&mut self, later: Self) {
        self.0.extend(later.0);
    }

    /// What comes of it.
    pub(in crate::config) fn settings(&self) -> Limits {
        self.0.iter().fold(Limits::default(), |limits, (limit, (value, _))| limits.with(*limit, *value))
    }

    /// Where a limit is set.
    pub(in crate::config) fn place(&self, limit: Limit) -> Option<&Place> {
        self.0.get(&limit).map(|(_, place)| place)
    }
}

impl<'a> Reader<'a> {
    pub(super) fn limits(&mut self, table: &DeTable<'a>) {
        for (name, item) in table {
            match Limit::of_key(name.get_ref()) {
                Some(limit) => self.limit(limit, item),
                None => {
                    let known: Vec<_> = Limit::all().map(Limit::key).collect();
                    self.unknown(name, "key in [limits]", &known);
                }
            }
        }
    }

    fn limit(&mut self, limit: Limit, item: &Item<'a>) {
        let place = self.place(item);
        let text = match item.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::String(text) if !limit.is_count() => text.to_string(),
            _ => {
                let wanted = if limit.is_count() { "a decimal integer" } else { "an integer or a string" };
                return self.wrong_type(limit.key(), item, wanted, &limit.example());
            }
        };
        match limit.read(&text, &place) {
            Ok(value) => drop(self.parsed.limits.0.insert(limit, (value, place))),
            Err(fault) => self.fault(fault),
        }
    }
}
