//! What was seen, and what became of it: candidates and learned ports by unit.

use super::limit::Room;
use super::{Life, Moment, Rules};
use crate::model::{PortSet, Protocol, UnitName};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// How long a TCP socket has to be seen in every look until it counts for the life of its unit.
const SETTLED_TCP: Duration = Duration::from_secs(2);
/// The same for UDP, where a socket that asks somebody looks like one that waits to be asked.
const SETTLED_UDP: Duration = Duration::from_secs(30);
/// More ports of one unit are not looked at.
const MOST_OF_A_UNIT: usize = 600;
/// More candidates are not kept; the ones that were seen least lately go.
pub(super) const MOST_CANDIDATES: usize = 2048;
/// A unit of which so many candidates were dropped has ports that the kernel chooses.
const RESTLESS: u8 = 2;

/// What is listened on: by unit, its present life and its ports.
pub type Sightings = BTreeMap<UnitName, (Life, BTreeSet<(Protocol, u16)>)>;

/// A port that an enabled socket unit names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The socket unit.
    pub unit: UnitName,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// A port that is learned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Learned {
    /// The port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Whose it is.
    pub unit: UnitName,
    /// When it was seen first.
    pub first: Moment,
    /// When it was seen last.
    pub last: Moment,
}

/// What came of a look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What is known changed in more than when something was seen last: to be written down.
    pub changed: bool,
    /// Something new has to be seen once more before it counts.
    pub unsettled: bool,
    /// Learned just now.
    pub learned: Vec<(UnitName, Protocol, u16)>,
    /// Not learned for lack of room, and not said before.
    pub refused: Vec<(UnitName, Protocol, u16)>,
}

/// Where a port is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Seen in so many lives, one after the other, in this one last.
    Candidate { life: Life, lives: u8 },
    /// Learned by being seen.
    Learned,
    /// Named by an enabled socket unit.
    Named,
    /// Somebody said to forget it in this life: it takes two new ones.
    Forgotten { life: Option<Life> },
    /// Named, and somebody said to forget it.
    Unnamed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortMemory {
    pub(super) first: Moment,
    pub(super) last: Moment,
    pub(super) standing: Standing,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UnitMemory {
    /// The life in which it was seen last.
    pub(super) life: Option<Life>,
    /// How many candidates were dropped, for the next life did not have them.
    pub(super) dropped: u8,
    pub(super) ports: BTreeMap<(Protocol, u16), PortMemory>,
}

type Since = HashMap<(UnitName, Protocol, u16), (Life, Instant)>;

/// All that is known. Only the units are written down; the rest begins anew with each daemon.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    pub(super) units: BTreeMap<UnitName, UnitMemory>,
    /// Since when each socket was there in every look.
    since: Since,
    /// What there was no room for.
    refused: BTreeSet<(UnitName, Protocol, u16)>,
}

impl PortMemory {
    fn new(now: Moment, standing: Standing) -> Self {
        Self { first: now, last: now, standing }
    }

    pub(super) fn is_learned(&self) -> bool {
        matches!(self.standing, Standing::Learned | Standing::Named)
    }
}

impl UnitMemory {
    /// A new life: what the one that ended should have shown again, and did not, is dropped.
    fn begin(&mut self, life: &Life) -> bool {
        if self.life.as_ref() == Some(life) {
            return false;
        }
        let ended = self.life.replace(life.clone());
        let before = self.ports.len();
        self.ports.retain(|_, port| match &port.standing {
            Standing::Candidate { life, .. } => Some(life) == ended.as_ref(),
            _ => true,
        });
        let dropped = u8::try_from(before - self.ports.len()).unwrap_or(u8::MAX);
        self.dropped = self.dropped.saturating_add(dropped);
        true
    }

    fn lives_needed(&self) -> u8 {
        if self.dropped >= RESTLESS { 3 } else { 2 }
    }
}

fn settled_after(protocol: Protocol) -> Duration {
    match protocol {
        Protocol::Tcp => SETTLED_TCP,
        Protocol::Udp => SETTLED_UDP,
    }
}

impl Memory {
    /// Takes what is listened on at this instant. A socket counts for a life only when it was there in every look
    /// for a few seconds: what a service opens for one answer is at another port the next time.
    pub fn look(&mut self, seen: &Sightings, rules: &Rules, now: Moment, at: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let mut since = Since::new();
        let mut room = Room::with(self.ports(), rules.range);
        for (unit, (life, ports)) in seen {
            let may = |port: u16| port != 0 && !rules.exclude.contains(port) && !rules.held.contains(port);
            let mut settled = Vec::new();
            for &(protocol, port) in ports.iter().filter(|(_, port)| may(*port)).take(MOST_OF_A_UNIT) {
                let key = (unit.clone(), protocol, port);
                let known = self.since.remove(&key).filter(|(then, _)| then == life);
                let begun = known.map_or(at, |(_, begun)| begun);
                since.insert(key, (life.clone(), begun));
                if self.is_learned(unit, protocol, port) || at - begun >= settled_after(protocol) {
                    settled.push((protocol, port));
                } else {
                    outcome.unsettled |= protocol == Protocol::Tcp;
                }
            }
            if settled.is_empty() {
                continue;
            }
            outcome.changed |= self.units.entry(unit.clone()).or_default().begin(life);
            for (protocol, port) in settled {
                self.count((unit, protocol, port), life, now, &mut room, &mut outcome);
            }
        }
        self.since = since;
        self.touch_named(now);
        self.forget_the_oldest();
        outcome
    }

    /// One port of one unit, seen in this life.
    fn count(
        &mut self,
        (unit, protocol, port): (&UnitName, Protocol, u16),
        life: &Life,
        now: Moment,
        room: &mut Room,
        outcome: &mut Outcome,
    ) {
        let Some(memory) = self.units.get_mut(unit) else { return };
        let needed = memory.lives_needed();
        let new = || PortMemory::new(now, Standing::Candidate { life: life.clone(), lives: 0 });
        let known = memory.ports.entry((protocol, port)).or_insert_with(new);
        known.last = now;
        match &mut known.standing {
            Standing::Learned | Standing::Named | Standing::Unnamed => return,
            Standing::Forgotten { life: then } if then.as_ref() == Some(life) => return,
            Standing::Forgotten { .. } => {
                known.standing = Standing::Candidate { life: life.clone(), lives: 1 };
                outcome.changed = true;
                return;
            }
            Standing::Candidate { life: then, lives } => {
                if *lives == 0 || then != life {
                    *lives = lives.saturating_add(1);
                    *then = life.clone();
                    outcome.changed = true;
                }
                if *lives < needed {
                    return;
                }
            }
        }
        let key = (unit.clone(), protocol, port);
        if room.admit(port) {
            known.standing = Standing::Learned;
            self.refused.remove(&key);
            outcome.changed = true;
            outcome.learned.push(key);
        } else if self.refused.insert(key.clone()) {
            outcome.refused.push(key);
        }
    }

    /// Takes the rules and the ports that enabled socket units name: those are learned at once, and forgotten when
    /// their unit is no longer enabled.
    pub fn configure(&mut self, rules: &Rules, named: &[Named], now: Moment) -> Outcome {
        let mut outcome = Outcome::default();
        let names: BTreeSet<(&UnitName, Protocol, u16)> =
            named.iter().map(|named| (&named.unit, named.protocol, named.port)).collect();
        self.refused.clear();
        for (unit, memory) in &mut self.units {
            let before = memory.ports.len();
            memory.ports.retain(|&(protocol, port), known| {
                let by_name = matches!(known.standing, Standing::Named | Standing::Unnamed);
                !rules.exclude.contains(port) && (!by_name || names.contains(&(unit, protocol, port)))
            });
            outcome.changed |= memory.ports.len() != before;
        }
        self.units.retain(|_, memory| !memory.ports.is_empty());
        let mut room = Room::with(self.ports(), rules.range);
        let may = |port: u16| port != 0 && !rules.exclude.contains(port) && !rules.held.contains(port);
        for (unit, protocol, port) in names.into_iter().filter(|(.., port)| may(*port)) {
            let is_known =
                self.units.get(unit).is_some_and(|known| known.ports.contains_key(&(protocol, port)));
            let key = (unit.clone(), protocol, port);
            if is_known {
                continue;
            }
            if room.admit(port) {
                let ports = &mut self.units.entry(unit.clone()).or_default().ports;
                ports.insert((protocol, port), PortMemory::new(now, Standing::Named));
                outcome.changed = true;
                outcome.learned.push(key);
            } else {
                self.refused.insert(key.clone());
                outcome.refused.push(key);
            }
        }
        outcome
    }

    /// Forgets a port until it is seen in two new lives. How many units had it.
    pub fn forget(&mut self, port: u16) -> usize {
        let mut forgotten = 0;
        for memory in self.units.values_mut() {
            let life = memory.life.clone();
            for (_, known) in memory.ports.iter_mut().filter(|((_, p), _)| *p == port) {
                let standing = match known.standing {
                    Standing::Learned => Standing::Forgotten { life: life.clone() },
                    Standing::Named => Standing::Unnamed,
                    _ => continue,
                };
                known.standing = standing;
                forgotten += 1;
            }
        }
        forgotten
    }

    /// What is learned, by port.
    #[must_use]
    pub fn learned(&self) -> Vec<Learned> {
        let mut learned: Vec<Learned> = Vec::new();
        for (unit, memory) in &self.units {
            let ports = memory.ports.iter().filter(|(_, known)| known.is_learned());
            learned.extend(ports.map(|(&(protocol, port), known)| Learned {
                port,
                protocol,
                unit: unit.clone(),
                first: known.first,
                last: known.last,
            }));
        }
        learned.sort();
        learned
    }

    /// The ports that are learned, whether there is room for them or not.
    #[must_use]
    pub fn ports(&self) -> PortSet {
        let ports = self.units.values().flat_map(|memory| &memory.ports);
        ports.filter(|(_, known)| known.is_learned()).map(|((_, port), _)| *port).collect()
    }

    /// The ports to reserve: those that were seen first come first, as many as the limits have room for. The
    /// ephemeral range may have become smaller since they were learned.
    #[must_use]
    pub fn wanted(&self, rules: &Rules) -> PortSet {
        if !rules.learn {
            return PortSet::default();
        }
        let mut learned = self.learned();
        learned.sort_by_key(|learned| (learned.first, learned.port));
        let mut room = Room::new(rules.range);
        for learned in learned.iter().filter(|learned| !rules.exclude.contains(learned.port)) {
            room.admit(learned.port);
        }
        room.taken
    }

    /// The ports that there is no room for, of those that are learned and of those that would be.
    #[must_use]
    pub fn without_room(&self, rules: &Rules) -> PortSet {
        if !rules.learn {
            return PortSet::default();
        }
        let refused: PortSet = self.refused.iter().map(|(.., port)| *port).collect();
        let left_out = self.ports().difference(&self.wanted(rules)).difference(&rules.exclude);
        refused.union(&left_out)
    }

    fn is_learned(&self, unit: &UnitName, protocol: Protocol, port: u16) -> bool {
        let known = self.units.get(unit).and_then(|memory| memory.ports.get(&(protocol, port)));
        known.is_some_and(PortMemory::is_learned)
    }

    /// systemd itself listens for a socket unit, which is enabled still.
    fn touch_named(&mut self, now: Moment) {
        let known = self.units.values_mut().flat_map(|memory| memory.ports.values_mut());
        for port in known.filter(|port| port.standing == Standing::Named) {
            port.last = now;
        }
    }

    /// Units that never come again, such as those of systemd-run, leave candidates behind.
    fn forget_the_oldest(&mut self) {
        let is_candidate = |port: &PortMemory| matches!(port.standing, Standing::Candidate { .. });
        let all = self.units.values().flat_map(|memory| memory.ports.values());
        let mut last: Vec<Moment> = all.filter(|port| is_candidate(port)).map(|port| port.last).collect();
        if let Some(excess) = last.len().checked_sub(MOST_CANDIDATES).filter(|excess| *excess > 0) {
            last.sort();
            let mut excess = excess;
            let limit = last.get(excess - 1).copied().unwrap_or_default();
            for memory in self.units.values_mut() {
                memory.ports.retain(|_, port| {
                    let goes = is_candidate(port) && port.last <= limit && excess > 0;
                    excess -= usize::from(goes);
                    !goes
                });
            }
        }
        let refused = std::mem::take(&mut self.refused);
        self.units.retain(|_, memory| !memory.ports.is_empty());
        self.refused = refused.into_iter().filter(|(unit, ..)| self.units.contains_key(unit)).collect();
    }
}
