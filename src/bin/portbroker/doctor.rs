//! `portbroker doctor`: what is wrong with the ports of this host, by which evidence, and what mends it.
//!
//! Works with a broker and without, as root and without: what could not be seen is said. Changes nothing.

mod gather;

use crate::failure::Failure;
use crate::output::{Cell, Output, Paint, printable};
use crate::terminal;
use gather::{Gathered, gather};
use portbroker::doctor::{Finding, Severity, findings, is_wrong};
use portbroker_client::Broker;
use serde::Serialize;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::ExitCode;

const WRONG: u8 = 1;
/// What belongs to a finding is below its headline.
const INDENT: &str = "  ";
/// A terminal with fewer columns is not worth wrapping for.
const NARROW: usize = 40;

/// The JSON document. `state` is `well` or `wrong`: notes alone are well.
#[derive(Debug, Serialize)]
struct Document<'a> {
    state: &'static str,
    errors: usize,
    warnings: usize,
    findings: Vec<Row<'a>>,
    unseen: &'a [String],
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    severity: &'static str,
    code: &'static str,
    subject: &'a str,
    message: &'a str,
    evidence: &'a [String],
    remedy: &'a str,
}

impl<'a> From<&'a Finding> for Row<'a> {
    fn from(finding: &'a Finding) -> Self {
        let Finding { severity, code, subject, message, evidence, remedy } = finding;
        Self { severity: severity.as_str(), code, subject, message, evidence, remedy }
    }
}

pub(crate) fn run(broker: &Broker, output: Output, root: &Path) -> Result<ExitCode, Failure> {
    let Gathered { picture, unseen } = gather(root, broker);
    let findings = findings(&picture);
    let wrong = is_wrong(&findings);
    let document = Document {
        state: if wrong { "wrong" } else { "well" },
        errors: count(&findings, Severity::Error),
        warnings: count(&findings, Severity::Warning),
        findings: findings.iter().map(Row::from).collect(),
        unseen: &unseen,
    };
    output.print_text(&document, || text(&findings, &unseen, output))?;
    Ok(if wrong { WRONG.into() } else { ExitCode::SUCCESS })
}

fn count(findings: &[Finding], severity: Severity) -> usize {
    findings.iter().filter(|finding| finding.severity == severity).count()
}

fn text(findings: &[Finding], unseen: &[String], output: Output) -> String {
    // What goes into a file or another program is not broken into lines.
    let width =
        io::stdout().is_terminal().then(|| usize::from(terminal::size().0)).filter(|width| *width >= NARROW);
    let mut text = String::new();
    for finding in findings {
        let paint = match finding.severity {
            Severity::Error => Paint::Bad,
            Severity::Warning => Paint::Waiting,
            Severity::Note => Paint::Good,
        };
        let heading = format!("  {} ({})", finding.subject, finding.code);
        text.push_str(
            &output
                .joined(&[Cell::new(finding.severity.as_str(), paint), Cell::new(heading, Paint::Heading)]),
        );
        wrap(&mut text, INDENT, INDENT, &finding.message, width);
        for line in &finding.evidence {
            wrap(&mut text, "  - ", "    ", line, width);
        }
        wrap(&mut text, "  mend: ", "        ", &finding.remedy, width);
        text.push('\n');
    }
    if !unseen.is_empty() {
        text.push_str(&output.joined(&[Cell::new("Not seen", Paint::Heading)]));
        unseen.iter().for_each(|line| wrap(&mut text, "  - ", "    ", line, width));
        text.push('\n');
    }
    text.push_str(&output.joined(&[summary(findings)]));
    text
}

fn summary(findings: &[Finding]) -> Cell {
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let [errors, warnings, notes] =
        [Severity::Error, Severity::Warning, Severity::Note].map(|severity| count(findings, severity));
    let all =
        format!("{}, {}, {}", plural(errors, "error"), plural(warnings, "warning"), plural(notes, "note"));
    match (errors, warnings) {
        (0, 0) => Cell::new(format!("all is well: {all}"), Paint::Good),
        (0, _) => Cell::new(all, Paint::Waiting),
        _ => Cell::new(all, Paint::Bad),
    }
}

/// Adds a text, broken between words where the terminal ends.
fn wrap(into: &mut String, first: &str, next: &str, text: &str, width: Option<usize>) {
    let text = printable(text);
    let Some(width) = width else {
        into.push_str(&format!("{first}{text}\n"));
        return;
    };
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in text.split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > width {
            into.push_str(&line);
            into.push('\n');
            line = next.to_owned();
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    into.push_str(&line);
    into.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_broken_between_words() {
        let wrapped = |text: &str, width| {
            let mut lines = String::new();
            wrap(&mut lines, "- ", "  ", text, width);
            lines
        };
        assert_eq!(wrapped("one two three", Some(9)), "- one two\n  three\n");
        assert_eq!(wrapped("one-very-long-word two", Some(9)), "- one-very-long-word\n  two\n");
        assert_eq!(wrapped("one two three", None), "- one two three\n");
        assert_eq!(wrapped("", Some(9)), "- \n");
        assert_eq!(wrapped("evil\x1b[2J", None), "- evil\\u{1b}[2J\n");
    }
}
