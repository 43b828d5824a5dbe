//! recvmsg(2) with what comes along: descriptors, and who wrote the message.
//!
//! Every descriptor that the kernel has put into our table gets an owner, also where not all of a message fit into it
//! (`MSG_CTRUNC`). Of such a message nix tells nothing at all, and what has come of it would stay open for ever: a
//! process that is short of descriptors would have lost the last of them by that.

#![expect(unsafe_code, reason = "recvmsg(2), whose control messages no crate here gives where they are cut")]

use nix::libc;
use nix::sys::socket::MsgFlags;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

/// A message takes no more, `SCM_MAX_FD` of the kernel.
pub(super) const MOST_IN_A_MESSAGE: usize = 253;
/// Room for them, and for an `ucred`, in words of the alignment of a control message.
const ROOM: usize = 160;

/// What was received.
#[derive(Debug)]
pub(super) struct Received {
    /// How many bytes.
    pub(super) length: usize,
    /// The bytes did not all fit.
    pub(super) is_cut: bool,
    /// What came with them, close-on-exec.
    pub(super) descriptors: Vec<OwnedFd>,
    /// More came, and this process may have no more open.
    pub(super) lacks_descriptors: bool,
    /// Who wrote it, where the socket has `SO_PASSCRED`.
    pub(super) pid: Option<i32>,
}

/// Receives one message, without waiting for any. `flags`: besides.
pub(super) fn receive(socket: impl AsFd, bytes: &mut [u8], flags: MsgFlags) -> io::Result<Received> {
    let mut room = [MaybeUninit::<u64>::uninit(); ROOM];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: it is a C structure of numbers and pointers, for which all zeroes are valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = room.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&room) as _;
    let flags = flags | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    // SAFETY: the header's pointers and lengths are those of `bytes` and `room`, which are live and nobody else's.
    let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags.bits()) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let mut received = Received {
        length,
        is_cut: header.msg_flags & libc::MSG_TRUNC != 0,
        descriptors: Vec::new(),
        lacks_descriptors: header.msg_flags & libc::MSG_CTRUNC != 0,
        pid: None,
    };
    take(&header, &mut received);
    Ok(received)
}

/// Takes what the kernel has written into the header's control messages.
fn take(header: &libc::msghdr, received: &mut Received) {
    // SAFETY: recvmsg(2) has left the length of what it has written, and aligned it for this; CMSG_NXTHDR stays within.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: it is not null, and so a whole control message of the kernel's, whose header is plain numbers.
        let (kind, length, data) =
            unsafe { (((*next).cmsg_level, (*next).cmsg_type), (*next).cmsg_len, libc::CMSG_DATA(next)) };
        // SAFETY: it only computes.
        let head = unsafe { libc::CMSG_LEN(0) } as usize;
        #[expect(clippy::unnecessary_cast, reason = "it is a socklen_t with other C libraries")]
        let length = (length as usize).saturating_sub(head);
        match kind {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for n in 0..length / size_of::<RawFd>() {
                    // SAFETY: the kernel has put so many descriptors there, also where it had to leave some out, and
                    // has told nobody else of them. They need not be aligned.
                    let owned = unsafe {
                        OwnedFd::from_raw_fd(data.cast::<RawFd>().wrapping_add(n).read_unaligned())
                    };
                    received.descriptors.push(owned);
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                // SAFETY: it is an ucred, of which all is there; it need not be aligned.
                received.pid = Some(unsafe { data.cast::<libc::ucred>().read_unaligned() }.pid);
            }
            _ => {}
        }
        // SAFETY: as for the first.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::stream::send;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
    use std::os::fd::BorrowedFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    #[test]
    fn all_descriptors_of_the_longest_message_come_and_are_close_on_exec() {
        let (here, there) = pair();
        let many: Vec<BorrowedFd<'_>> = vec![here.as_fd(); MOST_IN_A_MESSAGE];
        setsockopt(&there, sockopt::PassCred, &true).unwrap();
        send(&here, b"text", &many).unwrap();
        let mut bytes = [0; 2];
        for flags in [MsgFlags::MSG_PEEK, MsgFlags::empty()] {
            let received = receive(&there, &mut bytes, flags).unwrap();
            assert_eq!((received.length, received.is_cut), (2, true));
            assert_eq!((received.descriptors.len(), received.lacks_descriptors), (MOST_IN_A_MESSAGE, false));
            assert_eq!(received.pid, Some(std::process::id().cast_signed()));
            let flags = nix::fcntl::fcntl(&received.descriptors[0], nix::fcntl::FcntlArg::F_GETFD).unwrap();
            assert_eq!(flags, libc::FD_CLOEXEC);
        }
        let empty = receive(&there, &mut bytes, MsgFlags::empty());
        assert_eq!(empty.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(here);
        assert_eq!(receive(&there, &mut bytes, MsgFlags::empty()).unwrap().length, 0);
    }
}
