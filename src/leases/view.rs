//! A pool as it was offered last: its addresses by their numbers, and its zone in words.

use super::Offer;
use super::books::Books;
use super::counts::Words;
use super::shares::Shares;
use super::table::Table;
use crate::model::{PoolName, PortSet};
use std::collections::HashSet;
use std::net::IpAddr;

#[derive(Debug, Clone)]
pub(super) struct View {
    zone: PortSet,
    /// The same for two pools exactly where their zones are the same.
    zone_id: u64,
    words: Vec<(u16, u64)>,
    /// The same words as bits.
    bits: Words,
    ports: u32,
    offered: Vec<IpAddr>,
    /// The same, none twice.
    addresses: Vec<IpAddr>,
    ids: Vec<u32>,
    /// The place of the address whose turn is next.
    pub(super) next: usize,
}

/// A pool, as far as leases know of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Pool {
    pub(super) view: Option<View>,
    /// Ports that are held, of all destinations.
    pub(super) held: u64,
    /// Leases of it that are known.
    pub(super) leases: u32,
    /// Who has what of it, where it guarantees something.
    pub(super) shares: Option<Box<Shares>>,
}

impl View {
    pub(super) fn zone_id(&self) -> u64 {
        self.zone_id
    }

    pub(super) fn zone_word(&self, word: u16) -> u64 {
        self.zone.word_at(word)
    }

    pub(super) fn words(&self) -> &[(u16, u64)] {
        &self.words
    }

    /// Those words of the zone that are among others, from one on and round again.
    pub(super) fn words_among(&self, among: &Words, start: u16) -> impl Iterator<Item = u16> + use<> {
        let mut both = self.bits;
        both.iter_mut().zip(among).for_each(|(part, among)| *part &= among);
        let (first, bit) = (start / 64, start % 64);
        // The part that it begins in comes twice: from the start on, and at last what was before.
        let parts = (first..16).chain(0..=first).enumerate();
        parts.flat_map(move |(n, at)| {
            let part = both.get(usize::from(at)).copied().unwrap_or_default();
            let mut rest = match n {
                0 => part & (!0 << bit),
                16 => part & !(!0 << bit),
                _ => part,
            };
            std::iter::from_fn(move || {
                let bit = u16::try_from(rest.trailing_zeros()).ok()?;
                let some = rest != 0;
                rest &= rest.wrapping_sub(1);
                some.then_some(at * 64 + bit)
            })
        })
    }

    /// Ports of the zone.
    pub(super) fn ports(&self) -> u32 {
        self.ports
    }

    /// All its addresses with their numbers.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (IpAddr, u32)> + '_ {
        self.addresses.iter().copied().zip(self.ids.iter().copied())
    }

    /// Connections to one destination of the family with fewer addresses, of those that it has: a share of that is a
    /// share of what there is for any destination.
    pub(super) fn capacity(&self) -> u64 {
        let four = self.addresses.iter().filter(|address| address.is_ipv4()).count();
        let families = [four, self.addresses.len() - four].into_iter().filter(|addresses| *addresses > 0);
        u64::from(self.ports) * families.min().unwrap_or(0) as u64
    }

    /// Counts two kinds of ports over the zone.
    pub(super) fn count(&self, mut of: impl FnMut(u16, u64) -> (u64, u64)) -> (u32, u32) {
        self.words.iter().fold((0, 0), |(a, b), (word, zone)| {
            let (of_a, of_b) = of(*word, *zone);
            (a + of_a.count_ones(), b + of_b.count_ones())
        })
    }

    fn is(&self, offer: &Offer<'_>) -> bool {
        self.zone == *offer.zone && self.offered == offer.addresses
    }
}

fn bits(words: &[(u16, u64)]) -> Words {
    let mut bits = Words::default();
    for (word, _) in words {
        if let Some(part) = bits.get_mut(usize::from(*word) / 64) {
            *part |= 1 << (word % 64);
        }
    }
    bits
}

/// The pool of an offer, as it is offered now.
pub(super) fn refresh(
    pools: &mut Table<PoolName, Pool>,
    books: &mut Books,
    zones: &mut u64,
    offer: &Offer<'_>,
) -> u32 {
    let id = pools.insert(offer.pool);
    if pools.get(id).and_then(|pool| pool.view.as_ref()).is_some_and(|view| view.is(offer)) {
        return id;
    }
    let same =
        pools.iter().filter_map(|(_, _, pool)| pool.view.as_ref()).find(|view| view.zone == *offer.zone);
    let zone_id = same.map(View::zone_id).unwrap_or_else(|| {
        *zones += 1;
        *zones
    });
    let words: Vec<(u16, u64)> = offer.zone.words().collect();
    let mut known = HashSet::new();
    let addresses: Vec<IpAddr> = offer.addresses.iter().copied().filter(|a| known.insert(*a)).collect();
    let view = View {
        bits: bits(&words),
        ports: words.iter().map(|(_, word)| word.count_ones()).sum(),
        zone: offer.zone.clone(),
        zone_id,
        words,
        offered: offer.addresses.to_vec(),
        ids: addresses.iter().map(|address| books.use_address(*address)).collect(),
        addresses,
        next: 0,
    };
    let old = pools.get_mut(id).and_then(|pool| pool.view.replace(view));
    leave(books, old);
    id
}

/// A view is given up, and so are the addresses that nobody else has.
pub(super) fn leave(books: &mut Books, view: Option<View>) {
    for id in view.into_iter().flat_map(|view| view.ids) {
        books.release_address(id);
    }
}
