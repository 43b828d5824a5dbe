//! [`Connector`]: connections from leased sources.

use super::allocator::{Allocator, Candidate, Search};
use super::connection::Connection;
use super::error::ConnectError;
use super::socket::{Blocking, Hook, Plan, Unbound, is_unavailable};
use crate::connect::Broker;
use crate::error::Error;
use crate::lease::Protocol;
use socket2::{SockAddr, Socket};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Makes connections whose source addresses and ports are leased from a pool of the broker's.
///
/// It has the ports of a destination in blocks and gives them out itself, with no word to the broker for a connection.
/// Clones share them: make one for a pool, and keep it.
///
/// ```no_run
/// # async fn fetch() -> Result<(), Box<dyn std::error::Error>> {
/// use tokio::io::AsyncWriteExt;
/// let egress = portbroker_client::Connector::new("egress");
/// let mut stream = egress.connect("192.0.2.7:443").await?;
/// stream.write_all(b"hello").await?;
/// # Ok(())
/// # }
/// ```
///
/// Without a runtime, and also where there is no broker:
///
/// ```no_run
/// # fn fetch() -> Result<(), Box<dyn std::error::Error>> {
/// use std::io::Write;
/// let egress = portbroker_client::Connector::new("egress").or_kernel();
/// let mut stream = egress.connect_blocking("192.0.2.7:443")?;
/// stream.write_all(b"hello")?;
/// # Ok(())
/// # }
/// ```
///
/// See the [module](super) for what it does with ports, and for forks.
#[derive(Debug, Clone)]
pub struct Connector {
    allocator: Arc<Allocator>,
    or_kernel: bool,
    timeout: Option<Duration>,
    patience: Option<Duration>,
    hook: Option<Hook>,
}

impl Connector {
    /// Connections from this pool. Nothing is asked until the first one.
    #[must_use]
    pub fn new(pool: impl Into<String>) -> Self {
        let allocator = Arc::new(Allocator::new(pool.into(), Broker::new()));
        Self { allocator, or_kernel: false, timeout: None, patience: None, hook: None }
    }

    /// Where no broker is reachable the kernel chooses the source, as it does without all this. (A broker that refuses
    /// is not circumvented: that is an error.)
    #[must_use]
    pub fn or_kernel(self) -> Self {
        Self { or_kernel: true, ..self }
    }

    /// The broker, instead of the one at the usual places, and how long it may take: [`Broker::socket_path`],
    /// [`Broker::timeout`]. What was leased before stays with the clones that were made before.
    #[must_use]
    pub fn broker(self, broker: Broker) -> Self {
        let allocator = Arc::new(Allocator::new(self.allocator.pool.clone(), broker));
        Self { allocator, ..self }
    }

    /// The broker's socket, instead of the usual places; see [`broker`](Self::broker).
    #[must_use]
    pub fn socket_path(self, path: impl Into<PathBuf>) -> Self {
        let broker = self.allocator.broker.clone().socket_path(path);
        self.broker(broker)
    }

    /// How long a connection may take from its first packet on (for tokio: in a runtime with timers). Unless set: as
    /// long as the kernel tries, about two minutes.
    #[must_use]
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// How long a connection may wait for a source where all are in use, here and by others: callers take turns at what
    /// comes free. Unless set, [`ConnectError::Exhausted`] comes at once. (The broker lets nobody wait for more than ten
    /// minutes at a time.)
    #[must_use]
    pub fn waiting(self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self }
    }

    /// Does this with each new socket before it is bound and connected: socket options, a mark.
    ///
    /// (`SO_REUSEADDR` is not to be changed: a TCP source port serves other destinations only where all who have it set
    /// it, and a UDP port is this socket's alone only where nobody does.)
    #[must_use]
    pub fn before_connect(
        self,
        hook: impl Fn(BorrowedFd<'_>, SocketAddr) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { hook: Some(Hook(Arc::new(hook))), ..self }
    }

    /// A TCP connection on tokio. Where the name has several addresses, to the first that answers.
    pub async fn connect(
        &self,
        destination: impl tokio::net::ToSocketAddrs,
    ) -> Result<Connection<tokio::net::TcpStream>, ConnectError> {
        let mut error = None;
        for address in tokio::net::lookup_host(destination).await.map_err(ConnectError::Resolve)? {
            match self.connect_one(address).await {
                Ok(connection) => return Ok(connection),
                Err(failed) => error = Some(failed),
            }
        }
        Err(error.unwrap_or_else(no_address))
    }

    /// A TCP connection in a program without a runtime (it blocks the thread).
    pub fn connect_blocking(
        &self,
        destination: impl ToSocketAddrs,
    ) -> Result<Connection<std::net::TcpStream>, ConnectError> {
        each(destination, |address| {
            let plan = self.plan(Protocol::Tcp, address, Blocking::Yes);
            self.at_once(&plan, |socket| self.connect_std(socket, plan.destination))
                .map(|connection| connection.map(std::net::TcpStream::from))
        })
    }

    /// A UDP socket on tokio that is connected to the destination. Its source port is nobody else's, here and
    /// elsewhere, until it is dropped.
    pub async fn connect_udp(
        &self,
        destination: impl tokio::net::ToSocketAddrs,
    ) -> Result<Connection<tokio::net::UdpSocket>, ConnectError> {
        let mut error = None;
        for address in tokio::net::lookup_host(destination).await.map_err(ConnectError::Resolve)? {
            match self.connect_udp_one(address).await {
                Ok(connection) => return Ok(connection),
                Err(failed) => error = Some(failed),
            }
        }
        Err(error.unwrap_or_else(no_address))
    }

    /// As [`connect_udp`](Self::connect_udp), blocking.
    pub fn connect_udp_blocking(
        &self,
        destination: impl ToSocketAddrs,
    ) -> Result<Connection<std::net::UdpSocket>, ConnectError> {
        each(destination, |address| {
            let plan = self.plan(Protocol::Udp, address, Blocking::Yes);
            self.at_once(&plan, |socket| connect_udp(socket, plan.destination))
                .map(|connection| connection.map(std::net::UdpSocket::from))
        })
    }

    /// A socket that is bound to a leased source for this destination, for programs that connect it themselves. It
    /// blocks for a round trip to the broker, now and then.
    ///
    /// Where connect(2) answers EADDRNOTAVAIL, somebody uses the source without the broker:
    /// [`Connection::refused`], and ask for the next.
    pub fn bind_blocking(
        &self,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Result<Connection<OwnedFd>, ConnectError> {
        let plan = self.plan(protocol, destination, Blocking::Yes);
        let mut search = self.allocator.search(plan.protocol, plan.destination, self.patience);
        let (candidate, socket) = self.next_blocking(&plan, &mut search)?;
        Ok(Connection::new(socket.into(), candidate.map(|candidate| candidate.slot)))
    }

    /// As [`bind_blocking`](Self::bind_blocking), not blocking.
    pub async fn bind(
        &self,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Result<Connection<OwnedFd>, ConnectError> {
        let plan = self.plan(protocol, destination, Blocking::No);
        let mut search = self.allocator.search(plan.protocol, plan.destination, self.patience);
        let (candidate, socket) = self.next(&plan, &mut search).await?;
        Ok(Connection::new(socket.into(), candidate.map(|candidate| candidate.slot)))
    }

    /// IPv4 as such, also where it comes as IPv6: that is what the packets are.
    fn plan(&self, protocol: Protocol, destination: SocketAddr, blocking: Blocking) -> Plan<'_> {
        let destination = match destination.ip().to_canonical() {
            canonical if canonical == destination.ip() => destination,
            canonical => SocketAddr::new(canonical, destination.port()),
        };
        Plan { protocol, destination, blocking, hook: self.hook.as_ref() }
    }

    /// The next source with a socket that is bound to it; none where the kernel shall choose.
    async fn next(&self, plan: &Plan<'_>, search: &mut Search<'_>) -> Result<Bound, ConnectError> {
        loop {
            let found = search.next(self.or_kernel).await;
            if let Some(bound) = self.bound(plan, search, found)? {
                return Ok(bound);
            }
        }
    }

    /// As [`next`](Self::next), blocking.
    fn next_blocking(&self, plan: &Plan<'_>, search: &mut Search<'_>) -> Result<Bound, ConnectError> {
        loop {
            let found = search.next_blocking(self.or_kernel);
            if let Some(bound) = self.bound(plan, search, found)? {
                return Ok(bound);
            }
        }
    }

    /// A socket with the source that was found; none where the kernel refuses it, and another is to be looked for.
    fn bound(
        &self,
        plan: &Plan<'_>,
        search: &mut Search<'_>,
        found: Result<Candidate, ConnectError>,
    ) -> Result<Option<Bound>, ConnectError> {
        let unmade = |source| ConnectError::Socket { destination: plan.destination, source };
        let candidate = match found {
            Ok(candidate) => candidate,
            Err(ConnectError::Broker(error))
                if self.or_kernel && matches!(*error, Error::NotReachable { .. }) =>
            {
                return Ok(Some((None, plan.socket().map_err(unmade)?)));
            }
            Err(error) => return Err(error),
        };
        match plan.bound(candidate.slot.source, &self.allocator.prefixes) {
            Ok(socket) => return Ok(Some((Some(candidate), socket))),
            Err(Unbound::Busy(error)) => search.refused(candidate, error)?,
            Err(Unbound::Absent(error)) => search.absent(candidate, error)?,
            Err(Unbound::Failed(error)) => return Err(unmade(error)),
        }
        Ok(None)
    }

    async fn connect_one(
        &self,
        address: SocketAddr,
    ) -> Result<Connection<tokio::net::TcpStream>, ConnectError> {
        let plan = self.plan(Protocol::Tcp, address, Blocking::No);
        let mut search = self.allocator.search(plan.protocol, plan.destination, self.patience);
        loop {
            // The socket is closed before its port goes back, also where this future is dropped.
            let (candidate, socket) = self.next(&plan, &mut search).await?;
            let error = match self.connect_tokio(socket, plan.destination).await {
                Ok(stream) => return Ok(Connection::new(stream, candidate.map(|c| c.slot))),
                Err(error) => error,
            };
            again(&plan, &mut search, candidate, error)?;
        }
    }

    async fn connect_tokio(
        &self,
        socket: Socket,
        destination: SocketAddr,
    ) -> io::Result<tokio::net::TcpStream> {
        let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
        let Some(timeout) = self.timeout else { return socket.connect(destination).await };
        match tokio::time::timeout(timeout, socket.connect(destination)).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn connect_udp_one(
        &self,
        address: SocketAddr,
    ) -> Result<Connection<tokio::net::UdpSocket>, ConnectError> {
        let plan = self.plan(Protocol::Udp, address, Blocking::No);
        let mut search = self.allocator.search(plan.protocol, plan.destination, self.patience);
        loop {
            let (candidate, socket) = self.next(&plan, &mut search).await?;
            let connected = connect_udp(&socket, plan.destination);
            let error = match connected.and_then(|()| tokio::net::UdpSocket::from_std(socket.into())) {
                Ok(socket) => return Ok(Connection::new(socket, candidate.map(|c| c.slot))),
                Err(error) => error,
            };
            again(&plan, &mut search, candidate, error)?;
        }
    }

    fn connect_std(&self, socket: &Socket, destination: SocketAddr) -> io::Result<()> {
        let address = SockAddr::from(destination);
        if let Some(timeout) = self.timeout {
            return socket.connect_timeout(&address, timeout);
        }
        loop {
            match socket.connect(&address) {
                // The connection goes on, and connect(2) waits for it again.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Connects on this thread.
    fn at_once(
        &self,
        plan: &Plan<'_>,
        connect: impl Fn(&Socket) -> io::Result<()>,
    ) -> Result<Connection<Socket>, ConnectError> {
        let mut search = self.allocator.search(plan.protocol, plan.destination, self.patience);
        loop {
            let (candidate, socket) = self.next_blocking(plan, &mut search)?;
            match connect(&socket) {
                Ok(()) => return Ok(Connection::new(socket, candidate.map(|c| c.slot))),
                Err(error) => {
                    drop(socket);
                    again(plan, &mut search, candidate, error)?;
                }
            }
        }
    }
}

/// A source, unless the kernel chooses, and a socket that has it.
type Bound = (Option<Candidate>, Socket);

fn connect_udp(socket: &Socket, destination: SocketAddr) -> io::Result<()> {
    socket.connect(&SockAddr::from(destination))
}

/// Whether to try another source: where connect(2) says that this one is in use. All else is about the peer.
fn again(
    plan: &Plan<'_>,
    search: &mut Search<'_>,
    candidate: Option<Candidate>,
    error: io::Error,
) -> Result<(), ConnectError> {
    match candidate {
        Some(candidate) if is_unavailable(&error) => search.refused(candidate, error),
        candidate => {
            let from = match &candidate {
                Some(candidate) => candidate.slot.source.to_string(),
                None => "a source of the kernel's choice".to_owned(),
            };
            Err(ConnectError::Connect { destination: plan.destination, from, source: error })
        }
    }
}

/// Tries each address of a name.
fn each<T>(
    destination: impl ToSocketAddrs,
    connect: impl Fn(SocketAddr) -> Result<T, ConnectError>,
) -> Result<T, ConnectError> {
    let mut error = None;
    for address in destination.to_socket_addrs().map_err(ConnectError::Resolve)? {
        match connect(address) {
            Ok(connection) => return Ok(connection),
            Err(failed) => error = Some(failed),
        }
    }
    Err(error.unwrap_or_else(no_address))
}

fn no_address() -> ConnectError {
    ConnectError::Resolve(io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connecting_can_be_a_task_of_its_own() {
        fn is_send<T: Send>(_: &T) {}
        let connector = Connector::new("egress");
        is_send(&connector.connect("192.0.2.1:80"));
        is_send(&connector.connect_udp("192.0.2.1:80"));
        fn is_shared<T: Send + Sync + 'static>() {}
        is_shared::<Connector>();
        is_shared::<Connection<tokio::net::TcpStream>>();
    }
}
