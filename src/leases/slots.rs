//! Which ports of one address are held, and which cool, for one destination: sparse, in words of 64 ports.

/// Ports of a word. No port is both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) held: u64,
    pub(super) cooling: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    word: u16,
    marks: Marks,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Slots {
    /// By word; none without a mark.
    entries: Vec<Entry>,
    held: u32,
    cooling: u32,
}

/// None at all, for whom there are no slots of.
pub(super) static NO_SLOTS: Slots = Slots::new();

/// Reads the marks of words, one after the other; quick where they are asked for upwards.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    entries: &'a [Entry],
    next: usize,
    last: Option<u16>,
}

impl Marks {
    pub(super) fn claimed(self) -> u64 {
        self.held | self.cooling
    }
}

impl Slots {
    pub(super) const fn new() -> Self {
        Self { entries: Vec::new(), held: 0, cooling: 0 }
    }

    pub(super) fn held(&self) -> u32 {
        self.held
    }

    pub(super) fn cooling(&self) -> u32 {
        self.cooling
    }

    pub(super) fn claimed(&self) -> u32 {
        self.held + self.cooling
    }

    pub(super) fn marks(&self, word: u16) -> Marks {
        let found = self.entries.binary_search_by_key(&word, |entry| entry.word);
        found.ok().and_then(|at| self.entries.get(at)).map(|entry| entry.marks).unwrap_or_default()
    }

    pub(super) fn change(&mut self, word: u16, change: impl FnOnce(Marks) -> Marks) {
        let found = self.entries.binary_search_by_key(&word, |entry| entry.word);
        let before = found.ok().and_then(|at| self.entries.get(at)).map(|e| e.marks).unwrap_or_default();
        let marks = change(before);
        self.held = self.held + marks.held.count_ones() - before.held.count_ones();
        self.cooling = self.cooling + marks.cooling.count_ones() - before.cooling.count_ones();
        match found {
            Ok(at) if marks.claimed() == 0 => {
                self.entries.remove(at);
                if self.entries.len() < self.entries.capacity() / 4 {
                    self.entries.shrink_to_fit();
                }
            }
            Ok(at) => {
                if let Some(entry) = self.entries.get_mut(at) {
                    entry.marks = marks;
                }
            }
            Err(_) if marks.claimed() == 0 => {}
            Err(at) => {
                // Most destinations have one block.
                if self.entries.is_empty() {
                    self.entries.reserve_exact(1);
                }
                self.entries.insert(at, Entry { word, marks });
            }
        }
    }

    pub(super) fn cursor(&self) -> Cursor<'_> {
        Cursor { entries: &self.entries, next: 0, last: None }
    }
}

impl Cursor<'_> {
    pub(super) fn marks(&mut self, word: u16) -> Marks {
        if self.last.is_none_or(|last| word < last) {
            self.next = self.entries.partition_point(|entry| entry.word < word);
        }
        self.last = Some(word);
        while self.entries.get(self.next).is_some_and(|entry| entry.word < word) {
            self.next += 1;
        }
        self.entries.get(self.next).filter(|entry| entry.word == word).map(|e| e.marks).unwrap_or_default()
    }
}
