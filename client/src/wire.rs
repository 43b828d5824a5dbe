//! The D-Bus interface as names, types and proxies: what the daemon serves and its clients call.
//!
//! One interface, two transports: the system bus (under [`BUS_NAME`]) and, peer to peer and without a
//! name, the unix socket [`SOCKET_PATH`]. Methods, errors and policy are the same.

use std::collections::HashMap;
use zbus::wire::{ObjectPath, OwnedFd, OwnedObjectPath, OwnedVariant, Variant};

/// The well-known name on the system bus.
pub const BUS_NAME: &str = "org.portbroker.PortBroker1";
/// The unix socket that serves the interface peer to peer.
pub const SOCKET_PATH: &str = "/run/portbroker/bus";
/// The object that has [`MANAGER_INTERFACE`].
pub const MANAGER_PATH: &str = "/org/portbroker/PortBroker1";
/// The interface of the manager.
pub const MANAGER_INTERFACE: &str = "org.portbroker.PortBroker1.Manager";
/// The interface of each object below [`LISTENER_PREFIX`].
pub const LISTENER_INTERFACE: &str = "org.portbroker.PortBroker1.Listener";
/// What the path of every listener begins with; see [`listener_path`].
pub const LISTENER_PREFIX: &str = "/org/portbroker/PortBroker1/listener/";
/// The interface of each object below [`POOL_PREFIX`].
pub const POOL_INTERFACE: &str = "org.portbroker.PortBroker1.Pool";
/// What the path of every pool begins with; see [`pool_path`].
pub const POOL_PREFIX: &str = "/org/portbroker/PortBroker1/pool/";
/// What the path of every session begins with: its number follows. A session has no interface of its own.
pub const SESSION_PREFIX: &str = "/org/portbroker/PortBroker1/session/";
/// What the name of every error of ours begins with.
pub const ERROR_PREFIX: &str = "org.portbroker.PortBroker1.Error.";

/// dbus-daemon disconnects the sender of a message with more descriptors than this.
pub const MAX_SOCKETS_ON_A_BUS: usize = 16;
/// A row of the property Limits: the key of `[limits]`, its value as it is in effect, how much of it is in use (of a
/// limit for each, by who has most), how often it was hit since the start, who has most, and who hit it how often.
pub type LimitRow = (String, u64, u64, u64, String, Vec<(String, u64)>);

/// `SCM_MAX_FD`: the kernel takes no more in one message.
pub const MAX_SOCKETS_PEER_TO_PEER: usize = 253;

/// Option of AcquireListeners, `s`: who holds the listener from now on.
/// `"process"` (the default), or `"unit"`: the caller's systemd unit, as `portbroker deposit` asks for.
pub const OPTION_HOLDER: &str = "holder";

/// Option of LeaseBlocks, `u`: be content with so many ports where there are not as many as asked for (default: all
/// or nothing).
pub const OPTION_MINIMUM: &str = "minimum";
/// Option of LeaseBlocks, `b`: the ports are for later. Where little is left of what the caller may have, it is given an
/// eighth of that, and no fewer than its minimum, so that others find the rest.
pub const OPTION_AHEAD: &str = "ahead";
/// Option of LeasePairs, LeaseBlocks and LeaseSockets, `u`: wait so many milliseconds, at most [`MAX_WAIT`], for ports
/// where others have them (default: refuse at once).
///
/// Callers (units, or users) take turns. What only the caller itself can give back, its own quota, is not waited for. A
/// request that does not wait gets nothing for which others wait, but for the caller's guaranteed minimum. Leases for any
/// destination come after those with one. The call is answered when there are ports, with the error Exhausted when the time is up, and
/// with NoSuchSession when the session ends. It waits no more when its connection or session ends. Other calls of the same
/// connection are answered meanwhile. (libdbus and sd-bus give up after 25 seconds by themselves: say otherwise.)
pub const OPTION_WAIT: &str = "wait";
/// The longest wait, in milliseconds: ten minutes.
pub const MAX_WAIT: u32 = 600_000;
/// Option of Evict, `b`: close services too, those that listen and those that receive datagrams.
pub const OPTION_FORCE: &str = "force";
/// Sockets that Evict closes at a time.
pub const MAX_EVICTED: usize = 1000;
/// Option of what administers (Reload, Release, DrainAddress, Evict), `b`: where polkit lets nobody do it who has not
/// authenticated, the user is asked for a password, and the call may take two minutes. The flag of a D-Bus message that
/// allows interactive authorization means the same.
///
/// Reload and Release came without options, and are documented by introspection as they came; they take this one as a
/// last argument, `a{sv}`.
pub const OPTION_INTERACTIVE: &str = "interactive";
/// What the error NotAllowed has beside its text (the body is `sa{sv}`), `b`: true where the same would be allowed to who
/// authenticates, and is asked with [`OPTION_INTERACTIVE`].
pub const DETAIL_CHALLENGE: &str = "challenge";
/// How long somebody may take to authenticate, in seconds.
pub const MAX_AUTHENTICATION: u64 = 120;
/// Option of DrainAddress, `b`: take the address back into use.
pub const OPTION_UNDO: &str = "undo";
/// Ports that one lease has at most.
pub const MAX_PORTS_OF_A_LEASE: u32 = 65_536;
/// Rows that ListLeases answers with at most.
pub const MAX_LEASE_ROWS: u32 = 10_000;
/// Rows that ListForecasts answers with at most: more destinations are not followed.
pub const MAX_FORECAST_ROWS: u32 = 256;

/// Listeners that one call of ListQueues looks at, at most.
pub const MAX_LISTENERS_LOOKED_AT: u32 = 1000;
/// Rows that ListEvents answers with at most.
pub const MAX_EVENT_ROWS: u32 = 1000;

/// The errors of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorName {
    /// No listener has that name.
    NoSuchListener,
    /// No pool has that name.
    NoSuchPool,
    /// No grant lets this caller do it.
    NotAllowed,
    /// No session has that number, or it has ended.
    NoSuchSession,
    /// The pool has nothing left for that destination.
    Exhausted,
    /// The caller has all that its quota gives it.
    QuotaExceeded,
    /// More sockets than one message takes.
    TooManySockets,
    /// An argument is not what the member takes.
    BadArgument,
    /// The listener could not be bound yet.
    NotReady,
    /// The new configuration has faults, and the old one goes on.
    InvalidConfiguration,
}

impl ErrorName {
    const ALL: [(Self, &'static str); 10] = [
        (Self::NoSuchListener, "NoSuchListener"),
        (Self::NoSuchPool, "NoSuchPool"),
        (Self::NoSuchSession, "NoSuchSession"),
        (Self::NotAllowed, "NotAllowed"),
        (Self::Exhausted, "Exhausted"),
        (Self::QuotaExceeded, "QuotaExceeded"),
        (Self::TooManySockets, "TooManySockets"),
        (Self::BadArgument, "BadArgument"),
        (Self::NotReady, "NotReady"),
        (Self::InvalidConfiguration, "InvalidConfiguration"),
    ];

    /// The last part of the name: `NoSuchListener`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(name, _)| *name == self).map_or("", |(_, text)| text)
    }

    /// The name as it is in a D-Bus message.
    #[must_use]
    pub fn full(self) -> String {
        format!("{ERROR_PREFIX}{}", self.as_str())
    }

    /// Reads a full name; `None` where it is not one of ours.
    #[must_use]
    pub fn from_full(name: &str) -> Option<Self> {
        let short = name.strip_prefix(ERROR_PREFIX)?;
        Self::ALL.iter().find(|(_, text)| *text == short).map(|(name, _)| *name)
    }
}

/// The object path of a listener: every byte that is no ASCII letter or digit becomes `_xx`, and so does a
/// digit at the beginning, as systemd does it (`bus_label_escape()`).
#[must_use]
pub fn listener_path(name: &str) -> String {
    path(LISTENER_PREFIX, name)
}

/// The name of the listener at an object path; `None` where the path is not one of [`listener_path`]'s.
#[must_use]
pub fn listener_name(path: &str) -> Option<String> {
    name(LISTENER_PREFIX, path)
}

/// The object path of a pool, made as that of a listener is.
#[must_use]
pub fn pool_path(name: &str) -> String {
    path(POOL_PREFIX, name)
}

/// The name of the pool at an object path; `None` where the path is not one of [`pool_path`]'s.
#[must_use]
pub fn pool_name(path: &str) -> Option<String> {
    name(POOL_PREFIX, path)
}

fn path(prefix: &str, name: &str) -> String {
    let mut path = String::from(prefix);
    for (n, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (n > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

fn name(prefix: &str, full: &str) -> Option<String> {
    let label = full.strip_prefix(prefix)?;
    let mut name = String::new();
    let mut rest = label;
    while let Some(c) = rest.chars().next() {
        let (decoded, taken) = if c == '_' {
            (char::from(u8::from_str_radix(rest.get(1..3)?, 16).ok()?), 3)
        } else {
            (c, c.len_utf8())
        };
        name.push(decoded);
        rest = rest.get(taken..)?;
    }
    (path(prefix, &name) == full).then_some(name)
}

/// The manager.
///
/// Timeouts: none; the daemon answers at once, or is being restarted, and then the call waits.
#[zbus::proxy(
    interface = "org.portbroker.PortBroker1.Manager",
    default_service = "org.portbroker.PortBroker1",
    default_path = "/org/portbroker/PortBroker1"
)]
pub trait Manager {
    /// Sockets of the named listeners, in the order asked for, all sockets of a name together, each
    /// listening (stream) or open (datagram), close-on-exec.
    ///
    /// At most 16 sockets over a bus and 253 peer to peer. Options: [`OPTION_HOLDER`].
    /// Errors: NoSuchListener, NotAllowed, NotReady, TooManySockets, BadArgument; all or nothing.
    fn acquire_listeners(
        &self,
        names: &[&str],
        options: HashMap<&str, Variant<'_>>,
    ) -> zbus::Result<Vec<(String, OwnedFd)>>;

    /// Names of the listeners that the caller's systemd unit has been handed for its own descriptor store since
    /// the boot: what may be there still, under names that are not configured any more.
    fn list_deposits(&self) -> zbus::Result<Vec<String>>;

    /// The ports that are protected because services were seen listening on them, or socket units name them.
    fn list_learned(&self) -> zbus::Result<Vec<LearnedRow>>;

    /// Forgets a learned port, until its unit is seen listening on it in two new lives. For root.
    /// Errors: BadArgument where it is not learned, NotAllowed.
    fn forget_port(&self, port: u16) -> zbus::Result<()>;

    /// A session, and the lifeline that its leases hang on: they end when its last copy is closed. The reading side is
    /// the broker's, so nothing need ever be written. No options yet.
    /// Errors: NotAllowed where the caller has too many.
    fn open_session(&self, options: HashMap<&str, Variant<'_>>) -> zbus::Result<(OwnedObjectPath, OwnedFd)>;

    /// Single source addresses and ports, for a program that binds them itself (`SO_REUSEADDR` on for TCP, off for
    /// UDP), one by one: the number of the lease, and the pairs.
    ///
    /// `protocol` is `tcp` or `udp`, `destination` is `ADDR:PORT`, or empty for any. Nobody else is leased the same
    /// source for the same destination; nobody else at all where the lease is for any destination, or for UDP.
    /// All or nothing. Options: [`OPTION_WAIT`]. Errors: NoSuchPool, NoSuchSession, NotAllowed, BadArgument, QuotaExceeded, Exhausted ([`ExhaustedRow`]).
    fn lease_pairs(
        &self,
        session: &ObjectPath<'_>,
        pool: &str,
        protocol: &str,
        destination: &str,
        count: u32,
        options: HashMap<&str, Variant<'_>>,
    ) -> zbus::Result<(u64, Vec<(String, u16)>)>;

    /// As LeasePairs, in ranges: `(address, first, last)`. Options: [`OPTION_MINIMUM`], [`OPTION_AHEAD`] and
    /// [`OPTION_WAIT`].
    fn lease_blocks(
        &self,
        session: &ObjectPath<'_>,
        pool: &str,
        protocol: &str,
        destination: &str,
        ports: u32,
        options: HashMap<&str, Variant<'_>>,
    ) -> zbus::Result<(u64, Vec<(String, u16, u16)>)>;

    /// As LeasePairs, as sockets, at most 16 over a bus and 253 peer to peer: TCP sockets are bound and not yet
    /// connected, UDP sockets are connected where a destination was given. They are of the broker's network namespace:
    /// a caller in another one needs a grant with `sockets`. Options: [`OPTION_WAIT`].
    /// Errors: TooManySockets besides.
    fn lease_sockets(
        &self,
        session: &ObjectPath<'_>,
        pool: &str,
        protocol: &str,
        destination: &str,
        count: u32,
        options: HashMap<&str, Variant<'_>>,
    ) -> zbus::Result<(u64, Vec<(String, u16, OwnedFd)>)>;

    /// Ends a lease of the caller's (the same unit, or user where it has none); root, and whom polkit lets, may end any.
    /// Options, as a last argument that may be left out: [`OPTION_INTERACTIVE`].
    /// Errors: BadArgument where there is no such lease, NotAllowed.
    fn release(&self, lease: u64) -> zbus::Result<()>;

    /// The leases with a number above `after`, at most `most` of them (and at most [`MAX_LEASE_ROWS`]), by number:
    /// the caller's own, and all of them for root.
    fn list_leases(&self, after: u64, most: u32) -> zbus::Result<Vec<LeaseRow>>;

    /// For what of a session's leases others lack ports, or did in the last half minute: whoever has some that it does not
    /// need gives them back. The signal `Wanted` of a pool says when to ask; it is not sent more often than every second.
    /// Errors: NoSuchSession, NotAllowed.
    fn list_wanted(&self, session: &ObjectPath<'_>) -> zbus::Result<Vec<WantedRow>>;

    /// How many source ports are taken of each pool for a destination, how fast that grows, and when nothing will be left:
    /// at most `most` rows (and at most [`MAX_FORECAST_ROWS`]), the one of which the greatest part is taken first. Of
    /// what the caller has leases for itself; for root, of all.
    fn list_forecasts(&self, most: u32) -> zbus::Result<Vec<ForecastRow>>;

    /// Gives out nothing more of a source address, in no pool; what is leased lives on. Options: [`OPTION_UNDO`],
    /// [`OPTION_INTERACTIVE`]. For root, and whom polkit lets. Errors: BadArgument where no pool has the address, NotAllowed.
    fn drain_address(&self, address: &str, options: HashMap<&str, Variant<'_>>) -> zbus::Result<()>;

    /// What waits in the sockets of all listeners after the one named `after` (empty: from the first), of at most `most`
    /// of them (and [`MAX_LISTENERS_LOOKED_AT`]): the name to go on after, empty where these were the last; and a row for
    /// each socket in which something waits or in which something found no room.
    fn list_queues(&self, after: &str, most: u32) -> zbus::Result<(String, Vec<WaitingRow>)>;

    /// What happened last that has a number above `after`, by number, the last `most` of it (and [`MAX_EVENT_ROWS`]): what
    /// was said in the log, as far as the daemon remembers. The numbers begin anew with each daemon. For root, as the log
    /// is. Errors: NotAllowed.
    fn list_events(&self, after: u64, most: u32) -> zbus::Result<Vec<EventRow>>;
    /// Closes the sockets that keep a service from having a port (`protocol` is `tcp`, `udp`, or empty for both): connections that have it as
    /// their source port, and closed ones that the kernel still keeps. Only in the broker's network namespace, never a
    /// socket that the broker holds, and a service only with [`OPTION_FORCE`]. What became of each socket of the port, at most
    /// [`MAX_EVICTED`], those that are in the way first. Options: [`OPTION_FORCE`], [`OPTION_INTERACTIVE`]. For root, and whom
    /// polkit lets. Errors: NotAllowed, BadArgument, NotReady.
    fn evict(
        &self,
        protocol: &str,
        port: u16,
        options: HashMap<&str, Variant<'_>>,
    ) -> zbus::Result<Vec<EvictedRow>>;

    /// Reads the configuration again. All or nothing: on any fault the old one goes on, and the error
    /// (InvalidConfiguration) has all faults in its message. What cannot be had of one that was taken, such as a port
    /// that somebody else has, is in `Faults` from then on, and tried again. For root, and whom polkit lets.
    /// Options, as an argument that may be left out: [`OPTION_INTERACTIVE`].
    fn reload(&self) -> zbus::Result<()>;

    /// New sockets for a listener, in place of some that a holder has spoilt: beside the old ones, which are closed
    /// when those who were handed them are gone and nothing waits in them. Whoever is handed the listener from now on
    /// has the new ones. Only root may.
    ///
    /// Errors: NoSuchListener, NotAllowed, BadArgument (an abstract name), NotReady.
    fn renew_listener(&self, name: &str) -> zbus::Result<()>;

    /// The version of the daemon.
    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;

    /// `running`, or `degraded` where `Faults` is not empty.
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;

    /// What is not as it was configured, a sentence each.
    #[zbus(property)]
    fn faults(&self) -> zbus::Result<Vec<String>>;

    /// What is configured and not in effect on sockets that are served without it, and what to do, a sentence each.
    #[zbus(property(emits_changed_signal = "false"))]
    fn notes(&self) -> zbus::Result<Vec<String>>;

    /// How many ports are protected because services listen on them.
    #[zbus(property(emits_changed_signal = "false"))]
    fn learned_ports(&self) -> zbus::Result<u32>;

    /// How much of every limit is in use.
    #[zbus(property(emits_changed_signal = "false"))]
    fn limits(&self) -> zbus::Result<Vec<LimitRow>>;

    /// What the start found of the sockets of an earlier daemon: counts by the words `stored`, `kept`, `draining`,
    /// `lingering`, `let-go`, `unusable`, `left`, `missing`, `new`, `changed`, `mended`, `replaced`, `holders` and
    /// `holders-gone`. Empty where there were none.
    #[zbus(property(emits_changed_signal = "false"))]
    fn takeover(&self) -> zbus::Result<HashMap<String, u32>>;

    /// What of it was not as it should be, and what became of it, a sentence each.
    #[zbus(property(emits_changed_signal = "false"))]
    fn takeover_differences(&self) -> zbus::Result<Vec<String>>;
}

/// A learned port, as ListLearned has it: port, protocol (`tcp`, `udp`), unit, first and last seen, in seconds since
/// the epoch.
pub type LearnedRow = (u16, String, String, u64, u64);

/// What waits in a socket, as ListQueues has it: listener, inode, how much waits, for how much there is room (0: not
/// known), how much found no room since the socket was made. See [`ListenerProxy::queues`].
pub type WaitingRow = (String, u64, u32, u32, u32);

/// Something that happened, as ListEvents has it: number, microseconds since the epoch, level (`error`, `warning`, `info`),
/// the log's word for it, such as `hand-over` (or empty), message.
pub type EventRow = (u64, u64, String, String, String);
/// A socket, as Evict has it: protocol, own address, whom it was connected to (empty: nobody), state, what became of it (`closed`;
/// `kept`: it is in nobody's way; `refused`: it serves; `failed`), and why it was not closed (empty where it was).
pub type EvictedRow = (String, String, String, String, String, String);

/// A lease, as ListLeases has it: number, session's number, pool, protocol, destination (empty: any), kind (`pairs`,
/// `blocks`, `sockets`), ports, state (`held`, or `cooling` after its end), owner (`crawler.service`, `uid 1000`),
/// ranges as `(address, first, last)`, and of a cooling one how many ports cool still.
pub type LeaseRow =
    (u64, u64, String, String, String, String, u32, String, String, Vec<(String, u16, u16)>, u32);

/// A forecast, as ListForecasts has it: pool, protocol (`tcp`, `udp`), destination, then `used` (leased), `cooling` and
/// `capacity` ports, by how many a second used and cooling grow together (below zero where they fall), in how many seconds
/// nothing is left ([`NEVER`]: it does not grow), and whether that was told by the signal `ExhaustionAhead` and is not
/// averted.
///
/// Destination is `192.0.2.1:443`, or empty: leases for any destination. UDP ports are the same for all destinations, and
/// theirs is `0.0.0.0:0` or `[::]:0`.
pub type ForecastRow = (String, String, String, u32, u32, u32, f64, u64, bool);

/// The seconds of a [`ForecastRow`] that does not end.
pub const NEVER: u64 = u64::MAX;

/// What others lack, as ListWanted has it: pool, protocol, destination (empty: any).
pub type WantedRow = (String, String, String);

/// What the error Exhausted has beside its text (the body is `sa{sv}`): `capacity`, `used`, `cooling` and `free` ports
/// for that destination (`u`), `kept` (`u`): how many of the free ones are for others, by their minimum or because they
/// wait, and `next` (`t`, left out where nobody knows): in how many milliseconds the next one is
/// expected.
pub type ExhaustedRow = HashMap<String, OwnedVariant>;

/// An address of a pool, as the property `Addresses` has it: address, state (`in-use`, `absent`, `draining`,
/// `drained`), leased ports, cooling ports (both protocols together).
pub type PoolAddressRow = (String, String, u32, u32);

/// What was left out of a pool's zone, as the property `LeftOut` has it: ports as `80,8000-8010`, and why.
pub type LeftOutRow = (String, String);

/// A pool.
#[zbus::proxy(interface = "org.portbroker.PortBroker1.Pool", default_service = "org.portbroker.PortBroker1")]
pub trait Pool {
    /// Somebody lacks ports of it: see ListWanted.
    #[zbus(signal)]
    fn wanted(&self) -> zbus::Result<()>;

    /// The ports of it for some destination will be used up within five minutes, if that goes on as it does, or nearly
    /// all of them are taken: protocol, used, cooling, capacity, ports a second, seconds ([`NEVER`]: by itself it does not
    /// come to that). Said once, and again only after it was averted. Of several destinations the one that comes first;
    /// which it is, ListForecasts says to those who have leases for it.
    #[zbus(signal)]
    fn exhaustion_ahead(
        &self,
        protocol: String,
        used: u32,
        cooling: u32,
        capacity: u32,
        rate: f64,
        seconds: u64,
    ) -> zbus::Result<()>;

    /// Its name.
    #[zbus(property)]
    fn name(&self) -> zbus::Result<String>;

    /// `ready`; `degraded` where some of its addresses are absent; `failed` where nothing can be leased.
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;

    /// Its addresses. It changes with every lease, so it is not announced.
    #[zbus(property(emits_changed_signal = "false"))]
    fn addresses(&self) -> zbus::Result<Vec<PoolAddressRow>>;

    /// The ports of each address that can be leased, as `1024-32767`.
    #[zbus(property)]
    fn zone(&self) -> zbus::Result<String>;

    /// What was left out of the zone, and why.
    #[zbus(property)]
    fn left_out(&self) -> zbus::Result<Vec<LeftOutRow>>;

    /// Addresses in use times ports of the zone: the connections to one destination and protocol.
    #[zbus(property(emits_changed_signal = "false"))]
    fn capacity(&self) -> zbus::Result<u64>;

    /// `least-used`, `round-robin` or `sticky`.
    #[zbus(property)]
    fn spread(&self) -> zbus::Result<String>;

    /// As in the configuration: empty, `20000 ports`, `a quarter`.
    #[zbus(property)]
    fn quota(&self) -> zbus::Result<String>;

    /// How many ports for each destination are kept for each caller; 0: none.
    #[zbus(property)]
    fn minimum(&self) -> zbus::Result<u32>;

    /// How many requests wait for ports now.
    #[zbus(property(emits_changed_signal = "false"))]
    fn waiting(&self) -> zbus::Result<u32>;

    /// The grants, as in the configuration.
    #[zbus(property)]
    fn allow(&self) -> zbus::Result<Vec<String>>;

    /// Where it is configured: `FILE:LINE`, or `built in`.
    #[zbus(property)]
    fn origin(&self) -> zbus::Result<String>;

    /// What is not as it was configured, a sentence each.
    #[zbus(property)]
    fn faults(&self) -> zbus::Result<Vec<String>>;
}

/// One socket of a listener, as the property `Sockets` has it: `(endpoint, state, inode, error)`.
///
/// Endpoint as in `tcp 127.0.0.1:3306`, `udp [::]:53%eth0`, `unix /run/x.sock`, `unix-datagram @x`; state
/// is `reserved`, `listening`, `failed` or, for an old socket beside its successor, `draining`, or, for one that is no
/// longer configured and that somebody still has, `lingering`; inode 0 and a message where it failed. A message beside an
/// inode says what could not be changed of it.
pub type SocketRow = (String, String, u64, String);

/// What waits in one socket, as the method `Queues` has it: inode, and facts by name.
pub type QueueRow = (u64, HashMap<String, OwnedVariant>);

/// A listener.
#[zbus::proxy(
    interface = "org.portbroker.PortBroker1.Listener",
    default_service = "org.portbroker.PortBroker1"
)]
pub trait Listener {
    /// What waits in its sockets now, by their inodes: `waiting` and `limit` (`u`: connections, or bytes of datagrams),
    /// `overflows` (`u`: connections or datagrams that found no room, or were filtered out, since the socket was
    /// made). What the kernel does not tell of a kind of socket is left out.
    fn queues(&self) -> zbus::Result<Vec<QueueRow>>;

    /// Its name.
    #[zbus(property)]
    fn name(&self) -> zbus::Result<String>;

    /// `reserved`, `listening` or `failed` (any of its sockets); `lingering` where it is no longer configured, and
    /// somebody still has sockets of it. Nobody else is handed these.
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;

    /// Its sockets.
    #[zbus(property)]
    fn sockets(&self) -> zbus::Result<Vec<SocketRow>>;

    /// Who holds it: `mariadb.service`, `nginx[812]`; empty where nobody does.
    #[zbus(property)]
    fn holders(&self) -> zbus::Result<Vec<String>>;

    /// What is configured and not in effect on its sockets, and what to do, a sentence each.
    #[zbus(property)]
    fn notes(&self) -> zbus::Result<Vec<String>>;

    /// As in the configuration: `queue`, `refuse`, `queue 30s`, `drop`.
    #[zbus(property)]
    fn idle(&self) -> zbus::Result<String>;

    /// The service that is started on the first connection, or empty.
    #[zbus(property)]
    fn activate(&self) -> zbus::Result<String>;

    /// Why that service was started in vain, and when it is again; empty where all is well.
    #[zbus(property)]
    fn activation_error(&self) -> zbus::Result<String>;

    /// The grants, as in the configuration.
    #[zbus(property)]
    fn allow(&self) -> zbus::Result<Vec<String>>;

    /// Where it is configured: `FILE:LINE`, or `inherited`.
    #[zbus(property)]
    fn origin(&self) -> zbus::Result<String>;
}

/// The reply of `org.freedesktop.DBus.ObjectManager.GetManagedObjects`: properties by interface by path.
pub type ManagedObjects = HashMap<OwnedObjectPath, HashMap<String, HashMap<String, OwnedVariant>>>;

/// `org.freedesktop.DBus.ObjectManager` on the manager's path.
#[zbus::proxy(
    interface = "org.freedesktop.DBus.ObjectManager",
    default_service = "org.portbroker.PortBroker1",
    default_path = "/org/portbroker/PortBroker1"
)]
pub trait ObjectManager {
    /// All listeners and pools with all their properties.
    fn get_managed_objects(&self) -> zbus::Result<ManagedObjects>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listeners_path_names_it() {
        assert_eq!(listener_path("web"), "/org/portbroker/PortBroker1/listener/web");
        assert_eq!(listener_path("1a-b_c"), "/org/portbroker/PortBroker1/listener/_31a_2db_5fc");
        for name in ["web", "1a-b_c", "a b/c@d", "_"] {
            assert_eq!(listener_name(&listener_path(name)).as_deref(), Some(name));
        }
        assert_eq!(listener_name("/org/portbroker/PortBroker1/listener/_zz"), None);
        assert_eq!(listener_name("/org/portbroker/PortBroker1/listener/_61"), None);
        assert_eq!(listener_name("/org/portbroker/PortBroker1"), None);
        assert_eq!(pool_name(&pool_path("a b")).as_deref(), Some("a b"));
        assert_eq!(pool_name(&listener_path("a")), None);
    }

    #[test]
    fn error_names_come_back() {
        for (name, _) in ErrorName::ALL {
            assert_eq!(ErrorName::from_full(&name.full()), Some(name));
        }
        assert_eq!(ErrorName::from_full("org.freedesktop.DBus.Error.Failed"), None);
    }
}
