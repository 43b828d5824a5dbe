//! Faults of the configuration: what is wrong, where, and what to do.
//!
//! A fault keeps no text of the file it is about: whoever shows it gives the text again, and where
//! that has changed meanwhile the fault is shown without its line.

use super::Origin;
use std::fmt;

/// Whether a configuration with this fault can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but does perhaps not do what is meant.
    Warning,
}

/// Something wrong in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// How bad it is.
    pub severity: Severity,
    /// Where it is. Line 0: the file as a whole.
    pub origin: Origin,
    /// How many characters from there on are underlined; 0: to the end of the line.
    pub width: usize,
    /// What is wrong with what.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// Other places that have to do with it, each with what is there.
    pub related: Vec<(Origin, String)>,
}

/// What a fault is about: where it begins and how many characters it has, 0 for the rest of the line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub(super) origin: Origin,
    pub(super) width: usize,
}

impl Place {
    /// An error about it.
    pub(super) fn error(&self, message: impl Into<String>) -> Fault {
        Fault::error(self.origin.clone(), message).width(self.width)
    }

    /// A warning about it.
    pub(super) fn warning(&self, message: impl Into<String>) -> Fault {
        Fault::warning(self.origin.clone(), message).width(self.width)
    }
}

/// A text as it is written in a file, cut to a length that can be shown.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

impl Fault {
    /// An error.
    #[must_use]
    pub fn error(origin: Origin, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            origin,
            width: 0,
            message: message.into(),
            help: None,
            related: Vec::new(),
        }
    }

    /// A warning.
    #[must_use]
    pub fn warning(origin: Origin, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(origin, message) }
    }

    /// The same, with what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same, underlining so many characters.
    #[must_use]
    pub fn width(mut self, width: usize) -> Self {
        self.width = width;
        self
    }

    /// The same, with another place and what is there.
    #[must_use]
    pub fn related(mut self, origin: Origin, what: impl Into<String>) -> Self {
        self.related.push((origin, what.into()));
        self
    }

    /// The one-line form, for logs and the bus: `FILE:LINE:COLUMN: error: MESSAGE; HELP`.
    #[must_use]
    pub fn line(&self) -> String {
        self.to_string()
    }

    /// Whether it makes the configuration unusable.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// `FILE:LINE:COLUMN`, without what is not known; `inherited` for a socket that came from outside.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.file.as_os_str().is_empty() {
            return f.write_str("inherited");
        }
        write!(f, "{}", self.file.display())?;
        match (self.line, self.column) {
            (0, _) => Ok(()),
            (line, 0) => write!(f, ":{line}"),
            (line, column) => write!(f, ":{line}:{column}"),
        }
    }
}

/// One line: `FILE:LINE:COLUMN: error: MESSAGE; HELP (see FILE:LINE:COLUMN: WHAT)`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.origin, self.severity, self.message)?;
        if let Some(help) = &self.help {
            write!(f, "; {help}")?;
        }
        for (origin, what) in &self.related {
            write!(f, " ({origin}: {what})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_one_line_for_logs() {
        let place = |line| Origin { file: "/a.toml".into(), line, column: 3, unit: None };
        let fault = Fault::error(place(2), "two listeners are called \"web\"")
            .help("rename one")
            .related(place(9), "the other");
        assert_eq!(
            fault.to_string(),
            "/a.toml:2:3: error: two listeners are called \"web\"; rename one (/a.toml:9:3: the other)"
        );
        assert_eq!(Fault::warning(place(0), "is odd").to_string(), "/a.toml: warning: is odd");
        assert_eq!(Origin::default().to_string(), "inherited");
    }
}
