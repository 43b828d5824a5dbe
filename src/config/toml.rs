//! The TOML files: `[protect]`, `[limits]`, `[metrics]`, `[[listener]]` and `[[pool]]`, keys in kebab-case.
//!
//! The tables are walked by hand rather than by serde, which stops at the first fault: all faults of all
//! files are reported at once. What a file with a syntax error has besides is looked at too, except for
//! what could be missing only because of that error.

mod limits;
mod metrics;
mod parts;
mod pool;
mod protect;

pub(super) use limits::LimitsSection;
pub(super) use metrics::MetricsSection;
pub(super) use protect::ProtectSection;

use super::definition::{Assignment, Definition, Draft, Source};
use super::fault::{Fault, Place, quoted};
use super::key::{self, Key, Shape};
use super::listen::MAX_ENDPOINTS;
use super::pool_definition::PoolDraft;
use super::{Accounts, Origin, SharedPath};
use crate::model::{ListenerName, PoolName};
use std::collections::HashSet;
use std::ops::Range;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// A TOML file's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TomlFile {
    /// As it is shown.
    pub path: PathBuf,
    /// All of it.
    pub text: String,
}

/// A `[[listener]]`.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) definition: Definition,
    /// Whether something could not be read, so that what seems to be missing may be there.
    pub(super) incomplete: bool,
}

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) definitions: Vec<Read>,
    pub(super) pools: Vec<(PoolName, Place, PoolDraft)>,
    pub(super) protect: ProtectSection,
    pub(super) limits: LimitsSection,
    pub(super) metrics: MetricsSection,
}

/// Sections of the contract that a later version may have.
const SECTIONS_NOT_YET: [&str; 1] = ["socket"];

/// How many keys are named where a key is unknown.
const MOST_NAMED: usize = 12;

/// How far into a line columns are counted.
const MAX_COLUMN: usize = 64 * 1024;
/// How many syntax errors of one file are looked at.
const MAX_SYNTAX_ERRORS: usize = 200;

/// Turns byte offsets of a text into lines and columns.
struct Places<'a> {
    path: SharedPath,
    text: &'a str,
    /// How many lines of the file are before the text.
    before: usize,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl<'a> Places<'a> {
    /// `text` is the file's, or a part of it that has so many lines `before` it.
    fn new(path: SharedPath, text: &'a str, before: usize) -> Self {
        let ends = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(n, _)| n.saturating_add(1))).collect();
        Self { path, text, before, lines }
    }

    fn at(&self, span: Range<usize>) -> Place {
        let start = span.start.min(self.text.len());
        let line = self.lines.partition_point(|&begin| begin <= start);
        let begin = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = self.text.get(begin..start).unwrap_or_default();
        let of_line = self.text.get(start..span.end).and_then(|text| text.lines().next());
        // Counting for every value of a line of a megabyte would take long, and nobody counts with us.
        let column = if before.len() > MAX_COLUMN { 0 } else { before.chars().count().saturating_add(1) };
        Place {
            origin: Origin {
                file: self.path.clone(),
                line: self.before.saturating_add(line),
                column,
                unit: None,
            },
            width: of_line.map_or(0, |text| text.chars().take(MAX_COLUMN).count()).max(1),
        }
    }
}

type Item<'a> = Spanned<DeValue<'a>>;
type Name<'a> = Spanned<DeString<'a>>;

struct Reader<'a> {
    places: Places<'a>,
    accounts: &'a Accounts,
    faults: &'a mut Vec<Fault>,
    parsed: Parsed,
    /// Whether the file has syntax errors, so that something may seem to be missing.
    broken: bool,
}

/// Reads a file. What is wrong goes to `faults` and is left out.
pub(super) fn read(file: &TomlFile, accounts: &Accounts, faults: &mut Vec<Fault>) -> Parsed {
    parts::read(file, accounts, faults).unwrap_or_else(|| read_as_a_whole(file, accounts, faults))
}

fn read_as_a_whole(file: &TomlFile, accounts: &Accounts, faults: &mut Vec<Fault>) -> Parsed {
    let (table, errors) = DeTable::parse_recoverable(&file.text);
    let places = Places::new(file.path.as_path().into(), &file.text, 0);
    let mut syntax = Vec::new();
    for error in errors.iter().take(MAX_SYNTAX_ERRORS) {
        let place = places.at(error.span().unwrap_or(0..0));
        syntax.push(place.error(format!("no valid TOML: {}", error.message())));
    }
    // One mistake often makes several errors of one line: the first says most.
    syntax.dedup_by_key(|fault| fault.origin.line);
    let mut own = Vec::new();
    let broken = !errors.is_empty();
    let mut reader = Reader { places, accounts, faults: &mut own, parsed: Parsed::default(), broken };
    reader.file(table.get_ref());
    let parsed = reader.parsed;
    let lines: HashSet<usize> = syntax.iter().map(|fault| fault.origin.line).collect();
    own.retain(|fault| !lines.contains(&fault.origin.line));
    faults.append(&mut syntax);
    faults.append(&mut own);
    parsed
}

impl<'a> Reader<'a> {
    fn place<T>(&self, item: &Spanned<T>) -> Place {
        self.places.at(item.span())
    }

    fn fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    fn not_yet(&mut self, place: &Place, what: &str) {
        self.fault(place.error(format!("{what} is not available in this version")).help("take it out"));
    }

    fn unknown(&mut self, name: &Name<'a>, what: &str, known: &[&str]) {
        let fault = self.place(name).error(format!("unknown {what} {}", quoted(name.get_ref())));
        let fault = match key::closest(name.get_ref(), known.iter().copied()) {
            Some(closest) => fault.help(format!("did you mean {closest:?}?")),
            None if known.len() > MOST_NAMED => fault.help("take it out; portbroker.toml(5) has all keys"),
            None => fault.help(format!("take it out; there is {}", known.join(", "))),
        };
        self.fault(fault);
    }

    fn wrong_type(&mut self, key: &str, item: &Item<'a>, wanted: &str, example: &str) {
        let fault = self.place(item).error(format!(
            "{key:?} takes {wanted}, and this is {}",
            with_article(item.get_ref().type_str())
        ));
        self.fault(fault.help(format!("write it as in {example}")));
    }

    fn file(&mut self, table: &DeTable<'a>) {
        for (name, item) in table {
            match (name.get_ref().as_ref(), item.get_ref()) {
                ("protect", DeValue::Table(protect)) => self.protect(protect),
                ("protect", _) => self.wrong_type("protect", item, "a table", "[protect]"),
                ("limits", DeValue::Table(limits)) => self.limits(limits),
                ("limits", _) => self.wrong_type("limits", item, "a table", "[limits]"),
                ("metrics", DeValue::Table(metrics)) => self.metrics(metrics),
                ("metrics", _) => self.wrong_type("metrics", item, "a table", "[metrics]"),
                ("listener", _) => self.tables("listener", item, Self::listener),
                ("pool", _) => self.tables("pool", item, Self::pool),
                (section, _) if SECTIONS_NOT_YET.contains(&section) => {
                    let place = self.place(name);
                    self.not_yet(&place, &format!("[[{section}]]"));
                }
                _ => self.unknown(name, "section", &["protect", "limits", "metrics", "listener", "pool"]),
            }
        }
    }

    /// A list of tables, each with the place of its header.
    fn tables(&mut self, section: &str, item: &Item<'a>, read: impl Fn(&mut Self, &DeTable<'a>, &Item<'a>)) {
        let DeValue::Array(tables) = item.get_ref() else {
            let example = format!("[[{section}]], with two brackets");
            return self.wrong_type(section, item, "a list of tables", &example);
        };
        for table in tables.iter() {
            match table.get_ref() {
                DeValue::Table(of) => read(self, of, table),
                _ => self.wrong_type(section, table, "tables", &format!("[[{section}]]")),
            }
        }
    }

    fn listener(&mut self, table: &DeTable<'a>, header: &Item<'a>) {
        let mut name = None;
        let mut assignments = Vec::with_capacity(table.len());
        let faults_before = self.faults.len();
        for (key, item) in table {
            let text = key.get_ref().as_ref();
            if text == "name" {
                name = Some(item);
                continue;
            }
            match Key::of_toml(text) {
                Some((key, shape)) => self.assignment(key, shape, item, &mut assignments),
                None => {
                    let known: Vec<_> = std::iter::once("name").chain(Key::toml_names()).collect();
                    self.unknown(key, "key in [[listener]]", &known);
                }
            }
        }
        // The sockets are handed over in the order of the file; the table is in that of the alphabet.
        assignments.sort_by_key(|a| (a.place.origin.line, a.place.origin.column));
        let Some((name, place)) = self.name::<ListenerName>(name, header, "listener", "web") else { return };
        let incomplete = self.broken || self.faults.len() > faults_before;
        let grants = Vec::new();
        let draft = Draft { name, place, source: Source::Toml, assignments, grants };
        let definition = Definition::of(draft, self.accounts, self.faults);
        self.parsed.definitions.push(Read { definition, incomplete });
    }

    fn name<N>(
        &mut self,
        item: Option<&Item<'a>>,
        header: &Item<'a>,
        section: &str,
        example: &str,
    ) -> Option<(N, Place)>
    where
        N: for<'t> TryFrom<&'t str, Error: ToString>,
    {
        let example = format!("name = {example:?}");
        let Some(item) = item else {
            if !self.broken {
                let fault = self.place(header).error(format!("a [[{section}]] without a name"));
                self.fault(fault.help(format!("add a line as in {example}")));
            }
            return None;
        };
        let Some(text) = item.get_ref().as_str() else {
            self.wrong_type("name", item, "a string", &example);
            return None;
        };
        let place = self.place(item);
        match N::try_from(text) {
            Ok(name) => Some((name, place)),
            Err(error) => {
                self.fault(place.error(error.to_string()));
                None
            }
        }
    }

    fn assignment(&mut self, key: Key, shape: Shape, item: &Item<'a>, into: &mut Vec<Assignment>) {
        if shape == Shape::Texts {
            let texts = self.texts(item, &|| (key.toml(), written(key)));
            return into.extend(texts.into_iter().map(|(text, place)| Assignment { key, text, place }));
        }
        let place = self.place(item);
        let text = match (shape, item.get_ref()) {
            (Shape::Text | Shape::Mode | Shape::Value, DeValue::String(text)) => text.to_string(),
            (Shape::Number | Shape::Value, DeValue::Integer(number)) if number.radix() == 10 => {
                number.as_str().to_owned()
            }
            // Marks are mostly written so.
            (Shape::Number | Shape::Value, DeValue::Integer(number)) if number.radix() == 16 => {
                format!("0x{}", number.as_str())
            }
            // 660 without "0o" would be another mode than the one that is meant.
            (Shape::Mode, DeValue::Integer(number)) if number.radix() == 8 => number.as_str().to_owned(),
            (Shape::Flag, DeValue::Boolean(flag)) => flag.to_string(),
            (shape, _) => {
                let wanted = match shape {
                    Shape::Texts | Shape::Text => "a string",
                    Shape::Number => "a decimal integer",
                    Shape::Value => "an integer or a string",
                    Shape::Flag => "true or false",
                    Shape::Mode => "a string of octal digits",
                };
                return self.wrong_type(key.toml(), item, wanted, &written(key));
            }
        };
        into.push(Assignment { key, text, place });
    }

    /// A string, or a list of them, each with its place. `what` gives the key and an example, for faults.
    fn texts(&mut self, item: &Item<'a>, what: &dyn Fn() -> (&'static str, String)) -> Vec<(String, Place)> {
        let items: Vec<&Item<'a>> = match item.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![item],
        };
        if items.len() > MAX_ENDPOINTS {
            let fault =
                self.place(item).error(format!("{:?} has more than {MAX_ENDPOINTS} elements", what().0));
            self.fault(fault.help("use ranges of ports, or several listeners"));
            return Vec::new();
        }
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref().as_str() {
                Some(text) => texts.push((text.to_owned(), self.place(item))),
                None => {
                    let (key, example) = what();
                    self.wrong_type(key, item, "strings", &example);
                }
            }
        }
        texts
    }
}

fn with_article(kind: &str) -> String {
    match kind {
        "integer" | "array" => format!("an {kind}"),
        kind => format!("a {kind}"),
    }
}

/// As a line of a file.
fn written(key: Key) -> String {
    format!("{key} = {}", example(key))
}

fn example(key: Key) -> &'static str {
    match key {
        Key::Stream => "[\"127.0.0.1:80\", \"/run/web.sock\"]",
        Key::Datagram => "[\"127.0.0.1:53\"]",
        Key::SeqPacket => "[\"/run/web.sock\"]",
        Key::Allow => "[\"unit:nginx.service\", \"user:deploy\"]",
        Key::Idle => "\"queue 30s\"",
        Key::Activate => "\"nginx.service\"",
        Key::Backlog => "512",
        Key::FreeBind => "false",
        Key::BindIpv6Only => "\"ipv6-only\"",
        Key::BindToDevice => "\"eth0\"",
        Key::SocketMode => "\"0660\"",
        Key::SocketUser | Key::SocketGroup => "\"www-data\"",
        Key::DirectoryMode => "\"0755\"",
        Key::Protocol => "\"mptcp\"",
        Key::Symlinks => "[\"/run/other.sock\"]",
        Key::RemoveOnStop => "true",
        Key::Tune(tunable) => tunable.example(),
        Key::ReusePort => "4",
    }
}

#[cfg(test)]
#[path = "toml_tests.rs"]
mod tests;
