//! The D-Bus interface as names, types and proxies: what the daemon serves and its clients call.
//!
//! One interface, two transports: the system bus (under [`BUS_NAME`]) and, peer to peer and without a
//! name, the unix socket [`SOCKET_PATH`]. Methods, errors and policy are the same.

mod proxies;
mod rows;

pub use proxies::*;
pub use rows::*;

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
