//! The ways in which a load gets its connections: by the broker's client library, and those it is measured against.

use portbroker_client::outbound::Connection;
use portbroker_client::{Broker, ConnectError, Connector, Protocol, Session, Target};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// Where the broker is, and which pool is leased from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lender {
    pub(crate) socket: PathBuf,
    pub(crate) pool: String,
}

/// How a connection gets its source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Way {
    /// The kernel chooses.
    Kernel,
    /// The client library's `Connector`.
    Connector(Lender),
    /// Exactly so many ports are leased at once, and bound one after the other.
    Leased(Lender, u32),
    /// Ports of the process's own, that nobody leased, are bound one after the other.
    Own(Ipv4Addr, u16, u16),
}

/// As it is told to another process.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => f.write_str("kernel"),
            Self::Connector(lender) => write!(f, "connector {} {}", lender.pool, lender.socket.display()),
            Self::Leased(lender, ports) => {
                write!(f, "leased {} {} {ports}", lender.pool, lender.socket.display())
            }
            Self::Own(address, first, last) => write!(f, "own {address} {first} {last}"),
        }
    }
}

impl Way {
    pub(crate) fn parse(text: &str) -> Self {
        let lender = |pool: &str, socket: &str| Lender { pool: pool.to_owned(), socket: socket.into() };
        match text.split(' ').collect::<Vec<_>>()[..] {
            ["kernel"] => Self::Kernel,
            ["connector", pool, socket] => Self::Connector(lender(pool, socket)),
            ["leased", pool, socket, ports] => Self::Leased(lender(pool, socket), ports.parse().unwrap()),
            ["own", address, first, last] => {
                Self::Own(address.parse().unwrap(), first.parse().unwrap(), last.parse().unwrap())
            }
            _ => panic!("no way {text:?}"),
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Missed {
    /// There is no source left, says the broker.
    Exhausted,
    /// All else.
    Failed(String),
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Held {
    Plain { stream: TcpStream, source: Option<SocketAddr> },
    Wrapped(Connection<TcpStream>),
}

impl Held {
    pub(crate) fn stream(&self) -> &TcpStream {
        match self {
            Self::Plain { stream, .. } => stream,
            Self::Wrapped(connection) => connection,
        }
    }

    /// Lets the close be a reset: nothing of the connection is left on this side.
    pub(crate) fn reset_at_close(&self) {
        SockRef::from(self.stream()).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Says that this is the end, and waits until the other side says so.
    pub(crate) fn wait_for_the_end(&self) {
        let mut stream = self.stream();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "the server says something");
    }
}

/// Makes connections to one destination.
#[derive(Debug)]
pub(crate) struct Opener {
    destination: SocketAddr,
    sources: Sources,
}

#[derive(Debug)]
enum Sources {
    Kernel,
    Connector(Box<Connector>),
    /// The least recently closed first.
    Queue {
        sources: VecDeque<SocketAddr>,
        /// Keeps the lease, where it is one.
        _session: Option<Session>,
    },
}

impl Opener {
    pub(crate) fn new(way: &Way, destination: SocketAddr) -> Self {
        let sources = match way {
            Way::Kernel => Sources::Kernel,
            Way::Connector(lender) => {
                Sources::Connector(Box::new(Connector::new(&lender.pool).socket_path(&lender.socket)))
            }
            Way::Leased(lender, ports) => leased(lender, *ports, destination),
            Way::Own(address, first, last) => {
                let sources = (*first..=*last).map(|port| SocketAddr::from((*address, port)));
                Sources::Queue { sources: sources.collect(), _session: None }
            }
        };
        Self { destination, sources }
    }

    pub(crate) fn open(&mut self) -> Result<Held, Missed> {
        match &mut self.sources {
            Sources::Kernel => {
                let stream = connect(None, self.destination).map_err(failed)?;
                Ok(Held::Plain { stream, source: None })
            }
            Sources::Connector(connector) => {
                connector.connect_blocking(self.destination).map(Held::Wrapped).map_err(|error| match error {
                    ConnectError::Exhausted { .. } => Missed::Exhausted,
                    error => Missed::Failed(error.to_string()),
                })
            }
            Sources::Queue { sources, .. } => from_queue(sources, self.destination),
        }
    }

    pub(crate) fn close(&mut self, held: Held) {
        if let (Held::Plain { source: Some(source), .. }, Sources::Queue { sources, .. }) =
            (&held, &mut self.sources)
        {
            sources.push_back(*source);
        }
    }
}

fn failed(error: io::Error) -> Missed {
    Missed::Failed(error.to_string())
}

fn leased(lender: &Lender, ports: u32, destination: SocketAddr) -> Sources {
    let target =
        Target { pool: lender.pool.clone(), protocol: Protocol::Tcp, destination: Some(destination) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (session, lease) = runtime.block_on(async {
        let session = Broker::new().socket_path(&lender.socket).open_session().await.unwrap();
        let lease = session.blocks(&target, ports, ports).await.unwrap();
        (session, lease)
    });
    let blocks = lease.items.iter();
    let sources =
        blocks.flat_map(|block| (block.first..=block.last).map(|port| SocketAddr::new(block.address, port)));
    Sources::Queue { sources: sources.collect(), _session: Some(session) }
}

/// Past those of which the kernel still has something that cannot be replaced.
fn from_queue(sources: &mut VecDeque<SocketAddr>, destination: SocketAddr) -> Result<Held, Missed> {
    for _ in 0..sources.len() {
        let Some(source) = sources.pop_front() else { break };
        match connect(Some(source), destination) {
            Ok(stream) => return Ok(Held::Plain { stream, source: Some(source) }),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => sources.push_back(source),
            Err(error) => return Err(failed(error)),
        }
    }
    Err(Missed::Exhausted)
}

/// The bare system calls.
pub(crate) fn connect(source: Option<SocketAddr>, destination: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if let Some(source) = source {
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(source))?;
    }
    socket.connect(&SockAddr::from(destination))?;
    Ok(socket.into())
}

/// The address and port of a connection's own side.
pub(crate) fn ipv4(address: SocketAddr) -> (Ipv4Addr, u16) {
    match address.ip() {
        IpAddr::V4(ip) => (ip, address.port()),
        IpAddr::V6(ip) => panic!("{ip} is not IPv4"),
    }
}
