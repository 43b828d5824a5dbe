//! What is wrong with a host's ports: a picture of the host in, findings out.
//!
//! Pure: everything that is looked at is in the [`Picture`], and whoever makes one says what could not be seen. What always
//! holds:
//! - A finding says what is wrong, on what, by which evidence, and what mends it.
//! - The worst come first, and the order of the picture's parts makes no difference.
//! - What is not known is no finding: a host of which nothing can be seen has none.
//!
//! It must not know what time it is, nor ask anybody: the command line gathers.

mod agreement;
mod destinations;
mod finding;
mod host;
mod listeners;
mod picture;
mod ports;
#[cfg(test)]
mod tests;

pub use destinations::{Crowded, crowded};
pub use finding::{Finding, Severity};
pub use picture::{Broker, Network, Picture};

/// Everything that is wrong, the worst first.
#[must_use]
pub fn findings(picture: &Picture) -> Vec<Finding> {
    let mut found = host::findings(picture);
    found.extend(ports::findings(picture));
    found.extend(destinations::findings(picture));
    found.extend(agreement::findings(picture));
    found.extend(listeners::findings(picture));
    found.sort_by(|a, b| (b.severity, a.code, &a.subject).cmp(&(a.severity, b.code, &b.subject)));
    found
}

/// Whether anything of it is more than a remark.
#[must_use]
pub fn is_wrong(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity > Severity::Note)
}
