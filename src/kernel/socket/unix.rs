//! Holding unix sockets: their names, and how a stream socket refuses.
//!
//! - A path is bound under its own name, never renamed into place: getsockname(2) keeps the name of the bind for
//!   ever, and nginx and haproxy find their sockets by it. Nobody can connect before mode and owner are right,
//!   since the file is made with mode 0 and the socket does not listen (or, a datagram socket, refuses).
//! - A stream socket that was shut down refuses for ever, and a name cannot be bound twice. So a path refuses
//!   by changing places with a *placeholder*, a socket that is bound and never listens: renameat2(2) swaps the
//!   two files, the path is there at every moment, and the listener's own socket waits under the hidden name
//!   `.NAME.portbroker` beside it. Back again is one rename(2). After a crash in between the path leads to a
//!   dead placeholder, which refuses as well, until [`PathHold::restore`].
//! - An abstract name has no such way: it cannot refuse once it listened.

use super::datagram;
use super::error::BindError;
use super::options::{self, Where};
use super::path::{Dress, Found, Identity, look, make_parents, remove};
use crate::config::SocketOptions;
use crate::kernel::descriptors::is_shortage;
use crate::model::{Endpoint, SocketKind, UnixAddress, UnixEndpoint};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use socket2::{Domain, SockAddr, Socket, Type};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The file that a socket is bound to.
#[derive(Debug)]
pub(super) struct PathHold {
    /// The path.
    pub(super) path: PathBuf,
    /// Which file is ours; `None` after an adoption that found nothing there.
    pub(super) identity: Option<Identity>,
    /// Where the path refuses: the socket that stands in for the listener's.
    placeholder: Option<Socket>,
    /// What it has to be like, so that clients are refused and not told that they are of the wrong kind.
    kind: SocketKind,
}

/// Binds a unix socket that refuses clients.
pub(super) fn reserve(
    unix: &UnixEndpoint,
    options: &SocketOptions,
) -> Result<(Socket, Option<PathHold>), BindError> {
    let socket = open(unix, options)?;
    let hold = bind(&socket, unix, options)?;
    Ok((socket, hold))
}

/// An unbound socket, which refuses as soon as it is bound.
pub(super) fn open(unix: &UnixEndpoint, options: &SocketOptions) -> Result<Socket, BindError> {
    let opened = Socket::new(Domain::UNIX, type_of(unix.kind), None).and_then(|socket| {
        if unix.kind == SocketKind::Datagram {
            datagram::refuse_unix(&socket)?;
        }
        Ok(socket)
    });
    let socket = opened.map_err(kernel(unix))?;
    options::apply(&socket, Where::Unix, options)
        .map_err(|source| BindError::Option { endpoint: Endpoint::Unix(unix.clone()), source })?;
    Ok(socket)
}

fn type_of(kind: SocketKind) -> Type {
    match kind {
        SocketKind::Stream => Type::STREAM,
        SocketKind::Datagram => Type::DGRAM,
        SocketKind::SeqPacket => Type::SEQPACKET,
    }
}

fn kernel(unix: &UnixEndpoint) -> impl FnOnce(io::Error) -> BindError + use<> {
    let endpoint = Endpoint::Unix(unix.clone());
    move |source| match source.kind() {
        ErrorKind::AddrInUse => BindError::InUse { endpoint },
        _ if is_shortage(&source) => BindError::TooMany { endpoint },
        _ => BindError::Kernel { endpoint, source },
    }
}

fn failed<'a>(
    unix: &UnixEndpoint,
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> BindError + use<'a> {
    let endpoint = Endpoint::Unix(unix.clone());
    move |source| match is_shortage(&source) {
        true => BindError::TooMany { endpoint },
        false => BindError::Path { endpoint, action, path: path.to_owned(), source },
    }
}

/// Binds a socket of [`open`]; the file of a socket that is gone is replaced, one that lives is not.
pub(super) fn bind(
    socket: &Socket,
    unix: &UnixEndpoint,
    options: &SocketOptions,
) -> Result<Option<PathHold>, BindError> {
    let endpoint = Endpoint::Unix(unix.clone());
    let path = match &unix.address {
        UnixAddress::Path(path) => path,
        UnixAddress::Abstract(name) => {
            let address = SockAddr::unix(format!("\0{name}")).map_err(kernel(unix))?;
            return socket.bind(&address).map(|()| None).map_err(kernel(unix));
        }
    };
    let dress = Dress::of(&endpoint, options)?;
    make_parents(unix, path, options.directory_mode)?;
    match look(path).map_err(failed(unix, "look at", path))? {
        Found::Nothing => {}
        Found::Live(_) => return Err(BindError::InUse { endpoint }),
        Found::Stale => remove(path).map_err(failed(unix, "replace", path))?,
        Found::Other => return Err(BindError::NotASocket { endpoint }),
    }
    let identity = bind_file(socket, path, path, &dress).map_err(|source| match source.raw_os_error() {
        Some(nix::libc::EADDRINUSE) => BindError::InUse { endpoint },
        _ => failed(unix, "make the socket", path)(source),
    })?;
    let hidden = hidden_name(path);
    // Only now: where a kill came before, the next daemon gives the path back to the one that was set aside.
    remove(&hidden).map_err(failed(unix, "remove", &hidden))?;
    Ok(Some(PathHold { path: path.clone(), identity: Some(identity), placeholder: None, kind: unix.kind }))
}

/// Binds a socket to a file that nobody can use before it has its dress. `name` is what the kernel is told,
/// another name of `path`.
fn bind_file(socket: &Socket, name: &Path, path: &Path, dress: &Dress) -> io::Result<Identity> {
    // The file gets its mode from the socket's, unix_bind_bsd() of the kernel.
    nix::sys::stat::fchmod(socket, nix::sys::stat::Mode::empty())?;
    socket.bind(&SockAddr::unix(name)?)?;
    dress.put_on(path).inspect_err(|_| {
        // What cannot be dressed must not stay; the first error is the one to tell.
        let _ = remove(path);
    })
}

/// Where the listener's own socket waits while its path refuses.
fn hidden_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".portbroker");
    path.with_file_name(name)
}

impl PathHold {
    /// The hold of a socket that comes from elsewhere. Where it waited under its hidden name, because the
    /// daemon ended while the path refused, or while another was to take its place, it gets its path back.
    pub(super) fn restore(path: &Path, kind: SocketKind) -> io::Result<Self> {
        let hidden = hidden_name(path);
        let waiting = matches!(look(&hidden)?, Found::Live(_));
        if waiting && matches!(look(path)?, Found::Stale | Found::Nothing) {
            std::fs::rename(&hidden, path)?;
        }
        let identity = match look(path)? {
            Found::Live(identity) => Some(identity),
            Found::Stale | Found::Nothing | Found::Other => None,
        };
        Ok(Self { path: path.to_owned(), identity, placeholder: None, kind })
    }

    /// Whether the path refuses.
    pub(super) fn refuses(&self) -> bool {
        self.placeholder.is_some()
    }

    /// Whether the file at the path is no longer the one that it should be.
    pub(super) fn is_gone(&self) -> bool {
        match (look(&self.path), &self.placeholder) {
            (Ok(Found::Live(identity)), None) => self.identity != Some(identity),
            (Ok(Found::Live(_)), Some(_)) => false,
            _ => true,
        }
    }

    /// Makes the path refuse: the placeholder and the listener's file change places.
    pub(super) fn refuse(&mut self, dress: &Dress) -> io::Result<()> {
        if self.refuses() {
            return Ok(());
        }
        let hidden = hidden_name(&self.path);
        remove(&hidden)?;
        let placeholder = Socket::new(Domain::UNIX, type_of(self.kind), None)?;
        let directory = std::fs::File::open(hidden.parent().unwrap_or(Path::new("/")))?;
        // Through the directory's descriptor, since the hidden name may be longer than sun_path. Its own name
        // is what nobody looks for.
        let mut name = OsString::from(format!("/proc/self/fd/{}/", directory.as_raw_fd()));
        name.push(hidden.file_name().unwrap_or_default());
        if name.as_bytes().len() > UnixAddress::MAX {
            return Err(io::Error::new(ErrorKind::InvalidFilename, "the name of the socket is too long"));
        }
        bind_file(&placeholder, Path::new(&name), &hidden, dress)?;
        renameat2(AT_FDCWD, &hidden, AT_FDCWD, &self.path, RenameFlags::RENAME_EXCHANGE)
            .inspect_err(|_| {
                let _ = remove(&hidden);
            })
            .map_err(io::Error::from)?;
        self.placeholder = Some(placeholder);
        Ok(())
    }

    /// Gives the path back to the listener's socket.
    pub(super) fn serve(&mut self) -> io::Result<()> {
        if self.refuses() {
            std::fs::rename(hidden_name(&self.path), &self.path)?;
            self.placeholder = None;
        }
        Ok(())
    }

    /// Makes room for another socket at the path, which [`bind`] puts there. The file of this one stays beside it until
    /// then: a path that is only removed could be given back by nobody.
    pub(super) fn set_aside(&mut self) -> io::Result<()> {
        let is_ours = !self.is_gone();
        match (self.placeholder.take(), is_ours) {
            // The listener's own waits there already.
            (Some(_), true) => remove(&self.path),
            (None, true) => std::fs::rename(&self.path, hidden_name(&self.path)),
            (_, false) => Ok(()),
        }
    }

    /// There is no other socket after all.
    pub(super) fn take_back(&mut self) {
        if matches!(look(&self.path), Ok(Found::Nothing)) {
            // Where it is not there, it was not ours.
            let _ = std::fs::rename(hidden_name(&self.path), &self.path);
        }
    }

    /// Removes the files, where they are ours.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        if !self.is_gone() {
            remove(&self.path)?;
        }
        if self.placeholder.take().is_some() {
            remove(&hidden_name(&self.path))?;
        }
        Ok(())
    }
}

/// Closes the connections that wait in the accept queue.
///
/// O_NONBLOCK belongs to the socket and not to the descriptor, so it is put back as it was.
pub(super) fn reset_queued(socket: &Socket) -> io::Result<()> {
    let was = socket.nonblocking()?;
    socket.set_nonblocking(true)?;
    let mut result = Ok(());
    while result.is_ok() {
        result = socket.accept().map(drop);
    }
    socket.set_nonblocking(was)?;
    match result {
        // EINVAL: it does not listen.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::InvalidInput) => Ok(()),
        other => other,
    }
}
