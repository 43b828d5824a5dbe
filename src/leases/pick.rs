//! Which ports of one address come next: the least shared ones first, and of those from a place on that differs for
//! each destination.
//!
//! One search is one walk over the words of the zone, at most 1,024, however many leases there are.

use super::books::{Books, Claim, Side};
use super::slots::{NO_SLOTS, Slots};
use super::view::View;

/// Where ports are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground<'a> {
    view: &'a View,
    side: Option<&'a Side>,
    own: &'a Slots,
    alone: bool,
    /// The place among the zone's words at which the walk begins.
    start: usize,
}

/// A word with free ports.
#[derive(Debug, Clone, Copy)]
struct Spot {
    word: u16,
    free: u64,
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
        Self {
            view,
            side: books.side(address, claim.protocol),
            own: books.slots(claim, address),
            alone: claim.destination.is_none(),
            start: usize::try_from(offset % words).unwrap_or_default(),
        }
    }

    /// All words with free ports, from the start on.
    fn spots(&self) -> impl Iterator<Item = Spot> + use<'a> {
        let ground = *self;
        let (before, after) = ground.view.words().split_at_checked(ground.start).unwrap_or_default();
        let mut own = ground.own.cursor();
        let mut alone = ground.side.map_or(&NO_SLOTS, |side| &side.alone).cursor();
        after.iter().chain(before).filter_map(move |&(word, zone)| {
            let mine = own.marks(word).claimed();
            let taken = match (ground.alone, ground.side) {
                (_, None) => 0,
                (true, Some(side)) => side.claims.claimed(word),
                (false, Some(_)) => mine | alone.marks(word).claimed(),
            };
            let free = zone & !taken;
            (free != 0).then_some(Spot { word, free, begun: mine != 0 })
        })
    }

    /// The least count of a word, and the free ports that have it (none where others have it).
    fn least(&self, spot: Spot) -> (u32, u64) {
        self.side.map_or((0, spot.free), |side| {
            let least = side.claims.least(spot.word);
            (least.count, least.ports & spot.free)
        })
    }

    /// At most `want` ports of one word for a block: a run of so many where there is any, of the least shared ones
    /// by preference; else what is free of the word that has most.
    pub(super) fn block(&self, want: u32) -> Option<Mask> {
        let want = want.clamp(1, 64);
        let mut best: Option<((bool, u64, bool), Mask)> = None;
        let mut most: Option<(u32, Mask)> = None;
        for spot in self.spots() {
            let (count, least) = self.least(spot);
            let (starts, cost) = match runs(least, want) {
                0 => (runs(spot.free, want), 2 * u64::from(count) + 1),
                starts => (starts, 2 * u64::from(count)),
            };
            if starts == 0 {
                let free = spot.free.count_ones();
                if most.is_none_or(|(most, _)| free > most) {
                    most = Some((free, (spot.word, lowest(spot.free, want))));
                }
                continue;
            }
            let rank = (false, cost, want < 64 && !spot.begun);
            if best.is_none_or(|(best, _)| rank < best) {
                best = Some((rank, (spot.word, ones(want) << starts.trailing_zeros())));
                if cost == 0 && (want == 64 || spot.begun || self.own.claimed() == 0) {
                    break;
                }
            }
        }
        best.map(|(_, mask)| mask).or(most.map(|(_, mask)| mask))
    }

    /// At most `want` single ports, all equally shared and none less: the least there are.
    pub(super) fn singles(&self, want: u32) -> Vec<Mask> {
        let mut best = u32::MAX;
        let mut found: Vec<(bool, Mask)> = Vec::new();
        let mut begun = 0;
        for spot in self.spots() {
            let (mut count, mut ports) = self.least(spot);
            if ports == 0 && count < best {
                let least = self.side.map(|side| side.claims.least_of(spot.word, spot.free));
                (count, ports) = least.map_or((0, spot.free), |least| (least.count, least.ports));
            }
            if count < best {
                best = count;
                found.clear();
                begun = 0;
            }
            if count == best && ports != 0 {
                found.push((!spot.begun, (spot.word, ports)));
                begun += if spot.begun || self.own.claimed() == 0 { ports.count_ones() } else { 0 };
            }
            // Nothing is shared less than not at all.
            if best == 0 && begun >= want {
                break;
            }
        }
        found.sort_by_key(|(fresh, _)| *fresh);
        let mut rest = want;
        let take = found.into_iter().map_while(|(_, (word, ports))| {
            let ports = lowest(ports, rest);
            rest -= ports.count_ones();
            (ports != 0).then_some((word, ports))
        });
        take.collect()
    }
}
