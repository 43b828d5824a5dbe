//! Destinations for which the kernel's own sources run short.
//!
//! connect() chooses a free port of the range by itself. With half of them in use for a destination it takes twenty times
//! as long, and with all of them it fails.

use super::finding::{Finding, Severity};
use super::picture::{Network, Picture};
use crate::model::{Protocol, Socket, SocketState};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

/// From this share on it is said, in percent; and from where connect() is slow.
const NEAR: usize = 45;
const SLOW: usize = 50;
const FULL: usize = 95;
/// So many owners are named.
const NAMED: usize = 5;
/// How long TIME_WAIT lasts.
const TIME_WAIT: u64 = 60;

/// A destination that uses many of the sources that one address has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crowded {
    /// The source address.
    pub source: IpAddr,
    /// The destination.
    pub destination: SocketAddr,
    /// How many of the kernel's ports are in use.
    pub used: usize,
    /// Of those, how many are in TIME_WAIT.
    pub waiting: usize,
    /// How many there are.
    pub sources: usize,
}

impl Crowded {
    /// The share in percent.
    fn share(&self) -> usize {
        self.used * 100 / self.sources.max(1)
    }
}

/// Those of a network with at least 45 % of its sources in use, the fullest first.
#[must_use]
pub fn crowded(network: &Network) -> Vec<Crowded> {
    let Some(ports) = network.sources() else { return Vec::new() };
    let sources = ports.len();
    if sources == 0 {
        return Vec::new();
    }
    let mut counts: HashMap<(IpAddr, SocketAddr), (usize, usize)> = HashMap::new();
    for socket in &network.sockets {
        if let Some(remote) = uses(socket).filter(|_| ports.contains(socket.local.port())) {
            let (used, waiting) = counts.entry((socket.local.ip(), remote)).or_default();
            *used += 1;
            *waiting += usize::from(socket.state == SocketState::TimeWait);
        }
    }
    let mut found: Vec<Crowded> = counts
        .into_iter()
        .map(|((source, destination), (used, waiting))| Crowded {
            source,
            destination,
            used,
            waiting,
            sources,
        })
        .filter(|crowded| crowded.share() >= NEAR)
        .collect();
    found.sort_by_key(|of| (std::cmp::Reverse(of.used), of.source, of.destination));
    found
}

/// To whom a socket uses its port as a source.
fn uses(socket: &Socket) -> Option<SocketAddr> {
    socket.remote.filter(|_| socket.protocol == Protocol::Tcp && socket.state != SocketState::Listen)
}

pub(super) fn findings(picture: &Picture) -> Vec<Finding> {
    let of = |network| crowded(network).into_iter().map(move |crowded| finding(picture, network, &crowded));
    picture.networks.iter().flat_map(of).collect()
}

fn finding(picture: &Picture, network: &Network, crowded: &Crowded) -> Finding {
    let Crowded { source, destination, used, waiting, sources } = crowded;
    let (severity, what) = match crowded.share() {
        FULL.. => {
            (Severity::Error, "connect() fails with \"cannot assign requested address\", or is about to")
        }
        SLOW.. => (Severity::Error, "connect() takes about twenty times as long as with few in use"),
        _ => (Severity::Warning, "from 50 % on connect() takes about twenty times as long"),
    };
    let message = format!(
        "{used} of the {sources} sources of {source} for {destination} are in use, {} %{}: {what}",
        crowded.share(),
        network.within()
    );
    let open = used - waiting;
    let closed = u64::try_from(*waiting).unwrap_or(u64::MAX).div_ceil(TIME_WAIT);
    let share = waiting * 100 / (*used).max(1);
    let mut evidence = vec![format!(
        "{open} are open and {waiting} in TIME_WAIT ({share} %), so about {closed} connections a second are closed from here"
    )];
    evidence.extend(owners(picture, network, crowded));
    let mut command = format!("portbroker plan --connections {}", open.max(1));
    if closed > 0 {
        command.push_str(&format!(" --rate {closed}/s"));
    } else {
        command.push_str(" --lifetime TIME");
    }
    let remedy = format!(
        "connect by a pool, which has all ports of several addresses: {command} says how many it takes; or keep connections \
         open and use them again, or have the destination close first"
    );
    let subject = format!("{source} to {destination}{}", network.within());
    Finding::new(severity, "destination-crowded", subject, message, remedy).because(evidence)
}

/// Who has the connections, whoever has most first.
fn owners(picture: &Picture, network: &Network, crowded: &Crowded) -> Vec<String> {
    let Some(ports) = network.sources() else { return Vec::new() };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let of_these = network.sockets.iter().filter(|socket| {
        socket.local.ip() == crowded.source
            && uses(socket) == Some(crowded.destination)
            && ports.contains(socket.local.port())
            && socket.state != SocketState::TimeWait
    });
    for socket in of_these {
        *counts.entry(picture.owner(socket)).or_default() += 1;
    }
    let mut owners: Vec<(String, usize)> = counts.into_iter().collect();
    owners.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let more = owners.len().saturating_sub(NAMED);
    let mut lines: Vec<String> =
        owners.into_iter().take(NAMED).map(|(owner, count)| format!("{owner} has {count} of them")).collect();
    if more > 0 {
        lines.push(format!("{more} others have the rest"));
    }
    lines
}
