//! Answers the calls of one connection, and sends it the signals.

use super::polkit::{self, Question, Subject};
use super::properties::{self, Properties};
use super::{Failure, introspect, outbound, shown};
use crate::broker::{Acquire, Handed, Handle, Held, ObjectKind, View};
use crate::kernel::holder::HolderClaim;
use crate::policy::{Administration, Caller};
use portbroker_client::wire::{
    ErrorName, LISTENER_INTERFACE, LISTENER_PREFIX, MANAGER_INTERFACE, MANAGER_PATH, MAX_EVENT_ROWS,
    MAX_LISTENERS_LOOKED_AT, OPTION_HOLDER, POOL_INTERFACE, POOL_PREFIX, listener_name, pool_name,
};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Semaphore;
use zbus::message::{Flags, Header, Message, Type};
use zbus::wire::Signature;
use zbus::{Connection, Fd, OwnedVariant, Variant};

const PEER: &str = "org.freedesktop.DBus.Peer";
pub(super) const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";
pub(super) const OBJECT_MANAGER: &str = "org.freedesktop.DBus.ObjectManager";

/// Who calls, found out only for the members that ask for it.
pub(super) trait Identify {
    /// The caller, and what it would be as a holder: its process, or the unit that it is in.
    async fn identify(
        &self,
        call: &Header<'_>,
        as_unit: bool,
    ) -> Result<(Caller, Option<HolderClaim>), Failure>;

    /// Whom to ask polkit about; `None` where it cannot know that caller.
    async fn subject(&self, call: &Header<'_>) -> Result<Option<Subject>, Failure>;

    /// What is counted for the reply that is sent next: gives back what has to be kept until it is sent.
    #[must_use]
    fn send_with(&self, held: Vec<Held>) -> Vec<Held>;

    /// Whether the caller is known to be gone, and nothing need be made for it.
    fn is_gone(&self) -> bool;
}

/// A reply, and what is counted for it.
pub(super) struct Reply {
    pub(super) message: Message,
    /// For the descriptors in it, until they were read.
    pub(super) descriptors: Vec<Held>,
    /// For its length, until it was sent.
    pub(super) bytes: Option<Held>,
}

impl From<Message> for Reply {
    fn from(message: Message) -> Self {
        Self { message, descriptors: Vec::new(), bytes: None }
    }
}

/// What serves the calls of a connection.
#[derive(Debug, Clone)]
pub(super) struct Manager {
    /// The way to the broker.
    pub(super) broker: Handle,
    /// How many sockets one reply takes on this transport.
    pub(super) limit: usize,
    /// Whether there is a bus to ask polkit on.
    pub(super) asks_polkit: bool,
}

/// The objects that have interfaces of ours.
enum Object {
    Manager,
    Listener(String),
    Pool(String),
}

impl Object {
    fn at(path: &str) -> Option<Self> {
        if path == MANAGER_PATH {
            Some(Self::Manager)
        } else if path.starts_with(LISTENER_PREFIX) {
            listener_name(path).map(Self::Listener)
        } else if path.starts_with(POOL_PREFIX) {
            pool_name(path).map(Self::Pool)
        } else {
            None
        }
    }
}

impl Manager {
    /// Answers one message; whatever is no method call is passed over. Errors are those of the connection.
    pub(super) async fn answer(
        &self,
        connection: &Connection,
        message: &Message,
        who: &impl Identify,
    ) -> zbus::Result<()> {
        if message.message_type() != Type::MethodCall {
            return Ok(());
        }
        let header = message.header();
        let reply = match self.call(message, &header, who).await {
            Ok(reply) => reply,
            Err(failure) => {
                let member = header.member().map(|member| member.as_str()).unwrap_or_default();
                self.broker.refused(member, &failure.name);
                failure.reply(&header)?.into()
            }
        };
        if header.primary().flags().contains(Flags::NO_REPLY_EXPECTED) {
            return Ok(());
        }
        let Reply { message, descriptors, bytes } = reply;
        let kept = if descriptors.is_empty() { descriptors } else { who.send_with(descriptors) };
        let sent = connection.send(&message).await;
        drop((kept, bytes));
        sent
    }

    /// Whether a call may be answered much later; see [`outbound::may_wait`] and [`polkit::may_wait`].
    pub(super) fn may_wait(&self, message: &Message) -> bool {
        let header = message.header();
        message.message_type() == Type::MethodCall
            && (outbound::may_wait(message, &header) || polkit::may_wait(message, &header))
    }

    /// Answers a call that would wait and may not.
    pub(super) async fn refuse_to_wait(
        &self,
        connection: &Connection,
        message: &Message,
        reason: String,
    ) -> zbus::Result<()> {
        connection.send(&Failure::standard("LimitsExceeded", reason).reply(&message.header())?).await
    }

    async fn call(
        &self,
        message: &Message,
        call: &Header<'_>,
        who: &impl Identify,
    ) -> Result<Reply, Failure> {
        let member = call.member().map(|m| m.as_str()).unwrap_or_default();
        let path = call.path().map(|p| p.as_str()).unwrap_or_default();
        let interface = call.interface().map(|i| i.as_str());
        let reply = Message::method_return(call);
        let message = match (interface, member) {
            (Some(PEER), "Ping") => reply.build(&())?,
            (Some(PEER), "GetMachineId") => reply.build(&machine_id()?)?,
            (Some(INTROSPECTABLE) | None, "Introspect") => {
                return self.introspect(message, call, who, path).await;
            }
            (Some(PROPERTIES), "GetAll") => {
                let wanted: String = argument(message)?;
                reply.build(&self.properties(path, &wanted).await?)?
            }
            (Some(PROPERTIES), "Get") => {
                let (interface, property): (String, String) = argument(message)?;
                let mut all = self.properties(path, &interface).await?;
                let unknown = || {
                    Failure::standard("UnknownProperty", format!("no property {:?} here", shown(&property)))
                };
                reply.build(&all.remove(property.as_str()).ok_or_else(unknown)?)?
            }
            (Some(PROPERTIES), "Set") => {
                return Err(Failure::standard("PropertyReadOnly", "all properties here are read-only"));
            }
            (Some(LISTENER_INTERFACE) | None, "Queues") => match Object::at(path) {
                Some(Object::Listener(name)) => {
                    let queues = self.broker.queues(name).await?.ok_or_else(|| unknown_object(path))?;
                    reply.build(&properties::of_queues(&queues))?
                }
                _ => return Err(self.unknown(path, interface, member).await),
            },
            _ => return self.call_manager(message, call, who, path, interface, member).await,
        };
        Ok(message.into())
    }

    /// The members that only the manager's object has.
    async fn call_manager(
        &self,
        message: &Message,
        call: &Header<'_>,
        who: &impl Identify,
        path: &str,
        interface: Option<&str>,
        member: &str,
    ) -> Result<Reply, Failure> {
        if path != MANAGER_PATH {
            return Err(self.unknown(path, interface, member).await);
        }
        let reply = Message::method_return(call);
        let message = match (interface, member) {
            (Some(MANAGER_INTERFACE) | None, "AcquireListeners") => {
                let Handed { sockets, held } = self.acquire(message, call, who).await?;
                let rows: Vec<(&str, Fd<'_>)> =
                    sockets.iter().map(|(name, socket)| (name.as_str(), Fd::from(socket))).collect();
                return Ok(Reply { descriptors: held, ..reply.build(&rows)?.into() });
            }
            (Some(MANAGER_INTERFACE) | None, "ListDeposits") => {
                let (caller, _) = who.identify(call, true).await?;
                let unit = caller.unit.ok_or_else(no_unit)?;
                reply.build(&self.broker.deposits(unit).await?)?
            }
            (Some(MANAGER_INTERFACE) | None, "ListLearned") => {
                reply.build(&properties::of_learned(self.broker.learned().await?))?
            }
            (Some(MANAGER_INTERFACE) | None, "ForgetPort") => {
                let port: u16 = argument(message)?;
                let (caller, _) = who.identify(call, false).await?;
                self.broker.forget(caller, port).await??;
                reply.build(&())?
            }
            (Some(MANAGER_INTERFACE) | None, "ListQueues") => {
                let (after, most): (String, u32) = argument(message)?;
                let most = usize::try_from(most.clamp(1, MAX_LISTENERS_LOOKED_AT)).unwrap_or(1);
                reply.build(&properties::of_waiting(self.broker.what_waits(after, most).await?))?
            }
            (Some(MANAGER_INTERFACE) | None, "ListEvents") => {
                let (after, most): (u64, u32) = argument(message)?;
                let (caller, _) = who.identify(call, false).await?;
                let most = usize::try_from(most.min(MAX_EVENT_ROWS)).unwrap_or_default();
                reply.build(&properties::of_happenings(self.broker.happenings(&caller, after, most)?))?
            }
            (Some(MANAGER_INTERFACE) | None, "Evict") => {
                reply.build(&self.evict(message, call, who).await?)?
            }
            (Some(MANAGER_INTERFACE) | None, "Reload") => {
                self.reload(message, call, who).await?;
                reply.build(&())?
            }
            (Some(MANAGER_INTERFACE) | None, "RenewListener") => {
                let name: String = argument(message)?;
                let (caller, _) = who.identify(call, false).await?;
                self.broker.renew(caller, name).await??;
                reply.build(&())?
            }
            (Some(MANAGER_INTERFACE) | None, member) if outbound::MEMBERS.contains(&member) => {
                return self.call_outbound(message, call, who, member).await;
            }
            (Some(OBJECT_MANAGER) | None, "GetManagedObjects") => {
                return self.about_all(message, who, properties::LENGTH_OF_ONE, properties::objects).await;
            }
            _ => return Err(self.unknown(path, interface, member).await),
        };
        Ok(message.into())
    }

    async fn acquire(
        &self,
        message: &Message,
        call: &Header<'_>,
        who: &impl Identify,
    ) -> Result<Handed, Failure> {
        let (names, options): (Vec<String>, HashMap<String, OwnedVariant>) = argument(message)?;
        let as_unit = holder_is_unit(&options)?;
        let (caller, holder) = who.identify(call, as_unit).await?;
        if as_unit && caller.unit.is_none() {
            return Err(no_unit());
        }
        let request = Acquire { caller, holder, names, limit: self.limit };
        Ok(self.broker.acquire(request).await??)
    }

    async fn reload(&self, message: &Message, call: &Header<'_>, who: &impl Identify) -> Result<(), Failure> {
        // The options came later.
        let options =
            if *message.body().signature() == Signature::Unit { HashMap::new() } else { argument(message)? };
        let interactive = polkit::is_interactive_only(call, &options)?;
        let question = Question { action: Administration::Reload, details: Vec::new(), interactive };
        let (caller, _) = who.identify(call, false).await?;
        let caller = polkit::authorize(self, question, call, who, caller).await?;
        Ok(self.broker.reload(Some(caller)).await??)
    }

    async fn properties(&self, path: &str, interface: &str) -> Result<Properties, Failure> {
        let unknown_interface = || {
            Failure::standard(
                "UnknownInterface",
                format!("no interface {:?} at {}", shown(interface), shown(path)),
            )
        };
        match Object::at(path).ok_or_else(|| unknown_object(path))? {
            Object::Manager if interface == MANAGER_INTERFACE => {
                Ok(properties::of_manager(&self.broker.summary().await?))
            }
            Object::Listener(name) => {
                let view = self.broker.show(name).await?.ok_or_else(|| unknown_object(path))?;
                if interface != LISTENER_INTERFACE {
                    return Err(unknown_interface());
                }
                Ok(properties::of_listener(&view))
            }
            Object::Pool(name) => {
                let view = self.broker.show_pool(name).await?.ok_or_else(|| unknown_object(path))?;
                if interface != POOL_INTERFACE {
                    return Err(unknown_interface());
                }
                Ok(properties::of_pool(&view))
            }
            Object::Manager => Err(unknown_interface()),
        }
    }

    async fn introspect(
        &self,
        message: &Message,
        call: &Header<'_>,
        who: &impl Identify,
        path: &str,
    ) -> Result<Reply, Failure> {
        let document = match Object::at(path) {
            Some(Object::Manager) => introspect::manager(),
            Some(Object::Listener(name)) => {
                self.known(ObjectKind::Listener, name, path).await?;
                introspect::listener()
            }
            Some(Object::Pool(name)) => {
                self.known(ObjectKind::Pool, name, path).await?;
                introspect::pool()
            }
            None if introspect::lists_objects(path) => {
                return self.about_all(message, who, introspect::LENGTH_OF_ONE, introspect::objects).await;
            }
            None => introspect::above(path).ok_or_else(|| unknown_object(path))?,
        };
        Ok(Message::method_return(call).build(&document)?.into())
    }

    async fn known(&self, kind: ObjectKind, name: String, path: &str) -> Result<(), Failure> {
        let known = self.broker.exists(kind, name).await?;
        if known { Ok(()) } else { Err(unknown_object(path)) }
    }

    /// An answer about all objects, of so many bytes about each. Where it is long it is made beside the one thread that
    /// serves everybody, one at a time, and there is room for it before.
    async fn about_all(
        &self,
        call: &Message,
        who: &impl Identify,
        length_of_one: usize,
        build: fn(&Message, &View) -> zbus::Result<Message>,
    ) -> Result<Reply, Failure> {
        let view = self.broker.view().await?;
        let count = view.listeners.len().saturating_add(view.pools.len());
        let bytes = self.room_for(count, length_of_one).await;
        if bytes.is_none() {
            return Ok(build(call, &view)?.into());
        }
        let message = self.built_beside(call, view, who, build).await?;
        Ok(Reply { message, descriptors: Vec::new(), bytes })
    }

    /// Waits for room for a long answer of so many parts; a short one is not counted.
    pub(super) async fn room_for(&self, parts: usize, length: usize) -> Option<Held> {
        if parts < properties::MANY {
            return None;
        }
        let bytes = u64::try_from(parts.saturating_mul(length)).unwrap_or(u64::MAX);
        Some(self.broker.gate().bytes(&self.broker.turn().who(), bytes).await)
    }

    async fn built_beside(
        &self,
        call: &Message,
        view: Arc<View>,
        who: &impl Identify,
        build: fn(&Message, &View) -> zbus::Result<Message>,
    ) -> Result<Message, Failure> {
        static ONE: Semaphore = Semaphore::const_new(1);
        let call = call.clone();
        let stopping = || Failure::standard("Failed", "the broker is stopping");
        let one = ONE.acquire().await.map_err(|_| stopping())?;
        // Others wait for their turn.
        if who.is_gone() {
            return Err(Failure::standard("Disconnected", "the caller is gone"));
        }
        let built = tokio::task::spawn_blocking(move || build(&call, &view)).await;
        drop(one);
        Ok(built.map_err(|_| stopping())??)
    }

    async fn unknown(&self, path: &str, interface: Option<&str>, member: &str) -> Failure {
        let is_known = match Object::at(path) {
            Some(Object::Manager) => true,
            Some(Object::Listener(name)) => self.known(ObjectKind::Listener, name, path).await.is_ok(),
            Some(Object::Pool(name)) => self.known(ObjectKind::Pool, name, path).await.is_ok(),
            None => introspect::above(path).is_some(),
        };
        if !is_known {
            return unknown_object(path);
        }
        let interface = interface.unwrap_or("any interface");
        let path = shown(path);
        Failure::standard("UnknownMethod", format!("no method {member:?} of {interface} at {path}"))
    }
}

/// The body of a call. A body of another type is the caller's fault.
pub(super) fn argument<T>(message: &Message) -> Result<T, Failure>
where
    T: serde::de::DeserializeOwned + zbus::wire::Type,
{
    let body = message.body();
    if body.signature() != T::SIGNATURE {
        let text = format!(
            "the arguments are of type {:?}, not {:?}",
            T::SIGNATURE.to_string(),
            body.signature().to_string()
        );
        return Err(Failure::standard("InvalidArgs", text));
    }
    body.deserialize_ignore_signature::<T>()
        .map_err(|error| Failure::standard("InvalidArgs", error.to_string()))
}

fn holder_is_unit(options: &HashMap<String, OwnedVariant>) -> Result<bool, Failure> {
    let mut is_unit = false;
    for (key, value) in options {
        let text = match &**value {
            Variant::Str(text) => text.as_str(),
            _ => "",
        };
        is_unit = match (key.as_str(), text) {
            (OPTION_HOLDER, "unit") => true,
            (OPTION_HOLDER, "process") => false,
            (OPTION_HOLDER, _) => {
                let message = format!("option {OPTION_HOLDER:?} is \"process\" or \"unit\"");
                return Err(Failure::ours(ErrorName::BadArgument, message));
            }
            (unknown, _) => return Err(no_such_option(unknown)),
        };
    }
    Ok(is_unit)
}

pub(super) fn no_such_option(unknown: &str) -> Failure {
    Failure::ours(ErrorName::BadArgument, format!("there is no option {:?}", shown(unknown)))
}

fn no_unit() -> Failure {
    Failure::ours(ErrorName::BadArgument, "this is for callers that run in a systemd unit, and you do not")
}

fn unknown_object(path: &str) -> Failure {
    Failure::standard("UnknownObject", format!("there is no object at {}", shown(path)))
}

fn machine_id() -> Result<String, Failure> {
    let text = std::fs::read_to_string("/etc/machine-id");
    text.map(|id| id.trim().to_owned())
        .map_err(|error| Failure::standard("Failed", format!("/etc/machine-id: {error}")))
}
