//! How often a limit was hit, by whom, and whether that is said now.

use super::Who;
use crate::config::Limit;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often the same is said of the same.
const SAID_AGAIN: Duration = Duration::from_secs(60);
/// How many are named of those who hit a limit.
const NAMED: usize = 16;

#[derive(Debug, Default)]
struct Row {
    times: u64,
    /// The ones that hit it last.
    by: BTreeMap<Who, Of>,
}

#[derive(Debug)]
struct Of {
    times: u64,
    last: Instant,
    said: Instant,
}

/// The hits since the start.
#[derive(Debug, Default)]
pub(super) struct Hits(BTreeMap<Limit, Row>);

impl Hits {
    /// One more; whether it is to be said.
    pub(super) fn hit(&mut self, limit: Limit, who: &Who, now: Instant) -> bool {
        let row = self.0.entry(limit).or_default();
        row.times = row.times.saturating_add(1);
        if let Some(of) = row.by.get_mut(who) {
            of.times = of.times.saturating_add(1);
            of.last = now;
            let says = now.saturating_duration_since(of.said) >= SAID_AGAIN;
            if says {
                of.said = now;
            }
            return says;
        }
        // With thousands of uids that hit it in turn nobody would be known: one line for all of them then.
        let mut says = true;
        if row.by.len() >= NAMED {
            let oldest = row.by.iter().min_by_key(|(_, of)| of.last).map(|(who, of)| (who.clone(), of.said));
            if let Some((oldest, said)) = oldest {
                row.by.remove(&oldest);
                says = now.saturating_duration_since(said) >= SAID_AGAIN;
            }
        }
        row.by.insert(who.clone(), Of { times: 1, last: now, said: now });
        says
    }

    pub(super) fn times(&self, limit: Limit) -> u64 {
        self.0.get(&limit).map_or(0, |row| row.times)
    }

    /// Who hit it, and how often, those first that did so last.
    pub(super) fn by(&self, limit: Limit) -> Vec<(Who, u64)> {
        let mut by: Vec<_> = self.0.get(&limit).into_iter().flat_map(|row| &row.by).collect();
        by.sort_by_key(|(_, of)| std::cmp::Reverse(of.last));
        by.into_iter().map(|(who, of)| (who.clone(), of.times)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_however_often_and_by_how_many_a_limit_is_hit() {
        let (mut hits, begin) = (Hits::default(), Instant::now());
        let mut said = 0;
        for n in 0..1000 {
            said +=
                usize::from(hits.hit(Limit::Connections, &Who::User(7), begin + Duration::from_millis(n)));
        }
        assert_eq!((said, hits.times(Limit::Connections)), (1, 1000));
        assert_eq!(hits.by(Limit::Connections), [(Who::User(7), 1000)]);
        let of_many = (0..5000).filter(|n| hits.hit(Limit::Connections, &Who::User(100 + n), begin)).count();
        assert!(of_many <= NAMED, "{of_many}");
        assert_eq!(hits.by(Limit::Connections).len(), NAMED);
        assert!(hits.hit(Limit::Connections, &Who::User(1), begin + SAID_AGAIN * 2));
        assert!(hits.hit(Limit::UnreadBytes, &Who::User(1), begin), "another limit");
    }
}
