//! What the keeper keeps: descriptors by name, as systemd's store has them.
//!
//! A socket is in it once, under the name that it came with first. No more than `most` are in it, and what is too many
//! is not. Nothing goes but by its name. Which descriptors are of one socket is said by the caller.

use std::collections::{BTreeMap, BTreeSet};

/// A socket, by device and inode.
pub(super) type Number = (u64, u64);

/// What has become of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Stored {
    /// It is kept.
    Kept,
    /// Its socket was kept already.
    Known,
    /// There is no room.
    Full,
}

#[derive(Debug)]
struct Entry<D> {
    number: Option<Number>,
    descriptor: D,
}

/// The store.
#[derive(Debug)]
pub(super) struct Store<D> {
    names: BTreeMap<String, Vec<Entry<D>>>,
    numbers: BTreeSet<Number>,
    count: usize,
    most: usize,
}

impl<D> Store<D> {
    /// An empty one.
    pub(super) fn new(most: usize) -> Self {
        Self { names: BTreeMap::new(), numbers: BTreeSet::new(), count: 0, most }
    }

    /// Keeps a descriptor. One that is not kept is closed.
    pub(super) fn add(&mut self, name: &str, number: Option<Number>, descriptor: D) -> Stored {
        if number.is_some_and(|number| self.numbers.contains(&number)) {
            return Stored::Known;
        }
        if self.count >= self.most {
            return Stored::Full;
        }
        self.numbers.extend(number);
        self.count += 1;
        self.names.entry(name.to_owned()).or_default().push(Entry { number, descriptor });
        Stored::Kept
    }

    /// Closes all of a name.
    pub(super) fn remove(&mut self, name: &str) {
        for entry in self.names.remove(name).unwrap_or_default() {
            self.count -= 1;
            if let Some(number) = entry.number {
                self.numbers.remove(&number);
            }
        }
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many are in it.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// All of them, with their names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &D)> {
        self.names
            .iter()
            .flat_map(|(name, entries)| entries.iter().map(move |entry| (name.as_str(), &entry.descriptor)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Add(u8, Option<u8>),
        Remove(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..5_u8, prop::option::of(0..12_u8)).prop_map(|(name, number)| Step::Add(name, number)),
            1 => (0..5_u8).prop_map(Step::Remove),
        ];
        prop::collection::vec(step, 0..80)
    }

    proptest! {
        /// Beside a list of all that was added, which is searched from one end to the other.
        #[test]
        fn it_is_what_a_list_would_be(steps in steps(), most in 0..12_usize) {
            let mut store = Store::new(most);
            let mut list: Vec<(String, Option<u8>, usize)> = Vec::new();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Add(name, number) => {
                        let outcome = store.add(&name.to_string(), number.map(|number| (1, number.into())), n);
                        let known = number.is_some() && list.iter().any(|(_, of, _)| *of == number);
                        let expected = match (known, list.len() < most) {
                            (true, _) => Stored::Known,
                            (false, true) => Stored::Kept,
                            (false, false) => Stored::Full,
                        };
                        prop_assert_eq!(outcome, expected);
                        if expected == Stored::Kept {
                            list.push((name.to_string(), number, n));
                        }
                    }
                    Step::Remove(name) => {
                        store.remove(&name.to_string());
                        list.retain(|(of, ..)| *of != name.to_string());
                    }
                }
                let mut expected: Vec<_> = list.iter().map(|(name, _, n)| (name.as_str(), n)).collect();
                expected.sort_unstable();
                let found: Vec<_> = store.iter().collect();
                prop_assert_eq!(found, expected);
                prop_assert_eq!((store.len(), store.is_empty()), (list.len(), list.is_empty()));
            }
        }
    }
}
