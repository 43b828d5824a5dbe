//! `[metrics]`: where the metrics are served.

use super::{Item, Reader};
use crate::config::fault::{Fault, Place};
use crate::config::metrics::{self, MOST_ADDRESSES, MOST_DESTINATIONS};
use crate::config::{Account, Metrics, MetricsSocket};
use serde_json::{Value, json};
use std::net::SocketAddr;
use toml::de::{DeTable, DeValue};

const KEYS: [&str; 5] = ["socket", "socket-mode", "socket-group", "listen", "destinations"];

/// The sections of all files, each value with its place; of several the last one counts.
#[derive(Debug, Clone, Default)]
pub(in crate::config) struct MetricsSection {
    socket: Option<(MetricsSocket, Place)>,
    mode: Option<(u32, Place)>,
    group: Option<(Account, Place)>,
    listen: Option<(Vec<SocketAddr>, Place)>,
    destinations: Option<(u32, Place)>,
}

/// A value, and where it is written.
pub(in crate::config) type Shown<'a> = (&'static str, Value, Option<&'a Place>);

fn value<T>(setting: &Option<(T, Place)>) -> Option<&T> {
    setting.as_ref().map(|(value, _)| value)
}

fn place<T>(setting: &Option<(T, Place)>) -> Option<&Place> {
    setting.as_ref().map(|(_, place)| place)
}

impl MetricsSection {
    /// Adds the section of a later file.
    pub(in crate::config) fn add(&mut self, later: Self) {
        let Self { socket, mode, group, listen, destinations } = later;
        self.socket = socket.or(self.socket.take());
        self.mode = mode.or(self.mode.take());
        self.group = group.or(self.group.take());
        self.listen = listen.or(self.listen.take());
        self.destinations = destinations.or(self.destinations.take());
    }

    /// What comes of it.
    pub(in crate::config) fn settings(&self) -> Metrics {
        let default = Metrics::default();
        Metrics {
            socket: value(&self.socket).cloned().unwrap_or(default.socket),
            socket_mode: value(&self.mode).copied().unwrap_or(default.socket_mode),
            socket_group: value(&self.group).cloned(),
            listen: value(&self.listen).cloned().unwrap_or(default.listen),
            destinations: value(&self.destinations).copied().unwrap_or(default.destinations),
        }
    }

    /// All values but those of lists, and what is not set and has no default.
    pub(in crate::config) fn shown(&self) -> Vec<Shown<'_>> {
        let Metrics { socket, socket_mode, socket_group, destinations, .. } = self.settings();
        let group = socket_group.map(|group| ("socket-group", json!(group.name), place(&self.group)));
        let first = [
            ("socket", json!(socket.to_string()), place(&self.socket)),
            ("socket-mode", json!(format!("{socket_mode:04o}")), place(&self.mode)),
        ];
        let last = ("destinations", json!(destinations), place(&self.destinations));
        first.into_iter().chain(group).chain([last]).collect()
    }

    /// The list.
    pub(in crate::config) fn listen(&self) -> Vec<(String, &Place)> {
        let listen = self.listen.iter();
        listen.flat_map(|(all, place)| all.iter().map(move |address| (address.to_string(), place))).collect()
    }
}

impl<'a> Reader<'a> {
    pub(super) fn metrics(&mut self, table: &DeTable<'a>) {
        for (name, item) in table {
            match name.get_ref().as_ref() {
                "socket" => {
                    let read = self.setting("socket", item, "socket = \"/run/x/metrics\"", metrics::socket);
                    self.parsed.metrics.socket = read.or(self.parsed.metrics.socket.take());
                }
                "socket-mode" => {
                    let read = self.setting("socket-mode", item, "socket-mode = \"0660\"", metrics::mode);
                    self.parsed.metrics.mode = read.or(self.parsed.metrics.mode.take());
                }
                "socket-group" => {
                    let accounts = self.accounts;
                    let group = |text: &str, place: &Place| metrics::group(text, place, accounts);
                    let read = self.setting("socket-group", item, "socket-group = \"prometheus\"", group);
                    self.parsed.metrics.group = read.or(self.parsed.metrics.group.take());
                }
                "listen" => self.metrics_listen(item),
                "destinations" => self.metrics_destinations(item),
                _ => self.unknown(name, "key in [metrics]", &KEYS),
            }
        }
    }

    fn setting<T>(
        &mut self,
        key: &str,
        item: &Item<'a>,
        example: &str,
        read: impl Fn(&str, &Place) -> Result<T, Fault>,
    ) -> Option<(T, Place)> {
        let Some(text) = item.get_ref().as_str() else {
            self.wrong_type(key, item, "a string", example);
            return None;
        };
        let place = self.place(item);
        match read(text, &place) {
            Ok(value) => Some((value, place)),
            Err(fault) => {
                self.fault(fault);
                None
            }
        }
    }

    fn metrics_listen(&mut self, item: &Item<'a>) {
        let texts = self.texts(item, &|| ("listen", "listen = \"127.0.0.1:9188\"".to_owned()));
        let place = self.place(item);
        if texts.len() > MOST_ADDRESSES {
            return self.fault(place.error(format!("\"listen\" takes at most {MOST_ADDRESSES} addresses")));
        }
        let mut addresses = Vec::with_capacity(texts.len());
        for (text, place) in texts {
            match metrics::address(&text, &place) {
                Ok(address) => addresses.push(address),
                Err(fault) => self.fault(fault),
            }
        }
        self.parsed.metrics.listen = Some((addresses, place));
    }

    fn metrics_destinations(&mut self, item: &Item<'a>) {
        let place = self.place(item);
        let number = match item.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse::<u32>().ok(),
            _ => return self.wrong_type("destinations", item, "a decimal integer", "destinations = 20"),
        };
        match number.filter(|number| *number <= MOST_DESTINATIONS) {
            Some(number) => self.parsed.metrics.destinations = Some((number, place)),
            None => self.fault(place.error(format!("\"destinations\" takes 0 to {MOST_DESTINATIONS}"))),
        }
    }
}
