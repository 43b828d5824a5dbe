//! What is kept of a lease, a session and an owner.

use super::Kind;
use super::books::Claim;
use super::waits::Tick;
use crate::model::{LeaseId, Protocol, SessionId};
use std::collections::BTreeSet;

/// Ports of an address, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) address: u32,
    pub(super) first: u16,
    pub(super) last: u16,
}

/// A lease, by the numbers of what it is made of.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) session: SessionId,
    pub(super) owner: u32,
    pub(super) pool: u32,
    pub(super) destination: Option<u32>,
    pub(super) protocol: Protocol,
    pub(super) kind: Kind,
    /// False: it ended.
    pub(super) held: bool,
    /// Somebody was told that its ports are used after its end.
    pub(super) warned: bool,
    pub(super) ranges: Box<[Range]>,
    /// Ports that cool; none while it is held.
    pub(super) cooling: Cooling,
    /// Second looks that are to come.
    pub(super) watched: u32,
    /// When it was first seen that it has an open socket and its session has ended.
    pub(super) orphaned: Option<Tick>,
}

/// How many ports cool, of each address family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cooling {
    four: u32,
    six: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) owner: u32,
    /// Those that are held.
    pub(super) leases: BTreeSet<LeaseId>,
}

/// An owner, as long as it has a session or a lease.
#[derive(Debug, Clone, Default)]
pub(super) struct Holdings {
    pub(super) sessions: usize,
    /// Cooling ones too.
    pub(super) leases: BTreeSet<LeaseId>,
    /// Ports that cool.
    pub(super) cooling: usize,
    /// Ports that are held, by pool.
    held: Vec<(u32, u64)>,
}

impl Range {
    pub(super) fn has(self, address: u32, port: u16) -> bool {
        self.address == address && (self.first..=self.last).contains(&port)
    }

    pub(super) fn ports(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }

    /// Its words, with the bits of its ports.
    pub(super) fn words(self) -> impl Iterator<Item = (u16, u64)> {
        (self.first / 64..=self.last / 64).map(move |word| {
            let from = if word == self.first / 64 { self.first % 64 } else { 0 };
            let to = if word == self.last / 64 { self.last % 64 } else { 63 };
            (word, (!0 << from) & (!0 >> (63 - to)))
        })
    }

    /// The ranges of the ports in a word.
    pub(super) fn of_word(address: u32, word: u16, mask: u64) -> impl Iterator<Item = Self> {
        let mut rest = mask;
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let from = rest.trailing_zeros();
            let length = (!(rest >> from)).trailing_zeros().min(64 - from);
            let run = if length == 64 { !0 } else { ((1u64 << length) - 1) << from };
            rest &= !run;
            let first = u16::try_from(u32::from(word) * 64 + from).ok()?;
            Some(Self { address, first, last: first + u16::try_from(length - 1).ok()? })
        })
    }
}

impl Cooling {
    pub(super) fn all(self) -> u32 {
        self.four.saturating_add(self.six)
    }

    /// Whether they are of IPv4 addresses, and how many.
    pub(super) fn of_each(self) -> [(bool, u32); 2] {
        [(true, self.four), (false, self.six)]
    }

    fn family(&mut self, v4: bool) -> &mut u32 {
        if v4 { &mut self.four } else { &mut self.six }
    }

    pub(super) fn more(&mut self, v4: bool, ports: u32) {
        let family = self.family(v4);
        *family = family.saturating_add(ports);
    }

    pub(super) fn less(&mut self, v4: bool, ports: u32) {
        let family = self.family(v4);
        *family = family.saturating_sub(ports);
    }
}

impl Record {
    pub(super) fn claim(&self) -> Claim {
        Claim::of(self.protocol, self.destination)
    }

    pub(super) fn ports(&self) -> u32 {
        self.ranges.iter().map(|range| range.ports()).sum()
    }
}

impl Holdings {
    pub(super) fn held(&self, pool: u32) -> u64 {
        self.held.iter().find(|(id, _)| *id == pool).map_or(0, |(_, held)| *held)
    }

    pub(super) fn add(&mut self, pool: u32, ports: u32) {
        match self.held.iter_mut().find(|(id, _)| *id == pool) {
            Some((_, held)) => *held += u64::from(ports),
            None => self.held.push((pool, u64::from(ports))),
        }
    }

    pub(super) fn take(&mut self, pool: u32, ports: u32) {
        if let Some((_, held)) = self.held.iter_mut().find(|(id, _)| *id == pool) {
            *held = held.saturating_sub(u64::from(ports));
        }
        self.held.retain(|(_, held)| *held > 0);
    }

    pub(super) fn is_unused(&self) -> bool {
        self.sessions == 0 && self.leases.is_empty()
    }
}
