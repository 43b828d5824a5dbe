//! What went wrong, as an exit status (those of sysexits.h where they fit) and a line on standard error.

use crate::output;
use crate::store::StoreError;
use portbroker::kernel::reserved_ports::ReservedPortsError;
use portbroker::plan::{LoadError, PlanError};
use portbroker_client::Error;
use portbroker_client::wire::ErrorName;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

pub(crate) const FAILED: u8 = 1;
/// As clap's.
const USAGE: u8 = 2;
/// `EX_UNAVAILABLE`
const NOT_REACHABLE: u8 = 69;
/// `EX_NOPERM`
const NOT_ALLOWED: u8 = 77;
/// `EX_CONFIG`
pub(crate) const CONFIGURATION: u8 = 78;

/// Why a verb could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The broker, or the way to it.
    #[error(transparent)]
    Broker(#[from] Error),
    /// The unit's descriptor store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Sockets came that were asked for after a reload that failed.
    #[error(
        "{unknown}; the unit may be newer than the broker's configuration, but reloading it failed: {reload}"
    )]
    Reload {
        /// What the broker said of the names.
        unknown: Error,
        /// What it said of its configuration.
        reload: Error,
    },
    /// A directory for manual pages.
    #[error("cannot write manual pages into {}: {source}", directory.display())]
    Manual {
        /// The directory.
        directory: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A live view of no terminal.
    #[error(
        "top needs a terminal on standard input and output: \"portbroker top --once\" prints one picture"
    )]
    NoTerminal,
    /// The sockets of this host.
    #[error("cannot look at the sockets of this host: {0}")]
    Scan(io::Error),
    /// What a broker closes is in its own network namespace.
    #[error(
        "the broker sees nothing on port {0}, and here something is: it is in another network namespace, and closes nothing \
         in this one"
    )]
    Elsewhere(u16),
    /// Numbers that are no load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// No plan for a load.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The kernel's range of ports.
    #[error("{0}; say which range it is with --range")]
    Range(#[from] ReservedPortsError),
    /// Standard output.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

/// A runtime could not be made.
pub(crate) fn no_runtime(error: io::Error) -> Failure {
    Failure::Broker(Error::Runtime(error))
}

impl Failure {
    fn status(&self) -> u8 {
        match self {
            Self::Broker(error) | Self::Reload { reload: error, .. } => status_of(error),
            Self::NoTerminal | Self::Load(_) => USAGE,
            Self::Store(_)
            | Self::Manual { .. }
            | Self::Scan(_)
            | Self::Elsewhere(_)
            | Self::Plan(_)
            | Self::Range(_)
            | Self::Output(_) => FAILED,
        }
    }

    /// Says it, and gives the exit status.
    pub(crate) fn report(&self) -> ExitCode {
        // A reader that has seen enough (`| head`) is no failure.
        if matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        complain(&self.to_string());
        self.status().into()
    }
}

fn status_of(error: &Error) -> u8 {
    match error {
        Error::NotReachable { .. } => NOT_REACHABLE,
        Error::Forbidden { .. }
        | Error::AuthenticationRequired { .. }
        | Error::Refused { name: ErrorName::NotAllowed, .. } => NOT_ALLOWED,
        Error::Refused { name: ErrorName::InvalidConfiguration, .. } => CONFIGURATION,
        _ => FAILED,
    }
}

/// A message on standard error; where that is closed there is nobody to tell.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "{}", output::printable(message));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_status_tells_what_kind_of_failure_it_was() {
        let refused = |name| status_of(&Error::Refused { name, message: String::new() });
        assert_eq!(refused(ErrorName::NotAllowed), 77);
        assert_eq!(refused(ErrorName::InvalidConfiguration), 78);
        assert_eq!(refused(ErrorName::NoSuchListener), 1);
        assert_eq!(status_of(&Error::NotReachable { tried: String::new() }), 69);
        let forbidden = Error::Forbidden { place: String::new(), reason: String::new() };
        assert_eq!(status_of(&forbidden), 77);
    }
}
