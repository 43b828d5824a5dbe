//! A connection whose end is seen.

use super::destination::Slot;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A socket from a [`Connector`](super::Connector): of tokio's or the standard library's, which it dereferences to.
///
/// When it is dropped, the socket is closed and its source port may be used again, by this process: as soon as the
/// kernel shows that nothing is on it any more. So nothing goes wrong where the connection lives on elsewhere: in a
/// child, in a clone of the socket, in FIN_WAIT2, or after [`into_inner`](Self::into_inner).
#[derive(Debug)]
pub struct Connection<S> {
    // Dropped first: the port goes back when the socket is closed.
    socket: S,
    slot: Option<Slot>,
}

impl<S> Connection<S> {
    pub(crate) fn new(socket: S, slot: Option<Slot>) -> Self {
        Self { socket, slot }
    }

    pub(crate) fn map<T>(self, change: impl FnOnce(S) -> T) -> Connection<T> {
        Connection { socket: change(self.socket), slot: self.slot }
    }

    /// The source that was leased for it; `None` where the kernel chose one, because there was no broker.
    #[must_use]
    pub fn leased(&self) -> Option<SocketAddr> {
        self.slot.as_ref().map(|slot| slot.source)
    }

    /// Closes it, and leaves its source alone for a while: the kernel said that somebody else uses it.
    pub fn refused(self) {
        drop(self.socket);
        if let Some(slot) = self.slot {
            slot.refused(Instant::now());
        }
    }

    /// The socket alone. Its end is not seen any more; its source port is used again when the kernel is found to have
    /// nothing on it.
    pub fn into_inner(self) -> S {
        self.socket
    }
}

impl<S> Deref for Connection<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.socket
    }
}

impl<S> DerefMut for Connection<S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.socket
    }
}

impl<S: AsFd> AsFd for Connection<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S: AsRawFd> AsRawFd for Connection<S> {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

impl<S: io::Read> io::Read for Connection<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }

    fn read_vectored(&mut self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.socket.read_vectored(slices)
    }
}

impl<S: io::Write> io::Write for Connection<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.socket.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// As for the standard library's streams: reading and writing take no `&mut`.
impl<'a, S> io::Read for &'a Connection<S>
where
    &'a S: io::Read,
{
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut socket: &'a S = &self.socket;
        io::Read::read(&mut socket, buffer)
    }
}

impl<'a, S> io::Write for &'a Connection<S>
where
    &'a S: io::Write,
{
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut socket: &'a S = &self.socket;
        io::Write::write(&mut socket, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut socket: &'a S = &self.socket;
        io::Write::flush(&mut socket)
    }
}
