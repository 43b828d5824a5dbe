//! The ledger as its callers see it.

mod kernel;
mod naive;
mod random;

use super::*;
use std::time::{Duration, Instant};

struct Pool {
    name: PoolName,
    addresses: Vec<IpAddr>,
    zone: PortSet,
    spread: Spread,
    quota: Quota,
}

impl Pool {
    fn new(addresses: &[&str], zone: &str) -> Self {
        Self {
            name: PoolName::try_from("egress").unwrap(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            zone: zone.parse().unwrap(),
            spread: Spread::LeastUsed,
            quota: Quota::None,
        }
    }

    fn offer(&self) -> Offer<'_> {
        Offer {
            pool: &self.name,
            addresses: &self.addresses,
            zone: &self.zone,
            spread: self.spread,
            quota: self.quota,
        }
    }
}

fn to(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

fn request(session: SessionId, destination: Option<SocketAddr>, kind: Kind, ports: u32) -> Request {
    Request { session, protocol: Protocol::Tcp, destination, kind, ports, minimum: ports }
}

/// Everything that is due is free.
fn settle(ledger: &mut Ledger, now: Instant) {
    loop {
        let looks = ledger.due(now, 64);
        if looks.is_empty() {
            return;
        }
        for look in looks {
            ledger.looked(look, Vec::new(), now);
        }
    }
}

#[test]
fn forty_pairs_over_four_addresses_are_ten_each() {
    let pool = Pool::new(&["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"], "10000-19999");
    let now = Instant::now();
    let mut ledger = Ledger::new(now);
    let session = ledger.open_session(Owner::User(1000), now).unwrap();
    let lease =
        ledger.lease(&request(session, to("198.51.100.1:443"), Kind::Pairs, 40), &pool.offer(), now).unwrap();
    assert_eq!(lease.ranges.len(), 40);
    for address in &pool.addresses {
        assert_eq!(lease.ranges.iter().filter(|range| range.address == *address).count(), 10);
    }
    assert!(lease.ranges.iter().all(|range| range.ports.first() == range.ports.last()));
    ledger.end_session(session, now);
    settle(&mut ledger, now);
    settle(&mut ledger, now + Duration::from_secs(3));
    assert!(ledger.is_empty());
}
