//! The D-Bus interface as names, types and proxies: what the daemon serves and its clients call.
//!
//! One interface, two transports: the system bus (under [`BUS_NAME`]) and, peer to peer and without a
//! name, the unix socket [`SOCKET_PATH`]. Methods, errors and policy are the same.

use std::collections::HashMap;
use zbus::wire::{OwnedFd, OwnedVariant, Variant};

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
/// What the name of every error of ours begins with.
pub const ERROR_PREFIX: &str = "org.portbroker.PortBroker1.Error.";

/// dbus-daemon disconnects the sender of a message with more descriptors than this.
pub const MAX_SOCKETS_ON_A_BUS: usize = 16;
/// `SCM_MAX_FD`: the kernel takes no more in one message.
pub const MAX_SOCKETS_PEER_TO_PEER: usize = 253;

/// Option of AcquireListeners, `s`: who holds the listener from now on.
/// `"process"` (the default), or `"unit"`: the caller's systemd unit, as `portbroker deposit` asks for.
pub const OPTION_HOLDER: &str = "holder";

/// The errors of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorName {
    /// No listener has that name.
    NoSuchListener,
    /// No pool has that name.
    NoSuchPool,
    /// No grant lets this caller do it.
    NotAllowed,
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
    const ALL: [(Self, &'static str); 9] = [
        (Self::NoSuchListener, "NoSuchListener"),
        (Self::NoSuchPool, "NoSuchPool"),
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
    let mut path = String::from(LISTENER_PREFIX);
    for (n, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (n > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

/// The name of the listener at an object path; `None` where the path is not one of [`listener_path`]'s.
#[must_use]
pub fn listener_name(path: &str) -> Option<String> {
    let label = path.strip_prefix(LISTENER_PREFIX)?;
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
    (listener_path(&name) == path).then_some(name)
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

    /// Reads the configuration again. All or nothing: on any fault the old one goes on, and the error
    /// (InvalidConfiguration) has all faults in its message.
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

    /// How many ports are protected because services listen on them.
    #[zbus(property(emits_changed_signal = "false"))]
    fn learned_ports(&self) -> zbus::Result<u32>;
}

/// A learned port, as ListLearned has it: port, protocol (`tcp`, `udp`), unit, first and last seen, in seconds since
/// the epoch.
pub type LearnedRow = (u16, String, String, u64, u64);

/// One socket of a listener, as the property `Sockets` has it: `(endpoint, state, inode, error)`.
///
/// Endpoint as in `tcp 127.0.0.1:3306`, `udp [::]:53%eth0`, `unix /run/x.sock`, `unix-datagram @x`; state
/// is `reserved`, `listening`, `failed` or, for an old socket beside its successor, `draining`; inode 0 and a message
/// where it failed.
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

    /// `reserved`, `listening` or `failed` (any of its sockets).
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;

    /// Its sockets.
    #[zbus(property)]
    fn sockets(&self) -> zbus::Result<Vec<SocketRow>>;

    /// Who holds it: `mariadb.service`, `nginx[812]`; empty where nobody does.
    #[zbus(property)]
    fn holders(&self) -> zbus::Result<Vec<String>>;

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
pub type ManagedObjects =
    HashMap<zbus::wire::OwnedObjectPath, HashMap<String, HashMap<String, OwnedVariant>>>;

/// `org.freedesktop.DBus.ObjectManager` on the manager's path.
#[zbus::proxy(
    interface = "org.freedesktop.DBus.ObjectManager",
    default_service = "org.portbroker.PortBroker1",
    default_path = "/org/portbroker/PortBroker1"
)]
pub trait ObjectManager {
    /// All listeners with all their properties.
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
    }

    #[test]
    fn error_names_come_back() {
        for (name, _) in ErrorName::ALL {
            assert_eq!(ErrorName::from_full(&name.full()), Some(name));
        }
        assert_eq!(ErrorName::from_full("org.freedesktop.DBus.Error.Failed"), None);
    }
}
