//! What a port is used for: the sockets of a host and what the broker says go in, uses and sentences about them come out.
//!
//! - [`of_sockets`] sorts the sockets of a port by what they do with it, and keeps few of many that do the same.
//! - [`of_configuration`] adds what is set about the port: by sysctl, and in the broker.
//! - [`explain`] says what that means, and which command mends it.
//! - [`verdicts`] decides which of the sockets an eviction closes; the daemon does it by the same rules.
//!
//! Nothing is asked here: who has a socket is filled in between, by whoever may look.

mod configuration;
mod eviction;
#[cfg(test)]
mod fixture;
mod kind;
mod owner;
mod services;
#[cfg(test)]
mod tests;
mod words;

pub use configuration::of_configuration;
pub use eviction::{Reach, Verdict, Why, verdicts};
pub use kind::{Kind, Surroundings};
pub use owner::Users;
pub use services::{known, name_in};
pub use words::{Context, Sentence, Tone, explain};

use crate::model::{PortRange, PortSet, Process, Protocol, Socket, UnitName};
use std::cmp::Reverse;
use std::fmt;

/// So many of each kind are told one by one, and the rest as a number.
const SHOWN: usize = 10;
/// Of the connections of a service, which are many and in nobody's way.
const SHOWN_SERVED: usize = 3;

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The port.
    pub port: u16,
    /// TCP or UDP; `None`: both.
    pub protocol: Option<Protocol>,
}

impl Question {
    /// The protocols that are asked about.
    pub fn protocols(self) -> impl Iterator<Item = Protocol> {
        [Protocol::Tcp, Protocol::Udp].into_iter().filter(move |protocol| self.is_about(*protocol))
    }

    /// Whether this protocol is asked about.
    #[must_use]
    pub fn is_about(&self, protocol: Protocol) -> bool {
        self.protocol.is_none_or(|wanted| wanted == protocol)
    }
}

impl fmt::Display for Question {
    /// `3306`, `53/udp`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Some(protocol) => write!(f, "{}/{protocol}", self.port),
            None => self.port.fmt(f),
        }
    }
}

/// What was seen in one network namespace.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// What people call it; `None`: the caller's own.
    pub name: Option<String>,
    /// What begins a command that is to run in it: `ip netns exec blue`; `None`: nothing is needed.
    pub enter: Option<String>,
    /// The sockets that have the port as their own.
    pub sockets: Vec<Socket>,
    /// The TCP ports on which anything listens.
    pub listening: PortSet,
    /// `ip_local_port_range`; `None`: it could not be read.
    pub range: Option<PortRange>,
    /// `ip_local_reserved_ports`.
    pub reserved: PortSet,
}

/// What the broker says.
#[derive(Debug, Clone, Default)]
pub struct Broker {
    /// Sockets of listeners, one each.
    pub listeners: Vec<Held>,
    /// Ports that were learned.
    pub learned: Vec<LearnedPort>,
    /// Pools.
    pub pools: Vec<Pool>,
    /// Leases that have the port.
    pub leases: Vec<Lease>,
}

/// A socket of a listener of the broker.
#[derive(Debug, Clone)]
pub struct Held {
    /// The listener's name.
    pub listener: String,
    /// `tcp 127.0.0.1:3306`
    pub endpoint: String,
    /// `reserved`, `listening`, `failed` …
    pub state: String,
    /// `None` where it could not be bound.
    pub inode: Option<u64>,
    /// Why it could not be.
    pub error: Option<String>,
    /// Who has the listener.
    pub holders: Vec<String>,
    /// Who may take it, as in the configuration.
    pub allow: Vec<String>,
}

impl Held {
    /// Protocol and port of the endpoint; `None` for a unix socket.
    #[must_use]
    pub fn port(&self) -> Option<(Protocol, u16)> {
        let (protocol, address) = self.endpoint.split_once(' ')?;
        let address = address.split_once('%').map_or(address, |(address, _)| address);
        Some((protocol.parse().ok()?, address.rsplit_once(':')?.1.parse().ok()?))
    }
}

/// A port that the broker learned.
#[derive(Debug, Clone)]
pub struct LearnedPort {
    /// The port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The unit that was seen listening on it.
    pub unit: String,
}

/// A pool.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The ports that can be leased.
    pub zone: PortSet,
    /// Ports that were left out, and why.
    pub left_out: Vec<(PortSet, String)>,
}

/// A lease that has the port.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Its number.
    pub number: u64,
    /// Its pool.
    pub pool: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Whom it is for; `None`: anybody.
    pub destination: Option<String>,
    /// Whose it is.
    pub owner: String,
    /// `held` or `cooling`.
    pub state: String,
    /// The source addresses on which it has the port.
    pub addresses: Vec<String>,
}

/// One use of the port.
#[derive(Debug, Clone)]
pub struct Use {
    /// What it is.
    pub kind: Kind,
    /// Of which protocol; `None`: of both.
    pub protocol: Option<Protocol>,
    /// In which network namespace, by its place among those that were given; the caller's own is the first.
    pub network: usize,
    /// The socket that uses it, or one of [`Self::count`].
    pub socket: Option<Socket>,
    /// How many sockets are meant: 1, or so many more of the same kind.
    pub count: usize,
    /// Who has the socket, as far as may be seen.
    pub processes: Vec<Process>,
    /// The unit in which the socket was made, where no process may be seen.
    pub maker: Option<UnitName>,
    /// Listener, pool, or unit.
    pub name: Option<String>,
    /// What else is to be said, for a table.
    pub detail: Option<String>,
}

impl Use {
    fn new(kind: Kind, protocol: Option<Protocol>, network: usize) -> Self {
        Self {
            kind,
            protocol,
            network,
            socket: None,
            count: 1,
            processes: Vec::new(),
            maker: None,
            name: None,
            detail: None,
        }
    }

    /// The inode by which its processes are found; `None`: there are none.
    #[must_use]
    pub fn inode(&self) -> Option<u32> {
        self.socket.map(|socket| socket.inode).filter(|inode| *inode != 0)
    }
}

/// What the sockets of the networks do with the port, those first that keep services out.
#[must_use]
pub fn of_sockets(question: &Question, networks: &[Network], broker: Option<&Broker>) -> Vec<Use> {
    let mut uses = Vec::new();
    for (number, network) in networks.iter().enumerate() {
        let around = Surroundings::new(&network.sockets, &network.listening, network.range);
        let mut of_network: Vec<Use> = network
            .sockets
            .iter()
            .filter(|socket| question.is_about(socket.protocol) && socket.local.port() == question.port)
            .map(|socket| of_socket(socket, &around, number, broker))
            .collect();
        of_network.sort_by_key(|one| {
            let socket = one.socket;
            // Who lasts longest decides when the port is free.
            let lasts = Reverse(socket.and_then(|socket| socket.expires));
            (one.kind, one.protocol, lasts, socket.map(|socket| (socket.local, socket.remote, socket.cookie)))
        });
        uses.extend(summed_up(of_network));
    }
    uses
}

fn of_socket(socket: &Socket, around: &Surroundings<'_>, network: usize, broker: Option<&Broker>) -> Use {
    let mut held = broker.into_iter().flat_map(|broker| &broker.listeners);
    let held = held.find(|held| held.inode.is_some_and(|inode| inode == u64::from(socket.inode)));
    let kind = if held.is_some() { Kind::Brokered } else { around.kind(socket) };
    Use {
        socket: Some(*socket),
        name: held.map(|held| held.listener.clone()),
        detail: held.map(|held| held.state.clone()),
        ..Use::new(kind, Some(socket.protocol), network)
    }
}

/// Those of one kind beyond the first few become one, with their number. They come in order.
fn summed_up(uses: Vec<Use>) -> Vec<Use> {
    let mut kept: Vec<Use> = Vec::new();
    let mut same = 0;
    for one in uses {
        let is_same = kept.last().is_some_and(|last| last.kind == one.kind && last.protocol == one.protocol);
        same = if is_same { same + 1 } else { 0 };
        let most = if one.kind == Kind::Served { SHOWN_SERVED } else { SHOWN };
        match kept.last_mut() {
            Some(last) if is_same && same > most => last.count += 1,
            _ => kept.push(one),
        }
    }
    kept
}
