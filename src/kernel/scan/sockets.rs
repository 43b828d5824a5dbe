//! The sockets of one network namespace: that of the calling thread.

use super::super::inet_diag::{ANY_STATE, Answer, Diag, Question, only_port};
use crate::model::{Protocol, Socket, SocketState};
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, TCP_CLOSE, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2,
    TCP_LAST_ACK, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT, TCP_TIME_WAIT,
};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// A connection that has not been accepted and is not complete (`TCP_NEW_SYN_RECV`).
const NEW_SYN_RECV: u8 = 12;
/// The timer of TIME_WAIT, and of a FIN_WAIT2 that no process has any more.
const TIME_WAIT_TIMER: u8 = 3;

/// Which sockets are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Those that have this port as their own; the kernel leaves the others out. `None`: all.
    pub port: Option<u16>,
    /// In which states.
    pub states: States,
}

/// Which states are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum States {
    /// Any. Sockets that are bound and nothing else are told by Linux 6.8 and newer.
    Any,
    /// TCP: those that listen. UDP: those that have no peer.
    Waiting,
}

/// Tells each of them, in no order.
///
/// 50,000 sockets take the kernel about 60 ms; a port alone about 2 ms for each namespace, whose length is that of
/// the kernel's table of connections.
pub fn sockets(wanted: Wanted, mut each: impl FnMut(Socket)) -> io::Result<()> {
    let Wanted { protocol, port, states } = wanted;
    let states = match (states, protocol) {
        (States::Any, _) => ANY_STATE,
        // Of these alone, the kernel leaves its table of connections alone.
        (States::Waiting, Protocol::Tcp) => 1 << TCP_LISTEN,
        (States::Waiting, Protocol::Udp) => 1 << TCP_CLOSE,
    };
    let local = port.map(|port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
    let filter = port.map(only_port).unwrap_or_default();
    let mut diag = Diag::new()?;
    let mut ask = |question: Question<'_>| {
        diag.dump(&Question { local, filter: &filter, ..question }, |answer| {
            each(socket(answer, protocol));
            Ok(())
        })
    };
    match protocol {
        Protocol::Tcp => ask(Question::tcp(states)),
        Protocol::Udp => [AF_INET, AF_INET6]
            .into_iter()
            .try_for_each(|family| ask(Question::all(family, Protocol::Udp, states))),
    }
}

fn socket(answer: Answer<'_>, protocol: Protocol) -> Socket {
    let remote = Some(answer.remote()).filter(|remote| remote.port() != 0);
    let expires = answer.timer() == TIME_WAIT_TIMER;
    Socket {
        protocol,
        state: state(answer.state(), protocol, remote.is_some()),
        local: answer.local(),
        remote,
        v6only: answer.v6only(),
        inode: answer.inode(),
        uid: answer.uid(),
        cgroup: answer.cgroup(),
        cookie: answer.cookie(),
        device: answer.device(),
        expires: expires.then(|| Duration::from_millis(answer.expires().into())),
    }
}

fn state(number: u8, protocol: Protocol, is_connected: bool) -> SocketState {
    match (number, protocol) {
        // UDP has no states of its own.
        (_, Protocol::Udp) if is_connected => SocketState::Established,
        (_, Protocol::Udp) => SocketState::Bound,
        (TCP_ESTABLISHED, _) => SocketState::Established,
        (TCP_SYN_SENT, _) => SocketState::SynSent,
        (TCP_SYN_RECV | NEW_SYN_RECV, _) => SocketState::SynReceived,
        (TCP_FIN_WAIT1, _) => SocketState::FinWait1,
        (TCP_FIN_WAIT2, _) => SocketState::FinWait2,
        (TCP_TIME_WAIT, _) => SocketState::TimeWait,
        (TCP_CLOSE_WAIT, _) => SocketState::CloseWait,
        (TCP_LAST_ACK, _) => SocketState::LastAck,
        (TCP_CLOSING, _) => SocketState::Closing,
        (TCP_LISTEN, _) => SocketState::Listen,
        // TCP_CLOSE, and BOUND_INACTIVE.
        _ => SocketState::Bound,
    }
}
