//! Who claims which port of which address: for one destination, or alone.
//!
//! A TCP lease for a destination claims (address, port) for that destination. Every other lease claims it *alone*:
//! UDP, since the kernel guards no UDP 4-tuples, and leases for any destination. What always holds: no port of an
//! address is claimed twice for one destination, and none that is claimed alone is claimed in any other way.

use super::counts::Counts;
use super::slots::{Marks, NO_SLOTS, Slots};
use super::table::Table;
use super::view::View;
use super::waits::Waits;
use crate::model::Protocol;
use std::net::{IpAddr, SocketAddr};

/// What is claimed of a port: its use for one destination (by number), or all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) protocol: Protocol,
    /// `None`: alone.
    pub(super) destination: Option<u32>,
}

impl Claim {
    /// What a lease for a destination claims.
    pub(super) fn of(protocol: Protocol, destination: Option<u32>) -> Self {
        let alone = protocol == Protocol::Udp;
        Self { protocol, destination: if alone { None } else { destination } }
    }
}

/// What becomes of claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Free ports are held.
    Hold,
    /// Held ports cool.
    Cool,
    /// Cooling ports are free.
    Free,
    /// Free ports cool: somebody uses them who should not.
    Seize,
}

/// One address for one protocol.
#[derive(Debug, Clone, Default)]
pub(super) struct Side {
    /// All claims, cooling ones too.
    pub(super) claims: Counts,
    /// Claims that are held.
    pub(super) held: Counts,
    /// What is claimed alone.
    pub(super) alone: Slots,
    /// The zone in which all claims lie, where it is known: then nothing need be counted anew.
    zone: Option<u64>,
}

/// Of an address that nobody knows.
pub(super) static NO_SIDE: Side =
    Side { claims: Counts::new(), held: Counts::new(), alone: Slots::new(), zone: None };

#[derive(Debug, Clone, Default)]
pub(super) struct Address {
    tcp: Side,
    udp: Side,
    /// Where somebody said so, nothing new is given out of it.
    pub(super) draining: bool,
    /// How many pools, and ranges of leases, have it.
    uses: u32,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Destination {
    /// By address; none without a claim.
    at: Vec<(u32, Slots)>,
    /// When its ports leave TIME_WAIT.
    pub(super) waits: Waits,
    /// Leases for it that are known.
    pub(super) leases: u32,
}

/// Ports of one address for one claim: they add up to the zone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) held: u32,
    pub(super) cooling: u32,
    pub(super) free: u32,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Books {
    pub(super) addresses: Table<IpAddr, Address>,
    pub(super) destinations: Table<SocketAddr, Destination>,
}

impl Address {
    pub(super) fn side(&self, protocol: Protocol) -> &Side {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }

    fn side_mut(&mut self, protocol: Protocol) -> &mut Side {
        match protocol {
            Protocol::Tcp => &mut self.tcp,
            Protocol::Udp => &mut self.udp,
        }
    }
}

impl Destination {
    pub(super) fn slots(&self, address: u32) -> &Slots {
        let found = self.at.binary_search_by_key(&address, |(address, _)| *address);
        found.ok().and_then(|at| self.at.get(at)).map_or(&NO_SLOTS, |(_, slots)| slots)
    }

    fn change(&mut self, address: u32, word: u16, change: impl FnOnce(Marks) -> Marks) {
        match self.at.binary_search_by_key(&address, |(address, _)| *address) {
            Ok(at) => {
                let Some((_, slots)) = self.at.get_mut(at) else { return };
                slots.change(word, change);
                if slots.claimed() == 0 {
                    self.at.remove(at);
                }
            }
            Err(at) => {
                let mut slots = Slots::default();
                slots.change(word, change);
                if slots.claimed() != 0 {
                    if self.at.is_empty() {
                        self.at.reserve_exact(1);
                    }
                    self.at.insert(at, (address, slots));
                }
            }
        }
    }
}

impl Step {
    fn applied(self, marks: Marks, mask: u64) -> Marks {
        match self {
            Self::Hold => Marks { held: marks.held | mask, ..marks },
            Self::Cool => Marks { held: marks.held & !mask, cooling: marks.cooling | mask },
            Self::Free => Marks { cooling: marks.cooling & !mask, ..marks },
            Self::Seize => Marks { cooling: marks.cooling | mask, ..marks },
        }
    }
}

impl Books {
    pub(super) fn side(&self, address: u32, protocol: Protocol) -> Option<&Side> {
        self.addresses.get(address).map(|address| address.side(protocol))
    }

    /// Whether an address is an IPv4 address.
    pub(super) fn is_ipv4(&self, address: u32) -> bool {
        self.addresses.key(address).is_some_and(IpAddr::is_ipv4)
    }

    /// The slots of a claim at an address.
    pub(super) fn slots(&self, claim: Claim, address: u32) -> &Slots {
        match claim.destination {
            Some(destination) => self.destinations.get(destination).map_or(&NO_SLOTS, |d| d.slots(address)),
            None => self.side(address, claim.protocol).map_or(&NO_SLOTS, |side| &side.alone),
        }
    }

    /// What is claimed of a word by just this claim.
    pub(super) fn marks(&self, claim: Claim, address: u32, word: u16) -> Marks {
        self.slots(claim, address).marks(word)
    }

    /// The ports of a word that are in the way of a claim.
    pub(super) fn taken(&self, claim: Claim, address: u32, word: u16) -> u64 {
        let Some(side) = self.side(address, claim.protocol) else { return 0 };
        match claim.destination {
            None => side.claims.claimed(word),
            Some(_) => self.marks(claim, address, word).claimed() | side.alone.marks(word).claimed(),
        }
    }

    /// Takes a step with ports of a word, all of which are where it begins. `zone`: they are of that zone.
    pub(super) fn step(
        &mut self,
        step: Step,
        claim: Claim,
        address: u32,
        (word, mask): (u16, u64),
        zone: Option<u64>,
    ) {
        let Some(entry) = self.addresses.get_mut(address) else { return };
        let side = entry.side_mut(claim.protocol);
        if matches!(step, Step::Hold | Step::Seize) {
            if side.claims.total() == 0 {
                side.zone = zone;
            } else if side.zone != zone {
                side.zone = None;
            }
        }
        match step {
            Step::Hold => {
                side.claims.add(word, mask);
                side.held.add(word, mask);
            }
            Step::Cool => side.held.take(word, mask),
            Step::Free => side.claims.take(word, mask),
            Step::Seize => side.claims.add(word, mask),
        }
        let change = |marks| step.applied(marks, mask);
        match claim.destination {
            None => side.alone.change(word, change),
            Some(destination) => {
                if let Some(destination) = self.destinations.get_mut(destination) {
                    destination.change(address, word, change);
                }
            }
        }
    }

    /// How much of a zone there is at an address for a claim.
    pub(super) fn room(&mut self, claim: Claim, address: u32, view: &View) -> Room {
        let known = self.lies_within(address, claim.protocol, view);
        let Some(side) = self.side(address, claim.protocol) else { return Room::default() };
        let (held, cooling) = match (claim.destination, known) {
            (None, true) => (side.held.ports(), side.claims.ports() - side.held.ports()),
            (None, false) => view.count(|word, zone| {
                let (claimed, held) = (side.claims.claimed(word), side.held.claimed(word));
                (zone & held, zone & claimed & !held)
            }),
            (Some(_), true) => {
                let own = self.slots(claim, address);
                (own.held() + side.alone.held(), own.cooling() + side.alone.cooling())
            }
            (Some(_), false) => {
                let (mut own, mut alone) = (self.slots(claim, address).cursor(), side.alone.cursor());
                view.count(|word, zone| {
                    let (own, alone) = (own.marks(word), alone.marks(word));
                    (zone & (own.held | alone.held), zone & (own.cooling | alone.cooling))
                })
            }
        };
        Room { held, cooling, free: view.ports().saturating_sub(held + cooling) }
    }

    /// Whether all claims of an address lie within the zone; then what was counted holds for it.
    fn lies_within(&mut self, address: u32, protocol: Protocol, view: &View) -> bool {
        let Some(entry) = self.addresses.get_mut(address) else { return false };
        let side = entry.side_mut(protocol);
        if side.zone != Some(view.zone_id()) {
            // After the zone has changed the claims mostly lie within the new one as well.
            let within =
                side.claims.claimed_words().all(|(word, claimed)| claimed & !view.zone_word(word) == 0);
            if within {
                side.zone = Some(view.zone_id());
            }
            return within;
        }
        true
    }

    /// The number of an address, which is kept until it is released as often.
    pub(super) fn use_address(&mut self, address: IpAddr) -> u32 {
        let id = self.addresses.insert(&address);
        self.keep_address(id);
        id
    }

    /// One use more of an address.
    pub(super) fn keep_address(&mut self, id: u32) {
        if let Some(entry) = self.addresses.get_mut(id) {
            entry.uses += 1;
        }
    }

    /// Forgets an address that nobody uses any more.
    pub(super) fn release_address(&mut self, id: u32) {
        if let Some(entry) = self.addresses.get_mut(id) {
            entry.uses = entry.uses.saturating_sub(1);
            if entry.uses == 0 && !entry.draining {
                self.addresses.remove(id);
            }
        }
    }

    /// Gives out nothing more of an address, or does so again.
    pub(super) fn set_draining(&mut self, address: IpAddr, draining: bool) {
        let id = self.use_address(address);
        if let Some(entry) = self.addresses.get_mut(id) {
            entry.draining = draining;
        }
        self.release_address(id);
    }

    /// The number of a destination, for one lease more.
    pub(super) fn use_destination(&mut self, destination: SocketAddr) -> u32 {
        let id = self.destinations.insert(&destination);
        if let Some(entry) = self.destinations.get_mut(id) {
            entry.leases += 1;
        }
        id
    }

    /// Forgets a destination for which there is no lease any more.
    pub(super) fn release_destination(&mut self, id: u32) {
        if let Some(destination) = self.destinations.get_mut(id) {
            destination.leases = destination.leases.saturating_sub(1);
            if destination.leases == 0 {
                self.destinations.remove(id);
            }
        }
    }
}
