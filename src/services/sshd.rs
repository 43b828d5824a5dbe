//! sshd_config(5): `Port`, `ListenAddress`, `AddressFamily` and `Include`.
//!
//! Keywords are in any case, and may have a `=` behind them. What comes after a `Match` belongs to it, to the end of
//! the file, and ports may not be in one. Of `AddressFamily` the first counts.

use super::include::Reading;
use super::words::{host_port, lines, port, words};
use super::{Claim, Place, Program, Where};
use crate::model::Protocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

const DIRECTORY: &str = "/etc/ssh";
const MAIN: &str = "/etc/ssh/sshd_config";

#[derive(Default)]
struct Settings {
    ports: Vec<(u16, Place)>,
    addresses: Vec<(String, Option<u16>, Place)>,
    family: Option<String>,
}

pub(super) fn read(reading: &mut Reading<'_>) -> Vec<Claim> {
    let mut settings = Settings::default();
    match reading.with(Path::new(MAIN), |reading, text| settings.read(reading, Path::new(MAIN), text)) {
        Some(()) => settings.claims(),
        None => Vec::new(),
    }
}

impl Settings {
    fn read(&mut self, reading: &mut Reading<'_>, file: &Path, text: &str) {
        for (number, line) in lines(text) {
            let (keyword, arguments) = directive(line);
            let place = Place::new(file, number);
            let first = arguments.first().map(String::as_str).unwrap_or_default();
            match keyword.as_str() {
                "match" => return,
                "port" => self.ports.extend(port(first).map(|port| (port, place))),
                "addressfamily" => drop(self.family.get_or_insert(first.to_ascii_lowercase())),
                "listenaddress" => {
                    let parts = host_port(first);
                    let of = parts.port.and_then(port);
                    if let Some(host) = parts.host.filter(|_| of.is_some() || parts.port.is_none()) {
                        self.addresses.push((host.to_owned(), of, place));
                    }
                }
                "include" => {
                    for pattern in &arguments {
                        for path in reading.matching(Path::new(DIRECTORY), pattern) {
                            reading.with(&path, |reading, text| self.read(reading, &path, text));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn claims(mut self) -> Vec<Claim> {
        if self.ports.is_empty() {
            self.ports.push((22, Place::new(Path::new(MAIN), 0)));
        }
        let everywhere = match self.family.as_deref() {
            Some("inet") => Where::Address(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            Some("inet6") => Where::Address(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            _ => Where::Everywhere,
        };
        let claim = |place: &Place, address, port| place.claim(Program::Sshd, Protocol::Tcp, address, port);
        if self.addresses.is_empty() {
            return self.ports.iter().map(|(port, place)| claim(place, everywhere.clone(), *port)).collect();
        }
        let of_address = |(host, port, place): &(String, Option<u16>, Place)| match port {
            Some(port) => vec![claim(place, Where::of(host), *port)],
            None => self.ports.iter().map(|(port, _)| claim(place, Where::of(host), *port)).collect(),
        };
        self.addresses.iter().flat_map(of_address).collect()
    }
}

/// The keyword in small letters, and its arguments.
fn directive(line: &str) -> (String, Vec<String>) {
    let line = line.trim_start();
    let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
    let (keyword, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    let keyword = if keyword.starts_with('#') { "" } else { keyword };
    (keyword.trim_matches('"').to_ascii_lowercase(), words(rest, &['"', '\'']))
}
