//! Having the broker close what keeps a service from having a port.

use crate::connect::Broker;
use crate::error::Error;
use crate::wire::{self, EvictedRow};
use std::collections::HashMap;
use zbus::wire::Variant;

/// A socket of the port, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvictedSocket {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Its own address.
    pub local: String,
    /// Whom it was connected to.
    pub remote: Option<String>,
    /// What it was doing: `established`, `time-wait`, `listen` …
    pub state: String,
    /// `closed`; `kept`, for it is in nobody's way; `refused`, for it serves; `failed`.
    pub outcome: String,
    /// Why it was not closed.
    pub reason: Option<String>,
}

impl From<EvictedRow> for EvictedSocket {
    fn from((protocol, local, remote, state, outcome, reason): EvictedRow) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        Self { protocol, local, remote: some(remote), state, outcome, reason: some(reason) }
    }
}

impl Broker {
    /// Closes what is in the way of a service on a port (`protocol` is `tcp`, `udp`, or empty for both), in the network namespace of the
    /// broker; services too with `force`. For root, and whom polkit lets.
    ///
    /// At most [`wire::MAX_EVICTED`] sockets at a time, those that are in the way first: ask again where there are so many.
    pub async fn evict(&self, protocol: &str, port: u16, force: bool) -> Result<Vec<EvictedSocket>, Error> {
        let options = HashMap::from([(wire::OPTION_FORCE, Variant::from(force))]);
        let rows: Vec<EvictedRow> = self.administer("Evict", &(protocol, port, options)).await?;
        Ok(rows.into_iter().map(EvictedSocket::from).collect())
    }
}
