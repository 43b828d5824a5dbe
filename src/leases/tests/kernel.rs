//! A kernel that has what the ends of leases left to it.

use super::super::*;
use super::naive::Key;
use crate::model::Seen;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A socket from one time to another, and how long it is remembered then.
#[derive(Debug, Clone, Copy)]
struct Socket {
    from: Instant,
    to: Instant,
    wait: Duration,
    cookie: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Kernel {
    sockets: BTreeMap<Key, Socket>,
    cookies: u64,
}

impl Kernel {
    /// What a lease leaves behind when it ends; `fate` decides.
    pub(super) fn end(&mut self, key: Key, fate: u8, now: Instant) {
        let s = Duration::from_secs;
        let (from, open, wait) = match fate % 8 {
            0..3 => return,
            3 => (s(0), s(0), s(60)),
            4 => (s(0), s(0), Duration::from_millis(150)),
            5 => (s(0), s(7), s(60)),
            6 => (s(0), s(40), s(0)),
            // Whose lease ended goes on binding.
            _ => (s(1), s(4), s(3)),
        };
        self.cookies += 1;
        let from = now + from;
        self.sockets.insert(key, Socket { from, to: from + open, wait, cookie: self.cookies });
    }

    fn seen(&self, key: Key, now: Instant) -> Seen {
        match self.sockets.get(&key) {
            Some(socket) if socket.from > now => Seen::Free,
            Some(socket) if now < socket.to => Seen::Open { cookie: socket.cookie, uid: 1000, cgroup: 7 },
            Some(socket) if now < socket.to + socket.wait => Seen::TimeWait(socket.to + socket.wait - now),
            _ => Seen::Free,
        }
    }

    /// What a look is answered.
    pub(super) fn answer(&self, look: &Look, now: Instant) -> Vec<(Tuple, Seen)> {
        let of = |protocol, source: IpAddr, port, destination: Option<SocketAddr>| {
            super::naive::key(protocol, source, port, destination)
        };
        match look {
            Look::Exact(tuple) => {
                let key = of(tuple.protocol, tuple.source.ip(), tuple.source.port(), tuple.destination);
                let seen = self.seen(key, now);
                if seen == Seen::Free { Vec::new() } else { vec![(*tuple, seen)] }
            }
            Look::Range { protocol, source } => {
                let ports = source.ports.iter().map(|port| (port, of(*protocol, source.address, port, None)));
                let tuple = |port| Tuple {
                    protocol: *protocol,
                    source: SocketAddr::new(source.address, port),
                    destination: Some("198.51.100.9:9".parse().unwrap()),
                };
                let seen = ports.map(|(port, key)| (tuple(port), self.seen(key, now)));
                seen.filter(|(_, seen)| *seen != Seen::Free).collect()
            }
        }
    }

    /// Everything that is open now.
    pub(super) fn open(&self, now: Instant) -> Vec<Key> {
        let open = |(_, socket): &(&Key, &Socket)| socket.from <= now && now < socket.to;
        self.sockets.iter().filter(open).map(|(key, _)| *key).collect()
    }

    /// A socket is closed before its time.
    pub(super) fn close(&mut self, key: Key, now: Instant) {
        if let Some(socket) = self.sockets.get_mut(&key) {
            socket.to = socket.to.min(now);
        }
    }
}
