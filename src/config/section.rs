//! A unit's `[X-PortBroker]` section: the listeners that it asks for.
//!
//! `FileDescriptorName=` names the Listen lines before it that have no name yet, so the lines are read in
//! their order. All other keys hold for the section as a whole. Only the unit itself is granted.

use super::allow::Accounts;
use super::definition::{Assignment, Definition, Draft, Source, boolean};
use super::fault::{Fault, Place, quoted};
use super::key::{self, Key};
use super::listen::MAX_ENDPOINTS;
use super::socket_keys::{self, Fate};
use super::units::{SECTION, Setting, Unit};
use super::{Grant, Origin};
use crate::model::{ListenerName, UnitName};

/// What a unit's section asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitSection {
    /// The unit.
    pub unit: UnitName,
    /// In the order of the section.
    pub listeners: Vec<Definition>,
    /// `Required=`: the unit fails to start where the broker is not running.
    pub required: bool,
    /// Where `Required=` is.
    pub(super) required_at: Option<Origin>,
}

/// A Listen line and the name that it was given.
struct Line {
    assignment: Assignment,
    name: Option<(ListenerName, Place)>,
}

/// The section while its lines are read.
struct Reader<'a> {
    unit: &'a Unit,
    faults: &'a mut Vec<Fault>,
    lines: Vec<Line>,
    options: Vec<Assignment>,
    required: Option<(bool, Place)>,
    /// Whether all Listen lines were taken back: then it is meant to have none.
    reset: bool,
    /// How many faults others had.
    faults_before: usize,
}

/// Reads a unit's section. What is wrong goes to `faults` and is left out.
pub fn read(unit: &Unit, accounts: &Accounts, faults: &mut Vec<Fault>) -> UnitSection {
    let mut reader = Reader {
        unit,
        faults_before: faults.len(),
        faults,
        lines: Vec::new(),
        options: Vec::new(),
        required: None,
        reset: false,
    };
    for setting in unit.settings.iter().filter(|setting| setting.section == SECTION) {
        reader.setting(setting);
    }
    reader.finish(accounts)
}

fn place(setting: &Setting, unit: &UnitName) -> Place {
    let mut origin = setting.origin.clone();
    origin.unit.get_or_insert_with(|| unit.clone());
    Place { origin, width: 0 }
}

impl Reader<'_> {
    fn setting(&mut self, setting: &Setting) {
        let place = place(setting, &self.unit.name);
        let text = match self.unit.expand(&setting.value) {
            Ok(text) => text,
            Err(error) => return self.faults.push(place.error(format!("{}: {error}", setting.key))),
        };
        match (setting.key.as_str(), Key::of_unit(&setting.key)) {
            (_, Some(key)) if key.listens().is_some() && text.is_empty() => {
                self.lines.clear();
                self.reset = true;
            }
            // No line names less than one socket, so more lines than sockets are of no use.
            (_, Some(key)) if key.listens().is_some() && self.lines.len() >= MAX_ENDPOINTS => {
                let message = format!("the section has more than {MAX_ENDPOINTS} Listen lines");
                if !self.faults.iter().any(|fault| fault.message == message) {
                    self.faults.push(place.error(message).help("use ranges of ports, or several units"));
                }
            }
            (_, Some(key)) if key.listens().is_some() => {
                self.lines.push(Line { assignment: Assignment { key, text, place }, name: None });
            }
            // A list, which an empty assignment ends.
            (_, Some(key @ Key::Symlinks)) if !text.is_empty() => {
                let words = text.split_ascii_whitespace().take(MAX_ENDPOINTS);
                let assignment = |word: &str| Assignment { key, text: word.to_owned(), place: place.clone() };
                self.options.extend(words.map(assignment));
            }
            (_, Some(key)) => {
                self.options.retain(|option| option.key != key);
                if !text.is_empty() {
                    self.options.push(Assignment { key, text, place });
                }
            }
            ("FileDescriptorName", None) => self.name(&text, &place),
            ("Required", None) => self.required(&text, place),
            (name, None) => self.unknown(name, &place),
        }
    }

    fn name(&mut self, text: &str, place: &Place) {
        if text.is_empty() {
            self.lines.iter_mut().for_each(|line| line.name = None);
            return;
        }
        let name = match ListenerName::try_from(text) {
            Ok(name) => name,
            Err(error) => return self.faults.push(place.error(error.to_string())),
        };
        let mut named = false;
        for line in self.lines.iter_mut().filter(|line| line.name.is_none()) {
            line.name = Some((name.clone(), place.clone()));
            named = true;
        }
        if !named {
            let fault = place.error(format!(
                "FileDescriptorName={} names nothing: no Listen line without a name is before it",
                quoted(text)
            ));
            self.faults.push(fault.help("write it below the Listen lines that it names"));
        }
    }

    fn required(&mut self, text: &str, place: Place) {
        match boolean(text) {
            _ if text.is_empty() => self.required = None,
            Some(required) => self.required = Some((required, place)),
            None => {
                self.faults.push(place.error(format!("Required={} is neither yes nor no", quoted(text))));
            }
        }
    }

    fn unknown(&mut self, name: &str, place: &Place) {
        match socket_keys::fate(name) {
            Some(Fate::NotNeeded(why)) => {
                let fault = place.error(format!("{name}= is not needed in [{SECTION}]: {why}"));
                return self.faults.push(fault.help("take it out"));
            }
            Some(Fate::Refused { why, instead, .. }) => {
                let fault = place.error(format!("{name}= is not available in [{SECTION}]: {why}"));
                return self.faults.push(fault.help(instead));
            }
            Some(Fate::Taken) | None => {}
        }
        let fault = place.error(format!("unknown key {} in [{SECTION}]", quoted(name)));
        let known = Key::unit_names().chain(["FileDescriptorName", "Required"]);
        self.faults.push(match key::closest(name, known) {
            Some(closest) => fault.help(format!("did you mean {closest}=?")),
            None => fault.help("take it out; the keys are those of systemd.socket(5), Idle= and Required="),
        });
    }

    /// What the lines without a name are called; `None`, and a fault, where the unit's own name is no listener's.
    fn default_name(&mut self) -> Option<ListenerName> {
        let first = self.lines.iter().find(|line| line.name.is_none())?;
        match ListenerName::try_from(self.unit.name.stem()) {
            Ok(name) => Some(name),
            Err(error) => {
                let fault = first.assignment.place.error(format!(
                    "the unit's name {:?} cannot name its listener: {error}",
                    self.unit.name.stem()
                ));
                self.faults.push(fault.help("write FileDescriptorName= below the Listen lines"));
                None
            }
        }
    }

    fn finish(mut self, accounts: &Accounts) -> UnitSection {
        let unit = self.unit.name.clone();
        let default = self.default_name();
        self.say_what_cannot_work();
        let mut drafts: Vec<Draft> = Vec::new();
        for line in self.lines {
            let default = default.clone().map(|name| (name, line.assignment.place.clone()));
            let Some((name, place)) = line.name.or(default) else { continue };
            let index = drafts.iter().position(|draft| draft.name == name).unwrap_or_else(|| {
                let grants = vec![Grant { unit: Some(unit.clone()), ..Grant::default() }];
                let assignments = self.options.clone();
                drafts.push(Draft { name, place, source: Source::Unit, assignments, grants });
                drafts.len().saturating_sub(1)
            });
            if let Some(draft) = drafts.get_mut(index) {
                draft.assignments.push(line.assignment);
            }
        }
        let mut listeners = Vec::new();
        for (n, draft) in drafts.into_iter().enumerate() {
            let mut own = Vec::new();
            listeners.push(Definition::of(draft, accounts, &mut own));
            // The options are every listener's: what is wrong with them is said once.
            self.faults.extend(own.into_iter().filter(|fault| {
                n == 0 || !self.options.iter().any(|option| option.place.origin == fault.origin)
            }));
        }
        let required_at = self.required.as_ref().map(|(_, place)| place.origin.clone());
        UnitSection { unit, listeners, required: self.required.is_some_and(|(r, _)| r), required_at }
    }

    /// Sections that are well written and will not do what is meant.
    fn say_what_cannot_work(&mut self) {
        let mut settings = self.unit.settings.iter().filter(|setting| setting.section == SECTION);
        let Some(first) = settings.next().map(|first| place(first, &self.unit.name)) else { return };
        if !self.unit.name.as_str().ends_with(".service") {
            let message =
                format!("[{SECTION}] has a meaning in service units only, and this is {}", self.unit.name);
            self.faults.push(first.error(message).help("move it into the service that takes the sockets"));
        }
        // A mistyped key says enough.
        if self.lines.is_empty() && !self.reset && self.faults.len() == self.faults_before {
            let message = format!("the section [{SECTION}] of {} has no Listen line", self.unit.name);
            self.faults
                .push(first.warning(message).help("add ListenStream= or ListenDatagram=, or take it out"));
        }
    }
}

#[cfg(test)]
#[path = "section_tests.rs"]
mod tests;
