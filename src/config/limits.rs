//! `[limits]`: how much of the broker one user may have, and all users together.
//!
//! One table says of each limit its key, its default and what it may be; reading, showing and counting go by it.

use super::fault::{Fault, Place, quoted};
use super::span;
use super::tuning;
use std::time::Duration;

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Connections to the private socket that a user has at a time.
    ConnectionsPerUser,
    /// The same of all users but root.
    Connections,
    /// Calls of a user that wait for their turn, or are in the works.
    CallsPerUser,
    /// Descriptors that were sent to a user, or to a unit, and not read.
    UnreadDescriptorsPerUser,
    /// The same of all.
    UnreadDescriptors,
    /// Bytes of replies that a user has not read, in the broker's own memory.
    UnreadBytesPerUser,
    /// The same of all.
    UnreadBytes,
    /// How long a connection may leave unread what was sent to it.
    UnreadTime,
    /// Lines of the log on behalf of a user or a unit, in [`LOG_SPAN`].
    LogLinesPerUser,
    /// Bytes of lines that wait while the log takes none.
    LogBuffer,
    /// Processes of a user, or of a unit, that were handed listeners and live: each takes a descriptor.
    HoldersPerUser,
}

/// The time in which lines of the log are counted.
pub const LOG_SPAN: Duration = Duration::from_secs(10);

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Count,
    /// In bytes.
    Size,
    /// In milliseconds.
    Time,
}

struct Row {
    limit: Limit,
    key: &'static str,
    form: Form,
    default: u64,
    least: u64,
    most: u64,
}

const fn row(limit: Limit, key: &'static str, form: Form, default: u64, least: u64, most: u64) -> Row {
    Row { limit, key, form, default, least, most }
}

const MIB: u64 = 1 << 20;

/// In the order of the enumeration.
const ROWS: [Row; 11] = [
    row(Limit::ConnectionsPerUser, "connections-per-user", Form::Count, 128, 1, 65_536),
    row(Limit::Connections, "connections", Form::Count, 4096, 1, 1_048_576),
    row(Limit::CallsPerUser, "calls-per-user", Form::Count, 8, 1, 1024),
    // One message has up to 253.
    row(Limit::UnreadDescriptorsPerUser, "unread-descriptors-per-user", Form::Count, 2048, 16, 1_048_576),
    row(Limit::UnreadDescriptors, "unread-descriptors", Form::Count, 65_536, 64, 1_048_576),
    row(Limit::UnreadBytesPerUser, "unread-bytes-per-user", Form::Size, 16 * MIB, 64 << 10, 1024 * MIB),
    row(Limit::UnreadBytes, "unread-bytes", Form::Size, 64 * MIB, 64 << 10, 1024 * MIB),
    row(Limit::UnreadTime, "unread-time", Form::Time, 30_000, 1000, 3_600_000),
    row(Limit::LogLinesPerUser, "log-lines-per-user", Form::Count, 100, 1, 1_000_000),
    row(Limit::LogBuffer, "log-buffer", Form::Size, MIB, 64 << 10, 1024 * MIB),
    row(Limit::HoldersPerUser, "holders-per-user", Form::Count, 1024, 16, 65_536),
];

impl Limit {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().map(|row| row.limit)
    }

    fn row(self) -> &'static Row {
        // A test holds that each has one.
        ROWS.iter().find(|row| row.limit == self).unwrap_or(const { &ROWS[0] })
    }

    /// Its key in `[limits]`, and in `status`.
    #[must_use]
    pub fn key(self) -> &'static str {
        self.row().key
    }

    /// The limit of this key.
    #[must_use]
    pub fn of_key(key: &str) -> Option<Self> {
        ROWS.iter().find(|row| row.key == key).map(|row| row.limit)
    }

    /// What it is where nobody sets it.
    #[must_use]
    pub fn default_value(self) -> u64 {
        self.row().default
    }

    /// What it may be.
    #[must_use]
    pub fn range(self) -> (u64, u64) {
        (self.row().least, self.row().most)
    }

    /// A value as it is written in TOML: a number, or a string in quotes.
    #[must_use]
    pub fn written(self, value: u64) -> String {
        match self.row().form {
            Form::Count => value.to_string(),
            Form::Size => match value {
                value if value.is_multiple_of(MIB) => format!("\"{}M\"", value / MIB),
                value if value.is_multiple_of(1024) => format!("\"{}K\"", value / 1024),
                value => value.to_string(),
            },
            Form::Time if value.is_multiple_of(1000) => format!("\"{}s\"", value / 1000),
            Form::Time => format!("\"{value}ms\""),
        }
    }

    /// An example of how it is written.
    pub(super) fn example(self) -> String {
        format!("{} = {}", self.key(), self.written(self.default_value()))
    }

    pub(super) fn read(self, text: &str, place: &Place) -> Result<u64, Fault> {
        let Row { key, form, least, most, .. } = self.row();
        let value = match form {
            Form::Count => text.parse().ok(),
            Form::Size => tuning::size(text).map(u64::from),
            Form::Time => span::read(text).and_then(|time| u64::try_from(time.as_millis()).ok()),
        };
        value.filter(|value| (least..=most).contains(&value)).ok_or_else(|| {
            let (least, most) = (self.written(*least), self.written(*most));
            let fault =
                place.error(format!("{} is nothing for {key}: it takes {least} to {most}", quoted(text)));
            fault.help(format!("write it as in {}", self.example()))
        })
    }

    /// Whether it takes a bare number only.
    pub(super) fn is_count(self) -> bool {
        self.row().form == Form::Count
    }
}

/// The value of every limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits([u64; ROWS.len()]);

impl Default for Limits {
    fn default() -> Self {
        Self(std::array::from_fn(|n| ROWS.get(n).map_or(0, |row| row.default)))
    }
}

impl Limits {
    /// One of them; times are in milliseconds.
    #[must_use]
    pub fn get(&self, limit: Limit) -> u64 {
        let values = ROWS.iter().zip(&self.0);
        values.into_iter().find(|(row, _)| row.limit == limit).map_or(0, |(_, value)| *value)
    }

    /// With another value for one of them.
    #[must_use]
    pub fn with(mut self, limit: Limit, value: u64) -> Self {
        for (row, slot) in ROWS.iter().zip(&mut self.0) {
            if row.limit == limit {
                *slot = value;
            }
        }
        self
    }

    /// Those that are not the default.
    pub fn set(&self) -> impl Iterator<Item = (Limit, u64)> {
        let all = ROWS.iter().zip(self.0);
        all.filter(|(row, value)| row.default != *value).map(|(row, value)| (row.limit, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Checked, Sources, TomlFile, build, show};

    fn read(text: &str) -> Checked {
        let files = vec![TomlFile { path: "/x.toml".into(), text: text.into() }];
        build(&Sources { files, inherited: Some(Vec::new()), ..Sources::default() })
    }

    fn faults(text: &str) -> Vec<String> {
        read(text).faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_limit_has_a_row_and_its_default_is_one_that_may_be_written() {
        for (n, row) in ROWS.iter().enumerate() {
            assert_eq!(Limit::all().nth(n), Some(row.limit));
            assert_eq!(Limit::of_key(row.key), Some(row.limit));
            let text = format!("[limits]\n{}", row.limit.example());
            assert_eq!(faults(&text), [""; 0]);
            assert_eq!(read(&text).config.limits, Limits::default());
            for value in [row.least, row.most] {
                let text = format!("[limits]\n{} = {}", row.key, row.limit.written(value));
                assert_eq!(read(&text).config.limits.get(row.limit), value, "{text}");
            }
        }
    }

    #[test]
    fn what_is_out_of_range_or_no_value_is_refused_with_the_range() {
        for (text, fault) in [
            ("connections = 0", "it takes 1 to 1048576"),
            ("unread-descriptors-per-user = 15", "it takes 16 to 1048576"),
            ("unread-time = \"2h\"", "it takes \"1s\" to \"3600s\""),
            ("unread-bytes = \"1T\"", "it takes \"64K\" to \"1024M\""),
            ("connections = \"many\"", "takes a decimal integer"),
            ("unread-time = true", "takes an integer or a string"),
            ("conections = 1", "did you mean \"connections\"?"),
        ] {
            let faults = faults(&format!("[limits]\n{text}"));
            assert!(faults.len() == 1 && faults[0].contains(fault), "{text}: {faults:?}");
        }
        assert!(faults("limits = 5")[0].contains("takes a table"));
    }

    #[test]
    fn of_several_files_the_last_word_counts_and_is_shown_with_its_place() {
        let file = |path: &str, text: &str| TomlFile { path: path.into(), text: text.into() };
        let files = vec![
            file("/a.toml", "[limits]\nconnections = 5\nunread-time = \"1min\""),
            file("/b.toml", "[limits]\nconnections = 6"),
        ];
        let checked = build(&Sources { files, ..Sources::default() });
        assert_eq!(checked.config.limits.get(Limit::Connections), 6);
        assert_eq!(checked.config.limits.get(Limit::UnreadTime), 60_000);
        let shown = show::config_toml(&checked);
        let line = |key: &str| shown.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
        assert!(line("connections =").ends_with("# /b.toml:2:15"), "{shown}");
        assert!(line("calls-per-user").ends_with("# default"), "{shown}");
        let kept = read(&show::to_toml(&checked.config));
        assert_eq!(kept.config.limits, checked.config.limits, "the last good one has them");
        let json = show::config_json(&checked);
        assert_eq!(json["limits"]["values"].as_array().unwrap().len(), ROWS.len());
    }
}
