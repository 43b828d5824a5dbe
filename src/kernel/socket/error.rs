//! What can go wrong with a listener's socket, said so that an administrator knows what to do.

use crate::model::{Endpoint, InetEndpoint};
use nix::libc;
use std::io;
use std::path::PathBuf;

/// Why an option of a socket cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum OptionError {
    /// It takes a privilege.
    #[error(
        "\"{key}\" ({option}) takes CAP_NET_ADMIN, which the daemon does not have: take it out, or run the daemon with it"
    )]
    Privilege {
        /// Its key in the configuration.
        key: &'static str,
        /// Its name in the kernel.
        option: &'static str,
    },
    /// The kernel does not take the value.
    #[error("the kernel does not take the value of \"{key}\" ({option})")]
    Kernel {
        /// Its key in the configuration.
        key: &'static str,
        /// Its name in the kernel.
        option: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// For the way through calls whose other errors are the kernel's.
impl From<OptionError> for io::Error {
    fn from(error: OptionError) -> Self {
        Self::other(error)
    }
}

/// Why an endpoint could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody has the address; `socket_owner` can say who.
    #[error("cannot bind {endpoint}: the address is in use")]
    InUse {
        /// What was to be bound.
        endpoint: Endpoint,
    },
    /// A low port without the privilege.
    #[error(
        "cannot bind {endpoint}: permission denied; a port below net.ipv4.ip_unprivileged_port_start takes \
         CAP_NET_BIND_SERVICE"
    )]
    NoPrivilege {
        /// What was to be bound.
        endpoint: Endpoint,
    },
    /// No interface has the address.
    #[error("cannot bind {endpoint}: this host does not have the address; add it, or set free-bind")]
    NoAddress {
        /// What was to be bound.
        endpoint: Endpoint,
    },
    /// No interface has the name of `BindToDevice=`.
    #[error("cannot bind {endpoint}: there is no network interface of that name")]
    NoDevice {
        /// What was to be bound.
        endpoint: Endpoint,
    },
    /// This process, or the host, has no descriptor left for it.
    #[error(
        "cannot bind {endpoint}: no descriptor is left for it; raise LimitNOFILE= of the broker (or \"ulimit -n\" where \
         it is started), or configure fewer listeners"
    )]
    TooMany {
        /// What was to be bound.
        endpoint: Endpoint,
    },
    /// An option that is configured.
    #[error("cannot set {endpoint} up")]
    Option {
        /// What was to be bound.
        endpoint: Endpoint,
        /// Which, and why not.
        source: OptionError,
    },
    /// `SocketUser=` or `SocketGroup=` names nobody.
    #[error("cannot bind {endpoint}: the {kind} {name:?} does not exist")]
    UnknownAccount {
        /// What was to be bound.
        endpoint: Endpoint,
        /// `user` or `group`.
        kind: &'static str,
        /// As configured.
        name: String,
    },
    /// The path of a unix socket is something else.
    #[error("cannot bind {endpoint}: the path is there and is no socket; move it away")]
    NotASocket {
        /// What was to be bound.
        endpoint: Endpoint,
    },
    /// A call on a path failed.
    #[error("cannot {action} {path} for {endpoint}{advice}", path = path.display(), advice = advice(source))]
    Path {
        /// What was to be bound.
        endpoint: Endpoint,
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Anything else that the kernel answered.
    #[error("cannot bind {endpoint}")]
    Kernel {
        /// What was to be bound.
        endpoint: Endpoint,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What to do about a path that could not be made or changed.
fn advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        // What the unit lacks, the generator has given it by now, for the next start.
        Some(libc::EACCES) => {
            "; the daemon may not do that there: run \"systemctl restart portbroker\" to give it CAP_DAC_OVERRIDE"
        }
        Some(libc::EPERM) => {
            "; the daemon may not do that: run \"systemctl restart portbroker\" to give it CAP_CHOWN; \
             it never has CAP_FOWNER"
        }
        Some(libc::EROFS) => {
            "; the directory is read-only for the daemon: run \"systemctl restart portbroker\" to open it, \
             or name it in ReadWritePaths="
        }
        _ => "",
    }
}

impl BindError {
    /// The error of bind(2) on an internet endpoint.
    pub(super) fn of_inet(inet: &InetEndpoint, source: io::Error) -> Self {
        let endpoint = Endpoint::Inet(inet.clone());
        let source = match source.downcast::<OptionError>() {
            Ok(source) => return Self::Option { endpoint, source },
            Err(source) => source,
        };
        match source.raw_os_error() {
            Some(libc::EADDRINUSE) => Self::InUse { endpoint },
            Some(libc::EACCES) => Self::NoPrivilege { endpoint },
            Some(libc::EADDRNOTAVAIL) => Self::NoAddress { endpoint },
            Some(libc::ENODEV) => Self::NoDevice { endpoint },
            Some(libc::EMFILE | libc::ENFILE) => Self::TooMany { endpoint },
            _ => Self::Kernel { endpoint, source },
        }
    }
}

/// Why a socket that came from elsewhere cannot be this listener's.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It is bound to something else.
    #[error("the inherited socket is bound to {found}, not to {wanted}")]
    Mismatch {
        /// What the configuration says.
        wanted: Endpoint,
        /// What the kernel says.
        found: Box<Endpoint>,
    },
    /// The kernel would not tell, or it is no socket that can be a listener's.
    #[error("the inherited descriptor for {wanted} cannot be used")]
    Unusable {
        /// What the configuration says.
        wanted: Endpoint,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Why a bound socket could not be brought into a state.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel said no.
    #[error("cannot {action} {endpoint}")]
    Kernel {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which socket.
        endpoint: Endpoint,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A replacement could not be bound.
    #[error("cannot replace the socket of {endpoint} that its holder spoilt")]
    Replace {
        /// Which socket.
        endpoint: Endpoint,
        /// Why not.
        source: Box<BindError>,
    },
    /// An option that is configured.
    #[error("cannot change the options of {endpoint}")]
    Option {
        /// Which socket.
        endpoint: Endpoint,
        /// Which, and why not.
        source: OptionError,
    },
    /// An abstract name that listens cannot refuse without being given up.
    #[error("{endpoint} cannot refuse clients without giving its name up; use idle = \"queue\"")]
    CannotRefuse {
        /// Which socket.
        endpoint: Endpoint,
    },
    /// Streams have nothing to drop.
    #[error("{endpoint} takes connections and cannot drop datagrams; use idle = \"refuse\"")]
    NotDatagrams {
        /// Which socket.
        endpoint: Endpoint,
    },
}

impl SocketError {
    /// Makes an error of the kernel's answer.
    pub(super) fn kernel(
        action: &'static str,
        endpoint: &Endpoint,
    ) -> impl FnOnce(io::Error) -> Self + use<> {
        let endpoint = endpoint.clone();
        move |source| Self::Kernel { action, endpoint, source }
    }

    /// Whether the address was in use.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error() == Some(libc::EADDRINUSE),
            Self::Replace { source, .. } => matches!(**source, BindError::InUse { .. }),
            Self::Option { .. } | Self::CannotRefuse { .. } | Self::NotDatagrams { .. } => false,
        }
    }
}
