//! Holding datagram sockets: how UDP and unix datagram sockets refuse or drop what is sent to them.
//!
//! - *Refuse*, UDP on one address: connected to itself, so that senders get ECONNREFUSED. A wildcard cannot:
//!   connect(2) narrows it to one address, and any user may take the others for good. It drops instead. So does
//!   an address that has no route (not there yet): nothing can be sent to it either.
//! - *Refuse*, unix: connected to a socket that is gone, so that senders get EPERM.
//! - *Drop*: a filter that takes nothing, attached before bind(2), so that nothing is ever queued that was sent
//!   before the socket was opened.
//!
//! `SO_REUSEADDR` stays off: with it on, any user can take the datagrams. `SO_REUSEPORT`, which lets in sockets of
//! our own user only, is on where the address has several sockets. One that is connected is no member of the group
//! any more, and never again (since Linux 6.13; before, it is passed over): so none of several refuses, they drop.

use super::inet::{address, open};
use crate::config::SocketOptions;
use crate::kernel::sockopt::{DROP_ALL, Filter, disconnect, filter, is_shut_down};
use crate::model::InetEndpoint;
use nix::libc;
use socket2::{Domain, SockAddr, SockFilter, Socket, Type};
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

/// More datagrams than any receive buffer holds: draining is bounded.
const MOST_QUEUED: usize = 1 << 20;

/// Binds a UDP socket that drops what is sent to it.
pub(super) fn reserve(inet: &InetEndpoint, options: &SocketOptions, join: bool) -> io::Result<Socket> {
    let socket = open(inet, options)?;
    attach_drop(&socket)?;
    let shared = options.shards > 1;
    if join || shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address(inet))?;
    socket.set_reuse_port(shared)?;
    Ok(socket)
}

/// Whether there is a socket already: alone there is no place beside it.
pub(super) fn is_bound(inet: &InetEndpoint, options: &SocketOptions) -> bool {
    let probe = open(inet, options).and_then(|socket| {
        attach_drop(&socket)?;
        socket.bind(&address(inet))
    });
    probe.is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

/// To a UDP socket that refuses, or where it cannot, drops.
pub(super) fn refuse_udp(socket: &Socket, inet: &InetEndpoint) -> io::Result<()> {
    if inet.is_wildcard() || !connect_to_itself(socket, inet)? {
        return drop_all(socket);
    }
    detach(socket)?;
    drain(socket)
}

/// Whether it is connected to itself now; false where there is no route to its address.
fn connect_to_itself(socket: &Socket, inet: &InetEndpoint) -> io::Result<bool> {
    let own = address(inet);
    if peer(socket)?.is_some_and(|peer| peer == own) {
        return Ok(true);
    }
    match socket.connect(&own) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::AddrNotAvailable => {
                Ok(false)
            }
            _ if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            _ => Err(error),
        },
    }
}

/// To a unix datagram socket that refuses.
///
/// It is connected to a socket that nobody can find again: the kernel chooses its abstract name, and it is
/// closed at once. Senders are told EPERM as long as a socket is connected to another.
pub(super) fn refuse_unix(socket: &Socket) -> io::Result<()> {
    let nobody = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    bind_any_name(&nobody)?;
    socket.connect(&nobody.local_addr()?)?;
    detach(socket)?;
    drain(socket)
}

/// bind(2) with nothing but the family: the kernel chooses an abstract name, unix(7) "autobind".
fn bind_any_name(socket: &Socket) -> io::Result<()> {
    let family = nix::sys::socket::UnixAddr::new_unnamed();
    nix::sys::socket::bind(socket.as_raw_fd(), &family).map_err(io::Error::from)
}

/// To a socket that throws away what is sent to it, and has nothing queued.
pub(super) fn drop_all(socket: &Socket) -> io::Result<()> {
    attach_drop(socket)?;
    if peer(socket)?.is_some() {
        disconnect(socket)?;
    }
    drain(socket)
}

/// To a socket that takes what is sent to it.
pub(super) fn open_up(socket: &Socket) -> io::Result<()> {
    if peer(socket)?.is_some() {
        disconnect(socket)?;
    }
    detach(socket)
}

/// Takes a socket that was connected (connect(2) to nobody takes the device off: before this), and so is no member of its group any more, out of the way of those that are: a
/// new socket joins the group of the first one that it finds on its address and *device*, and this one would make a
/// group of its own with it. Where it is bound to a device already, that stays.
pub(super) fn stand_aside(socket: &Socket) {
    if matches!(socket.device(), Ok(None)) {
        // It can be that the kernel does not let us; then datagrams are spread less well, and none is lost.
        let _ = socket.bind_device(Some(b"lo"));
    }
}

/// Whether it refuses or drops.
pub(super) fn is_closed(socket: &Socket, inet: Option<&InetEndpoint>) -> io::Result<bool> {
    if filter(socket)? == Filter::DropAll {
        return Ok(true);
    }
    let peer = peer(socket)?;
    Ok(match inet {
        Some(inet) => peer.is_some_and(|peer| peer == address(inet)),
        None => peer.is_some(),
    })
}

/// The address that it is connected to.
pub(super) fn peer(socket: &Socket) -> io::Result<Option<SockAddr>> {
    match socket.peer_addr() {
        Ok(peer) => Ok(Some(peer)),
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(None),
        Err(error) => Err(error),
    }
}

fn attach_drop(socket: &Socket) -> io::Result<()> {
    let (code, jt, jf, k) = DROP_ALL;
    socket.attach_filter(&[SockFilter::new(code, jt, jf, k)])
}

/// Takes any filter off.
pub(super) fn detach(socket: &Socket) -> io::Result<()> {
    match socket.detach_filter() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Throws away what is queued: it was sent to the holder before.
///
/// A socket whose holder called `shutdown(SHUT_RD)` reads as empty datagrams for ever; it is replaced anyway.
fn drain(socket: &Socket) -> io::Result<()> {
    if is_shut_down(socket)? {
        return Ok(());
    }
    let mut nothing: [MaybeUninit<u8>; 0] = [];
    for _ in 0..MOST_QUEUED {
        match socket.recv_with_flags(&mut nothing, libc::MSG_DONTWAIT) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // An error that an earlier datagram left behind (ICMP); reading it clears it.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
