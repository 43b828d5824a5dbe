//! Which sockets of a port are closed so that a service can have it.

use super::kind::{Kind, Surroundings};
use crate::model::Socket;
use std::collections::HashSet;

/// What becomes of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the way.
    Close,
    /// It stays.
    Leave(Why),
}

/// Why a socket stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The broker holds it.
    Ours,
    /// It is a connection to what the broker holds.
    OfOurs,
    /// A service listens on it, or receives by it.
    Serves,
    /// It is a connection to a service that listens there.
    Served,
}

impl Why {
    /// In words, after the socket.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Ours => "the broker holds it",
            Self::OfOurs => "it is on a port that the broker holds, and in nobody's way",
            Self::Serves => "it serves: stop the service, or say --force",
            Self::Served => "it belongs to a service that listens there, and is in nobody's way",
        }
    }
}

/// How far an eviction goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// What is in the way of a service, but no service.
    InTheWay,
    /// Services too.
    Everything,
}

/// What becomes of each of the sockets of a port, in one network namespace. `ours` are the inodes that the broker has.
#[must_use]
pub fn verdicts(
    sockets: &[Socket],
    around: &Surroundings<'_>,
    ours: &HashSet<u32>,
    reach: Reach,
) -> Vec<Verdict> {
    let is_ours = |socket: &Socket| socket.inode != 0 && ours.contains(&socket.inode);
    let held: Vec<&Socket> = sockets.iter().filter(|socket| is_ours(socket)).collect();
    let verdict = |socket: &Socket| {
        let of_ours = |held: &&Socket| {
            held.protocol == socket.protocol && held.remote.is_none() && held.serves(socket.local)
        };
        if is_ours(socket) {
            return Verdict::Leave(Why::Ours);
        }
        match around.kind(socket) {
            Kind::Listener | Kind::Datagrams | Kind::Bound if reach == Reach::InTheWay => {
                Verdict::Leave(Why::Serves)
            }
            Kind::Listener | Kind::Datagrams | Kind::Bound => Verdict::Close,
            _ if held.iter().any(of_ours) => Verdict::Leave(Why::OfOurs),
            _ if reach == Reach::InTheWay && around.is_served(socket) => Verdict::Leave(Why::Served),
            _ => Verdict::Close,
        }
    };
    sockets.iter().map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{any_socket, between, waits};
    use super::*;
    use crate::model::{PortSet, Protocol, SocketState};
    use proptest::prelude::*;

    fn told(sockets: &[Socket], ours: &[u32], reach: Reach) -> Vec<Verdict> {
        let (listening, ours) = (PortSet::default(), ours.iter().copied().collect());
        verdicts(sockets, &Surroundings::new(sockets, &listening, None), &ours, reach)
    }

    #[test]
    fn a_source_and_its_time_wait_go_and_a_service_stays_without_force() {
        let listener = waits("0.0.0.0:3306", SocketState::Listen, 7);
        let source = between("192.0.2.1:3306", "192.0.2.7:443", SocketState::Established, 8);
        let old = between("192.0.2.1:3306", "192.0.2.7:443", SocketState::TimeWait, 0);
        let both = [source, old];
        assert_eq!(told(&both, &[], Reach::InTheWay), [Verdict::Close; 2]);
        let all = [listener, source, old];
        let kept = [Why::Serves, Why::Served, Why::Served].map(Verdict::Leave);
        assert_eq!(told(&all, &[], Reach::InTheWay), kept);
        assert_eq!(told(&all, &[], Reach::Everything), [Verdict::Close; 3]);
        let kept = [Why::Ours, Why::OfOurs, Why::OfOurs].map(Verdict::Leave);
        assert_eq!(told(&all, &[7], Reach::Everything), kept);
    }

    #[test]
    fn what_only_receives_datagrams_is_a_service() {
        let server = Socket { protocol: Protocol::Udp, ..waits("0.0.0.0:53", SocketState::Bound, 7) };
        let client = Socket {
            protocol: Protocol::Udp,
            ..between("127.0.0.1:53", "127.0.0.1:9", SocketState::Established, 8)
        };
        let both = [server, client];
        assert_eq!(told(&both, &[], Reach::InTheWay), [Verdict::Leave(Why::Serves), Verdict::Close]);
    }

    proptest! {
        #[test]
        fn nothing_of_the_brokers_is_ever_closed_and_no_service_without_force(
            sockets in proptest::collection::vec(any_socket(), 0..12),
            ours in proptest::collection::hash_set(1u32..8, 0..4),
            force: bool,
        ) {
            let listening = PortSet::default();
            let around = Surroundings::new(&sockets, &listening, None);
            let reach = if force { Reach::Everything } else { Reach::InTheWay };
            let told = verdicts(&sockets, &around, &ours, reach);
            prop_assert_eq!(told.len(), sockets.len());
            for (socket, verdict) in sockets.iter().zip(told) {
                let closes = verdict == Verdict::Close;
                prop_assert!(!closes || !ours.contains(&socket.inode));
                let waits = matches!(socket.state, SocketState::Listen | SocketState::Bound);
                prop_assert!(!closes || force || !waits);
                // With nobody else there, whatever is not the broker's goes by force.
                prop_assert!(closes || !force || !ours.is_empty());
            }
        }
    }
}
