//! What can be asked of the outbound half: plain values, and the part of the broker's handle that carries them.

use super::super::command::{Command, Handle, Refusal, Stopping};
use super::{ForecastView, LeaseView, PoolView};
use crate::leases::{Kind, Lease};
use crate::model::{LeaseId, Protocol, SessionId};
use crate::policy::Caller;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::sync::oneshot;

/// A request for source ports.
#[derive(Debug)]
pub struct LeaseRequest {
    /// Who asks.
    pub caller: Caller,
    /// The session that the lease is to hang on.
    pub session: SessionId,
    /// The pool's name.
    pub pool: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Whom the ports are for; `None`: anybody.
    pub destination: Option<SocketAddr>,
    /// What the ports are to come as.
    pub kind: Kind,
    /// How many, at least one and at most [`portbroker_client::wire::MAX_PORTS_OF_A_LEASE`].
    pub ports: u32,
    /// With how many the caller is content.
    pub minimum: u32,
    /// How long it waits for them.
    pub wait: Duration,
    /// They are for later: where little is left, it wants little of that.
    pub ahead: bool,
}

/// A lease whose ports come as sockets.
#[derive(Debug)]
pub struct LeasedSockets {
    /// Its number.
    pub id: LeaseId,
    /// Its sockets, by what they are bound to.
    pub sockets: Vec<(SocketAddr, OwnedFd)>,
}

/// What there is of a pool for one destination, where that is not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// Addresses in use times ports.
    pub capacity: u32,
    /// Leased.
    pub used: u32,
    /// Given back, and not known to be free.
    pub cooling: u32,
    /// Free, and fewer than were asked for, or others'.
    pub free: u32,
    /// Of the free ones: others', by their minimum or because they wait.
    pub kept: u32,
    /// When the next one is expected; `None`: nobody knows.
    pub next: Option<Duration>,
}

pub(in super::super) type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// What the outbound half is asked.
pub(in super::super) enum Ask {
    Session(Caller, Answer<(SessionId, OwnedFd)>),
    Lease(LeaseRequest, Answer<Lease>),
    Sockets(LeaseRequest, Answer<LeasedSockets>),
    Release(Caller, LeaseId, Answer<()>),
    Leases(Caller, LeaseId, usize, oneshot::Sender<Vec<LeaseView>>),
    Drain(Caller, IpAddr, Drain, Answer<()>),
    Wanted(Caller, SessionId, Answer<Vec<(String, String, String)>>),
    /// Somebody who waited is gone.
    Gone,
    Show(String, oneshot::Sender<Option<PoolView>>),
    Forecasts(Caller, usize, oneshot::Sender<Vec<ForecastView>>),
}

/// Whether an address is to be drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Nothing more of it is leased.
    Begin,
    /// It is in use again.
    Undo,
}

impl Handle {
    async fn ask_outbound<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Stopping> {
        self.ask(|reply| Command::Outbound(ask(reply))).await
    }

    /// A session, and the writing end of its lifeline.
    pub async fn open_session(
        &self,
        caller: Caller,
    ) -> Result<Result<(SessionId, OwnedFd), Refusal>, Stopping> {
        self.ask_outbound(|reply| Ask::Session(caller, reply)).await
    }

    /// Ports that the caller binds itself. Dropped before it is done, the request waits no more.
    pub async fn lease(&self, request: LeaseRequest) -> Result<Result<Lease, Refusal>, Stopping> {
        let waits = Waits::begin(self, &request);
        let answer = self.ask_outbound(|reply| Ask::Lease(request, reply)).await;
        waits.end();
        answer
    }

    /// Ports as sockets; the broker keeps no copies.
    pub async fn lease_sockets(
        &self,
        request: LeaseRequest,
    ) -> Result<Result<LeasedSockets, Refusal>, Stopping> {
        let waits = Waits::begin(self, &request);
        let answer = self.ask_outbound(|reply| Ask::Sockets(request, reply)).await;
        waits.end();
        answer
    }

    /// Ends a lease.
    pub async fn release(&self, caller: Caller, lease: LeaseId) -> Result<Result<(), Refusal>, Stopping> {
        self.ask_outbound(|reply| Ask::Release(caller, lease, reply)).await
    }

    /// The leases after a number that the caller may see, by number.
    pub async fn leases(
        &self,
        caller: Caller,
        after: LeaseId,
        most: usize,
    ) -> Result<Vec<LeaseView>, Stopping> {
        self.ask_outbound(|reply| Ask::Leases(caller, after, most, reply)).await
    }

    /// For what of a session's leases others lack ports: pool, protocol, destination.
    pub async fn wanted(
        &self,
        caller: Caller,
        session: SessionId,
    ) -> Result<Result<Vec<(String, String, String)>, Refusal>, Stopping> {
        self.ask_outbound(|reply| Ask::Wanted(caller, session, reply)).await
    }

    /// Begins to drain a source address, or takes it back into use.
    pub async fn drain(
        &self,
        caller: Caller,
        address: IpAddr,
        drain: Drain,
    ) -> Result<Result<(), Refusal>, Stopping> {
        self.ask_outbound(|reply| Ask::Drain(caller, address, drain, reply)).await
    }

    /// The forecasts that a caller may see, the one of which the greatest part is taken first.
    pub async fn forecasts(&self, caller: Caller, most: usize) -> Result<Vec<ForecastView>, Stopping> {
        self.ask_outbound(|reply| Ask::Forecasts(caller, most, reply)).await
    }

    /// One pool.
    pub async fn show_pool(&self, name: String) -> Result<Option<PoolView>, Stopping> {
        self.ask_outbound(|reply| Ask::Show(name, reply)).await
    }
}

/// A request that may wait for long. Dropped in between, the broker is told, so that nobody waits for one who is gone.
struct Waits(Option<Handle>);

impl Waits {
    fn begin(broker: &Handle, request: &LeaseRequest) -> Self {
        Self((!request.wait.is_zero()).then(|| broker.clone()))
    }

    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if let Some(broker) = &self.0 {
            // Where there is no room, the broker sees it when it answers what is there.
            broker.queue.push_now(broker.turn, Command::Outbound(Ask::Gone));
        }
    }
}
