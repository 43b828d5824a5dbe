//! When the ports of a pool for a destination will be used up: what the ledger says of those of which something was taken,
//! for [`Forecasts`]; and telling of it.
//!
//! It is looked at a second after something was leased, every minute beside other things, and when somebody asks; a
//! daemon that rests is not woken for it.

use super::ForecastView;
use super::Outbound;
use super::command::LeaseRequest;
use super::sessions::owner_of;
use crate::forecast::{Level, MOST_LINES, News, Outlook};
use crate::model::{PoolName, Protocol};
use crate::policy::Caller;
use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

/// Leases of a caller that are looked at for what it may know of: the newest.
const NEWEST: usize = 16_384;
/// What else there is for whom was leased before this daemon began.
const MOST_RESUMED: usize = 4096;
/// So many destinations are told of one by one in the log.
const LINES: usize = 8;

/// A line to ports: a pool and a destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Way {
    pool: PoolName,
    protocol: Protocol,
    /// `None`: any.
    to: Option<SocketAddr>,
}

impl Way {
    /// Of UDP every destination of a family has the same ports: they are leased to one alone.
    fn of(pool: PoolName, protocol: Protocol, to: Option<SocketAddr>) -> Self {
        let to = to.map(|to| match (protocol, to) {
            (Protocol::Tcp, to) => SocketAddr::new(to.ip(), to.port()),
            (Protocol::Udp, SocketAddr::V4(_)) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            (Protocol::Udp, SocketAddr::V6(_)) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        });
        Self { pool, protocol, to }
    }

    fn view(&self, outlook: &Outlook) -> ForecastView {
        let Level { used, cooling, capacity } = outlook.level;
        ForecastView {
            pool: self.pool.to_string(),
            protocol: self.protocol.to_string(),
            destination: self.to.map(|to| to.to_string()).unwrap_or_default(),
            used,
            cooling,
            capacity,
            rate: outlook.rate,
            exhausted_in: outlook.exhausted_in,
            ahead: outlook.ahead,
        }
    }
}

impl Outbound {
    /// Something was leased.
    pub(super) fn note_taken(&mut self, request: &LeaseRequest, ports: usize, now: Instant) {
        self.tally.count(|counters| counters.leased(ports));
        let Ok(pool) = PoolName::try_from(request.pool.as_str()) else { return };
        let way = Way::of(pool, request.protocol, request.destination);
        self.forecasts.took(&way, u64::try_from(ports).unwrap_or(u64::MAX), now);
    }

    /// Takes up what was leased before.
    pub(super) fn resume_forecasts(&mut self, now: Instant) {
        let mut uses: Vec<(Way, u64)> = self
            .ledger
            .uses(None, MOST_RESUMED)
            .into_iter()
            .map(|(pool, protocol, to, ports)| (Way::of(pool.clone(), protocol, to), ports))
            .collect();
        uses.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        for (way, _) in uses.into_iter().take(MOST_LINES) {
            if let Some(level) = self.level(&way) {
                self.forecasts.resume(way, level, now);
            }
        }
    }

    fn level(&mut self, way: &Way) -> Option<Level> {
        let (name, pool) = self.pools.get(way.pool.as_str())?;
        let figures = self.ledger.usage_of(&pool.offer(name), way.protocol, way.to);
        Some(Level { used: figures.used, cooling: figures.cooling, capacity: figures.capacity })
    }

    /// Looks at what was taken, where that is due.
    pub(super) fn look_ahead(&mut self, now: Instant) {
        let due = self.forecasts.take_due(now);
        self.see_ways(due, now);
    }

    /// Looks at all.
    pub(super) fn look_at_all_ways(&mut self, now: Instant) {
        let all = self.forecasts.take_all();
        self.see_ways(all, now);
    }

    fn see_ways(&mut self, ways: Vec<Way>, now: Instant) {
        let mut ahead = Vec::new();
        for way in ways {
            let level = self.level(&way);
            match self.forecasts.see(&way, level, now) {
                Some(News::Ahead(outlook)) => ahead.push(way.view(&outlook)),
                Some(News::Averted(outlook)) => tell_averted(&way.view(&outlook)),
                None => {}
            }
        }
        if !ahead.is_empty() {
            self.tell_ahead(ahead);
        }
    }

    /// What comes first is told one by one; and by a signal for each pool and protocol.
    fn tell_ahead(&mut self, mut ahead: Vec<ForecastView>) {
        self.tally.count(|counters| counters.foretold += ahead.len() as u64);
        ahead.sort_by(|a, b| first(a).cmp(&first(b)).then_with(|| a.destination.cmp(&b.destination)));
        ahead.iter().take(LINES).for_each(tell_one);
        let more = ahead.len().saturating_sub(LINES);
        if more > 0 {
            let event = "exhaustion-ahead";
            tracing::warn!(
                event,
                destinations = more,
                "for {more} more destinations ports will be used up soon: see \"portbroker status\""
            );
        }
        let mut firsts = BTreeMap::new();
        for view in ahead {
            firsts.entry((view.pool.clone(), view.protocol.clone())).or_insert(view);
        }
        self.foretold.extend(firsts.into_values());
    }

    /// The forecasts that a caller may see: of what it has leases for, or of all for an administrator.
    pub(super) fn forecasts_for(&mut self, caller: &Caller, most: usize, now: Instant) -> Vec<ForecastView> {
        let own: Option<HashSet<Way>> = (!caller.administrator).then(|| {
            let uses = self.ledger.uses(Some(&owner_of(caller)), NEWEST).into_iter();
            uses.map(|(pool, protocol, to, _)| Way::of(pool.clone(), protocol, to)).collect()
        });
        let mut forecasts = self.forecasts(now);
        forecasts.retain(|(way, _)| own.as_ref().is_none_or(|own| own.contains(way)));
        forecasts.into_iter().take(most).map(|(way, outlook)| way.view(&outlook)).collect()
    }

    /// All forecasts, as of now.
    fn forecasts(&mut self, now: Instant) -> Vec<(Way, Outlook)> {
        self.look_at_all_ways(now);
        self.forecasts.rows(now)
    }

    /// The first so many of all.
    pub(super) fn busiest(&mut self, most: usize, now: Instant) -> Vec<ForecastView> {
        self.forecasts(now).into_iter().take(most).map(|(way, outlook)| way.view(&outlook)).collect()
    }
}

/// When it ends, and else how much is left.
fn first(view: &ForecastView) -> (bool, Option<std::time::Duration>, u64) {
    let left = view.capacity.saturating_sub(view.used).saturating_sub(view.cooling);
    (view.exhausted_in.is_none(), view.exhausted_in, left)
}

/// In words.
fn destination_words(view: &ForecastView) -> String {
    match view.destination.as_str() {
        "" => "any destination".to_owned(),
        "0.0.0.0:0" => "IPv4".to_owned(),
        "[::]:0" => "IPv6".to_owned(),
        to => to.to_owned(),
    }
}

fn tell_one(view: &ForecastView) {
    let ForecastView { pool, protocol, used, cooling, capacity, rate, .. } = view;
    let (taken, to) = (used.saturating_add(*cooling), destination_words(view));
    let seconds = view.exhausted_in.map(|time| time.as_secs());
    let when = match seconds {
        Some(seconds) => format!("{rate:.1} more a second: nothing is left in {seconds} s"),
        None => "nearly all".to_owned(),
    };
    tracing::warn!(
        event = "exhaustion-ahead",
        pool,
        protocol,
        destination = view.destination,
        used,
        cooling,
        capacity,
        rate,
        seconds,
        "{taken} of {capacity} ports of pool {pool} for {protocol} to {to} are taken, {when}; give it more addresses, \
         or see \"portbroker list leases\" for who has them"
    );
}

fn tell_averted(view: &ForecastView) {
    let ForecastView { pool, protocol, used, cooling, capacity, .. } = view;
    let (taken, to) = (used.saturating_add(*cooling), destination_words(view));
    tracing::info!(
        event = "exhaustion-averted",
        pool,
        protocol,
        destination = view.destination,
        used,
        cooling,
        capacity,
        "{taken} of {capacity} ports of pool {pool} for {protocol} to {to} are taken: their end is not near any more"
    );
}
