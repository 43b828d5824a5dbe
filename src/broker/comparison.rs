//! The takeover, compared: what the descriptor store held, what is configured, and what the kernel says of it.
//!
//! It is counted while the start goes on, and summed up once every socket that was taken over has been looked at, which
//! is soon after READY: one event of the log, and what `portbroker status` shows until the next start. What it tells of
//! has been dealt with by then, so nothing of it is a fault but a store that could not be read as a whole.

use super::Broker;
use super::view::TakeoverView;
use crate::kernel::socket::Unmet;
use crate::listeners::{Action, Target};
use crate::model::{Endpoint, ListenerName};
use std::collections::HashSet;
use std::time::Instant;

/// More differences are counted and not told one by one.
const MOST_TOLD: usize = 100;

/// What is counted, in the order in which it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A socket in the store.
    Stored,
    /// One that is configured, and goes on.
    Kept,
    /// One that is drained: a surplus shard, or renewed.
    Draining,
    /// One that is no longer configured, and that somebody has.
    Lingering,
    /// One that is no longer configured.
    LetGo,
    /// One that is none of ours, or that could not be taken over.
    Unusable,
    /// One of which this process may have no copy, for want of descriptors: it stays stored as it is.
    Left,
    /// Configured for the last daemon too, and not in the store.
    Missing,
    /// Configured since.
    New,
    /// In another state, or with other options, than it should have; put right at once.
    Changed,
    /// Changed by a holder that is gone, and put right.
    Mended,
    /// The same, and past mending: a new socket is in its place.
    Replaced,
    /// A holder that is still there.
    Holders,
    /// A holder that is not.
    HoldersGone,
}

const ALL: [(Found, &str); 14] = [
    (Found::Stored, "stored"),
    (Found::Kept, "kept"),
    (Found::Draining, "draining"),
    (Found::Lingering, "lingering"),
    (Found::LetGo, "let-go"),
    (Found::Unusable, "unusable"),
    (Found::Left, "left"),
    (Found::Missing, "missing"),
    (Found::New, "new"),
    (Found::Changed, "changed"),
    (Found::Mended, "mended"),
    (Found::Replaced, "replaced"),
    (Found::Holders, "holders"),
    (Found::HoldersGone, "holders-gone"),
];

/// What this start has found. Of a cold start there is nothing to tell.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Something was stored.
    active: bool,
    counts: [u32; ALL.len()],
    differences: Vec<String>,
    /// Configured, and not in the store.
    unbound: Vec<(ListenerName, Endpoint)>,
    /// What a holder did is being put right at this moment.
    pub(super) looking: bool,
    summed_up: bool,
}

impl Comparison {
    pub(super) fn new(active: bool) -> Self {
        Self { active, ..Self::default() }
    }

    pub(super) fn count(&mut self, found: Found, how_many: usize) {
        if let Some(place) = ALL.iter().position(|(one, _)| *one == found)
            && let Some(count) = self.counts.get_mut(place)
        {
            *count = count.saturating_add(u32::try_from(how_many).unwrap_or(u32::MAX));
        }
    }

    fn of(&self, found: Found) -> u32 {
        let mut both = ALL.iter().zip(&self.counts);
        both.find(|((one, _), _)| *one == found).map_or(0, |(_, count)| *count)
    }

    /// One more, with what is to be told of it.
    pub(super) fn differs(&mut self, found: Found, what: impl FnOnce() -> String) {
        self.count(found, 1);
        if self.active && self.differences.len() < MOST_TOLD {
            self.differences.push(what());
        }
    }

    /// Options that a socket did not have as they are configured, and has now.
    pub(super) fn options(
        &mut self,
        name: &ListenerName,
        endpoint: &Endpoint,
        before: &[Unmet],
        after: &[Unmet],
    ) {
        let told = |unmet: &Unmet| match unmet {
            Unmet::Option { key, wanted, found: Some(found), .. } => {
                Some(format!("{key} was {found} and is {wanted}"))
            }
            _ => None,
        };
        let gone = before.iter().filter(|unmet| !after.contains(unmet));
        let mended: Vec<String> = gone.filter_map(told).collect();
        if !mended.is_empty() {
            self.differs(Found::Changed, || format!("{endpoint} of {name}: {}", mended.join(", ")));
        }
    }

    /// What a holder had done to a socket.
    pub(super) fn mended(
        &mut self,
        name: &ListenerName,
        endpoint: &Endpoint,
        replaced: bool,
        what: &[impl ToString],
    ) {
        if !self.looking {
            return;
        }
        let found = if replaced { Found::Replaced } else { Found::Mended };
        let how = if replaced { "a new socket is in its place" } else { "put right" };
        let what: Vec<String> = what.iter().map(ToString::to_string).collect();
        self.differs(found, || format!("{endpoint} of {name}: {}: {how}", what.join(", ")));
    }

    /// What is shown; nothing before it is summed up, and nothing of a cold start.
    pub(super) fn view(&self) -> Option<TakeoverView> {
        let is_told = self.active && self.summed_up;
        is_told.then(|| TakeoverView {
            counts: ALL.iter().zip(self.counts).map(|((_, word), count)| (*word, count)).collect(),
            differences: self.differences.clone(),
        })
    }

    fn sum_up(&mut self) {
        self.summed_up = true;
        let told = u32::try_from(self.differences.len()).unwrap_or(u32::MAX);
        let all = ALL.iter().filter(|(found, _)| is_difference(*found)).map(|(found, _)| self.of(*found));
        let more = all.sum::<u32>().saturating_sub(told);
        if more > 0 {
            self.differences.push(format!("and {more} more"));
        }
        self.say();
    }

    fn say(&self) {
        let of = |found| self.of(found);
        let (stored, kept, draining) = (of(Found::Stored), of(Found::Kept), of(Found::Draining));
        let (let_go, unusable) = (of(Found::LetGo), of(Found::Unusable));
        let (missing, new) = (of(Found::Missing), of(Found::New));
        let (changed, mended, replaced) = (of(Found::Changed), of(Found::Mended), of(Found::Replaced));
        let (holders, holders_gone) = (of(Found::Holders), of(Found::HoldersGone));
        // What somebody may have to look into; the rest is as it should be after a change of the configuration.
        let left = of(Found::Left);
        let lost = missing + unusable + replaced + left > 0;
        let text = self.text();
        macro_rules! event {
            ($level:ident) => {
                tracing::$level!(
                    event = "takeover",
                    stored,
                    kept,
                    draining,
                    let_go,
                    unusable,
                    left,
                    missing,
                    new,
                    changed,
                    mended,
                    replaced,
                    holders,
                    holders_gone,
                    "{text}"
                )
            };
        }
        if lost { event!(warn) } else { event!(info) }
    }

    /// `took over 3 of 5 stored sockets, with 1 holder; 1 let go, 1 missing: …`
    fn text(&self) -> String {
        let holders = match self.of(Found::Holders) {
            1 => "1 holder".to_owned(),
            holders => format!("{holders} holders"),
        };
        let (kept, stored) = (self.of(Found::Kept), self.of(Found::Stored));
        let mut text = format!("took {kept} of {stored} stored sockets over, with {holders}");
        let others = ALL.iter().zip(&self.counts);
        let others = others.filter(|((found, _), count)| {
            **count > 0 && !matches!(found, Found::Stored | Found::Kept | Found::Holders)
        });
        for ((_, word), count) in others {
            text.push_str(&format!("; {count} {}", word.replace('-', " ")));
        }
        let few = 5;
        for (n, difference) in self.differences.iter().take(few).enumerate() {
            text.push_str(if n == 0 { ": " } else { "; " });
            text.push_str(difference);
        }
        if self.differences.len() > few {
            text.push_str("; for more see \"portbroker status\"");
        }
        text
    }
}

/// What is told with a sentence for each.
fn is_difference(found: Found) -> bool {
    use Found::{Draining, Holders, Kept, Left, Lingering, Stored};
    !matches!(found, Stored | Kept | Draining | Lingering | Left | Holders)
}

impl Broker {
    /// After what was stored has been given its place, and before anything is put right: what is missing, and what the
    /// kernel says to be in another state than it should.
    pub(super) fn compare(&mut self) {
        let now = Instant::now();
        let mut compared = std::mem::take(&mut self.comparison);
        for name in self.table.waiting_for_action(now) {
            for action in self.table.actions_of(&name, now, true) {
                let (Action::Bind(id) | Action::Set(id, _)) = action;
                let Some(slot) = self.table.slot(id) else { continue };
                let endpoint = slot.endpoint.clone();
                match action {
                    Action::Bind(_) => compared.unbound.push((name.clone(), endpoint)),
                    Action::Set(_, target) => {
                        let (was, is) = match target {
                            Target::Listening => ("was closed to clients", "listens"),
                            Target::Refusing => ("was open to clients", "refuses them"),
                            Target::Dropping => ("was open to datagrams", "drops them"),
                        };
                        compared.differs(Found::Changed, || {
                            format!("{endpoint} of {name} {was}, and {is} again")
                        });
                    }
                }
            }
        }
        self.comparison = compared;
    }

    /// Once that is done: which of the missing ones the last daemon had, by its last good configuration. Those that
    /// could not be bound are faults.
    pub(super) fn compare_with_last(&mut self) {
        let unbound = std::mem::take(&mut self.comparison.unbound);
        if unbound.is_empty() {
            return;
        }
        let last = self.loader.load_file(self.records.last_good());
        let had: HashSet<&Endpoint> = last.config.listeners.values().flat_map(|l| &l.endpoints).collect();
        for (name, endpoint) in unbound {
            let slots = self.table.get(name.as_str()).map(|(_, listener)| listener.slots.as_slice());
            let is_bound = slots.is_ok_and(|s| s.iter().any(|s| s.endpoint == endpoint && s.state.is_some()));
            // It may be one of those that were left, of which nobody knows more.
            if !is_bound && self.stored.has_left() {
                continue;
            }
            let (found, why) = if had.contains(&endpoint) {
                (Found::Missing, "was configured before and is not among what was stored")
            } else {
                (Found::New, "is configured since")
            };
            let how = if is_bound { "bound anew" } else { "not bound" };
            self.comparison.differs(found, || format!("{endpoint} of {name} {why}: {how}"));
        }
    }

    /// Tells what was found, as soon as every socket has been looked at.
    pub(super) fn sum_up_takeover(&mut self) {
        if self.comparison.active && !self.comparison.summed_up && self.unseen.is_empty() {
            self.comparison.sum_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(port: u16) -> (ListenerName, Endpoint) {
        use crate::model::{InetEndpoint, SocketKind};
        let address = format!("127.0.0.1:{port}").parse().unwrap();
        let inet = InetEndpoint::new(SocketKind::Stream, address, false, None).unwrap();
        (ListenerName::try_from("web").unwrap(), Endpoint::Inet(inet))
    }

    #[test]
    fn what_differs_is_counted_and_told() {
        let mut compared = Comparison::new(true);
        let (name, endpoint) = socket(80);
        compared.count(Found::Stored, 3);
        compared.count(Found::Kept, 2);
        compared.count(Found::Holders, 1);
        compared.differs(Found::LetGo, || "tcp 127.0.0.1:81 is no longer configured".to_owned());
        // Not of this takeover.
        compared.mended(&name, &endpoint, false, &["late"]);
        compared.looking = true;
        compared.mended(&name, &endpoint, true, &["it was shut down"]);
        assert_eq!(compared.view(), None);
        compared.sum_up();
        assert_eq!(
            compared.text(),
            "took 2 of 3 stored sockets over, with 1 holder; 1 let go; 1 replaced: tcp 127.0.0.1:81 is no longer \
             configured; tcp 127.0.0.1:80 of web: it was shut down: a new socket is in its place"
        );
        let view = compared.view().unwrap();
        assert_eq!(view.counts.iter().map(|(_, count)| count).sum::<u32>(), 8);
        assert_eq!(view.differences.len(), 2);
    }

    #[test]
    fn very_many_are_counted_and_a_hundred_told() {
        let mut compared = Comparison::new(true);
        for n in 0..250 {
            compared.differs(Found::New, || n.to_string());
        }
        compared.sum_up();
        let view = compared.view().unwrap();
        assert_eq!(view.counts.iter().find(|(word, _)| *word == "new"), Some(&("new", 250)));
        assert_eq!(
            (view.differences.len(), view.differences.last().unwrap().as_str()),
            (101, "and 150 more")
        );
        assert!(compared.text().contains("portbroker status"));
    }

    #[test]
    fn a_cold_start_has_nothing_to_tell() {
        let mut compared = Comparison::new(false);
        compared.differs(Found::New, || "is not told".to_owned());
        compared.summed_up = true;
        assert_eq!((compared.view(), compared.differences.len()), (None, 0));
    }

    #[test]
    fn of_options_only_what_was_put_right_is_told() {
        let unmet = |found: &str| Unmet::Option {
            key: "ip-ttl",
            option: "IP_TTL",
            wanted: "9".to_owned(),
            found: Some(found.to_owned()),
        };
        let mut compared = Comparison::new(true);
        let (name, endpoint) = socket(80);
        compared.options(&name, &endpoint, &[unmet("64")], &[unmet("64")]);
        compared.options(&name, &endpoint, &[], &[]);
        compared.options(&name, &endpoint, &[unmet("64")], &[]);
        assert_eq!(compared.differences, ["tcp 127.0.0.1:80 of web: ip-ttl was 64 and is 9"]);
    }
}
