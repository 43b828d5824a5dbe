//! What happened, as signals. Each is made once, and the same for all connections to the private socket: a hundred idle
//! ones must not make a hand-over cost a hundred messages more.

use super::manager::{OBJECT_MANAGER, PROPERTIES};
use super::outbound;
use super::properties::{self, Properties};
use crate::broker::{Handle, Notice, Summary};
use portbroker_client::wire::{LISTENER_INTERFACE, MANAGER_INTERFACE, MANAGER_PATH, POOL_INTERFACE};
use std::collections::HashMap;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, Receiver, Sender, WeakSender};
use zbus::message::Message;
use zbus::{ObjectPath, OwnedObjectPath};

/// Signals that a slow connection may be behind before it misses some.
const BEHIND: usize = 1024;

/// The signals of the broker.
#[derive(Debug, Clone)]
pub(super) struct Signals(WeakSender<Message>);

impl Signals {
    /// Makes them for as long as the broker runs.
    pub(super) fn of(broker: &Handle) -> Self {
        let (sender, _) = broadcast::channel(BEHIND);
        let signals = Self(sender.downgrade());
        if let Some(notices) = broker.notices() {
            tokio::spawn(make(notices, sender));
        }
        signals
    }

    /// Those from now on; `None` when the broker is stopping.
    pub(super) fn subscribe(&self) -> Option<Receiver<Message>> {
        self.0.upgrade().map(|sender| sender.subscribe())
    }
}

async fn make(mut notices: Receiver<Notice>, signals: Sender<Message>) {
    loop {
        match notices.recv().await {
            Ok(notice) if signals.receiver_count() > 0 => match of(notice) {
                // Those who were there may be gone, and then nobody wants it.
                Ok(signal) => drop(signals.send(signal)),
                Err(error) => tracing::debug!(%error, "a signal could not be made: {error}"),
            },
            // Who misses some reads what it wants to know.
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// The signal of a notice.
pub(super) fn of(notice: Notice) -> zbus::Result<Message> {
    match notice {
        Notice::Changed(view) => {
            let path = properties::path_of(&view.name);
            changed(path, LISTENER_INTERFACE, properties::of_listener(&view))
        }
        Notice::Manager(faults) => {
            let summary = Summary { faults, ..Summary::default() };
            let mut properties = properties::of_manager(&summary);
            for not_told in ["Version", "LearnedPorts", "Notes", "Limits"] {
                properties.remove(not_told);
            }
            let path = ObjectPath::from_static_str_unchecked(MANAGER_PATH).into();
            changed(path, MANAGER_INTERFACE, properties)
        }
        Notice::Added(view) => {
            let path = properties::path_of(&view.name);
            added(path, LISTENER_INTERFACE, properties::of_listener(&view))
        }
        Notice::Removed(name) => removed(properties::path_of(&name), LISTENER_INTERFACE),
        Notice::PoolChanged(view) => {
            let mut properties = properties::of_pool(&view);
            for not_told in ["Addresses", "Capacity", "Waiting"] {
                properties.remove(not_told);
            }
            changed(properties::path_of_pool(&view.name), POOL_INTERFACE, properties)
        }
        Notice::PoolAdded(view) => {
            let path = properties::path_of_pool(&view.name);
            added(path, POOL_INTERFACE, properties::of_pool(&view))
        }
        Notice::PoolWanted(name) => {
            let path = properties::path_of_pool(&name);
            Message::signal(path, POOL_INTERFACE, "Wanted").build(&())
        }
        Notice::ExhaustionAhead(view) => {
            let (path, body) = (properties::path_of_pool(&view.pool), outbound::of_exhaustion(&view));
            Message::signal(path, POOL_INTERFACE, "ExhaustionAhead").build(&body)
        }
        Notice::PoolRemoved(name) => removed(properties::path_of_pool(&name), POOL_INTERFACE),
    }
}

fn changed(path: OwnedObjectPath, interface: &str, properties: Properties) -> zbus::Result<Message> {
    let body = (interface, properties, Vec::<String>::new());
    Message::signal(path, PROPERTIES, "PropertiesChanged").build(&body)
}

fn added(path: OwnedObjectPath, interface: &str, properties: Properties) -> zbus::Result<Message> {
    let body = (path, HashMap::from([(interface, properties)]));
    Message::signal(MANAGER_PATH, OBJECT_MANAGER, "InterfacesAdded").build(&body)
}

fn removed(path: OwnedObjectPath, interface: &str) -> zbus::Result<Message> {
    let body = (path, vec![interface]);
    Message::signal(MANAGER_PATH, OBJECT_MANAGER, "InterfacesRemoved").build(&body)
}
