//! Makes the picture of this host: asks the kernel, the broker and the files, and says what could not be seen.
//!
//! It decides nothing. Who has a socket is looked up for those sockets alone of which a finding may tell: one pass over the
//! descriptors of all processes is what this verb costs.

use crate::args::block_on;
use crate::failure::Failure;
use crate::progress::Progress;
use portbroker::config::{Fault, Sources, build};
use portbroker::doctor::{Broker, Network, Picture, crowded};
use portbroker::kernel::reserved_ports::ReservedPorts;
use portbroker::kernel::reuse::reuse_of;
use portbroker::kernel::scan::{self, Descriptors, Namespace, States, Wanted};
use portbroker::kernel::sysctl;
use portbroker::model::{Protocol, Reuse, Socket, SocketState};
use portbroker::services::claims;
use portbroker::sources::units::CANNOT_BE_READ;
use portbroker::sources::{Locations, ServiceFiles, survey};
use portbroker_client::Error;
use std::collections::{HashMap, HashSet};
use std::path::Path;

/// The options of no more sockets are asked for.
const MOST_ASKED: usize = 5000;

/// A picture, and what is missing in it.
pub(super) struct Gathered {
    pub(super) picture: Picture,
    /// What could not be seen, and why, a sentence each.
    pub(super) unseen: Vec<String>,
}

/// Looks at the host; at the files below `root`.
pub(super) fn gather(root: &Path, broker: &portbroker_client::Broker) -> Gathered {
    let mut gathered = Gathered { picture: Picture::default(), unseen: Vec::new() };
    gathered.ask_broker(broker);
    let _progress = Progress::begin("looking at this host");
    gathered.read_files(root);
    gathered.look_at_networks();
    gathered.look_at_processes();
    gathered
}

impl Gathered {
    fn ask_broker(&mut self, broker: &portbroker_client::Broker) {
        let answer = block_on(async {
            let status = broker.status().await?;
            // A broker of before ports were learned.
            let learned = broker.learned().await.unwrap_or_default();
            Ok((status, learned))
        });
        self.picture.broker = match answer {
            Ok((status, learned)) => {
                let sockets = status.listeners.iter().flat_map(|listener| &listener.sockets);
                Broker::Running {
                    faults: status.faults.clone(),
                    held: sockets.filter_map(|socket| socket.inode).collect(),
                    learned: learned
                        .into_iter()
                        .filter_map(|of| Some((of.protocol.parse().ok()?, of.port, of.unit)))
                        .collect(),
                }
            }
            Err(Failure::Broker(Error::NotReachable { .. })) => Broker::Absent,
            Err(failure) => {
                self.unseen.push(format!("what the broker holds: {failure}"));
                Broker::Unknown
            }
        };
    }

    fn read_files(&mut self, root: &Path) {
        let sources: Sources = survey(&Locations { root: root.to_owned(), config: None });
        let checked = build(&sources);
        let (closed, open): (Vec<_>, Vec<_>) =
            checked.faults.iter().partition(|fault| may_not_be_read(fault));
        self.unseen.extend(closed.into_iter().map(told));
        self.picture.config_faults = open.into_iter().filter(|fault| fault.is_error()).map(told).collect();
        self.picture.services = sources.services;
        self.picture.config = checked.config;
        let mut files = ServiceFiles::new(root);
        self.picture.claims = claims(&mut files);
        self.unseen.extend(files.unread());
    }

    fn look_at_networks(&mut self) {
        let found = match scan::namespaces() {
            Ok(found) => found,
            Err(error) => return self.unseen.push(format!("the network namespaces: {error}")),
        };
        if found.unseen > 0 {
            self.unseen.push(format!(
                "the network namespaces of {}: run it as root of this host",
                others(found.unseen)
            ));
        }
        let looks = scan::in_each(&found.namespaces, |namespace| Ok(network(namespace)));
        for (namespace, look) in found.namespaces.iter().zip(looks) {
            match look {
                Ok((network, unseen)) => {
                    self.picture.networks.push(network);
                    self.unseen.extend(unseen);
                }
                Err(error) => self.unseen.push(format!("{}: {error}", named(namespace))),
            }
        }
    }

    /// Who has those sockets of which a finding may tell.
    fn look_at_processes(&mut self) {
        let wanted = self.wanted();
        let found = match scan::descriptors(|inode| wanted.contains(&inode)) {
            Ok(found) => found,
            Err(error) => return self.unseen.push(format!("the descriptors of processes: {error}")),
        };
        if found.unseen > 0 {
            self.unseen.push(format!(
                "the sockets of {}, and what their options let others do: run it as root of this host",
                others(found.unseen)
            ));
        }
        for row in &found.rows {
            self.picture.holders.entry(row.inode).or_default().push(row.pid);
        }
        match scan::processes(found.rows.iter().map(|row| row.pid)) {
            Ok(processes) => self.picture.processes = processes,
            Err(error) => self.unseen.push(format!("the names of processes: {error}")),
        }
        self.ask_options(&found);
    }

    fn wanted(&self) -> HashSet<u32> {
        let Picture { claims, config, .. } = &self.picture;
        let listeners = config.listeners.values().flat_map(|listener| &listener.endpoints);
        let mut ports: HashSet<u16> = listeners.filter_map(|endpoint| endpoint.port()).collect();
        ports.extend(claims.iter().map(|claim| claim.port));
        ports.extend(config.socket_units.iter().map(|socket| socket.port));
        let mut wanted = HashSet::new();
        for (n, network) in self.picture.networks.iter().enumerate() {
            let crowds: HashSet<_> = crowded(network).iter().map(|of| (of.source, of.destination)).collect();
            let is_wanted = |socket: &&Socket| {
                n == 0 && (is_asked(socket) || ports.contains(&socket.local.port()))
                    || socket.remote.is_some_and(|remote| crowds.contains(&(socket.local.ip(), remote)))
            };
            wanted.extend(network.sockets.iter().filter(is_wanted).map(|socket| socket.inode));
        }
        wanted.remove(&0);
        wanted
    }

    /// What sockets that wait let others do; of those of which that is to be known, and that may be asked.
    fn ask_options(&mut self, found: &Descriptors) {
        let Some(own) = self.picture.networks.first() else { return };
        let mut asked: HashMap<u32, Reuse> = HashMap::new();
        for socket in own.sockets.iter().filter(|socket| is_asked(socket)).take(MOST_ASKED) {
            let mut holders = found.of(socket.inode).iter();
            let reuse = holders.find_map(|row| reuse_of(row.pid, row.number, row.inode).ok());
            asked.extend(reuse.map(|reuse| (socket.inode, reuse)));
        }
        self.picture.reuse = asked;
    }
}

/// Whether it matters what others may do beside a socket.
fn is_asked(socket: &Socket) -> bool {
    match socket.protocol {
        Protocol::Tcp => matches!(socket.state, SocketState::Listen | SocketState::Bound),
        Protocol::Udp => socket.remote.is_none(),
    }
}

fn others(count: usize) -> String {
    match count {
        1 => "a process of another user".to_owned(),
        count => format!("{count} processes of other users"),
    }
}

/// What this user may not read says nothing about whether it is right.
fn may_not_be_read(fault: &Fault) -> bool {
    fault.message.contains(CANNOT_BE_READ) && fault.message.contains("Permission denied")
}

fn told(fault: &Fault) -> String {
    let origin = &fault.origin;
    match origin.line {
        0 => format!("{}: {}", origin.file.display(), fault.message),
        line => format!("{}:{line}: {}", origin.file.display(), fault.message),
    }
}

/// What to call a network namespace.
fn named(namespace: &Namespace) -> String {
    match (&namespace.mount, namespace.pid) {
        (Some(mount), _) => format!("the network namespace {}", mount.display()),
        (None, Some(pid)) => format!("the network namespace of pid {pid}"),
        (None, None) => format!("the network namespace net:[{}]", namespace.inode),
    }
}

/// The network namespace of this thread, and what of it could not be seen.
fn network(namespace: &Namespace) -> (Network, Vec<String>) {
    let mut unseen = Vec::new();
    let mut network = Network { name: (!namespace.own).then(|| named(namespace)), ..Network::default() };
    let files = ReservedPorts::default();
    match files.ephemeral_range() {
        Ok(range) => network.range = Some(range),
        Err(error) => unseen.push(error.to_string()),
    }
    match files.read() {
        Ok(reserved) => network.reserved = Some(reserved),
        Err(error) => unseen.push(error.to_string()),
    }
    match sysctl::number("tcp_timestamps") {
        Ok(number) => network.timestamps = Some(number > 0),
        Err(error) => unseen.push(format!("net.ipv4.tcp_timestamps: {error}")),
    }
    // Not in every kernel: 1024 there.
    network.unprivileged_from =
        sysctl::number("ip_unprivileged_port_start").ok().and_then(|port| port.try_into().ok());
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let all = Wanted { protocol, port: None, states: States::Any };
        if let Err(error) = scan::sockets(all, |socket| network.sockets.push(socket)) {
            unseen.push(format!(
                "the {protocol} sockets{}: {error}",
                if namespace.own { String::new() } else { format!(" of {}", named(namespace)) }
            ));
        }
    }
    (network, unseen)
}
