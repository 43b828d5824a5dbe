//! Which ports of one address come next: the least shared ones first, and of those from a place on that differs for
//! each destination.
//!
//! One search looks at the words whose ports are shared least, and further only where the destination has claimed
//! them already: at 1,024 at most, however many leases there are.

use super::books::{Books, Claim, NO_SIDE, Side};
use super::counts::Words;
use super::slots::Slots;
use super::view::View;
use std::collections::BTreeMap;

/// Where ports are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground<'a> {
    view: &'a View,
    side: &'a Side,
    own: &'a Slots,
    alone: bool,
    /// The word at which a walk begins.
    start: u16,
}

/// A word with free ports.
#[derive(Debug, Clone, Copy)]
struct Spot {
    word: u16,
    free: u64,
    /// Those of the free ports that have the least count of the word.
    least: u64,
    /// The destination has ports of this word already: single ports are best put here, to keep others whole.
    begun: bool,
}

/// Ports of a word.
pub(super) type Mask = (u16, u64);

/// The lowest bits of the places in `mask` at which `length` bits follow each other.
fn runs(mask: u64, length: u32) -> u64 {
    let (mut starts, mut have) = (mask, 1);
    while have < length {
        let step = have.min(length - have);
        starts &= starts >> step;
        have += step;
    }
    starts
}

/// So many bits, from the lowest on.
fn ones(count: u32) -> u64 {
    if count >= 64 { !0 } else { (1 << count) - 1 }
}

/// The lowest `count` bits of a mask.
fn lowest(mask: u64, count: u32) -> u64 {
    if mask.count_ones() <= count {
        return mask;
    }
    let mut rest = mask;
    for _ in 0..count {
        rest &= rest - 1;
    }
    mask & !rest
}

impl<'a> Ground<'a> {
    pub(super) fn new(books: &'a Books, view: &'a View, claim: Claim, address: u32, offset: u64) -> Self {
        let words = view.words().len().max(1) as u64;
        let start = usize::try_from(offset % words).ok().and_then(|at| view.words().get(at));
        Self {
            view,
            side: books.side(address, claim.protocol).unwrap_or(&NO_SIDE),
            own: books.slots(claim, address),
            alone: claim.destination.is_none(),
            start: start.map_or(0, |(word, _)| *word),
        }
    }

    /// The words with free ports, by the count of their least shared port (of all its ports, not only of those that
    /// are free), and of each count from the start on.
    fn levels(&self) -> impl Iterator<Item = (u32, impl Iterator<Item = Spot> + use<'a>)> {
        let ground = *self;
        // Of what is claimed nothing can be claimed alone.
        let levels = self.side.claims.levels().take_while(move |(count, _)| !ground.alone || *count == 0);
        levels.map(move |(count, words)| (count, ground.spots(words)))
    }

    fn spots(self, among: &Words) -> impl Iterator<Item = Spot> + use<'a> {
        let (mut own, mut alone) = (self.own.cursor(), self.side.alone.cursor());
        self.view.words_among(among, self.start).filter_map(move |word| {
            let mine = own.marks(word).claimed();
            let taken =
                if self.alone { self.side.claims.claimed(word) } else { mine | alone.marks(word).claimed() };
            let free = self.view.zone_word(word) & !taken;
            let least = free & self.side.claims.least(word).ports;
            (free != 0).then_some(Spot { word, free, least, begun: mine != 0 })
        })
    }

    /// At most `want` ports of one word for a block: a run of so many where there is any, of the least shared ones
    /// by preference; else what is free of the word that has most.
    pub(super) fn block(&self, want: u32) -> Option<Mask> {
        let want = want.clamp(1, 64);
        let hopeful = want < 64 && self.own.claimed() > 0;
        let mut most: Option<(u32, Mask)> = None;
        for (_, spots) in self.levels() {
            let mut best: Option<((bool, bool), Mask)> = None;
            for spot in spots {
                let starts = Some(runs(spot.least, want)).filter(|starts| *starts != 0);
                let found = starts.unwrap_or_else(|| runs(spot.free, want));
                if found == 0 {
                    let free = spot.free.count_ones();
                    if most.is_none_or(|(most, _)| free > most) {
                        most = Some((free, (spot.word, lowest(spot.free, want))));
                    }
                    continue;
                }
                let rank = (starts.is_none(), hopeful && !spot.begun);
                if best.is_none_or(|(best, _)| rank < best) {
                    best = Some((rank, (spot.word, ones(want) << found.trailing_zeros())));
                }
                if rank == (false, false) {
                    break;
                }
            }
            if let Some((_, mask)) = best {
                return Some(mask);
            }
        }
        most.map(|(_, mask)| mask)
    }

    /// At most `want` single ports, all equally shared and none less: the least there are.
    pub(super) fn singles(&self, want: u32) -> Vec<Mask> {
        let mut found: BTreeMap<u32, Vec<(bool, Mask)>> = BTreeMap::new();
        for (level, spots) in self.levels() {
            // What was found is shared less than anything from here on.
            if found.first_key_value().is_some_and(|(count, _)| *count < level) {
                break;
            }
            let mut enough = want;
            for spot in spots {
                let (count, ports) = match spot.least {
                    0 => {
                        let least = self.side.claims.least_of(spot.word, spot.free);
                        (least.count, least.ports)
                    }
                    ports => (level, ports),
                };
                found.entry(count).or_default().push((!spot.begun, (spot.word, ports)));
                if count == level && (spot.begun || self.own.claimed() == 0) {
                    enough = enough.saturating_sub(ports.count_ones());
                    if enough == 0 {
                        break;
                    }
                }
            }
        }
        let mut least = found.pop_first().map(|(_, least)| least).unwrap_or_default();
        least.sort_by_key(|(fresh, _)| *fresh);
        let mut rest = want;
        let take = least.into_iter().map_while(|(_, (word, ports))| {
            let ports = lowest(ports, rest);
            rest -= ports.count_ones();
            (ports != 0).then_some((word, ports))
        });
        take.collect()
    }
}
