//! The messages by which the daemon, which may start nothing, says what should be started: datagrams to a socket
//! that systemd holds, and which it starts a program of root's to read.
//!
//! Both ends are here. A message is one service's name; what it is allowed to mean is the reader's matter.

use crate::model::UnitName;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, recv, sendto, socket as new_socket,
};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::path::Path;

/// The socket, in the daemon's runtime directory.
pub const SOCKET: &str = "activate";

/// What comes before the name of a service that was not started before, or not in vain.
const START: &str = "start ";
/// The same where the start before has failed.
const AGAIN: &str = "again ";

/// Longer than any message.
const LONGEST: usize = 512;
/// The most messages that are read at once; what is left has the reader started again.
const MAX: usize = 4096;

/// Says that a service is to be started; `again` where that has just failed. Never waits.
pub fn send(runtime_directory: &Path, unit: &UnitName, again: bool) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = new_socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    let message = format!("{}{unit}", if again { AGAIN } else { START });
    let address = UnixAddr::new(&runtime_directory.join(SOCKET))?;
    sendto(socket.as_raw_fd(), message.as_bytes(), &address, MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

/// What was read.
#[derive(Debug, Default)]
pub struct Received {
    /// The services, each with whether it is to be started again after a failure.
    pub services: BTreeMap<UnitName, bool>,
    /// How many messages were none.
    pub senseless: usize,
}

/// Reads all messages that are there.
pub fn receive(socket: impl AsFd) -> io::Result<Received> {
    let socket = socket.as_fd().as_raw_fd();
    let mut received = Received::default();
    let mut buffer = [0; LONGEST];
    for _ in 0..MAX {
        let length = match recv(socket, &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => length,
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        match buffer.get(..length).and_then(understood) {
            Some((unit, again)) => *received.services.entry(unit).or_default() |= again,
            None => received.senseless += 1,
        }
    }
    Ok(received)
}

fn understood(message: &[u8]) -> Option<(UnitName, bool)> {
    let text = std::str::from_utf8(message).ok()?;
    let again = text.strip_prefix(AGAIN).map(|unit| (unit, true));
    let (unit, again) = again.or_else(|| Some((text.strip_prefix(START)?, false)))?;
    let unit = UnitName::try_from(unit).ok().filter(|unit| unit.as_str().ends_with(".service"))?;
    Some((unit, again))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn unit(name: &str) -> UnitName {
        UnitName::try_from(name).unwrap()
    }

    #[test]
    fn what_was_sent_is_received_once() {
        let root = tempfile::tempdir().unwrap();
        assert!(send(root.path(), &unit("a.service"), false).is_err(), "nobody is there");
        let socket = UnixDatagram::bind(root.path().join(SOCKET)).unwrap();
        for again in [false, true, false] {
            send(root.path(), &unit("a.service"), again).unwrap();
        }
        send(root.path(), &unit("b@\\x2d.service"), false).unwrap();
        let received = receive(&socket).unwrap();
        let expected = [(unit("a.service"), true), (unit("b@\\x2d.service"), false)];
        assert_eq!((received.services, received.senseless), (BTreeMap::from(expected), 0));
        assert!(receive(&socket).unwrap().services.is_empty());
    }

    #[test]
    fn what_is_no_service_is_counted_and_thrown_away() {
        let root = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(root.path().join(SOCKET)).unwrap();
        let client = UnixDatagram::unbound().unwrap();
        client.connect(root.path().join(SOCKET)).unwrap();
        let long = format!("start {}.service", "x".repeat(600));
        for text in
            ["", "a.service", "start ", "start a.socket", "start a b.service", "start ../a.service", &long]
        {
            client.send(text.as_bytes()).unwrap();
        }
        client.send(b"start \xff.service").unwrap();
        let received = receive(&socket).unwrap();
        assert_eq!((received.services.len(), received.senseless), (0, 8));
    }

    #[test]
    fn nobody_waits_where_nobody_reads() {
        let root = tempfile::tempdir().unwrap();
        let _socket = UnixDatagram::bind(root.path().join(SOCKET)).unwrap();
        let full = (0..100_000).find_map(|_| send(root.path(), &unit("a.service"), false).err());
        assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
    }
}
