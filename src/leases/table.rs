//! Things by a name and by a small number: the number is what the many records of the ledger keep.
//!
//! A number is used again once what it stood for is taken out, so nobody may keep it longer.

use std::collections::HashMap;
use std::hash::Hash;

#[derive(Debug, Clone)]
pub(super) struct Table<K, V> {
    ids: HashMap<K, u32>,
    rows: Vec<Option<(K, V)>>,
    unused: Vec<u32>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { ids: HashMap::new(), rows: Vec::new(), unused: Vec::new() }
    }
}

impl<K: Hash + Eq + Clone, V: Default> Table<K, V> {
    pub(super) fn find(&self, key: &K) -> Option<u32> {
        self.ids.get(key).copied()
    }

    /// The number of a key, which is put in where it is new.
    pub(super) fn insert(&mut self, key: &K) -> u32 {
        if let Some(id) = self.find(key) {
            return id;
        }
        let row = Some((key.clone(), V::default()));
        let id = match self.unused.pop() {
            Some(id) => {
                if let Some(place) = self.rows.get_mut(id as usize) {
                    *place = row;
                }
                id
            }
            None => {
                self.rows.push(row);
                // The limits of the ledger are far below.
                u32::try_from(self.rows.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.ids.insert(key.clone(), id);
        id
    }

    pub(super) fn row(&self, id: u32) -> Option<(&K, &V)> {
        self.rows.get(id as usize)?.as_ref().map(|(key, value)| (key, value))
    }

    pub(super) fn key(&self, id: u32) -> Option<&K> {
        self.row(id).map(|(key, _)| key)
    }

    pub(super) fn get(&self, id: u32) -> Option<&V> {
        self.row(id).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut V> {
        self.rows.get_mut(id as usize)?.as_mut().map(|(_, value)| value)
    }

    pub(super) fn remove(&mut self, id: u32) {
        if let Some((key, _)) = self.rows.get_mut(id as usize).and_then(Option::take) {
            self.ids.remove(&key);
            self.unused.push(id);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &K, &V)> {
        (0u32..).zip(&self.rows).filter_map(|(id, row)| row.as_ref().map(|(key, value)| (id, key, value)))
    }
}
