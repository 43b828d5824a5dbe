//! A finding.

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing, and no fault.
    Note,
    /// Works, and will not always.
    Warning,
    /// Does not work, or any moment.
    Error,
}

impl Severity {
    /// `error`, `warning`, `note`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something that is wrong with the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Which kind it is, for programs: `service-port-ephemeral`. These stay.
    pub code: &'static str,
    /// What it is about: a port, a destination, a file.
    pub subject: String,
    /// What is wrong, in a sentence.
    pub message: String,
    /// By what one sees it, a line each.
    pub evidence: Vec<String>,
    /// What mends it.
    pub remedy: String,
}

/// More lines of evidence are counted, and not told.
const MOST_EVIDENCE: usize = 12;

impl Finding {
    /// One without evidence.
    pub(super) fn new(
        severity: Severity,
        code: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (subject, message, remedy) = (subject.into(), message.into(), remedy.into());
        Self { severity, code, subject, message, evidence: Vec::new(), remedy }
    }

    /// With what one sees it by.
    pub(super) fn because(mut self, evidence: impl IntoIterator<Item = String>) -> Self {
        self.evidence.extend(evidence);
        let more = self.evidence.len().saturating_sub(MOST_EVIDENCE);
        if more > 0 {
            self.evidence.truncate(MOST_EVIDENCE);
            self.evidence.push(format!("and {more} more"));
        }
        self
    }
}
