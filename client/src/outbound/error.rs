//! Why there is no connection, as callers have to tell it apart.

use crate::error::Error;
use crate::lease::Exhausted;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no broker, or it refuses; see [`Error`] for which. Everybody who waited for the same answer has it.
    #[error(transparent)]
    Broker(Arc<Error>),
    /// All source ports of the pool are in use for this destination: here, by others, or still by connections that were
    /// closed. Not an error of the network: wait, close something, or give the pool more addresses.
    #[error(
        "pool {pool:?} has no source port left for {destination}: {figures} \
         (this process keeps {held} back until the kernel is done with them)"
    )]
    Exhausted {
        /// The pool.
        pool: String,
        /// The destination.
        destination: SocketAddr,
        /// As the broker has it; `next` is the earlier of the broker's and this process's own.
        figures: Exhausted,
        /// How many this process has and cannot use yet.
        held: u32,
    },
    /// The kernel refused one source port after the other: others use them without the broker.
    #[error(
        "cannot connect to {destination}: the kernel refused {tried} source ports of pool {pool:?}, the last one \
         {last}: {source}"
    )]
    Refused {
        /// The pool.
        pool: String,
        /// The destination.
        destination: SocketAddr,
        /// How many were tried.
        tried: u32,
        /// The last one.
        last: SocketAddr,
        /// What the kernel said of it.
        source: io::Error,
    },
    /// What connect(2) said of the peer or the way to it: refused, timed out, unreachable.
    #[error("cannot connect to {destination} from {from}: {source}")]
    Connect {
        /// The destination.
        destination: SocketAddr,
        /// The source, or `the kernel's choice`.
        from: String,
        /// The reason.
        source: io::Error,
    },
    /// A socket could not be made or set up (too many open files; the program's own hook).
    #[error("cannot make a socket to {destination}: {source}")]
    Socket {
        /// The destination.
        destination: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// The name has no address, or cannot be resolved.
    #[error("cannot resolve the destination: {0}")]
    Resolve(#[source] io::Error),
    /// This process was forked from the one that the ports were leased for.
    #[error("this process was forked after its Connector was used: it needs a Connector of its own")]
    Forked,
}

impl From<Error> for ConnectError {
    fn from(error: Error) -> Self {
        Self::Broker(Arc::new(error))
    }
}

impl From<ConnectError> for io::Error {
    /// For interfaces that know I/O errors only: of the kernel's own error the kind stays, and what has none is
    /// `AddrNotAvailable` (exhausted, refused), which connect(2) has for it, or `Other`.
    fn from(error: ConnectError) -> Self {
        let kind = match &error {
            ConnectError::Connect { source, .. } | ConnectError::Socket { source, .. } => source.kind(),
            ConnectError::Resolve(source) => source.kind(),
            ConnectError::Exhausted { .. } | ConnectError::Refused { .. } => io::ErrorKind::AddrNotAvailable,
            ConnectError::Broker(_) | ConnectError::Forked => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
