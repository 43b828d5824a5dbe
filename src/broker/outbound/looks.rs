//! What cools is asked of the kernel until it is free, a bounded number of questions at a time.

use crate::kernel::destroyed::{Closed, Destroyed, Overflow, ROOM};
use crate::kernel::tuples::Lookup;
use crate::leases::{Ledger, Look, Request};
use crate::model::{PortRange, Protocol, Seen, SourceRange, Tuple};
use futures_util::FutureExt as _;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Questions that are asked between two other things that the daemon does: about a third of a millisecond.
const AT_ONCE: usize = 64;
/// Ends of sockets that are taken at once.
const ENDS: usize = 1024;
/// How long to wait after the kernel could not be asked.
const RETRY: Duration = Duration::from_secs(1);

/// A source, a destination (port 0: none) and what has it.
type Found = (SocketAddr, SocketAddr, Seen);

/// The ways to ask the kernel.
pub(super) struct Looks {
    lookup: Option<Lookup>,
    destroyed: Option<Destroyed>,
    /// After a failure: when to ask again.
    again: Option<Instant>,
    fault: Option<String>,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self { lookup: None, destroyed: None, again: None, fault: None }
    }

    /// Why nothing is looked up, if so.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// When the next questions are due.
    pub(super) fn next_due(&self, ledger: &Ledger) -> Option<Instant> {
        ledger.next_due().map(|due| self.again.map_or(due, |again| due.max(again)))
    }

    /// Asks what is due, no more than callers can wait for.
    pub(super) fn look(&mut self, ledger: &mut Ledger, now: Instant) {
        if self.again.is_some_and(|again| again > now) {
            return;
        }
        let looks = ledger.due(now, AT_ONCE);
        self.ask(ledger, looks, now);
        self.follow_ends(ledger);
    }

    /// Asks what ended and is in the way of a destination, and was not asked yet; whether there was anything.
    pub(super) fn look_for(&mut self, ledger: &mut Ledger, request: &Request, now: Instant) -> bool {
        if self.again.is_some_and(|again| again > now) {
            return false;
        }
        let looks = ledger.pending(request.protocol, request.destination, AT_ONCE);
        let any = !looks.is_empty();
        self.ask(ledger, looks, now);
        self.follow_ends(ledger);
        any
    }

    fn ask(&mut self, ledger: &mut Ledger, looks: Vec<Look>, now: Instant) {
        if looks.is_empty() {
            return;
        }
        let mut failed = None;
        let mut ranges: [Vec<(Look, SourceRange)>; 2] = Default::default();
        let [tcp, udp] = &mut ranges;
        for look in looks {
            match look {
                Look::Exact(tuple) => match self.lookup().and_then(|lookup| lookup.look(&tuple)) {
                    Ok(seen) => ledger.looked(look, vec![(tuple, seen)], now),
                    Err(error) => {
                        failed = Some(error);
                        ledger.unanswered(look, now);
                    }
                },
                Look::Range { protocol: Protocol::Tcp, source } => tcp.push((look, source)),
                Look::Range { protocol: Protocol::Udp, source } => udp.push((look, source)),
            }
        }
        for (protocol, looks) in [Protocol::Tcp, Protocol::Udp].into_iter().zip(ranges) {
            failed = self.in_ranges(ledger, protocol, &looks, now).err().or(failed);
        }
        self.note(failed, now);
    }

    /// Which of some sources the kernel has something of.
    pub(super) fn in_use(
        &mut self,
        protocol: Protocol,
        destination: Option<SocketAddr>,
        sources: &[SocketAddr],
    ) -> io::Result<Vec<SocketAddr>> {
        if protocol == Protocol::Tcp && destination.is_some() && sources.len() <= AT_ONCE {
            let mut used = Vec::new();
            for source in sources {
                let seen = self.lookup()?.look(&Tuple { protocol, source: *source, destination })?;
                used.extend((seen != Seen::Free).then_some(*source));
            }
            return Ok(used);
        }
        let found = self.lookup()?.ranges(protocol, &hulls(sources))?;
        let counts = |remote: SocketAddr| {
            protocol == Protocol::Udp || remote.port() == 0 || destination.is_none_or(|to| to == remote)
        };
        let found: HashSet<SocketAddr> =
            found.into_iter().filter(|(_, remote, _)| counts(*remote)).map(|(local, ..)| local).collect();
        Ok(sources.iter().copied().filter(|source| found.contains(source)).collect())
    }

    fn lookup(&mut self) -> io::Result<&mut Lookup> {
        match &mut self.lookup {
            Some(lookup) => Ok(lookup),
            none => Ok(none.insert(Lookup::new()?)),
        }
    }

    /// Asks for all ranges of a protocol at once: each question makes the kernel walk over all of its sockets.
    fn in_ranges(
        &mut self,
        ledger: &mut Ledger,
        protocol: Protocol,
        looks: &[(Look, SourceRange)],
        now: Instant,
    ) -> io::Result<()> {
        if looks.is_empty() {
            return Ok(());
        }
        let sources: Vec<SourceRange> = looks.iter().map(|(_, source)| *source).collect();
        match self.lookup().and_then(|lookup| lookup.ranges(protocol, &sources)) {
            Ok(found) => {
                let found = by_address(&found);
                for (look, source) in looks {
                    ledger.looked(*look, within(source, protocol, &found), now);
                }
                Ok(())
            }
            Err(error) => {
                looks.iter().for_each(|(look, _)| ledger.unanswered(*look, now));
                Err(error)
            }
        }
    }

    fn note(&mut self, failed: Option<io::Error>, now: Instant) {
        let Some(error) = failed else {
            (self.again, self.fault) = (None, None);
            return;
        };
        // A new one may do better.
        self.lookup = None;
        self.again = now.checked_add(RETRY);
        let text = format!(
            "the kernel does not say which source ports are in use, so none that were leased become free: {error}"
        );
        if self.fault.as_ref() != Some(&text) {
            tracing::error!(event = "look", %error, "{text}");
        }
        self.fault = Some(text);
    }

    /// Ends of sockets are told as long as there is one to wait for.
    pub(super) fn follow_ends(&mut self, ledger: &mut Ledger) {
        if !ledger.holds_open() {
            self.destroyed = None;
        } else if self.destroyed.is_none() {
            match Destroyed::subscribe(ROOM) {
                Ok(destroyed) => self.destroyed = Some(destroyed),
                // It is looked at now and then anyhow.
                Err(error) => tracing::debug!(%error, "cannot see when sockets end: {error}"),
            }
        }
    }

    /// The next ends of sockets.
    pub(super) async fn ended(&mut self) -> Result<Vec<Closed>, Overflow> {
        let Some(destroyed) = &mut self.destroyed else { return std::future::pending().await };
        let mut ends = vec![destroyed.next().await?];
        while ends.len() < ENDS {
            match destroyed.next().now_or_never() {
                Some(Ok(end)) => ends.push(end),
                // Everything is looked at, what was told too.
                Some(Err(overflow)) => return Err(overflow),
                None => break,
            }
        }
        Ok(ends)
    }

    /// Takes them.
    pub(super) fn take_ends(
        &mut self,
        ledger: &mut Ledger,
        ends: Result<Vec<Closed>, Overflow>,
        now: Instant,
    ) {
        match ends {
            Ok(ends) => {
                for Closed { local, remote, .. } in ends {
                    let tuple = Tuple { protocol: Protocol::Tcp, source: local, destination: Some(remote) };
                    ledger.destroyed(&tuple, now);
                }
            }
            Err(overflow) => {
                tracing::debug!(event = "overflow", "{overflow}");
                ledger.look_at_all_again(now);
            }
        }
        self.look(ledger, now);
    }
}

/// A range of each address that has all of its sources.
fn hulls(sources: &[SocketAddr]) -> Vec<SourceRange> {
    let mut hulls: HashMap<IpAddr, (u16, u16)> = HashMap::new();
    for source in sources {
        let (first, last) = hulls.entry(source.ip()).or_insert((source.port(), source.port()));
        (*first, *last) = ((*first).min(source.port()), (*last).max(source.port()));
    }
    let range =
        |(address, (first, last))| Some(SourceRange { address, ports: PortRange::new(first, last).ok()? });
    hulls.into_iter().filter_map(range).collect()
}

fn by_address(found: &[Found]) -> HashMap<IpAddr, Vec<&Found>> {
    let mut by_address: HashMap<IpAddr, Vec<&Found>> = HashMap::new();
    for one in found {
        by_address.entry(one.0.ip()).or_default().push(one);
    }
    for of_one in by_address.values_mut() {
        of_one.sort_unstable_by_key(|(local, ..)| local.port());
    }
    by_address
}

/// Those of a range.
fn within(
    source: &SourceRange,
    protocol: Protocol,
    found: &HashMap<IpAddr, Vec<&Found>>,
) -> Vec<(Tuple, Seen)> {
    let of_address = found.get(&source.address).map(Vec::as_slice).unwrap_or_default();
    let begin = of_address.partition_point(|(local, ..)| local.port() < source.ports.first());
    let rest = of_address.get(begin..).unwrap_or_default();
    let inside = rest.iter().take_while(|(local, ..)| local.port() <= source.ports.last());
    let tuple = |local: SocketAddr, remote: SocketAddr| Tuple {
        protocol,
        source: local,
        destination: (remote.port() != 0).then_some(remote),
    };
    inside.map(|(local, remote, seen)| (tuple(*local, *remote), *seen)).collect()
}
