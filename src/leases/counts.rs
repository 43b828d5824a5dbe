//! How many claims there are on each port of an address: bind's cost grows with them.
//!
//! In words of 64 ports. A word whose ports all have the same count is that count alone, as whole blocks make it;
//! the others have a count a port. Of each word the least count and the ports that have it are known without
//! looking at its ports, so that a search looks at words only.

use std::collections::BTreeMap;

/// A bit for each word.
pub(super) type Words = [u64; 16];

/// Words of a page. Addresses with few claims have few pages.
const PAGE: usize = 16;
/// All the words of 65,536 ports.
const PAGES: usize = 1024 / PAGE;

/// The least count of a word, and which of its ports have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Least {
    pub(super) count: u32,
    pub(super) ports: u64,
}

const ALL_WORDS: Words = [!0; 16];

const NONE: Least = Least { count: 0, ports: !0 };

#[derive(Debug, Clone)]
struct Word {
    least: Least,
    /// Where they are not all the same.
    each: Option<Box<[u32; 64]>>,
}

const EMPTY: Word = Word { least: NONE, each: None };

#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pages: Vec<Option<Box<[Word; PAGE]>>>,
    /// Ports with any claim.
    ports: u32,
    /// Claims.
    total: u64,
    /// The words by their least count; none while there is no claim at all.
    levels: BTreeMap<u32, Words>,
}

impl Word {
    fn claimed(&self) -> u64 {
        if self.least.count == 0 { !self.least.ports } else { !0 }
    }

    fn change(&mut self, mask: u64, change: impl Fn(u32) -> u32) {
        if mask == !0 && self.each.is_none() {
            self.least.count = change(self.least.count);
            return;
        }
        let mut each = self.each.take().unwrap_or_else(|| Box::new([self.least.count; 64]));
        for (bit, count) in each.iter_mut().enumerate() {
            if mask >> bit & 1 == 1 {
                *count = change(*count);
            }
        }
        let count = each.iter().copied().min().unwrap_or_default();
        let ports =
            (0..).zip(each.iter()).filter(|(_, c)| **c == count).fold(0, |ports, (bit, _)| ports | 1 << bit);
        self.least = Least { count, ports };
        if ports != !0 {
            self.each = Some(each);
        }
    }
}

/// A word's least count is another one.
fn relevel(levels: &mut BTreeMap<u32, Words>, word: u16, from: u32, to: u32) {
    let (at, bit) = (usize::from(word) / 64, 1 << (word % 64));
    if let Some(words) = levels.get_mut(&from) {
        if let Some(part) = words.get_mut(at) {
            *part &= !bit;
        }
        if words.iter().all(|part| *part == 0) {
            levels.remove(&from);
        }
    }
    if let Some(part) = levels.entry(to).or_insert([0; 16]).get_mut(at) {
        *part |= bit;
    }
}

impl Counts {
    pub(super) const fn new() -> Self {
        Self { pages: Vec::new(), ports: 0, total: 0, levels: BTreeMap::new() }
    }

    fn word(&self, word: u16) -> &Word {
        let (page, place) = (usize::from(word) / PAGE, usize::from(word) % PAGE);
        self.pages.get(page).and_then(Option::as_ref).and_then(|page| page.get(place)).unwrap_or(&EMPTY)
    }

    fn change(&mut self, number: u16, mask: u64, change: impl Fn(u32) -> u32) {
        let (page, place) = (usize::from(number) / PAGE, usize::from(number) % PAGE);
        if self.pages.is_empty() {
            self.pages = vec![None; PAGES];
            self.levels.insert(0, ALL_WORDS);
        }
        let Some(slot) = self.pages.get_mut(page) else { return };
        let words = slot.get_or_insert_with(|| Box::new([EMPTY; PAGE]));
        let Some(word) = words.get_mut(place) else { return };
        let (before, level) = (word.claimed().count_ones(), word.least.count);
        word.change(mask, change);
        self.ports = self.ports + word.claimed().count_ones() - before;
        if word.least.count != level {
            relevel(&mut self.levels, number, level, word.least.count);
        }
        if word.claimed() == 0 && words.iter().all(|word| word.claimed() == 0) {
            *slot = None;
        }
    }

    pub(super) fn add(&mut self, word: u16, mask: u64) {
        self.change(word, mask, |count| count.saturating_add(1));
        self.total += u64::from(mask.count_ones());
    }

    pub(super) fn take(&mut self, word: u16, mask: u64) {
        self.change(word, mask, |count| count.saturating_sub(1));
        self.total = self.total.saturating_sub(u64::from(mask.count_ones()));
        if self.total == 0 {
            self.pages = Vec::new();
            self.levels.clear();
        }
    }

    pub(super) fn least(&self, word: u16) -> Least {
        self.word(word).least
    }

    /// The words by their least count, the least first.
    pub(super) fn levels(&self) -> impl Iterator<Item = (u32, &Words)> {
        let none = self.levels.is_empty().then_some((0, &ALL_WORDS));
        none.into_iter().chain(self.levels.iter().map(|(count, words)| (*count, words)))
    }

    /// The least count among some ports of a word, and which of them have it.
    pub(super) fn least_of(&self, word: u16, among: u64) -> Least {
        let word = self.word(word);
        if among & word.least.ports != 0 {
            return Least { count: word.least.count, ports: among & word.least.ports };
        }
        let Some(each) = &word.each else { return Least { count: word.least.count, ports: among } };
        let counts = || (0..64).zip(each.iter()).filter(|(bit, _)| among >> bit & 1 == 1);
        let count = counts().map(|(_, count)| *count).min().unwrap_or_default();
        let ports = counts().filter(|(_, c)| **c == count).fold(0, |ports, (bit, _)| ports | 1u64 << bit);
        Least { count, ports }
    }

    /// The ports of a word that have any claim.
    pub(super) fn claimed(&self, word: u16) -> u64 {
        self.word(word).claimed()
    }

    /// The words in which there is any claim.
    pub(super) fn claimed_words(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let words = self.pages.iter().enumerate().filter_map(|(n, page)| Some((n, page.as_ref()?)));
        words
            .flat_map(|(n, page)| page.iter().enumerate().map(move |(place, word)| (n * PAGE + place, word)))
            .filter_map(|(n, word)| Some((u16::try_from(n).ok()?, word.claimed())))
            .filter(|(_, claimed)| *claimed != 0)
    }

    /// Ports with any claim.
    pub(super) fn ports(&self) -> u32 {
        self.ports
    }

    /// All claims.
    pub(super) fn total(&self) -> u64 {
        self.total
    }
}
