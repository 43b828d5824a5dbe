//! Apache's configuration as Debian lays it out: `Listen`, `Include`, `IncludeOptional`, in `<IfModule>` only where the
//! module is loaded, and in `<IfDefine>` only where the name is defined.

use super::include::Reading;
use super::words::{host_port, joined_lines, port, words};
use super::{Claim, Place, Program, Where};
use crate::model::Protocol;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

const MAIN: [&str; 2] = ["/etc/apache2/apache2.conf", "/etc/httpd/conf/httpd.conf"];

struct Settings {
    root: PathBuf,
    /// As `LoadModule` names them: `ssl_module`.
    modules: HashSet<String>,
    defined: HashSet<String>,
    claims: Vec<Claim>,
}

pub(super) fn read(reading: &mut Reading<'_>) -> Vec<Claim> {
    for file in MAIN.map(Path::new) {
        let root =
            if file.starts_with("/etc/httpd") { Path::new("/etc/httpd") } else { Path::new("/etc/apache2") };
        let mut settings = Settings {
            root: root.to_owned(),
            modules: HashSet::new(),
            defined: HashSet::new(),
            claims: Vec::new(),
        };
        if reading.with(file, |reading, text| settings.read(reading, file, text)).is_some() {
            return settings.claims;
        }
    }
    Vec::new()
}

impl Settings {
    fn read(&mut self, reading: &mut Reading<'_>, file: &Path, text: &str) {
        // Whether each of the sections that are open is one that counts.
        let mut open: Vec<bool> = Vec::new();
        for (number, line) in joined_lines(text) {
            let line = line.trim();
            if line.starts_with('#') {
                continue;
            }
            let words = words(line.trim_start_matches('<').trim_end_matches('>'), &['"', '\'']);
            let Some((name, arguments)) = words.split_first() else { continue };
            let name = name.to_ascii_lowercase();
            let first = arguments.first().map(String::as_str).unwrap_or_default();
            if line.starts_with("</") {
                open.pop();
            } else if line.starts_with('<') {
                open.push(self.counts(&name, first));
            } else if open.iter().all(|counts| *counts) {
                self.take(reading, &Place::new(file, number), &name, arguments, first);
            }
        }
    }

    fn counts(&self, section: &str, argument: &str) -> bool {
        let (wanted, name) = match argument.strip_prefix('!') {
            Some(name) => (false, name),
            None => (true, argument),
        };
        match section {
            "ifmodule" => self.modules.contains(&module_of(name)) == wanted,
            "ifdefine" => self.defined.contains(name) == wanted,
            _ => true,
        }
    }

    fn take(
        &mut self,
        reading: &mut Reading<'_>,
        place: &Place,
        name: &str,
        arguments: &[String],
        first: &str,
    ) {
        match name {
            "serverroot" => self.root = PathBuf::from(first),
            "loadmodule" => drop(self.modules.insert(first.to_owned())),
            "define" => drop(self.defined.insert(first.to_owned())),
            "listen" => {
                let of_host = host_port(first);
                let alone = port(first).map(|port| (None, port));
                let both = of_host.port.and_then(port).map(|port| (of_host.host, port));
                if let Some((host, port)) = alone.or(both) {
                    let address = host.map_or(Where::Everywhere, Where::of);
                    self.claims.push(place.claim(Program::Apache, Protocol::Tcp, address, port));
                }
            }
            "include" | "includeoptional" => {
                for pattern in arguments {
                    for path in reading.matching(&self.root.clone(), pattern) {
                        reading.with(&path, |reading, text| self.read(reading, &path, text));
                    }
                }
            }
            _ => {}
        }
    }
}

/// `ssl_module` of `mod_ssl.c`.
fn module_of(name: &str) -> String {
    match name.strip_prefix("mod_").and_then(|name| name.strip_suffix(".c")) {
        Some(name) => format!("{name}_module"),
        None => name.to_owned(),
    }
}
