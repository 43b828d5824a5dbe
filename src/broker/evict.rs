//! Closes what keeps a service from having a port, for an administrator.
//!
//! Only in the network namespace of the daemon, and never a socket that the daemon itself has. The kernel's table of
//! connections is gone through, so a thread does it and others do not wait.

use super::Broker;
use super::authority::administrator;
use super::command::{Command, Handle, Refusal, Stopping};
use crate::kernel::reserved_ports::ReservedPorts;
use crate::kernel::scan::{self, States, Wanted};
use crate::kernel::tuple_close::{CloseError, Closer};
use crate::model::{PortSet, Protocol, Socket};
use crate::policy::Caller;
use crate::uses::{Question, Reach, Surroundings, Verdict, Why, verdicts};
use portbroker_client::wire::MAX_EVICTED;
use std::collections::HashSet;
use std::io;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long its owner has to close a socket that was closed for it.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// Sockets that a line of the log names.
const NAMED: usize = 5;

/// What is to be closed.
#[derive(Debug, Clone, Copy)]
pub struct Eviction {
    /// The port, of TCP, UDP or both.
    pub question: Question,
    /// Whether services are, too.
    pub reach: Reach,
}

/// A socket of the port, and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    /// The socket, as it was.
    pub socket: Socket,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is closed, and the port with it.
    Closed,
    /// It stays: it is in nobody's way, or serves.
    Left(Why),
    /// It was closed, and its process still has the port.
    StillBound,
    /// Only its process can close it.
    OutOfReach,
    /// No socket can be closed here.
    Unsupported,
    /// No socket may be.
    NotPermitted,
    /// This one could not be.
    Failed,
}

impl Outcome {
    /// The word that the interface has for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Left(Why::Serves) => "refused",
            Self::Left(_) => "kept",
            _ => "failed",
        }
    }

    /// Why it was not closed; empty where it was.
    #[must_use]
    pub fn reason(self) -> String {
        match self {
            Self::Closed => String::new(),
            Self::Left(why) => why.text().to_owned(),
            Self::StillBound => {
                "it is closed, and its process still has the port: stop that process".to_owned()
            }
            Self::OutOfReach => "only its process can close it: stop that process".to_owned(),
            Self::Unsupported => CloseError::Unsupported.to_string(),
            Self::NotPermitted => CloseError::NotPermitted.to_string(),
            Self::Failed => "the kernel did not close it: see the broker's log".to_owned(),
        }
    }
}

pub(super) type Reply = oneshot::Sender<Result<Vec<Evicted>, Refusal>>;

impl Handle {
    /// Closes what is in the way on a port, at most [`MAX_EVICTED`] sockets at a time.
    pub async fn evict(
        &self,
        caller: Caller,
        what: Eviction,
    ) -> Result<Result<Vec<Evicted>, Refusal>, Stopping> {
        self.ask(|reply| Command::Evict(caller, what, reply)).await
    }
}

impl Broker {
    pub(super) fn evict(&self, caller: &Caller, what: Eviction, reply: Reply) {
        let action = format!("close what is on port {}", what.question);
        if let Err(refusal) = administrator(caller, &self.gate, "close sockets of others", &action) {
            return drop(reply.send(Err(refusal)));
        }
        let (uid, pid) = (caller.uid, caller.pid);
        tokio::task::spawn_blocking(move || {
            let evicted = close_all(what);
            if let Ok(evicted) = &evicted {
                tell(what, evicted, uid, pid);
            }
            let cannot = |error| {
                Refusal::CannotEvict(format!(
                    "cannot ask the kernel what is on port {}: {error}",
                    what.question
                ))
            };
            drop(reply.send(evicted.map_err(cannot)));
        });
    }
}

fn on_port(what: Eviction) -> io::Result<Vec<Socket>> {
    let mut found = Vec::new();
    for protocol in what.question.protocols() {
        let wanted = Wanted { protocol, port: Some(what.question.port), states: States::Any };
        scan::sockets(wanted, |socket| found.push(socket))?;
    }
    Ok(found)
}

fn close_all(what: Eviction) -> io::Result<Vec<Evicted>> {
    let (ours, sockets) = (scan::own_sockets()?, on_port(what)?);
    let mut listening = PortSet::default();
    let waiting = Wanted { protocol: Protocol::Tcp, port: None, states: States::Waiting };
    scan::sockets(waiting, |socket| {
        listening.insert(socket.local.port());
    })?;
    let range = ReservedPorts::default().ephemeral_range().ok();
    let around = Surroundings::new(&sockets, &listening, range);
    let mut all: Vec<(Socket, Verdict)> =
        sockets.iter().copied().zip(verdicts(&sockets, &around, &ours, what.reach)).collect();
    // Of very many, first those that are to go.
    all.sort_by_key(|(_, verdict)| *verdict != Verdict::Close);
    all.truncate(MAX_EVICTED);
    let mut kernel = Closer::new()?;
    let outcome = |(socket, verdict): (Socket, Verdict)| {
        let outcome = match verdict {
            Verdict::Leave(why) => Outcome::Left(why),
            Verdict::Close => close(&mut kernel, &socket),
        };
        Evicted { socket, outcome }
    };
    let mut evicted: Vec<Evicted> = all.into_iter().map(outcome).collect();
    look_again(what, &mut evicted)?;
    Ok(evicted)
}

fn close(kernel: &mut Closer, socket: &Socket) -> Outcome {
    match kernel.close_socket(socket) {
        Ok(true) => Outcome::Closed,
        // It may be gone: that is looked at again.
        Ok(false) => Outcome::OutOfReach,
        Err(CloseError::Unsupported) => Outcome::Unsupported,
        Err(CloseError::NotPermitted) => Outcome::NotPermitted,
        Err(error @ (CloseError::Failed(..) | CloseError::FailedSocket(..))) => {
            tracing::warn!(event = "evicted", %error, "{error}");
            Outcome::Failed
        }
    }
}

/// What the kernel says of them afterwards: a socket that was bound by its process keeps its port until that closes it.
fn look_again(what: Eviction, evicted: &mut [Evicted]) -> io::Result<()> {
    let is_open = |outcome| matches!(outcome, Outcome::Closed | Outcome::OutOfReach);
    let mut left = HashSet::new();
    for look in 0..LOOKS {
        let cookies: HashSet<u64> = on_port(what)?.iter().map(|socket| socket.cookie).collect();
        let of_ours = evicted.iter().filter(|one| is_open(one.outcome)).map(|one| one.socket.cookie);
        left = of_ours.filter(|cookie| cookies.contains(cookie)).collect();
        if left.is_empty() {
            break;
        }
        if look + 1 < LOOKS {
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }
    for one in evicted.iter_mut().filter(|one| is_open(one.outcome)) {
        let is_left = left.contains(&one.socket.cookie);
        one.outcome = match (one.outcome, is_left) {
            (_, false) => Outcome::Closed,
            (Outcome::Closed, true) => Outcome::StillBound,
            (outcome, true) => outcome,
        };
    }
    Ok(())
}

fn tell(what: Eviction, evicted: &[Evicted], uid: u32, pid: i32) {
    let Eviction { question, reach } = what;
    let closed: Vec<&Evicted> = evicted.iter().filter(|one| one.outcome == Outcome::Closed).collect();
    let named: Vec<String> = closed.iter().take(NAMED).map(|one| shown(&one.socket)).collect();
    let (count, named) = (closed.len(), named.join(", "));
    let services = reach == Reach::Everything;
    tracing::warn!(
        event = "evicted",
        uid,
        pid,
        port = %question,
        closed = count,
        services,
        "closed {count} sockets of port {question} for pid {pid} of user {uid}: {named}"
    );
}

fn shown(socket: &Socket) -> String {
    let remote = socket.remote.map_or_else(String::new, |remote| format!(" to {remote}"));
    let Socket { protocol, local, state, uid, .. } = socket;
    format!("{protocol} {local}{remote} ({}, user {uid})", state.as_str())
}
