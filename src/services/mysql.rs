//! The option files of MariaDB and MySQL: groups of which a server reads several, `-` and `_` the same in names, the
//! last of a name counts, `!include` and `!includedir`.

use super::include::Reading;
use super::words::{lines, port};
use super::{Claim, Place, Program, Where};
use crate::model::Protocol;
use std::collections::HashMap;
use std::path::Path;

/// In this order; a later one counts more.
const MAIN: [&str; 2] = ["/etc/my.cnf", "/etc/mysql/my.cnf"];
const DEFAULT_PORT: u16 = 3306;
/// The ports besides the first, which are there only where they are named.
const MORE_PORTS: [&str; 3] = ["extra-port", "mysqlx-port", "admin-port"];

#[derive(Default)]
struct Options(HashMap<String, (String, Place)>);

pub(super) fn read(reading: &mut Reading<'_>) -> Vec<Claim> {
    let mut options = Options::default();
    let mut found = None;
    for file in MAIN.map(Path::new) {
        let read = reading.with(file, |reading, text| options.read(reading, file, text));
        found = found.or(read.map(|()| file));
    }
    found.map(|file| options.claims(file)).unwrap_or_default()
}

/// Whether a server reads a group, and not only its clients. A server of one version reads that version's groups too:
/// which one is installed is not known here, and a host has few.
fn is_of_server(group: &str) -> bool {
    let versioned = ["mysqld-", "mariadb-", "mariadbd-"];
    let is_version = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    matches!(group, "mysqld" | "server" | "mariadb" | "mariadbd" | "client-server" | "galera")
        || versioned.iter().any(|prefix| group.strip_prefix(prefix).is_some_and(is_version))
}

impl Options {
    fn read(&mut self, reading: &mut Reading<'_>, file: &Path, text: &str) {
        let mut ours = false;
        for (number, line) in lines(text) {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(directive) = line.strip_prefix('!') {
                self.include(reading, file, directive);
            } else if let Some(group) = line.strip_prefix('[') {
                ours = is_of_server(group.split(']').next().unwrap_or_default().trim());
            } else if ours {
                let (name, text) = line.split_once('=').unwrap_or((line, ""));
                // A flag may have a comment behind it, too.
                let name = name.split('#').next().unwrap_or_default().trim();
                let name = name.replace('_', "-").to_ascii_lowercase();
                let name = name.strip_prefix("loose-").unwrap_or(&name).to_owned();
                self.0.insert(name, (value(text), Place::new(file, number)));
            }
        }
    }

    fn include(&mut self, reading: &mut Reading<'_>, file: &Path, directive: &str) {
        let directory = file.parent().unwrap_or(file).to_owned();
        let mut read = |path: &Path| {
            reading.with(path, |reading, text| self.read(reading, path, text));
        };
        if let Some(path) = directive.strip_prefix("includedir").filter(|rest| rest.starts_with([' ', '\t']))
        {
            let directory = directory.join(path.trim());
            let names = reading.names(&directory);
            for name in names.iter().filter(|name| name.ends_with(".cnf")) {
                let path = directory.join(name);
                reading.with(&path, |reading, text| self.read(reading, &path, text));
            }
        } else if let Some(path) =
            directive.strip_prefix("include").filter(|rest| rest.starts_with([' ', '\t']))
        {
            read(&directory.join(path.trim()));
        }
    }

    fn claims(&self, main: &Path) -> Vec<Claim> {
        let is_off = |value: &str| ["0", "off", "false"].contains(&value.to_ascii_lowercase().as_str());
        let without = ["skip-networking", "skip-network"];
        if without.iter().any(|name| self.0.get(*name).is_some_and(|(value, _)| !is_off(value))) {
            return Vec::new();
        }
        let bind = self.0.get("bind-address");
        let addresses: Vec<Where> = match bind {
            Some((value, _)) if !value.is_empty() => {
                value.split(',').map(|text| Where::of(text.trim())).collect()
            }
            _ => vec![Where::Everywhere],
        };
        let own = match self.0.get("port") {
            Some((text, place)) => port(text).map(|port| (port, place.clone())),
            None => None,
        };
        let default = || (DEFAULT_PORT, Place::new(main, 0));
        let more = MORE_PORTS.iter().filter_map(|name| self.0.get(*name));
        let more = more.filter_map(|(text, place)| Some((port(text)?, place.clone())));
        let ports: Vec<(u16, Place)> = std::iter::once(own.unwrap_or_else(default)).chain(more).collect();
        let claim = |(port, place): &(u16, Place)| -> Vec<Claim> {
            let of = |address: &Where| place.claim(Program::Mysql, Protocol::Tcp, address.clone(), *port);
            addresses.iter().map(of).collect()
        };
        ports.iter().flat_map(claim).collect()
    }
}

/// A value, without its quotes, or without the comment behind it.
fn value(text: &str) -> String {
    let text = text.trim();
    match text.chars().next().filter(|first| ['"', '\''].contains(first)) {
        Some(quote) => {
            let inside = text.get(1..).unwrap_or_default();
            inside.split(quote).next().unwrap_or_default().to_owned()
        }
        None => text.split('#').next().unwrap_or_default().trim().to_owned(),
    }
}
