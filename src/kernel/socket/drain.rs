//! A socket beside another of the same endpoint, and the end of the old one without losing what waits in it.
//!
//! The new one is bound before the old one goes, so the endpoint is never given up. A unix name cannot be bound
//! twice: there the old file is set aside first, and for the moment until the new one is there clients find no socket.

use super::error::{AdoptError, BindError, SocketError};
use super::inet::address;
use super::mend::make_joinable;
use super::{ListenerSocket, SocketState, Spoilt, datagram, tcp, unix};
use crate::config::SocketOptions;
use crate::model::{Endpoint, InetEndpoint, SocketKind, UnixAddress};
use nix::libc;
use socket2::{SockFilter, Socket};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;

/// Classic BPF over a segment's TCP header: those with SYN and without ACK, which open a connection, are thrown
/// away, all others are taken.
const NO_SYN: [(u16, u8, u8, u32); 5] = [
    (0x30, 0, 0, 13),   // A = the byte of the flags
    (0x54, 0, 0, 0x12), // A &= SYN | ACK
    (0x15, 0, 1, 0x02), // if A == SYN
    (0x06, 0, 0, 0),    // throw away
    (0x06, 0, 0, u32::MAX),
];

impl ListenerSocket {
    /// Lets other sockets of ours be bound beside it, where its options ask for that. `SO_REUSEPORT` is never switched
    /// off again.
    pub(super) fn share(&mut self) -> io::Result<()> {
        if !self.shared && super::is_shared(&self.endpoint, &self.options) {
            self.socket.set_reuse_port(true)?;
            self.shared = true;
            if self.expected == SocketState::Reserved {
                return datagram::drop_all(&self.socket);
            }
        }
        Ok(())
    }

    /// Whether it has a name that only one socket can have, for as long as that one lives.
    #[must_use]
    pub fn is_abstract(&self) -> bool {
        matches!(&self.endpoint, Endpoint::Unix(unix) if matches!(unix.address, UnixAddress::Abstract(_)))
    }

    /// Whether a holder did something to it that keeps clients out, or that cannot be undone.
    #[must_use]
    pub fn keeps_clients_out(&self) -> bool {
        use Spoilt::{Connected, Filter, FilterLocked, Narrowed, PathGone, ShutDown, Unlistened, V6Only};
        let worse = [Connected, Filter, FilterLocked, Narrowed, PathGone, ShutDown, Unlistened, V6Only];
        self.inspect().iter().any(|spoilt| worse.contains(spoilt))
    }

    /// A new socket of the same endpoint, reserved. This one goes on as it is, but that a unix path is the new one's.
    pub fn successor(&mut self) -> Result<Self, SocketError> {
        let replace = |endpoint: &Endpoint| {
            let endpoint = endpoint.clone();
            move |source| SocketError::Replace { endpoint, source: Box::new(source) }
        };
        let failed = replace(&self.endpoint);
        let of_inet = |inet: &InetEndpoint| {
            let inet = inet.clone();
            move |error| BindError::of_inet(&inet, error)
        };
        let (socket, path) = match self.endpoint.clone() {
            Endpoint::Inet(inet) if inet.kind == SocketKind::Stream => {
                make_joinable(&self.socket);
                (tcp::reserve(&inet, &self.options).map_err(of_inet(&inet)).map_err(failed)?, None)
            }
            Endpoint::Inet(inet) => {
                let was_connected = !matches!(datagram::peer(&self.socket), Ok(None));
                make_joinable(&self.socket);
                if was_connected {
                    datagram::stand_aside(&self.socket);
                }
                self.shared = true;
                let socket = datagram::reserve(&inet, &self.options, true);
                (socket.map_err(of_inet(&inet)).map_err(failed)?, None)
            }
            Endpoint::Unix(unix) => {
                if let Some(hold) = &mut self.path {
                    hold.set_aside()
                        .map_err(SocketError::kernel("remove the old socket of", &self.endpoint))?;
                }
                let reserved = unix::reserve(&unix, &self.options);
                match (&reserved, &mut self.path) {
                    (Ok(_), path) => *path = None,
                    (Err(_), Some(hold)) => hold.take_back(),
                    (Err(_), None) => {}
                }
                reserved.map_err(failed)?
            }
        };
        let mut new = Self::new(socket, &self.endpoint, &self.options, path);
        new.shared |= self.shared;
        new.socket.set_reuse_port(new.shared).or_else(|error| match &self.endpoint {
            Endpoint::Inet(_) => Err(SocketError::kernel("share the port of", &self.endpoint)(error)),
            Endpoint::Unix(_) => Ok(()),
        })?;
        Ok(new)
    }

    /// Takes a socket from the descriptor store that is one too many for its endpoint. It has no claim to a path.
    pub fn adopt_draining(
        fd: OwnedFd,
        endpoint: &Endpoint,
        options: &SocketOptions,
    ) -> Result<Self, AdoptError> {
        let socket = Socket::from(fd);
        let unusable = |source| AdoptError::Unusable { wanted: endpoint.clone(), source };
        socket.set_cloexec(true).map_err(unusable)?;
        let mut held = Self::new(socket, endpoint, options, None);
        held.expected = held.state().map_err(unusable)?;
        Ok(held)
    }

    /// Lets no new clients in, and keeps those who wait and those whose handshake is under way.
    ///
    /// TCP: they try again, first after a second. UDP: datagrams go to the other sockets of the address. Clients do
    /// not come to an old unix socket, whose name is another's.
    pub fn quieten(&self) -> io::Result<()> {
        match &self.endpoint {
            Endpoint::Inet(inet) if inet.kind == SocketKind::Stream => {
                let program = NO_SYN.map(|(code, jt, jf, k)| SockFilter::new(code, jt, jf, k));
                match self.socket.attach_filter(&program) {
                    // MPTCP takes no filters: whose handshake is just under way when it is closed is reset.
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
                    result => result,
                }
            }
            Endpoint::Inet(inet) => {
                self.socket.connect(&reachable(inet).into())?;
                datagram::stand_aside(&self.socket);
                Ok(())
            }
            Endpoint::Unix(_) => Ok(()),
        }
    }

    /// Lets clients in again.
    pub fn reopen(&self) -> io::Result<()> {
        datagram::detach(&self.socket)
    }

    /// Ends a socket that others may have copies of: they get nothing more from it. Its path, if it had one, is
    /// another's by now.
    pub fn retire(self) {
        let stream = self.endpoint.kind() == SocketKind::Stream;
        match &self.endpoint {
            Endpoint::Inet(_) if stream => {
                // That it does not listen (ENOTCONN) is as good.
                let _ = self.socket.set_reuse_address(false);
                let _ = self.socket.shutdown(Shutdown::Read);
            }
            Endpoint::Inet(_) => {
                let _ = self.quieten();
            }
            Endpoint::Unix(_) => {}
        }
    }
}

/// The address itself, or one that a wildcard has too: where a socket can be connected to itself.
fn reachable(inet: &InetEndpoint) -> SocketAddr {
    let own = address(inet).as_socket().unwrap_or(inet.address);
    match own.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, own.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, own.port())),
        _ => own,
    }
}
