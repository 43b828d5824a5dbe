//! Sockets that this process was started with: `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`, as systemd,
//! `portbroker deposit` and `portbroker exec` set them.
//!
//! The `listenfd` crate takes them, by position; this module finds the positions of a name. It takes the
//! variables out of the environment when it reads them (so that children do not believe them), and therefore
//! they are read once for the whole process, on the first use, and only where they are there at all.

use crate::socket::Socket;
use listenfd::ListenFd;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, OnceLock, PoisonError};

/// What came with the process and was not taken yet.
struct Inherited {
    sockets: ListenFd,
    names: Vec<String>,
}

static INHERITED: OnceLock<Mutex<Inherited>> = OnceLock::new();

/// Takes every inherited socket of a name, in their order; none where the process has none of that name
/// (any more).
pub(crate) fn take(name: &str) -> io::Result<Vec<Socket>> {
    // A panic elsewhere leaves at worst a socket untaken.
    let mut inherited =
        INHERITED.get_or_init(|| Mutex::new(read())).lock().unwrap_or_else(PoisonError::into_inner);
    let mut taken = Vec::new();
    for position in positions(&inherited.names, name) {
        if let Some(socket) = take_typed(&mut inherited.sockets, position)? {
            taken.push(socket);
        }
    }
    Ok(taken)
}

fn read() -> Inherited {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    // Without LISTEN_PID the crate would take descriptors that nobody said are for this process.
    let sockets = match std::env::var_os("LISTEN_PID") {
        Some(_) => ListenFd::from_env(),
        None => ListenFd::empty(),
    };
    let names = split_names(&names, sockets.len());
    Inherited { sockets, names }
}

/// As many names as descriptors, or none at all: sd_listen_fds_with_names(3) refuses anything else too.
fn split_names(names: &str, count: usize) -> Vec<String> {
    let names: Vec<String> = names.split(':').map(str::to_owned).collect();
    if names.len() == count { names } else { Vec::new() }
}

fn positions(names: &[String], wanted: &str) -> Vec<usize> {
    names.iter().enumerate().filter(|(_, name)| *name == wanted).map(|(position, _)| position).collect()
}

/// A descriptor that is of another type than asked for stays in its place, so the types can be tried in turn.
fn take_typed(sockets: &mut ListenFd, position: usize) -> io::Result<Option<Socket>> {
    if let Ok(socket) = sockets.take_tcp_listener(position) {
        return Ok(socket.map(Socket::TcpListener));
    }
    if let Ok(socket) = sockets.take_udp_socket(position) {
        return Ok(socket.map(Socket::UdpSocket));
    }
    if let Ok(socket) = sockets.take_unix_listener(position) {
        return Ok(socket.map(Socket::UnixListener));
    }
    if let Ok(socket) = sockets.take_unix_datagram(position) {
        return Ok(socket.map(Socket::UnixDatagram));
    }
    let (domain, kind) = (socket2::Domain::UNIX.into(), socket2::Type::SEQPACKET.into());
    let packets = sockets.take_custom::<OwnedFd>(position, domain, kind, "listening socket of any type")?;
    Ok(packets.map(Socket::Other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_at_every_position_that_bears_it() {
        let names = split_names("web:admin:web", 3);
        assert_eq!(positions(&names, "web"), [0, 2]);
        assert_eq!(positions(&names, "mail"), Vec::<usize>::new());
    }

    #[test]
    fn names_that_are_not_as_many_as_the_descriptors_are_not_believed() {
        assert!(split_names("web:admin", 3).is_empty());
        assert!(split_names("", 0).is_empty());
        assert_eq!(split_names("", 1), [""]);
    }
}
