//! What a socket does not have although it is configured, for the log: it is served all the same.

use std::fmt;
use std::path::PathBuf;

/// One thing about a socket that is not as it was configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmet {
    /// A socket option.
    Option {
        /// Its key in the configuration.
        key: &'static str,
        /// Its name in the kernel.
        option: &'static str,
        /// What it should be.
        wanted: String,
        /// What it is; `None` where this kernel does not have it for such a socket.
        found: Option<String>,
    },
    /// `protocol = "mptcp"` on a kernel without it: TCP serves in its place.
    NoMptcp,
    /// The socket was made for the other protocol.
    Protocol {
        /// What it should be: `tcp` or `mptcp`.
        wanted: &'static str,
    },
    /// A link that should lead to the path does not.
    Link {
        /// The link.
        link: PathBuf,
        /// What is there.
        found: &'static str,
    },
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option { key, option, found: None, .. } => {
                write!(f, "\"{key}\" has no effect: this kernel has no {option} for such a socket")
            }
            Self::Option {
                key: key @ ("receive-buffer" | "send-buffer"),
                wanted,
                found: Some(found),
                ..
            } => {
                let limit = if *key == "receive-buffer" { "rmem_max" } else { "wmem_max" };
                write!(
                    f,
                    "\"{key}\" is {found} bytes and not {wanted}: beyond net.core.{limit} it takes CAP_NET_ADMIN"
                )
            }
            Self::Option { key: key @ "tcp-congestion", wanted, found: Some(found), .. } => write!(
                f,
                "\"{key}\" is {found}: this kernel has no {wanted}; see net.ipv4.tcp_available_congestion_control"
            ),
            Self::Option { key, option, wanted, found: Some(found) } => {
                write!(f, "\"{key}\" is {found} and not {wanted}: {option} could not be set")
            }
            Self::NoMptcp => f.write_str(
                "this kernel has no MPTCP, or net.mptcp.enabled is 0: TCP serves in its place, and MPTCP's \
                 clients fall back to it",
            ),
            Self::Protocol { wanted } => write!(
                f,
                "\"protocol\" is {wanted} now, and this socket was made for the other one: \"portbroker renew\" \
                 makes one that speaks it"
            ),
            Self::Link { link, found } => {
                write!(f, "the link {} is not made: {found}", link.display())
            }
        }
    }
}
