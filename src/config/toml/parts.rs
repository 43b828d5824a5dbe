//! Reads a long file in parts, so that the parser needs little memory at a time and always the same.
//!
//! A file of ten thousand listeners has half a megabyte, and the parser makes some forty of it. Fresh memory takes the
//! kernel as long to give as the rest takes.
//!
//! What is read so is what the whole file says, for these reasons:
//! - a part ends before a line that begins with `[[listener]]`, and is read only if it is valid TOML by itself. So no
//!   string and no list is open at its end, and that line is a header and nothing else;
//! - a header makes all that follows independent of what was before it, but for tables that are there already: a file
//!   with a section in two parts is not read so, nor one that begins with a list called `listener`.
//!
//! And where there is an error the file is read as a whole, which says what.

use super::{Parsed, Places, Reader, TomlFile};
use crate::config::{Accounts, Fault, SharedPath};
use std::collections::HashSet;
use toml::de::DeTable;

/// What each part but the first begins with.
const HEADER: &str = "[[listener]]";
const LISTENER: &str = "listener";

/// A part is about that long, in bytes: some three hundred listeners.
const LENGTH: usize = 16 * 1024;

/// What the file says; `None` where it has to be read as a whole.
pub(super) fn read(file: &TomlFile, accounts: &Accounts, faults: &mut Vec<Fault>) -> Option<Parsed> {
    if file.text.len() <= LENGTH {
        return None;
    }
    let path = SharedPath::from(file.path.as_path());
    let (mut parsed, mut own) = (Parsed::default(), Vec::new());
    let (mut sections, mut lines) = (HashSet::new(), 0_usize);
    for (n, part) in split(&file.text).enumerate() {
        let table = DeTable::parse(part).ok()?;
        for name in table.get_ref().keys().map(|name| name.get_ref().as_ref()) {
            let known = if name == LISTENER { n == 0 } else { !sections.insert(name.to_owned()) };
            if known {
                return None;
            }
        }
        let places = Places::new(path.clone(), part, lines);
        lines = lines.saturating_add(places.lines.len().saturating_sub(1));
        let mut reader = Reader { places, accounts, faults: &mut own, parsed, broken: false };
        reader.file(table.get_ref());
        parsed = reader.parsed;
        if own.iter().any(Fault::is_error) {
            return None;
        }
    }
    faults.append(&mut own);
    Some(parsed)
}

/// What is before the first header, which may be nothing, and then parts that begin with one each.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    let mut least = 0;
    std::iter::from_fn(move || {
        let text = rest?;
        let (part, after) = text.split_at_checked(end(text, std::mem::replace(&mut least, LENGTH)))?;
        rest = Some(after).filter(|after| !after.is_empty());
        Some(part)
    })
}

/// Where the first header is that a line begins with, at least so far into the text; else its end.
fn end(text: &str, least: usize) -> usize {
    if least == 0 && text.starts_with(HEADER) {
        return 0;
    }
    let from = (least..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let found = text.get(from..).into_iter().flat_map(|rest| rest.match_indices(HEADER));
    let mut ends = found.map(|(at, _)| from.saturating_add(at));
    let begins_a_line = |end: &usize| text.get(..*end).is_some_and(|before| before.ends_with('\n'));
    ends.find(begins_a_line).unwrap_or(text.len())
}

#[cfg(test)]
#[path = "parts_tests.rs"]
mod tests;
