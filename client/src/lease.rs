//! Leases as the client has them: what is asked for, what comes, and why there is nothing left.
//!
//! Everything that comes from the broker is checked here before it is used as an address: counts, families, ports.

use crate::error::Error;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use zbus::wire::OwnedVariant;

/// The protocol of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP: the same source serves any number of destinations.
    Tcp,
    /// UDP: a source is one lease's alone, whatever its destination.
    Udp,
}

impl Protocol {
    /// As it is on the wire: `tcp`, `udp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What source ports are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The pool's name.
    pub pool: String,
    /// The protocol.
    pub protocol: Protocol,
    /// Whom the connections go to; `None`: anybody, and then nobody else has these ports for any destination.
    pub destination: Option<SocketAddr>,
}

impl Target {
    /// The destination as it is on the wire.
    pub(crate) fn destination_text(&self) -> String {
        self.destination.map(|destination| destination.to_string()).unwrap_or_default()
    }

    /// Whether a source address can be one of this target's.
    fn fits(&self, source: IpAddr) -> bool {
        let family = self.destination.is_none_or(|destination| destination.is_ipv4() == source.is_ipv4());
        family && !source.is_unspecified() && !source.is_multicast()
    }
}

/// Ports of one source address, `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block {
    /// The source address.
    pub address: IpAddr,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl Block {
    /// How many ports it has.
    #[must_use]
    pub fn ports(&self) -> u32 {
        u32::from(self.last).saturating_sub(u32::from(self.first)) + 1
    }
}

/// A lease. It ends with its session's lifeline, or when [`Session::release`](crate::Session::release) is called with
/// its number; dropping this value does not end it.
#[derive(Debug)]
pub struct Lease<T> {
    /// The lease's number.
    pub id: u64,
    /// What was leased: source addresses with ports, [`Block`]s, or sockets with their source.
    pub items: Vec<T>,
}

/// Why a pool has nothing left for a destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exhausted {
    /// How many ports, over all addresses in use, the pool has for this destination.
    pub capacity: u32,
    /// How many of them are leased.
    pub used: u32,
    /// How many cool: their lease has ended, and the kernel still has something on them.
    pub cooling: u32,
    /// How many are free (there may be some, where more were asked for).
    pub free: u32,
    /// When the next one is expected, where anybody knows.
    pub next: Option<Duration>,
}

impl Exhausted {
    /// Reads the facts beside an error's text.
    pub(crate) fn read(facts: &HashMap<String, OwnedVariant>) -> Self {
        let number = |name| facts.get(name).and_then(|value| u32::try_from(value).ok()).unwrap_or_default();
        let next = facts.get("next").and_then(|value| u64::try_from(value).ok());
        Self {
            capacity: number("capacity"),
            used: number("used"),
            cooling: number("cooling"),
            free: number("free"),
            next: next.map(Duration::from_millis),
        }
    }
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { capacity, used, cooling, free, .. } = self;
        write!(f, "of {capacity} ports {used} are leased, {cooling} cool and {free} are free; ")?;
        match self.next {
            Some(next) => write!(f, "the next one is expected in {:.1} s", next.as_secs_f64()),
            None => write!(f, "nobody knows when the next one comes back"),
        }
    }
}

/// Reads one source.
fn source(target: &Target, address: &str, port: u16) -> Result<SocketAddr, Error> {
    let address: IpAddr =
        address.parse().map_err(|_| Error::Reply(format!("{address:?} is no source address")))?;
    if port == 0 || !target.fits(address) {
        return Err(Error::Reply(format!("{address} port {port} is no source for {target:?}")));
    }
    Ok(SocketAddr::new(address, port))
}

/// Checks the number of things that came.
fn count(came: usize, least: u32, most: u32) -> Result<(), Error> {
    match u32::try_from(came) {
        Ok(came) if (least..=most).contains(&came) => Ok(()),
        _ => Err(Error::Reply(format!("asked for {least} to {most}, got {came}"))),
    }
}

/// Reads the reply of LeasePairs, or of LeaseSockets.
pub(crate) fn read_sources<T, U>(
    target: &Target,
    asked: u32,
    rows: Vec<T>,
    split: impl Fn(T) -> (String, u16, U),
) -> Result<Vec<(SocketAddr, U)>, Error> {
    count(rows.len(), asked, asked)?;
    let rows = rows.into_iter().map(split);
    rows.map(|(address, port, rest)| Ok((source(target, &address, port)?, rest))).collect()
}

/// Reads the reply of LeaseBlocks.
pub(crate) fn read_blocks(
    target: &Target,
    least: u32,
    most: u32,
    rows: &[(String, u16, u16)],
) -> Result<Vec<Block>, Error> {
    let mut blocks = Vec::with_capacity(rows.len());
    for (address, first, last) in rows {
        let source = source(target, address, *first)?;
        if last < first {
            return Err(Error::Reply(format!("a block from port {first} to port {last}")));
        }
        blocks.push(Block { address: source.ip(), first: *first, last: *last });
    }
    let ports: u64 = blocks.iter().map(|block| u64::from(block.ports())).sum();
    count(usize::try_from(ports).unwrap_or(usize::MAX), least, most)?;
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(destination: &str) -> Target {
        let destination = (!destination.is_empty()).then(|| destination.parse().unwrap());
        Target { pool: "p".into(), protocol: Protocol::Tcp, destination }
    }

    #[test]
    fn a_reply_that_does_not_fit_is_not_used() {
        let row = |address: &str, first, last| vec![(address.to_owned(), first, last)];
        let read = |rows: &[_]| read_blocks(&target("192.0.2.1:80"), 1, 64, rows).map_err(|e| e.to_string());
        assert_eq!(read(&row("192.0.2.9", 10, 73)).unwrap()[0].ports(), 64);
        for (rows, why) in [
            (row("192.0.2.9", 10, 74), "got 65"),
            (vec![], "got 0"),
            (row("2001:db8::1", 10, 20), "is no source for"),
            (row("0.0.0.0", 10, 20), "is no source for"),
            (row("192.0.2.9", 0, 20), "is no source for"),
            (row("192.0.2.9", 20, 19), "from port 20 to port 19"),
            (row("eth0", 20, 21), "no source address"),
        ] {
            let error = read(&rows).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(read_blocks(&target(""), 1, 64, &row("2001:db8::1", 10, 20)).is_ok());
    }

    #[test]
    fn a_refusal_has_its_figures() {
        let facts = HashMap::from([
            ("capacity".to_owned(), OwnedVariant::from(200_u32)),
            ("used".to_owned(), OwnedVariant::from(150_u32)),
            ("cooling".to_owned(), OwnedVariant::from(50_u32)),
            ("next".to_owned(), OwnedVariant::from(1_500_u64)),
        ]);
        let text = Exhausted::read(&facts).to_string();
        assert_eq!(
            text,
            "of 200 ports 150 are leased, 50 cool and 0 are free; the next one is expected in 1.5 s"
        );
    }
}
