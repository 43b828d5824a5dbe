//! The file of a unix socket: made with its mode and owner, told apart from others', removed.
//!
//! A path may lie in a directory that others can write to, so nothing here follows a link in its last
//! component, and mode and owner are changed through a descriptor of the very file that was looked at.

use crate::config::{Account, SocketOptions};
use crate::kernel::socket::error::BindError;
use crate::model::{Endpoint, UnixEndpoint};
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchownat};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Device and inode number of a file.
pub(super) type Identity = (u64, u64);

/// Mode and owner that a socket's file is to have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dress {
    mode: u32,
    user: Option<u32>,
    group: Option<u32>,
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// The file of a socket that is gone.
    Stale,
    /// A socket that some process has bound.
    Live(Identity),
    /// No socket.
    Other,
}

impl Dress {
    /// The configured one; an account without an id is an error.
    pub(super) fn of(endpoint: &Endpoint, options: &SocketOptions) -> Result<Self, BindError> {
        let id = |account: &Option<Account>, kind| match account {
            None => Ok(None),
            Some(Account { id: Some(id), .. }) => Ok(Some(*id)),
            Some(Account { name, id: None }) => {
                Err(BindError::UnknownAccount { endpoint: endpoint.clone(), kind, name: name.clone() })
            }
        };
        Ok(Self {
            mode: options.socket_mode & 0o7777,
            user: id(&options.socket_user, "user")?,
            group: id(&options.socket_group, "group")?,
        })
    }

    /// Whether a file has it.
    pub(super) fn fits(&self, file: &std::fs::Metadata) -> bool {
        file.mode() & 0o7777 == self.mode
            && self.user.is_none_or(|user| user == file.uid())
            && self.group.is_none_or(|group| group == file.gid())
    }

    /// Gives it to the socket at a path, and says which file that is.
    ///
    /// The mode first: once the file is somebody else's, changing it takes CAP_FOWNER.
    pub(super) fn put_on(&self, path: &Path) -> io::Result<Identity> {
        let file = open_path(path)?;
        // An O_PATH descriptor takes no fchmod(2); its link in /proc leads to the same file.
        let through = format!("/proc/self/fd/{}", file.as_raw_fd());
        let metadata = std::fs::metadata(&through)?;
        if !metadata.file_type().is_socket() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "somebody replaced the socket's file"));
        }
        if metadata.mode() & 0o7777 != self.mode {
            std::fs::set_permissions(&through, Permissions::from_mode(self.mode))?;
        }
        let user = self.user.filter(|&user| user != metadata.uid()).map(Uid::from_raw);
        let group = self.group.filter(|&group| group != metadata.gid()).map(Gid::from_raw);
        if user.is_some() || group.is_some() {
            fchownat(&file, "", user, group, AtFlags::AT_EMPTY_PATH)?;
        }
        Ok((metadata.dev(), metadata.ino()))
    }
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat(AT_FDCWD, path, flags, Mode::empty()).map_err(io::Error::from)
}

/// Makes the missing directories above a path, as systemd does for socket units (`DirectoryMode=`). An error comes with
/// the directory that could not be made.
pub(super) fn make_directories(path: &Path, mode: u32) -> Result<(), (PathBuf, io::Error)> {
    let mut missing: Vec<&Path> = path.ancestors().skip(1).take_while(|parent| !parent.exists()).collect();
    missing.reverse();
    for directory in missing {
        let made = match DirBuilder::new().mode(mode).create(directory) {
            // The umask took a part of the mode.
            Ok(()) => std::fs::set_permissions(directory, Permissions::from_mode(mode)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        };
        made.map_err(|source| (directory.to_owned(), source))?;
    }
    Ok(())
}

/// The same for a socket's path.
pub(super) fn make_parents(unix: &UnixEndpoint, path: &Path, mode: u32) -> Result<(), BindError> {
    make_directories(path, mode).map_err(|(path, source)| BindError::Path {
        endpoint: Endpoint::Unix(unix.clone()),
        action: "make the directory",
        path,
        source,
    })
}

/// What is at a path now.
///
/// A datagram socket that connects there is told EPROTOTYPE by a living stream socket, listening or not, and
/// ECONNREFUSED where no process has the socket any more; the probe leaves no trace in either.
pub(super) fn look(path: &Path) -> io::Result<Found> {
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        other => other?,
    };
    if !metadata.file_type().is_socket() {
        return Ok(Found::Other);
    }
    let probe = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(Found::Stale),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::Nothing),
        // Connected, EPROTOTYPE, EPERM (connected elsewhere), EACCES: somebody is there, or may be.
        _ => Ok(Found::Live((metadata.dev(), metadata.ino()))),
    }
}

/// Removes a file; that there is none is as good.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
