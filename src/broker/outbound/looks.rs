//! What cools is asked of the kernel until it is free, a bounded number of questions at a time.

use super::dumps::{Answered, Asked, Dumps, Found};
use super::forgotten::Asking;
use crate::kernel::destroyed::{Closed, Destroyed, Overflow, ROOM};
use crate::kernel::tuples::{Device, Lookup};
use crate::leases::{Ledger, Look, Request};
use crate::model::{PortRange, Present, Protocol, Seen, SourceRange, Tuple};
use futures_util::FutureExt as _;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Questions that are asked between two other things that the daemon does: about a third of a millisecond.
const AT_ONCE: usize = 64;
/// On so many devices a tuple is looked for, before it is free: somebody may have bound a socket to one.
const DEVICES: usize = 4;
/// For fewer tuples the kernel is asked one by one, which takes less than to walk over all sockets.
const FEW: usize = 4096;
/// Ports that are asked for together, where the kernel walks over all sockets for one as for many; a power of two.
const NEIGHBOURS: u16 = 1024;
/// Ends of sockets that are taken at once.
const ENDS: usize = 1024;
/// How long to wait after the kernel could not be asked.
const RETRY: Duration = Duration::from_secs(1);

/// What the kernel said by itself, or at last.
pub(in crate::broker) enum Heard {
    Ended(Result<Vec<Closed>, Overflow>),
    Answered(Answered),
}

/// The ways to ask the kernel.
pub(super) struct Looks {
    lookup: Option<Lookup>,
    destroyed: Option<Destroyed>,
    dumps: Dumps,
    devices: Vec<Device>,
    /// After a failure: when to ask again.
    again: Option<Instant>,
    fault: Option<String>,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self {
            lookup: None,
            destroyed: None,
            dumps: Dumps::default(),
            devices: Vec::new(),
            again: None,
            fault: None,
        }
    }

    /// Which devices there are: those with addresses, the first four of them.
    pub(super) fn see_devices(&mut self, present: &Present) {
        let mut names: Vec<&str> = Vec::new();
        for of in present.interfaces() {
            if !names.contains(&of.interface.as_str()) && names.len() < DEVICES {
                names.push(&of.interface);
            }
        }
        self.devices = names.into_iter().filter_map(Device::named).collect();
    }

    /// Why nothing is looked up, if so.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// When the next questions are due.
    pub(super) fn next_due(&self, ledger: &Ledger) -> Option<Instant> {
        let due = ledger.next_due().into_iter().chain(self.dumps.next_due(Instant::now())).min();
        due.map(|due| self.again.map_or(due, |again| due.max(again)))
    }

    /// Asks what is due, no more than callers can wait for.
    pub(super) fn look(&mut self, ledger: &mut Ledger, now: Instant) {
        if self.again.is_some_and(|again| again > now) {
            return;
        }
        // Each is as many questions.
        let looks = ledger.due(now, AT_ONCE / (1 + self.devices.len()));
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
        let (mut asked, mut failed) = (false, None);
        for look in looks {
            match look {
                Look::Exact(tuple) => {
                    asked = true;
                    match self.look_at(&tuple) {
                        Ok(seen) => ledger.looked(look, vec![(tuple, seen)], now),
                        Err(error) => {
                            failed = Some(error);
                            ledger.unanswered(look, now);
                        }
                    }
                }
                Look::Range { protocol, source } => {
                    if !self.dumps.put(Asked { look, protocol, source }) {
                        ledger.unanswered(look, now);
                    }
                }
            }
        }
        if asked {
            self.note(failed, now);
        }
        self.dumps.begin(now);
    }

    /// Whether looks at ports of this protocol were begun and are not answered.
    pub(super) fn will_know_more(&self, protocol: Protocol) -> bool {
        self.dumps.is_about(protocol)
    }

    /// Which of some sources the kernel has something of. To ask for many it walks over all of its sockets, and so it is
    /// asked for their neighbours as well, which may be next.
    pub(super) fn in_use(
        &mut self,
        asking: &mut Asking,
        sources: &[SocketAddr],
    ) -> io::Result<Vec<SocketAddr>> {
        let (protocol, destination) = (asking.protocol, asking.destination);
        if protocol == Protocol::Tcp && destination.is_some() && sources.len() <= FEW {
            let mut used = Vec::new();
            for source in sources {
                let seen = self.look_at(&Tuple { protocol, source: *source, destination })?;
                used.extend((seen != Seen::Free).then_some(*source));
            }
            return Ok(used);
        }
        let is_known = |source: &SocketAddr| {
            asking.walked.iter().any(|range| {
                range.address == source.ip()
                    && (range.ports.first()..=range.ports.last()).contains(&source.port())
            })
        };
        let unknown: Vec<SocketAddr> = sources.iter().copied().filter(|source| !is_known(source)).collect();
        if !unknown.is_empty() {
            let hulls = hulls(&unknown);
            let found = self.lookup()?.ranges(protocol, &hulls)?;
            let counts = |remote: SocketAddr| {
                protocol == Protocol::Udp || remote.port() == 0 || destination.is_none_or(|to| to == remote)
            };
            let found = found.into_iter().filter(|(_, remote, _)| counts(*remote));
            asking.used.extend(found.map(|(local, ..)| local));
            asking.walked.extend(hulls);
        }
        Ok(sources.iter().copied().filter(|source| asking.used.contains(source)).collect())
    }

    fn look_at(&mut self, tuple: &Tuple) -> io::Result<Seen> {
        let devices = std::mem::take(&mut self.devices);
        let seen = self.lookup().and_then(|lookup| lookup.look_on_devices(tuple, &devices));
        self.devices = devices;
        seen
    }

    fn lookup(&mut self) -> io::Result<&mut Lookup> {
        match &mut self.lookup {
            Some(lookup) => Ok(lookup),
            none => Ok(none.insert(Lookup::new()?)),
        }
    }

    /// Takes an answer about ranges.
    pub(super) fn take_answer(&mut self, ledger: &mut Ledger, answered: Answered, now: Instant) {
        let Answered { asked, found } = answered;
        match found {
            Ok([tcp, udp]) => {
                let (tcp, udp) = (by_address(&tcp), by_address(&udp));
                for Asked { look, protocol, source } in asked {
                    let found = if protocol == Protocol::Tcp { &tcp } else { &udp };
                    ledger.looked(look, within(&source, protocol, found), now);
                }
                self.note(None, now);
            }
            Err(error) => {
                asked.iter().for_each(|asked| ledger.unanswered(asked.look, now));
                self.note(Some(error), now);
            }
        }
        self.look(ledger, now);
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

    /// What comes next of the ends of sockets and of answers. Nothing is lost where the future is dropped.
    pub(super) async fn next(&mut self) -> Heard {
        let Self { destroyed, dumps, .. } = self;
        tokio::select! {
            ends = ended(destroyed) => Heard::Ended(ends),
            answered = dumps.next() => Heard::Answered(answered),
        }
    }

    /// Takes ends of sockets.
    pub(super) fn take_ends(
        &mut self,
        ledger: &mut Ledger,
        ends: Result<Vec<Closed>, Overflow>,
        now: Instant,
    ) {
        match ends {
            Ok(ends) => {
                for Closed { local, remote, cookie } in ends {
                    let tuple = Tuple { protocol: Protocol::Tcp, source: local, destination: Some(remote) };
                    ledger.destroyed(&tuple, cookie, now);
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

/// The next ends of sockets.
async fn ended(destroyed: &mut Option<Destroyed>) -> Result<Vec<Closed>, Overflow> {
    let Some(destroyed) = destroyed else { return std::future::pending().await };
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

/// A range of each address that has all of its sources, and their neighbours.
fn hulls(sources: &[SocketAddr]) -> Vec<SourceRange> {
    let mut hulls: HashMap<IpAddr, (u16, u16)> = HashMap::new();
    for source in sources {
        let (first, last) = hulls.entry(source.ip()).or_insert((source.port(), source.port()));
        (*first, *last) = ((*first).min(source.port()), (*last).max(source.port()));
    }
    let range = |(address, (first, last)): (IpAddr, (u16, u16))| {
        let (first, last) = ((first & !(NEIGHBOURS - 1)).max(1), last | (NEIGHBOURS - 1));
        Some(SourceRange { address, ports: PortRange::new(first, last).ok()? })
    };
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
