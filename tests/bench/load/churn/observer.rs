//! What the kernel says of the connections, by sock_diag(7): a record that the clients have no part in.
//!
//! Two things: every now and then all connections to the destination that are open, by a dump; and each socket as the
//! kernel is done with it, by the multicast group for that. It reads the bytes itself, and shares no code with what
//! the broker and its clients do with the same interface.

use super::record::{Record, now};
use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often all connections are looked at.
const EVERY: Duration = Duration::from_secs(1);
const TCP_ESTABLISHED: u32 = 1;
/// `SKNLGRP_INET_TCP_DESTROY` is the first group.
const DESTROYED: u32 = 1;
/// Where the kernel's `struct inet_diag_msg` begins in a message: after `struct nlmsghdr`.
const HEADER: usize = 16;
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;

/// A connection that is open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Open {
    pub(crate) cookie: u64,
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
}

/// All connections that were open, at some moment between two.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) open: Vec<Open>,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) looks: Vec<Look>,
    /// By their cookies, when the word of it was read.
    pub(crate) destroyed: HashMap<u64, u64>,
    /// How often the kernel had no room for more such words.
    pub(crate) overflows: u32,
}

/// Watches until it is stopped.
#[derive(Debug)]
pub(crate) struct Observer {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<Vec<Look>>,
    hearing: JoinHandle<(HashMap<u64, u64>, u32)>,
}

impl Observer {
    /// In the namespace of this thread: it watches connections to a port.
    pub(crate) fn start(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let group = Socket::new(NETLINK_SOCK_DIAG).and_then(|mut socket| {
            setsockopt(&socket, sockopt::RcvBufForce, &(256 << 20))?;
            socket.bind(&NetlinkAddress::new(0, DESTROYED))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        });
        let group = group.unwrap();
        let (stopped, ended) = (Arc::clone(&stop), Arc::clone(&stop));
        Self {
            stop,
            looking: std::thread::spawn(move || {
                let mut looks = Vec::new();
                while !stopped.load(Ordering::Relaxed) {
                    looks.push(look(port));
                    std::thread::sleep(EVERY);
                }
                looks
            }),
            hearing: std::thread::spawn(move || hear(&group, &ended)),
        }
    }

    pub(crate) fn stop(self) -> Seen {
        // The kernel has the words sent by a thread of its own.
        std::thread::sleep(Duration::from_secs(1));
        self.stop.store(true, Ordering::Relaxed);
        let (destroyed, overflows) = self.hearing.join().unwrap();
        Seen { looks: self.looking.join().unwrap(), destroyed, overflows }
    }
}

fn hear(group: &Socket, stop: &AtomicBool) -> (HashMap<u64, u64>, u32) {
    let (mut destroyed, mut overflows) = (HashMap::new(), 0);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match group.recv(&mut &mut *buffer, 0) {
            Ok(length) => {
                let at = now();
                each_message(&buffer[..length], |_, message| {
                    destroyed.insert(cookie(message), at);
                });
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if stop.load(Ordering::Relaxed) {
                    return (destroyed, overflows);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            // ENOBUFS
            Err(error) if error.raw_os_error() == Some(105) => overflows += 1,
            Err(error) => panic!("the kernel's words: {error}"),
        }
    }
}

fn look(port: u16) -> Look {
    let socket = Socket::new(NETLINK_SOCK_DIAG).unwrap();
    socket.connect(&NetlinkAddress::new(0, 0)).unwrap();
    let begin = now();
    socket.send(&request(port), 0).unwrap();
    let mut open = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    let mut done = false;
    while !done {
        let length = socket.recv(&mut &mut *buffer, 0).unwrap();
        each_message(&buffer[..length], |kind, message| match kind {
            NLMSG_DONE => done = true,
            NLMSG_ERROR => panic!("sock_diag: {message:?}"),
            _ => open.push(read(message)),
        });
    }
    Look { begin, end: now(), open }
}

/// A dump of the open connections to a port: `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(port: u16) -> Vec<u8> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST_DUMP: u16 = 0x301;
    let mut bytes = Vec::new();
    bytes.extend(72_u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    // AF_INET, IPPROTO_TCP
    bytes.extend([2, 6, 0, 0]);
    bytes.extend((1_u32 << TCP_ESTABLISHED).to_ne_bytes());
    bytes.extend([0; 2]);
    bytes.extend(port.to_be_bytes());
    bytes.extend([0; 36]);
    // INET_DIAG_NOCOOKIE
    bytes.extend([0xff; 8]);
    bytes
}

fn each_message(mut bytes: &[u8], mut each: impl FnMut(u16, &[u8])) {
    while bytes.len() >= HEADER {
        let length = usize::try_from(u32::from_ne_bytes(bytes[..4].try_into().unwrap())).unwrap();
        each(u16::from_ne_bytes(bytes[4..6].try_into().unwrap()), &bytes[HEADER..length]);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// In `struct inet_diag_msg`: four bytes, then `struct inet_diag_sockid`, which ends with the cookie.
fn cookie(message: &[u8]) -> u64 {
    u64::from_ne_bytes(message[44..52].try_into().unwrap())
}

fn read(message: &[u8]) -> Open {
    let address: [u8; 4] = message[8..12].try_into().unwrap();
    Open {
        cookie: cookie(message),
        address: address.into(),
        port: u16::from_be_bytes(message[4..6].try_into().unwrap()),
    }
}

/// What the kernel's record and the clients' have in common.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// Connections that a dump showed, each counted in each dump.
    pub(crate) shown: usize,
    /// Connections of whose end the kernel had a word.
    pub(crate) ended: usize,
}

/// Compares the two; the records are sorted as [`super::record::check`] leaves them.
pub(crate) fn compare(records: &[Record], seen: &Seen) -> Result<Agreed, String> {
    let by_cookie: HashMap<u64, &Record> = records.iter().map(|record| (record.cookie, record)).collect();
    let mut agreed = Agreed { shown: 0, ended: 0 };
    for look in &seen.looks {
        for open in &look.open {
            let record = by_cookie.get(&open.cookie).ok_or_else(|| format!("{open:?} is nobody's"))?;
            if (record.address, record.port) != (open.address, open.port) || record.closed < look.begin {
                return Err(format!("the kernel had {open:?}, the client {record:?}"));
            }
            if let Some(other) = other_at(records, record, look) {
                return Err(format!("the kernel had {open:?} open while {other:?} was"));
            }
            agreed.shown += 1;
        }
    }
    for record in records {
        match seen.destroyed.get(&record.cookie) {
            Some(at) if *at < record.end => {
                return Err(format!("{record:?} was gone at {at}, before its client closed it"));
            }
            Some(_) => agreed.ended += 1,
            None => {}
        }
    }
    Ok(agreed)
}

/// Another connection of the same source that its client had open all the while.
fn other_at<'a>(records: &'a [Record], record: &Record, look: &Look) -> Option<&'a Record> {
    let key = |record: &Record| (record.address, record.port, record.begin);
    let after = records.partition_point(|other| key(other) <= (record.address, record.port, look.begin));
    let before = records[..after].last()?;
    let all_the_while =
        before.end > look.end && (before.address, before.port) == (record.address, record.port);
    (all_the_while && before.cookie != record.cookie).then_some(before)
}
