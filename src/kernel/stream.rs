//! Reading and writing on a connected unix stream, as the private socket needs it.

use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, RawFd};

/// Looks at what can be read and leaves it there. 0: the other end is closed.
pub fn peek(stream: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(stream.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?)
}

/// Reads. Descriptors that come along are closed by the kernel: nobody asked for them.
pub fn receive(stream: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(stream.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)
}

/// Writes, with descriptors that go along with the first byte.
pub fn send(stream: &impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = descriptors.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<()>(stream.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)?)
}
