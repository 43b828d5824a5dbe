//! The system bus: joined when it comes up, and again when it comes back.

use super::caller::BusIdentity;
use super::manager::Manager;
use super::transport::MAX_MESSAGE;
use crate::broker::Handle;
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

/// Calls of the bus that are answered at once; more are refused, since one connection serves everybody.
const CALLS_AT_ONCE: usize = 64;
/// Calls that may wait for ports at once, of all callers.
const WAITING: usize = 256;
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
    let manager = Manager { broker: broker.clone(), limit: MAX_SOCKETS_ON_A_BUS };
    let identity = Arc::new(BusIdentity::new(&connection).await?);
    let places = Arc::new(Semaphore::new(CALLS_AT_ONCE));
    let waiting = Arc::new(Semaphore::new(WAITING));
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
                let waits = manager.may_wait(&message);
                let places = if waits { &waiting } else { &places };
                // A task a call: to know the caller the bus is asked, and its answer comes by this loop's stream.
                let Ok(place) = Arc::clone(places).try_acquire_owned() else {
                    let limits = "org.freedesktop.DBus.Error.LimitsExceeded";
                    let _ = connection.reply_error(&message.header(), limits, &"too many calls at once").await;
                    continue;
                };
                let (manager, connection, identity) = (manager.clone(), connection.clone(), Arc::clone(&identity));
                tokio::spawn(async move {
                    if let Err(error) = manager.answer(&connection, &message, &*identity).await {
                        tracing::debug!(%error, "a call on the system bus could not be answered");
                    }
                    drop(place);
                });
            },
            notice = notices.recv() => match notice {
                Ok(notice) => manager.announce(&connection, notice).await?,
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

async fn refuse_for_length(connection: &zbus::Connection, message: &Message) {
    let header = message.header();
    let expects = !header.primary().flags().contains(Flags::NO_REPLY_EXPECTED);
    if message.message_type() == Type::MethodCall && expects {
        let limits = "org.freedesktop.DBus.Error.LimitsExceeded";
        let _ =
            connection.reply_error(&header, limits, &"the message is longer than what is taken here").await;
    }
}
