//! The one place where descriptors are registered with tokio's reactor.

use nix::sys::epoll::Epoll;
use nix::sys::inotify::Inotify;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use tokio::io::unix::AsyncFd;

/// Types that own one descriptor and keep it for life.
pub(super) trait OwnsDescriptor: AsFd {}
impl OwnsDescriptor for OwnedFd {}
impl OwnsDescriptor for Inotify {}

/// nix's `Epoll`, which shows its descriptor only as a field.
pub(super) struct EpollSet(pub(super) Epoll);

impl AsFd for EpollSet {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

impl OwnsDescriptor for EpollSet {}

/// A descriptor's owner, registered for reading.
pub(super) struct Registered<T: OwnsDescriptor>(AsyncFd<Raw<T>>);

struct Raw<T>(T);

impl<T: OwnsDescriptor> AsRawFd for Raw<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl<T: OwnsDescriptor> Registered<T> {
    /// Registers it. Must be called within a tokio runtime.
    #[expect(unsafe_code, reason = "tokio leaves it to us to promise that the descriptor stays the same")]
    pub(super) fn new(inner: T) -> io::Result<Self> {
        // SAFETY: the type owns its descriptor (`OwnsDescriptor`, implemented above only for types that do),
        // so it is valid and always the same until the value is dropped, which `AsyncFd` does.
        let registered =
            unsafe { AsyncFd::register_with_interest(Raw(inner), tokio::io::Interest::READABLE) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    pub(super) fn get(&self) -> &T {
        &self.0.get_ref().0
    }

    /// Waits until `read` finds something. `read` returns `None` where there is nothing (any more).
    pub(super) async fn wait<R>(&self, mut read: impl FnMut(&T) -> io::Result<Option<R>>) -> io::Result<R> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Some(found) = read(self.get())? {
                return Ok(found);
            }
            ready.clear_ready();
        }
    }
}
