//! Two who say where a service listens, and do not say the same: the section of its unit (or a `[[listener]]` that only
//! that unit may take), and its own configuration; or the configurations of two services.
//!
//! A service that is handed sockets that it did not expect ignores them, or serves where nobody thinks it does.

use super::finding::{Finding, Severity};
use super::picture::Picture;
use crate::config::ListenerConfig;
use crate::model::{Endpoint, ListenerName, Protocol, SocketKind, UnitName};
use crate::services::{Claim, Where};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) fn findings(picture: &Picture) -> Vec<Finding> {
    let mut found = Vec::new();
    for (unit, listeners) in by_unit(picture) {
        let claims: Vec<&Claim> = picture.claims.iter().filter(|claim| claim.is_of(&unit)).collect();
        // Of what is not understood, or may not be read, nobody knows whether it agrees.
        if !claims.is_empty() {
            found.extend(compare(&unit, &listeners, &claims));
        }
    }
    found.extend(rivals(picture));
    found
}

type Listeners<'a> = Vec<(&'a ListenerName, &'a ListenerConfig)>;

/// Listeners by the one unit that they are for.
fn by_unit(picture: &Picture) -> BTreeMap<UnitName, Listeners<'_>> {
    let mut units: BTreeMap<UnitName, Listeners<'_>> = BTreeMap::new();
    for (name, listener) in &picture.config.listeners {
        let granted = match listener.allow.as_slice() {
            [grant] => grant.unit.clone(),
            _ => None,
        };
        let unit = listener.origin.unit.clone().or(granted).or_else(|| listener.activate.clone());
        if let Some(unit) = unit {
            units.entry(unit).or_default().push((name, listener));
        }
    }
    units
}

/// Where somebody is reachable: what bind(2) would be told.
type Addresses = BTreeSet<IpAddr>;

const ANY_4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY_6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const LOOPBACK_4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOOPBACK_6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A port with its addresses; `None` for those: a name, which is not looked up.
#[derive(Default)]
struct Side {
    ports: BTreeMap<(Protocol, u16), Option<Addresses>>,
}

impl Side {
    fn of_listeners(listeners: &Listeners<'_>) -> Self {
        let mut side = Self::default();
        for endpoint in listeners.iter().flat_map(|(_, listener)| &listener.endpoints) {
            let Endpoint::Inet(inet) = endpoint else { continue };
            let protocol = if inet.kind == SocketKind::Datagram { Protocol::Udp } else { Protocol::Tcp };
            let mut addresses = vec![inet.address.ip()];
            if inet.address.ip() == ANY_6 && !inet.v6only {
                addresses.push(ANY_4);
            }
            side.add((protocol, inet.address.port()), Some(addresses));
        }
        side
    }

    fn of_claims(claims: &[&Claim]) -> Self {
        let mut side = Self::default();
        for claim in claims {
            let addresses = match &claim.address {
                Where::Everywhere => Some(vec![ANY_4, ANY_6]),
                Where::Address(address) => Some(vec![*address]),
                Where::Name(name) if name == "localhost" => Some(vec![LOOPBACK_4, LOOPBACK_6]),
                Where::Name(_) => None,
            };
            side.add((claim.protocol, claim.port), addresses);
        }
        side
    }

    fn add(&mut self, port: (Protocol, u16), addresses: Option<Vec<IpAddr>>) {
        let all = self.ports.entry(port).or_insert_with(|| Some(Addresses::new()));
        match (all.as_mut(), addresses) {
            (Some(all), Some(addresses)) => all.extend(addresses),
            _ => *all = None,
        }
    }
}

/// What one side has that the other does not reach. IPv6 beside an IPv4 address of the same kind (`*`, `localhost`) is
/// left out: hosts without it are many, and nobody is misled.
fn beyond(these: &Addresses, others: &Addresses) -> Vec<IpAddr> {
    let reached = |address: &IpAddr| {
        others.contains(address)
            || others.contains(&if address.is_ipv4() { ANY_4 } else { ANY_6 })
            || *address == ANY_6 && others.contains(&ANY_4)
            || *address == LOOPBACK_6 && others.contains(&LOOPBACK_4)
    };
    these.iter().filter(|address| !reached(address)).copied().collect()
}

fn compare(unit: &UnitName, listeners: &Listeners<'_>, claims: &[&Claim]) -> Option<Finding> {
    let (ours, theirs) = (Side::of_listeners(listeners), Side::of_claims(claims));
    let shown = |(protocol, port): &(Protocol, u16)| format!("{} {port}", protocol.as_str());
    let mut lines = Vec::new();
    for port in ours.ports.keys().filter(|port| !theirs.ports.contains_key(*port)) {
        lines.push(format!(
            "the broker holds {} for it, and its own configuration does not name that port",
            shown(port)
        ));
    }
    for port in theirs.ports.keys().filter(|port| !ours.ports.contains_key(*port)) {
        lines.push(format!(
            "its own configuration names {}, and the broker does not hold that for it",
            shown(port)
        ));
    }
    for (port, (held, named)) in
        ours.ports.iter().filter_map(|(port, of)| Some((port, (of, theirs.ports.get(port)?))))
    {
        let (Some(held), Some(named)) = (held, named) else { continue };
        let text =
            |addresses: &[IpAddr]| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
        let (more, less) = (beyond(held, named), beyond(named, held));
        if !more.is_empty() {
            lines.push(format!(
                "the broker holds {} on {}, and its own configuration does not",
                shown(port),
                text(&more)
            ));
        }
        if !less.is_empty() {
            lines.push(format!(
                "its own configuration has {} on {}, and the broker does not",
                shown(port),
                text(&less)
            ));
        }
    }
    if lines.is_empty() {
        return None;
    }
    for (name, listener) in listeners {
        let origin = &listener.origin;
        let endpoints: Vec<String> = listener.endpoints.iter().map(Endpoint::to_string).collect();
        lines.push(format!("{}:{}: {name}: {}", origin.file.display(), origin.line, endpoints.join(", ")));
    }
    lines.extend(claims.iter().map(|claim| format!("{}: {}", claim.place(), claim.endpoint())));
    let finding = Finding::new(
        Severity::Warning,
        "configurations-disagree",
        unit.as_str(),
        format!("what the broker holds for {unit} and what its own configuration says are not the same"),
        "make them the same; a service that is handed sockets takes its addresses from them, or matches them with its own",
    );
    Some(finding.because(lines))
}

/// Two services that are there and name one address.
fn rivals(picture: &Picture) -> Vec<Finding> {
    let mut by_port: BTreeMap<(Protocol, u16), Vec<&Claim>> = BTreeMap::new();
    for claim in picture.claims.iter().filter(|claim| picture.has_service(claim.program.unit_names())) {
        by_port.entry((claim.protocol, claim.port)).or_default().push(claim);
    }
    let whose = |claim: &Claim| (claim.program, claim.instance.clone());
    let collide =
        |one: &Claim, other: &Claim| whose(one) != whose(other) && overlap(&one.address, &other.address);
    let mut found: BTreeMap<(Protocol, u16), BTreeSet<String>> = BTreeMap::new();
    for (port, claims) in by_port {
        for one in claims.iter().filter(|one| claims.iter().any(|other| collide(one, other))) {
            let line = format!("{}: {} of {}", one.place(), one.endpoint(), one.program.as_str());
            found.entry(port).or_default().insert(line);
        }
    }
    let finding = |((protocol, port), lines): ((Protocol, u16), BTreeSet<String>)| {
        let subject = format!("{} {port}", protocol.as_str());
        Finding::new(
            Severity::Warning,
            "services-collide",
            subject.clone(),
            format!("more than one service is configured for {subject}: whichever starts second fails"),
            "give one of them another port, or stop and disable it",
        )
        .because(lines)
    };
    found.into_iter().map(finding).collect()
}

/// Whether bind(2) would refuse one beside the other. Names may be anything but each other's.
fn overlap(one: &Where, other: &Where) -> bool {
    match (one, other) {
        (Where::Everywhere, _) | (_, Where::Everywhere) => true,
        (Where::Address(one), Where::Address(other)) => {
            one == other
                || one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified())
        }
        (one, other) => one == other,
    }
}
