//! Finds the unit files that matter and reads them as systemd would: search path, precedence, masking,
//! aliases, templates and drop-ins of systemd.unit(5).
//!
//! The generator runs before anything else at every boot, so directories are listed once, and of a
//! service only those files are parsed of which one contains the section's name. `Alias=` is not looked
//! at, as systemd does not: it is what `systemctl enable` makes links from.
//!
//! What the generator wrote itself is never read: its output would come back as the unit's own settings.

mod files;
mod names;
mod tree;

use crate::config::units::{Unit, parse};
use crate::config::{Fault, Services};
use crate::model::UnitName;
pub use files::CANNOT_BE_READ;
use files::{Content, Files};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tree::{Found, Tree};

/// The drop-in that the generator writes for each unit with a section.
///
/// It sorts behind all others, so that an administrator's reset of `ExecStartPre=` does not take it away.
pub const DELIVERY_FILE: &str = "zzz-portbroker.conf";

/// What [`read`] has read.
#[derive(Debug)]
pub struct Read {
    /// All services that have a section, and all sockets.
    pub units: Vec<Unit>,
    /// Which services there are at all.
    pub services: Services,
    /// What is wrong with their files.
    pub faults: Vec<Fault>,
    /// When any of the files was changed last.
    pub changed: Option<Duration>,
}

/// All services that have a section, and all sockets, below `root`; which services there are at all; and what is
/// wrong with their files.
///
/// Of templates, the instances that a file, a link, or a `.wants`, `.requires` or `.upholds` directory
/// names.
#[must_use]
pub fn read(root: &Path) -> Read {
    let mut reader = Reader::new(root, Wanted::ServicesAndSockets);
    let services = reader.tree.services();
    let units = reader.units();
    let Files { faults, changed, .. } = reader.files;
    Read { units, services, faults, changed }
}

/// All services that have a section: what the generator needs.
///
/// A unit may come from another generator, and those run at the same time as ours, so here a unit of which
/// only drop-ins are there counts too.
#[must_use]
pub fn read_services(root: &Path) -> (Vec<Unit>, Vec<Fault>) {
    let mut reader = Reader::new(root, Wanted::Services);
    let units = reader.units();
    (units, reader.files.faults)
}

/// One unit with its drop-ins, whatever is in it; `None` where there is none, or it is masked.
#[must_use]
pub fn read_unit(root: &Path, name: &UnitName) -> (Option<Unit>, Vec<Fault>) {
    let mut reader = Reader::new(root, Wanted::One);
    let tree = std::mem::take(&mut reader.tree);
    let unit = match tree.find(name.as_str()) {
        Found::Fragment(own, path) => {
            let aliases = if own == name.as_str() { Vec::new() } else { vec![name.to_string()] };
            let candidate = Candidate { fragment: Some(path), aliases };
            UnitName::try_from(own.as_str()).ok().and_then(|own| reader.unit(&tree, own, &candidate))
        }
        Found::Masked | Found::Nothing => None,
    };
    (unit, reader.files.faults)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The one that is asked for.
    One,
    ServicesAndSockets,
    Services,
}

/// A unit before its files are read.
#[derive(Default)]
struct Candidate<'a> {
    fragment: Option<&'a Path>,
    /// Its names besides its own.
    aliases: Vec<String>,
}

struct Reader {
    tree: Tree,
    files: Files,
    wanted: Wanted,
}

impl Reader {
    fn new(root: &Path, wanted: Wanted) -> Self {
        let (mut tree, mut files) = (Tree::scan(root), Files::new(root));
        for (directory, error) in std::mem::take(&mut tree.unlisted) {
            files.note(&directory, &error);
        }
        Self { tree, files, wanted }
    }

    fn units(&mut self) -> Vec<Unit> {
        let tree = std::mem::take(&mut self.tree);
        let mut units = Vec::new();
        for (name, candidate) in self.candidates(&tree) {
            // A name that is no valid one is none for systemd either.
            if let Ok(name) = UnitName::try_from(name.as_str()) {
                units.extend(self.unit(&tree, name, &candidate));
            }
        }
        units
    }

    /// Every unit by its own name.
    fn candidates<'t>(&self, tree: &'t Tree) -> BTreeMap<String, Candidate<'t>> {
        let mut candidates: BTreeMap<String, Candidate<'t>> = BTreeMap::new();
        for name in tree.names().into_iter().filter(|name| self.wants(name)) {
            let (own, fragment) = match tree.find(name) {
                Found::Fragment(own, path) => (own, Some(path)),
                Found::Nothing if self.wanted == Wanted::Services => (name.to_owned(), None),
                Found::Nothing | Found::Masked => continue,
            };
            let is_alias = own != name;
            let candidate = candidates.entry(own).or_default();
            candidate.fragment = fragment;
            if is_alias {
                candidate.aliases.push(name.to_owned());
            }
        }
        for (template, alias) in tree.template_aliases() {
            for (name, candidate) in &mut candidates {
                if names::template(name).is_some_and(|of| of == template) {
                    candidate.aliases.push(names::instance_of(alias, name));
                }
            }
        }
        candidates
    }

    fn wants(&self, name: &str) -> bool {
        self.wanted == Wanted::ServicesAndSockets || is_service(name)
    }

    /// Reads a unit; none where it does not matter or is masked.
    fn unit(&mut self, tree: &Tree, name: UnitName, candidate: &Candidate<'_>) -> Option<Unit> {
        let content = candidate.fragment.map_or(Content::Plain, |path| self.files.content(path));
        if matches!(content, Content::Absent | Content::Empty) {
            return None;
        }
        let dropins = self.dropins(tree, name.as_str(), candidate);
        let service = is_service(name.as_str());
        let marked = content == Content::Marked
            || dropins.iter().any(|path| self.files.content(path) == Content::Marked);
        if service && !marked && self.wanted != Wanted::One {
            return None;
        }
        let mut settings = Vec::new();
        for path in candidate.fragment.into_iter().chain(dropins.iter().map(PathBuf::as_path)) {
            // Said already.
            if self.files.content(path) == Content::Hidden {
                continue;
            }
            let text = self.files.read(path).unwrap_or_default();
            let (more, faults) = parse(&self.files.shown(path), Some(&name), &text);
            settings.extend(more);
            if service {
                // What is wrong with a socket unit is between its author and systemd.
                self.files.faults.extend(faults);
            }
        }
        let enabled = std::iter::once(name.as_str())
            .chain(candidate.aliases.iter().map(String::as_str))
            .any(|name| tree.is_enabled(name));
        Some(Unit { name, enabled, settings })
    }

    /// The drop-ins of a unit in the order in which systemd applies them: by file name over all
    /// directories, of two with one name that in the earlier directory.
    fn dropins(&mut self, tree: &Tree, name: &str, candidate: &Candidate<'_>) -> Vec<PathBuf> {
        let unit_names = std::iter::once(name).chain(candidate.aliases.iter().map(String::as_str));
        let mut chosen: BTreeMap<String, PathBuf> = BTreeMap::new();
        for directory in tree.dropin_directories(unit_names) {
            for file in self.files.dropins(directory) {
                chosen.entry(file.clone()).or_insert_with(|| directory.join(file));
            }
        }
        chosen.remove(DELIVERY_FILE);
        chosen.into_values().collect()
    }
}

fn is_service(name: &str) -> bool {
    name.ends_with(".service")
}

#[cfg(test)]
mod tests;
