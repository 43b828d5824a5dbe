//! One bound socket of a listener, and the states that it can be in.
//!
//! Invariants, whatever a holder does to its copy:
//! - the address is bound from [`ListenerSocket::bind`] on until the value is dropped; no change of state and no
//!   repair gives it up (unix names that must be bound anew excepted, see `mend`);
//! - while the socket is reserved nobody can connect or be heard, and nobody else can bind the address;
//! - descriptors are close-on-exec.
//!
//! It must not decide when to do what, nor remember what it can ask the kernel: the state that it was brought
//! into is kept only to notice that somebody changed it.

mod datagram;
mod drain;
mod endpoint_of;
mod error;
mod inet;
mod inspect;
mod links;
mod mend;
mod options;
mod path;
mod queue;
mod tcp;
mod tune;
mod unix;
mod unmet;

pub use endpoint_of::{Identity, endpoint_of, identify_stored};
pub use error::{AdoptError, BindError, OptionError, SocketError};
pub use inspect::Spoilt;
pub use mend::Mended;
pub use queue::Queue;
pub use unmet::Unmet;

use crate::config::SocketOptions;
use crate::kernel::descriptors::{Purpose, shortage, spared};
use crate::model::{Endpoint, InetEndpoint, SocketKind, UnixAddress, UnixEndpoint};
use options::Baseline;
use path::Dress;
use socket2::Socket;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use unix::PathHold;

/// What a socket does with clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketState {
    /// Bound; clients are refused, datagrams refused or dropped.
    Reserved,
    /// Connections and datagrams are taken into the queue.
    Listening,
}

/// How a reserved datagram socket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    Refusing,
    Dropping,
}

/// One bound socket of a listener.
#[derive(Debug)]
pub struct ListenerSocket {
    socket: Socket,
    endpoint: Endpoint,
    options: SocketOptions,
    /// The options before those that could not all be set.
    unset: Option<SocketOptions>,
    /// The state that it was brought into.
    expected: SocketState,
    closed: Closed,
    /// Whether `SO_REUSEPORT` is on: that of TCP always, that of UDP where the endpoint has, or had, several sockets.
    shared: bool,
    /// The options that it had when it was made, once somebody may have had it: see
    /// [`ListenerSocket::remember_options`].
    baseline: Option<Baseline>,
    /// Whether somebody else may have it.
    given: bool,
    /// Whether it was made here, and nobody else has ever had it: then it is as it was made.
    untouched: bool,
    /// How often another socket was put in its place.
    replacements: u32,
    /// Of the internet families, `SO_PROTOCOL`, where it is known already: nothing can change it.
    protocol: Option<i32>,
    /// [`ListenerSocket::settle`] has yet to be called.
    unsettled: bool,
    /// What was configured and it did not have when it was adopted.
    was_unmet: Vec<Unmet>,
    /// Of unix sockets with a path.
    path: Option<PathHold>,
    /// Asked for when somebody wants to know it: ten thousand sockets are bound, and few are ever looked at.
    inode: OnceLock<Option<u64>>,
}

impl ListenerSocket {
    /// Binds an endpoint; the socket is reserved then.
    pub fn bind(endpoint: &Endpoint, options: &SocketOptions) -> Result<Self, BindError> {
        let none_left = || BindError::TooMany { endpoint: endpoint.clone() };
        let (socket, path) = match endpoint {
            Endpoint::Inet(inet) => {
                let socket = Self::bind_inet(inet, options)?;
                (spared(socket, Purpose::Anybody).map_err(|_| none_left())?, None)
            }
            // It would leave its path behind.
            Endpoint::Unix(_) if shortage().is_some() => return Err(none_left()),
            Endpoint::Unix(unix) => unix::reserve(unix, options)?,
        };
        let mut held = Self::new(socket, endpoint, options, path);
        held.untouched = true;
        held.protocol = held.made_with();
        held.make_links();
        Ok(held)
    }

    /// Whether a TCP socket may listen there already; one of our user's would let us in beside it.
    #[must_use]
    pub fn has_company(endpoint: &Endpoint, options: &SocketOptions) -> bool {
        matches!(endpoint, Endpoint::Inet(inet)
            if inet.kind == SocketKind::Stream && tcp::is_listened_on(inet, options))
    }

    /// Whether any socket has the address, be it closed to clients: an old one that is still stored would let us in
    /// beside it, or lose its path to us.
    #[must_use]
    pub fn is_in_use(endpoint: &Endpoint, options: &SocketOptions) -> bool {
        match endpoint {
            Endpoint::Inet(inet) if inet.kind == SocketKind::Datagram => datagram::is_bound(inet, options),
            Endpoint::Inet(inet) => tcp::is_listened_on(inet, options),
            Endpoint::Unix(UnixEndpoint { address: UnixAddress::Path(path), .. }) => {
                path.symlink_metadata().is_ok()
            }
            // A name is one socket's.
            Endpoint::Unix(_) => false,
        }
    }

    fn bind_inet(inet: &InetEndpoint, options: &SocketOptions) -> Result<Socket, BindError> {
        let bound = match inet.kind {
            SocketKind::Stream | SocketKind::SeqPacket => tcp::reserve(inet, options),
            SocketKind::Datagram => datagram::reserve(inet, options, false).and_then(|socket| {
                if options.shards == 1 {
                    datagram::refuse_udp(&socket, inet)?;
                }
                Ok(socket)
            }),
        };
        bound.map_err(|error| BindError::of_inet(inet, error))
    }

    fn new(socket: Socket, endpoint: &Endpoint, options: &SocketOptions, path: Option<PathHold>) -> Self {
        Self {
            socket,
            endpoint: endpoint.clone(),
            options: options.clone(),
            unset: None,
            expected: SocketState::Reserved,
            closed: Closed::Refusing,
            shared: is_shared(endpoint, options),
            baseline: None,
            given: false,
            untouched: false,
            replacements: 0,
            protocol: None,
            unsettled: false,
            was_unmet: Vec::new(),
            path,
            inode: OnceLock::new(),
        }
    }

    /// Remembers the values of socket options as they are now, unless it has before: they are what [`Self::inspect`]
    /// compares with from now on.
    ///
    /// To be called before anybody gets the socket. It takes some twenty system calls, which a socket that nobody ever
    /// gets can do without.
    pub fn remember_options(&mut self) {
        self.given = true;
        self.untouched = false;
        if self.baseline.is_none() {
            self.baseline = Some(Baseline::of(&self.socket, options::Where::from(&self.endpoint)));
        }
    }

    /// The same for a socket of ours that came back from the descriptor store and that somebody has had meanwhile: what
    /// that one set is not what it is to be.
    pub fn remember_options_as_made(&mut self) {
        self.given = true;
        self.untouched = false;
        if self.baseline.is_none() {
            let place = options::Where::from(&self.endpoint);
            self.baseline = Some(Baseline::as_made(&self.socket, place, &self.options));
        }
    }

    /// Takes a socket from the descriptor store, or one that was inherited, after asking the kernel whether it
    /// is bound to `endpoint`. It stays in the state that it is in.
    ///
    /// Values of socket options that were set before count as intended.
    pub fn adopt(fd: OwnedFd, endpoint: &Endpoint, options: &SocketOptions) -> Result<Self, AdoptError> {
        let unusable = |source| AdoptError::Unusable { wanted: endpoint.clone(), source };
        let found = endpoint_of(fd.as_fd()).map_err(unusable)?;
        if found != *endpoint {
            return Err(AdoptError::Mismatch { wanted: endpoint.clone(), found: Box::new(found) });
        }
        Self::adopt_known(fd, endpoint, options)
    }

    /// The same where the kernel has been asked already what it is bound to, and that is `endpoint`.
    pub fn adopt_known(
        fd: OwnedFd,
        endpoint: &Endpoint,
        options: &SocketOptions,
    ) -> Result<Self, AdoptError> {
        let unusable = |source| AdoptError::Unusable { wanted: endpoint.clone(), source };
        let socket = Socket::from(fd);
        let mut held = Self::new(socket, endpoint, options, None);
        held.take_up().map_err(unusable)?;
        Ok(held)
    }

    /// The same for a socket that comes back from the descriptor store, of which the kernel has been asked everything
    /// already. That of a TCP socket which only a holder can have changed waits for [`Self::settle`].
    pub fn adopt_stored(
        fd: OwnedFd,
        identity: &Identity,
        options: &SocketOptions,
    ) -> Result<Self, AdoptError> {
        let Identity { endpoint, listens, protocol } = identity;
        if !matches!(endpoint, Endpoint::Inet(inet) if inet.kind == SocketKind::Stream) {
            return Self::adopt_known(fd, endpoint, options);
        }
        let mut held = Self::new(Socket::from(fd), endpoint, options, None);
        held.expected = if *listens { SocketState::Listening } else { SocketState::Reserved };
        held.protocol = *protocol;
        held.unsettled = true;
        held.tune_adopted();
        Ok(held)
    }

    /// Puts the options right that keep other users from the port, where that was put off. To be called before
    /// somebody gets the socket, and soon for one that somebody has or had: of one that nobody had while no daemon was
    /// there they are as the last daemon left them.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.unsettled) {
            // What fails is found, and put right, by `inspect` and `mend`.
            let _ = self.set_sharing();
        }
    }

    fn set_sharing(&self) -> io::Result<()> {
        let Endpoint::Inet(inet) = &self.endpoint else { return Ok(()) };
        let stream = inet.kind == SocketKind::Stream;
        self.socket.set_reuse_port(self.shared)?;
        self.socket.set_reuse_address(stream && self.expected == SocketState::Listening)
    }

    /// Brings what an adopted socket has of our own making into order.
    fn take_up(&mut self) -> io::Result<()> {
        // Not O_NONBLOCK: it is shared with a holder that may be living, and whose accept() would wait for
        // ever without it (MariaDB's does). What a holder left behind is mended when it is gone.
        if let Endpoint::Unix(unix) = &self.endpoint
            && let UnixAddress::Path(path) = &unix.address
        {
            self.path = Some(PathHold::restore(path, unix.kind)?);
        }
        self.expected = self.state()?;
        self.set_sharing()?;
        self.tune_adopted();
        self.make_links();
        Ok(())
    }

    /// Lets clients in.
    pub fn listen(&mut self) -> Result<(), SocketError> {
        let failed = SocketError::kernel("listen on", &self.endpoint);
        match &self.endpoint {
            Endpoint::Inet(inet) if inet.kind == SocketKind::Stream => {
                let bound = self.untouched && self.expected == SocketState::Reserved;
                tcp::listen(&self.socket, inet, &self.options, bound)
            }
            Endpoint::Unix(unix) if unix.kind.takes_connections() => {
                let backlog = i32::try_from(self.options.backlog).unwrap_or(i32::MAX);
                match &mut self.path {
                    Some(hold) if hold.refuses() => {
                        unix::reset_queued(&self.socket).and_then(|()| hold.serve())
                    }
                    _ => Ok(()),
                }
                .and_then(|()| self.socket.listen(backlog))
            }
            Endpoint::Inet(_) | Endpoint::Unix(_) => datagram::open_up(&self.socket),
        }
        .map_err(failed)?;
        self.expected = SocketState::Listening;
        Ok(())
    }

    /// Refuses clients; what was queued is reset. Connections that were accepted live on.
    ///
    /// A wildcard UDP socket cannot refuse and drops instead, and so does one of several of an address.
    pub fn refuse(&mut self) -> Result<(), SocketError> {
        let failed = SocketError::kernel("stop listening on", &self.endpoint);
        match &self.endpoint {
            Endpoint::Inet(inet) if inet.kind == SocketKind::Stream => tcp::refuse(&self.socket),
            Endpoint::Inet(_) if self.shared => datagram::drop_all(&self.socket),
            Endpoint::Inet(inet) => datagram::refuse_udp(&self.socket, inet),
            Endpoint::Unix(unix) if unix.kind.takes_connections() => return self.refuse_unix_stream(),
            Endpoint::Unix(_) => datagram::refuse_unix(&self.socket),
        }
        .map_err(failed)?;
        self.expected = SocketState::Reserved;
        self.closed = Closed::Refusing;
        Ok(())
    }

    fn refuse_unix_stream(&mut self) -> Result<(), SocketError> {
        let failed = SocketError::kernel("stop listening on", &self.endpoint);
        let listening = self.socket.is_listener().unwrap_or(true);
        if listening {
            let dress = self.dress();
            let Some(hold) = &mut self.path else {
                return Err(SocketError::CannotRefuse { endpoint: self.endpoint.clone() });
            };
            dress
                .map_err(|error| io::Error::other(error.to_string()))
                .and_then(|dress| hold.refuse(&dress))
                .and_then(|()| unix::reset_queued(&self.socket))
                .map_err(failed)?;
        }
        self.expected = SocketState::Reserved;
        Ok(())
    }

    /// Takes other options, as far as a bound socket can: all but `protocol`, of which [`Self::unmet`] tells. What
    /// cannot be set is tried again the next time, whatever the options are then.
    pub fn adjust(&mut self, options: &SocketOptions) -> Result<(), SocketError> {
        if self.options == *options && self.unset.is_none() {
            return Ok(());
        }
        let current = std::mem::replace(&mut self.options, options.clone());
        let before = self.unset.take().unwrap_or(current);
        let adjusted = self.follow(&before);
        if adjusted.is_err() {
            self.unset = Some(before);
        }
        adjusted
    }

    /// Changes what is not as it was before.
    fn follow(&mut self, before: &SocketOptions) -> Result<(), SocketError> {
        let failed = SocketError::kernel("change the options of", &self.endpoint);
        let queue = self.options.backlog != before.backlog
            && self.expected == SocketState::Listening
            && self.endpoint.kind().takes_connections();
        self.share().map_err(SocketError::kernel("share the port of", &self.endpoint))?;
        let dressed = match &self.endpoint {
            Endpoint::Unix(UnixEndpoint { address: UnixAddress::Path(path), .. }) => self
                .dress()
                .map_err(|error| io::Error::other(error.to_string()))
                .and_then(|dress| dress.put_on(path).map(drop)),
            _ => Ok(()),
        };
        // listen(2) on a socket that listens changes its backlog and nothing else.
        let backlog = i32::try_from(self.options.backlog).unwrap_or(i32::MAX);
        let queued = dressed.and_then(|()| if queue { self.socket.listen(backlog) } else { Ok(()) });
        // One that fails keeps none of the others back.
        let tuned = self.retune(before);
        queued.map_err(failed).and(tuned)
    }

    /// Throws datagrams away without an answer to their senders.
    pub fn drop_datagrams(&mut self) -> Result<(), SocketError> {
        if self.endpoint.kind().takes_connections() {
            return Err(SocketError::NotDatagrams { endpoint: self.endpoint.clone() });
        }
        datagram::drop_all(&self.socket).map_err(SocketError::kernel("drop datagrams of", &self.endpoint))?;
        self.expected = SocketState::Reserved;
        self.closed = Closed::Dropping;
        Ok(())
    }

    /// The state that the kernel says it is in.
    pub fn state(&self) -> io::Result<SocketState> {
        let closed = match &self.endpoint {
            Endpoint::Inet(inet) if inet.kind == SocketKind::Datagram => {
                datagram::is_closed(&self.socket, Some(inet))?
            }
            Endpoint::Unix(unix) if unix.kind == SocketKind::Datagram => {
                datagram::is_closed(&self.socket, None)?
            }
            Endpoint::Inet(_) | Endpoint::Unix(_) => {
                !self.socket.is_listener()? || self.path.as_ref().is_some_and(PathHold::refuses)
            }
        };
        Ok(if closed { SocketState::Reserved } else { SocketState::Listening })
    }

    /// Everything that is not as the broker left it.
    #[must_use]
    pub fn inspect(&self) -> Vec<Spoilt> {
        inspect::inspect(self)
    }

    /// Puts right what [`Self::inspect`] finds, and brings the socket into the state `want`.
    ///
    /// To be called when no holder is left: one that lives can spoil it again at once, and would miss the options
    /// that it set for itself. See [`Self::listen_again`].
    pub fn mend(&mut self, want: SocketState) -> Result<Mended, SocketError> {
        self.remember_options();
        mend::mend(self, want)
    }

    /// Makes it listen again where somebody stopped it, while its holder may be living: options that the holder
    /// set for itself stay as they are, O_NONBLOCK among them, without which its accept(2) could wait for ever.
    pub fn listen_again(&mut self) -> Result<Mended, SocketError> {
        self.remember_options();
        mend::listen_again(self)
    }

    /// Ends the hold: removes the path of a unix socket, where it is still this one's, and closes.
    pub fn release(mut self) -> io::Result<()> {
        let links = self.remove_links(&self.options.symlinks);
        match &mut self.path {
            Some(hold) => links.and(hold.remove()),
            None => Ok(()),
        }
    }

    /// What was configured and it did not have when it was adopted; see [`Self::unmet`] for what it still has not.
    #[must_use]
    pub fn was_unmet(&self) -> &[Unmet] {
        &self.was_unmet
    }

    /// The state that it was brought into, or found in when it was adopted.
    #[must_use]
    pub fn expected_state(&self) -> SocketState {
        self.expected
    }

    /// Whether somebody else may have it, and can change it: see [`Self::remember_options`].
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.given
    }

    /// The inode number of the socket, by which `ss` and /proc/*/fd know it.
    pub fn inode(&self) -> io::Result<u64> {
        let inode = *self.inode.get_or_init(|| inode(&self.socket));
        inode.ok_or_else(|| io::Error::other("the kernel does not tell its inode"))
    }

    /// How often another socket was put in its place: a change says that there is a new one.
    #[must_use]
    pub fn replacements(&self) -> u32 {
        self.replacements
    }

    /// What is configured for it.
    #[must_use]
    pub fn options(&self) -> &SocketOptions {
        &self.options
    }

    /// Where it is bound.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Brings it into a state, a reserved datagram socket in the way it was closed last.
    fn bring_to(&mut self, want: SocketState) -> Result<(), SocketError> {
        match (want, self.closed) {
            (SocketState::Listening, _) => self.listen(),
            (SocketState::Reserved, Closed::Dropping) => self.drop_datagrams(),
            (SocketState::Reserved, Closed::Refusing) => self.refuse(),
        }
    }

    fn dress(&self) -> Result<Dress, BindError> {
        Dress::of(&self.endpoint, &self.options)
    }

    /// Puts a new socket in the old one's place, and returns the old one.
    fn replace_socket(&mut self, new: Socket) -> Socket {
        self.expected = SocketState::Reserved;
        self.inode = OnceLock::new();
        self.protocol = None;
        self.replacements = self.replacements.wrapping_add(1);
        std::mem::replace(&mut self.socket, new)
    }
}

/// The inode number of a socket; `None` where the kernel does not tell, which it does for every socket.
#[must_use]
pub fn inode(socket: impl AsFd) -> Option<u64> {
    nix::sys::stat::fstat(socket).map(|status| status.st_ino).ok()
}

/// Whether a socket of this endpoint has `SO_REUSEPORT`.
fn is_shared(endpoint: &Endpoint, options: &SocketOptions) -> bool {
    match endpoint {
        Endpoint::Inet(inet) => inet.kind == SocketKind::Stream || options.shards > 1,
        Endpoint::Unix(_) => false,
    }
}

impl AsFd for ListenerSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for ListenerSocket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}
