//! Sessions: leases that hang on one lifeline.
//!
//! The lifeline is a descriptor of which the broker holds the other side. When its last copy closes, all leases of
//! the session end: also when this process is killed, and also when it only forgets. A session has no connection to
//! the broker that could break: its number stays valid while the daemon is away and when it is back.
//!
//! **Forks.** The descriptor is close-on-exec. A child that is forked and runs no other program has a copy of it, so
//! the leases of a killed parent live on until such a child ends too. That is on purpose: the child has copies of the
//! connections. A program that wants a child to keep the leases passes [`Session::lifeline`] on.

use crate::connect::{Broker, manager};
use crate::error::Error;
use crate::lease::{Block, Lease, Target, read_blocks, read_sources};
use crate::wire::{self, WantedRow};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use zbus::wire::{OwnedObjectPath, Variant};

/// The state of a lease that has not ended, in a row of ListLeases.
const HELD: &str = "held";

/// Keeps leases alive as long as it (or a copy of its [`lifeline`](Session::lifeline)) lives.
///
/// ```no_run
/// # async fn lease() -> Result<(), Box<dyn std::error::Error>> {
/// use portbroker_client::{Broker, Protocol, Target};
/// let session = Broker::new().open_session().await?;
/// let target =
///     Target { pool: "egress".into(), protocol: Protocol::Tcp, destination: Some("192.0.2.7:443".parse()?) };
/// let lease = session.pairs(&target, 3).await?;
/// // Bind each of lease.items with SO_REUSEADDR, and connect it to the destination.
/// session.release(lease.id).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Session {
    broker: Broker,
    path: OwnedObjectPath,
    id: u64,
    lifeline: OwnedFd,
}

impl Broker {
    /// Opens a session.
    pub async fn open_session(&self) -> Result<Session, Error> {
        let (path, lifeline) = self
            .ask(|connection| {
                Box::pin(async move {
                    let manager = manager(&connection).await?;
                    manager.open_session(HashMap::new()).await
                })
            })
            .await?;
        let id = path.as_str().strip_prefix(wire::SESSION_PREFIX).and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| Error::Reply(format!("{path} is no session")))?;
        Ok(Session { broker: self.clone(), path, id, lifeline: lifeline.into() })
    }
}

impl Session {
    /// Its number, as `portbroker list leases` has it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The descriptor that the leases hang on.
    #[must_use]
    pub fn lifeline(&self) -> BorrowedFd<'_> {
        self.lifeline.as_fd()
    }

    /// The same questions for who can wait: where others have the ports, until there are some, at most so long (and at
    /// most ten minutes). Callers take turns: of units, and of users where there is none, each has one request met
    /// after the other's.
    ///
    /// A daemon that is being restarted meanwhile is waited for, too, and asked again for the rest of the time. When the
    /// time is up the answer is [`Error::Exhausted`]. Who drops the future waits no more.
    ///
    /// ```no_run
    /// # async fn lease(session: portbroker_client::Session, target: portbroker_client::Target)
    /// #     -> Result<(), Box<dyn std::error::Error>> {
    /// let lease = session.waiting(std::time::Duration::from_secs(10)).pairs(&target, 3).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn waiting(&self, wait: Duration) -> Waiting<'_> {
        let most = Duration::from_millis(u64::from(wire::MAX_WAIT));
        Waiting { session: self, wait: wait.min(most), ahead: false }
    }

    /// Leases source addresses with ports, `count` of them, all or nothing.
    pub async fn pairs(&self, target: &Target, count: u32) -> Result<Lease<SocketAddr>, Error> {
        self.waiting(Duration::ZERO).pairs(target, count).await
    }

    /// Leases `ports` ports in ranges, or where there are not so many, as many as there are, if these are at least
    /// `least`.
    pub async fn blocks(&self, target: &Target, ports: u32, least: u32) -> Result<Lease<Block>, Error> {
        self.waiting(Duration::ZERO).blocks(target, ports, least).await
    }

    /// Leases ready sockets, `count` of them (at most 16 over the system bus and 253 over the private socket), all or
    /// nothing. TCP sockets are bound, UDP sockets bound and connected where there is a destination.
    pub async fn sockets(&self, target: &Target, count: u32) -> Result<Lease<(SocketAddr, OwnedFd)>, Error> {
        self.waiting(Duration::ZERO).sockets(target, count).await
    }

    /// For what of this session's leases others lack ports.
    pub(crate) async fn wanted(&self) -> Result<Vec<WantedRow>, Error> {
        self.broker
            .ask(|connection| {
                Box::pin(async move {
                    let manager = manager(&connection).await?;
                    manager.list_wanted(&self.path).await
                })
            })
            .await
    }

    /// Ends a lease. Its ports cool: they are leased again when the kernel shows that they are free.
    pub async fn release(&self, lease: u64) -> Result<(), Error> {
        self.broker
            .ask(|connection| {
                Box::pin(async move {
                    let manager = manager(&connection).await?;
                    manager.release(lease).await
                })
            })
            .await
    }

    /// The numbers of the leases that the broker has for this session. (One that was given in an answer that was lost,
    /// because the broker was killed just then, is among them.)
    pub async fn leases(&self) -> Result<Vec<u64>, Error> {
        let (mut numbers, mut after) = (Vec::new(), 0);
        loop {
            let rows = self
                .broker
                .ask(|connection| {
                    Box::pin(async move {
                        let manager = manager(&connection).await?;
                        manager.list_leases(after, wire::MAX_LEASE_ROWS).await
                    })
                })
                .await?;
            // Of rows that do not go on nothing more can be asked.
            match rows.iter().map(|row| row.0).max() {
                Some(last) if last > after => after = last,
                _ => return Ok(numbers),
            }
            numbers.extend(rows.iter().filter(|row| row.1 == self.id && row.7 == HELD).map(|row| row.0));
        }
    }

    /// Gives a lease back whose reply cannot be used.
    async fn or_release<T>(&self, lease: u64, reply: Result<T, Error>) -> Result<T, Error> {
        if reply.is_err() {
            // The error that matters is that of the reply; the lease ends with the session in any case.
            let _ = self.release(lease).await;
        }
        reply
    }
}

/// Questions for leases that may wait for their answer; see [`Session::waiting`].
#[derive(Debug, Clone, Copy)]
pub struct Waiting<'a> {
    session: &'a Session,
    wait: Duration,
    ahead: bool,
}

impl Waiting<'_> {
    /// The ports are for later: where little is left, fewer are wanted.
    pub(crate) fn ahead(self) -> Self {
        Self { ahead: true, ..self }
    }

    /// The options of a question that is asked now and was to be answered by then.
    fn options(&self, until: Instant) -> HashMap<&'static str, Variant<'static>> {
        let left = until.saturating_duration_since(Instant::now());
        let left = u32::try_from(left.as_millis()).unwrap_or(wire::MAX_WAIT).min(wire::MAX_WAIT);
        let mut options = HashMap::new();
        if left > 0 {
            options.insert(wire::OPTION_WAIT, Variant::from(left));
        }
        if self.ahead {
            options.insert(wire::OPTION_AHEAD, Variant::from(true));
        }
        options
    }

    /// As [`Session::pairs`].
    pub async fn pairs(&self, target: &Target, count: u32) -> Result<Lease<SocketAddr>, Error> {
        let (session, until) = (self.session, Instant::now() + self.wait);
        let destination = target.destination_text();
        let (pool, protocol, destination) =
            (target.pool.as_str(), target.protocol.as_str(), destination.as_str());
        let (id, rows) = session
            .broker
            .ask_waiting(self.wait, |connection| {
                let options = self.options(until);
                Box::pin(async move {
                    let manager = manager(&connection).await?;
                    manager.lease_pairs(&session.path, pool, protocol, destination, count, options).await
                })
            })
            .await?;
        let rows = read_sources(target, count, rows, |(address, port)| (address, port, ()));
        let items = session.or_release(id, rows).await?;
        Ok(Lease { id, items: items.into_iter().map(|(source, ())| source).collect() })
    }

    /// As [`Session::blocks`]. Where several callers wait, each gets a part of what there is, if its `least` is no more.
    pub async fn blocks(&self, target: &Target, ports: u32, least: u32) -> Result<Lease<Block>, Error> {
        let (session, until) = (self.session, Instant::now() + self.wait);
        let destination = target.destination_text();
        let (pool, protocol, destination) =
            (target.pool.as_str(), target.protocol.as_str(), destination.as_str());
        let (id, rows) = session
            .broker
            .ask_waiting(self.wait, |connection| {
                let mut options = self.options(until);
                options.insert(wire::OPTION_MINIMUM, Variant::from(least));
                Box::pin(async move {
                    let manager = manager(&connection).await?;
                    manager.lease_blocks(&session.path, pool, protocol, destination, ports, options).await
                })
            })
            .await?;
        let items = session.or_release(id, read_blocks(target, least.min(ports), ports, &rows)).await?;
        Ok(Lease { id, items })
    }

    /// As [`Session::sockets`].
    pub async fn sockets(&self, target: &Target, count: u32) -> Result<Lease<(SocketAddr, OwnedFd)>, Error> {
        let (session, until) = (self.session, Instant::now() + self.wait);
        let destination = target.destination_text();
        let (pool, protocol, destination) =
            (target.pool.as_str(), target.protocol.as_str(), destination.as_str());
        let (id, rows) = session
            .broker
            .ask_waiting(self.wait, |connection| {
                let options = self.options(until);
                Box::pin(async move {
                    let manager = manager(&connection).await?;
                    manager.lease_sockets(&session.path, pool, protocol, destination, count, options).await
                })
            })
            .await?;
        let rows = read_sources(target, count, rows, |row| row);
        let items = session.or_release(id, rows).await?;
        Ok(Lease { id, items: items.into_iter().map(|(source, socket)| (source, socket.into())).collect() })
    }
}
