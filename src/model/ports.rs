//! Sets of port numbers, in the form that `net.ipv4.ip_local_reserved_ports` has: `80,8000-8010`.

use std::fmt;

/// An inclusive range of ports, `first <= last`, neither of them 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is no port, range or set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortSetError {
    /// Not a number from 1 to 65535.
    #[error("{0:?} is no port: ports are numbers from 1 to 65535")]
    NoPort(String),
    /// A range whose end is before its beginning.
    #[error("the range {0}-{1} runs backwards: write {1}-{0}")]
    Backwards(u16, u16),
}

impl PortRange {
    /// The range from `first` to `last`, both included.
    pub fn new(first: u16, last: u16) -> Result<Self, PortSetError> {
        if first == 0 {
            Err(PortSetError::NoPort("0".into()))
        } else if first > last {
            Err(PortSetError::Backwards(first, last))
        } else {
            Ok(Self { first, last })
        }
    }

    /// The lowest port.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }

    /// Every port of the range, upwards.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

impl std::str::FromStr for PortRange {
    type Err = PortSetError;

    /// Reads `80` or `8000-8010`.
    fn from_str(text: &str) -> Result<Self, PortSetError> {
        let port = |text: &str| {
            let text = text.trim();
            let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let number = if plain { text.parse::<u16>().ok() } else { None };
            number.filter(|&p| p != 0).ok_or_else(|| PortSetError::NoPort(text.chars().take(40).collect()))
        };
        match text.split_once('-') {
            Some((first, last)) => Self::new(port(first)?, port(last)?),
            None => port(text).and_then(|p| Self::new(p, p)),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

const WORDS: usize = 65536 / 64;

/// A set of ports: a bit for each.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet(Box<[u64]>);

impl Default for PortSet {
    fn default() -> Self {
        Self(vec![0; WORDS].into_boxed_slice())
    }
}

impl PortSet {
    fn word(port: u16) -> (usize, u64) {
        (usize::from(port) / 64, 1 << (port % 64))
    }

    /// Adds a port; true when it is new.
    pub fn insert(&mut self, port: u16) -> bool {
        let (index, bit) = Self::word(port);
        let new = !self.contains(port);
        if let Some(word) = self.0.get_mut(index) {
            *word |= bit;
        }
        new
    }

    /// Adds all ports of a range, a word at a time.
    pub fn insert_range(&mut self, range: PortRange) {
        let (first, last) = (usize::from(range.first), usize::from(range.last));
        let words = self.0.iter_mut().enumerate().skip(first / 64).take(last / 64 - first / 64 + 1);
        for (index, word) in words {
            // The bits from `low` to `high`, both included.
            let (low, high) = (first.saturating_sub(index * 64), (last - index * 64).min(63));
            *word |= (u64::MAX << low) & (u64::MAX >> (63 - high));
        }
    }

    /// Takes a port out; true when it was there.
    pub fn remove(&mut self, port: u16) -> bool {
        let (index, bit) = Self::word(port);
        let there = self.contains(port);
        if let Some(word) = self.0.get_mut(index) {
            *word &= !bit;
        }
        there
    }

    /// Whether a port is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        let (index, bit) = Self::word(port);
        self.0.get(index).is_some_and(|word| word & bit != 0)
    }

    /// How many ports it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether it has no port.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    fn combine(&self, other: &Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self(self.0.iter().zip(other.0.iter()).map(|(&a, &b)| with(a, b)).collect())
    }

    /// The set as words of 64 ports, the lowest port in the lowest bit; those with no port are left out.
    pub fn words(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        (0u16..).zip(self.0.iter().copied()).filter(|(_, word)| *word != 0)
    }

    /// One word of [`words`](Self::words): ports `64 * number` and up.
    #[must_use]
    pub fn word_at(&self, number: u16) -> u64 {
        self.0.get(usize::from(number)).copied().unwrap_or_default()
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a | b)
    }

    /// What is here and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a & !b)
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a & b)
    }

    /// Every port, upwards.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        // Most words of most sets are empty.
        let words = (0u16..).zip(self.0.iter()).filter(|(_, word)| **word != 0);
        words.flat_map(|(n, word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| n * 64 + bit)
        })
    }

    /// The set as the fewest ranges, upwards.
    #[must_use]
    pub fn ranges(&self) -> Vec<PortRange> {
        let mut ranges: Vec<PortRange> = Vec::new();
        for port in self.iter() {
            match ranges.last_mut() {
                Some(range) if range.last.checked_add(1) == Some(port) => range.last = port,
                _ => ranges.push(PortRange { first: port, last: port }),
            }
        }
        ranges
    }
}

impl Extend<u16> for PortSet {
    fn extend<I: IntoIterator<Item = u16>>(&mut self, ports: I) {
        for port in ports {
            self.insert(port);
        }
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let mut set = Self::default();
        set.extend(ports);
        set
    }
}

impl std::str::FromStr for PortSet {
    type Err = PortSetError;

    /// Reads `80,8000-8010`, with or without spaces; nothing at all is the empty set.
    fn from_str(text: &str) -> Result<Self, PortSetError> {
        let mut set = Self::default();
        for part in text.split([',', ' ', '\n', '\t']).filter(|part| !part.trim().is_empty()) {
            set.insert_range(part.parse()?);
        }
        Ok(set)
    }
}

impl From<PortRange> for PortSet {
    fn from(range: PortRange) -> Self {
        let mut set = Self::default();
        set.insert_range(range);
        set
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, range) in self.ranges().into_iter().enumerate() {
            if n > 0 {
                f.write_str(",")?;
            }
            write!(f, "{range}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortSet({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_set_reads_and_prints_as_the_kernel_does() {
        let set: PortSet = "8000-8003,80, 443,8004\n".parse().unwrap();
        assert_eq!(set.to_string(), "80,443,8000-8004");
        assert_eq!("".parse::<PortSet>().unwrap().to_string(), "");
        assert!("0".parse::<PortSet>().is_err());
        assert!("65536".parse::<PortSet>().is_err());
        assert!("+80".parse::<PortSet>().is_err());
        assert_eq!("9-8".parse::<PortRange>(), Err(PortSetError::Backwards(9, 8)));
        assert_eq!("65535".parse::<PortSet>().unwrap().to_string(), "65535");
    }

    proptest! {
        #[test]
        fn a_range_is_added_whole(before in 1u16.., first in 1u16.., more in prop_oneof![0u16..200, any::<u16>()]) {
            let range = PortRange::new(first, first.saturating_add(more)).unwrap();
            let mut set: PortSet = [before].into_iter().collect();
            set.insert_range(range);
            let expected: BTreeSet<u16> = range.iter().chain([before]).collect();
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), expected);
        }

        #[test]
        fn a_set_of_ports_is_a_set(a in proptest::collection::btree_set(1u16.., 0..300), b in proptest::collection::btree_set(1u16.., 0..300)) {
            let (x, y): (PortSet, PortSet) = (a.iter().copied().collect(), b.iter().copied().collect());
            prop_assert_eq!(x.union(&y).iter().collect::<BTreeSet<_>>(), &a | &b);
            prop_assert_eq!(x.difference(&y).iter().collect::<BTreeSet<_>>(), &a - &b);
            prop_assert_eq!(x.intersection(&y).iter().collect::<BTreeSet<_>>(), &a & &b);
            prop_assert_eq!(x.len(), a.len());
            prop_assert_eq!(&x.to_string().parse::<PortSet>().unwrap(), &x);
        }
    }
}
