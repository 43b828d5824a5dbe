//! One listener as one source defines it: assignments of keys in, a checked configuration out.
//!
//! Units and TOML spell their keys differently and are read by `section` and `toml`; from here on both are
//! the same. Every value keeps its place, for faults about it and for showing where it comes from.

use super::allow::{Accounts, GrantError};
use super::fault::{Fault, Place, quoted};
use super::idle::IdleError;
use super::key::Key;
use super::listen::{self, Address, BindIpv6Only, ListenError, MAX_ENDPOINTS};
use super::shards::{self, ShardsError};
use super::tuning::TuningError;
use super::{Account, Grant, ListenerConfig, SocketOptions, StreamProtocol};
use crate::model::{DeviceName, EndpointError, ListenerName, SocketKind, UnitName};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A value of a key, as written (specifiers expanded).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) key: Key,
    pub(super) text: String,
    pub(super) place: Place,
}

/// Which of the three sources a listener comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Unit,
    Toml,
    Inherited,
    /// Inherited, and a TOML file has options for it.
    InheritedWithOptions,
}

/// What a source says about a listener, before it is looked at.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: ListenerName,
    pub(super) place: Place,
    pub(super) source: Source,
    pub(super) assignments: Vec<Assignment>,
    /// Grants that it has without writing them: a unit's own.
    pub(super) grants: Vec<Grant>,
}

/// An address as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) kind: SocketKind,
    pub(super) text: String,
    pub(super) place: Place,
}

/// A listener as one source defines it, with the places of all its values.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Its name.
    pub name: ListenerName,
    /// What is configured.
    pub config: Arc<ListenerConfig>,
    pub(super) source: Source,
    pub(super) place: Place,
    /// As written. Those that are no addresses are here too.
    pub(super) addresses: Vec<Written>,
    /// For each of the configuration's endpoints, its index in `addresses`.
    pub(super) address_of: Vec<usize>,
    /// For each of the configuration's grants.
    pub(super) grant_places: Vec<Place>,
    /// Of the keys that have one value and were assigned.
    pub(super) places: BTreeMap<Key, Place>,
    pub(super) bind_ipv6_only: BindIpv6Only,
    pub(super) device: Option<DeviceName>,
}

/// Why a value cannot be used.
#[derive(Debug)]
struct Problem {
    message: String,
    help: Option<String>,
}

impl Problem {
    fn new(message: String, help: Option<String>) -> Self {
        Self { message, help }
    }

    fn at(self, place: &Place) -> Fault {
        Fault { help: self.help, ..place.error(self.message) }
    }
}

impl From<ListenError> for Problem {
    fn from(error: ListenError) -> Self {
        Self::new(error.to_string(), error.help())
    }
}

impl From<GrantError> for Problem {
    fn from(error: GrantError) -> Self {
        Self::new(error.to_string(), error.help())
    }
}

impl From<IdleError> for Problem {
    fn from(error: IdleError) -> Self {
        Self::new(error.to_string(), None)
    }
}

impl From<ShardsError> for Problem {
    fn from(error: ShardsError) -> Self {
        Self::new(error.to_string(), None)
    }
}

impl From<EndpointError> for Problem {
    fn from(error: EndpointError) -> Self {
        Self::new(error.to_string(), None)
    }
}

impl From<TuningError> for Problem {
    fn from(error: TuningError) -> Self {
        Self::new(error.to_string(), None)
    }
}

/// The booleans of systemd, `parse_boolean()`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

fn flag(text: &str) -> Result<bool, Problem> {
    boolean(text).ok_or_else(|| Problem::new(format!("{} is neither yes nor no", quoted(text)), None))
}

fn mode(text: &str) -> Result<u32, Problem> {
    let octal = (1..=5).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o7777 => Ok(mode),
        _ => Err(Problem::new(
            format!("{} is no file mode", quoted(text)),
            Some("write octal digits, as in \"0660\"".into()),
        )),
    }
}

fn backlog(text: &str) -> Result<u32, Problem> {
    // systemd takes an unsigned number; the kernel caps it far below what listen(2) takes.
    text.parse().map_err(|_| {
        Problem::new(format!("{} is no backlog: a number from 0 to 4294967295", quoted(text)), None)
    })
}

fn protocol(text: &str) -> Result<StreamProtocol, Problem> {
    match text {
        "tcp" => Ok(StreamProtocol::Tcp),
        "mptcp" => Ok(StreamProtocol::Mptcp),
        _ => Err(Problem::new(
            format!("{} is no protocol that can be held", quoted(text)),
            Some("write \"mptcp\", or \"tcp\", which is the default; SCTP and UDP-Lite are not held".into()),
        )),
    }
}

fn symlink(text: &str) -> Result<PathBuf, Problem> {
    let path: PathBuf = Path::new(text).components().collect();
    let plain = path.is_absolute()
        && path.file_name().is_some()
        && !path.components().any(|part| part == std::path::Component::ParentDir);
    if plain && text.len() < 4096 && !text.contains('\0') {
        Ok(path)
    } else {
        Err(Problem::new(format!("{} is no absolute path for a link", quoted(text)), None))
    }
}

fn owner(
    text: &str,
    kind: &str,
    find: impl Fn(&str) -> Option<Account>,
    place: &Place,
    faults: &mut Vec<Fault>,
) -> Result<Option<Account>, Problem> {
    let account = find(text)
        .ok_or_else(|| Problem::new(format!("{} is no {kind}: a name or a number", quoted(text)), None))?;
    if account.id.is_none() {
        let file = if kind == "user" { "/etc/passwd" } else { "/etc/group" };
        faults.push(place.warning(format!(
            "the {kind} {} is not in {file} yet; the socket is not made until it is, and the configuration is read again",
            quoted(text)
        )));
    }
    Ok(Some(account))
}

/// Warns of accounts that are not there: a grant to nobody is likely a typing error.
pub(super) fn warn_of_unknown(grant: &Grant, place: &Place, faults: &mut Vec<Fault>) {
    let accounts = [("user", "/etc/passwd", &grant.user), ("group", "/etc/group", &grant.group)];
    for (kind, file, account) in accounts {
        if let Some(Account { name, id: None }) = account {
            faults.push(place.warning(format!(
                "the {kind} {name:?} is not in {file} yet; the grant matches nobody until it is, and the configuration is read again"
            )));
        }
    }
}

impl Definition {
    fn new(draft: &Draft) -> Self {
        Self {
            name: draft.name.clone(),
            config: Arc::new(ListenerConfig {
                endpoints: Vec::new(),
                allow: draft.grants.clone(),
                idle: super::Idle::default(),
                activate: None,
                options: SocketOptions::default(),
                origin: draft.place.origin.clone(),
            }),
            source: draft.source,
            place: draft.place.clone(),
            addresses: Vec::new(),
            address_of: Vec::new(),
            grant_places: draft.grants.iter().map(|_| draft.place.clone()).collect(),
            places: BTreeMap::new(),
            bind_ipv6_only: BindIpv6Only::default(),
            device: None,
        }
    }

    /// Makes the definition that a draft stands for. What is wrong goes to `faults` and is left out.
    pub(super) fn of(draft: Draft, accounts: &Accounts, faults: &mut Vec<Fault>) -> Self {
        let mut definition = Self::new(&draft);
        // Mostly it is one: that many, and not as many as a growing vector takes.
        let written =
            draft.assignments.iter().filter(|assignment| assignment.key.listens().is_some()).count();
        let mut addresses = Vec::with_capacity(written);
        definition.addresses.reserve_exact(written);
        for assignment in draft.assignments {
            let place = assignment.place.clone();
            if let Err(problem) = definition.assign(assignment, accounts, &mut addresses, faults) {
                faults.push(problem.at(&place));
            }
        }
        definition.make_endpoints(&addresses, faults);
        definition
    }

    fn assign(
        &mut self,
        assignment: Assignment,
        accounts: &Accounts,
        addresses: &mut Vec<(SocketKind, Address, usize)>,
        faults: &mut Vec<Fault>,
    ) -> Result<(), Problem> {
        let Assignment { key, text, place } = assignment;
        let config = Arc::make_mut(&mut self.config);
        let options = &mut config.options;
        match key {
            Key::Stream | Key::Datagram | Key::SeqPacket => {
                return self.address(key, text, place, addresses);
            }
            Key::Allow => {
                let grant = accounts.grant(&text)?;
                warn_of_unknown(&grant, &place, faults);
                config.allow.push(grant);
                self.grant_places.push(place);
                return Ok(());
            }
            Key::Idle => config.idle = text.parse()?,
            Key::Activate => {
                let service = self.activated(&text)?;
                Arc::make_mut(&mut self.config).activate = service;
            }
            Key::Backlog => options.backlog = backlog(&text)?,
            Key::FreeBind => options.free_bind = flag(&text)?,
            Key::BindIpv6Only => {
                self.bind_ipv6_only = text.parse().map_err(|()| {
                    let message = format!("{} is not default, both or ipv6-only", quoted(&text));
                    Problem::new(message, None)
                })?;
            }
            Key::BindToDevice => self.device = Some(DeviceName::try_from(text.as_str())?),
            Key::SocketMode => options.socket_mode = mode(&text)?,
            Key::DirectoryMode => options.directory_mode = mode(&text)?,
            Key::ReusePort => options.shards = shards::parse(&text, self.source)?,
            Key::SocketUser => {
                options.socket_user = owner(&text, "user", |name| accounts.user(name), &place, faults)?;
            }
            Key::SocketGroup => {
                options.socket_group = owner(&text, "group", |name| accounts.group(name), &place, faults)?;
            }
            Key::Protocol => options.protocol = protocol(&text)?,
            Key::Symlinks => {
                let link = symlink(&text)?;
                if !options.symlinks.contains(&link) {
                    options.symlinks.push(link);
                }
            }
            Key::RemoveOnStop => options.remove_on_stop = flag(&text)?,
            Key::Tune(tunable) => {
                let value = tunable.read(&text)?;
                options.tuning.insert(tunable, value);
            }
        }
        self.places.insert(key, place);
        Ok(())
    }

    fn address(
        &mut self,
        key: Key,
        text: String,
        place: Place,
        addresses: &mut Vec<(SocketKind, Address, usize)>,
    ) -> Result<(), Problem> {
        let kind = key.listens().unwrap_or(SocketKind::Stream);
        let parsed = text.parse::<Address>();
        let index = self.addresses.len();
        self.addresses.push(Written { kind, text, place });
        let address = parsed?;
        let already: usize = addresses.iter().map(|(_, address, _)| address.count()).sum();
        if already.saturating_add(address.count()) > MAX_ENDPOINTS {
            let message =
                format!("the listener {:?} would have more than {MAX_ENDPOINTS} sockets", self.name.as_str());
            return Err(Problem::new(message, Some("make it several listeners".into())));
        }
        addresses.push((kind, address, index));
        Ok(())
    }

    fn make_endpoints(&mut self, addresses: &[(SocketKind, Address, usize)], faults: &mut Vec<Fault>) {
        let plain: Vec<_> = addresses.iter().map(|(kind, address, _)| (*kind, address.clone())).collect();
        let written = |index: usize| addresses.get(index).map_or(0, |(_, _, written)| *written);
        match listen::endpoints(&plain, self.bind_ipv6_only, self.device.as_ref()) {
            Ok(endpoints) => {
                let config = Arc::make_mut(&mut self.config);
                config.endpoints.reserve_exact(endpoints.len());
                for (endpoint, index) in endpoints {
                    config.endpoints.push(endpoint);
                    self.address_of.push(written(index));
                }
            }
            Err((error, index)) => {
                let place = self.addresses.get(written(index)).map_or(&self.place, |w| &w.place);
                faults.push(Problem::from(error).at(place));
            }
        }
    }

    /// `activate`: a service by its name in TOML; in a unit whether it is that unit.
    fn activated(&self, text: &str) -> Result<Option<UnitName>, Problem> {
        if self.source == Source::Unit {
            return Ok(flag(text)?.then(|| self.config.origin.unit.clone()).flatten());
        }
        let service = UnitName::try_from(text).ok().filter(|unit| unit.as_str().ends_with(".service"));
        let template = service.as_ref().is_some_and(|unit| unit.stem().ends_with('@'));
        match service {
            Some(unit) if !template => Ok(Some(unit)),
            _ => Err(Problem::new(
                format!("{} is no service that could be started", quoted(text)),
                Some("write its name in full, as in \"nginx.service\" or \"web@1.service\"".into()),
            )),
        }
    }

    /// Where the `index`-th of the configuration's endpoints is written.
    pub(super) fn endpoint_place(&self, index: usize) -> &Place {
        let written = self.address_of.get(index).and_then(|&written| self.addresses.get(written));
        written.map_or(&self.place, |written| &written.place)
    }

    /// Where a key is assigned, or else the listener itself.
    pub(super) fn place_of(&self, key: Key) -> &Place {
        self.places.get(&key).unwrap_or(&self.place)
    }
}
