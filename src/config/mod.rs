//! Configuration: text in, a valid [`Config`] or all its faults out. No I/O: `sources` reads the files.

mod activate;
mod allow;
mod check;
mod check_options;
mod definition;
mod fault;
mod idle;
pub mod import;
mod key;
mod limits;
mod listen;
mod merge;
mod metrics;
mod plain;
mod pool;
pub mod pool_callers;
mod pool_definition;
mod pool_values;
mod render;
pub mod section;
mod shards;
mod shared_path;
pub mod show;
pub mod socket_keys;
mod sockets;
mod span;
mod toml;
mod tuning;
pub mod units;

pub use activate::Services;
pub use allow::Accounts;
pub use definition::Definition;
pub use fault::{Fault, Severity};
pub use limits::{LOG_SPAN, Limit, Limits};
pub use merge::{Checked, Sources, build};
pub use metrics::{Metrics, MetricsSocket};
pub use pool::{
    AddressSpec, MOST_ADDRESSES, MOST_OF_A_PREFIX, PoolConfig, PoolGrant, PortsSpec, Quota, Spread,
};
pub use render::{Colour, render};
pub use shared_path::SharedPath;
pub use toml::TomlFile;
pub use tuning::{Tunable, Tuning, TuningError, TuningValue};

use crate::model::{Endpoint, ListenerName, PoolName, PortSet, Protocol, UnitName};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything that was configured, merged from all sources, checked as a whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// By name.
    pub listeners: BTreeMap<ListenerName, Arc<ListenerConfig>>,
    /// By name. None at all: there is a pool `default`.
    pub pools: BTreeMap<PoolName, PoolConfig>,
    /// `[protect]`
    pub protect: Protect,
    /// `[limits]`
    pub limits: Limits,
    /// `[metrics]`
    pub metrics: Metrics,
    /// Ports that enabled socket units name, which systemd holds and not we.
    pub socket_units: Vec<SocketUnitPort>,
}

/// Ports to keep out of ephemeral allocation without holding them.
#[derive(Debug, Clone, PartialEq)]
pub struct Protect {
    /// `ports`
    pub ports: PortSet,
    /// `learn`: whether the ports that services listen on are found out and protected too.
    pub learn: bool,
    /// `exclude`: never learned.
    pub exclude: PortSet,
}

impl Default for Protect {
    fn default() -> Self {
        Self { ports: PortSet::default(), learn: true, exclude: PortSet::default() }
    }
}

/// A port of an enabled socket unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketUnitPort {
    /// The socket unit.
    pub unit: UnitName,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// One listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerConfig {
    /// Its sockets, in the order of the configuration. Empty: an inherited listener's options only.
    pub endpoints: Vec<Endpoint>,
    /// Who may take it, besides root.
    pub allow: Vec<Grant>,
    /// What its sockets do while nobody holds it.
    pub idle: Idle,
    /// The service that is started on the first connection.
    pub activate: Option<UnitName>,
    /// How its sockets are made.
    pub options: SocketOptions,
    /// Where it is written.
    pub origin: Origin,
}

/// What a listener does while nobody holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Idle {
    /// Listens; connections wait in the accept queue.
    #[default]
    Queue,
    /// Bound, clients are refused.
    Refuse,
    /// Queues for this long after the holder went, then refuses.
    QueueFor(Duration),
    /// Datagrams are thrown away.
    Drop,
}

/// How the sockets of a listener are made; the names are those of systemd.socket(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOptions {
    /// `Backlog=`, listen(2); the kernel caps it at net.core.somaxconn.
    pub backlog: u32,
    /// `FreeBind=`, `IP_FREEBIND`: bind addresses that are not there (yet).
    pub free_bind: bool,
    /// `SocketMode=` of a path.
    pub socket_mode: u32,
    /// `SocketUser=` of a path.
    pub socket_user: Option<Account>,
    /// `SocketGroup=` of a path.
    pub socket_group: Option<Account>,
    /// `DirectoryMode=` of missing parent directories.
    pub directory_mode: u32,
    /// `SocketProtocol=` of streams of the internet families.
    pub protocol: StreamProtocol,
    /// `Symlinks=` that lead to the path.
    pub symlinks: Vec<PathBuf>,
    /// `RemoveOnStop=`: the path goes when the broker is stopped for good.
    pub remove_on_stop: bool,
    /// What has a number or a word as its value.
    pub tuning: Tuning,
    /// `reuse-port`: how many sockets each address has, a group by `SO_REUSEPORT`.
    pub shards: u16,
}

/// What streams of the internet families speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// Multipath TCP; TCP where the kernel has none. Clients of either can connect.
    Mptcp,
}

impl StreamProtocol {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Mptcp => "mptcp",
        }
    }
}

impl ListenerConfig {
    /// How many sockets it has in all: each address has its shards.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.endpoints.len().saturating_mul(usize::from(self.options.shards))
    }
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            backlog: 4096,
            free_bind: true,
            socket_mode: 0o666,
            socket_user: None,
            socket_group: None,
            directory_mode: 0o755,
            protocol: StreamProtocol::default(),
            symlinks: Vec::new(),
            remove_on_stop: false,
            tuning: Tuning::new(),
            shards: 1,
        }
    }
}

/// A user or group as it was written, and its id where /etc/passwd or /etc/group (or the text itself) tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// As written.
    pub name: String,
    /// `None`: unknown so far.
    pub id: Option<u32>,
}

/// A rule of `allow`: all that is given must hold. `unit:x.service+user:y`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    /// `unit:`, a system unit.
    pub unit: Option<UnitName>,
    /// `user:`
    pub user: Option<Account>,
    /// `group:`
    pub group: Option<Account>,
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Origin {
    /// The file; empty for a socket that was inherited.
    pub file: SharedPath,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// The unit whose section it is.
    pub unit: Option<UnitName>,
}
