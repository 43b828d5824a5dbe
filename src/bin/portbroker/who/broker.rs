//! What the broker says about a port.

use crate::args::block_on;
use crate::failure::Failure;
use portbroker::model::PortSet;
use portbroker::uses::{Broker, Held, LearnedPort, Lease, Pool, Question};
use portbroker_client::Error;
use portbroker_client::inspect::{ListenerStatus, Status};
use portbroker_client::pools::{LeaseStatus, PoolStatus};
use portbroker_client::wire::MAX_LEASE_ROWS;

/// Asks it; an error is a sentence that says what is not known then.
pub(super) fn ask(broker: &portbroker_client::Broker, question: &Question) -> Result<Broker, String> {
    let told = block_on(async {
        let status = broker.status().await?;
        let learned = broker.learned().await?;
        let leases = if may_lease(&status, question) { leases(broker, question).await? } else { Vec::new() };
        Ok((status, learned, leases))
    });
    let (status, learned, leases) = told.map_err(|failure| match failure {
        Failure::Broker(Error::NotReachable { tried }) => {
            format!("what a broker holds, has learned or leases: none is reachable ({tried})")
        }
        failure => format!("what the broker holds, has learned or leases: {failure}"),
    })?;
    let learned = learned.into_iter().filter(|learned| learned.port == question.port);
    Ok(Broker {
        listeners: status.listeners.iter().flat_map(|listener| held(listener, question)).collect(),
        learned: learned
            .map(|learned| LearnedPort { port: learned.port, protocol: learned.protocol, unit: learned.unit })
            .collect(),
        pools: status.pools.iter().map(pool).collect(),
        leases,
    })
}

/// Whether anything is leased of a pool that has the port. There may be 100,000 leases, and most ports are in no pool.
fn may_lease(status: &Status, question: &Question) -> bool {
    let mut pools = status.pools.iter();
    pools.any(|status| {
        let is_used = status.addresses.iter().any(|address| address.leased > 0 || address.cooling > 0);
        is_used && pool(status).zone.contains(question.port)
    })
}

/// The leases that have the port: the caller's own, or all for root.
async fn leases(broker: &portbroker_client::Broker, question: &Question) -> Result<Vec<Lease>, Error> {
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let page = broker.leases(after).await?;
        found.extend(page.iter().filter_map(|lease| lease_of(lease, question)));
        match page.last() {
            Some(last) if page.len() >= usize::try_from(MAX_LEASE_ROWS).unwrap_or(usize::MAX) => {
                after = last.lease
            }
            _ => return Ok(found),
        }
    }
}

fn lease_of(lease: &LeaseStatus, question: &Question) -> Option<Lease> {
    let has = lease.ranges.iter().filter(|(_, first, last)| (*first..=*last).contains(&question.port));
    let addresses: Vec<String> = has.map(|(address, ..)| address.clone()).collect();
    (!addresses.is_empty()).then(|| Lease {
        number: lease.lease,
        pool: lease.pool.clone(),
        protocol: lease.protocol.clone(),
        destination: lease.destination.clone(),
        owner: lease.owner.clone(),
        state: lease.state.clone(),
        addresses,
    })
}

fn held(listener: &ListenerStatus, question: &Question) -> Vec<Held> {
    let sockets = listener.sockets.iter().map(|socket| Held {
        listener: listener.name.clone(),
        endpoint: socket.endpoint.clone(),
        state: socket.state.clone(),
        inode: socket.inode,
        error: socket.error.clone(),
        holders: listener.holders.clone(),
        allow: listener.allow.clone(),
    });
    sockets.filter(|held| held.port().is_some_and(|(_, port)| port == question.port)).collect()
}

fn pool(pool: &PoolStatus) -> Pool {
    let ports = |text: &str| text.parse::<PortSet>().unwrap_or_default();
    Pool {
        name: pool.name.clone(),
        zone: ports(&pool.zone),
        left_out: pool.left_out.iter().map(|left| (ports(&left.ports), left.reason.clone())).collect(),
    }
}
