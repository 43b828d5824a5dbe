//! `listen("web")`: the sockets of a listener, from wherever this process can have them.
//!
//! In this order: sockets that the process was started with; the broker; binding for itself, where the program
//! allowed that and there is no broker, or none that knows the name. A broker that *refuses* is never
//! circumvented: it holds the port, and binding beside it would fail, or worse, succeed.

use crate::bind::{Bind, BindError};
use crate::connect::{Broker, Holder};
use crate::error::Error;
use crate::inherited;
use crate::shard::Worker;
use crate::socket::Socket;
use crate::wire::ErrorName;
use std::future::{Future, IntoFuture};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

/// The sockets of the listener `name`, to be had by `.await` (on tokio) or [`.blocking()`](Listen::blocking).
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = portbroker_client::listen("web").blocking()?.tcp_listener()?;
/// for connection in listener.incoming() {
///     drop(connection?);
/// }
/// # Ok(())
/// # }
/// ```
///
/// A program that shall also work where no broker runs:
///
/// ```no_run
/// # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = portbroker_client::listen("web").or_bind("[::]:443").await?.tokio_tcp_listener()?;
/// loop {
///     let (connection, peer) = listener.accept().await?;
///     # drop((connection, peer));
/// }
/// # }
/// ```
///
/// # Who owns the sockets
///
/// The caller owns the descriptors, which are close-on-exec, and closes them by dropping them. The *sockets*
/// stay the broker's too: they live on when this process ends, and it may have them again. So whatever is set
/// on them is set for everyone who has them, now and later: above all `O_NONBLOCK` (which is why
/// [`Sockets`]'s getters set it as the type needs it), and socket options.
pub fn listen(name: impl Into<String>) -> Listen {
    Listen { name: name.into(), broker: Broker::new(), fall_back: Vec::new(), shard: None }
}

/// A question for the sockets of a listener; see [`listen`].
#[derive(Debug, Clone)]
#[must_use = "nothing is asked until `.await` or `.blocking()`"]
pub struct Listen {
    name: String,
    broker: Broker,
    fall_back: Vec<Bind>,
    shard: Option<(usize, usize)>,
}

impl Listen {
    /// Binds TCP `address` (as `"0.0.0.0:443"`, no names) where there is no broker, or none that has this
    /// listener. Each call adds one socket.
    pub fn or_bind(self, address: impl Into<String>) -> Self {
        self.or(Bind::Tcp(address.into()))
    }

    /// As [`or_bind`](Self::or_bind), UDP.
    pub fn or_bind_udp(self, address: impl Into<String>) -> Self {
        self.or(Bind::Udp(address.into()))
    }

    /// As [`or_bind`](Self::or_bind), a unix stream socket. A path where nobody listens any more is replaced.
    pub fn or_bind_unix(self, path: impl Into<PathBuf>) -> Self {
        self.or(Bind::Unix(path.into()))
    }

    /// As [`or_bind_unix`](Self::or_bind_unix), datagrams.
    pub fn or_bind_unix_datagram(self, path: impl Into<PathBuf>) -> Self {
        self.or(Bind::UnixDatagram(path.into()))
    }

    fn or(mut self, bind: Bind) -> Self {
        self.fall_back.push(bind);
        self
    }

    /// Only the sockets of worker `index` (from 0) of `of` workers: of each address every `of`-th, and where there are
    /// more workers than sockets, one that others have too.
    ///
    /// For a service of several processes and a listener with `reuse-port`, whose sockets have an accept queue each:
    /// when all workers have theirs, every queue has a worker, however many workers there are. When their number
    /// changes, each of them takes its sockets anew. The broker has the sockets all the time, so what waits in one of
    /// them meanwhile is not lost.
    pub fn shard(self, index: usize, of: usize) -> Self {
        Self { shard: Some((index, of)), ..self }
    }

    fn worker(&self) -> Result<Option<Worker>, ListenError> {
        let Some((index, of)) = self.shard else { return Ok(None) };
        match Worker::new(index, of) {
            Some(worker) => Ok(Some(worker)),
            None => Err(ListenError::NoSuchWorker { name: self.name.clone(), index, of }),
        }
    }

    /// The broker's socket, instead of the usual places (`PORTBROKER_SOCKET`, the private socket, the bus).
    pub fn socket_path(self, path: impl Into<PathBuf>) -> Self {
        Self { broker: self.broker.socket_path(path), ..self }
    }

    /// How long the broker may take; a restarting one answers when it is back.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { broker: self.broker.timeout(timeout), ..self }
    }

    /// Gets the sockets, in a program without a runtime. (It makes one of its own, on a thread of its own, so it
    /// works inside another runtime too, which it blocks.)
    pub fn blocking(self) -> Result<Sockets, ListenError> {
        self.worker()?;
        if let Some(sockets) = self.inherited()? {
            return Ok(sockets);
        }
        let ask = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
            runtime
                .map_err(Error::Runtime)?
                .block_on(self.broker.acquire(&[self.name.as_str()], Holder::Process))
        };
        let thread = std::thread::Builder::new().name("portbroker".into());
        let answer = std::thread::scope(|scope| match thread.spawn_scoped(scope, ask) {
            Ok(thread) => {
                thread.join().unwrap_or_else(|_| Err(Error::Runtime(io::Error::other("the thread panicked"))))
            }
            Err(error) => Err(Error::Runtime(error)),
        });
        self.conclude(answer)
    }

    async fn gather(self) -> Result<Sockets, ListenError> {
        self.worker()?;
        if let Some(sockets) = self.inherited()? {
            return Ok(sockets);
        }
        let answer = self.broker.acquire(&[self.name.as_str()], Holder::Process).await;
        self.conclude(answer)
    }

    fn inherited(&self) -> Result<Option<Sockets>, ListenError> {
        let sockets = inherited::take(&self.name)
            .map_err(|source| ListenError::Inherited { name: self.name.clone(), source })?;
        if sockets.is_empty() { Ok(None) } else { self.sockets(sockets, Source::Inherited).map(Some) }
    }

    fn conclude(
        &self,
        answer: Result<Vec<(String, std::os::fd::OwnedFd)>, Error>,
    ) -> Result<Sockets, ListenError> {
        let error = match answer {
            Ok(sockets) => {
                let sockets =
                    sockets.into_iter().map(|(_, fd)| Socket::of(fd)).collect::<io::Result<Vec<_>>>();
                let sockets = sockets
                    .map_err(|error| Error::Reply(format!("a descriptor that is no socket: {error}")))?;
                return self.sockets(sockets, Source::Broker);
            }
            Err(error) => error,
        };
        if self.fall_back.is_empty() || !may_fall_back(&error) {
            return Err(error.into());
        }
        let bound = self.fall_back.iter().map(Bind::bind).collect::<Result<Vec<_>, _>>();
        match bound {
            Ok(sockets) => self.sockets(sockets, Source::Bound),
            Err(source) => Err(ListenError::Bind { source, broker: error }),
        }
    }

    fn sockets(&self, sockets: Vec<Socket>, source: Source) -> Result<Sockets, ListenError> {
        let sockets = match self.worker()? {
            Some(worker) => worker.choose(sockets),
            None => sockets,
        };
        Ok(Sockets { name: self.name.clone(), sockets, source })
    }
}

/// Only where there is no broker, or none that holds this listener.
fn may_fall_back(error: &Error) -> bool {
    matches!(error, Error::NotReachable { .. } | Error::Refused { name: ErrorName::NoSuchListener, .. })
}

impl IntoFuture for Listen {
    type Output = Result<Sockets, ListenError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.gather())
    }
}

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The broker, or the way to it; see [`Error`] for which.
    #[error(transparent)]
    Broker(#[from] Error),
    /// There was no broker to have them from, and binding did not work either.
    #[error("{source} (and before that: {broker})")]
    Bind {
        /// What bind(2) said, and of what.
        source: BindError,
        /// Why the broker did not give them.
        broker: Error,
    },
    /// LISTEN_FDS names something that is no listening socket.
    #[error("the inherited socket {name:?} (LISTEN_FDS) cannot be used: {source}")]
    Inherited {
        /// The listener.
        name: String,
        /// What is wrong with it.
        source: io::Error,
    },
    /// `shard(index, of)` with an index that is not below the number of workers.
    #[error(
        "of the listener {name:?} there are no sockets for worker {index} of {of}: the first one is number 0"
    )]
    NoSuchWorker {
        /// The listener.
        name: String,
        /// The index.
        index: usize,
        /// The number of workers.
        of: usize,
    },
    /// The listener has sockets, but none (left) of the type asked for.
    #[error("the listener {name:?} has no {wanted} (left): it has {there}")]
    NoSuchType {
        /// The listener.
        name: String,
        /// The type asked for.
        wanted: &'static str,
        /// Those that it has.
        there: String,
    },
    /// The socket could not be made blocking or non-blocking, or be given to tokio.
    #[error("a socket of the listener {name:?} could not be set up: {source}")]
    SetUp {
        /// The listener.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// Where sockets came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The process was started with them (LISTEN_FDS).
    Inherited,
    /// The broker.
    Broker,
    /// Bound by the process itself: no broker holds the port.
    Bound,
}

/// The sockets of a listener, in the order of its configuration (or of the `or_bind` calls).
///
/// The getters take the first socket of their type out, so a listener with two of them is asked twice. They set
/// `O_NONBLOCK` as the type needs it: off for the standard library, on for tokio. That flag belongs to the socket
/// and not to the descriptor: two processes that hold one listener at the same time must agree on it.
/// Iterating gives the sockets as they are.
#[derive(Debug)]
pub struct Sockets {
    name: String,
    sockets: Vec<Socket>,
    source: Source,
}

/// Takes the first socket of one variant out, with `O_NONBLOCK` set as told.
macro_rules! take {
    ($sockets:expr, $variant:ident, $wanted:literal, $nonblocking:literal) => {{
        let sockets = $sockets;
        let position = sockets.sockets.iter().position(|socket| matches!(socket, Socket::$variant(_)));
        match position.map(|position| sockets.sockets.remove(position)) {
            Some(Socket::$variant(socket)) => match socket.set_nonblocking($nonblocking) {
                Ok(()) => Ok(socket),
                Err(source) => Err(sockets.set_up(source)),
            },
            _ => Err(sockets.no_such_type($wanted)),
        }
    }};
}

impl Sockets {
    /// Where they came from.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// How many are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether all have been taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// The first TCP listener, blocking.
    pub fn tcp_listener(&mut self) -> Result<TcpListener, ListenError> {
        take!(self, TcpListener, "TCP listener", false)
    }

    /// The first UDP socket, blocking.
    pub fn udp_socket(&mut self) -> Result<UdpSocket, ListenError> {
        take!(self, UdpSocket, "UDP socket", false)
    }

    /// The first unix stream listener, blocking.
    pub fn unix_listener(&mut self) -> Result<UnixListener, ListenError> {
        take!(self, UnixListener, "unix stream listener", false)
    }

    /// The first unix datagram socket, blocking.
    pub fn unix_datagram(&mut self) -> Result<UnixDatagram, ListenError> {
        take!(self, UnixDatagram, "unix datagram socket", false)
    }

    /// The first TCP listener, for the tokio runtime that this is called in.
    pub fn tokio_tcp_listener(&mut self) -> Result<tokio::net::TcpListener, ListenError> {
        let socket = take!(&mut *self, TcpListener, "TCP listener", true)?;
        tokio::net::TcpListener::from_std(socket).map_err(|source| self.set_up(source))
    }

    /// The first UDP socket, for the tokio runtime that this is called in.
    pub fn tokio_udp_socket(&mut self) -> Result<tokio::net::UdpSocket, ListenError> {
        let socket = take!(&mut *self, UdpSocket, "UDP socket", true)?;
        tokio::net::UdpSocket::from_std(socket).map_err(|source| self.set_up(source))
    }

    /// The first unix stream listener, for the tokio runtime that this is called in.
    pub fn tokio_unix_listener(&mut self) -> Result<tokio::net::UnixListener, ListenError> {
        let socket = take!(&mut *self, UnixListener, "unix stream listener", true)?;
        tokio::net::UnixListener::from_std(socket).map_err(|source| self.set_up(source))
    }

    /// The first unix datagram socket, for the tokio runtime that this is called in.
    pub fn tokio_unix_datagram(&mut self) -> Result<tokio::net::UnixDatagram, ListenError> {
        let socket = take!(&mut *self, UnixDatagram, "unix datagram socket", true)?;
        tokio::net::UnixDatagram::from_std(socket).map_err(|source| self.set_up(source))
    }

    fn no_such_type(&self, wanted: &'static str) -> ListenError {
        let kinds: Vec<&str> = self.sockets.iter().map(Socket::kind).collect();
        let there = if kinds.is_empty() { "none at all".to_owned() } else { kinds.join(", ") };
        ListenError::NoSuchType { name: self.name.clone(), wanted, there }
    }

    fn set_up(&self, source: io::Error) -> ListenError {
        ListenError::SetUp { name: self.name.clone(), source }
    }
}

impl IntoIterator for Sockets {
    type Item = Socket;
    type IntoIter = std::vec::IntoIter<Socket>;

    fn into_iter(self) -> Self::IntoIter {
        self.sockets.into_iter()
    }
}
