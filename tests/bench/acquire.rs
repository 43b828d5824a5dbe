//! One hand-over of a socket by a call to a daemon that knows the caller already.

use crate::bus::Bus;
use crate::daemon::Daemon;
use crate::measure::{Samples, Table, Target, in_microseconds, row};
use crate::place::{in_role, listener, on_one_cpu};
use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg};
use portbroker_client::wire::ManagerProxy;
use portbroker_client::{Broker, Holder};
use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Instant;
use zbus::Connection;
use zbus::proxy::CacheProperties;

/// The sides take turns, so that whatever else the machine does falls on all of them.
const ROUNDS: usize = 20;
const CALLS_IN_A_ROUND: usize = 150;
/// The first rounds only warm up.
const WARM_UP: usize = 2;

/// The most that a call should take.
const MICROSECONDS: f64 = 80.0;

pub(crate) fn measure() -> Table {
    on_one_cpu(|| {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::start(folder.path());
        let daemon = Daemon::start_with(&listener("web", 7801), |command| {
            command.env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address);
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(in_turns(&daemon, &bus))
    })
}

async fn in_turns(daemon: &Daemon, bus: &Bus) -> Table {
    let mut giver = Giver::start();
    let private = private(daemon).await;
    let bus = on_the_bus(bus).await;
    let broker = Broker::new().socket_path(daemon.socket());
    let [mut by_call, mut by_library, mut by_bus, mut bare] = [const { Samples::new() }; 4];
    for round in 0..WARM_UP + ROUNDS {
        for _ in 0..CALLS_IN_A_ROUND {
            let begin = Instant::now();
            giver.ask();
            sample(&mut bare, round, begin);
        }
        for (proxy, samples) in [(&private, &mut by_call), (&bus, &mut by_bus)] {
            for _ in 0..CALLS_IN_A_ROUND {
                let begin = Instant::now();
                drop(proxy.acquire_listeners(&["web"], HashMap::new()).await.unwrap());
                sample(samples, round, begin);
            }
        }
        for _ in 0..CALLS_IN_A_ROUND {
            let begin = Instant::now();
            drop(broker.acquire(&["web"], Holder::Process).await.unwrap());
            sample(&mut by_library, round, begin);
        }
    }
    Table {
        title: format!(
            "AcquireListeners, one socket, all processes on one CPU, {} calls each",
            ROUNDS * CALLS_IN_A_ROUND
        ),
        unit: "µs",
        ours: row("over the private socket, on a kept connection", by_call),
        target: Target { limit: MICROSECONDS, says: format!("at most {MICROSECONDS} µs") },
        others: vec![
            row("a bare SCM_RIGHTS exchange of two processes", bare),
            row("the same call through dbus-daemon", by_bus),
            row("by the client library, a connection each (ours too)", by_library),
        ],
    }
}

fn sample(samples: &mut Samples, round: usize, begin: Instant) {
    let took = begin.elapsed();
    if round >= WARM_UP {
        samples.push(in_microseconds(took));
    }
}

async fn private(daemon: &Daemon) -> ManagerProxy<'static> {
    let stream = UnixStream::connect(daemon.socket()).unwrap();
    let connection = zbus::connection::Builder::unix_stream(stream).p2p().build().await.unwrap();
    manager(&connection).await
}

async fn on_the_bus(bus: &Bus) -> ManagerProxy<'static> {
    let connection = zbus::connection::Builder::address(bus.address.as_str()).build().await.unwrap();
    let manager = manager(&connection).await;
    // The daemon joins the bus when it has started.
    let begin = Instant::now();
    while manager.acquire_listeners(&["web"], HashMap::new()).await.is_err() {
        assert!(begin.elapsed().as_secs() < 10, "the daemon does not join the bus");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    manager
}

async fn manager(connection: &Connection) -> ManagerProxy<'static> {
    ManagerProxy::builder(connection).cache_properties(CacheProperties::No).build().await.unwrap()
}

/// The role that answers each byte on standard input with a byte and a descriptor.
pub(crate) const GIVER: &str = "giver";

/// The whole life of [`GIVER`].
pub(crate) fn give() {
    let socket = std::io::stdin();
    let given = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let mut byte = [0];
    while nix::unistd::read(&socket, &mut byte).unwrap() == 1 {
        let descriptors = [given.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let data = [IoSlice::new(&byte)];
        sendmsg::<()>(socket.as_raw_fd(), &data, &rights, MsgFlags::empty(), None).unwrap();
    }
}

/// A process that is asked for descriptors; it ends with the connection.
struct Giver {
    child: Child,
    stream: UnixStream,
}

impl Giver {
    fn start() -> Self {
        let (stream, theirs) = UnixStream::pair().unwrap();
        let child = in_role(GIVER).stdin(Stdio::from(OwnedFd::from(theirs))).spawn().unwrap();
        Self { child, stream }
    }

    fn ask(&mut self) {
        self.stream.write_all(&[1]).unwrap();
        let [received] = descriptors(self.stream.as_raw_fd(), &mut [0]).1[..] else {
            panic!("one descriptor was expected");
        };
        nix::unistd::close(received).unwrap();
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// One message: how many bytes it has, and the descriptors that came with it, which the caller has to close.
pub(crate) fn descriptors(socket: RawFd, buffer: &mut [u8]) -> (usize, Vec<RawFd>) {
    let mut space = cmsg_space!([RawFd; 4]);
    let mut data = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket, &mut data, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let received = message.cmsgs().unwrap().flat_map(|message| match message {
        ControlMessageOwned::ScmRights(descriptors) => descriptors,
        _ => Vec::new(),
    });
    (message.bytes, received.collect())
}
