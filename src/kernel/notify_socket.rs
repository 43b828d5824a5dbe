//! The other side of sd_notify(3): where a supervisor receives what its child says, and descriptors with it.
//!
//! Who wrote a message is what the kernel says (`SCM_CREDENTIALS`), and nobody but this process's own user and root
//! can write at all. What comes with a message that is not taken is closed.

use super::received::receive;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, fstat, umask};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

/// What systemd takes, `NOTIFY_BUFFER_MAX`: no more is read, and a longer message is none.
const LONGEST: usize = 4096;

/// How many messages a queue may have, where the kernel does not say so, and at least: the limit is that of when the
/// socket was made.
const QUEUE: usize = 4096;

/// A socket that `NOTIFY_SOCKET` names.
#[derive(Debug)]
pub struct NotifySocket(OwnedFd);

/// What was received.
#[derive(Debug)]
pub struct Received {
    /// Who wrote it, as the number of a process. It may have ended meanwhile, but while it is this process's child
    /// and not reaped, no other has its number.
    pub pid: i32,
    /// What it wrote; nothing where it was too long.
    pub text: Vec<u8>,
    /// What came with it, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// More came, and this process may have no more open.
    pub cut: bool,
}

impl NotifySocket {
    /// One at this path, which must not be there: connecting takes its permissions, which are ours alone.
    ///
    /// Only for a process of one thread, for it changes the umask for a moment.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let own = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        setsockopt(&own, sockopt::PassCred, &true)?;
        let address = UnixAddr::new(path)?;
        // Not afterwards: somebody could have connected by then, and a connection stays.
        let before = umask(Mode::from_bits_truncate(0o177));
        let result = bind(own.as_raw_fd(), &address);
        umask(before);
        result?;
        Ok(Self(own))
    }

    /// The one that an earlier image of this process made.
    #[must_use]
    pub fn from_earlier(own: OwnedFd) -> Self {
        Self(own)
    }

    /// How many messages can wait in it, at most.
    #[must_use]
    pub fn longest_queue(&self) -> usize {
        let limit = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").ok();
        let limit = limit.and_then(|text| text.trim().parse::<usize>().ok()).unwrap_or(QUEUE);
        // One more goes in before it counts as full.
        limit.max(QUEUE).saturating_add(1)
    }

    /// The next message, or none.
    pub fn receive(&self) -> io::Result<Option<Received>> {
        let mut text = vec![0; LONGEST];
        let message = match receive(&self.0, &mut text, MsgFlags::empty()) {
            Ok(message) => message,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        text.truncate(if message.is_cut { 0 } else { message.length });
        let (pid, descriptors) = (message.pid.unwrap_or_default(), message.descriptors);
        Ok(Some(Received { pid, text, descriptors, cut: message.lacks_descriptors }))
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<NotifySocket> for OwnedFd {
    fn from(socket: NotifySocket) -> Self {
        socket.0
    }
}

/// Which socket a descriptor is of, by device and inode; none where it is no socket: two ends of a pipe have one inode,
/// and so have all files that have none.
#[must_use]
pub fn socket_number(descriptor: &OwnedFd) -> Option<(u64, u64)> {
    let stat = fstat(descriptor).ok()?;
    (stat.st_mode & libc::S_IFMT == libc::S_IFSOCK).then_some((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sd_notify::NotifyState;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixDatagram;

    fn made() -> (tempfile::TempDir, NotifySocket, UnixDatagram) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = NotifySocket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let writer = UnixDatagram::unbound().unwrap();
        writer.connect(path).unwrap();
        (folder, socket, writer)
    }

    #[test]
    fn a_message_comes_with_its_writer() {
        let (_folder, socket, writer) = made();
        assert!(socket.receive().unwrap().is_none());
        writer.send(NotifyState::Ready.to_string().as_bytes()).unwrap();
        let received = socket.receive().unwrap().unwrap();
        assert_eq!(received.pid, std::process::id().cast_signed());
        assert_eq!((received.text.as_slice(), received.descriptors.len()), (b"READY=1".as_slice(), 0));
    }

    #[test]
    fn what_is_too_long_is_nothing_and_does_not_hold_up_the_next() {
        let (_folder, socket, writer) = made();
        writer.send(&[b'x'; LONGEST + 1]).unwrap();
        writer.send(b"READY=1").unwrap();
        assert_eq!(socket.receive().unwrap().unwrap().text, b"");
        assert_eq!(socket.receive().unwrap().unwrap().text, b"READY=1");
    }

    #[test]
    fn sockets_are_known_by_their_number_and_other_files_by_none() {
        let one: OwnedFd = UnixDatagram::unbound().unwrap().into();
        let copy = one.try_clone().unwrap();
        let other: OwnedFd = UnixDatagram::unbound().unwrap().into();
        assert!(socket_number(&one).is_some());
        assert_eq!(socket_number(&one), socket_number(&copy));
        assert_ne!(socket_number(&one), socket_number(&other));
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        assert_eq!(socket_number(&reader), None);
    }
}
