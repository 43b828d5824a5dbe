//! The one safe way to a tokio [`AsyncFd`].
//!
//! tokio's own constructor is unsafe because a type could answer `as_raw_fd` with another descriptor each time.
//! [`OwnsFd`] is the promise that it does not.
#![expect(unsafe_code, reason = "the promise that AsyncFd::register asks for")]

use nix::sys::epoll::Epoll;
use nix::sys::inotify::Inotify;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A type that owns one descriptor.
///
/// # Safety
///
/// `fd` returns the same open descriptor every time, until the value is dropped.
pub(crate) unsafe trait OwnsFd {
    /// The descriptor.
    fn fd(&self) -> BorrowedFd<'_>;
}

// SAFETY: an OwnedFd is one descriptor, which closes when it is dropped.
unsafe impl OwnsFd for OwnedFd {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}
// SAFETY: its only field is an OwnedFd, which can be replaced by mutable access only, and Owner gives none.
unsafe impl OwnsFd for Epoll {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
// SAFETY: its only field is an OwnedFd, and no method replaces it.
unsafe impl OwnsFd for Inotify {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}
// SAFETY: it wraps an OwnedFd, and no method replaces it.
unsafe impl OwnsFd for UnixDatagram {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

/// Such a value, as tokio wants it.
#[derive(Debug)]
pub(crate) struct Owner<T>(T);

impl<T> Owner<T> {
    /// The value. There is no mutable access: an Epoll could be given another descriptor by it.
    pub(crate) fn get(&self) -> &T {
        &self.0
    }
}

impl<T: OwnsFd> AsRawFd for Owner<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.fd().as_raw_fd()
    }
}

/// Registers a descriptor with the runtime of the calling task.
pub(crate) fn register<T: OwnsFd>(inner: T, interest: Interest) -> io::Result<AsyncFd<Owner<T>>> {
    // SAFETY: Owner answers with the descriptor of an OwnsFd, which promises what is asked for; Owner gives no
    // mutable access to it, and AsyncFd owns it from here on.
    let registered = unsafe { AsyncFd::register_with_interest(Owner(inner), interest) };
    registered.map_err(|error| error.into_parts().1)
}
