//! What a holder did to a socket that it shares with us.

use super::datagram::peer;
use super::endpoint_of::endpoint_of;
use super::inet::address;
use super::{ListenerSocket, SocketState};
use crate::kernel::sockopt::{Filter, filter, filter_is_locked, is_shut_down};
use crate::model::{Endpoint, SocketKind, UnixAddress};
use std::fmt;
use std::os::fd::AsFd;

/// One thing about a socket that is not as the broker left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoilt {
    /// It does not listen any more (`AF_UNSPEC`, `shutdown(2)`).
    Unlistened,
    /// It listens although it should be reserved.
    Listens,
    /// It takes datagrams although it should refuse or drop them.
    Opened,
    /// It is connected to somebody, and so closed to others.
    Connected,
    /// It is bound to another address, or to a part of its own.
    Narrowed,
    /// `shutdown(SHUT_RD)`, which nothing can undo.
    ShutDown,
    /// `SO_REUSEADDR` is on: other users can bind beside it; or off: it keeps a later listen(2) out.
    ReuseAddress,
    /// `SO_REUSEPORT` is off (TCP), so that listen(2) will fail; or on (UDP without shards).
    ReusePort,
    /// A filter decides what it receives.
    Filter,
    /// `SO_LOCK_FILTER`: nobody can take the filter off.
    FilterLocked,
    /// `SO_BINDTODEVICE` is another.
    Device,
    /// `IPV6_V6ONLY` is another.
    V6Only,
    /// `O_NONBLOCK` is on, which the next holder does not expect.
    NonBlocking,
    /// A socket option, by its name.
    Option(&'static str),
    /// The path of the unix socket is gone, or leads to another socket.
    PathGone,
    /// Mode or owner of the path are others.
    PathMode,
    /// The kernel does not answer for the descriptor.
    Unreadable,
}

impl fmt::Display for Spoilt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unlistened => "it no longer listened",
            Self::Listens => "it listened although it was reserved",
            Self::Opened => "it took datagrams although it was closed to them",
            Self::Connected => "it was connected to somebody",
            Self::Narrowed => "it was bound to another address",
            Self::ShutDown => "it was shut down",
            Self::ReuseAddress => "SO_REUSEADDR was changed",
            Self::ReusePort => "SO_REUSEPORT was changed",
            Self::Filter => "a filter was attached",
            Self::FilterLocked => "its filter was locked",
            Self::Device => "it was bound to another interface",
            Self::V6Only => "IPV6_V6ONLY was changed",
            Self::NonBlocking => "O_NONBLOCK was set",
            Self::Option(name) => return write!(f, "{name} was changed"),
            Self::PathGone => "its path was removed or replaced",
            Self::PathMode => "mode or owner of its path were changed",
            Self::Unreadable => "the kernel did not answer for it",
        })
    }
}

/// Everything about a socket that is not as the broker left it.
pub(super) fn inspect(held: &ListenerSocket) -> Vec<Spoilt> {
    let mut found = Vec::new();
    let mut note = |spoilt: bool, what: Spoilt| {
        if spoilt {
            found.push(what);
        }
    };
    let socket = &held.socket;
    let answers = (socket.nonblocking(), held.state(), peer(socket), is_shut_down(socket));
    let (Ok(nonblocking), Ok(state), Ok(peer), Ok(shut_down)) = answers else {
        return vec![Spoilt::Unreadable];
    };
    note(nonblocking, Spoilt::NonBlocking);
    let stream = held.endpoint.kind().takes_connections();
    match (held.expected, state, stream) {
        (SocketState::Listening, SocketState::Reserved, true) => note(true, Spoilt::Unlistened),
        (SocketState::Reserved, SocketState::Listening, true) => note(true, Spoilt::Listens),
        (SocketState::Reserved, SocketState::Listening, false) => note(true, Spoilt::Opened),
        _ => {}
    }
    let refusing = held.expected == SocketState::Reserved && state == SocketState::Reserved && !stream;
    let refused_by = match &held.endpoint {
        Endpoint::Inet(inet) => peer.as_ref().is_some_and(|peer| *peer == address(inet)),
        Endpoint::Unix(_) => peer.is_some(),
    };
    note(peer.is_some() && !(refusing && refused_by), Spoilt::Connected);
    // A listening TCP socket is never shut down in this sense: poll(2) shows only its queue.
    note(shut_down && !is_tcp(&held.endpoint), Spoilt::ShutDown);
    note_address(held, &mut note);
    match &held.endpoint {
        Endpoint::Inet(_) => note_inet(held, stream, &mut note),
        Endpoint::Unix(_) => note_unix(held, &mut note),
    }
    if let Some(baseline) = &held.baseline {
        baseline.differences(socket).for_each(|name| note(true, Spoilt::Option(name)));
    }
    if is_filtered(&held.endpoint) {
        let closed = held.expected == SocketState::Reserved && !stream;
        match filter(socket) {
            Ok(Filter::Absent) => {}
            Ok(Filter::DropAll) => note(!closed, Spoilt::Filter),
            Ok(Filter::Foreign) => note(true, Spoilt::Filter),
            Err(_) => note(true, Spoilt::Unreadable),
        }
        note(filter_is_locked(socket).unwrap_or(true), Spoilt::FilterLocked);
    }
    found
}

fn is_tcp(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Inet(inet) if inet.kind == SocketKind::Stream)
}

/// Whether a filter has an effect: connections to a unix stream socket pass none.
fn is_filtered(endpoint: &Endpoint) -> bool {
    !matches!(endpoint, Endpoint::Unix(unix) if unix.kind.takes_connections())
}

fn note_address(held: &ListenerSocket, note: &mut impl FnMut(bool, Spoilt)) {
    match (endpoint_of(held.socket.as_fd()), &held.endpoint) {
        (Ok(Endpoint::Inet(is)), Endpoint::Inet(wanted)) => {
            note(is.address != wanted.address, Spoilt::Narrowed);
            note(is.device != wanted.device, Spoilt::Device);
            note(is.v6only != wanted.v6only, Spoilt::V6Only);
        }
        (Ok(is), wanted) => note(is != *wanted, Spoilt::Narrowed),
        (Err(_), _) => note(true, Spoilt::Narrowed),
    }
}

fn note_inet(held: &ListenerSocket, stream: bool, note: &mut impl FnMut(bool, Spoilt)) {
    let listening = held.expected == SocketState::Listening;
    let reuse_address = held.socket.reuse_address().unwrap_or(!(stream && listening));
    note(reuse_address != (stream && listening), Spoilt::ReuseAddress);
    let reuse_port = held.socket.reuse_port().unwrap_or(!held.shared);
    note(reuse_port != held.shared, Spoilt::ReusePort);
}

fn note_unix(held: &ListenerSocket, note: &mut impl FnMut(bool, Spoilt)) {
    let (Endpoint::Unix(unix), Some(hold)) = (&held.endpoint, &held.path) else { return };
    let UnixAddress::Path(path) = &unix.address else { return };
    let gone = hold.is_gone();
    note(gone, Spoilt::PathGone);
    if !gone {
        let fits = match (std::fs::symlink_metadata(path), held.dress()) {
            (Ok(file), Ok(dress)) => dress.fits(&file),
            _ => false,
        };
        note(!fits, Spoilt::PathMode);
    }
}
