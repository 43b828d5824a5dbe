//! Reads one unit file as systemd's `config_parse()` does (src/shared/conf-parser.c, 252).
//!
//! What systemd ignores is ignored; it is a fault only where it stands in our own section, or where it
//! makes systemd give up on the file. Nothing is expanded or unquoted, and no key is known here.

use super::{SECTION, Setting};
use crate::config::{Fault, Origin};
use crate::model::UnitName;
use std::ops::ControlFlow;
use std::path::Path;

/// The longest line, continuations joined: systemd's `LONG_LINE_MAX`.
pub const MAX_LINE: usize = 1024 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The settings of a unit file in the order in which they stand there, and what is wrong with it.
///
/// `unit` is the unit that the file is read for; it is kept in each origin.
#[must_use]
pub fn parse(file: &Path, unit: Option<&UnitName>, text: &[u8]) -> (Vec<Setting>, Vec<Fault>) {
    let mut reader = Reader { file, unit, section: String::new(), settings: Vec::new(), faults: Vec::new() };
    // systemd gives up on a file at its first broken header and keeps what was before it.
    for line in logical_lines(text) {
        if reader.line(&line).is_break() {
            break;
        }
    }
    (reader.settings, reader.faults)
}

/// A line after its continuations were joined to it.
#[derive(Debug, Default, PartialEq, Eq)]
struct LogicalLine {
    text: Vec<u8>,
    /// For each line of the file that is in it: where it begins in `text`, and its number from 1.
    pieces: Vec<(usize, usize)>,
}

struct Reader<'a> {
    file: &'a Path,
    unit: Option<&'a UnitName>,
    section: String,
    settings: Vec<Setting>,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn origin(&self, line: &LogicalLine, offset: usize) -> Origin {
        let (begin, number) =
            line.pieces.iter().rfind(|(begin, _)| *begin <= offset).copied().unwrap_or_default();
        Origin { file: self.file.into(), line: number, column: offset - begin + 1, unit: self.unit.cloned() }
    }

    /// Takes one line, and says whether systemd reads on.
    fn line(&mut self, line: &LogicalLine) -> ControlFlow<()> {
        let indent = line.text.iter().take_while(|byte| is_blank(**byte)).count();
        let trimmed = trim(&line.text);
        if trimmed.is_empty() {
            return ControlFlow::Continue(());
        }
        let origin = self.origin(line, indent);
        if line.text.len() > MAX_LINE {
            let fault = Fault::error(origin, format!("the line is longer than {MAX_LINE} bytes"));
            self.faults.push(fault.help("systemd reads no further: split it"));
            return ControlFlow::Break(());
        }
        match std::str::from_utf8(trimmed) {
            Err(_) => self.fault_in_ours(origin, "the line is not UTF-8", "write it in UTF-8, or remove it"),
            Ok(text) if text.starts_with('[') => match header(text) {
                Some(name) => self.section = name,
                None => {
                    let fault = Fault::error(origin, format!("{text:?} is no section header"));
                    self.faults.push(fault.help("systemd reads no further: write it as in \"[Service]\""));
                    return ControlFlow::Break(());
                }
            },
            Ok(text) => self.assignment(text, origin),
        }
        ControlFlow::Continue(())
    }

    fn assignment(&mut self, text: &str, origin: Origin) {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => self.settings.push(Setting {
                section: self.section.clone(),
                key: key.trim_end_matches(BLANKS).to_owned(),
                value: value.trim_start_matches(BLANKS).to_owned(),
                origin,
            }),
            Some(_) => self.fault_in_ours(origin, "there is no key before the \"=\"", "write KEY=VALUE"),
            None => self.fault_in_ours(origin, "the line has no \"=\"", "write KEY=VALUE"),
        }
    }

    /// What systemd ignores in other sections was meant to be something in this one.
    fn fault_in_ours(&mut self, origin: Origin, message: &str, help: &str) {
        if self.section == SECTION {
            self.faults.push(Fault::error(origin, message).help(help));
        }
    }
}

const BLANKS: [char; 4] = [' ', '\t', '\n', '\r'];

fn is_blank(byte: u8) -> bool {
    BLANKS.contains(&char::from(byte))
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_blank(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_blank(*last)
    {
        text = rest;
    }
    text
}

/// The name in `[NAME]`; none where systemd's `string_is_safe()` does not like it.
fn header(text: &str) -> Option<String> {
    let name = text.strip_prefix('[')?.strip_suffix(']')?;
    let safe = !name.chars().any(|c| c.is_ascii_control() || matches!(c, '"' | '\'' | '\\'));
    safe.then(|| name.to_owned())
}

/// Joins what ends with `\` to the next line, a space in place of the `\`. Comments are left out, also
/// between the parts of a line: there they neither end it nor take a `\`.
fn logical_lines(text: &[u8]) -> Vec<LogicalLine> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let mut lines = Vec::new();
    let mut joined = LogicalLine::default();
    for (index, physical) in physical_lines(text).enumerate() {
        if matches!(trim(physical).first(), Some(b'#' | b';')) {
            continue;
        }
        joined.pieces.push((joined.text.len(), index + 1));
        joined.text.extend_from_slice(physical);
        if continues(physical) {
            if let Some(last) = joined.text.last_mut() {
                *last = b' ';
            }
        } else {
            lines.push(std::mem::take(&mut joined));
        }
    }
    if !joined.pieces.is_empty() {
        lines.push(joined);
    }
    lines
}

/// A `\` at the end that no other one escapes.
fn continues(line: &[u8]) -> bool {
    line.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// Lines as systemd's `read_line()` ends them: by LF, CR, NUL, or LF and CR together in either order.
fn physical_lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r' | 0)).unwrap_or(rest.len());
        let (line, after) = rest.split_at_checked(end)?;
        let ending = match after {
            [b'\n', b'\r', ..] | [b'\r', b'\n', ..] => 2,
            [] => 0,
            _ => 1,
        };
        rest = after.get(ending..)?;
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<(String, String, String)> {
        let (settings, _) = parse(Path::new("a.service"), None, text.as_bytes());
        settings.into_iter().map(|s| (s.section, s.key, s.value)).collect()
    }

    fn pairs(text: &str) -> Vec<(String, String)> {
        read(text).into_iter().map(|(_, key, value)| (key, value)).collect()
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn settings_belong_to_the_section_above_them() {
        let text = "A=0\n[Unit]\nA=1\n[X-PortBroker]\nB = two words \n[Unit]\nC=\n";
        let found = read(text);
        let sections: Vec<_> = found.iter().map(|(section, _, _)| section.as_str()).collect();
        assert_eq!(sections, ["", "Unit", "X-PortBroker", "Unit"]);
        assert_eq!(found[2].2, "two words");
        assert_eq!(found[3].2, "");
    }

    #[test]
    fn a_line_goes_on_after_a_backslash() {
        assert_eq!(pairs("A=1 \\\n  2\\\n3\nB=4"), [pair("A", "1    2 3"), pair("B", "4")]);
        assert_eq!(pairs("A=x\\\\\nB=y"), [pair("A", "x\\\\"), pair("B", "y")]);
        assert_eq!(pairs("A=1\\\n"), [pair("A", "1")]);
        assert_eq!(pairs("A=1 \\\n\nB=2"), [pair("A", "1"), pair("B", "2")]);
    }

    #[test]
    fn comments_may_stand_between_the_parts_of_a_line() {
        assert_eq!(pairs("A=1\\\n# no \\\n  ; nor this\n2\nB=3"), [pair("A", "1 2"), pair("B", "3")]);
        assert_eq!(pairs(";A=1\n  #B=2\nC=3#4"), [pair("C", "3#4")]);
        assert_eq!(pairs("# x \\\nA=1"), [pair("A", "1")]);
    }

    #[test]
    fn quotes_and_equal_signs_are_left_alone() {
        assert_eq!(pairs("A=\"x=y\" 'z'"), [pair("A", "\"x=y\" 'z'")]);
    }

    #[test]
    fn every_kind_of_line_end_ends_a_line() {
        assert_eq!(pairs("A=1\r\nB=2\n\rC=3\rD=4\0E=5").len(), 5);
        assert_eq!(pairs("\u{feff}A=1"), [pair("A", "1")]);
    }

    #[test]
    fn an_origin_is_where_the_key_begins() {
        let text = "[X-PortBroker]\n\n  ListenStream=1\n\\\n#\nListenStream=2\n";
        let (settings, _) = parse(Path::new("/a.service"), None, text.as_bytes());
        let places: Vec<_> = settings.iter().map(|s| (s.origin.line, s.origin.column)).collect();
        assert_eq!(places, [(3, 3), (6, 1)]);
        assert_eq!(settings[0].origin.file, "/a.service".into());
    }

    #[test]
    fn what_systemd_ignores_is_a_fault_in_our_section_only() {
        let faults = |text: &[u8]| {
            let (_, faults) = parse(Path::new("a"), None, text);
            faults.iter().map(|f| f.origin.line).collect::<Vec<_>>()
        };
        assert_eq!(faults(b"[Service]\nnonsense\n=x\n\xff=1\n"), Vec::<usize>::new());
        assert_eq!(faults(b"[X-PortBroker]\nListenStream 80\n=x\nA=\xff\n"), [2, 3, 4]);
    }

    #[test]
    fn a_broken_header_ends_the_file_as_it_does_for_systemd() {
        let (settings, faults) = parse(Path::new("a"), None, b"A=1\n[Service\nB=2\n");
        assert_eq!((settings.len(), faults.len()), (1, 1));
        assert!(faults[0].is_error() && faults[0].origin.line == 2);
        for text in ["[a\"b]", "[a\\b]", "["] {
            assert_eq!(parse(Path::new("a"), None, text.as_bytes()).1.len(), 1, "{text}");
        }
    }

    #[test]
    fn a_line_has_an_end() {
        let text = format!("A={}\nB=1\n", "x".repeat(MAX_LINE));
        let (settings, faults) = parse(Path::new("a"), None, text.as_bytes());
        assert!(settings.is_empty());
        assert_eq!(faults.len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(text in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let (settings, _) = parse(Path::new("a"), None, &text);
            for setting in settings {
                prop_assert!(!setting.key.is_empty());
                prop_assert!(setting.origin.line >= 1 && setting.origin.column >= 1);
            }
        }

        #[test]
        fn unit_like_text_can_be_read(text in "([\\[\\]A-B=\\\\#; \n\r\0é'\"]{0,6}\n?){0,60}") {
            let (settings, _) = parse(Path::new("a"), None, text.as_bytes());
            let lines = physical_lines(text.as_bytes()).count();
            for setting in settings {
                prop_assert!(setting.origin.line <= lines);
            }
        }

        /// Against the plain words of systemd.syntax(7): drop the comment lines, then put a space in
        /// place of every backslash with a line end behind it.
        #[test]
        fn continuations_are_what_the_manual_says(
            parts in proptest::collection::vec(("[a-c=\\[ ]{0,4}", any::<bool>(), any::<bool>()), 0..40)
        ) {
            let mut text = String::new();
            let mut plain = String::new();
            for (part, goes_on, comment) in &parts {
                if *comment {
                    text.push_str(" # x \\\n");
                }
                let end = if *goes_on { "\\\n" } else { "\n" };
                text.push_str(part);
                text.push_str(end);
                plain.push_str(part);
                plain.push_str(if *goes_on { " " } else { "\n" });
            }
            let lines: Vec<String> =
                logical_lines(text.as_bytes()).iter().map(|l| String::from_utf8(l.text.clone()).unwrap()).collect();
            let expected: Vec<&str> = plain.split_terminator('\n').collect();
            prop_assert_eq!(lines, expected);
        }
    }
}
