//! Socket options and calls on sockets that the crates lack, each as one safe function.
//!
//! Nothing here knows what a listener is.
#![expect(unsafe_code, reason = "options, AF_UNSPEC and POLLRDHUP, which no crate here has as safe calls")]

use nix::libc;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

/// What filter a socket has, `SO_GET_FILTER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    /// None.
    Absent,
    /// The one of [`DROP_ALL`].
    DropAll,
    /// Some other.
    Foreign,
}

/// A classic BPF program of one instruction, "accept 0 bytes": every packet is thrown away before it is queued.
pub(crate) const DROP_ALL: (u16, u8, u8, u32) = (0x06, 0, 0, 0);

/// The address family of no address.
const UNSPEC: libc::sa_family_t = 0;

/// `size_of` as the type that the socket calls want; no option here is longer than a few bytes.
fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

/// Reads an option whose value is an `int`.
pub(crate) fn get_int(fd: impl AsFd, level: i32, name: i32) -> io::Result<i32> {
    let mut value: i32 = 0;
    let mut length = length_of::<i32>();
    // SAFETY: value and length are live for the call and length says how large value is.
    let result = unsafe {
        libc::getsockopt(fd.as_fd().as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Sets an option whose value is an `int`.
pub(crate) fn set_int(fd: impl AsFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and the length describe value, which outlives the call.
    let result = unsafe {
        libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), length_of::<i32>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The number of the network namespace that a socket is of, `SO_NETNS_COOKIE` (Linux 5.14); never used twice.
pub(crate) fn network_cookie(fd: impl AsFd) -> io::Result<u64> {
    let mut cookie: u64 = 0;
    let mut length = length_of::<u64>();
    // SAFETY: cookie and length are live for the call and length says how large cookie is.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// How much waits in the accept queue of a TCP socket that listens, and its backlog: what the kernel has in the
/// fields `tcpi_unacked` and `tcpi_sacked` of `TCP_INFO` then.
pub(crate) fn accept_queue(fd: impl AsFd) -> io::Result<(u32, u32)> {
    // SAFETY: tcp_info is made of integers, of which all bits zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = length_of::<libc::tcp_info>();
    // SAFETY: info and length are live for the call, and length says how large info is.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok((info.tcpi_unacked, info.tcpi_sacked)) }
}

/// What a socket has of memory, `SO_MEMINFO`, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Received and not read.
    pub(crate) received: u32,
    /// The receive buffer.
    pub(crate) limit: u32,
    /// How many packets, or connections of a TCP socket that listens, were thrown away.
    pub(crate) drops: u32,
}

/// The option's number, and the places of its values (linux/sock_diag.h, since 4.12); the crates lack them.
const SO_MEMINFO: i32 = 55;

/// What a socket has of memory.
pub(crate) fn memory(fd: impl AsFd) -> io::Result<Memory> {
    let mut values = [0_u32; 9];
    let mut length = length_of::<[u32; 9]>();
    // SAFETY: values and length are live for the call, and length says how large values is.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let [received, limit, _, _, _, _, _, _, drops] = values;
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(Memory { received, limit, drops }) }
}

/// The filter of a socket. Its length is counted in instructions; a program that does not fit into one, and an
/// eBPF program (EACCES), is none of ours.
pub(crate) fn filter(fd: impl AsFd) -> io::Result<Filter> {
    let mut first = libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 };
    let mut instructions: libc::socklen_t = 1;
    // SAFETY: the kernel writes at most `instructions` (one) sock_filter, and first is one.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_GET_FILTER,
            (&raw mut first).cast(),
            &raw mut instructions,
        )
    };
    if result < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::EINVAL | libc::EACCES) => Ok(Filter::Foreign),
            _ => Err(error),
        };
    }
    let ours = (first.code, first.jt, first.jf, first.k) == DROP_ALL;
    Ok(match (instructions, ours) {
        (0, _) => Filter::Absent,
        (_, true) => Filter::DropAll,
        (_, false) => Filter::Foreign,
    })
}

/// Whether the filter can no longer be changed, `SO_LOCK_FILTER`: nobody can undo it.
pub(crate) fn filter_is_locked(fd: impl AsFd) -> io::Result<bool> {
    Ok(get_int(fd, libc::SOL_SOCKET, libc::SO_LOCK_FILTER)? != 0)
}

/// Undoes connect(2), by `AF_UNSPEC`. A listening TCP socket is un-listened by it.
pub(crate) fn disconnect(fd: impl AsFd) -> io::Result<()> {
    let address = libc::sockaddr { sa_family: UNSPEC, sa_data: [0; 14] };
    // SAFETY: the pointer and the length describe address, which outlives the call.
    let result =
        unsafe { libc::connect(fd.as_fd().as_raw_fd(), &raw const address, length_of::<libc::sockaddr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the receiving half was shut down, which `poll(2)` shows as POLLRDHUP (nix does not know that one).
pub(crate) fn is_shut_down(fd: impl AsFd) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: entry is one pollfd, as the count says, and outlives the call, which does not wait.
    let result = unsafe { libc::poll(&raw mut entry, 1, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(entry.revents & libc::POLLRDHUP != 0) }
}
