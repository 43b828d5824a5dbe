//! Options that have nothing to have an effect on.

use super::definition::Definition;
use super::fault::{Fault, Place};
use super::key::Key;
use super::{Origin, StreamProtocol};
use crate::model::{Endpoint, SocketKind, UnixAddress};
use std::collections::BTreeMap;

/// Warns of options that none of the sockets takes that they were written for, and of links to nothing.
///
/// The options of a unit's section are those of all its listeners: one socket that takes it is enough.
pub(super) fn options(definitions: &[Definition], faults: &mut Vec<Fault>) {
    let mut written: BTreeMap<(&Origin, Key), (&Place, &Definition, bool)> = BTreeMap::new();
    for definition in definitions {
        for (key, place) in &definition.places {
            if matches!(key, Key::Tune(_) | Key::Protocol) {
                let entry = written.entry((&place.origin, *key)).or_insert((place, definition, false));
                entry.2 |= definition.config.endpoints.iter().any(|endpoint| takes(*key, endpoint));
            }
        }
        links(definition, faults);
    }
    for ((_, key), (place, definition, taken)) in written {
        let default = key == Key::Protocol && definition.config.options.protocol == StreamProtocol::Tcp;
        // Without endpoints something else is wrong, and said.
        if taken || default || definition.config.endpoints.is_empty() {
            continue;
        }
        let sockets = if let Key::Tune(tunable) = key { tunable.sockets() } else { "TCP" };
        let message =
            format!("\"{key}\" does nothing for {:?}, which has no {sockets} socket", definition.name);
        faults.push(place.warning(message).help("take it out"));
    }
}

fn takes(key: Key, endpoint: &Endpoint) -> bool {
    match (key, endpoint) {
        (Key::Tune(tunable), endpoint) => tunable.applies(endpoint),
        (Key::Protocol, Endpoint::Inet(inet)) => inet.kind == SocketKind::Stream,
        _ => false,
    }
}

/// A link leads to one path.
fn links(definition: &Definition, faults: &mut Vec<Fault>) {
    let options = &definition.config.options;
    if options.symlinks.is_empty() || definition.config.endpoints.is_empty() {
        return;
    }
    let path = |endpoint: &&Endpoint| matches!(endpoint, Endpoint::Unix(unix) if matches!(unix.address, UnixAddress::Path(_)));
    let place = definition.place_of(Key::Symlinks);
    let paths = definition.config.endpoints.iter().filter(path).count();
    if paths != 1 {
        let fault =
            place.error(format!("links need one path to lead to, and {:?} has {paths}", definition.name));
        faults.push(fault.help("give the path a listener of its own"));
    }
}
