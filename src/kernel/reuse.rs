//! The options of another process's socket that say who may bind beside it.
//!
//! The kernel tells them only to who has the socket, so a copy of its descriptor is taken for as long as it takes to ask
//! (pidfd_getfd(2), Linux 5.6), which it allows to those who may trace the process (ptrace(2)): root, and the same user. A
//! connection that its owner closes in these microseconds ends when the copy does; so ask it of sockets that wait only.

use super::process::open_pidfd;
use crate::model::Reuse;
use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::fstat;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// Those of a descriptor of a process, if it still is the socket with this inode.
pub fn reuse_of(pid: u32, descriptor: u32, inode: u32) -> io::Result<Reuse> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    let socket = copy_of(&open_pidfd(pid)?, descriptor)?;
    if fstat(&socket)?.st_ino != u64::from(inode) {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(Reuse {
        address: getsockopt(&socket, sockopt::ReuseAddr)?,
        port: getsockopt(&socket, sockopt::ReusePort)?,
    })
}

#[expect(unsafe_code, reason = "nix has no pidfd_getfd")]
fn copy_of(pidfd: &OwnedFd, descriptor: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes three integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), descriptor, 0) };
    let raw = i32::try_from(result).map_err(io::Error::other)?;
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor (close-on-exec) for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn the_options_of_a_socket_are_told_and_those_of_another_are_not() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let number = u32::try_from(socket.as_raw_fd()).unwrap();
        let inode = std::fs::metadata(format!("/proc/self/fd/{number}")).unwrap().ino();
        let inode = u32::try_from(inode).unwrap();
        let told = || {
            let Reuse { address, port } = reuse_of(std::process::id(), number, inode).unwrap();
            (address, port)
        };
        assert_eq!(told(), (false, false));
        socket.set_reuse_address(true).unwrap();
        assert_eq!(told(), (true, false));
        socket.set_reuse_port(true).unwrap();
        assert_eq!(told(), (true, true));
        let other = reuse_of(std::process::id(), number, inode + 1).unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::NotFound);
        assert!(reuse_of(std::process::id(), 1_000_000, inode).is_err());
    }
}
