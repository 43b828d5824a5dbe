//! Sockets that metrics are scraped from: a unix socket with its mode and group from its first moment on, and TCP on
//! loopback.
//!
//! They are made anew by each daemon: whoever scrapes comes back, and nothing waits in them. Nothing at a path but a
//! socket that nobody has is ever replaced.

use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, chown};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::Permissions;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Listens at a path. Whoever has the mode, or is in the group, can connect.
pub fn listen_at(path: &Path, mode: u32, group: Option<u32>) -> io::Result<UnixListener> {
    make_room(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // unix(7): the file is made with the mode that the socket has, so nobody gets in before it has its group.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    if let Some(group) = group {
        chown(path, None, Some(Gid::from_raw(group)))?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(UnixListener::from(std::os::fd::OwnedFd::from(socket)))
}

/// Listens on an address of loopback.
pub fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_loopback() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not of loopback"));
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Over the TIME_WAIT of a daemon before; on Linux two that listen are not possible all the same.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(TcpListener::from(std::os::fd::OwnedFd::from(socket)))
}

/// Removes what a daemon that is gone has left.
fn make_room(path: &Path) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "something else than a socket is there"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::new(ErrorKind::AddrInUse, "somebody answers there")),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_socket_has_its_mode_and_replaces_only_one_that_nobody_has() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m");
        let first = listen_at(&path, 0o640, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(listen_at(&path, 0o660, None).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(first);
        let _second = listen_at(&path, 0o660, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
        let file = directory.path().join("f");
        std::fs::write(&file, "precious").unwrap();
        assert_eq!(listen_at(&file, 0o660, None).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    }

    #[test]
    fn nothing_but_loopback_is_listened_on() {
        let on = |text: &str| listen_on(text.parse().unwrap());
        assert_eq!(on("0.0.0.0:0").unwrap_err().kind(), ErrorKind::InvalidInput);
        let first = on("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        assert_eq!(listen_on(address).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(first);
        assert!(listen_on(address).is_ok());
    }
}
