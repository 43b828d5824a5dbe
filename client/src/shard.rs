//! Which sockets of a listener a worker takes, where several workers of one service share its shards.
//!
//! The sockets of one address are its shards, and each has an accept queue of its own. However many workers there
//! are: when all of them have taken theirs, every socket has been taken, so no queue is left without a worker.

use crate::socket::Socket;
use socket2::SockRef;
use std::collections::HashMap;

/// Which of several workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Worker {
    index: usize,
    of: usize,
}

impl Worker {
    /// Worker `index`, from 0, of `of`; `None` where there is no such one.
    pub(crate) fn new(index: usize, of: usize) -> Option<Self> {
        (index < of).then_some(Self { index, of })
    }

    /// Whether it takes shard number `shard` of an address that has `shards` of them: every `of`-th, or where there
    /// are more workers than shards, one of them together with others.
    fn takes(self, shard: usize, shards: usize) -> bool {
        if self.of <= shards {
            shard.checked_rem(self.of) == Some(self.index)
        } else {
            self.index.checked_rem(shards) == Some(shard)
        }
    }

    /// Those of a listener's sockets that it takes, in their order.
    pub(crate) fn choose(self, sockets: Vec<Socket>) -> Vec<Socket> {
        let places: Vec<_> = sockets.iter().map(place).collect();
        let mut shards: HashMap<&Place, usize> = HashMap::new();
        for place in &places {
            *shards.entry(place).or_default() += 1;
        }
        let mut seen: HashMap<&Place, usize> = HashMap::new();
        let mut chosen = Vec::new();
        for (socket, place) in sockets.into_iter().zip(&places) {
            let shard = seen.entry(place).or_default();
            if self.takes(*shard, shards.get(place).copied().unwrap_or_default()) {
                chosen.push(socket);
            }
            *shard += 1;
        }
        chosen
    }
}

/// Kind and address of a socket.
type Place = (&'static str, Vec<u8>);

fn place(socket: &Socket) -> Place {
    let address = SockRef::from(socket).local_addr();
    let address = address.map(|address| match address.as_socket() {
        Some(address) => address.to_string().into_bytes(),
        None => address
            .as_pathname()
            .map(|path| path.as_os_str().as_encoded_bytes().to_vec())
            .or_else(|| address.as_abstract_namespace().map(<[u8]>::to_vec))
            .unwrap_or_default(),
    });
    (socket.kind(), address.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, SockAddr, Type};
    use std::net::SocketAddr;
    use std::os::fd::OwnedFd;

    #[test]
    fn all_workers_together_take_every_shard_however_many_there_are() {
        for shards in 1..20 {
            for of in 1..40 {
                let takers = |shard| {
                    (0..of).filter(|&index| Worker::new(index, of).unwrap().takes(shard, shards)).count()
                };
                let takers: Vec<usize> = (0..shards).map(takers).collect();
                assert!(takers.iter().all(|&count| count > 0), "{shards} for {of}: {takers:?}");
                if of <= shards {
                    assert!(takers.iter().all(|&count| count == 1), "each has its own: {takers:?}");
                }
                let idle = (0..of).find(|&index| {
                    let worker = Worker::new(index, of).unwrap();
                    !(0..shards).any(|shard| worker.takes(shard, shards))
                });
                assert_eq!(idle, None, "no worker has nothing to do");
            }
        }
        assert_eq!((Worker::new(2, 2), Worker::new(0, 0)), (None, None));
    }

    #[test]
    fn each_worker_serves_each_address() {
        let mut ports: Vec<u16> = Vec::new();
        let mut sockets = Vec::new();
        for _ in 0..2 {
            let mut address: SocketAddr = "127.0.0.1:0".parse().unwrap();
            for _ in 0..3 {
                let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.set_reuse_port(true).unwrap();
                socket.bind(&SockAddr::from(address)).unwrap();
                address = socket.local_addr().unwrap().as_socket().unwrap();
                sockets.push(Socket::of(OwnedFd::from(socket)).unwrap());
            }
            ports.push(address.port());
        }
        let sockets = Worker::new(1, 2).unwrap().choose(sockets);
        let port = |socket: &Socket| SockRef::from(socket).local_addr().unwrap().as_socket().unwrap().port();
        assert_eq!(sockets.iter().map(port).collect::<Vec<_>>(), ports);
    }
}
