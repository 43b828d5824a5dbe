//! Writing on a connected unix stream, as the private socket needs it, and what of it was read.

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, sendmsg, setsockopt, shutdown,
    socketpair, sockopt,
};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, RawFd};
use std::sync::OnceLock;

/// Writes, with descriptors that go along with the first byte.
pub fn send(stream: &impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = descriptors.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<()>(stream.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)?)
}

/// How much of what is written may wait at the other end, in bytes of the kernel's memory, which are the writer's
/// (unix(7), `SO_SNDBUF`). By default it is 208 KiB: enough for 150 short replies that nobody reads, on each connection.
const UNREAD: usize = 32 * 1024;

/// Lets no more than that wait. What is longer is written in parts.
pub fn keep_little_unread(stream: &impl AsFd) {
    // The kernel doubles it. Where it cannot be set, the default is as good as any.
    let _ = setsockopt(stream, sockopt::SndBuf, &(UNREAD / 2));
}

/// Nothing goes either way any more, whoever else has a copy of this descriptor.
pub fn shut_down(stream: &impl AsFd) -> io::Result<()> {
    Ok(shutdown(stream.as_fd().as_raw_fd(), Shutdown::Both)?)
}

/// Whether the other end is closed, whatever of it is still to be read.
#[must_use]
pub fn is_gone(stream: &impl AsFd) -> bool {
    let mut ends = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let hung_up = |end: &PollFd<'_>| {
        end.revents().is_some_and(|now| now.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
    };
    poll(&mut ends, PollTimeout::ZERO).is_ok() && ends.iter().any(hung_up)
}

/// Whether that failed because so many descriptors of this user are in flight as a process may have open.
#[must_use]
pub fn is_too_many_in_flight(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ETOOMANYREFS)
}

/// Whether nothing that goes along with a message could be sent now, for that reason.
#[must_use]
pub fn are_too_many_in_flight() -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let sent = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
        .map_err(io::Error::from)
        .and_then(|(here, there)| send(&here, &[0], &[there.as_fd()]));
    sent.is_err_and(|error| is_too_many_in_flight(&error))
}

/// How much of what was written waits at the other end (`SIOCOUTQ`, unix(7)), in bytes of the kernel's memory; zero
/// where all was read, or thrown away with the other end. It can be asked after a shutdown too.
#[expect(unsafe_code, reason = "SIOCOUTQ, which no crate here has as a safe call")]
pub fn unread(stream: &impl AsFd) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int, which is live for the call.
    let result = unsafe { libc::ioctl(stream.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(bytes).unwrap_or_default())
}

/// What a message of one byte counts in [`unread`], on this kernel.
#[must_use]
pub fn least_weight() -> u64 {
    static LEAST: OnceLock<u64> = OnceLock::new();
    let measure = || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (here, _there) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
        send(&here, &[0], &[])?;
        unread(&here)
    };
    // One byte weighs at least one, whatever the kernel says.
    *LEAST.get_or_init(|| measure().unwrap_or(1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::recv;
    use std::fs::File;
    use std::os::unix::net::UnixStream;

    /// What the accounting of descriptors in flight rests on.
    #[test]
    fn what_waits_at_the_other_end_is_known_until_it_is_read_or_gone() {
        let (here, there) = UnixStream::pair().unwrap();
        let null = File::open("/dev/null").unwrap();
        assert_eq!((unread(&here).unwrap(), is_gone(&here)), (0, false));
        let mut sum = 0;
        for (bytes, descriptors) in [(1, 0), (1, 1), (1, 253), (300, 1), (5000, 7)] {
            let copies = vec![null.as_fd(); descriptors];
            send(&here, &vec![0; bytes], &copies).unwrap();
            let weight = unread(&here).unwrap() - sum;
            assert!(weight >= least_weight() && weight >= bytes as u64, "{bytes} bytes weigh {weight}");
            sum += weight;
        }
        let mut byte = [0; 1];
        recv(there.as_raw_fd(), &mut byte, MsgFlags::empty()).unwrap();
        assert!(unread(&here).unwrap() < sum, "a message that was read is gone");
        here.shutdown(std::net::Shutdown::Both).unwrap();
        assert!(unread(&here).unwrap() > 0, "our end tells it after it was shut down");
        assert!(is_gone(&here), "it was shut down");
        drop(there);
        assert_eq!(unread(&here).unwrap(), 0, "with the other end goes what it had not read");
    }
}
