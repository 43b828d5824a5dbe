//! Whose turn it is among the addresses of a pool.

use super::books::Room;
use crate::config::Spread;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};

/// An address from which a lease may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its place in the pool.
    pub(super) place: usize,
    /// Its number.
    pub(super) address: u32,
    /// Of which family it is.
    pub(super) v4: bool,
    /// Ports that are claimed for the destination.
    pub(super) used: u32,
    /// All claims on it.
    pub(super) total: u64,
    /// How its ports stand for the destination.
    pub(super) room: Room,
    /// For a caller and a destination, the higher the better; see [`preference`].
    pub(super) preference: u64,
}

impl Candidate {
    /// So many ports were taken.
    pub(super) fn took(&mut self, ports: u32) {
        self.used += ports;
        self.total += u64::from(ports);
        self.room.free = self.room.free.saturating_sub(ports);
    }
}

/// Gives each candidate its turns.
#[derive(Debug)]
pub(super) enum Turns {
    Least(BinaryHeap<Reverse<(u32, u64, u64, usize)>>),
    /// In this order, from the first again or, where they are sticky, each until it has nothing left.
    Order {
        order: VecDeque<usize>,
        sticky: bool,
    },
}

impl Turns {
    /// `next`: the place in the pool whose turn it is, for round-robin.
    pub(super) fn new(spread: Spread, candidates: &[Candidate], next: usize) -> Self {
        let with_room = || candidates.iter().enumerate().filter(|(_, candidate)| candidate.room.free > 0);
        match spread {
            Spread::LeastUsed => {
                Self::Least(with_room().map(|(n, c)| Reverse((c.used, c.total, !c.preference, n))).collect())
            }
            Spread::RoundRobin => {
                let (before, after): (Vec<_>, Vec<_>) = with_room().partition(|(_, c)| c.place < next);
                let order = after.into_iter().chain(before).map(|(n, _)| n).collect();
                Self::Order { order, sticky: false }
            }
            Spread::Sticky => {
                let mut order: Vec<(u64, usize)> = with_room().map(|(n, c)| (!c.preference, n)).collect();
                order.sort_unstable();
                Self::Order { order: order.into_iter().map(|(_, n)| n).collect(), sticky: true }
            }
        }
    }

    /// The candidate whose turn it is, by its number in the list.
    pub(super) fn next(&mut self) -> Option<usize> {
        match self {
            Self::Least(heap) => heap.pop().map(|Reverse((.., n))| n),
            Self::Order { order, .. } => order.pop_front(),
        }
    }

    /// It had its turn, and is now as it is given here.
    pub(super) fn had(&mut self, n: usize, candidate: &Candidate) {
        if candidate.room.free == 0 {
            return;
        }
        match self {
            Self::Least(heap) => {
                heap.push(Reverse((candidate.used, candidate.total, !candidate.preference, n)));
            }
            Self::Order { order, sticky: true } => order.push_front(n),
            Self::Order { order, sticky: false } => order.push_back(n),
        }
    }
}

/// splitmix64's last step: what differs in a bit differs in half of them afterwards.
fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The same for the same bytes in every version: a caller's address must not change with an update.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0x9e37_79b9_7f4a_7c15, |hash, chunk| {
        let value = chunk.iter().fold(1u64, |value, byte| value << 8 ^ u64::from(*byte));
        mixed(hash.rotate_left(5) ^ value)
    })
}

pub(super) fn hash_of_destination(destination: Option<SocketAddr>) -> u64 {
    let Some(destination) = destination else { return hash(&[]) };
    mixed(hash_of_address(destination.ip()) ^ u64::from(destination.port()))
}

fn hash_of_address(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => hash(&address.octets()),
        IpAddr::V6(address) => hash(&address.octets()),
    }
}

/// How much a caller and destination (their hash) prefer an address: rendezvous hashing, so that nothing has to be
/// kept, and an address that comes or goes moves only those who are on it.
pub(super) fn preference(of: u64, address: IpAddr) -> u64 {
    mixed(of ^ hash_of_address(address))
}
