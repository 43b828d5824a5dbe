//! Binding without a broker: what a program does that was told to with `or_bind`.
//!
//! Only as good as any program's own bind: nothing keeps the port free until then.

use crate::socket::Socket;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// What to bind.
#[derive(Debug, Clone)]
pub(crate) enum Bind {
    Tcp(String),
    Udp(String),
    Unix(PathBuf),
    UnixDatagram(PathBuf),
}

/// Why a program could not bind for itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// No `ADDRESS:PORT`.
    #[error("{0:?} is no address to bind: write it as 0.0.0.0:443 or [::]:443")]
    Address(String),
    /// What bind(2) or listen(2) said.
    #[error("cannot bind {endpoint}: {source}")]
    Bind {
        /// What was to be bound.
        endpoint: String,
        /// Why not.
        source: io::Error,
    },
}

impl Bind {
    pub(crate) fn bind(&self) -> Result<Socket, BindError> {
        let failed = |endpoint: String| {
            move |source: io::Error| BindError::Bind { endpoint: endpoint.clone(), source }
        };
        match self {
            Self::Tcp(text) => {
                let address = parse(text)?;
                tcp(address).map(Socket::TcpListener).map_err(failed(format!("tcp {address}")))
            }
            Self::Udp(text) => {
                let address = parse(text)?;
                UdpSocket::bind(address).map(Socket::UdpSocket).map_err(failed(format!("udp {address}")))
            }
            Self::Unix(path) => {
                let bind = || UnixListener::bind(path);
                over_stale(path, bind)
                    .map(Socket::UnixListener)
                    .map_err(failed(format!("unix {}", path.display())))
            }
            Self::UnixDatagram(path) => {
                let bind = || UnixDatagram::bind(path);
                over_stale(path, bind)
                    .map(Socket::UnixDatagram)
                    .map_err(failed(format!("unix-datagram {}", path.display())))
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a service on its own binds as services do, with SO_REUSEADDR")]
fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
}

fn parse(text: &str) -> Result<SocketAddr, BindError> {
    text.parse().map_err(|_| BindError::Address(text.to_owned()))
}

/// Binds a path, in place of a socket that a process left behind when it ended.
fn over_stale<T>(path: &Path, bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            std::fs::remove_file(path)?;
            bind()
        }
        result => result,
    }
}

fn is_stale(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    // A datagram socket that is alive says EPROTOTYPE to a stream, so "refused" means that nobody is there.
    is_socket && UnixStream::connect(path).is_err_and(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_nobody_listens_on_is_bound_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        drop(UnixListener::bind(&path).unwrap());
        let again = Bind::Unix(path.clone()).bind().unwrap();
        let taken = Bind::Unix(path.clone()).bind().unwrap_err().to_string();
        assert!(taken.starts_with("cannot bind unix /") && taken.contains("in use"), "{taken}");
        drop(again);
        let datagrams = Bind::UnixDatagram(path.clone()).bind().unwrap();
        assert!(Bind::UnixDatagram(path.clone()).bind().is_err());
        drop(datagrams);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "no socket").unwrap();
        assert!(Bind::Unix(path.clone()).bind().is_err());
        assert!(path.exists());
    }

    #[test]
    fn an_address_has_a_port_and_no_name() {
        for text in ["localhost:80", "80", "0.0.0.0"] {
            assert!(matches!(Bind::Tcp(text.into()).bind(), Err(BindError::Address(_))), "{text}");
        }
        assert!(matches!(Bind::Udp("127.0.0.1:0".into()).bind(), Ok(Socket::UdpSocket(_))));
    }
}
