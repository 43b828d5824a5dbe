//! Putting right what a holder spoilt, without giving the address up.
//!
//! What can be set back is set back. What cannot (a locked filter, a shut down datagram or unix socket, a
//! missing path) takes a new socket: bound beside the old one, by `SO_REUSEPORT` between two sockets of our own
//! user, before the old one is closed. A unix name cannot be bound twice: there the old one goes first, and
//! clients that were refused by it before are refused for that moment by the name's absence.

use super::error::{BindError, SocketError};
use super::inspect::Spoilt;
use super::{ListenerSocket, SocketState, datagram, tcp, unix};
use crate::kernel::sockopt::disconnect;
use crate::model::{Endpoint, InetEndpoint, SocketKind, UnixEndpoint};
use socket2::Socket;
use std::io;
use std::net::Shutdown;

/// What was done to a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a replaced socket has to be stored and watched anew"]
pub enum Mended {
    /// It was as it should be.
    Nothing,
    /// These were put right; it is the same socket.
    InPlace(Vec<Spoilt>),
    /// Because of these there is a new socket, of another inode.
    Replaced(Vec<Spoilt>),
}

/// Puts a socket right and brings it into the state `want`.
pub(super) fn mend(held: &mut ListenerSocket, want: SocketState) -> Result<Mended, SocketError> {
    let found = held.inspect();
    if found.is_empty() {
        held.bring_to(want)?;
        return Ok(Mended::Nothing);
    }
    let left_group = |spoilt| is_udp_shard(held) && matches!(spoilt, Spoilt::Connected | Spoilt::Narrowed);
    if !found.iter().any(|&spoilt| is_beyond_mending(spoilt) || left_group(spoilt))
        && set_back(held, &found).is_ok()
    {
        held.bring_to(want)?;
        return Ok(Mended::InPlace(found));
    }
    replace(held, want)?;
    Ok(Mended::Replaced(found))
}

/// Makes a socket listen again that somebody stopped, and touches nothing else of it.
pub(super) fn listen_again(held: &mut ListenerSocket) -> Result<Mended, SocketError> {
    let stopped = |spoilt: &Spoilt| {
        use Spoilt::{Connected, Narrowed, PathGone, ShutDown, Unlistened};
        matches!(spoilt, Unlistened | Connected | Narrowed | ShutDown | PathGone)
    };
    let found: Vec<_> = held.inspect().into_iter().filter(stopped).collect();
    if found.is_empty() {
        return Ok(Mended::Nothing);
    }
    if !found.iter().any(|&spoilt| is_beyond_mending(spoilt)) && undo_connect(held, &found).is_ok() {
        held.listen()?;
        return Ok(Mended::InPlace(found));
    }
    replace(held, SocketState::Listening)?;
    Ok(Mended::Replaced(found))
}

fn replace(held: &mut ListenerSocket, want: SocketState) -> Result<(), SocketError> {
    match held.endpoint.clone() {
        Endpoint::Inet(inet) if inet.kind == SocketKind::Stream => replace_tcp(held, &inet, want),
        Endpoint::Inet(inet) => replace_udp(held, &inet, want),
        Endpoint::Unix(unix) => replace_unix(held, &unix, want),
    }
}

/// Of several UDP sockets of an address: one that was connected has left the group, and never gets back.
fn is_udp_shard(held: &ListenerSocket) -> bool {
    held.shared && held.endpoint.kind() == SocketKind::Datagram
}

fn is_beyond_mending(spoilt: Spoilt) -> bool {
    matches!(
        spoilt,
        Spoilt::ShutDown | Spoilt::FilterLocked | Spoilt::PathGone | Spoilt::V6Only | Spoilt::Unreadable
    )
}

/// Sets everything back that does not belong to a state.
fn set_back(held: &ListenerSocket, found: &[Spoilt]) -> io::Result<()> {
    let socket = &held.socket;
    let has = |what| found.contains(&what);
    socket.set_nonblocking(false)?;
    undo_connect(held, found)?;
    if let Endpoint::Inet(inet) = &held.endpoint {
        if has(Spoilt::Device) {
            socket.bind_device(inet.device.as_ref().map(|device| device.as_str().as_bytes()))?;
        }
        socket.set_reuse_port(held.shared)?;
        if inet.kind == SocketKind::Datagram {
            socket.set_reuse_address(false)?;
        }
    }
    if let Some(baseline) = &held.baseline {
        baseline.restore(socket)?;
    }
    if has(Spoilt::Filter) && held.endpoint.kind().takes_connections() {
        datagram::detach(socket)?;
    }
    if let (true, Some(hold)) = (has(Spoilt::PathMode), &held.path) {
        let dress = held.dress().map_err(|error| io::Error::other(error.to_string()))?;
        dress.put_on(&hold.path)?;
    }
    Ok(())
}

/// Undoes connect(2); an error where that does not bring the address back.
fn undo_connect(held: &ListenerSocket, found: &[Spoilt]) -> io::Result<()> {
    let has = |what| found.contains(&what);
    if has(Spoilt::Connected) || has(Spoilt::Narrowed) {
        disconnect(&held.socket)?;
    }
    // Narrowed without a peer cannot be told from bound anew before.
    let narrowed = has(Spoilt::Narrowed) && held.inspect().contains(&Spoilt::Narrowed);
    if narrowed { Err(io::Error::other("it is bound to another address")) } else { Ok(()) }
}

fn failed(endpoint: &Endpoint) -> impl FnOnce(BindError) -> SocketError + use<> {
    let endpoint = endpoint.clone();
    move |source| SocketError::Replace { endpoint, source: Box::new(source) }
}

fn replace_tcp(held: &mut ListenerSocket, inet: &InetEndpoint, want: SocketState) -> Result<(), SocketError> {
    let failed = failed(&held.endpoint);
    make_joinable(&held.socket);
    let new = tcp::reserve(inet, &held.options).map_err(|error| failed(BindError::of_inet(inet, error)))?;
    let old = held.replace_socket(new);
    held.bring_to(want)?;
    // A holder that still has a copy of the old one must not take connections from the group. That it does not
    // listen (ENOTCONN) is as good.
    let _ = old.set_reuse_address(false);
    let _ = old.shutdown(Shutdown::Read);
    Ok(())
}

fn replace_udp(held: &mut ListenerSocket, inet: &InetEndpoint, want: SocketState) -> Result<(), SocketError> {
    let failed = failed(&held.endpoint);
    let was_connected = !matches!(datagram::peer(&held.socket), Ok(None));
    make_joinable(&held.socket);
    if held.shared && was_connected {
        datagram::stand_aside(&held.socket);
    }
    let new = datagram::reserve(inet, &held.options, true)
        .map_err(|error| failed(BindError::of_inet(inet, error)))?;
    let old = held.replace_socket(new);
    held.bring_to(want)?;
    // For a holder that still has a copy: narrowed to itself the old one receives nothing more.
    if let Ok(own) = old.local_addr() {
        let _ = old.connect(&own);
    }
    if !held.shared {
        let _ = old.set_reuse_port(false);
    }
    Ok(())
}

/// Makes a socket accept one of ours beside it. What of this fails shows when the other is bound.
pub(super) fn make_joinable(old: &Socket) {
    if !matches!(datagram::peer(old), Ok(None)) {
        let _ = disconnect(old);
    }
    let _ = old.set_reuse_port(true);
    if !old.is_listener().unwrap_or(false) {
        let _ = old.set_reuse_address(false);
    }
}

fn replace_unix(
    held: &mut ListenerSocket,
    unix: &UnixEndpoint,
    want: SocketState,
) -> Result<(), SocketError> {
    let endpoint = held.endpoint.clone();
    let new = unix::open(unix, &held.options).map_err(failed(&endpoint))?;
    if let Some(hold) = &mut held.path {
        hold.set_aside().map_err(SocketError::kernel("remove the spoilt socket of", &endpoint))?;
    }
    // An abstract name is free only when its socket is closed. Where the bind fails the new socket stays, not
    // bound, and the next time mends that.
    drop(held.replace_socket(new));
    held.path = unix::bind(&held.socket, unix, &held.options).map_err(failed(&endpoint))?;
    held.bring_to(want)
}
