//! Which IPv6 addresses are this host's by a route: a whole prefix, as `ip -6 route add local 2001:db8:1::/64 dev lo`
//! makes it (AnyIP).
//!
//! To such an address bind(2) binds with `IPV6_FREEBIND` only. With it, it binds to any address, and a connection from
//! one that is not this host's hangs until it times out: so the routes are asked (rtnetlink(7)) before it is set.

use socket2::{Domain, Protocol, Socket, Type};
use std::collections::HashMap;
use std::io::{self, Read as _};
use std::net::Ipv6Addr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const AF_INET6: u8 = 10;
const AF_NETLINK: i32 = 16;
const NETLINK_ROUTE: i32 = 0;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const RTA_DST: u16 = 1;
const RTN_LOCAL: u8 = 2;

/// How long an answer holds.
const FRESH: Duration = Duration::from_secs(1);
/// As many as a pool uses of a prefix; above that all are forgotten.
const MOST: usize = 1_024;

/// What was asked of late.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    known: Mutex<HashMap<Ipv6Addr, Instant>>,
}

impl Prefixes {
    /// Whether the address was found to be this host's by a route, a moment ago.
    pub(crate) fn knows(&self, address: Ipv6Addr) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        !known.is_empty() && known.get(&address).is_some_and(|at| at.elapsed() < FRESH)
    }

    /// Asks whether it is. Where that cannot be asked it is not.
    pub(crate) fn ask(&self, address: Ipv6Addr) -> bool {
        let is_local = is_local(address).unwrap_or_default();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if is_local {
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(address, Instant::now());
        } else {
            known.remove(&address);
        }
        is_local
    }
}

fn is_local(address: Ipv6Addr) -> io::Result<bool> {
    let protocol = Protocol::from(NETLINK_ROUTE);
    let socket = Socket::new_raw(Domain::from(AF_NETLINK), Type::DGRAM.cloexec(), Some(protocol))?;
    socket.send(&request(address))?;
    let mut answer = [0; 1024];
    let length = (&socket).read(&mut answer)?;
    Ok(answer.get(..length).is_some_and(is_local_route))
}

fn request(address: Ipv6Addr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(48);
    // nlmsghdr: length, type, flags, sequence number, port.
    bytes.extend(48_u32.to_ne_bytes());
    bytes.extend(RTM_GETROUTE.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend([0; 8]);
    // rtmsg: family, length of the destination, the rest zero; rtattr: length, type, the address.
    bytes.extend([AF_INET6, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(20_u16.to_ne_bytes());
    bytes.extend(RTA_DST.to_ne_bytes());
    bytes.extend(address.octets());
    bytes
}

/// Whether an answer (RTM_NEWROUTE, or an error) is the route to an address of this host's.
fn is_local_route(answer: &[u8]) -> bool {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    // rtmsg: family, three lengths and codes, table, protocol, scope, type.
    kind == Some(RTM_NEWROUTE) && answer.get(16 + 7) == Some(&RTN_LOCAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_its_own_addresses_from_others() {
        assert_eq!(request(Ipv6Addr::LOCALHOST).len(), 48);
        let prefixes = Prefixes::default();
        assert!(prefixes.ask(Ipv6Addr::LOCALHOST) && prefixes.knows(Ipv6Addr::LOCALHOST));
        let other = "2001:db8:ffff::1".parse().unwrap();
        assert!(!prefixes.ask(other) && !prefixes.knows(other));
    }
}
