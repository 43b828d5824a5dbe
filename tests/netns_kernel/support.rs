//! Short names for what the tests of sockets do.

use portbroker::config::SocketOptions;
use portbroker::kernel::socket::{ListenerSocket, SocketState};
use portbroker::model::{Endpoint, InetEndpoint, SocketKind, UnixAddress, UnixEndpoint};
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// A user that holders of sockets are; thieves are another.
pub(crate) const SERVICE: u32 = 1001;

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub(crate) fn tcp(text: &str, v6only: bool) -> Endpoint {
    inet(SocketKind::Stream, text, v6only)
}

pub(crate) fn udp(text: &str, v6only: bool) -> Endpoint {
    inet(SocketKind::Datagram, text, v6only)
}

fn inet(kind: SocketKind, text: &str, v6only: bool) -> Endpoint {
    Endpoint::Inet(InetEndpoint::new(kind, address(text), v6only, None).expect("an endpoint"))
}

pub(crate) fn unix(kind: SocketKind, text: &str) -> Endpoint {
    Endpoint::Unix(UnixEndpoint { kind, address: UnixAddress::parse(text).expect("a unix address") })
}

pub(crate) fn bind(endpoint: &Endpoint) -> ListenerSocket {
    let bound = ListenerSocket::bind(endpoint, &SocketOptions::default());
    let mut socket = bound.expect("the endpoint is bound");
    // As whoever hands it to a holder does.
    socket.remember_options();
    socket
}

pub(crate) fn is_reserved(socket: &ListenerSocket) -> bool {
    socket.state().expect("a state") == SocketState::Reserved
}

/// What a client gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Connected,
    Refused,
    Other(ErrorKind),
}

pub(crate) fn connect(to: &str) -> Client {
    match TcpStream::connect_timeout(&address(to), Duration::from_secs(5)) {
        Ok(_) => Client::Connected,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Client::Refused,
        Err(error) => Client::Other(error.kind()),
    }
}

/// Whether the other side closed or reset a connection.
pub(crate) fn was_reset(mut client: &TcpStream) -> bool {
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    match client.read(&mut [0]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// Whether a sender of datagrams is told that nobody listens.
pub(crate) fn is_refused(to: &str) -> bool {
    let to = address(to);
    let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let client = UdpSocket::bind(own).expect("a UDP socket");
    client.connect(to).expect("a UDP socket connects");
    client.send(b"first").expect("the first datagram is sent");
    client.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    client.recv(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}
