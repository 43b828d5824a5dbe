//! What a client writes down of each of its connections, and what must hold of all that the clients wrote.

use nix::time::{ClockId, clock_gettime};
use std::net::Ipv4Addr;
use std::path::Path;

/// One connection, from when connect(2) had returned to just before close(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// The kernel's own name for the socket, which no other socket ever has.
    pub(crate) cookie: u64,
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
    /// In nanoseconds of the clock that all processes have in common.
    pub(crate) begin: u64,
    pub(crate) end: u64,
    /// When close(2) had returned.
    pub(crate) closed: u64,
}

impl Default for Record {
    fn default() -> Self {
        Self { cookie: 0, address: Ipv4Addr::UNSPECIFIED, port: 0, begin: 0, end: 0, closed: 0 }
    }
}

/// The clock of records.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(time.tv_sec() * 1_000_000_000 + time.tv_nsec()).unwrap()
}

/// Bytes of a record in a file.
const SIZE: usize = 38;

impl Record {
    fn to_bytes(self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[..8].copy_from_slice(&self.cookie.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.begin.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.end.to_ne_bytes());
        bytes[24..32].copy_from_slice(&self.closed.to_ne_bytes());
        bytes[32..36].copy_from_slice(&self.address.octets());
        bytes[36..].copy_from_slice(&self.port.to_ne_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; SIZE]) -> Self {
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        let address: [u8; 4] = bytes[32..36].try_into().unwrap();
        let port = u16::from_ne_bytes(bytes[36..].try_into().unwrap());
        let [cookie, begin, end, closed] = [0, 8, 16, 24].map(word);
        Self { cookie, address: address.into(), port, begin, end, closed }
    }
}

pub(crate) fn write(path: &Path, records: &[Record]) {
    let bytes: Vec<u8> = records.iter().flat_map(|record| record.to_bytes()).collect();
    std::fs::write(path, bytes).unwrap();
}

pub(crate) fn read(path: &Path) -> Vec<Record> {
    let bytes = std::fs::read(path).unwrap();
    let (records, []) = bytes.as_chunks::<SIZE>() else { panic!("{} is cut off", path.display()) };
    records.iter().map(Record::from_bytes).collect()
}

/// Sorts them by source and time; an error where two connections of one source were open at a time, or two have one
/// cookie.
pub(crate) fn check(records: &mut [Record]) -> Result<(), String> {
    records.sort_unstable_by_key(|record| record.cookie);
    if let Some(twice) = records.windows(2).find(|two| two[0].cookie == two[1].cookie) {
        return Err(format!("one cookie twice: {twice:?}"));
    }
    records.sort_unstable_by_key(|record| (record.address, record.port, record.begin));
    let overlap = |two: &&[Record]| {
        (two[0].address, two[0].port) == (two[1].address, two[1].port) && two[1].begin < two[0].end
    };
    match records.windows(2).find(overlap) {
        Some(two) => Err(format!("one source for two connections at a time: {two:?}")),
        None => Ok(()),
    }
}
