//! `[protect]`: what is kept out of ephemeral allocation beside the listeners.

use super::{Item, Reader};
use crate::config::Protect;
use crate::config::fault::Place;
use crate::model::PortRange;
use toml::de::{DeTable, DeValue};

/// The sections of all files, each value with its place.
#[derive(Debug, Clone, Default)]
pub(in crate::config) struct ProtectSection {
    pub(in crate::config) ports: Vec<(PortRange, Place)>,
    pub(in crate::config) exclude: Vec<(PortRange, Place)>,
    pub(in crate::config) learn: Option<(bool, Place)>,
}

impl ProtectSection {
    /// Adds the section of a later file: lists grow, and of a single value the last one counts.
    pub(in crate::config) fn add(&mut self, later: Self) {
        self.ports.extend(later.ports);
        self.exclude.extend(later.exclude);
        self.learn = later.learn.or(self.learn.take());
    }

    /// What comes of it.
    pub(in crate::config) fn settings(&self) -> Protect {
        let ports =
            |ranges: &[(PortRange, Place)]| ranges.iter().flat_map(|(range, _)| range.iter()).collect();
        Protect {
            ports: ports(&self.ports),
            learn: self.learn.as_ref().is_none_or(|(learn, _)| *learn),
            exclude: ports(&self.exclude),
        }
    }
}

impl<'a> Reader<'a> {
    pub(super) fn protect(&mut self, table: &DeTable<'a>) {
        for (name, item) in table {
            match name.get_ref().as_ref() {
                "ports" => {
                    let ports = self.port_ranges("ports", item, "ports = [\"6379\", \"8000-8010\"]");
                    self.parsed.protect.ports.extend(ports);
                }
                "exclude" => {
                    let ports = self.port_ranges("exclude", item, "exclude = [\"8000-8100\"]");
                    self.parsed.protect.exclude.extend(ports);
                }
                "learn" => match item.get_ref() {
                    DeValue::Boolean(learn) => self.parsed.protect.learn = Some((*learn, self.place(item))),
                    _ => self.wrong_type("learn", item, "true or false", "learn = false"),
                },
                _ => self.unknown(name, "key in [protect]", &["learn", "exclude", "ports"]),
            }
        }
    }

    fn port_ranges(&mut self, key: &'static str, item: &Item<'a>, example: &str) -> Vec<(PortRange, Place)> {
        let mut ranges = Vec::new();
        for (text, place) in self.texts(item, &|| (key, example.to_owned())) {
            match text.parse::<PortRange>() {
                Ok(range) => ranges.push((range, place)),
                Err(error) => self.fault(place.error(error.to_string())),
            }
        }
        ranges
    }
}
