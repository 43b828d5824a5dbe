//! How much may be learned: so little that what is left of the ephemeral range does for every connect().

use crate::model::{PortRange, PortSet};

/// The most ports that are learned. As single ranges they are 3,071 bytes of text, and one write to
/// `ip_local_reserved_ports` takes 4,090; with what else is reserved it is written in several, each of which adds.
pub const MOST_PORTS: usize = 512;
/// The share of the ephemeral range that is learned at most: one part in so many, 5 %.
pub const SHARE: usize = 20;

/// How many ports of a range may be learned.
pub(super) fn most_within(range: PortRange) -> usize {
    (usize::from(range.last() - range.first()) + 1) / SHARE
}

fn contains(range: Option<PortRange>, port: u16) -> bool {
    range.is_some_and(|range| (range.first()..=range.last()).contains(&port))
}

/// The ports that were let in, and the room that is left. What is outside of the range keeps no connect() from
/// anything, and counts only among all.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) taken: PortSet,
    range: Option<PortRange>,
    all: usize,
    inside: usize,
}

impl Room {
    pub(super) fn new(range: Option<PortRange>) -> Self {
        Self { taken: PortSet::default(), range, all: 0, inside: 0 }
    }

    /// With what is in already, whether there was room for it or not.
    pub(super) fn with(taken: PortSet, range: Option<PortRange>) -> Self {
        let inside = taken.iter().filter(|port| contains(range, *port)).count();
        Self { all: taken.len(), inside, taken, range }
    }

    /// Lets a port in where there is room; true where it is in now.
    pub(super) fn admit(&mut self, port: u16) -> bool {
        if self.taken.contains(port) {
            return true;
        }
        let is_inside = contains(self.range, port);
        let most_inside = self.range.map_or(MOST_PORTS, most_within);
        if self.all >= MOST_PORTS || (is_inside && self.inside >= most_inside) {
            return false;
        }
        self.taken.insert(port);
        self.all += 1;
        self.inside += usize::from(is_inside);
        true
    }
}
