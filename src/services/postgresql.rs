//! postgresql.conf of each cluster as Debian lays them out, `/etc/postgresql/VERSION/NAME/postgresql.conf`: `port`,
//! `listen_addresses`, `include`, `include_if_exists`, `include_dir`; and `postgresql.auto.conf`, which ALTER SYSTEM
//! writes into the data directory, and which counts more.
//!
//! Names are in any case, the `=` may be left out, the last of a name counts.

use super::include::Reading;
use super::words::{lines, port};
use super::{Claim, Place, Program, Where};
use crate::model::Protocol;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const CLUSTERS: &str = "/etc/postgresql/*/*/postgresql.conf";
const DEFAULT_PORT: u16 = 5432;

#[derive(Default)]
struct Settings(HashMap<String, (String, Place)>);

pub(super) fn read(reading: &mut Reading<'_>) -> Vec<Claim> {
    let mut claims = Vec::new();
    for file in reading.matching(Path::new("/"), CLUSTERS) {
        let mut settings = Settings::default();
        if reading.with(&file, |reading, text| settings.read(reading, &file, text)).is_none() {
            continue;
        }
        if let Some((directory, _)) = settings.0.get("data_directory") {
            let auto = Path::new(directory).join("postgresql.auto.conf");
            reading.with(&auto, |reading, text| settings.read(reading, &auto, text));
        }
        let of_cluster = settings.claims(&file);
        let instance = instance_of(&file);
        claims.extend(of_cluster.into_iter().map(|claim| Claim { instance: instance.clone(), ..claim }));
    }
    claims
}

/// `15-main`, as in postgresql@15-main.service.
fn instance_of(file: &Path) -> Option<String> {
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let cluster = file.parent()?;
    Some(format!("{}-{}", name(cluster.parent()?)?, name(cluster)?))
}

impl Settings {
    fn read(&mut self, reading: &mut Reading<'_>, file: &Path, text: &str) {
        let directory = file.parent().unwrap_or(file).to_owned();
        for (number, line) in lines(text) {
            let Some((name, value)) = setting(line) else { continue };
            match name.as_str() {
                "include" | "include_if_exists" => self.include(reading, &directory.join(value)),
                "include_dir" => {
                    let directory = directory.join(value);
                    let names = reading.names(&directory);
                    for name in names.iter().filter(|name| name.ends_with(".conf") && !name.starts_with('.'))
                    {
                        self.include(reading, &directory.join(name));
                    }
                }
                _ => {
                    self.0.insert(name, (value, Place::new(file, number)));
                }
            }
        }
    }

    fn include(&mut self, reading: &mut Reading<'_>, path: &Path) {
        reading.with(path, |reading, text| self.read(reading, path, text));
    }

    fn claims(&self, file: &Path) -> Vec<Claim> {
        let (port, place) = match self.0.get("port").and_then(|(text, place)| Some((port(text)?, place))) {
            Some((port, place)) => (port, place.clone()),
            None => (DEFAULT_PORT, Place { file: PathBuf::from(file), line: 0 }),
        };
        let addresses = self.0.get("listen_addresses").map_or("localhost", |(text, _)| text.as_str());
        let addresses = addresses.split(',').map(str::trim).filter(|text| !text.is_empty());
        addresses.map(|text| place.claim(Program::Postgresql, Protocol::Tcp, Where::of(text), port)).collect()
    }
}

/// The name, in small letters, and the value of a line.
fn setting(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'))?;
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    (!name.is_empty()).then(|| (name.to_ascii_lowercase(), value(rest)))
}

/// A value: in quotes, where two quotes or a backslash and one are a quote; or up to a blank or a comment.
fn value(text: &str) -> String {
    let Some(inside) = text.strip_prefix('\'') else {
        return text.split(|c: char| c.is_whitespace() || c == '#').next().unwrap_or_default().to_owned();
    };
    let mut value = String::new();
    let mut letters = inside.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' if letters.peek() == Some(&'\'') => value.extend(letters.next()),
            '\'' => break,
            '\\' => value.extend(letters.next()),
            letter => value.push(letter),
        }
    }
    value
}
