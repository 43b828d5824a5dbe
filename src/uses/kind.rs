//! What a socket does with a port, by its state, its addresses and who listens beside it.

use crate::model::{PortRange, PortSet, Protocol, Socket, SocketState};

/// A way to use a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A socket that the broker holds, listening or reserved.
    Brokered,
    /// It listens for connections.
    Listener,
    /// It is bound, and connections are refused.
    Bound,
    /// It takes datagrams from anybody.
    Datagrams,
    /// The own end of a connection, or of a UDP socket with one peer, that was made from here: its *source* port.
    Source,
    /// A connection that was made to the port.
    Served,
    /// A closed connection that the kernel still keeps.
    TimeWait,
    /// A listener of the broker that it cannot bind.
    Wanted,
    /// Leased for outgoing connections.
    Leased,
    /// Kept out of ephemeral allocation because a service was seen to listen on it.
    Learned,
    /// In `net.ipv4.ip_local_reserved_ports`.
    Reserved,
    /// In `net.ipv4.ip_local_port_range` and not reserved.
    Ephemeral,
    /// In the zone of a pool.
    Zone,
    /// Left out of the zone of a pool.
    LeftOut,
}

impl Kind {
    /// The word that tables and JSON have for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Brokered => "brokered",
            Self::Listener => "listener",
            Self::Bound => "bound",
            Self::Datagrams => "datagrams",
            Self::Source => "source",
            Self::Served => "served",
            Self::TimeWait => "time-wait",
            Self::Wanted => "wanted",
            Self::Leased => "leased",
            Self::Learned => "learned",
            Self::Reserved => "reserved",
            Self::Ephemeral => "ephemeral",
            Self::Zone => "zone",
            Self::LeftOut => "left-out",
        }
    }
}

/// What tells an outgoing connection from one that came in.
#[derive(Debug, Clone)]
pub struct Surroundings<'a> {
    /// What listens on the port in this network namespace: few of what may be very many sockets.
    listeners: Vec<Socket>,
    /// The TCP ports on which anything listens there.
    listening: &'a PortSet,
    /// `ip_local_port_range` there.
    range: Option<PortRange>,
}

impl<'a> Surroundings<'a> {
    /// Of all sockets of the port in a network namespace.
    #[must_use]
    pub fn new(sockets: &[Socket], listening: &'a PortSet, range: Option<PortRange>) -> Self {
        let listeners =
            sockets.iter().filter(|socket| socket.state == SocketState::Listen).copied().collect();
        Self { listeners, listening, range }
    }

    /// Whether something listens where this connection has its end.
    #[must_use]
    pub fn is_served(&self, socket: &Socket) -> bool {
        let mut listeners = self.listeners.iter();
        listeners.any(|other| other.protocol == socket.protocol && other.serves(socket.local))
    }

    /// What a socket does.
    #[must_use]
    pub fn kind(&self, socket: &Socket) -> Kind {
        match (socket.state, socket.protocol) {
            (SocketState::Listen, _) => Kind::Listener,
            (SocketState::Bound, Protocol::Tcp) => Kind::Bound,
            (SocketState::Bound, Protocol::Udp) => Kind::Datagrams,
            (SocketState::TimeWait, _) => Kind::TimeWait,
            (SocketState::SynReceived, _) => Kind::Served,
            (SocketState::SynSent, _) => Kind::Source,
            _ if self.came_in(socket) => Kind::Served,
            _ => Kind::Source,
        }
    }

    /// Whether somebody connected to this end. The kernel does not tell; what it would choose by itself does:
    ///
    /// - where something listens on the port, or is bound to it, it chooses the port for nobody;
    /// - else the end whose port is one that the kernel chooses from made the connection, and the other did not;
    /// - and where both or neither are, the end that something of this host listens on did not.
    #[must_use]
    pub fn came_in(&self, socket: &Socket) -> bool {
        let Some(remote) = socket.remote else { return false };
        if socket.protocol == Protocol::Udp {
            return false;
        }
        if self.is_served(socket) {
            return true;
        }
        let chosen =
            |port: u16| self.range.is_some_and(|range| (range.first()..=range.last()).contains(&port));
        match (chosen(socket.local.port()), chosen(remote.port())) {
            (true, false) => false,
            (false, true) => true,
            _ => {
                let is_own = remote.ip() == socket.local.ip() || remote.ip().is_loopback();
                is_own && !self.listening.contains(remote.port())
            }
        }
    }
}
