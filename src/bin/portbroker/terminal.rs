//! What the terminal is like: how large, and which letters it shows.
//!
//! A terminal that says nothing of its size counts as one of 80 × 24.

use std::ffi::OsString;

/// What a terminal has that does not say it.
const USUAL: (u16, u16) = (80, 24);

/// Columns and rows.
pub(crate) fn size() -> (u16, u16) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok()).filter(|n| *n > 0);
    (number("COLUMNS").unwrap_or(USUAL.0), number("LINES").unwrap_or(USUAL.1))
}

/// Whether it shows letters beyond ASCII, by locale(7).
pub(crate) fn is_utf8() -> bool {
    says_utf8(|name| std::env::var_os(name))
}

fn says_utf8(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let mut set = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable);
    let locale = set.find(|value| !value.is_empty()).unwrap_or_default();
    let locale = locale.to_string_lossy().to_ascii_lowercase();
    locale.ends_with("utf-8") || locale.ends_with("utf8")
}
