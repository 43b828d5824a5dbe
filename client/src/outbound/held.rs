//! What is held back until a time, in the order of these times, for a heap. Pure.

use std::cmp::Ordering;
use std::time::Instant;

/// Something that is held back.
#[derive(Debug)]
pub(crate) struct Held<T> {
    pub(crate) until: Instant,
    pub(crate) since: Instant,
    /// Nothing changes before that time.
    pub(crate) certain: bool,
    pub(crate) idle: T,
}

/// The earliest is the greatest, for `BinaryHeap` gives the greatest.
impl<T> Ord for Held<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.until.cmp(&self.until)
    }
}

impl<T> PartialOrd for Held<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Held<T> {
    fn eq(&self, other: &Self) -> bool {
        self.until == other.until
    }
}

impl<T> Eq for Held<T> {}
