//! The books: what is counted, by its limit.

use super::Who;
use super::hits::Hits;
use super::lines::{LeftOut, Lines};
use super::shares::{Bounds, Shares, Short};
use crate::config::{Limit, Limits};
use std::time::Instant;

/// Of what all have together, one part of so many is kept for root and for units.
const KEPT: u64 = 4;
/// Descriptors of the process that are the broker's own, whatever is asked of it.
const OWN: u64 = 128;
/// What a connection takes: its stream, and its peer's process.
const PER_CONNECTION: u64 = 2;

/// How many descriptors the process may have, and what of it is in use for sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// `RLIMIT_NOFILE`: so many may be open, and as many in flight.
    pub descriptors: u64,
    /// Sockets that the broker has open.
    pub sockets: u64,
    /// Sockets in its store: each is in flight, and twice while that is written anew.
    pub stored: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { descriptors: 1024, sockets: 0, stored: 0 }
    }
}

impl Room {
    /// How many more may be open.
    fn left(self) -> u64 {
        self.descriptors.saturating_sub(self.sockets).saturating_sub(OWN)
    }

    /// How many of callers' may be in flight: half, so that those which are made for them can be open as well.
    fn in_flight(self) -> u64 {
        let beside_the_store = self.descriptors.saturating_sub(self.stored.saturating_mul(2));
        beside_the_store.saturating_sub(OWN).min(self.left()) / 2
    }

    /// How many processes may be watched that hold listeners.
    fn holders(self) -> u64 {
        self.left() / 4
    }

    /// How many connections may be open.
    fn connections(self) -> u64 {
        self.left() / 2 / PER_CONNECTION
    }
}

/// So many connections, and descriptors in flight, root has also where these books know of no room, and so many
/// descriptors units: they have to be heard just then, and whether there is a descriptor is for the kernel to say.
const FOR_ROOT: u64 = 64;

/// Something that is counted while somebody has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// A connection to the private socket.
    Connection,
    /// Descriptors that are made for a caller.
    Descriptors(u64),
    /// Bytes of a reply, or of a call.
    Bytes(u64),
    /// A process that holds listeners.
    Holder,
}

/// A limit was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// Which one.
    pub limit: Limit,
    /// Its value.
    pub most: u64,
    /// Whether it is to be said in the log.
    pub says: bool,
}

/// How the log is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogUse {
    /// Bytes that wait until it takes something.
    pub waiting: u64,
    /// Lines that found no room since the start.
    pub lost: u64,
}

/// How much of a limit is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Which one.
    pub limit: Limit,
    /// What it is: less than what is configured where the process may not have so many descriptors.
    pub most: u64,
    /// How much there is; of a limit for each, how much the one has that has most. Zero for times.
    pub used: u64,
    /// Who has most, or nobody.
    pub greatest: Option<Who>,
    /// How often it was hit since the start.
    pub hits: u64,
    /// By whom, how often, those first that hit it last.
    pub by: Vec<(Who, u64)>,
}

/// The books.
#[derive(Debug, Default)]
pub struct Books {
    limits: Limits,
    room: Room,
    connections: Shares,
    descriptors: Shares,
    bytes: Shares,
    holders: Shares,
    hits: Hits,
    lines: Lines,
}

impl Books {
    /// Other limits from now on. Who has more than that keeps it.
    pub fn configure(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// What the process has room for.
    pub fn see_room(&mut self, room: Room) {
        self.room = room;
    }

    /// A limit as it is in effect.
    #[must_use]
    pub fn most(&self, limit: Limit) -> u64 {
        let set = self.limits.get(limit);
        let of_all = |all: u64| all.saturating_sub(all / KEPT);
        match limit {
            Limit::Connections => set.min(of_all(self.room.connections())),
            // One must not be able to take what all have.
            Limit::ConnectionsPerUser => set.min(of_all(self.room.connections()) / 2),
            Limit::HoldersPerUser => set.min(of_all(self.room.holders()) / 2),
            Limit::UnreadDescriptors => set.min(self.room.in_flight()),
            Limit::UnreadDescriptorsPerUser => set.min(of_all(self.most(Limit::UnreadDescriptors)) / 2),
            Limit::UnreadBytesPerUser => set.min(of_all(self.limits.get(Limit::UnreadBytes))),
            Limit::CallsPerUser
            | Limit::UnreadBytes
            | Limit::UnreadTime
            | Limit::LogLinesPerUser
            | Limit::LogBuffer => set,
        }
    }

    fn bounds(&self, who: &Who, claim: Claim) -> (Bounds, Limit, Limit) {
        let (each, all) = match claim {
            Claim::Connection => (Limit::ConnectionsPerUser, Limit::Connections),
            Claim::Descriptors(_) => (Limit::UnreadDescriptorsPerUser, Limit::UnreadDescriptors),
            Claim::Bytes(_) => (Limit::UnreadBytesPerUser, Limit::UnreadBytes),
            Claim::Holder => (Limit::HoldersPerUser, Limit::HoldersPerUser),
        };
        let most = if claim == Claim::Holder { self.room.holders() } else { self.most(all) };
        let bounds = match claim {
            // Root has as many connections as there is room for.
            Claim::Connection if *who == Who::User(0) => {
                Bounds { each: u64::MAX, common: most, all: self.room.connections().max(FOR_ROOT) }
            }
            Claim::Connection => Bounds { each: self.most(each), common: most, all: self.room.connections() },
            Claim::Descriptors(_) | Claim::Holder if who.is_preferred() => Bounds {
                each: self.most(each).max(FOR_ROOT),
                common: most.saturating_sub(most / KEPT),
                all: most.max(FOR_ROOT),
            },
            _ => Bounds { each: self.most(each), common: most.saturating_sub(most / KEPT), all: most },
        };
        (bounds, each, all)
    }

    fn shares(&mut self, claim: Claim) -> (&mut Shares, u64) {
        match claim {
            Claim::Connection => (&mut self.connections, 1),
            Claim::Descriptors(count) => (&mut self.descriptors, count),
            Claim::Bytes(bytes) => (&mut self.bytes, bytes),
            Claim::Holder => (&mut self.holders, 1),
        }
    }

    /// Takes it into the books, or says which limit that would be over; that is no hit yet, since who asks may know of
    /// something to give back.
    pub fn take(&mut self, who: &Who, claim: Claim) -> Result<(), Limit> {
        let (mut bounds, each, all) = self.bounds(who, claim);
        let (shares, amount) = self.shares(claim);
        // One at a time is everybody's, however long it is; where it is longer than what all may have, one of all.
        if matches!(claim, Claim::Bytes(_)) && shares.of(who) == 0 {
            bounds.each = u64::MAX;
            if shares.all() == 0 {
                (bounds.common, bounds.all) = (u64::MAX, u64::MAX);
            }
        }
        shares.take(who, amount, bounds).map_err(|short| match short {
            Short::Each => each,
            Short::All => all,
        })
    }

    /// Takes it out of the books.
    pub fn give_back(&mut self, who: &Who, claim: Claim) {
        let (shares, amount) = self.shares(claim);
        shares.give_back(who, amount);
    }

    /// Somebody was kept within a limit.
    pub fn hit(&mut self, limit: Limit, who: &Who, now: Instant) -> Over {
        let says = self.hits.hit(limit, who, now);
        Over { limit, most: self.most(limit), says }
    }

    /// Whether a line of the log on somebody's behalf is written. `flows`: the log takes lines.
    pub fn has_a_line(&mut self, who: &Who, about: &'static str, flows: bool, now: Instant) -> bool {
        let most = self.most(Limit::LogLinesPerUser);
        let writes = self.lines.has_a_line(who, about, most, flows, now);
        if !writes {
            self.hits.hit(Limit::LogLinesPerUser, who, now);
        }
        writes
    }

    /// When [`Books::left_out`] has something.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.lines.next_due()
    }

    /// Lines that were left out of the log.
    pub fn left_out(&mut self, flows: bool, now: Instant) -> Vec<LeftOut> {
        self.lines.sums(flows, now)
    }

    /// How much of every limit is in use. What the log lost counts as hits of its buffer. `calls` are those that wait, of the caller that has most of them.
    #[must_use]
    pub fn usage(&self, calls: Option<(Who, u64)>, log: LogUse) -> Vec<Usage> {
        let of = |limit| {
            let greatest = |shares: &Shares| shares.greatest().map(|(who, used)| (who.clone(), used));
            let (used, greatest) = match limit {
                Limit::Connections => (self.connections.common(), greatest(&self.connections)),
                Limit::UnreadDescriptors => (self.descriptors.all(), greatest(&self.descriptors)),
                Limit::UnreadBytes => (self.bytes.all(), greatest(&self.bytes)),
                Limit::ConnectionsPerUser => split(greatest(&self.connections)),
                Limit::UnreadDescriptorsPerUser => split(greatest(&self.descriptors)),
                Limit::UnreadBytesPerUser => split(greatest(&self.bytes)),
                Limit::HoldersPerUser => split(greatest(&self.holders)),
                Limit::CallsPerUser => split(calls.clone()),
                Limit::LogBuffer => (log.waiting, None),
                Limit::UnreadTime | Limit::LogLinesPerUser => (0, None),
            };
            let greatest = greatest.map(|(who, _)| who);
            let hits = if limit == Limit::LogBuffer { log.lost } else { self.hits.times(limit) };
            let by = self.hits.by(limit);
            Usage { limit, most: self.most(limit), used, greatest, hits, by }
        };
        Limit::all().map(of).collect()
    }
}

/// How much, and of whom.
fn split(greatest: Option<(Who, u64)>) -> (u64, Option<(Who, u64)>) {
    (greatest.as_ref().map_or(0, |(_, used)| *used), greatest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UnitName;

    fn books(descriptors: u64) -> Books {
        let mut books = Books::default();
        books.see_room(Room { descriptors, ..Room::default() });
        books
    }

    fn count(books: &mut Books, who: &Who, claim: Claim) -> (usize, Limit) {
        let mut taken = 0;
        loop {
            match books.take(who, claim) {
                Ok(()) => taken += 1,
                Err(limit) => return (taken, limit),
            }
        }
    }

    #[test]
    fn one_user_cannot_take_the_connections_of_all() {
        let mut books = books(524_288);
        assert_eq!(count(&mut books, &Who::User(7), Claim::Connection), (128, Limit::ConnectionsPerUser));
        assert_eq!(books.take(&Who::User(8), Claim::Connection), Ok(()), "another's is untouched");
        books.give_back(&Who::User(7), Claim::Connection);
        assert_eq!(books.take(&Who::User(7), Claim::Connection), Ok(()), "it is free again when one ends");
    }

    #[test]
    fn many_uids_of_one_person_cannot_take_the_connections_of_root() {
        let mut books = books(524_288);
        let taken: usize = (1..=40).map(|uid| count(&mut books, &Who::User(uid), Claim::Connection).0).sum();
        assert_eq!(taken, 4096);
        assert_eq!(books.take(&Who::User(99), Claim::Connection), Err(Limit::Connections));
        assert!(count(&mut books, &Who::User(0), Claim::Connection).0 > 10_000);
        books.give_back(&Who::User(1), Claim::Connection);
        assert_eq!(books.take(&Who::User(0), Claim::Connection), Ok(()));
        assert_eq!(books.take(&Who::User(0), Claim::Connection), Err(Limit::Connections), "there is no room");
        books.give_back(&Who::User(0), Claim::Connection);
        assert_eq!(books.take(&Who::User(99), Claim::Connection), Ok(()));
    }

    #[test]
    fn root_is_heard_where_all_descriptors_are_in_use() {
        let mut books = books(256);
        books.see_room(Room { descriptors: 256, sockets: 200, stored: 200 });
        assert!(books.take(&Who::User(7), Claim::Connection).is_err());
        assert_eq!(count(&mut books, &Who::User(0), Claim::Connection).0, 64);
        assert!(books.take(&Who::User(7), Claim::Descriptors(1)).is_err());
        assert_eq!(count(&mut books, &Who::User(0), Claim::Descriptors(16)).0, 4);
    }

    #[test]
    fn what_is_stored_takes_of_what_may_be_in_flight_alone() {
        let room = |sockets, stored| {
            let mut books = Books::default();
            books.see_room(Room { descriptors: 20_000, sockets, stored });
            [Limit::ConnectionsPerUser, Limit::UnreadDescriptors].map(|limit| books.most(limit))
        };
        assert_eq!(room(0, 0), [128, 9936]);
        assert_eq!(room(10_000, 0), [128, 4936], "no store, as where somebody tries it by hand");
        assert_eq!(room(10_000, 10_000), [128, 0], "units and root have some all the same");
        assert_eq!(room(8_000, 8_000), [128, 1936]);
        assert_eq!(room(19_800, 0), [7, 36]);
    }

    #[test]
    fn with_few_descriptors_everybody_has_less_and_nobody_all() {
        let mut books = books(1024);
        let all = books.most(Limit::UnreadDescriptors);
        assert!(all < 512, "{all}");
        let (of_one, limit) = count(&mut books, &Who::User(7), Claim::Descriptors(1));
        assert_eq!(limit, Limit::UnreadDescriptorsPerUser);
        assert!(u64::try_from(of_one).unwrap() * 2 < all, "{of_one} of {all}");
        for uid in 8..20 {
            count(&mut books, &Who::User(uid), Claim::Descriptors(1));
        }
        assert_eq!(books.take(&Who::User(30), Claim::Descriptors(1)), Err(Limit::UnreadDescriptors));
        let unit = Who::Unit(UnitName::try_from("a.service").unwrap());
        assert_eq!(books.take(&unit, Claim::Descriptors(20)), Ok(()), "a quarter is for units");
        assert_eq!(books.take(&Who::User(0), Claim::Descriptors(20)), Ok(()), "and for root");
    }

    #[test]
    fn one_user_cannot_have_all_processes_that_can_be_watched() {
        for (descriptors, most) in [(524_288, 1024), (1024, 84)] {
            let mut books = books(descriptors);
            assert_eq!(count(&mut books, &Who::User(7), Claim::Holder), (most, Limit::HoldersPerUser));
            assert_eq!(books.take(&Who::User(8), Claim::Holder), Ok(()));
            assert!(count(&mut books, &Who::User(0), Claim::Holder).0 >= 64);
        }
    }

    #[test]
    fn everybody_may_have_one_reply_however_long_it_is() {
        let mut books = books(1024);
        let long = Claim::Bytes(20 << 20);
        assert_eq!(books.take(&Who::User(7), long), Ok(()));
        assert_eq!(books.take(&Who::User(7), Claim::Bytes(1)), Err(Limit::UnreadBytesPerUser));
        assert_eq!(books.take(&Who::User(8), long), Ok(()));

        let longest = Claim::Bytes(100 << 20);
        assert_eq!(books.take(&Who::User(9), longest), Err(Limit::UnreadBytes), "not beside others");
        for uid in [7, 8] {
            books.give_back(&Who::User(uid), long);
        }
        assert_eq!(books.take(&Who::User(9), longest), Ok(()), "or it would wait for ever");
        assert_eq!(books.take(&Who::User(8), Claim::Bytes(1)), Err(Limit::UnreadBytes));
    }

    #[test]
    fn what_is_used_and_was_hit_is_shown() {
        let (mut books, now) = (books(524_288), Instant::now());
        count(&mut books, &Who::User(7), Claim::Connection);
        let over = books.hit(Limit::ConnectionsPerUser, &Who::User(7), now);
        assert_eq!(over, Over { limit: Limit::ConnectionsPerUser, most: 128, says: true });
        assert!(!books.hit(Limit::ConnectionsPerUser, &Who::User(7), now).says);
        let log = LogUse { waiting: 5, lost: 9 };
        let usage = books.usage(Some((Who::User(3), 2)), log);
        assert_eq!(usage.len(), Limit::all().count());
        let of = |limit| usage.iter().find(|usage| usage.limit == limit).unwrap();
        let connections = of(Limit::ConnectionsPerUser);
        assert_eq!((connections.used, connections.hits), (128, 2));
        assert_eq!(connections.by, [(Who::User(7), 2)]);
        assert_eq!(of(Limit::CallsPerUser).greatest, Some(Who::User(3)));
        assert_eq!((of(Limit::LogBuffer).used, of(Limit::LogBuffer).hits), (5, 9));
        books.configure(Limits::default().with(Limit::ConnectionsPerUser, 5));
        assert_eq!(books.most(Limit::ConnectionsPerUser), 5);
    }
}
