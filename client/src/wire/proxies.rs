//! The objects, and what can be asked of them.

use super::*;
use std::collections::HashMap;
use zbus::wire::{ObjectPath, OwnedFd, OwnedObjectPath, Variant};

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
