//! Whether the service of a listener can be started by connections: what the listener does meanwhile, and whether
//! there is such a service.

use super::Idle;
use super::definition::{Definition, Source};
use super::fault::Fault;
use super::key::Key;
use crate::model::UnitName;
use std::collections::BTreeSet;

/// The daemon's own unit.
const BROKER: &str = "portbroker.service";

/// Names of services, as far as files tell: templates too, and what links lead to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Services {
    /// Those that there are.
    pub present: BTreeSet<String>,
    /// Those that are masked.
    pub masked: BTreeSet<String>,
}

/// What is known of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    There,
    Masked,
    Missing,
}

impl Services {
    fn presence(&self, unit: &UnitName) -> Presence {
        let template = unit.as_str().split_once('@').map(|(prefix, _)| format!("{prefix}@.service"));
        let names = || std::iter::once(unit.as_str()).chain(template.as_deref());
        // Of an instance and its template, the instance says more.
        for name in names() {
            if self.masked.contains(name) {
                return Presence::Masked;
            }
            if self.present.contains(name) {
                return Presence::There;
            }
        }
        Presence::Missing
    }
}

/// Says where a listener's service would not be started by a connection.
pub(super) fn check(definition: &Definition, services: Option<&Services>, faults: &mut Vec<Fault>) {
    let Some(unit) = &definition.config.activate else { return };
    let place = definition.place_of(Key::Activate);
    let name = &definition.name;
    if definition.config.idle != Idle::Queue {
        let idle = definition.config.idle;
        let fault = place.error(format!(
            "{name:?} cannot start {unit} while nobody holds it: with \"idle = {idle}\" connections do not wait for it"
        ));
        let other = definition.place_of(Key::Idle).origin.clone();
        faults.push(fault.help("take idle or activate out").related(other, "idle"));
    }
    if unit.as_str() == BROKER {
        return faults.push(place.error(format!("{name:?} cannot start {unit}, which is the broker itself")));
    }
    // A unit that says so itself is there.
    let Some(services) = services.filter(|_| definition.source != Source::Unit) else { return };
    match services.presence(unit) {
        Presence::There => {}
        Presence::Masked => {
            let fault = place.warning(format!("{unit} is masked, so no connection to {name:?} can start it"));
            faults.push(fault.help(format!("run \"systemctl unmask {unit}\"")));
        }
        Presence::Missing => {
            let fault =
                place.warning(format!("there is no {unit} that a connection to {name:?} could start"));
            faults.push(fault.help("mind the name, or install the service"));
        }
    }
}
