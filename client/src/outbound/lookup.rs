//! Asks the kernel what is on a 4-tuple of TCP, by an exact look-up in sock_diag(7).
//!
//! One system call for a few tuples and one more for each, and a microsecond or two, whatever the number of sockets; it
//! takes no privilege. The messages have
//! fixed sizes and are laid out here, for netlink-packet-sock-diag does not keep how long a TIME_WAIT has left.
//! It is asked about the network namespace of the thread that asked first.

use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
const TCP_TIME_WAIT: u8 = 6;
const TCP_LISTEN: u8 = 10;
const ENOENT: i32 = 2;
/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
const REQUEST: usize = 16 + 56;
/// An answer with all its attributes is below this.
const ANSWER: usize = 1024;

/// As many threads look at a time without making a socket each.
const KEPT: usize = 8;

/// What the kernel says of a 4-tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing is on it.
    Free,
    /// A closed connection, for so long.
    TimeWait(Duration),
    /// A connection in any other state, FIN_WAIT2 among them.
    Open,
}

/// Where to ask.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    sockets: Mutex<Vec<Socket>>,
    timestamps: Mutex<Option<(Instant, bool)>>,
}

impl Lookups {
    /// What is on tuples now, each in its turn.
    pub(crate) fn look(
        &self,
        local: SocketAddr,
        others: impl ExactSizeIterator<Item = SocketAddr>,
        remote: SocketAddr,
    ) -> Vec<io::Result<Seen>> {
        let count = others.len() + 1;
        let mut seen = Vec::with_capacity(count);
        let locals = std::iter::once(local).chain(others);
        if let Err(error) = self.ask(locals, count, remote, &mut seen) {
            // What was not answered is as unknown as this one.
            let raw = error.raw_os_error();
            seen.push(Err(error));
            seen.resize_with(count, || {
                Err(raw.map_or(io::ErrorKind::Other.into(), io::Error::from_raw_os_error))
            });
        }
        seen
    }

    fn ask(
        &self,
        locals: impl Iterator<Item = SocketAddr>,
        count: usize,
        remote: SocketAddr,
        seen: &mut Vec<io::Result<Seen>>,
    ) -> io::Result<()> {
        let kept = lock(&self.sockets).pop();
        let socket = match kept {
            Some(socket) => socket,
            None => {
                let kind = Type::DGRAM.cloexec();
                Socket::new_raw(Domain::from(AF_NETLINK), kind, Some(Protocol::from(NETLINK_SOCK_DIAG)))?
            }
        };
        let mut requests = Vec::with_capacity(count * REQUEST);
        for (number, local) in (0..).zip(locals) {
            request(number, local, remote, &mut requests);
        }
        socket.send(&requests)?;
        let mut answer = [0; ANSWER];
        for number in (0..).take(count) {
            let length = (&socket).read(&mut answer)?;
            seen.push(read(number, answer.get(..length).unwrap_or_default()));
        }
        // Not after an error: an answer could be in it still, and be taken for another's.
        let mut sockets = lock(&self.sockets);
        if sockets.len() < KEPT {
            sockets.push(socket);
        }
        Ok(())
    }

    /// Whether `net.ipv4.tcp_timestamps` is on, and so a connect(2) may replace TIME_WAIT; as of a second ago. Where it
    /// cannot be read it is taken for on, and connect(2) says what is true.
    pub(crate) fn timestamps(&self, now: Instant) -> bool {
        let mut known = lock(&self.timestamps);
        match *known {
            Some((at, on)) if now < at + Duration::from_secs(1) => on,
            _ => {
                let text = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_timestamps");
                let on = text.map_or(true, |text| text.trim() != "0");
                *known = Some((now, on));
                on
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn request(number: u32, local: SocketAddr, remote: SocketAddr, bytes: &mut Vec<u8>) {
    // nlmsghdr: length, type, flags, sequence number, port.
    bytes.extend(72_u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    bytes.extend([0; 4]);
    // inet_diag_req_v2: family, protocol, extensions, padding, states; inet_diag_sockid with its ports in network order.
    bytes.extend([if local.is_ipv4() { AF_INET } else { AF_INET6 }, IPPROTO_TCP, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(remote.port().to_be_bytes());
    bytes.extend(padded(local.ip()));
    bytes.extend(padded(remote.ip()));
    bytes.extend([0; 4]);
    // INET_DIAG_NOCOOKIE
    bytes.extend([0xff; 8]);
}

fn padded(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            for (to, from) in bytes.iter_mut().zip(address.octets()) {
                *to = from;
            }
            bytes
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// Reads the answer to the request of a number.
fn read(number: u32, answer: &[u8]) -> io::Result<Seen> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "an answer of sock_diag that is too short");
    let word = |at: usize| -> io::Result<[u8; 4]> {
        answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).ok_or_else(short)
    };
    if u32::from_ne_bytes(word(8)?) != number {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "sock_diag answers another question"));
    }
    let [low, high, ..] = word(4)?;
    match u16::from_ne_bytes([low, high]) {
        NLMSG_ERROR => match i32::from_ne_bytes(word(16)?).saturating_neg() {
            ENOENT => Ok(Seen::Free),
            error => Err(io::Error::from_raw_os_error(error)),
        },
        SOCK_DIAG_BY_FAMILY => {
            // inet_diag_msg: family, state, timer, retransmissions, 48 bytes of addresses, milliseconds left.
            let [_, state, ..] = word(16)?;
            Ok(match state {
                TCP_TIME_WAIT => {
                    Seen::TimeWait(Duration::from_millis(u32::from_ne_bytes(word(16 + 52)?).into()))
                }
                // Where no connection is found, a listener on the port is: bind(2) has its say on that.
                TCP_LISTEN => Seen::Free,
                _ => Seen::Open,
            })
        }
        other => {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("sock_diag answers with type {other}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpStream, ToSocketAddrs as _};

    fn look(lookups: &Lookups, local: SocketAddr, remote: SocketAddr) -> Seen {
        lookups.look(local, [].into_iter(), remote).remove(0).unwrap()
    }

    #[test]
    fn a_request_is_as_long_as_it_says() {
        let at = |text: &str| text.to_socket_addrs().unwrap().next().unwrap();
        let mut bytes = Vec::new();
        request(0, at("127.0.0.1:1"), at("127.0.0.1:2"), &mut bytes);
        assert_eq!(bytes.len(), REQUEST);
        request(1, at("[::1]:1"), at("[::1]:2"), &mut bytes);
        assert_eq!(bytes.len(), 2 * REQUEST);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for bytes in [&[][..], &[0; 16], &[7; 100]] {
            assert!(read(0, bytes).is_err());
        }
        // ENOENT, to question 3.
        let mut error = [0; 36];
        error[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        error[8..12].copy_from_slice(&3_u32.to_ne_bytes());
        error[16..20].copy_from_slice(&(-ENOENT).to_ne_bytes());
        assert_eq!(read(3, &error).unwrap(), Seen::Free);
        assert!(read(2, &error).is_err(), "the answer to another question");
    }

    #[test]
    fn several_tuples_are_told_apart_in_one_look() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(8).unwrap();
        let remote = socket.local_addr().unwrap().as_socket().unwrap();
        let clients: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(remote).unwrap()).collect();
        let open = clients.iter().map(|client| client.local_addr().unwrap());
        // Nobody is connected from addresses like these.
        let free = (1..=4).map(|n| SocketAddr::from(([127, 9, 9, n], 4)));
        let locals: Vec<SocketAddr> = open.zip(free).flat_map(|(open, free)| [open, free]).collect();
        let mut locals = locals.into_iter();
        let seen = Lookups::default().look(locals.next().unwrap(), locals, remote);
        for (n, seen) in seen.into_iter().enumerate() {
            assert_eq!(seen.unwrap(), if n % 2 == 0 { Seen::Open } else { Seen::Free });
        }
    }

    #[test]
    fn the_kernel_tells_an_open_connection_from_a_free_tuple() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let socket = Socket::new(
                if address.starts_with('[') { Domain::IPV6 } else { Domain::IPV4 },
                Type::STREAM,
                None,
            )
            .unwrap();
            socket.bind(&address.parse::<SocketAddr>().unwrap().into()).unwrap();
            socket.listen(1).unwrap();
            let remote = socket.local_addr().unwrap().as_socket().unwrap();
            let client = TcpStream::connect(remote).unwrap();
            let local = client.local_addr().unwrap();
            let lookups = Lookups::default();
            assert_eq!(look(&lookups, local, remote), Seen::Open);
            drop(socket.accept().unwrap());
            drop(client);
            let deadline = Instant::now() + Duration::from_secs(5);
            // The server closed first: its side waits, ours is free.
            while look(&lookups, local, remote) != Seen::Free {
                assert!(Instant::now() < deadline);
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(matches!(look(&lookups, remote, local), Seen::TimeWait(left)
                if left > Duration::from_secs(30) && left <= Duration::from_secs(60)));
        }
    }
}
