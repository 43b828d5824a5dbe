//! Sockets whose port somebody else could take, as far as the kernel lets him.
//!
//! What it allows (Linux 6.18; `tests/netns_kernel/rules.rs` and `tests/doctor` have each of these):
//! - Beside a TCP socket that listens nobody binds the same address, whatever options he sets; unless both have
//!   `SO_REUSEPORT` and one effective user, and then each gets a share of the connections.
//! - A TCP socket that is bound and does not listen, and has `SO_REUSEADDR`: any user binds beside it, and whoever listens
//!   first has the port.
//! - A UDP socket with `SO_REUSEADDR`: any user with that option binds beside it, and the newer one gets the datagrams.
//! - A port that nobody has bound: any user may, from `net.ipv4.ip_unprivileged_port_start` on. That a port is reserved
//!   keeps only the kernel's own choice away from it.

use super::finding::{Finding, Severity};
use super::picture::{Network, Picture, endpoint, is_waiting};
use crate::model::{Protocol, Reuse, Socket, SocketState};
use std::collections::{BTreeMap, BTreeSet};

/// Ports of multicast protocols, which many programs of a host share by `SO_REUSEADDR` on purpose: SSDP, mDNS, LLMNR.
const SHARED: [u16; 3] = [1900, 5353, 5355];

pub(super) fn findings(picture: &Picture) -> Vec<Finding> {
    let Some(own) = picture.own() else { return Vec::new() };
    let mut found = Vec::new();
    for socket in &own.sockets {
        let reuse = picture.reuse.get(&socket.inode).copied();
        found.extend(reuse.and_then(|reuse| now(picture, own, socket, reuse)));
    }
    found.extend(joined_by_its_user(picture, own));
    found.extend(when_down(picture, own));
    found
}

/// Whether users may bind it at all. What is not known counts as usual.
fn users_may_bind(own: &Network, port: u16) -> bool {
    port >= own.unprivileged_from.unwrap_or(1024)
}

/// What any user can take at this very moment.
fn now(picture: &Picture, own: &Network, socket: &Socket, reuse: Reuse) -> Option<Finding> {
    if !reuse.address || !users_may_bind(own, socket.local.port()) {
        return None;
    }
    let at = endpoint(socket.protocol, socket.local);
    let owner = picture.owner(socket);
    let port = socket.local.port();
    let (message, remedy) = match (socket.protocol, socket.state) {
        (Protocol::Udp, _) if is_waiting(socket) => (
            format!(
                "any user of this host can take the datagrams for {at} now: {owner} has SO_REUSEADDR on, so another socket \
                     can be bound beside it, and the newer one gets them"
            ),
            "have the service leave SO_REUSEADDR off for UDP, where it need not share the port; a socket of the broker's has \
             it off: datagram = [\"ADDRESS:PORT\"] under [[listener]]",
        ),
        // Sources of connections are bound like that for a moment; what counts is a service's port.
        (Protocol::Tcp, SocketState::Bound) if is_claimed(picture, port) => (
            format!(
                "any user of this host can listen on {at} now: {owner} has bound it with SO_REUSEADDR on and does not listen"
            ),
            "have the service listen at once, or bind with SO_REUSEADDR off; the broker's listeners are bound so that nobody \
             can do it",
        ),
        _ => return None,
    };
    let severity = if SHARED.contains(&port) { Severity::Note } else { Severity::Warning };
    let evidence =
        format!("{owner}: {at}, SO_REUSEADDR on, SO_REUSEPORT {}", if reuse.port { "on" } else { "off" });
    Some(Finding::new(severity, "listener-stealable", at, message, remedy).because([evidence]))
}

fn is_claimed(picture: &Picture, port: u16) -> bool {
    let of_listener = || {
        let endpoints = picture.config.listeners.values().flat_map(|listener| &listener.endpoints);
        endpoints.filter_map(|endpoint| endpoint.port()).any(|of| of == port)
    };
    picture.claims.iter().any(|claim| claim.port == port && claim.protocol == Protocol::Tcp) || of_listener()
}

/// Listeners of a group by SO_REUSEPORT: any process of that user joins it. Root may do anything anyway.
fn joined_by_its_user(picture: &Picture, own: &Network) -> Option<Finding> {
    let mut lines: Vec<String> = own
        .waiting()
        .filter(|socket| picture.reuse.get(&socket.inode).is_some_and(|reuse| reuse.port) && socket.uid != 0)
        .filter(|socket| !picture.is_held(socket))
        .map(|socket| {
            let at = endpoint(socket.protocol, socket.local);
            format!("{at} of {}: every process of user {} can join", picture.owner(socket), socket.uid)
        })
        .collect();
    lines.sort();
    lines.dedup();
    if lines.is_empty() {
        return None;
    }
    let finding = Finding::new(
        Severity::Note,
        "listener-shared-by-user",
        format!("{} sockets", lines.len()),
        "SO_REUSEPORT is on, and other processes of the same user can bind beside these and get a share of their connections",
        "give each service a user of its own; the broker's listeners belong to its own user, and nobody joins them",
    );
    Some(finding.because(lines))
}

/// Ports that are safe while somebody listens, and nobody's when he does not.
fn when_down(picture: &Picture, own: &Network) -> Option<Finding> {
    let kernel_chosen =
        |port: u16| own.range.is_some_and(|range| (range.first()..=range.last()).contains(&port));
    let named: BTreeSet<(Protocol, u16)> =
        picture.claims.iter().map(|claim| (claim.protocol, claim.port)).collect();
    let mut owners: BTreeMap<(Protocol, u16), String> = BTreeMap::new();
    for socket in own.waiting() {
        let port = socket.local.port();
        let is_named = named.contains(&(socket.protocol, port));
        if users_may_bind(own, port) && !picture.is_held(socket) && (!kernel_chosen(port) || is_named) {
            owners.entry((socket.protocol, port)).or_insert_with(|| picture.owner(socket));
        }
    }
    if owners.is_empty() {
        return None;
    }
    let lines: Vec<String> = owners
        .into_iter()
        .map(|((protocol, port), owner)| format!("{} {port} of {owner}", protocol.as_str()))
        .collect();
    let finding = Finding::new(
        Severity::Note,
        "listener-stealable-when-down",
        format!("{} ports", lines.len()),
        "while one of these services is down, or starts again, any user of this host can bind its port and be taken for it; \
         while it listens nobody can, and that a port is reserved does not keep anybody from binding it",
        "have the broker hold those that matter, by a section [X-PortBroker] in the service's unit",
    );
    Some(finding.because(lines))
}
