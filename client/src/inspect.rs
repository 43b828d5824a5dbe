//! What the broker says of itself and its listeners, as plain values.
//!
//! They are read from D-Bus properties. Properties that this version does not know are passed over, for
//! newer brokers have more; a missing one is an error.

use crate::error::Error;
use crate::pools::PoolStatus;
use crate::wire::{self, LearnedRow, LimitRow, ManagedObjects, SocketRow};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zbus::wire::OwnedVariant;

pub(crate) type Properties = HashMap<String, OwnedVariant>;

/// How the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// `running` or `degraded`.
    pub state: String,
    /// The version of the daemon.
    pub version: String,
    /// What is not as it was configured, a sentence each.
    pub faults: Vec<String>,
    /// What is configured and not in effect on sockets that are served without it, a sentence each.
    pub notes: Vec<String>,
    /// How many ports are protected because services listen on them; `None`: an older broker, which does not tell.
    pub learned_ports: Option<u32>,
    /// How much of each limit of `[limits]` is in use; `None`: an older broker, which does not tell.
    pub limits: Option<Vec<LimitStatus>>,
    /// What it found of an earlier broker's sockets when it started; `None`: it found none, or is an older broker.
    pub takeover: Option<Takeover>,
    /// All listeners, by name.
    pub listeners: Vec<ListenerStatus>,
    /// All pools, by name.
    pub pools: Vec<PoolStatus>,
}

/// How the broker is, without what there is of listeners and pools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `running` or `degraded`.
    pub state: String,
    /// What is not as it was configured, a sentence each.
    pub faults: Vec<String>,
    /// What is configured and not in effect on sockets that are served without it, a sentence each.
    pub notes: Vec<String>,
}

/// How much of a limit is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitStatus {
    /// Its key in `[limits]`.
    pub name: String,
    /// Its value as it is in effect: less than what is configured where the broker may not have so many descriptors.
    /// Sizes are in bytes, times in milliseconds.
    pub limit: u64,
    /// How much is in use; of a limit for each user, how much the one has that has most.
    pub used: u64,
    /// Who has most: `user 1000`, `nginx.service`.
    pub greatest: Option<String>,
    /// How often it was hit since the broker was started.
    pub hits: u64,
    /// Who hit it last, the last one first, and how often.
    pub hit_by: Vec<(String, u64)>,
}

impl From<LimitRow> for LimitStatus {
    fn from((name, limit, used, hits, greatest, hit_by): LimitRow) -> Self {
        Self { name, limit, used, greatest: (!greatest.is_empty()).then_some(greatest), hits, hit_by }
    }
}

/// What a broker found of an earlier one's sockets when it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Takeover {
    /// How many sockets, by what became of them: `stored` of them all, `kept`, `draining`, `lingering`, `let-go`, `unusable`,
    /// `left` where they are, since the broker may have no more descriptors; and of those that are configured and were not stored, `missing` and `new`. `changed`, `mended` and `replaced` are those
    /// that had not the state or the options that they should have. `holders` and `holders-gone` are who had them.
    pub counts: BTreeMap<String, u32>,
    /// What was not as it should be, and what became of it, a sentence each.
    pub differences: Vec<String>,
}

impl Takeover {
    fn read(manager: &mut Properties) -> Option<Self> {
        let counts: HashMap<String, u32> = take(manager, "Takeover").ok()?;
        let differences = take(manager, "TakeoverDifferences").unwrap_or_default();
        (!counts.is_empty()).then(|| Self { counts: counts.into_iter().collect(), differences })
    }
}

/// How a listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// `reserved`, `listening`, `failed`, or `lingering`: it is no longer configured, and somebody still has its sockets.
    pub state: String,
    /// Its sockets.
    pub sockets: Vec<SocketStatus>,
    /// Who holds it: `mariadb.service`, `nginx[812]`.
    pub holders: Vec<String>,
    /// What is configured and not in effect on its sockets, and what to do, a sentence each.
    pub notes: Vec<String>,
    /// What it does while nobody holds it, as in the configuration.
    pub idle: String,
    /// The service that is started on the first connection.
    pub activate: Option<String>,
    /// Why that service was started in vain, and when it is again.
    pub activation_error: Option<String>,
    /// Who may take it, as in the configuration.
    pub allow: Vec<String>,
    /// Where it is configured: `FILE:LINE`, or `inherited`.
    pub origin: String,
}

/// How one socket of a listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketStatus {
    /// `tcp 127.0.0.1:3306`, `unix /run/x.sock`.
    pub endpoint: String,
    /// `reserved`, `listening`, `failed`, `draining` or `lingering`.
    pub state: String,
    /// Its inode, as in `ss -e`; none where it could not be bound.
    pub inode: Option<u64>,
    /// Why it could not be bound; with an inode, what could not be changed of it.
    pub error: Option<String>,
}

/// What waits in one socket; `None` for what the kernel does not tell of such a socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queue {
    /// Connections that nobody has accepted yet; bytes of datagrams that nobody has read.
    pub waiting: Option<u32>,
    /// How much there is room for: `backlog`, the receive buffer.
    pub limit: Option<u32>,
    /// How many connections or datagrams found no room since the socket was made.
    pub overflows: Option<u32>,
}

impl Queue {
    pub(crate) fn read(facts: &HashMap<String, OwnedVariant>) -> Self {
        let number = |name: &str| facts.get(name).and_then(|value| u32::try_from(value.clone()).ok());
        Self { waiting: number("waiting"), limit: number("limit"), overflows: number("overflows") }
    }
}

impl Status {
    pub(crate) fn read(mut manager: Properties, mut objects: ManagedObjects) -> Result<Self, Error> {
        Ok(Self {
            state: take(&mut manager, "State")?,
            version: take(&mut manager, "Version")?,
            faults: take(&mut manager, "Faults")?,
            notes: take_notes(&mut manager),
            learned_ports: take(&mut manager, "LearnedPorts").ok(),
            limits: take::<Vec<LimitRow>>(&mut manager, "Limits").ok().map(rows),
            takeover: Takeover::read(&mut manager),
            pools: PoolStatus::read_all(&mut objects)?,
            listeners: ListenerStatus::read_all(objects)?,
        })
    }
}

impl Condition {
    pub(crate) fn read(mut manager: Properties) -> Result<Self, Error> {
        Ok(Self {
            state: take(&mut manager, "State")?,
            faults: take(&mut manager, "Faults")?,
            notes: take_notes(&mut manager),
        })
    }
}

fn rows(rows: Vec<LimitRow>) -> Vec<LimitStatus> {
    rows.into_iter().map(LimitStatus::from).collect()
}

impl ListenerStatus {
    pub(crate) fn read_all(objects: ManagedObjects) -> Result<Vec<Self>, Error> {
        let mut listeners = objects
            .into_values()
            .filter_map(|mut interfaces| interfaces.remove(wire::LISTENER_INTERFACE))
            .map(Self::read)
            .collect::<Result<Vec<_>, _>>()?;
        listeners.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listeners)
    }

    pub(crate) fn read(mut properties: Properties) -> Result<Self, Error> {
        let rows: Vec<SocketRow> = take(&mut properties, "Sockets")?;
        Ok(Self {
            name: take(&mut properties, "Name")?,
            state: take(&mut properties, "State")?,
            sockets: rows.into_iter().map(SocketStatus::from).collect(),
            holders: take(&mut properties, "Holders")?,
            notes: take_notes(&mut properties),
            idle: take(&mut properties, "Idle")?,
            activate: take_text(&mut properties, "Activate")?,
            activation_error: take_text(&mut properties, "ActivationError")?,
            allow: take(&mut properties, "Allow")?,
            origin: take(&mut properties, "Origin")?,
        })
    }
}

/// A port that is protected because a service listens on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LearnedPort {
    /// The port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Whose it is.
    pub unit: String,
    /// When it was seen first.
    pub first_seen: SystemTime,
    /// When it was seen last.
    pub last_seen: SystemTime,
}

impl From<LearnedRow> for LearnedPort {
    fn from((port, protocol, unit, first, last): LearnedRow) -> Self {
        let time = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH);
        Self { port, protocol, unit, first_seen: time(first), last_seen: time(last) }
    }
}

impl From<SocketRow> for SocketStatus {
    fn from((endpoint, state, inode, error): SocketRow) -> Self {
        Self {
            endpoint,
            state,
            inode: (inode != 0).then_some(inode),
            error: (!error.is_empty()).then_some(error),
        }
    }
}

/// An earlier broker has none.
fn take_notes(properties: &mut Properties) -> Vec<String> {
    take(properties, "Notes").unwrap_or_default()
}

/// A text that an earlier broker does not have, and that is empty where there is nothing to say.
fn take_text(properties: &mut Properties, name: &str) -> Result<Option<String>, Error> {
    if !properties.contains_key(name) {
        return Ok(None);
    }
    Ok(Some(take::<String>(properties, name)?).filter(|text| !text.is_empty()))
}

pub(crate) fn take<T>(properties: &mut Properties, name: &str) -> Result<T, Error>
where
    T: TryFrom<OwnedVariant>,
{
    let value = properties.remove(name).ok_or_else(|| Error::Reply(format!("no property {name}")))?;
    T::try_from(value)
        .map_err(|_| Error::Reply(format!("the property {name} has another type than it should")))
}
