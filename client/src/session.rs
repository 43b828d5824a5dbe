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
use crate::wire;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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

    /// Leases source addresses with ports, `count` of them, all or nothing.
    pub async fn pairs(&self, target: &Target, count: u32) -> Result<Lease<SocketAddr>, Error> {
        let destination = target.destination_text();
        let (pool, protocol, destination) =
            (target.pool.as_str(), target.protocol.as_str(), destination.as_str());
        let (id, rows) = self
            .broker
            .ask(|connection| {
                Box::pin(async move {
                    let manager = manager(&connection).await?;
                    manager.lease_pairs(&self.path, pool, protocol, destination, count, HashMap::new()).await
                })
            })
            .await?;
        let rows = read_sources(target, count, rows, |(address, port)| (address, port, ()));
        let items = self.or_release(id, rows).await?;
        Ok(Lease { id, items: items.into_iter().map(|(source, ())| source).collect() })
    }

    /// Leases `ports` ports in ranges, or where there are not so many, as many as there are, if these are at least
    /// `least`.
    pub async fn blocks(&self, target: &Target, ports: u32, least: u32) -> Result<Lease<Block>, Error> {
        let destination = target.destination_text();
        let (pool, protocol, destination) =
            (target.pool.as_str(), target.protocol.as_str(), destination.as_str());
        let (id, rows) = self
            .broker
            .ask(|connection| {
                Box::pin(async move {
                    let manager = manager(&connection).await?;
                    let options = HashMap::from([(wire::OPTION_MINIMUM, Variant::from(least))]);
                    manager.lease_blocks(&self.path, pool, protocol, destination, ports, options).await
                })
            })
            .await?;
        let items = self.or_release(id, read_blocks(target, least.min(ports), ports, &rows)).await?;
        Ok(Lease { id, items })
    }

    /// Leases ready sockets, `count` of them (at most 16 over the system bus and 253 over the private socket), all or
    /// nothing. TCP sockets are bound, UDP sockets bound and connected where there is a destination.
    pub async fn sockets(&self, target: &Target, count: u32) -> Result<Lease<(SocketAddr, OwnedFd)>, Error> {
        let destination = target.destination_text();
        let (pool, protocol, destination) =
            (target.pool.as_str(), target.protocol.as_str(), destination.as_str());
        let (id, rows) = self
            .broker
            .ask(|connection| {
                Box::pin(async move {
                    let manager = manager(&connection).await?;
                    manager
                        .lease_sockets(&self.path, pool, protocol, destination, count, HashMap::new())
                        .await
                })
            })
            .await?;
        let rows = read_sources(target, count, rows, |row| row);
        let items = self.or_release(id, rows).await?;
        Ok(Lease { id, items: items.into_iter().map(|(source, socket)| (source, socket.into())).collect() })
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
