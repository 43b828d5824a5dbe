//! Holding a TCP port: the order of the steps is what keeps thieves out.
//!
//! 1. *Reserve*: `SO_REUSEPORT` on, for ever; bind. Bound and not listening, with `SO_REUSEADDR` off: clients
//!    are refused, and no other user can bind the port in any way.
//! 2. *Listen*: listen(2), and only then `SO_REUSEADDR` on. Accepted sockets inherit it, and so they do not keep
//!    out a later listen(2), nor a service that binds for itself one day.
//! 3. *Back*: `SO_REUSEADDR` off, then `shutdown(SHUT_RD)`: bound and refusing, the port never given up.
//!
//! `SO_REUSEADDR` is never on while a socket is bound and does not listen: then anybody may bind and listen.
//! The one exception is a bind that finds connections or TIME_WAIT of an earlier listener in its way: these
//! let only a socket with `SO_REUSEADDR` in, and it is switched off in the next call.

use super::inet::{address, open};
use crate::config::SocketOptions;
use crate::model::InetEndpoint;
use socket2::Socket;
use std::io::{self, ErrorKind};
use std::net::Shutdown;

/// Binds a socket that refuses clients.
pub(super) fn reserve(inet: &InetEndpoint, options: &SocketOptions) -> io::Result<Socket> {
    let socket = open(inet, options)?;
    socket.set_reuse_port(true)?;
    match socket.bind(&address(inet)) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
        result => return result.map(|()| socket),
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address(inet))?;
    socket.set_reuse_address(false)?;
    Ok(socket)
}

/// Whether a socket listens there already, or is reserved, whosever it is: without `SO_REUSEPORT` there is no place
/// beside it.
pub(super) fn is_listened_on(inet: &InetEndpoint, options: &SocketOptions) -> bool {
    let probe = open(inet, options).and_then(|socket| {
        socket.set_reuse_address(true)?;
        socket.bind(&address(inet))
    });
    probe.is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

/// Reserved to listening. On a socket that listens it only sets the backlog anew. `as_reserved`: nobody can have touched
/// it since [`reserve`], which ten thousand sockets need not be asked.
pub(super) fn listen(
    socket: &Socket,
    inet: &InetEndpoint,
    options: &SocketOptions,
    as_reserved: bool,
) -> io::Result<()> {
    let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
    if !as_reserved && !socket.is_listener()? {
        socket.set_reuse_address(false)?;
    }
    match socket.listen(backlog) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            renew_group(inet, options);
            socket.listen(backlog)?;
        }
        result => result?,
    }
    socket.set_reuse_address(true)
}

/// Makes the kernel remember again that the port is an `SO_REUSEPORT` group of our user.
///
/// listen(2) passes beside live connections that a service of *another* user accepted only by that memory
/// (`fastreuseport` of the port's bind bucket), and any bind without `SO_REUSEPORT` on the port number, on
/// whatever address, wipes it. One more member sets it anew; it need not stay. Where that fails, the listen(2)
/// that follows fails too, and its error is the one to tell.
fn renew_group(inet: &InetEndpoint, options: &SocketOptions) {
    let member = open(inet, options).and_then(|socket| {
        socket.set_reuse_port(true)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address(inet))
    });
    drop(member);
}

/// Listening to reserved: queued connections are reset, accepted ones live on.
pub(super) fn refuse(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(false)?;
    if socket.is_listener()? {
        socket.shutdown(Shutdown::Read)?;
    }
    Ok(())
}
