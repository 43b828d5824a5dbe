//! A client of the outbound half, as a program would be that knows the interface and no library.

use crate::daemon::Daemon;
use portbroker_client::wire::{
    ErrorName, LISTENER_INTERFACE, LeaseRow, ManagedObjects, ManagerProxy, PoolProxy, SocketRow, pool_path,
};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant};

/// A connection to the private socket.
pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    connection: Connection,
}

/// A session with its lifeline.
pub(crate) struct Session {
    pub(crate) path: OwnedObjectPath,
    pub(crate) lifeline: OwnedFd,
}

/// An error of the broker: its name, its text, and what it says besides.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) name: Option<ErrorName>,
    pub(crate) text: String,
    pub(crate) details: HashMap<String, OwnedVariant>,
}

impl From<zbus::Error> for Refused {
    fn from(error: zbus::Error) -> Self {
        let zbus::Error::MethodError(name, text, message) = error else { panic!("no answer: {error}") };
        let details = message.body().deserialize::<(String, HashMap<String, OwnedVariant>)>();
        let details = details.map(|(_, details)| details).unwrap_or_default();
        Self { name: ErrorName::from_full(name.as_str()), text: text.unwrap_or_default(), details }
    }
}

impl Refused {
    pub(crate) fn number(&self, key: &str) -> u64 {
        match &**self.details.get(key).unwrap_or_else(|| panic!("no {key} in {self:?}")) {
            Variant::U32(number) => u64::from(*number),
            Variant::U64(number) => *number,
            other => panic!("{key} is {other:?}"),
        }
    }
}

type Answer<T> = Result<T, Refused>;
/// Address, first and last port.
pub(crate) type Block = (IpAddr, u16, u16);

impl Client {
    pub(crate) fn of(daemon: &Daemon) -> Self {
        Self::at(&daemon.socket())
    }

    /// In the network namespace of this thread.
    pub(crate) fn at(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connection = runtime.block_on(async {
            let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
            zbus::connection::Builder::unix_stream(stream.into_std().unwrap()).p2p().build().await.unwrap()
        });
        Self { runtime, connection }
    }

    pub(crate) fn ask<T>(&self, ask: impl AsyncFnOnce(ManagerProxy<'_>) -> zbus::Result<T>) -> Answer<T> {
        self.runtime.block_on(async {
            let builder = ManagerProxy::builder(&self.connection).cache_properties(CacheProperties::No);
            let manager = builder.build().await.unwrap();
            // A daemon that does not answer is a fault, and not to be waited for.
            let answer = tokio::time::timeout(Duration::from_secs(20), ask(manager)).await;
            Ok(answer.expect("an answer within 20 seconds")?)
        })
    }

    pub(crate) fn pool<T>(
        &self,
        name: &str,
        ask: impl AsyncFnOnce(PoolProxy<'_>) -> zbus::Result<T>,
    ) -> Answer<T> {
        self.runtime.block_on(async {
            let builder = PoolProxy::builder(&self.connection).cache_properties(CacheProperties::No);
            let pool = builder.path(pool_path(name)).build().await.unwrap();
            Ok(ask(pool).await?)
        })
    }

    /// All objects with the properties of their interfaces.
    pub(crate) fn objects(&self) -> ManagedObjects {
        self.runtime.block_on(async {
            let path = portbroker_client::wire::MANAGER_PATH;
            let manager = "org.freedesktop.DBus.ObjectManager";
            let reply =
                self.connection.call_method(None::<&str>, path, Some(manager), "GetManagedObjects", &());
            reply.await.unwrap().body().deserialize().unwrap()
        })
    }

    pub(crate) fn open(&self) -> Session {
        self.try_open().unwrap()
    }

    pub(crate) fn try_open(&self) -> Answer<Session> {
        let (path, lifeline) = self.ask(async |manager| manager.open_session(HashMap::new()).await)?;
        Ok(Session { path, lifeline: lifeline.into() })
    }

    pub(crate) fn pairs(
        &self,
        session: &Session,
        pool: &str,
        protocol: &str,
        to: &str,
        count: u32,
    ) -> Answer<(u64, Vec<SocketAddr>)> {
        let options = HashMap::new();
        let path = session.path.as_ref();
        let (lease, pairs) =
            self.ask(async |manager| manager.lease_pairs(&path, pool, protocol, to, count, options).await)?;
        Ok((lease, pairs.into_iter().map(|(address, port)| source(&address, port)).collect()))
    }

    pub(crate) fn blocks(
        &self,
        session: &Session,
        pool: &str,
        to: &str,
        ports: u32,
        minimum: Option<u32>,
    ) -> Answer<(u64, Vec<Block>)> {
        let options = minimum.map(|minimum| ("minimum", Variant::U32(minimum))).into_iter().collect();
        let path = session.path.as_ref();
        let (lease, blocks) =
            self.ask(async |manager| manager.lease_blocks(&path, pool, "tcp", to, ports, options).await)?;
        Ok((
            lease,
            blocks
                .into_iter()
                .map(|(address, first, last)| (address.parse().unwrap(), first, last))
                .collect(),
        ))
    }

    pub(crate) fn sockets(
        &self,
        session: &Session,
        pool: &str,
        protocol: &str,
        to: &str,
        count: u32,
    ) -> Answer<(u64, Vec<(SocketAddr, OwnedFd)>)> {
        let path = session.path.as_ref();
        let (lease, sockets) = self.ask(async |manager| {
            manager.lease_sockets(&path, pool, protocol, to, count, HashMap::new()).await
        })?;
        Ok((
            lease,
            sockets.into_iter().map(|(address, port, fd)| (source(&address, port), fd.into())).collect(),
        ))
    }

    pub(crate) fn release(&self, lease: u64) -> Answer<()> {
        self.ask(async |manager| manager.release(lease).await)
    }

    pub(crate) fn leases(&self) -> Vec<LeaseRow> {
        self.ask(async |manager| manager.list_leases(0, u32::MAX).await).unwrap()
    }

    pub(crate) fn drain(&self, address: &str, undo: bool) -> Answer<()> {
        let options = undo.then_some(("undo", Variant::Bool(true))).into_iter().collect();
        self.ask(async |manager| manager.drain_address(address, options).await)
    }

    /// Leased and cooling ports of an address of a pool, and its state.
    pub(crate) fn address(&self, pool: &str, address: &str) -> (String, u32, u32) {
        let rows = self.pool(pool, async |pool| pool.addresses().await).unwrap();
        let row = rows.into_iter().find(|(of, ..)| of == address).unwrap_or_else(|| panic!("no {address}"));
        (row.1, row.2, row.3)
    }
}

/// The sockets of all listeners among these objects.
pub(crate) fn sockets_of(objects: &ManagedObjects) -> Vec<SocketRow> {
    let listeners = objects.values().filter_map(|interfaces| interfaces.get(LISTENER_INTERFACE));
    listeners.flat_map(|listener| Vec::<SocketRow>::try_from(listener["Sockets"].clone()).unwrap()).collect()
}

fn source(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Waits until something is so, not longer than half a minute.
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A TCP socket that is bound to a leased source, as a program makes it.
pub(crate) fn bound(source: SocketAddr) -> std::io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(source), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&source.into())?;
    Ok(socket)
}

/// The same, connected.
pub(crate) fn connected(source: SocketAddr, to: SocketAddr) -> std::io::Result<std::net::TcpStream> {
    let socket = bound(source)?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}
