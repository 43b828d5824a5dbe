//! `portbroker who --evict`: the broker closes what is in the way.

use crate::agent::{AskPassword, administer};
use crate::failure::Failure;
use portbroker::uses::Question;
use portbroker_client::Broker;
use portbroker_client::evict::EvictedSocket;
use portbroker_client::wire::MAX_EVICTED;

/// The broker is asked again so often where there are more sockets than it closes at a time.
const ROUNDS: usize = 100;

/// What became of all sockets of the port.
pub(super) struct Eviction(pub(super) Vec<EvictedSocket>);

impl Eviction {
    /// Whether the broker sees no socket on the port.
    pub(super) fn found_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether nothing is left that keeps a service out.
    pub(super) fn is_done(&self) -> bool {
        self.0.iter().all(|socket| ["closed", "kept"].contains(&socket.outcome.as_str()))
    }
}

pub(super) fn evict(
    broker: &Broker,
    question: Question,
    force: bool,
    password: AskPassword,
) -> Result<Eviction, Failure> {
    let protocol = question.protocol.map_or("", |protocol| protocol.as_str());
    let mut all = Vec::new();
    for _ in 0..ROUNDS {
        let rows = administer(broker, password, |broker| async move {
            broker.evict(protocol, question.port, force).await
        })?;
        let closed = rows.iter().filter(|row| row.outcome == "closed").count();
        let is_all = rows.len() < MAX_EVICTED || closed == 0;
        // What was not closed is told with the next.
        all.extend(rows.into_iter().filter(|row| is_all || row.outcome == "closed"));
        if is_all {
            break;
        }
    }
    Ok(Eviction(all))
}
