//! All three sources, one configuration.
//!
//! [`build`] is pure and stops at nothing: every fault of every source is in its result, and the
//! configuration beside them is what would be there without what is faulty. It may be used only where
//! [`Checked::is_valid`].

use super::activate::{self, Services};
use super::check::{self, AddressBook};
use super::check_options;
use super::definition::{Definition, Draft, Source, Written};
use super::fault::{Fault, Place};
use super::key::Key;
use super::pool_definition::{self, PoolDefinition};
use super::section::{self, UnitSection};
use super::shards;
use super::sockets::SocketUnit;
use super::toml::{self, TomlFile};
use super::units::{self, Unit};
use super::{Accounts, Config, ListenerConfig, Origin};
use crate::model::{Endpoint, InetEndpoint, ListenerName};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// The most sockets of all listeners together: more than one process can have descriptors by default.
const MAX_TOTAL: usize = 65_536;
/// The most faults that are shown.
const MAX_FAULTS: usize = 200;

/// Everything that a configuration is made of, read and not yet understood.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// In the order in which they apply.
    pub files: Vec<TomlFile>,
    /// Service units with a section of ours, and all socket units.
    pub units: Vec<Unit>,
    /// Which services there are; `None` where that is not known.
    pub services: Option<Services>,
    /// Sockets that came from outside; `None` where that is not known, as for `portbroker check`, which goes
    /// by the socket units then.
    pub inherited: Option<Vec<(ListenerName, Vec<Endpoint>)>>,
    /// The users and groups of the host.
    pub accounts: Accounts,
    /// When any of the files was changed last, since the epoch: what was changed just now may be half written.
    pub changed: Option<Duration>,
    /// What went wrong while reading.
    pub faults: Vec<Fault>,
}

/// A configuration and all that is wrong with it.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// To be used only where there is no error.
    pub config: Config,
    /// By place.
    pub faults: Vec<Fault>,
    pub(super) definitions: Vec<Definition>,
    pub(super) pools: Vec<PoolDefinition>,
    pub(super) sections: Vec<UnitSection>,
    pub(super) protect: toml::ProtectSection,
    pub(super) limits: toml::LimitsSection,
    pub(super) metrics: toml::MetricsSection,
}

impl Checked {
    /// Whether it can be used: it may have warnings, and no errors.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.faults.iter().any(Fault::is_error)
    }

    /// The units' sections, in the order of the units.
    #[must_use]
    pub fn sections(&self) -> &[UnitSection] {
        &self.sections
    }
}

/// Makes the configuration that the sources give, and says all that is wrong with it.
#[must_use]
pub fn build(sources: &Sources) -> Checked {
    let mut faults = sources.faults.clone();
    let sockets: Vec<_> = sources.units.iter().filter_map(SocketUnit::of).collect();
    let mut definitions: Vec<Definition> = match &sources.inherited {
        Some(inherited) => {
            inherited.iter().map(|(name, endpoints)| inherited_listener(name, endpoints)).collect()
        }
        None => sockets.iter().filter_map(listener_of_socket_unit).collect(),
    };
    let inherited = definitions.len();
    let sections = units(sources, &mut definitions, &mut faults);
    let Files { protect, limits, metrics, pools } = files(sources, &mut definitions, inherited, &mut faults);
    cap(&mut definitions, &mut faults);
    check::names(&definitions, &mut faults);
    let book = AddressBook::of(&definitions, &mut faults);
    check::socket_units(&sockets, &definitions, &book, &mut faults);
    definitions.iter().for_each(|definition| check::idle(definition, &mut faults));
    check_options::options(&definitions, &mut faults);
    definitions
        .iter()
        .for_each(|definition| activate::check(definition, sources.services.as_ref(), &mut faults));
    definitions.iter().for_each(|definition| shards::check(definition, &mut faults));
    let config = Config {
        pools: pool_definition::by_name(&pools),
        listeners: by_name(&definitions),
        protect: protect.settings(),
        limits: limits.settings(),
        metrics: metrics.settings(),
        socket_units: sockets.iter().flat_map(SocketUnit::ports).collect(),
    };
    pool_definition::check(&pools, &config, &mut faults);
    Checked { config, faults: in_order(faults), definitions, pools, sections, protect, limits, metrics }
}

fn by_name(definitions: &[Definition]) -> BTreeMap<ListenerName, Arc<ListenerConfig>> {
    // Of several of one name the first counts: they are sorted as they come, and the last one stays.
    let by_name = |definition: &Definition| (definition.name.clone(), Arc::clone(&definition.config));
    definitions.iter().rev().map(by_name).collect()
}

fn inherited(name: &ListenerName, origin: &Origin, endpoints: Vec<(Endpoint, Origin)>) -> Definition {
    let place = Place { origin: origin.clone(), width: 0 };
    let draft = Draft {
        name: name.clone(),
        place,
        source: Source::Inherited,
        assignments: Vec::new(),
        grants: Vec::new(),
    };
    let mut definition = Definition::of(draft, &Accounts::default(), &mut Vec::new());
    for (endpoint, origin) in endpoints {
        let text = endpoint.to_string();
        let address = text.split_once(' ').map_or(text.as_str(), |(_, address)| address).to_owned();
        definition.address_of.push(definition.addresses.len());
        let place = Place { origin, width: 0 };
        definition.addresses.push(Written { kind: endpoint.kind(), text: address, place });
        Arc::make_mut(&mut definition.config).endpoints.push(endpoint);
    }
    definition
}

fn inherited_listener(name: &ListenerName, endpoints: &[Endpoint]) -> Definition {
    let endpoints = endpoints.iter().map(|endpoint| (endpoint.clone(), Origin::default())).collect();
    inherited(name, &Origin::default(), endpoints)
}

fn listener_of_socket_unit(socket: &SocketUnit) -> Option<Definition> {
    let name = socket.descriptor_name.as_ref().filter(|_| socket.is_ours())?;
    Some(inherited(name, &socket.origin, socket.endpoints.clone()))
}

fn units(sources: &Sources, definitions: &mut Vec<Definition>, faults: &mut Vec<Fault>) -> Vec<UnitSection> {
    let mut sections = Vec::new();
    for unit in sources.units.iter().filter(|unit| unit.has_section(units::SECTION)) {
        let section = section::read(unit, &sources.accounts, faults);
        check::service(unit, &section.listeners, faults);
        definitions.extend(section.listeners.iter().cloned());
        sections.push(section);
    }
    sections
}

/// What the files say of everything but listeners.
#[derive(Default)]
struct Files {
    protect: toml::ProtectSection,
    limits: toml::LimitsSection,
    metrics: toml::MetricsSection,
    pools: Vec<PoolDefinition>,
}

fn files(
    sources: &Sources,
    definitions: &mut Vec<Definition>,
    inherited: usize,
    faults: &mut Vec<Fault>,
) -> Files {
    let mut files = Files::default();
    for file in &sources.files {
        let parsed = toml::read(file, &sources.accounts, faults);
        files.protect.add(parsed.protect);
        files.limits.add(parsed.limits);
        files.metrics.add(parsed.metrics);
        for (name, place, draft) in parsed.pools {
            files.pools.push(PoolDefinition::of(name, place, draft, &sources.accounts, faults));
        }
        definitions.reserve(parsed.definitions.len());
        for toml::Read { definition, incomplete } in parsed.definitions {
            if incomplete && definition.addresses.is_empty() {
                continue;
            }
            // They are the first ones: all would be looked at for each one.
            let inherited = definitions
                .iter()
                .take(inherited)
                .position(|other| other.source == Source::Inherited && is_the_same(other, &definition));
            match inherited.and_then(|index| definitions.get_mut(index)) {
                Some(inherited) => options(definition, inherited, faults),
                None => {
                    if definition.addresses.is_empty() && !has_name(definitions, &definition.name) {
                        faults.push(without_addresses(&definition, sources.inherited.is_some()));
                    }
                    definitions.push(definition);
                }
            }
        }
    }
    files
}

fn has_name(definitions: &[Definition], name: &ListenerName) -> bool {
    definitions.iter().any(|definition| definition.name == *name)
}

/// Whether a `[[listener]]` is about an inherited one: it has its name, and no addresses or just these.
///
/// The same addresses are what the daemon's own copy of a configuration has for it.
fn is_the_same(inherited: &Definition, listener: &Definition) -> bool {
    let places = |definition: &Definition| -> HashSet<Endpoint> {
        definition.config.endpoints.iter().map(in_one_form).collect()
    };
    inherited.name == listener.name
        && (listener.addresses.is_empty() || places(inherited) == places(listener))
}

/// IPV6_V6ONLY makes a difference for wildcards only, and others set it as they like.
fn in_one_form(endpoint: &Endpoint) -> Endpoint {
    match endpoint {
        Endpoint::Inet(inet) if !inet.is_wildcard() => {
            Endpoint::Inet(InetEndpoint { v6only: false, ..inet.clone() })
        }
        other => other.clone(),
    }
}

/// Gives an inherited listener the options of a `[[listener]]`.
fn options(mut options: Definition, inherited: &mut Definition, faults: &mut Vec<Fault>) {
    for (key, place) in &options.places {
        if !matches!(key, Key::Idle | Key::Activate | Key::Backlog | Key::Tune(_))
            && options.addresses.is_empty()
        {
            let fault = place.warning(format!(
                "\"{key}\" does nothing for {:?}, whose sockets came from outside",
                options.name
            ));
            faults.push(fault.help("set it where they are made"));
        }
    }
    let endpoints = std::mem::take(&mut Arc::make_mut(&mut inherited.config).endpoints);
    if options.addresses.is_empty() {
        options.addresses = std::mem::take(&mut inherited.addresses);
        options.address_of = std::mem::take(&mut inherited.address_of);
    } else {
        let written: HashMap<_, _> = options
            .config
            .endpoints
            .iter()
            .map(in_one_form)
            .zip(options.address_of.iter().copied())
            .collect();
        let index = |endpoint| written.get(&in_one_form(endpoint)).copied().unwrap_or_default();
        options.address_of = endpoints.iter().map(index).collect();
    }
    Arc::make_mut(&mut options.config).endpoints = endpoints;
    // So that options given a second time are a name defined twice.
    options.source = Source::InheritedWithOptions;
    *inherited = options;
}

/// A `[[listener]]` without addresses, and no inherited one of its name.
fn without_addresses(definition: &Definition, known: bool) -> Fault {
    let name = &definition.name;
    if known {
        let message =
            format!("the listener {name:?} has no address, and no socket of that name was inherited");
        return definition.place.error(message).help("add a line as in stream = [\"0.0.0.0:80\"]");
    }
    let message = format!(
        "the listener {name:?} has no address: it is one only if the broker is started with a socket of that name"
    );
    let help = "add a line as in stream = [\"0.0.0.0:80\"] if it is not meant to be inherited";
    definition.place.warning(message).help(help)
}

/// Leaves out the endpoints that are too many, and says so.
fn cap(definitions: &mut [Definition], faults: &mut Vec<Fault>) {
    let mut total = 0usize;
    let mut said = false;
    for definition in definitions {
        total = total.saturating_add(definition.config.sockets());
        if total > MAX_TOTAL {
            Arc::make_mut(&mut definition.config).endpoints.clear();
            definition.address_of.clear();
            if !said {
                let fault = definition
                    .place
                    .error(format!("all listeners together have more than {MAX_TOTAL} sockets"));
                faults.push(fault.help("name fewer ports"));
                said = true;
            }
        }
    }
}

/// By place, each once, and no more than can be read.
fn in_order(mut faults: Vec<Fault>) -> Vec<Fault> {
    let order =
        |fault: &Fault| (fault.origin.file.clone(), fault.origin.line, fault.origin.column, fault.severity);
    faults.sort_by_cached_key(order);
    faults.dedup();
    if faults.len() > MAX_FAULTS {
        let more = faults.split_off(MAX_FAULTS);
        let origin =
            Origin { line: 0, column: 0, ..more.first().map(|f| f.origin.clone()).unwrap_or_default() };
        let message = format!("{} more faults are not shown, from here on", more.len());
        faults.push(if more.iter().any(Fault::is_error) {
            Fault::error(origin, message)
        } else {
            Fault::warning(origin, message)
        });
    }
    faults
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
