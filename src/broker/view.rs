//! What the broker shows of itself: plain values, taken at one instant, for the bus to convert.

use super::outbound::PoolView;
use crate::config::Origin;
use crate::limits::Usage;
use crate::listeners::Target;
use std::sync::Arc;

/// How the broker is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// What is not as it was configured, a sentence each; not empty: degraded.
    pub faults: Vec<String>,
    /// What is configured and not in effect on sockets that serve without it, and what to do, a sentence each.
    pub notes: Vec<String>,
    /// How many ports are protected because services listen on them.
    pub learned: usize,
    /// How much of every limit is in use.
    pub limits: Vec<Usage>,
    /// What the start found of what an earlier daemon had stored; `None` where nothing was, or it is not told yet.
    pub takeover: Option<TakeoverView>,
}

/// All objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// By name.
    pub listeners: Vec<Arc<ListenerView>>,
    /// By name.
    pub pools: Vec<PoolView>,
}

/// What a start found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeoverView {
    /// How many, by words such as `stored`, `kept` and `missing`.
    pub counts: Vec<(&'static str, u32)>,
    /// What differed, a sentence each.
    pub differences: Vec<String>,
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerView {
    /// Its name.
    pub name: String,
    /// `reserved`, `listening` or `failed` (any of its sockets), or `lingering`: it is no longer configured, and
    /// somebody still has its sockets.
    pub state: &'static str,
    /// Its sockets.
    pub sockets: Vec<SocketView>,
    /// Who holds it.
    pub holders: Vec<String>,
    /// What is configured and not in effect on its sockets, and what to do.
    pub notes: Vec<String>,
    /// As in the configuration.
    pub idle: String,
    /// The service that connections start, or empty.
    pub activate: String,
    /// Why it was started in vain, and when it is again; else empty.
    pub activation_error: String,
    /// As in the configuration.
    pub allow: Vec<String>,
    /// `FILE:LINE`, or `inherited`.
    pub origin: String,
}

/// One socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketView {
    /// As in `tcp 127.0.0.1:3306`.
    pub endpoint: String,
    /// `reserved`, `listening`, `failed`, or `draining`: closed when its holders are gone and nothing waits in it; or
    /// `lingering`: closed when its holders are gone.
    pub state: &'static str,
    /// The socket's inode number, as `ss -e` shows it; 0 where it is not bound.
    pub inode: u64,
    /// Why it failed, or what could not be changed of it; else empty.
    pub error: String,
}

/// What waits in one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueView {
    /// The socket's inode number.
    pub inode: u64,
    /// What waits: connections, bytes of datagrams.
    pub waiting: u32,
    /// How much it has room for; `None` where the kernel does not tell.
    pub limit: Option<u32>,
    /// How much found no room since the socket was made; `None` where the kernel does not count.
    pub overflows: Option<u32>,
}

/// What waits in the sockets of some listeners.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Sockets in which something waits, or in which something found no room, with their listeners.
    pub sockets: Vec<(String, QueueView)>,
    /// The last listener that was looked at, where there are more.
    pub next: Option<String>,
}

/// The word for a socket's state: a datagram socket that receives counts as listening.
pub(super) fn state_word(state: Option<Target>) -> &'static str {
    match state {
        None => "failed",
        Some(Target::Listening) => "listening",
        Some(Target::Refusing | Target::Dropping) => "reserved",
    }
}

/// The state of a listener: the worst of its sockets'.
pub(super) fn worst(sockets: &[SocketView]) -> &'static str {
    ["failed", "reserved"]
        .into_iter()
        .find(|word| sockets.iter().any(|s| s.state == *word))
        .unwrap_or("listening")
}

/// `FILE:LINE`, or `inherited`.
pub(super) fn origin_text(origin: &Origin) -> String {
    let whole = Origin { column: 0, ..origin.clone() };
    whole.to_string()
}
