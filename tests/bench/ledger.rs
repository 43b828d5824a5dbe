//! The ledger alone, without kernel and D-Bus: what a lease, a release and a refusal cost with few leases and with
//! many, and what leases keep in memory.

use crate::measure::{Samples, Table, Target, in_microseconds, row};
use portbroker::config::{Quota, Spread};
use portbroker::leases::{Guarantee, Kind, Ledger, Offer, Refused, Request};
use portbroker::model::{Owner, PoolName, PortSet, Protocol, SessionId};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

const FEW: u32 = 10;
const MANY: u32 = 100_000;
const TRIES: u32 = 2000;

struct World {
    ledger: Ledger,
    session: SessionId,
    pool: PoolName,
    addresses: Vec<IpAddr>,
    zone: PortSet,
    guarantee: Option<Arc<Guarantee>>,
    now: Instant,
}

fn destination(n: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0xc633_0000 + (n >> 4)).into(), 443 + u16::try_from(n & 15).unwrap())
}

impl World {
    /// Sixteen addresses with 62,500 ports each: a million.
    fn new() -> Self {
        let now = Instant::now();
        let mut ledger = Ledger::new(now);
        let session = ledger.open_session(Owner::User(1000), now).unwrap();
        let addresses = (1..=16).map(|n| Ipv4Addr::new(192, 0, 2, n).into()).collect();
        let (pool, zone) = (PoolName::try_from("egress").unwrap(), "3000-65499".parse().unwrap());
        Self { ledger, session, pool, addresses, zone, guarantee: None, now }
    }

    /// The same, with a minimum for each of ten callers that are named.
    fn with_minimum() -> Self {
        let named: BTreeSet<Owner> = (1000..1010).map(Owner::User).collect();
        let guarantee = Guarantee { ports: 1, named, others: false };
        Self { guarantee: Some(Arc::new(guarantee)), ..Self::new() }
    }

    fn lease(&mut self, destination: SocketAddr, ports: u32) -> Result<portbroker::model::LeaseId, Refused> {
        let offer = Offer {
            pool: &self.pool,
            addresses: &self.addresses,
            zone: &self.zone,
            spread: Spread::LeastUsed,
            quota: Quota::None,
            guarantee: self.guarantee.as_ref(),
        };
        let request = Request {
            session: self.session,
            protocol: Protocol::Tcp,
            destination: Some(destination),
            kind: Kind::Blocks,
            ports,
            minimum: ports,
        };
        let lease = self.ledger.lease(&request, &offer, self.now)?;
        drop(self.ledger.events());
        Ok(lease.id)
    }

    /// One block for each of so many destinations.
    fn blocks(&mut self, destinations: u32) {
        for n in 0..destinations {
            self.lease(destination(n), 64).unwrap();
        }
    }

    /// A million ports of one destination.
    fn fill(&mut self, to: SocketAddr) {
        // Of a pool with a minimum all but what is kept for nine others.
        let kept = if self.guarantee.is_some() { 9 } else { 0 };
        for n in 0..16 {
            self.lease(to, 62_500 - if n == 0 { kept } else { 0 }).unwrap();
        }
        assert!(matches!(self.lease(to, 1), Err(Refused::Exhausted { capacity: 1_000_000, .. })));
    }
}

/// A lease and its release, and a refusal, in microseconds.
fn costs(mut world: World, leases: u32) -> [Samples; 3] {
    world.blocks(leases);
    let full = destination(u32::from(u16::MAX) << 8);
    world.fill(full);
    let mut samples = [const { Samples::new() }; 3];
    for n in 0..TRIES {
        // Half of them for destinations that are known.
        let to = destination(n % 2 * (leases + n) + n * 7 % leases);
        let begin = Instant::now();
        let lease = world.lease(to, 64).unwrap();
        samples[0].push(in_microseconds(begin.elapsed()));
        let begin = Instant::now();
        world.ledger.release(lease, world.now).unwrap();
        drop(world.ledger.events());
        samples[1].push(in_microseconds(begin.elapsed()));
        let begin = Instant::now();
        let refused = world.lease(full, 64);
        samples[2].push(in_microseconds(begin.elapsed()));
        assert!(refused.is_err());
        // Its ports are free again, as far as the kernel knows.
        for look in world.ledger.due(world.now, 64) {
            world.ledger.looked(look, Vec::new(), world.now);
        }
    }
    samples
}

pub(crate) fn measure() -> Vec<Table> {
    let few = costs(World::new(), FEW);
    let many = costs(World::new(), MANY);
    let kept = costs(World::with_minimum(), MANY);
    let titles = ["a block of 64 ports leased", "a block released", "a refusal, a million ports in use"];
    let mut tables: Vec<Table> = titles
        .into_iter()
        .zip(few.into_iter().zip(many).zip(kept))
        .map(|(what, ((few, many), kept))| Table {
            title: format!("{what}, in the ledger alone"),
            unit: "µs",
            ours: row(format!("with {MANY} leases"), many),
            target: Target { limit: 10.0, says: "at most 10 µs".into() },
            others: vec![
                row(format!("with {FEW} leases"), few),
                row(format!("with {MANY} leases, of a pool with a minimum"), kept),
            ],
        })
        .collect();
    tables.push(memory("a million ports of one destination, 16 addresses", 10.0, |world| {
        world.fill(destination(0))
    }));
    tables.push(memory("100,000 destinations with a block each", 60.0, |world| world.blocks(MANY)));
    tables
}

/// What the process has more than before.
fn memory(what: &str, limit: f64, fill: fn(&mut World)) -> Table {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6
    };
    portbroker::kernel::memory::give_back_freed();
    let before = resident();
    let mut world = World::new();
    fill(&mut world);
    portbroker::kernel::memory::give_back_freed();
    let ours = resident() - before;
    let events: usize = world.ledger.snapshot().map(|event| event.to_bytes().unwrap().len()).sum();
    Table {
        title: format!("memory of {what}"),
        unit: "MB",
        ours: row("RssAnon, more than before", Samples::from(ours)),
        target: Target { limit, says: format!("at most {limit} MB") },
        others: vec![row("the same as events, in bytes", Samples::from(events as f64 / 1e6))],
    }
}
