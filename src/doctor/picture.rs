//! A picture of a host, as far as somebody could see it.

use crate::config::{Config, Services};
use crate::model::{PortRange, PortSet, Process, Protocol, Reuse, Socket, SocketState};
use crate::services::Claim;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

/// A host.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    /// Its network namespaces: the first is that of whoever looks, where the services are.
    pub networks: Vec<Network>,
    /// Which processes have a socket, by its inode; those that could be seen.
    pub holders: HashMap<u32, Vec<u32>>,
    /// Processes by pid.
    pub processes: HashMap<u32, Process>,
    /// What sockets that wait let others do, by inode; those that could be asked.
    pub reuse: HashMap<u32, Reuse>,
    /// The ports that the services' own configurations name.
    pub claims: Vec<Claim>,
    /// What the broker is to hold and to protect.
    pub config: Config,
    /// What is wrong with that, a sentence each.
    pub config_faults: Vec<String>,
    /// Which services there are; `None`: that is not known.
    pub services: Option<Services>,
    /// The broker.
    pub broker: Broker,
}

/// A network namespace.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// What to call it, where it is another's: `the network namespace /run/netns/blue`.
    pub name: Option<String>,
    /// `net.ipv4.ip_local_port_range`
    pub range: Option<PortRange>,
    /// `net.ipv4.ip_local_reserved_ports`
    pub reserved: Option<PortSet>,
    /// `net.ipv4.ip_unprivileged_port_start`: users bind ports from there on.
    pub unprivileged_from: Option<u16>,
    /// `net.ipv4.tcp_timestamps`
    pub timestamps: Option<bool>,
    /// Its sockets.
    pub sockets: Vec<Socket>,
}

/// The broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Broker {
    /// Nobody could be asked, and nobody may say whether it runs.
    #[default]
    Unknown,
    /// It does not run.
    Absent,
    /// It runs.
    Running {
        /// What it says is not as it was configured.
        faults: Vec<String>,
        /// The inodes of the sockets that it holds.
        held: HashSet<u64>,
        /// The ports that it protects because services listen on them, with the units.
        learned: Vec<(Protocol, u16, String)>,
    },
}

impl Network {
    /// The ports that the kernel chooses from, without those that are kept out of it.
    #[must_use]
    pub fn sources(&self) -> Option<PortSet> {
        let range = PortSet::from(self.range?);
        Some(self.reserved.as_ref().map_or_else(|| range.clone(), |reserved| range.difference(reserved)))
    }

    /// Whether the kernel may choose a port; `None`: that is not known.
    pub(super) fn may_choose(&self, port: u16) -> Option<bool> {
        let range = self.range?;
        let is_reserved = self.reserved.as_ref()?.contains(port);
        Some((range.first()..=range.last()).contains(&port) && !is_reserved)
    }

    /// The sockets that wait for anybody: those that listen, and UDP ones without a peer.
    pub fn waiting(&self) -> impl Iterator<Item = &Socket> {
        self.sockets.iter().filter(|socket| is_waiting(socket))
    }

    /// ` in the network namespace …`, where it is another's.
    pub(super) fn within(&self) -> String {
        self.name.as_ref().map(|name| format!(" in {name}")).unwrap_or_default()
    }
}

/// Whether a socket waits for anybody.
pub(super) fn is_waiting(socket: &Socket) -> bool {
    match socket.protocol {
        Protocol::Tcp => socket.state == SocketState::Listen,
        Protocol::Udp => socket.remote.is_none() && socket.local.port() != 0,
    }
}

/// `tcp 127.0.0.1:3306`
pub(super) fn endpoint(protocol: Protocol, address: SocketAddr) -> String {
    format!("{} {address}", protocol.as_str())
}

impl Picture {
    /// The network of whoever looks.
    pub(super) fn own(&self) -> Option<&Network> {
        self.networks.first()
    }

    /// The processes that have a socket, of those that could be seen.
    pub(super) fn processes_of(&self, socket: &Socket) -> impl Iterator<Item = &Process> {
        let pids = self.holders.get(&socket.inode).map(Vec::as_slice).unwrap_or_default();
        pids.iter().filter_map(|pid| self.processes.get(pid))
    }

    /// Whose a socket is: `mariadbd (pid 812, mariadb.service)`, or what is known.
    pub(super) fn owner(&self, socket: &Socket) -> String {
        match self.processes_of(socket).next() {
            Some(process) => process.to_string(),
            None if socket.inode == 0 => "no process any more".to_owned(),
            None => format!("a process of user {}", socket.uid),
        }
    }

    /// Whether the broker holds a socket.
    pub(super) fn is_held(&self, socket: &Socket) -> bool {
        matches!(&self.broker, Broker::Running { held, .. } if held.contains(&u64::from(socket.inode)))
    }

    /// Whether a service is there, by any of these names; where that is not known it counts as there.
    pub(super) fn has_service(&self, names: impl Iterator<Item = String>) -> bool {
        let Some(services) = &self.services else { return true };
        let template = |name: &str| name.strip_suffix(".service").map(|stem| format!("{stem}@.service"));
        let mut names = names;
        names.any(|name| {
            let is = |name: &String| services.present.contains(name) && !services.masked.contains(name);
            is(&name) || template(&name).as_ref().is_some_and(is)
        })
    }
}
