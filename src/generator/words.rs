//! Words of systemd's unit files: taking values apart, and quoting what goes into a command line.

use std::path::{Component, Path, PathBuf};

/// The words of a value, as `extract_first_word()` takes them with quotes; an unclosed quote ends at the end.
pub(super) fn split(value: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = value.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (None, c) if c.is_ascii_whitespace() => words.extend(word.take()),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (_, '\\') => word.get_or_insert_default().extend(characters.next()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// A word of a value, quoted as systemd reads it back: specifiers, quotes and backslashes escaped.
pub(super) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-_./@=,:".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '%' => quoted.push_str("%%"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The same for a command line, where systemd puts in variables too.
pub(super) fn quote_argument(word: &str) -> String {
    quote(&word.replace('$', "$$"))
}

/// A path without doubled slashes and single dots.
pub(super) fn plain(path: &str) -> PathBuf {
    Path::new(path).components().filter(|part| !matches!(part, Component::CurDir)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_fall_into_words() {
        assert_eq!(split(" a  'b c' \"d\\\"e\"f \\\\ ''"), ["a", "b c", "d\"ef", "\\", ""]);
        assert_eq!(split("'open"), ["open"]);
    }

    proptest! {
        #[test]
        fn a_quoted_word_comes_back(word in "[ -~é]{0,20}") {
            prop_assert_eq!(split(&quote(&word)), [word.replace('%', "%%")]);
        }
    }

    #[test]
    fn variables_of_a_command_line_are_escaped() {
        assert_eq!(quote_argument("web-1"), "web-1");
        assert_eq!(quote_argument("a b$c%d\"e\\"), r#""a b$$c%%d\"e\\""#);
        assert_eq!(quote_argument(""), "\"\"");
    }
}
