//! Closes connections of other processes, by `SOCK_DESTROY` (sock_diag(7)): exactly one socket, by its tuple and by the
//! number that the kernel gave it. Whoever has it reads ECONNABORTED; the peer of TCP is sent a reset.
//!
//! It takes CAP_NET_ADMIN and CONFIG_INET_DIAG_DESTROY. The network namespace is that of the thread that made it. Which
//! sockets may be closed is decided by others.

use super::inet_diag::{ANY_STATE, Diag, Question, family_of};
use crate::model::{Socket, Tuple};
use nix::libc;
use std::io;
use std::net::SocketAddr;

/// Why nothing can be closed.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// It never can.
    #[error("this kernel cannot close connections of others (CONFIG_INET_DIAG_DESTROY is not set)")]
    Unsupported,
    /// It never can.
    #[error("to close connections of others takes CAP_NET_ADMIN")]
    NotPermitted,
    /// This one could not be.
    #[error("cannot close {0:?}: {1}")]
    Failed(Tuple, #[source] io::Error),
    /// The same, of one that may have no tuple.
    #[error("cannot close the socket at {0}: {1}")]
    FailedSocket(SocketAddr, #[source] io::Error),
}

/// A socket that is kept for it.
pub struct Closer(Diag);

impl Closer {
    /// Opens it, in the network namespace of this thread.
    pub fn new() -> io::Result<Self> {
        Diag::new().map(Self)
    }

    /// Closes a socket; false where it is not there any more, or no longer has that tuple. One without a destination is
    /// none.
    pub fn close(&mut self, tuple: &Tuple, cookie: u64) -> Result<bool, CloseError> {
        let Some(destination) = tuple.destination else { return Ok(false) };
        let question = Question {
            local: Some(tuple.source),
            remote: Some(destination),
            ..Question::all(family_of(tuple.source.ip()), tuple.protocol, ANY_STATE)
        };
        self.destroy(&question, cookie, |error| CloseError::Failed(*tuple, error))
    }

    /// Closes a socket that was told, be it connected or not; false where it is not there any more, or where the kernel
    /// cannot find it: a TCP socket that is only bound.
    pub fn close_socket(&mut self, socket: &Socket) -> Result<bool, CloseError> {
        let question = Question {
            local: Some(socket.local),
            remote: socket.remote,
            device: socket.device,
            ..Question::all(family_of(socket.local.ip()), socket.protocol, ANY_STATE)
        };
        self.destroy(&question, socket.cookie, |error| CloseError::FailedSocket(socket.local, error))
    }

    fn destroy(
        &mut self,
        question: &Question<'_>,
        cookie: u64,
        otherwise: impl FnOnce(io::Error) -> CloseError,
    ) -> Result<bool, CloseError> {
        self.0.destroy(question, cookie).map_err(|error| match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => CloseError::Unsupported,
            Some(libc::EPERM) => CloseError::NotPermitted,
            _ => otherwise(error),
        })
    }
}
