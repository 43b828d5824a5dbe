//! Whose turn it is: a queue for each caller, and next is who has had least of the one task's time.
//!
//! So a caller that asks without end, or for what takes long, waits for itself, and one that asks now and then is next.
//! Time is virtual: who was away is not owed what others had meanwhile, and who has just had much does not lose that
//! by being away for a moment.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<T>,
    spent: Duration,
    /// Breaks ties: who waits longer.
    since: u64,
}

/// The queues. They are bounded by who pushes.
#[derive(Debug)]
pub struct Turns<K, T> {
    queues: HashMap<K, Queue<T>>,
    /// Those in which something waits.
    order: BTreeSet<(Duration, u64, K)>,
    /// Those in which nothing waits, and whose time is still ahead of the others'.
    ahead: BTreeSet<(Duration, K)>,
    clock: Duration,
    pushed: u64,
    waiting: usize,
}

impl<K, T> Default for Turns<K, T> {
    fn default() -> Self {
        Self {
            queues: HashMap::new(),
            order: BTreeSet::new(),
            ahead: BTreeSet::new(),
            clock: Duration::ZERO,
            pushed: 0,
            waiting: 0,
        }
    }
}

impl<K: Copy + Ord + Hash, T> Turns<K, T> {
    /// Something more waits.
    pub fn push(&mut self, key: K, item: T) {
        let clock = self.clock;
        let since = self.pushed;
        self.pushed = self.pushed.wrapping_add(1);
        self.waiting += 1;
        let queue =
            self.queues.entry(key).or_insert_with(|| Queue { waiting: VecDeque::new(), spent: clock, since });
        if queue.waiting.is_empty() {
            self.ahead.remove(&(queue.spent, key));
            queue.spent = queue.spent.max(clock);
            queue.since = since;
            self.order.insert((queue.spent, since, key));
        }
        queue.waiting.push_back(item);
    }

    /// What is next, and whose it is. [`Turns::charge`] says afterwards how long it took.
    pub fn pop(&mut self) -> Option<(K, T)> {
        let (spent, since, key) = self.order.pop_first()?;
        self.clock = self.clock.max(spent);
        let queue = self.queues.get_mut(&key)?;
        let item = queue.waiting.pop_front()?;
        self.waiting = self.waiting.saturating_sub(1);
        if queue.waiting.is_empty() {
            self.ahead.insert((spent, key));
        } else {
            // Behind those that have had as much.
            queue.since = self.pushed.max(since);
            self.pushed = self.pushed.wrapping_add(1);
            self.order.insert((spent, queue.since, key));
        }
        Some((key, item))
    }

    /// What was popped last for this caller took so long.
    pub fn charge(&mut self, key: K, cost: Duration) {
        if let Some(queue) = self.queues.get_mut(&key) {
            let before = queue.spent;
            queue.spent = before.saturating_add(cost);
            if queue.waiting.is_empty() {
                self.ahead.remove(&(before, key));
                self.ahead.insert((queue.spent, key));
            } else {
                self.order.remove(&(before, queue.since, key));
                self.order.insert((queue.spent, queue.since, key));
            }
        }
        self.forget_past();
    }

    /// Those that are behind the clock are as if they had never been here.
    fn forget_past(&mut self) {
        while let Some((_, key)) = self.ahead.first().copied().filter(|(spent, _)| *spent <= self.clock) {
            self.ahead.pop_first();
            self.queues.remove(&key);
        }
        // Nobody waits: whoever comes next is next.
        if self.order.is_empty() && self.ahead.len() == 1 && self.queues.len() == 1 {
            self.ahead.clear();
            self.queues.clear();
        }
    }

    /// How much waits.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// How much waits of who has most waiting, and whose that is.
    #[must_use]
    pub fn longest(&self) -> Option<(K, usize)> {
        let all = self.queues.iter().map(|(key, queue)| (*key, queue.waiting.len()));
        all.filter(|(_, waiting)| *waiting > 0)
            .max_by_key(|(key, waiting)| (*waiting, std::cmp::Reverse(*key)))
    }

    /// Everything that waits, in no order; nothing waits then.
    pub fn drain(&mut self) -> Vec<T> {
        let all = std::mem::take(self);
        all.queues.into_values().flat_map(|queue| queue.waiting).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn who_asks_without_end_waits_for_itself() {
        let mut turns = Turns::default();
        (0..1000).for_each(|n| turns.push(1, n));
        for n in 0..50 {
            let (key, _) = turns.pop().unwrap();
            turns.charge(key, MS);
            turns.push(2, n);
            // At most one other is before it.
            let next = [turns.pop().unwrap().0, turns.pop().unwrap().0];
            next.iter().for_each(|key| turns.charge(*key, MS));
            assert!(next.contains(&2), "{next:?}");
        }
    }

    #[test]
    fn what_takes_long_is_paid_for_by_waiting() {
        let mut turns = Turns::default();
        (0..100).for_each(|n| turns.push(1, n));
        (0..100).for_each(|n| turns.push(2, n));
        let mut served = [0, 0];
        for _ in 0..102 {
            let (key, _) = turns.pop().unwrap();
            served[key - 1] += 1;
            turns.charge(key, if key == 1 { MS * 50 } else { MS });
        }
        assert!(served[1] >= 95, "{served:?}");
    }

    #[test]
    fn to_be_away_for_a_moment_wipes_nothing_out() {
        let mut turns = Turns::default();
        turns.push(1, 0);
        turns.push(2, 0);
        turns.push(2, 0);
        assert_eq!(turns.pop().unwrap().0, 1);
        turns.charge(1, MS * 50);
        turns.push(1, 0);
        for _ in 0..2 {
            assert_eq!(turns.pop().unwrap().0, 2);
            turns.charge(2, MS);
        }
        assert_eq!(turns.pop().unwrap().0, 1);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_overtaken_by_its_own_and_nothing_is_remembered_for_ever(
            steps in proptest::collection::vec((0u32..4, 0u64..5, any::<bool>()), 0..200)
        ) {
            let mut turns = Turns::default();
            let (mut pushed, mut popped): (Vec<Vec<usize>>, Vec<Vec<usize>>) = (vec![Vec::new(); 4], vec![Vec::new(); 4]);
            for (n, (key, cost, pops)) in steps.into_iter().enumerate() {
                if pops {
                    if let Some((key, item)) = turns.pop() {
                        popped[key as usize].push(item);
                        turns.charge(key, MS * u32::try_from(cost).unwrap());
                    }
                } else {
                    turns.push(key, n);
                    pushed[key as usize].push(n);
                }
                let waiting = pushed.iter().map(Vec::len).sum::<usize>() - popped.iter().map(Vec::len).sum::<usize>();
                prop_assert_eq!(turns.len(), waiting);
                prop_assert_eq!(turns.is_empty(), waiting == 0);
                prop_assert_eq!(turns.longest().is_none(), waiting == 0);
            }
            while let Some((key, item)) = turns.pop() {
                popped[key as usize].push(item);
                turns.charge(key, MS);
            }
            prop_assert_eq!(popped, pushed);
            prop_assert!(turns.queues.len() <= 4);
            prop_assert_eq!(turns.queues.len(), turns.ahead.len());
        }
    }
}
