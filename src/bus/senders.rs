//! Who sends on the bus, and how many calls of each are in the works: one connection serves everybody there.
//!
//! The user of a sender is asked for once: a bus never gives a unique name twice.

use crate::broker::Gate;
use crate::limits::{Limit, Who};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many senders are remembered: more than a bus lets one user have (dbus-daemon: 256).
const REMEMBERED: usize = 4096;
/// Calls of senders whose user is being asked for; a sender has at most what a user may have.
const UNKNOWN: usize = 1024;

/// Calls in the works.
#[derive(Clone)]
pub(super) struct Senders(Arc<Inner>);

struct Inner {
    gate: Gate,
    most: Option<usize>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    users: HashMap<String, u32>,
    order: VecDeque<String>,
    of_sender: HashMap<String, usize>,
    of_user: HashMap<u32, usize>,
    unknown: usize,
}

/// A call in the works.
pub(super) struct Place {
    all: Senders,
    sender: String,
    uid: Option<u32>,
}

fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Senders {
    /// `most` of each user, or what `[limits]` says.
    pub(super) fn new(gate: Gate, most: Option<usize>) -> Self {
        Self(Arc::new(Inner { gate, most, state: Mutex::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn most(&self) -> usize {
        self.0.most.unwrap_or_else(|| usize::try_from(self.0.gate.most(Limit::CallsPerUser)).unwrap_or(1))
    }

    /// A call of a sender; `None` where it, or its user, has as many in the works as it may.
    pub(super) fn admit(&self, sender: &str) -> Option<Place> {
        let most = self.most();
        let mut state = self.state();
        let uid = state.users.get(sender).copied();
        if state.of_sender.get(sender).is_some_and(|count| *count >= most) {
            drop(state);
            self.hit(uid);
            return None;
        }
        match uid {
            Some(uid) if !state.enter(uid, most) => {
                drop(state);
                self.hit(Some(uid));
                return None;
            }
            None if state.unknown >= UNKNOWN => return None,
            None => state.unknown += 1,
            Some(_) => {}
        }
        *state.of_sender.entry(sender.to_owned()).or_default() += 1;
        Some(Place { all: self.clone(), sender: sender.to_owned(), uid })
    }

    fn hit(&self, uid: Option<u32>) {
        if let Some(uid) = uid {
            self.0.gate.hit(Limit::CallsPerUser, &Who::User(uid));
        }
    }
}

impl State {
    fn enter(&mut self, uid: u32, most: usize) -> bool {
        let count = self.of_user.entry(uid).or_default();
        // Not all that root runs is one, and each sender has its own limit.
        let enters = uid == 0 || *count < most;
        if enters {
            *count += 1;
        }
        enters
    }

    fn remember(&mut self, sender: &str, uid: u32) {
        if self.users.insert(sender.to_owned(), uid).is_none() {
            self.order.push_back(sender.to_owned());
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.users.remove(&oldest);
        }
    }
}

impl Place {
    /// Whose call it is, where that is known.
    pub(super) fn uid(&self) -> Option<u32> {
        self.uid
    }

    /// The bus has said whose it is: `false` where that user has as many in the works as it may.
    pub(super) fn is_of(&mut self, uid: u32) -> bool {
        let most = self.all.most();
        let mut state = self.all.state();
        state.remember(&self.sender, uid);
        let enters = state.enter(uid, most);
        if enters {
            state.unknown = state.unknown.saturating_sub(1);
            self.uid = Some(uid);
        }
        drop(state);
        if !enters {
            self.all.hit(Some(uid));
        }
        enters
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.all.state();
        less(&mut state.of_sender, &self.sender);
        match self.uid {
            Some(uid) => less(&mut state.of_user, &uid),
            None => state.unknown = state.unknown.saturating_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_of_one_user_have_what_one_user_has() {
        let senders = Senders::new(Gate::default(), None);
        let most = senders.most();
        let mut places = Vec::new();
        for name in 0..100 {
            let Some(mut place) = senders.admit(&format!(":1.{name}")) else { continue };
            if place.uid().is_some() || place.is_of(7) {
                places.push(place);
            }
        }
        assert_eq!(places.len(), most);
        assert!(senders.admit(":1.5").is_none(), "its user is known by now");
        let mut other = senders.admit(":2.1").unwrap();
        assert!(other.is_of(8), "another's are untouched");
        places.pop();
        assert_eq!(senders.admit(":1.5").map(|place| place.uid()), Some(Some(7)));
        drop((places, other));
        let state = senders.state();
        assert_eq!((state.of_sender.len(), state.of_user.len(), state.unknown), (0, 0, 0));
    }

    #[test]
    fn one_name_of_root_has_as_much_as_a_user() {
        let senders = Senders::new(Gate::default(), None);
        let mut places = Vec::new();
        while let Some(mut place) = senders.admit(":1.1") {
            assert!(place.uid().is_some() || place.is_of(0));
            places.push(place);
        }
        assert_eq!(places.len(), senders.most());
        assert!(senders.admit(":1.2").is_some_and(|mut place| place.is_of(0)), "another process of root's");
    }

    #[test]
    fn names_are_not_remembered_for_ever() {
        let senders = Senders::new(Gate::default(), None);
        for name in 0..REMEMBERED * 2 {
            let mut place = senders.admit(&format!(":1.{name}")).unwrap();
            assert!(place.is_of(7));
        }
        assert_eq!(senders.state().users.len(), REMEMBERED);
        assert_eq!(senders.state().order.len(), REMEMBERED);
    }
}
