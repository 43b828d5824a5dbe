//! Ports that services are to have, and that the kernel may give to anybody as a source port.
//!
//! A port is a service's where its own configuration, the broker's, or an enabled socket unit names it. One that a
//! service only listens on may have been the kernel's choice, and is no more than worth knowing.

use super::finding::{Finding, Severity};
use super::picture::{Picture, endpoint, is_waiting};
use crate::model::{Endpoint, PortSet, Protocol, Socket, SocketKind, SocketState, UnitName};
use std::collections::BTreeMap;

/// A port that somebody's configuration names.
struct Named {
    /// `/etc/ssh/sshd_config:13 (sshd)`
    by: Vec<String>,
    /// What to call the service.
    service: String,
    /// The broker is to hold it.
    brokered: bool,
}

type Ports = BTreeMap<(Protocol, u16), Named>;

pub(super) fn findings(picture: &Picture) -> Vec<Finding> {
    let Some(own) = picture.own() else { return Vec::new() };
    let named = named(picture);
    let mut sockets: BTreeMap<(Protocol, u16), Vec<&Socket>> = BTreeMap::new();
    for socket in own.sockets.iter().filter(|socket| own.may_choose(socket.local.port()) == Some(true)) {
        sockets.entry((socket.protocol, socket.local.port())).or_default().push(socket);
    }
    // All of them: whoever does what one remedy says must not undo what another said.
    let mut reserved = own.reserved.clone().unwrap_or_default();
    let wanted = named.iter().filter(|((_, port), of)| !of.brokered && own.may_choose(*port) == Some(true));
    reserved.extend(wanted.map(|((_, port), _)| *port));
    let mut found = Vec::new();
    for (key, of) in named.iter().filter(|((_, port), _)| own.may_choose(*port) == Some(true)) {
        let all = sockets.get(key).map(Vec::as_slice).unwrap_or_default();
        let waiting: Vec<&Socket> = all.iter().copied().filter(|socket| is_waiting(socket)).collect();
        if all.iter().any(|socket| picture.is_held(socket)) {
            continue;
        }
        found.push(ephemeral(picture, *key, of, &waiting, remedy(key.1, of, &reserved)));
        if waiting.is_empty() {
            found.extend(taken(picture, *key, of, all));
        }
    }
    found.extend(only_listened(picture, &named));
    found
}

/// Every port that is named, with all who name it.
fn named(picture: &Picture) -> Ports {
    let mut ports = Ports::new();
    let mut add = |key, service: &str, by: String, brokered| {
        let of = ports.entry(key).or_insert_with(|| Named {
            by: Vec::new(),
            service: service.to_owned(),
            brokered: false,
        });
        of.brokered |= brokered;
        if !of.by.contains(&by) {
            of.by.push(by);
        }
    };
    for claim in &picture.claims {
        // A default of a service that is not there is nobody's wish.
        if claim.line > 0 || picture.has_service(claim.program.unit_names()) {
            let by = match claim.line {
                0 => format!("{} is {}", claim.endpoint(), claim.place()),
                _ => format!("{} names {}", claim.place(), claim.endpoint()),
            };
            add((claim.protocol, claim.port), claim.program.as_str(), by, false);
        }
    }
    for (name, listener) in &picture.config.listeners {
        for endpoint in &listener.endpoints {
            if let Endpoint::Inet(inet) = endpoint {
                let protocol = if inet.kind == SocketKind::Datagram { Protocol::Udp } else { Protocol::Tcp };
                let port = inet.address.port();
                let by = format!("the listener {name} is to have {endpoint}");
                add((protocol, port), &format!("the listener {name}"), by, true);
            }
        }
    }
    for socket in &picture.config.socket_units {
        let by = format!("{} listens on it, and is enabled", socket.unit);
        add((socket.protocol, socket.port), socket.unit.as_str(), by, false);
    }
    ports
}

fn ephemeral(
    picture: &Picture,
    (protocol, port): (Protocol, u16),
    of: &Named,
    waiting: &[&Socket],
    remedy: String,
) -> Finding {
    let own = picture.own();
    let range = own.and_then(|own| own.range).map(|range| range.to_string()).unwrap_or_default();
    let listening: Vec<String> = waiting
        .iter()
        .map(|socket| {
            format!("{} listens on {} now", picture.owner(socket), endpoint(protocol, socket.local))
        })
        .collect();
    let (severity, when) = match listening.is_empty() {
        true => (Severity::Error, "at any moment"),
        false => (Severity::Warning, "whenever the service is not running"),
    };
    let message = format!(
        "port {port} of {} is one that the kernel gives to outgoing connections ({range}): {when} one can take it, and the \
         service does not start then",
        of.service
    );
    let finding = Finding::new(
        severity,
        "service-port-ephemeral",
        format!("{} {port}", protocol.as_str()),
        message,
        remedy,
    );
    finding.because(of.by.iter().cloned().chain(listening))
}

/// `reserved` is what the kernel's list is to be where there is no broker.
fn remedy(port: u16, of: &Named, reserved: &PortSet) -> String {
    if of.brokered {
        return "start the broker, which holds it and keeps it out of that range: systemctl start portbroker"
            .to_owned();
    }
    format!(
        "have the broker hold it, by a section [X-PortBroker] in the service's unit, or keep it free, by ports = [\"{port}\"] \
         under [protect] in /etc/portbroker/portbroker.toml; without a broker: \
         sysctl -w net.ipv4.ip_local_reserved_ports={reserved}, and the same in /etc/sysctl.d"
    )
}

/// Somebody has it as a source port just now, and nobody listens.
fn taken(
    picture: &Picture,
    (protocol, port): (Protocol, u16),
    of: &Named,
    sockets: &[&Socket],
) -> Option<Finding> {
    let connections: Vec<&Socket> =
        sockets.iter().copied().filter(|socket| socket.remote.is_some()).collect();
    if connections.is_empty() {
        return None;
    }
    let line = |socket: &&Socket| {
        let remote = socket.remote.map(|remote| remote.to_string()).unwrap_or_default();
        let (local, state) = (socket.local, socket.state.as_str());
        match socket.expires {
            Some(left) => format!("{local} to {remote}, {state} for {} s more", left.as_secs()),
            None => format!("{local} to {remote}, {state}, of {}", picture.owner(socket)),
        }
    };
    let passing = connections.iter().all(|socket| socket.state == SocketState::TimeWait);
    let severity = if passing { Severity::Warning } else { Severity::Error };
    let message = format!(
        "{} cannot start now: its port {port} is in use as the source port of a connection",
        of.service
    );
    let remedy = format!(
        "portbroker who {port}/{} says what closes it; portbroker who {port} --evict does it",
        protocol.as_str()
    );
    let finding = Finding::new(
        severity,
        "service-port-taken",
        format!("{} {port}", protocol.as_str()),
        message,
        remedy,
    );
    Some(finding.because(connections.iter().map(line)))
}

/// Services that wait on a port of the kernel's, which nobody's configuration that is known names.
fn only_listened(picture: &Picture, named: &Ports) -> Option<Finding> {
    let own = picture.own()?;
    let mut lines: Vec<String> = own
        .waiting()
        .filter(|socket| own.may_choose(socket.local.port()) == Some(true) && !picture.is_held(socket))
        .filter(|socket| !named.contains_key(&(socket.protocol, socket.local.port())))
        .filter_map(|socket| {
            let process =
                picture.processes_of(socket).find(|process| is_of_service(process.unit.as_ref()))?;
            Some(format!("{process} on {}", endpoint(socket.protocol, socket.local)))
        })
        .collect();
    lines.sort();
    lines.dedup();
    if lines.is_empty() {
        return None;
    }
    let finding = Finding::new(
        Severity::Note,
        "service-listens-ephemeral",
        format!("{} sockets", lines.len()),
        "services wait on ports that the kernel gives to outgoing connections; where such a port was the kernel's choice \
         that is as it should be, and where it is configured it can be taken while the service is down",
        "where one is configured: put a section [X-PortBroker] into its unit, or name it under [protect] ports; a running \
         broker learns it in the service's second life",
    );
    Some(finding.because(lines))
}

fn is_of_service(unit: Option<&UnitName>) -> bool {
    unit.is_some_and(|unit| unit.as_str().ends_with(".service") && !unit.as_str().starts_with("user@"))
}
