//! The form of what is printed: one JSON document on one line, or text, in colour where a person reads it.
//!
//! Names of processes and files come from others; [`printable`] keeps them from talking to the terminal.

use crate::failure::Failure;
use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
    colour_errors: bool,
}

/// Colours by meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    Plain,
    Heading,
    Good,
    Waiting,
    Bad,
}

/// A piece of a line.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    pub(crate) fn new(text: impl AsRef<str>, paint: Paint) -> Self {
        Self { text: printable(text.as_ref()).into_owned(), paint }
    }

    pub(crate) fn plain(text: impl AsRef<str>) -> Self {
        Self::new(text, Paint::Plain)
    }

    /// Without its colour.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl Paint {
    /// The colour of a state's name.
    pub(crate) fn of_state(state: &str) -> Self {
        match state {
            "running" | "listening" | "ready" | "in-use" | "held" => Self::Good,
            "reserved" | "draining" | "lingering" | "drained" | "cooling" => Self::Waiting,
            _ => Self::Bad,
        }
    }

    fn escape(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Heading => "\x1b[1m",
            Self::Good => "\x1b[32m",
            Self::Waiting => "\x1b[33m",
            Self::Bad => "\x1b[31m",
        }
    }
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        // https://no-color.org: any value but the empty one.
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self {
            json,
            colour: io::stdout().is_terminal() && !unwanted,
            colour_errors: io::stderr().is_terminal() && !unwanted,
        }
    }

    /// Whether what is written to standard error may have colours.
    pub(crate) fn colours_errors(self) -> bool {
        self.colour_errors
    }

    /// Prints a value as JSON, or the lines that `text` makes of it.
    pub(crate) fn print(
        self,
        value: &impl Serialize,
        text: impl FnOnce() -> Vec<Vec<Cell>>,
    ) -> Result<(), Failure> {
        self.print_text(value, || self.table(&text()))
    }

    /// Prints a value as JSON, or the text that `text` makes of it.
    pub(crate) fn print_text(
        self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let mut document = if self.json {
            serde_json::to_string(value).map_err(|error| Failure::Output(error.into()))?
        } else {
            text()
        };
        if self.json {
            document.push('\n');
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(document.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::Output)
    }

    /// Aligned columns; the last one is as long as it is.
    pub(crate) fn table(self, rows: &[Vec<Cell>]) -> String {
        let mut widths: Vec<usize> = Vec::new();
        for row in rows {
            for (column, cell) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
                let width = cell.text.chars().count();
                match widths.get_mut(column) {
                    Some(widest) => *widest = width.max(*widest),
                    None => widths.push(width),
                }
            }
        }
        rows.iter().map(|row| self.line(row, &widths)).collect()
    }

    /// One line of pieces with nothing between them.
    pub(crate) fn joined(self, cells: &[Cell]) -> String {
        let mut line: String = cells.iter().map(|cell| self.painted(cell)).collect();
        line.truncate(line.trim_end_matches(' ').len());
        line.push('\n');
        line
    }

    fn painted(self, cell: &Cell) -> String {
        match cell.paint {
            Paint::Plain => cell.text.clone(),
            paint if self.colour => format!("{}{}\x1b[0m", paint.escape(), cell.text),
            _ => cell.text.clone(),
        }
    }

    fn line(self, row: &[Cell], widths: &[usize]) -> String {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(&self.painted(cell));
            if column + 1 < row.len() {
                let width = widths.get(column).copied().unwrap_or_default();
                let padding = width.saturating_sub(cell.text.chars().count());
                line.push_str(&" ".repeat(padding + 2));
            }
        }
        line.truncate(line.trim_end_matches(' ').len());
        line.push('\n');
        line
    }
}

/// A text without control characters except line ends, which error messages have between faults.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && c != '\n';
    if text.contains(harmful) {
        let escape = |c: char| if harmful(c) { c.escape_default().to_string() } else { c.to_string() };
        text.chars().map(escape).collect()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<Cell>> {
        let row = |texts: [&str; 3]| texts.map(Cell::plain).to_vec();
        vec![row(["NAME", "STATE", "SOCKETS"]), row(["mysql", "up", "tcp 1"]), row(["a", "", ""])]
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_blanks_at_their_end() {
        let text = Output { json: false, colour: false, colour_errors: false }.table(&rows());
        assert_eq!(text, "NAME   STATE  SOCKETS\nmysql  up     tcp 1\na\n");
    }

    #[test]
    fn colour_does_not_move_columns() {
        let cell = |paint| vec![Cell::new("up", paint), Cell::plain("x")];
        let text = Output { json: false, colour: true, colour_errors: false }
            .table(&[cell(Paint::Good), cell(Paint::Plain)]);
        assert_eq!(text, "\x1b[32mup\x1b[0m  x\nup  x\n");
    }

    #[test]
    fn what_others_name_their_processes_does_not_reach_the_terminal() {
        assert_eq!(printable("evil\x1b[2J[7]"), "evil\\u{1b}[2J[7]");
        assert_eq!(printable("two\nlines"), "two\nlines");
        assert!(matches!(printable("web"), Cow::Borrowed("web")));
    }
}
