//! redis.conf: `port`, `tls-port`, `bind` and `include`. The last of a name counts; port 0 is none.

use super::include::Reading;
use super::words::{lines, port, words};
use super::{Claim, Place, Program, Where};
use crate::model::Protocol;
use std::path::Path;

const MAIN: [&str; 2] = ["/etc/redis/redis.conf", "/etc/redis.conf"];
const DEFAULT_PORT: u16 = 6379;

#[derive(Default)]
struct Settings {
    port: Option<(Option<u16>, Place)>,
    tls_port: Option<(Option<u16>, Place)>,
    bind: Vec<String>,
}

pub(super) fn read(reading: &mut Reading<'_>) -> Vec<Claim> {
    for file in MAIN.map(Path::new) {
        let mut settings = Settings::default();
        if reading.with(file, |reading, text| settings.read(reading, file, text)).is_some() {
            return settings.claims(file);
        }
    }
    Vec::new()
}

impl Settings {
    fn read(&mut self, reading: &mut Reading<'_>, file: &Path, text: &str) {
        for (number, line) in lines(text) {
            let words = words(line, &['"', '\'']);
            let Some((name, arguments)) = words.split_first() else { continue };
            let first = arguments.first().map(String::as_str).unwrap_or_default();
            match name.to_ascii_lowercase().as_str() {
                "port" => self.port = Some((port(first), Place::new(file, number))),
                "tls-port" => self.tls_port = Some((port(first), Place::new(file, number))),
                "bind" => self.bind = arguments.to_vec(),
                "include" => {
                    for path in reading.matching(file.parent().unwrap_or(file), first) {
                        reading.with(&path, |reading, text| self.read(reading, &path, text));
                    }
                }
                _ => {}
            }
        }
    }

    fn claims(self, file: &Path) -> Vec<Claim> {
        let plain = self.port.unwrap_or((Some(DEFAULT_PORT), Place::new(file, 0)));
        let ports = [Some(plain), self.tls_port].into_iter().flatten();
        // With a `-` before it, an address may be missing; and it listens on all where none is said.
        let bare = |text: &String| match text.strip_prefix('-').unwrap_or(text) {
            "*" => Where::of("0.0.0.0"),
            "::*" => Where::of("::"),
            text => Where::of(text),
        };
        let addresses: Vec<Where> = match self.bind.as_slice() {
            [] => vec![Where::Everywhere],
            texts => texts.iter().map(bare).collect(),
        };
        let of_port = |(port, place): (Option<u16>, Place)| -> Vec<Claim> {
            let Some(port) = port else { return Vec::new() };
            let claim = |address: &Where| place.claim(Program::Redis, Protocol::Tcp, address.clone(), port);
            addresses.iter().map(claim).collect()
        };
        ports.flat_map(of_port).collect()
    }
}
