//! The ledger as its callers see it.

#[cfg(test)]
mod asking;
#[cfg(test)]
mod ending;
#[cfg(test)]
mod fixture;
mod kernel;
mod naive;
#[cfg(test)]
mod random;
#[cfg(test)]
mod shares;
#[cfg(test)]
mod waiting;
#[cfg_attr(not(fuzzing), expect(unreachable_pub, reason = "the fuzzer reaches it"))]
pub mod world;

use super::*;
use crate::model::Seen;
use std::time::Instant;

struct Pool {
    name: PoolName,
    addresses: Vec<IpAddr>,
    zone: PortSet,
    spread: Spread,
    quota: Quota,
    guarantee: Option<Arc<Guarantee>>,
}

impl Pool {
    fn new(addresses: &[&str], zone: &str) -> Self {
        Self {
            name: PoolName::try_from("egress").unwrap(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            zone: zone.parse().unwrap(),
            spread: Spread::LeastUsed,
            quota: Quota::None,
            guarantee: None,
        }
    }

    fn offer(&self) -> Offer<'_> {
        Offer {
            pool: &self.name,
            addresses: &self.addresses,
            zone: &self.zone,
            spread: self.spread,
            quota: self.quota,
            guarantee: self.guarantee.as_ref(),
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

/// What the kernel may have of a tuple.
const OPEN: Seen = Seen::Open { cookie: 1, uid: 1000, cgroup: 7 };

fn one() -> Pool {
    Pool::new(&["192.0.2.1"], "10000-10063")
}

fn ledger() -> (Ledger, SessionId, Instant) {
    let now = Instant::now();
    let mut ledger = Ledger::new(now);
    let session = ledger.open_session(Owner::User(1000), now).unwrap();
    (ledger, session, now)
}

/// Answers everything that is due alike.
fn answer(ledger: &mut Ledger, seen: Seen, now: Instant) -> usize {
    let looks = ledger.due(now, 4096);
    for look in &looks {
        let answers = match look {
            Look::Exact(tuple) => vec![(*tuple, seen)],
            Look::Range { protocol, source } => {
                let tuple = |port| Tuple {
                    protocol: *protocol,
                    source: SocketAddr::new(source.address, port),
                    destination: to("198.51.100.7:7"),
                };
                source.ports.iter().map(|port| (tuple(port), seen)).collect()
            }
        };
        ledger.looked(*look, answers, now);
    }
    looks.len()
}
