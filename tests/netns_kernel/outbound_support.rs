//! Short names for what the tests of outbound sockets do.

use crate::netns::{spawn, undisturbed};
use crate::support::address;
use portbroker::model::{Protocol, Seen, Tuple};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::fmt::Debug;
use std::io::{self, Read as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// Two sources and two destinations.
pub(crate) const S1: &str = "127.0.0.1:46000";
pub(crate) const S2: &str = "127.0.0.2:46000";
pub(crate) const D1: &str = "127.0.0.9:8081";
pub(crate) const D2: &str = "127.0.0.9:8082";

/// A TCP socket that is bound with SO_REUSEADDR, as those of leases are.
pub(crate) fn leased(source: &str) -> io::Result<Socket> {
    bound(source, true)
}

pub(crate) fn bound(source: &str, reuse_address: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address(source)), Type::STREAM, None)?;
    socket.set_reuse_address(reuse_address)?;
    socket.bind(&SockAddr::from(address(source)))?;
    Ok(socket)
}

pub(crate) fn connect(socket: &Socket, to: &str) -> io::Result<()> {
    socket.connect(&SockAddr::from(address(to)))
}

/// A client at `source`, and the other end of its connection.
pub(crate) fn pair(source: &str, listener: &TcpListener) -> (Socket, TcpStream) {
    pair_as(source, &listener.local_addr().unwrap().to_string(), listener)
}

/// The same, where the client calls itself and the listener by these names.
pub(crate) fn pair_as(source: &str, to: &str, listener: &TcpListener) -> (Socket, TcpStream) {
    let client = leased(source).expect("the source is bound");
    connect(&client, to).expect("the client connects");
    let (accepted, from) = listener.accept().expect("the client is accepted");
    assert_eq!((from.ip(), from.port()), (address(source).ip().to_canonical(), address(source).port()));
    (client, accepted)
}

/// Ends a connection from the client's side. The order holds even where a process that another test is making has
/// copies of the sockets for a moment.
pub(crate) fn close((client, mut accepted): (Socket, TcpStream)) {
    client.shutdown(Shutdown::Write).expect("a connection");
    assert_eq!(accepted.read(&mut [0]).expect("its end"), 0);
    undisturbed(|| drop(client));
    undisturbed(|| drop(accepted));
}

/// A reset takes the place of every state that would follow.
pub(crate) fn reset(socket: &impl std::os::fd::AsFd) {
    SockRef::from(socket).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
}

pub(crate) fn tcp(source: &str, destination: &str) -> Tuple {
    tuple(Protocol::Tcp, address(source), Some(address(destination)))
}

pub(crate) fn tuple(protocol: Protocol, source: SocketAddr, destination: Option<SocketAddr>) -> Tuple {
    Tuple { protocol, source, destination }
}

/// The number that the kernel gave a socket.
pub(crate) fn cookie(socket: &impl std::os::fd::AsFd) -> u64 {
    SockRef::from(socket).cookie().expect("SO_COOKIE")
}

/// The cookie of a socket that was seen.
pub(crate) fn open(seen: Seen) -> Option<u64> {
    match seen {
        Seen::Open { cookie, .. } => Some(cookie),
        Seen::Free | Seen::TimeWait(_) => None,
    }
}

/// Looks until it is so; packets and timers of the kernel take their time.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within 5 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Does it again until it goes well.
pub(crate) fn eventually<T, E: Debug>(mut act: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match act() {
            Ok(result) => return result,
            Err(error) => assert!(Instant::now() < end, "not within 5 s: {error:?}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The number of an error; `None`: there was none.
pub(crate) fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().map(|error| error.raw_os_error().expect("an error of the kernel"))
}

/// Runs a program to its end.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let status = spawn(Command::new(program).args(arguments)).wait().expect("it ends");
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

/// Sets a sysctl of the test's own network namespace.
pub(crate) fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/net/ipv4/{name}");
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("cannot write {path}: {error}"));
}
