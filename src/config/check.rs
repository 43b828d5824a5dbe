//! What can only be seen with all listeners side by side, or with what their units are.
//!
//! Finding the listeners that are on one address takes time in proportion to their number: a host may have
//! ten thousand.

use super::definition::{Definition, boolean};
use super::fault::Fault;
use super::key::Key;
use super::sockets::SocketUnit;
use super::units::Unit;
use super::{Idle, Severity};
use crate::model::{Endpoint, InetEndpoint, ListenerName, PortSet, SocketKind, UnixAddress};
use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// An endpoint: the index of its definition, and its own there.
type At = (usize, usize);

/// The endpoints of one address: mostly it is one, and several where they differ in their devices.
#[derive(Debug)]
struct Bucket<'a> {
    first: (&'a InetEndpoint, At),
    more: Vec<(&'a InetEndpoint, At)>,
}

/// Who listens where.
#[derive(Debug, Default)]
pub(super) struct AddressBook<'a> {
    inet: HashMap<(SocketKind, SocketAddr), Bucket<'a>>,
    unix: HashMap<&'a UnixAddress, At>,
    /// The ports that have wildcards, of whatever kind: others need not be looked for.
    wildcards: PortSet,
    /// The ports that have other addresses.
    others: PortSet,
}

impl Bucket<'_> {
    fn find(&self, endpoint: &InetEndpoint) -> Option<At> {
        let mut all = std::iter::once(&self.first).chain(&self.more);
        all.find(|(other, _)| other.conflicts_with(endpoint)).map(|&(_, at)| at)
    }
}

/// Without the scope of an IPv6 address, which makes no difference for what is in the way.
fn key(kind: SocketKind, ip: IpAddr, port: u16) -> (SocketKind, SocketAddr) {
    (kind, SocketAddr::new(ip, port))
}

impl<'a> AddressBook<'a> {
    fn find(&self, endpoint: &Endpoint) -> Option<At> {
        match endpoint {
            Endpoint::Inet(inet) => self.find_inet(inet),
            Endpoint::Unix(unix) => self.unix.get(&unix.address).copied(),
        }
    }

    fn find_inet(&self, inet: &InetEndpoint) -> Option<At> {
        let (ip, port) = (inet.address.ip(), inet.address.port());
        let at = |ip| self.inet.get(&key(inet.kind, ip, port))?.find(inet);
        let wildcards = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let wildcard = || wildcards.into_iter().filter(|_| self.wildcards.contains(port)).find_map(at);
        if !inet.is_wildcard() {
            return wildcard().or_else(|| at(ip));
        }
        // Few wildcards come when the others are there: those of socket units.
        let in_the_way = |bucket: &Bucket<'_>| bucket.find(inet);
        let others = || self.inet.values().filter_map(in_the_way).min();
        wildcard().or_else(|| self.others.contains(port).then(others).flatten())
    }

    fn add(&mut self, endpoint: &'a Endpoint, at: At) {
        match endpoint {
            Endpoint::Inet(inet) => {
                let ports = if inet.is_wildcard() { &mut self.wildcards } else { &mut self.others };
                ports.extend([inet.address.port()]);
                match self.inet.entry(key(inet.kind, inet.address.ip(), inet.address.port())) {
                    Entry::Vacant(vacant) => {
                        vacant.insert(Bucket { first: (inet, at), more: Vec::new() });
                    }
                    Entry::Occupied(mut there) => there.get_mut().more.push((inet, at)),
                }
            }
            Endpoint::Unix(unix) => {
                self.unix.insert(&unix.address, at);
            }
        }
    }

    /// All endpoints of all definitions, and a fault for each two addresses that cannot both be.
    pub(super) fn of(definitions: &'a [Definition], faults: &mut Vec<Fault>) -> Self {
        let mut all: Vec<(&Endpoint, At)> = Vec::with_capacity(definitions.len());
        for (n, definition) in definitions.iter().enumerate() {
            all.extend(
                definition.config.endpoints.iter().enumerate().map(|(m, endpoint)| (endpoint, (n, m))),
            );
        }
        // Wildcards first: then none has to be compared with all other addresses of its port.
        all.sort_by_key(|(endpoint, _)| !matches!(endpoint, Endpoint::Inet(inet) if inet.is_wildcard()));
        let mut book = Self { inet: HashMap::with_capacity(all.len()), ..Self::default() };
        let mut said = HashSet::new();
        for (endpoint, at) in all {
            match book.find(endpoint) {
                None => book.add(endpoint, at),
                Some(other) => {
                    let (first, second) = if other < at { (other, at) } else { (at, other) };
                    let address = |(n, m): At| (n, definitions.get(n).and_then(|d| d.address_of.get(m)));
                    // A range of ports meets another in many ports: once is enough.
                    if said.insert((address(first), address(second))) {
                        faults.extend(conflict(definitions, first, second));
                    }
                }
            }
        }
        book
    }
}

fn conflict(definitions: &[Definition], first: At, second: At) -> Option<Fault> {
    let (a, b) = (definitions.get(first.0)?, definitions.get(second.0)?);
    let (one, other) = (a.config.endpoints.get(first.1)?, b.config.endpoints.get(second.1)?);
    let same = first.0 == second.0;
    if a.name == b.name && !same {
        // One listener defined twice: `names` says that.
        return None;
    }
    let message = match (same, one == other) {
        (true, true) => format!("{:?} names {one} twice", b.name),
        (true, false) => format!("{other} of {:?} cannot be beside its {one}", b.name),
        (false, true) => format!("{:?} and {:?} both listen on {one}", a.name, b.name),
        (false, false) => format!("{other} of {:?} cannot be beside {one} of {:?}", b.name, a.name),
    };
    let dual_stack =
        [one, other].into_iter().any(|e| matches!(e, Endpoint::Inet(inet) if inet.is_dual_stack()));
    let help = if dual_stack && one != other {
        "take one of them out, or set bind-ipv6-only to \"ipv6-only\" for the IPv6 wildcard, which takes IPv4 too"
    } else {
        "take one of them out"
    };
    let (here, there) = (b.endpoint_place(second.1), a.endpoint_place(first.1));
    Some(here.error(message).help(help).related(there.origin.clone(), format!("{one} of {:?}", a.name)))
}

/// Each name is defined once: later definitions of it are faults.
pub(super) fn names(definitions: &[Definition], faults: &mut Vec<Fault>) {
    let mut seen: HashMap<&ListenerName, &Definition> = HashMap::with_capacity(definitions.len());
    for definition in definitions {
        match seen.get(&definition.name) {
            None => {
                seen.insert(&definition.name, definition);
            }
            Some(first) => {
                let fault =
                    definition.place.error(format!("the listener {:?} is defined twice", definition.name));
                faults.push(
                    fault
                        .help("give one of them another name")
                        .related(first.place.origin.clone(), "the other"),
                );
            }
        }
    }
}

/// Whether each socket of a listener can do what it is to do while it is idle.
pub(super) fn idle(definition: &Definition, faults: &mut Vec<Fault>) {
    let idle = definition.config.idle;
    let place = definition.place_of(Key::Idle);
    let name = &definition.name;
    let find = |wanted: fn(&Endpoint) -> bool| definition.config.endpoints.iter().find(|e| wanted(e));
    match idle {
        Idle::Queue => {}
        Idle::Drop => {
            if let Some(stream) = find(|endpoint| endpoint.kind().takes_connections()) {
                let fault = place.error(format!("{stream} of {name:?} cannot drop: it has no datagrams"));
                faults.push(fault.help("use \"refuse\" for streams, in a listener of their own"));
            }
        }
        Idle::Refuse | Idle::QueueFor(_) => {
            if let Some(stream) = find(is_abstract_stream) {
                let fault = place.error(format!(
                    "{stream} of {name:?} cannot refuse: an abstract name would have to be given up for it"
                ));
                faults.push(fault.help("use \"queue\", or a path instead of the abstract name"));
            }
            if let Some(udp) = find(is_wildcard_udp) {
                let fault = place.warning(format!(
                    "{udp} of {name:?} drops instead of refusing: senders to a wildcard address get no ICMP error"
                ));
                faults.push(fault.help("write \"drop\", or name the addresses one by one"));
            }
        }
    }
}

fn is_abstract_stream(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Unix(unix)
        if unix.kind.takes_connections() && matches!(unix.address, UnixAddress::Abstract(_)))
}

fn is_wildcard_udp(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Inet(inet) if inet.kind == SocketKind::Datagram && inet.is_wildcard())
}

/// Socket units that listen where a listener is.
///
/// Packages ship socket units that nobody enabled (Debian's mariadb.socket on 3306 is one): of these a
/// warning is enough. One that is enabled, or that the administrator wrote, is meant to be used.
pub(super) fn socket_units(
    sockets: &[SocketUnit],
    definitions: &[Definition],
    book: &AddressBook<'_>,
    faults: &mut Vec<Fault>,
) {
    for socket in sockets.iter().filter(|socket| !socket.is_ours()) {
        let mut said = HashSet::new();
        for (endpoint, origin) in &socket.endpoints {
            let Some((n, m)) = book.find(endpoint) else { continue };
            let Some(definition) = definitions.get(n).filter(|_| said.insert(n)) else { continue };
            let unit = &socket.name;
            let fault = definition
                .endpoint_place(m)
                .error(format!(
                    "the socket unit {unit} listens on {endpoint}, where {:?} is",
                    definition.name
                ))
                .related(origin.clone(), format!("{endpoint} of {unit}"));
            let written = ["/etc", "/run"].iter().any(|folder| origin.file.starts_with(folder));
            faults.push(if *origin.file == *Path::new("/etc/systemd/system").join(unit.as_str()) {
                // systemd does not mask what is written there.
                let file = origin.file.display();
                fault.help(format!(
                    "run \"systemctl disable --now {unit} && mv {file} {file}.replaced\", or take the listener out"
                ))
            } else if socket.enabled || written {
                fault.help(format!("run \"systemctl mask --now {unit}\", or take the listener out"))
            } else {
                let help = format!("it is not enabled: leave it so, or run \"systemctl mask {unit}\"");
                Fault { severity: Severity::Warning, ..fault.help(help) }
            });
        }
    }
}

/// Paths that only root can reach: systemd moves the `RuntimeDirectory=` of a service with `DynamicUser=` into
/// /run/private (0700) where it is to be kept, and it is kept where a brokered socket is in it.
fn private_directory(unit: &Unit, listeners: &[Definition], faults: &mut Vec<Fault>) {
    let dynamic = unit.value("Service", "DynamicUser").and_then(|setting| boolean(&setting.value));
    if dynamic != Some(true) {
        return;
    }
    for setting in unit.values("Service", "RuntimeDirectory") {
        for word in setting.value.split_ascii_whitespace() {
            let Ok(name) = unit.expand(word.split(':').next().unwrap_or_default()) else { continue };
            let inside = |endpoint: &&Endpoint| match endpoint {
                Endpoint::Unix(unix) => matches!(&unix.address, UnixAddress::Path(path)
                    if ["/run", "/var/run"].iter().any(|run| path.starts_with(Path::new(run).join(&name)))),
                Endpoint::Inet(_) => false,
            };
            if let Some(endpoint) = listeners.iter().flat_map(|l| &l.config.endpoints).find(inside) {
                let message = format!(
                    "only root can reach {endpoint}: {} has DynamicUser=, and systemd makes its /run/{name} private",
                    unit.name
                );
                let fault = Fault::warning(setting.origin.clone(), message);
                faults.push(fault.help("put the socket elsewhere, such as right below /run"));
            }
        }
    }
}

/// Services that will hardly take the sockets, or will not be reached by them.
pub(super) fn service(unit: &Unit, listeners: &[Definition], faults: &mut Vec<Fault>) {
    private_directory(unit, listeners, faults);
    let Some(setting) = unit.value("Service", "Type").filter(|setting| setting.value == "forking") else {
        return;
    };
    if !listeners.is_empty() {
        let fault = Fault::warning(
            setting.origin.clone(),
            format!(
                "{} is of Type=forking: LISTEN_PID is its first process, and most such services take no sockets",
                unit.name
            ),
        );
        faults.push(fault.help("run it in the foreground with Type=notify, exec or simple"));
    }
}
