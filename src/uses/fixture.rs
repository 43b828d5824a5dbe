//! Sockets for tests.

use crate::model::{Protocol, Socket, SocketState};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub(super) const SOCKET: Socket = Socket {
    protocol: Protocol::Tcp,
    state: SocketState::Bound,
    local: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1),
    remote: None,
    v6only: false,
    inode: 0,
    uid: 0,
    cgroup: 0,
    cookie: 1,
    device: 0,
    expires: None,
};

pub(super) fn waits(local: &str, state: SocketState, inode: u32) -> Socket {
    Socket { local: local.parse().unwrap(), state, inode, ..SOCKET }
}

pub(super) fn between(local: &str, remote: &str, state: SocketState, inode: u32) -> Socket {
    Socket { remote: Some(remote.parse().unwrap()), ..waits(local, state, inode) }
}

pub(super) fn any_socket() -> impl Strategy<Value = Socket> {
    let ends = (
        prop_oneof![
            Just("0.0.0.0:9"),
            Just("127.0.0.1:9"),
            Just("127.0.0.2:9"),
            Just("[::]:9"),
            Just("[::1]:9")
        ],
        prop_oneof![Just(443u16), Just(40_000)],
    );
    let state = prop_oneof![
        Just(SocketState::Listen),
        Just(SocketState::Bound),
        Just(SocketState::Established),
        Just(SocketState::TimeWait),
        Just(SocketState::SynSent),
        Just(SocketState::FinWait2),
    ];
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    (ends, state, protocol, 0u32..8, any::<bool>()).prop_map(
        |((local, remote), state, protocol, inode, v6only)| {
            let local: SocketAddr = local.parse().unwrap();
            let is_connected = !matches!(state, SocketState::Listen | SocketState::Bound);
            let state = match (protocol, is_connected) {
                (Protocol::Udp, true) => SocketState::Established,
                (Protocol::Udp, false) => SocketState::Bound,
                _ => state,
            };
            let inode = if state == SocketState::TimeWait { 0 } else { inode };
            let remote = is_connected.then_some(SocketAddr::new(local.ip(), remote));
            Socket { protocol, state, local, remote, inode, v6only, ..SOCKET }
        },
    )
}
