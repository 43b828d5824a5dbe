//! What a lessee writes down of each lease that it had, and what must hold of all that the lessees wrote.

use nix::time::{ClockId, clock_gettime};
use std::fmt;
use std::str::FromStr;

/// A lease of one port, from when its number was known to just before it was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) udp: bool,
    pub(crate) port: u16,
    /// In nanoseconds of the clock that all processes have in common.
    pub(crate) begin: u64,
    /// `u64::MAX`: it is held still.
    pub(crate) end: u64,
    pub(crate) lease: u64,
    pub(crate) session: u64,
}

/// The clock of records.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(time.tv_sec() * 1_000_000_000 + time.tv_nsec()).unwrap()
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { udp, port, begin, end, lease, session } = self;
        write!(f, "{} {port} {begin} {end} {lease} {session}", u8::from(*udp))
    }
}

impl FromStr for Record {
    type Err = std::num::ParseIntError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let mut words = line.split(' ').map(str::parse::<u64>);
        let mut next = || words.next().unwrap_or_else(|| "".parse());
        let (udp, port) = (next()? == 1, u16::try_from(next()?).unwrap_or_default());
        Ok(Self { udp, port, begin: next()?, end: next()?, lease: next()?, session: next()? })
    }
}

/// Sorts them; an error where two had one port at a time.
pub(crate) fn check(records: &mut [Record]) -> Result<(), String> {
    records.sort_unstable();
    let overlap =
        |two: &&[Record]| (two[0].udp, two[0].port) == (two[1].udp, two[1].port) && two[1].begin < two[0].end;
    match records.windows(2).find(overlap) {
        Some(two) => Err(format!("one port for two leases at a time: {two:?}")),
        None => Ok(()),
    }
}
