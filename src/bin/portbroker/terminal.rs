//! What the terminal is like: how large, whether it takes colours, and which letters.
//!
//! A terminal that says nothing of its size (a serial line, a pty that nobody gave one) counts as one of 80 × 24.

use crate::bar::Letters;
use ratatui::crossterm::terminal::window_size;
use std::ffi::OsString;
use std::io::{self, IsTerminal};

/// What a terminal has that does not say it.
const USUAL: (u16, u16) = (80, 24);

/// Columns and rows.
pub(crate) fn size() -> (u16, u16) {
    let size = window_size().map(|size| (size.columns, size.rows)).unwrap_or_default();
    known(size, |name| std::env::var(name).ok())
}

/// `COLUMNS` and `LINES` go before what is usual, for whoever has a terminal that does not know.
fn known((columns, rows): (u16, u16), variable: impl Fn(&str) -> Option<String>) -> (u16, u16) {
    let instead = |name, usual| match variable(name).and_then(|text| text.parse().ok()) {
        None | Some(0) => usual,
        Some(number) => number,
    };
    (
        if columns > 0 { columns } else { instead("COLUMNS", USUAL.0) },
        if rows > 0 { rows } else { instead("LINES", USUAL.1) },
    )
}

/// How wide what is printed may be where there is no terminal.
pub(crate) fn usual_width() -> u16 {
    known((0, 1), |name| std::env::var(name).ok()).0
}

/// Whether colours are wanted where there is a terminal. <https://no-color.org>: any value but the empty one.
pub(crate) fn wants_colours() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !is_set("NO_COLOR") && !is_dumb()
}

/// Whether it can do no more than print one letter after the other.
pub(crate) fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|value| value.is_empty() || value == "dumb")
}

/// The letters that it shows, by locale(7).
pub(crate) fn letters() -> Letters {
    if says_utf8(|name| std::env::var_os(name)) { Letters::Unicode } else { Letters::Ascii }
}

fn says_utf8(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let mut set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable);
    let locale = set.find(|value| !value.is_empty()).unwrap_or_default();
    let locale = locale.to_string_lossy().to_ascii_lowercase();
    locale.ends_with("utf-8") || locale.ends_with("utf8")
}

/// Whether a person sees what is written to standard error, and as it changes.
pub(crate) fn has_live_errors() -> bool {
    io::stderr().is_terminal() && !is_dumb()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_without_a_size_has_the_usual_one() {
        assert_eq!(known((0, 0), |_| None), (80, 24));
        assert_eq!(known((0, 50), |name| (name == "COLUMNS").then(|| "132".into())), (132, 50));
        assert_eq!(known((0, 0), |_| Some("0".into())), (80, 24));
        assert_eq!(known((0, 0), |_| Some("wide".into())), (80, 24));
        assert_eq!(known((7, 3), |_| Some("99".into())), (7, 3));
    }

    #[test]
    fn the_first_variable_of_the_locale_that_is_set_decides() {
        let says = |set: &[(&str, &str)]| {
            says_utf8(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
        };
        assert!(says(&[("LANG", "en_GB.UTF-8")]) && says(&[("LC_CTYPE", "C.utf8")]));
        assert!(!says(&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8")]));
        assert!(says(&[("LC_ALL", ""), ("LANG", "de_DE.UTF-8")]));
        assert!(!says(&[]) && !says(&[("LANG", "de_DE.ISO-8859-1")]));
    }
}
