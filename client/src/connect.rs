//! Talking to the broker: finding it, asking, and asking again while it is being restarted.
//!
//! The private socket comes first, then the system bus; a place that was named is the only one tried. Each
//! question has a connection of its own: the broker follows its holders by their processes, not by their
//! connections, so there is nothing to keep. (A [`Connector`](crate::Connector), which asks often, keeps one.) No round trip is made but the question itself (the handshake is
//! pipelined, proxies cache and introspect nothing), for `portbroker exec` has milliseconds.

use crate::error::{Error, Failure};
use crate::inspect::{Condition, LearnedPort, ListenerStatus, Queue, Status};
use crate::kept::Kept;
use crate::wire::{self, ErrorName, ListenerProxy, ManagerProxy, ObjectManagerProxy};
use std::collections::HashMap;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use zbus::Connection;
use zbus::export::serde::Serialize;
use zbus::fdo::Error as Standard;
use zbus::proxy::{CacheProperties, MethodFlags};
use zbus::wire::{DynamicDeserialize, DynamicType, OwnedVariant, Variant};

/// The environment variable that names the broker's socket.
pub const SOCKET_VARIABLE: &str = "PORTBROKER_SOCKET";

/// How long a question waits unless told otherwise: a restart of the daemon, with room to spare.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);

/// A daemon that is killed drops the connections that it had accepted; the next one waits in the queue of
/// portbroker.socket. So a few tries bridge a restart, and many would only hide a peer that is no broker.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// Who holds a listener from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Holder {
    /// This process: the listener is idle again when it ends.
    #[default]
    Process,
    /// The systemd unit of this process: the listener is idle again when the unit stops.
    Unit,
}

impl Holder {
    fn as_str(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Unit => "unit",
        }
    }
}

/// The broker, as something to ask. Making one does nothing yet.
#[derive(Debug, Clone)]
pub struct Broker {
    socket: Option<PathBuf>,
    timeout: Duration,
    /// Whether the user may be asked for a password.
    interactive: bool,
    /// How many questions, of all clones, may have been answered and the answer was lost.
    lost: Arc<AtomicU64>,
    /// The connection that is kept, if one is.
    kept: Option<Arc<Kept>>,
}

impl Default for Broker {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = zbus::Result<T>> + Send + 'a>>;

impl Broker {
    /// The broker of this host: at `PORTBROKER_SOCKET` where that is set, else at the private socket
    /// [`wire::SOCKET_PATH`], else on the system bus.
    #[must_use]
    pub fn new() -> Self {
        let socket = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        Self { socket, timeout: DEFAULT_TIMEOUT, interactive: false, lost: Arc::default(), kept: None }
    }

    /// The broker at this socket, and nowhere else.
    #[must_use]
    pub fn socket_path(self, path: impl Into<PathBuf>) -> Self {
        Self { socket: Some(path.into()), ..self }
    }

    /// How long each question may take in all, connecting and asking again included;
    /// [`DEFAULT_TIMEOUT`] unless set. No reply in that time is [`Error::NotReachable`].
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Whether polkit may have the user asked for a password where what is asked takes more than the user may; each
    /// such question may then take two minutes more. Off unless set.
    #[must_use]
    pub fn interactive(self, interactive: bool) -> Self {
        Self { interactive, ..self }
    }

    /// Sockets of the named listeners, in the order asked for, all sockets of a name together.
    ///
    /// The descriptors are close-on-exec and the caller's; stream sockets are listening. All or nothing.
    pub async fn acquire(
        &self,
        names: &[impl AsRef<str> + Sync],
        holder: Holder,
    ) -> Result<Vec<(String, OwnedFd)>, Error> {
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let names = names.as_slice();
        let reply = self
            .ask(|connection| {
                Box::pin(async move {
                    let manager = manager(&connection).await?;
                    let options = HashMap::from([(wire::OPTION_HOLDER, Variant::from(holder.as_str()))]);
                    manager.acquire_listeners(names, options).await
                })
            })
            .await?;
        let reply: Vec<(String, OwnedFd)> =
            reply.into_iter().map(|(name, socket)| (name, socket.into())).collect();
        check_order(names, &reply)?;
        Ok(reply)
    }

    /// What this process's systemd unit has been handed for its own descriptor store since the boot.
    pub async fn deposits(&self) -> Result<Vec<String>, Error> {
        self.ask(|connection| {
            Box::pin(async move {
                let manager = manager(&connection).await?;
                manager.list_deposits().await
            })
        })
        .await
    }

    /// Has the broker read its configuration again. On [`ErrorName::InvalidConfiguration`] the old one goes on,
    /// and the message has all faults. For root, and whom polkit lets.
    pub async fn reload(&self) -> Result<(), Error> {
        self.administer("Reload", &()).await
    }

    /// The ports that are protected because services listen on them, by port.
    pub async fn learned(&self) -> Result<Vec<LearnedPort>, Error> {
        let rows = self
            .ask(|connection| {
                Box::pin(async move {
                    let manager = manager(&connection).await?;
                    manager.list_learned().await
                })
            })
            .await?;
        Ok(rows.into_iter().map(LearnedPort::from).collect())
    }

    /// Forgets a learned port, until its unit is seen listening on it in two new lives.
    pub async fn forget(&self, port: u16) -> Result<(), Error> {
        self.ask(|connection| {
            Box::pin(async move {
                let manager = manager(&connection).await?;
                manager.forget_port(port).await
            })
        })
        .await
    }

    /// New sockets for a listener, beside the old ones until these are drained; only root may.
    pub async fn renew(&self, name: &str) -> Result<(), Error> {
        self.ask(|connection| {
            Box::pin(async move {
                let manager = manager(&connection).await?;
                manager.renew_listener(name).await
            })
        })
        .await
    }

    /// What waits in the sockets of a listener, by their inodes. Of a broker of an earlier version nothing is known.
    pub async fn queues(&self, name: &str) -> Result<HashMap<u64, Queue>, Error> {
        let path = wire::listener_path(name);
        let path = path.as_str();
        let rows = self
            .ask(|connection| {
                Box::pin(async move {
                    let listener = ListenerProxy::builder(&connection).path(path);
                    listener.cache_properties(CacheProperties::No).build().await?.queues().await
                })
            })
            .await;
        let rows = match rows {
            Err(error) if is_standard(&error, |standard| matches!(standard, Standard::UnknownMethod(_))) => {
                Vec::new()
            }
            rows => rows.map_err(|error| no_such_object(error, name))?,
        };
        Ok(rows.into_iter().map(|(inode, facts)| (inode, Queue::read(&facts))).collect())
    }

    /// How the broker is.
    pub async fn status(&self) -> Result<Status, Error> {
        let (manager, objects) = self
            .ask(|connection| {
                Box::pin(async move {
                    let manager = get_all(&connection, wire::MANAGER_PATH, wire::MANAGER_INTERFACE).await?;
                    Ok((manager, managed_objects(&connection).await?))
                })
            })
            .await?;
        Status::read(manager, objects)
    }

    /// The same without listeners and pools.
    pub async fn condition(&self) -> Result<Condition, Error> {
        let manager = self
            .ask(|connection| {
                Box::pin(
                    async move { get_all(&connection, wire::MANAGER_PATH, wire::MANAGER_INTERFACE).await },
                )
            })
            .await?;
        Condition::read(manager)
    }

    /// All listeners, by name.
    pub async fn listeners(&self) -> Result<Vec<ListenerStatus>, Error> {
        let objects =
            self.ask(|connection| Box::pin(async move { managed_objects(&connection).await })).await?;
        ListenerStatus::read_all(objects)
    }

    /// One listener.
    pub async fn listener(&self, name: &str) -> Result<ListenerStatus, Error> {
        let path = wire::listener_path(name);
        let path = path.as_str();
        let properties = self
            .ask(|connection| {
                Box::pin(async move { get_all(&connection, path, wire::LISTENER_INTERFACE).await })
            })
            .await
            .map_err(|error| no_such_object(error, name))?;
        ListenerStatus::read(properties)
    }

    /// How long a question may take.
    pub(crate) fn patience(&self) -> Duration {
        self.timeout
    }

    /// How many answers may have been lost until now.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The same, with one connection for all questions. They are all to be asked within one runtime.
    pub(crate) fn keeping(&self) -> (Self, Arc<Kept>) {
        let kept = Arc::new(Kept::default());
        (Self { kept: Some(Arc::clone(&kept)), ..self.clone() }, kept)
    }

    /// Asks, and asks again where the daemon goes away in between, until the time is up.
    pub(crate) async fn ask<'a, T>(
        &self,
        question: impl Fn(Connection) -> Answer<'a, T>,
    ) -> Result<T, Error> {
        self.ask_waiting(Duration::ZERO, question).await
    }

    /// Calls a member that administers: where that takes more than the user may, polkit may have the user asked.
    pub(crate) async fn administer<T>(
        &self,
        member: &'static str,
        body: &(impl Serialize + DynamicType + Sync),
    ) -> Result<T, Error>
    where
        T: for<'d> DynamicDeserialize<'d> + Send,
    {
        let (flags, longer) = if self.interactive {
            (MethodFlags::ALLOW_INTERACTIVE_AUTH, Duration::from_secs(wire::MAX_AUTHENTICATION))
        } else {
            (MethodFlags::empty(), Duration::ZERO)
        };
        self.ask_within(longer + self.timeout, Duration::ZERO, |connection| {
            Box::pin(async move {
                let manager = manager(&connection).await?;
                let answer = manager.inner().call_with_flags(member, flags, body).await?;
                answer.ok_or(zbus::Error::InvalidReply)
            })
        })
        .await
    }

    /// The same for a question whose answer may take so much longer, in which a daemon that is away is waited for, too.
    pub(crate) async fn ask_waiting<'a, T>(
        &self,
        wait: Duration,
        question: impl Fn(Connection) -> Answer<'a, T>,
    ) -> Result<T, Error> {
        self.ask_within(wait + self.timeout, wait, question).await
    }

    /// Asks for at most `time`, and waits for a daemon that is away for `wait`.
    async fn ask_within<'a, T>(
        &self,
        time: Duration,
        wait: Duration,
        question: impl Fn(Connection) -> Answer<'a, T>,
    ) -> Result<T, Error> {
        let (patient, deadline) = (Instant::now() + wait, Instant::now() + time);
        let (mut tried, mut looked_again) = (0, false);
        loop {
            let attempt = self.attempt(&question);
            let failure = match tokio::time::timeout_at(deadline, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    Failure::Absent(format!("no reply within {time:?}"))
                }
            };
            if matches!(failure, Failure::Lost(_)) {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
            tried += 1;
            match failure {
                Failure::Final(error) => return Err(error),
                _ if Instant::now() < patient => tokio::time::sleep(PAUSE * tried.min(TRIES)).await,
                Failure::Lost(_) if tried < TRIES => tokio::time::sleep(PAUSE * tried).await,
                // portbroker.socket is started anew just now, most likely.
                Failure::Absent(_)
                    if !looked_again && Instant::now() + PAUSE < deadline && self.was_there() =>
                {
                    looked_again = true;
                    tokio::time::sleep(PAUSE).await;
                }
                Failure::Lost(tried) | Failure::Absent(tried) => return Err(Error::NotReachable { tried }),
            }
        }
    }

    fn path(&self) -> &Path {
        self.socket.as_deref().unwrap_or(Path::new(wire::SOCKET_PATH))
    }

    /// Whether a broker has run here since the boot: its directory stays.
    fn was_there(&self) -> bool {
        self.path().parent().is_some_and(Path::exists)
    }

    async fn attempt<'a, T>(&self, question: &impl Fn(Connection) -> Answer<'a, T>) -> Result<T, Failure> {
        let path = self.path();
        let private = match self.ask_privately(path, question).await {
            Err(Unasked::Connect(failure)) => failure,
            Err(Unasked::Call(failure)) => return Err(failure),
            Ok(answer) => return Ok(answer),
        };
        match private {
            // The private socket is not there or not for us: the system bus.
            Failure::Absent(_) | Failure::Final(Error::Forbidden { .. }) if self.socket.is_none() => {
                ask_on_the_bus(question, private).await
            }
            failure => Err(failure),
        }
    }

    /// Asks at the private socket.
    async fn ask_privately<'a, T>(
        &self,
        path: &Path,
        question: &impl Fn(Connection) -> Answer<'a, T>,
    ) -> Result<T, Unasked> {
        let place = path.display().to_string();
        let failed = |error| Failure::of_call(&place, error);
        let Some(kept) = &self.kept else {
            let connection = peer(path, &place).await.map_err(Unasked::Connect)?;
            return question(connection).await.map_err(|error| Unasked::Call(failed(error)));
        };
        let connect = async || peer(path, &place).await.map_err(Unasked::Connect);
        let mut asking = kept.get(connect).await?;
        let mut again = asking.again;
        loop {
            let failure = match question(asking.connection.clone()).await.map_err(failed) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if matches!(failure, Failure::Lost(_)) {
                asking.lost();
                // A daemon that was restarted since has never heard of this question, most likely.
                if std::mem::take(&mut again) {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    asking = kept.get(connect).await?;
                    continue;
                }
            }
            return Err(Unasked::Call(failure));
        }
    }
}

/// What came of asking at the private socket.
enum Unasked {
    /// There is no connection.
    Connect(Failure),
    Call(Failure),
}

async fn ask_on_the_bus<'a, T>(
    question: &impl Fn(Connection) -> Answer<'a, T>,
    private: Failure,
) -> Result<T, Failure> {
    let bus = match zbus::connection::Builder::system().build().await {
        Ok(connection) => question(connection).await,
        Err(error) => Err(error),
    };
    bus.map_err(|error| match (Failure::of_call("the system bus", error), private) {
        (Failure::Absent(bus), Failure::Absent(socket)) => Failure::Absent(format!("{socket}; {bus}")),
        // A socket that may not be used says more than a bus that is not there.
        (Failure::Absent(_), private) => private,
        (failure, _) => failure,
    })
}

async fn peer(path: &Path, place: &str) -> Result<Connection, Failure> {
    let stream = tokio::net::UnixStream::connect(path).await.and_then(tokio::net::UnixStream::into_std);
    let stream = stream.map_err(|error| Failure::of_connect(place, &error))?;
    let connection = zbus::connection::Builder::unix_stream(stream).p2p().build().await;
    connection.map_err(|error| Failure::of_call(place, error))
}

pub(crate) async fn manager(connection: &Connection) -> zbus::Result<ManagerProxy<'static>> {
    ManagerProxy::builder(connection).cache_properties(CacheProperties::No).build().await
}

pub(crate) async fn managed_objects(connection: &Connection) -> zbus::Result<wire::ManagedObjects> {
    let objects = ObjectManagerProxy::builder(connection).cache_properties(CacheProperties::No);
    objects.build().await?.get_managed_objects().await
}

/// The properties of an object. Not by the proxies, whose getters are a round trip for each property.
pub(crate) async fn get_all(
    connection: &Connection,
    path: &str,
    interface: &str,
) -> zbus::Result<HashMap<String, OwnedVariant>> {
    let properties = Some("org.freedesktop.DBus.Properties");
    let reply =
        connection.call_method(Some(wire::BUS_NAME), path, properties, "GetAll", &(interface,)).await?;
    reply.body().deserialize()
}

/// A listener that does not exist has no object, which the standard has its own error for.
fn no_such_object(error: Error, name: &str) -> Error {
    if is_standard(&error, |standard| matches!(standard, Standard::UnknownObject(_))) {
        Error::Refused { name: ErrorName::NoSuchListener, message: format!("no listener is named {name:?}") }
    } else {
        error
    }
}

/// Whether it is one of D-Bus's own errors.
pub(crate) fn is_standard(error: &Error, which: impl Fn(&Standard) -> bool) -> bool {
    matches!(error, Error::Protocol { source, .. } if matches!(source.as_ref(),
        zbus::Error::FDO(standard) if which(standard)))
}

/// Whoever gets sockets uses them by name and place, so a reply in another order must not pass.
fn check_order(asked: &[&str], reply: &[(String, OwnedFd)]) -> Result<(), Error> {
    let mut runs: Vec<&str> = reply.iter().map(|(name, _)| name.as_str()).collect();
    runs.dedup();
    let mut wanted = asked.to_vec();
    wanted.dedup();
    if runs == wanted { Ok(()) } else { Err(Error::Reply(format!("asked for {asked:?}, got {runs:?}"))) }
}
