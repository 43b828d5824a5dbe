//! The form of what is printed: one JSON document on one line, or text, in colour where a person reads it, and in a
//! pager where it is longer than the terminal.
//!
//! Names of processes and files come from others; [`printable`] keeps them from talking to the terminal.

use crate::failure::Failure;
use crate::{pager, terminal};
use ratatui::style::{Color, Modifier, Style};
use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    colour: bool,
    colour_errors: bool,
    pages: bool,
}

/// Whether what is longer than the terminal is shown in a pager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    OnATerminal,
    Never,
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

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn paint(&self) -> Paint {
        self.paint
    }

    /// How many columns it takes.
    pub(crate) fn width(&self) -> usize {
        self.text.width()
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

    /// The same for a screen.
    pub(crate) fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Heading => Style::new().add_modifier(Modifier::BOLD),
            Self::Good => Style::new().fg(Color::Green),
            Self::Waiting => Style::new().fg(Color::Yellow),
            Self::Bad => Style::new().fg(Color::Red),
        }
    }
}

impl Output {
    pub(crate) fn new(json: bool, pages: Pages) -> Self {
        let (wanted, is_terminal) = (terminal::wants_colours(), io::stdout().is_terminal());
        Self {
            json,
            colour: is_terminal && wanted,
            colour_errors: io::stderr().is_terminal() && wanted,
            pages: is_terminal && pages == Pages::OnATerminal && !json && !terminal::is_dumb(),
        }
    }

    /// Whether one line of JSON is wanted.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Whether what is written to standard output may have colours.
    pub(crate) fn colours(self) -> bool {
        self.colour
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
        let is_long = || document.lines().count() >= usize::from(terminal::size().1);
        if self.pages && is_long() && pager::show(&document) {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(document.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::Output)
    }

    /// Aligned columns; the last one is as long as it is.
    pub(crate) fn table(self, rows: &[Vec<Cell>]) -> String {
        let mut widths: Vec<usize> = Vec::new();
        for row in rows {
            for (column, cell) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
                let width = cell.width();
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
                let padding = width.saturating_sub(cell.width());
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

/// As much of a text as so many columns take. A letter of two columns that has room for one is left out.
pub(crate) fn cut(text: &str, columns: usize) -> &str {
    let mut taken = 0;
    let end = text.char_indices().find(|(_, c)| {
        taken += c.width().unwrap_or_default();
        taken > columns
    });
    end.and_then(|(at, _)| text.get(..at)).unwrap_or(text)
}

/// `55 s`, `12 min`, `3 h`, `9 d`.
pub(crate) fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Output = Output { json: false, colour: false, colour_errors: false, pages: false };

    fn rows() -> Vec<Vec<Cell>> {
        let row = |texts: [&str; 3]| texts.map(Cell::plain).to_vec();
        vec![row(["NAME", "STATE", "SOCKETS"]), row(["mysql", "up", "tcp 1"]), row(["a", "", ""])]
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_blanks_at_their_end() {
        let text = PLAIN.table(&rows());
        assert_eq!(text, "NAME   STATE  SOCKETS\nmysql  up     tcp 1\na\n");
    }

    #[test]
    fn colour_does_not_move_columns() {
        let cell = |paint| vec![Cell::new("up", paint), Cell::plain("x")];
        let text = Output { colour: true, ..PLAIN }.table(&[cell(Paint::Good), cell(Paint::Plain)]);
        assert_eq!(text, "\x1b[32mup\x1b[0m  x\nup  x\n");
    }

    #[test]
    fn columns_are_as_wide_as_a_terminal_shows_them() {
        let row = |name: &str| vec![Cell::plain(name), Cell::plain("x")];
        let text = PLAIN.table(&[row("端口"), row("e\u{301}t\u{301}"), row("abcd")]);
        assert_eq!(text, "端口  x\ne\u{301}t\u{301}    x\nabcd  x\n");
        assert_eq!((cut("端口", 3), cut("端口", 4), cut("abc", 0), cut("abc", 9)), ("端", "端口", "", "abc"));
    }

    #[test]
    fn times_are_short() {
        let spans = [0, 119, 120, 7_199, 7_200, 172_800].map(|s| span(Duration::from_secs(s)));
        assert_eq!(spans, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }

    #[test]
    fn what_others_name_their_processes_does_not_reach_the_terminal() {
        assert_eq!(printable("evil\x1b[2J[7]"), "evil\\u{1b}[2J[7]");
        assert_eq!(printable("two\nlines"), "two\nlines");
        assert!(matches!(printable("web"), Cow::Borrowed("web")));
    }
}
