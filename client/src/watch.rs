//! Looking on: one connection over which the broker says what changes, and is asked what it does not say.
//!
//! What changes with every lease or connection is not announced (addresses of pools, queues): it is asked for, by calls
//! that cost the broker little. [`Watch`] asks and [`Changes`] hears; both are to be driven at once, for an answer waits
//! behind what was announced before it.

use crate::connect::{Answer, Broker, get_all, managed_objects, manager};
use crate::error::{Error, Failure};
use crate::inspect::{ListenerStatus, Properties, Queue, Status, take};
use crate::pools::{Forecast, PoolStatus};
use crate::wire::{self, EventRow};
use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, select};
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zbus::message::{Message, Type};
use zbus::{Connection, MatchRule, MessageStream};

/// The questions of one connection.
#[derive(Debug, Clone)]
pub struct Watch {
    connection: Connection,
    timeout: Duration,
}

/// What the broker says on it.
pub struct Changes {
    messages: BoxStream<'static, zbus::Result<Message>>,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Changes")
    }
}

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A listener is new, or not as it was.
    Listener(Box<ListenerStatus>),
    /// A listener is no longer there.
    ListenerGone(String),
    /// A pool is new, or not as it was: ask for it.
    Pool(String),
    /// A pool is no longer there.
    PoolGone(String),
    /// Somebody lacks ports of a pool.
    Wanted(String),
    /// The ports of a pool for some destination will be used up soon.
    ExhaustionAhead(String),
    /// The broker as a whole: `running` or `degraded`, and what is not as it was configured.
    Manager {
        /// `running` or `degraded`.
        state: String,
        /// A sentence each.
        faults: Vec<String>,
    },
}

/// What waits in one socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketQueue {
    /// Its listener.
    pub listener: String,
    /// Its inode.
    pub inode: u64,
    /// What waits in it.
    pub queue: Queue,
}

/// Something that happened, in the words of the broker's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// From 1 on, of each daemon.
    pub number: u64,
    /// When.
    pub time: SystemTime,
    /// `error`, `warning` or `info`.
    pub level: String,
    /// The log's word for it, such as `hand-over`; empty where it has none.
    pub event: String,
    /// In words.
    pub message: String,
}

impl From<EventRow> for Event {
    fn from((number, time, level, event, message): EventRow) -> Self {
        let time = UNIX_EPOCH.checked_add(Duration::from_micros(time)).unwrap_or(UNIX_EPOCH);
        Self { number, time, level, event, message }
    }
}

impl Broker {
    /// Begins to look on. It ends with the daemon, or with the connection: [`Changes::next`] says so.
    pub async fn watch(&self) -> Result<(Watch, Changes), Error> {
        let (connection, messages) = self
            .ask(|connection| {
                Box::pin(async move {
                    let messages = announcements(&connection).await?;
                    // On a bus that the broker has not joined nobody answers.
                    manager(&connection).await?.version().await?;
                    Ok((connection, messages))
                })
            })
            .await?;
        Ok((Watch { connection, timeout: self.patience() }, Changes { messages }))
    }
}

/// What the broker announces; on a bus also that it goes away.
async fn announcements(connection: &Connection) -> zbus::Result<BoxStream<'static, zbus::Result<Message>>> {
    if !connection.is_bus() {
        return Ok(MessageStream::from(connection).boxed());
    }
    let rule = || MatchRule::builder().msg_type(Type::Signal);
    let ours = rule().sender(wire::BUS_NAME).path_namespace(wire::MANAGER_PATH).build()?;
    let owner = rule().sender("org.freedesktop.DBus").member("NameOwnerChanged").add_arg(wire::BUS_NAME);
    let ours = MessageStream::for_match_rule(ours, connection, None).await?;
    let owner = MessageStream::for_match_rule(owner.build()?, connection, None).await?;
    Ok(select(ours, owner).boxed())
}

impl Watch {
    async fn ask<T>(&self, question: impl FnOnce(Connection) -> Answer<'static, T>) -> Result<T, Error> {
        let place = if self.connection.is_bus() { "the system bus" } else { "the broker's socket" };
        match tokio::time::timeout(self.timeout, question(self.connection.clone())).await {
            Ok(answer) => answer.map_err(|error| match Failure::of_call(place, error) {
                Failure::Final(error) => error,
                Failure::Absent(tried) | Failure::Lost(tried) => Error::NotReachable { tried },
            }),
            Err(_) => Err(Error::NotReachable { tried: format!("no reply within {:?}", self.timeout) }),
        }
    }

    /// How the broker is, with all that it has.
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

    /// One listener; `None` where it is no longer there. What is announced of one that a process was handed has that
    /// process's name as it was then.
    pub async fn listener(&self, name: &str) -> Result<Option<ListenerStatus>, Error> {
        let properties = self.properties(wire::listener_path(name), wire::LISTENER_INTERFACE).await?;
        properties.map(ListenerStatus::read).transpose()
    }

    /// One pool; `None` where it is no longer there.
    pub async fn pool(&self, name: &str) -> Result<Option<PoolStatus>, Error> {
        let properties = self.properties(wire::pool_path(name), wire::POOL_INTERFACE).await?;
        properties.map(PoolStatus::read).transpose()
    }

    async fn properties(&self, path: String, interface: &'static str) -> Result<Option<Properties>, Error> {
        let properties = self
            .ask(|connection| Box::pin(async move { get_all(&connection, &path, interface).await }))
            .await;
        match properties {
            Ok(properties) => Ok(Some(properties)),
            Err(error @ Error::NotReachable { .. }) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// What waits in any socket of any listener. Those in which nothing waits, and in which everything has found room, are
    /// left out.
    pub async fn queues(&self) -> Result<Vec<SocketQueue>, Error> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let from = after.clone();
            let (next, rows) = self
                .ask(|connection| {
                    Box::pin(async move {
                        let most = wire::MAX_LISTENERS_LOOKED_AT;
                        manager(&connection).await?.list_queues(&from, most).await
                    })
                })
                .await?;
            all.extend(rows.into_iter().map(|(listener, inode, waiting, limit, overflows)| {
                let limit = (limit > 0).then_some(limit);
                let queue = Queue { waiting: Some(waiting), limit, overflows: Some(overflows) };
                SocketQueue { listener, inode, queue }
            }));
            // Names come in their order, so one that does not is an end too.
            if next <= after {
                return Ok(all);
            }
            after = next;
        }
    }

    /// How the pools' destinations stand, as [`Broker::forecasts`] has it.
    pub async fn forecasts(&self) -> Result<Vec<Forecast>, Error> {
        let rows = self
            .ask(|connection| {
                Box::pin(
                    async move { manager(&connection).await?.list_forecasts(wire::MAX_FORECAST_ROWS).await },
                )
            })
            .await?;
        Ok(rows.into_iter().map(Forecast::from).collect())
    }

    /// What happened last that has a number above `after`, by number. For root, as the log is: [`Error::Refused`] for
    /// others.
    pub async fn events(&self, after: u64) -> Result<Vec<Event>, Error> {
        let rows = self
            .ask(|connection| {
                Box::pin(
                    async move { manager(&connection).await?.list_events(after, wire::MAX_EVENT_ROWS).await },
                )
            })
            .await?;
        Ok(rows.into_iter().map(Event::from).collect())
    }
}

impl Changes {
    /// The next change; `None`: the daemon is gone, and a new watch is to be begun.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            let message = self.messages.next().await?.ok()?;
            if message.message_type() != Type::Signal {
                continue;
            }
            if message.header().member().is_some_and(|member| member.as_str() == "NameOwnerChanged") {
                return None;
            }
            // What this version cannot read is of a later one.
            if let Some(change) = read(&message) {
                return Some(change);
            }
        }
    }
}

fn read(message: &Message) -> Option<Change> {
    let header = message.header();
    let (path, body) = (header.path()?.as_str(), message.body());
    match header.member()?.as_str() {
        "PropertiesChanged" => {
            let (interface, properties, _): (String, Properties, Vec<String>) = body.deserialize().ok()?;
            changed(path, &interface, properties)
        }
        "InterfacesAdded" => {
            let (path, interfaces): (zbus::OwnedObjectPath, HashMap<String, Properties>) =
                body.deserialize().ok()?;
            interfaces.into_iter().find_map(|(interface, of)| changed(path.as_str(), &interface, of))
        }
        "InterfacesRemoved" => {
            let (path, _): (zbus::OwnedObjectPath, Vec<String>) = body.deserialize().ok()?;
            let listener = wire::listener_name(path.as_str()).map(Change::ListenerGone);
            listener.or_else(|| wire::pool_name(path.as_str()).map(Change::PoolGone))
        }
        "Wanted" => wire::pool_name(path).map(Change::Wanted),
        "ExhaustionAhead" => wire::pool_name(path).map(Change::ExhaustionAhead),
        _ => None,
    }
}

fn changed(path: &str, interface: &str, mut properties: Properties) -> Option<Change> {
    match interface {
        wire::LISTENER_INTERFACE => {
            ListenerStatus::read(properties).ok().map(|listener| Change::Listener(Box::new(listener)))
        }
        wire::POOL_INTERFACE => wire::pool_name(path).map(Change::Pool),
        wire::MANAGER_INTERFACE => Some(Change::Manager {
            state: take(&mut properties, "State").ok()?,
            faults: take(&mut properties, "Faults").ok()?,
        }),
        _ => None,
    }
}
