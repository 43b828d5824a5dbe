//! What was sent on one connection and may not have been read.
//!
//! The kernel tells of a unix stream how much of what was sent waits at the other end (`SIOCOUTQ`, unix(7)), in bytes
//! that count the overhead of each message: 768 for one byte on Linux 6.18, whatever descriptors go along. Messages
//! are read in order, and descriptors leave the queue with the first byte of theirs. So if everything from some
//! message on weighs more than what waits, that message was read. The weight of a message is taken for less than it
//! is, so nothing counts as read that was not; when nothing waits, all was read.

use std::collections::VecDeque;

#[derive(Debug)]
struct Sent<T> {
    least_weight: u64,
    what: T,
}

/// Values that stand for what was sent, each dropped when the peer has read what it stands for.
#[derive(Debug)]
pub struct Unread<T> {
    queue: VecDeque<Sent<T>>,
    weight: u64,
    /// What the smallest message weighs.
    least: u64,
}

impl<T> Unread<T> {
    /// Nothing; `least` is what a message of one byte weighs.
    #[must_use]
    pub fn new(least: u64) -> Self {
        Self { queue: VecDeque::new(), weight: 0, least }
    }

    /// One message was sent, of so many bytes, and with it what the value stands for.
    pub fn sent(&mut self, bytes: usize, what: Option<T>) {
        let least_weight = self.least.max(u64::try_from(bytes).unwrap_or_default());
        match what {
            Some(what) => self.queue.push_back(Sent { least_weight, what }),
            // It is read after the one before it.
            None => match self.queue.back_mut() {
                Some(last) => last.least_weight = last.least_weight.saturating_add(least_weight),
                None => return,
            },
        }
        self.weight = self.weight.saturating_add(least_weight);
    }

    /// So much waits at the other end now: drops what must have been read.
    pub fn settle(&mut self, waiting: u64) {
        while self.weight > waiting {
            let Some(read) = self.queue.pop_front() else { break };
            self.weight = self.weight.saturating_sub(read.least_weight);
            drop(read.what);
        }
        if self.queue.is_empty() {
            // Memory goes with what it was for.
            *self = Self::new(self.least);
        }
    }

    /// Whether all was read, as far as is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::rc::Rc;

    proptest! {
        /// The kernel's queue beside it: every message weighs at least what we take it for.
        #[test]
        fn what_was_not_read_is_never_given_up_and_all_is_when_nothing_waits(
            steps in proptest::collection::vec((1usize..5000, 0u64..3000, 0usize..4, any::<bool>()), 0..100)
        ) {
            let mut unread = Unread::new(700);
            let mut kernel: VecDeque<(u64, bool)> = VecDeque::new();
            let marker = Rc::new(());
            for (bytes, overhead, reads, carries) in steps {
                unread.sent(bytes, carries.then(|| Rc::clone(&marker)));
                kernel.push_back((700.max(bytes as u64) + overhead, carries));
                for _ in 0..reads {
                    kernel.pop_front();
                }
                unread.settle(kernel.iter().map(|(weight, _)| weight).sum());
                let held = kernel.iter().filter(|(_, carries)| *carries).count();
                prop_assert!(Rc::strong_count(&marker) > held);
                if kernel.is_empty() {
                    prop_assert!(unread.is_empty());
                    prop_assert_eq!(Rc::strong_count(&marker), 1);
                }
            }
        }
    }

    #[test]
    fn a_reader_that_is_always_one_behind_does_not_add_up() {
        let mut unread = Unread::new(768);
        let marker = Rc::new(());
        for _ in 0..1000 {
            unread.sent(300, Some(Rc::clone(&marker)));
            unread.settle(2 * 768);
        }
        assert_eq!(Rc::strong_count(&marker), 3);
    }
}
