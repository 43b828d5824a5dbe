//! Lifelines: a session lives as long as anybody has the writing end of its FIFO, as the inhibitors of systemd-logind
//! do. The broker keeps the reading end, which hangs up when the last copy of the other is closed.
//!
//! The FIFO has a name, so that a broker that was started anew opens it again: nothing has to be kept for it
//! meanwhile. Nothing is ever read: what somebody writes stays there and wakes nobody, and who writes more than fits is
//! told EAGAIN.

use super::descriptors::{Purpose, spared};
use super::socket_set::SocketSet;
use crate::model::SessionId;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open as open_file};
use nix::sys::epoll::EpollFlags;
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::mkfifo;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The reading end of a session's FIFO.
#[derive(Debug)]
pub struct Lifeline {
    reading: OwnedFd,
    path: PathBuf,
}

/// Why there is no lifeline.
#[derive(Debug, thiserror::Error)]
pub enum LifelineError {
    /// There is none of that session: it was removed, or there never was one.
    #[error("there is no lifeline {path}: the session is over")]
    Gone {
        /// The FIFO.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{path} is no FIFO: remove it, and restart what used it")]
    NoFifo {
        /// What is there.
        path: PathBuf,
    },
    /// The kernel said no.
    #[error("cannot {action} the lifeline {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The FIFO, or its directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl LifelineError {
    fn new(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> Self {
        let path = path.to_owned();
        move |error| match error {
            Errno::ENOENT => Self::Gone { path },
            error => Self::Io { action, path, source: error.into() },
        }
    }
}

/// Makes a directory for lifelines where there is none, for our user alone.
pub fn prepare(directory: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
        }
        result => result,
    }
}

/// Makes a lifeline: the writing end, for the session's owner, and the reading end. What is there by that name is
/// removed first: numbers of sessions are not used twice.
pub fn open(directory: &Path, id: SessionId) -> Result<(OwnedFd, Lifeline), LifelineError> {
    let path = path_of(directory, id);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(LifelineError::Io { action: "replace", path, source: error });
        }
        _ => {}
    }
    let failed =
        |error: Errno| LifelineError::Io { action: "make", path: path.clone(), source: error.into() };
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
    // Opening the writing end without waiting takes a reader that is there.
    let ends = || {
        let reading = end(&path, OFlag::O_RDONLY)?;
        let none_left = |source| LifelineError::Io { action: "open", path: path.clone(), source };
        let reading = spared(reading, Purpose::Anybody).map_err(none_left)?;
        Ok((end(&path, OFlag::O_WRONLY)?, reading))
    };
    match ends() {
        Ok((writing, reading)) => Ok((writing, Lifeline { reading, path })),
        Err(error) => {
            // Nobody would remove it.
            let _ = fs::remove_file(&path);
            Err(error)
        }
    }
}

/// Opens the lifeline of an earlier broker again. It hangs up at once where nobody has the writing end any more.
pub fn reopen(directory: &Path, id: SessionId) -> Result<Lifeline, LifelineError> {
    let path = path_of(directory, id);
    let reading = end(&path, OFlag::O_RDONLY)?;
    let kind = fstat(&reading).map_err(LifelineError::new("look at", &path))?.st_mode;
    if SFlag::from_bits_truncate(kind) & SFlag::S_IFMT != SFlag::S_IFIFO {
        return Err(LifelineError::NoFifo { path });
    }
    // A FIFO hangs up only when there was a writer since it was opened.
    drop(end(&path, OFlag::O_WRONLY)?);
    Ok(Lifeline { reading, path })
}

/// Removes every lifeline but those of these sessions, after a restart; how many there were.
pub fn remove_others(directory: &Path, known: impl Fn(SessionId) -> bool) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(SessionId);
        if !id.is_some_and(&known) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn path_of(directory: &Path, id: SessionId) -> PathBuf {
    directory.join(id.to_string())
}

fn end(path: &Path, how: OFlag) -> Result<OwnedFd, LifelineError> {
    let flags = how | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    open_file(path, flags, Mode::empty()).map_err(LifelineError::new("open", path))
}

impl Lifeline {
    /// Ends it: removes the FIFO.
    pub fn remove(self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

impl AsFd for Lifeline {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reading.as_fd()
    }
}

/// Lifelines that are watched.
pub struct LifelineWatch(SocketSet);

impl LifelineWatch {
    /// An empty set. Must be called within a tokio runtime.
    pub fn new() -> io::Result<Self> {
        SocketSet::new().map(Self)
    }

    /// Watches a lifeline, until it is dropped; one that hung up before counts too.
    pub fn add(&self, id: SessionId, lifeline: &Lifeline) -> io::Result<()> {
        // EPOLLHUP is always reported, and need not be asked for; what is written is not to wake anybody.
        self.0.add(id.0, lifeline.as_fd(), EpollFlags::EPOLLET)
    }

    /// The next session whose lifeline hung up. Nothing is lost where the future is dropped.
    pub async fn next(&self) -> SessionId {
        match self.0.next().await {
            Ok(id) => SessionId(id),
            Err(error) => {
                tracing::error!(%error, "cannot watch the lifelines of sessions any more");
                std::future::pending().await
            }
        }
    }
}
