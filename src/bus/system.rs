//! The system bus: joined when it comes up, and again when it comes back.

use super::caller::BusIdentity;
use super::manager::Manager;
use super::senders::{Place, Senders};
use super::signals;
use super::transport::MAX_MESSAGE;
use crate::broker::{Handle, Turn};
use crate::kernel::inotify::path_appears;
use futures_util::StreamExt as _;
use portbroker_client::wire::{BUS_NAME, MAX_SOCKETS_ON_A_BUS};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use zbus::connection::Builder;
use zbus::message::{Flags, Message, Type};

/// Calls are answered with this where too many of the sender's are in the works.
const LIMITS: &str = "org.freedesktop.DBus.Error.LimitsExceeded";
/// Calls that may wait for ports at once: of all callers, and of one user.
const WAITING: usize = 256;
const WAITING_OF_ONE: usize = 32;
/// Between two tries where the bus is there and does not take us.
const RETRY: Duration = Duration::from_secs(60);

/// Serves the system bus for as long as the daemon runs, through its absences.
pub async fn serve_system_bus(broker: Handle) {
    let mut complained = String::new();
    loop {
        if let Some(path) = socket_path()
            && let Err(error) = path_appears(&path).await
        {
            tracing::warn!(%error, path = %path.display(), "cannot wait for the system bus: {error}");
            tokio::time::sleep(RETRY).await;
        }
        match serve_once(&broker).await {
            Ok(()) => {
                tracing::info!("the system bus is gone; the private socket serves on");
                complained.clear();
                // The socket of a bus that was just closed may still be there for a moment.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => {
                let text = error.to_string();
                if text != complained {
                    tracing::warn!(
                        error = text,
                        "cannot serve the system bus, the private socket serves on: {text}"
                    );
                    complained = text;
                }
                let again = if is_refused(&error) { Duration::from_secs(1) } else { RETRY };
                tokio::time::sleep(again).await;
            }
        }
    }
}

/// A bus that is being restarted leaves its socket, or systemd's, for a moment.
fn is_refused(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::InputOutput(_) | zbus::Error::Connection(..))
}

/// The path of the bus's socket, where the address is one of a path.
fn socket_path() -> Option<PathBuf> {
    match std::env::var("DBUS_SYSTEM_BUS_ADDRESS") {
        Err(_) => Some(Path::new("/run/dbus/system_bus_socket").to_path_buf()),
        Ok(address) => {
            let path = address.strip_prefix("unix:path=")?.split([',', ';']).next()?;
            Some(PathBuf::from(path))
        }
    }
}

async fn serve_once(broker: &Handle) -> zbus::Result<()> {
    let mut messages = Builder::system().build_message_stream().await?;
    let connection = zbus::Connection::from(&messages);
    let Some(mut notices) = broker.notices() else { return Ok(()) };
    let manager = Manager { broker: broker.clone(), limit: MAX_SOCKETS_ON_A_BUS, asks_polkit: true };
    let identity = Arc::new(BusIdentity::new(&connection).await?);
    let senders = Senders::new(broker.gate().clone(), None);
    // Those that wait for ports take nothing from the others.
    let waiting = Senders::new(broker.gate().clone(), Some(WAITING_OF_ONE));
    let places = Arc::new(Semaphore::new(WAITING));
    connection.request_name(BUS_NAME).await?;
    tracing::info!(name = BUS_NAME, "serving the system bus");
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return Ok(()) };
                let Ok(message) = message else { return Ok(()) };
                // Before anything is made of it: the bus lets everybody send 32 MiB, and disconnects us for an answer
                // that repeats more than that.
                if message.data().len() > MAX_MESSAGE {
                    refuse_for_length(&connection, &message).await;
                    continue;
                }
                if message.message_type() != Type::MethodCall {
                    continue;
                }
                let waits = manager.may_wait(&message);
                let all = if waits { Some(Arc::clone(&places).try_acquire_owned()) } else { None };
                // A task a call: to know the caller the bus is asked, and its answer comes by this loop's stream.
                let sender = message.header().sender().map(|name| name.as_str().to_owned()).unwrap_or_default();
                let place = if waits { waiting.admit(&sender) } else { senders.admit(&sender) };
                let (Some(place), None | Some(Ok(_))) = (place, &all) else {
                    refuse_for_number(&connection, &message).await;
                    continue;
                };
                let (manager, connection, identity) = (manager.clone(), connection.clone(), Arc::clone(&identity));
                tokio::spawn(async move {
                    let answered = answer(manager, &connection, &message, &identity, place);
                    let answered = if waits {
                        let header = message.header();
                        // Who has left waits no more.
                        tokio::select! {
                            answered = answered => answered,
                            Ok(()) = identity.left(&header) => Ok(()),
                        }
                    } else {
                        answered.await
                    };
                    if let Err(error) = answered {
                        tracing::debug!(%error, "a call on the system bus could not be answered");
                    }
                    drop(all);
                });
            },
            notice = notices.recv() => match notice {
                Ok(notice) => connection.send(&signals::of(notice)?).await?,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

/// Answers a call in the turn of its user.
async fn answer(
    manager: Manager,
    connection: &zbus::Connection,
    message: &Message,
    identity: &BusIdentity,
    mut place: Place,
) -> zbus::Result<()> {
    let uid = match place.uid() {
        Some(uid) => uid,
        None => {
            // Who is gone wants no answer.
            let Some(uid) = identity.uid(&message.header()).await else { return Ok(()) };
            if !place.is_of(uid) {
                refuse_for_number(connection, message).await;
                return Ok(());
            }
            uid
        }
    };
    // The numbers of a bus's names are no pids, and so are others than those of the private socket.
    let number =
        message.header().sender().and_then(|name| name.as_str().rsplit('.').next()?.parse::<i32>().ok());
    let broker = manager.broker.in_turn_of(Turn::of(uid, number.unwrap_or_default().wrapping_neg()));
    Manager { broker, ..manager }.answer(connection, message, identity).await
}

async fn refuse_for_number(connection: &zbus::Connection, message: &Message) {
    refuse(connection, message, "too many calls at once: wait for the answers to those that you have made")
        .await;
}

async fn refuse_for_length(connection: &zbus::Connection, message: &Message) {
    refuse(connection, message, "the message is longer than what is taken here").await;
}

async fn refuse(connection: &zbus::Connection, message: &Message, why: &str) {
    let header = message.header();
    let expects = !header.primary().flags().contains(Flags::NO_REPLY_EXPECTED);
    if message.message_type() == Type::MethodCall && expects {
        let _ = connection.reply_error(&header, LIMITS, &why).await;
    }
}
