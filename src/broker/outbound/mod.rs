//! The outbound half: pools, sessions, leases and what cools after them, and what the kernel says of all that.
//!
//! Pools are made anew whenever something around them changes; leases are the ledger's, and live on whatever happens to
//! pools. What happened is in the journal before anybody hears of it. The ledger decides; here are its effects.

mod addresses;
mod command;
mod dumps;
mod forecast;
mod forgotten;
mod lending;
mod looks;
mod measured;
mod misuse;
mod orphans;
mod parked;
mod pools;
mod refusals;
mod sessions;
mod store;
mod view;
mod waiting;
mod wanted;

pub use crate::metrics::ForecastView;
pub use command::{Drain, LeaseRequest, LeasedSockets, Shortage};
pub use view::{AddressView, LeaseView, PoolView};

pub(super) use command::Ask;
pub(super) use sessions::owner_of;

use super::authority::administrator;
use super::command::{Notice, Refusal};
use super::gate::Gate;
use super::lookout::Listened;
use super::tally::Tally;
use super::{Broker, until};
use crate::config::Config;
use crate::forecast::Forecasts;
use crate::leases::{Eased, Ledger, Ticket, Waiting};
use crate::limits::Who;
use crate::model::{ListenerName, PoolName, PortRange, PortSet, Present, SessionId};
use crate::policy::Caller;
use crate::pools::Host;
use addresses::Addresses;
use forecast::Way;
use forgotten::Aside;
use looks::{Heard, Looks};
use orphans::Closer;
use parked::{Parked, Wanted};
use pools::{News, Pools, Surroundings};
use sessions::Lifelines;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;
use store::Store;

/// The kernel's default, for where it does not say.
const EPHEMERAL: (u16, u16) = (32768, 60999);

/// Pools and leases.
pub(super) struct Outbound {
    pools: Pools,
    host: Host,
    present: Present,
    addresses: Addresses,
    ledger: Ledger,
    /// Addresses that are drained: the ledger's, for the pools.
    draining: BTreeSet<IpAddr>,
    /// Those of them of which nothing is leased, and that was said.
    drained: BTreeSet<IpAddr>,
    store: Store,
    lifelines: Lifelines,
    looks: Looks,
    parked: Vec<Parked>,
    /// Requests that have looked at much, and go on.
    aside: Aside,
    waiting: Waiting,
    /// What they wait for.
    wanted: HashMap<Ticket, Wanted>,
    /// What became easier for many at once, and when they were tried last.
    broadly: HashSet<Eased>,
    broadly_at: Option<Instant>,
    closer: Closer,
    /// What somebody lacked of late.
    lacking: wanted::Wanted,
    /// Who still has lines of the log.
    gate: Gate,
    forecasts: Forecasts<Way>,
    /// What was foretold and is not announced yet.
    foretold: Vec<ForecastView>,
    tally: Tally,
    /// Whether it is known who listens on what: of ten thousand sockets that takes time, and is not asked before the
    /// daemon is ready.
    knows_listened: bool,
}

/// What happened by itself.
pub(super) enum Happened {
    LifelineCut(SessionId),
    Heard(Heard),
    Addresses,
    Due,
}

impl Outbound {
    /// Takes up what an earlier daemon left. Must be called within a tokio runtime.
    pub(super) fn new(runtime_directory: &Path, gate: Gate, tally: Tally) -> io::Result<Self> {
        let now = Instant::now();
        let (store, events) = Store::open(runtime_directory);
        let mut ledger = Ledger::restore(events, now);
        let lifelines = sessions::resumed(&mut ledger, runtime_directory, now)?;
        let (first, last) = EPHEMERAL;
        let host = Host {
            ephemeral: PortRange::new(first, last).map_err(io::Error::other)?,
            brokered: Vec::new(),
            protected: PortSet::default(),
            learned: Vec::new(),
            listened: PortSet::default(),
        };
        let mut outbound = Self {
            pools: Pools::default(),
            host,
            present: Present::default(),
            addresses: Addresses::new(),
            draining: ledger.draining().collect(),
            drained: BTreeSet::new(),
            ledger,
            store,
            lifelines,
            looks: Looks::new(),
            parked: Vec::new(),
            aside: Aside::default(),
            waiting: Waiting::default(),
            wanted: HashMap::new(),
            broadly: HashSet::new(),
            broadly_at: None,
            closer: Closer::default(),
            lacking: wanted::Wanted::default(),
            gate,
            forecasts: Forecasts::default(),
            foretold: Vec::new(),
            tally,
            knows_listened: false,
        };
        outbound.keep(now);
        Ok(outbound)
    }

    /// What happens next. What was not awaited to its end is not lost.
    pub(super) async fn next(&mut self) -> Happened {
        let due = self.looks.next_due(&self.ledger);
        let due = due.into_iter().chain(self.store.next_due()).chain(self.forecasts.next_due());
        let due = due.chain(self.waiting_due()).chain(self.aside.next_due(Instant::now())).min();
        let Self { lifelines, looks, addresses, .. } = self;
        tokio::select! {
            session = lifelines.next() => Happened::LifelineCut(session),
            heard = looks.next() => Happened::Heard(heard),
            () = addresses.next() => Happened::Addresses,
            () = until(due) => Happened::Due,
        }
    }

    /// Whether somebody removed the journal since this was asked last.
    pub(super) fn lost_its_journal(&mut self) -> bool {
        self.store.take_was_removed()
    }

    /// Nothing is left of what was written down.
    pub(super) fn write_everything(&mut self, now: Instant) {
        self.lifelines.prepare();
        self.store.begin_anew();
        self.keep(now);
    }

    /// Writes down what happened, and tells what was noticed on the way.
    fn keep(&mut self, now: Instant) {
        self.store.keep(&mut self.ledger, now);
        let used = self.ledger.used_after_end();
        if !used.is_empty() {
            let (told, others): (Vec<_>, Vec<_>) = used
                .into_iter()
                .partition(|used| self.gate.has_a_line(&Who::from(&used.owner), "used-after-end"));
            others.iter().for_each(misuse::report_briefly);
            if !told.is_empty() {
                misuse::report(told);
            }
        }
        self.closer.close(self.ledger.orphans());
        self.tell_drained();
    }

    fn tell_drained(&mut self) {
        for &address in &self.draining {
            if self.ledger.usage(address).leased > 0 {
                self.drained.remove(&address);
            } else if self.drained.insert(address) {
                tracing::info!(event = "drained", %address, "{address} is drained: nothing of it is leased");
            }
        }
    }

    fn do_what_is_due(&mut self, now: Instant) {
        self.looks.look(&mut self.ledger, now);
        self.go_on(now);
        self.keep(now);
        self.look_ahead(now);
    }

    /// Everything that is not as it should be.
    pub(super) fn faults(&self) -> Vec<String> {
        let own = [self.addresses.fault(), self.store.fault(), self.looks.fault()];
        let callers = |(name, pool): (&PoolName, &pools::Pool)| {
            self.ledger.callers(name).and_then(|callers| pool.fault_of_minimum(name, callers))
        };
        let own = own.into_iter().flatten().map(str::to_owned).chain(self.pools.faults().cloned());
        own.chain(self.pools.iter().filter_map(callers)).collect()
    }

    /// Whether there is such a pool.
    pub(super) fn has_pool(&self, name: &str) -> bool {
        self.pools.get(name).is_some()
    }

    /// All pools.
    pub(super) fn views(&self) -> Vec<PoolView> {
        let names: Vec<String> = self.pools.iter().map(|(name, _)| name.to_string()).collect();
        names.iter().filter_map(|name| self.show(name)).collect()
    }

    fn show(&self, name: &str) -> Option<PoolView> {
        let (name, pool) = self.pools.get(name)?;
        let usage = |address| {
            let usage = self.ledger.usage(address);
            (usage.leased, usage.cooling)
        };
        Some(pool.view(name, &self.draining, usage, self.waiting.of_pool(name)))
    }

    /// Looks at the addresses of the host anew.
    fn see_addresses(&mut self) {
        if let Some(present) = self.addresses.look() {
            self.looks.see_devices(&present);
            self.present = present;
        }
    }

    /// The addresses of the host, as they were seen last.
    pub(super) fn present(&self) -> &Present {
        &self.present
    }

    /// Drains an address, or takes it back into use.
    fn drain(&mut self, address: IpAddr, drain: Drain, now: Instant) -> Result<(), Refusal> {
        let known = self.pools.have(address) || self.draining.contains(&address);
        if !known {
            let text = format!("no pool has the address {address}: see \"portbroker list pools\"");
            return Err(Refusal::BadArgument(text));
        }
        match drain {
            Drain::Begin => self.ledger.drain(address),
            Drain::Undo => self.ledger.undrain(address),
        };
        self.draining = self.ledger.draining().collect();
        self.drained.retain(|address| self.draining.contains(address));
        self.pools.refresh_addresses(&self.present, &self.draining);
        let leased = self.ledger.usage(address).leased;
        match drain {
            Drain::Begin => {
                tracing::info!(event = "draining", %address, leased, "drains {address}, of which {leased} ports are leased");
            }
            Drain::Undo => tracing::info!(event = "undrained", %address, "{address} is in use again"),
        }
        self.keep(now);
        Ok(())
    }
}

impl Broker {
    /// Takes the pools of a configuration. The ports that they ask for are reserved by who calls.
    pub(super) fn configure_pools(&mut self, config: &Config) {
        self.outbound.host.brokered = self.brokered_ranges();
        self.outbound.host.protected.clone_from(&config.protect.ports);
        if self.outbound.knows_listened {
            self.learning.see_ports();
        }
        self.see_taken_ports();
        self.outbound.see_addresses();
        let Outbound { pools, host, present, draining, ledger, .. } = &mut self.outbound;
        for gone in pools.configure(&config.pools, &Surroundings { host, present, draining }) {
            ledger.retire(&gone);
        }
        let times = pools.iter().filter_map(|(name, pool)| Some((name.clone(), pool.config.close_orphans?)));
        ledger.close_orphans(times.collect());
        self.outbound.serve_all(Instant::now());
        self.protection.set_leased_from(self.outbound.pools.reserve.clone());
        self.see_absent();
    }

    fn brokered_ranges(&self) -> Vec<(PortRange, String)> {
        let one =
            |(port, name): (u16, &ListenerName)| Some((PortRange::new(port, port).ok()?, name.to_string()));
        self.brokered_ports().filter_map(one).collect()
    }

    /// Brings the pools in step with the ports of listeners, where these changed without a new configuration. What the
    /// pools ask to have reserved is reserved by who calls.
    pub(super) fn see_brokered_ports(&mut self) {
        self.outbound.host.brokered = self.brokered_ranges();
        self.see_taken_ports();
        let Outbound { pools, host, present, draining, .. } = &mut self.outbound;
        pools.refresh(&Surroundings { host, present, draining });
        self.protection.set_leased_from(self.outbound.pools.reserve.clone());
    }

    /// Ports that are taken, and the range from which the kernel chooses, may change at any time; whether they did.
    fn see_taken_ports(&mut self) -> bool {
        let host = &mut self.outbound.host;
        let ephemeral = self.protection.ephemeral_range().unwrap_or(host.ephemeral);
        let learned = self.learning.learned();
        let learned: Vec<(u16, String)> =
            learned.into_iter().map(|learned| (learned.port, learned.unit.to_string())).collect();
        let listened =
            if self.outbound.knows_listened { self.learning.listened().clone() } else { Listened::default() };
        // A UDP port that is leased for any destination waits for anybody, and is no service's.
        let of_others = listened.udp.difference(&self.outbound.ledger.udp_ports());
        let listened = listened.tcp.union(&of_others);
        let changed = (host.ephemeral, &host.learned, &host.listened) != (ephemeral, &learned, &listened);
        (host.ephemeral, host.learned, host.listened) = (ephemeral, learned, listened);
        changed
    }

    /// Looks who listens on what, before the first lease.
    pub(super) fn finish_pools(&mut self) {
        self.outbound.knows_listened = true;
        self.learning.see_ports();
        self.look_at_pools();
        self.outbound.resume_forecasts(Instant::now());
    }

    /// Looks at all forecasts, where nothing happens that makes them be looked at.
    pub(super) fn look_at_forecasts(&mut self) {
        self.outbound.look_at_all_ways(Instant::now());
    }

    /// Brings the pools in step with the ports that are taken now.
    pub(super) fn look_at_pools(&mut self) {
        if !self.see_taken_ports() {
            return;
        }
        let Outbound { pools, host, present, draining, .. } = &mut self.outbound;
        pools.refresh(&Surroundings { host, present, draining });
        self.outbound.serve_all(Instant::now());
        self.touched = true;
        if self.protection.set_leased_from(self.outbound.pools.reserve.clone()) {
            self.assert_reserved_ports();
        }
    }

    pub(super) fn outbound_happened(&mut self, happened: Happened) {
        let now = Instant::now();
        let outbound = &mut self.outbound;
        match happened {
            Happened::LifelineCut(session) => outbound.lifeline_cut(session, now),
            Happened::Heard(Heard::Ended(ends)) => {
                outbound.looks.take_ends(&mut outbound.ledger, ends, now);
                outbound.keep(now);
            }
            Happened::Heard(Heard::Answered(answered)) => {
                outbound.looks.take_answer(&mut outbound.ledger, answered, now);
                outbound.answer_parked(now);
                outbound.keep(now);
            }
            Happened::Addresses => {
                outbound.see_addresses();
                outbound.pools.refresh_addresses(&outbound.present, &outbound.draining);
                outbound.serve_all(now);
                self.touched = true;
                // One that could not be bound for want of its address may be by now.
                self.act_on_faulty();
                self.see_absent();
            }
            Happened::Due => outbound.do_what_is_due(now),
        }
        self.outbound.serve_waiting(now);
    }

    pub(super) fn answer_outbound(&mut self, ask: Ask) {
        let now = Instant::now();
        let outbound = &mut self.outbound;
        // Whoever asked may be gone by now, and then nobody wants the answer.
        match ask {
            Ask::Session(caller, reply) => drop(reply.send(outbound.open_session(&caller, now))),
            Ask::Lease(request, reply) => outbound.answer_lease(Wanted::Ports(request, reply), now),
            Ask::Sockets(request, reply) => outbound.answer_lease(Wanted::Sockets(request, reply), now),
            Ask::Wanted(caller, session, reply) => {
                drop(reply.send(outbound.wanted_of(&caller, session, now)));
            }
            Ask::Gone => outbound.see_who_is_gone(now),
            Ask::Release(caller, lease, reply) => drop(reply.send(outbound.release(&caller, lease, now))),
            Ask::Leases(caller, after, most, reply) => {
                drop(reply.send(outbound.leases(&caller, after, most)))
            }
            Ask::Drain(caller, address, drain, reply) => {
                drop(reply.send(self.drain_address(&caller, address, drain, now)));
            }
            Ask::Show(name, reply) => drop(reply.send(outbound.show(&name))),
            Ask::Forecasts(caller, most, reply) => {
                drop(reply.send(outbound.forecasts_for(&caller, most, now)));
            }
        }
        self.outbound.serve_waiting(now);
    }

    fn drain_address(
        &mut self,
        caller: &Caller,
        address: IpAddr,
        drain: Drain,
        now: Instant,
    ) -> Result<(), Refusal> {
        administrator(caller, &self.gate, "drain addresses", &format!("drain {address}"))?;
        self.touched = true;
        self.outbound.drain(address, drain, now)?;
        self.outbound.serve_all(now);
        Ok(())
    }

    /// Tells those who watch what became of pools, and of which somebody lacks ports.
    pub(super) fn announce_pools(&mut self) {
        for pool in std::mem::take(&mut self.outbound.lacking.news) {
            let _ = self.notices.send(Notice::PoolWanted(pool.to_string()));
        }
        for view in std::mem::take(&mut self.outbound.foretold) {
            let _ = self.notices.send(Notice::ExhaustionAhead(Box::new(view)));
        }
        for (name, news) in std::mem::take(&mut self.outbound.pools.news) {
            self.touched = true;
            let view = self.outbound.show(name.as_str()).map(Box::new);
            let notice = match (news, view) {
                (News::Removed, _) | (_, None) => Notice::PoolRemoved(name.to_string()),
                (News::Added, Some(view)) => Notice::PoolAdded(view),
                (News::Changed, Some(view)) => Notice::PoolChanged(view),
            };
            // No receivers is no fault.
            let _ = self.notices.send(notice);
        }
    }
}
