//! Options of sockets that are served without them, and what remains when the broker is stopped for good.

use super::Broker;
use super::effects::with_causes;
use crate::config::SocketOptions;
use crate::kernel::socket::ListenerSocket;
use crate::model::ListenerName;

/// Says what is configured for a socket and cannot be had.
pub(super) fn say_unmet(name: &ListenerName, socket: &ListenerSocket) {
    let endpoint = socket.endpoint();
    for unmet in socket.unmet() {
        tracing::warn!(event = "unmet", listener = %name, %endpoint, "{endpoint} of {name}: {unmet}");
    }
}

/// Options that a bound socket can still change follow the configuration.
pub(super) fn adjust(name: &ListenerName, socket: &mut ListenerSocket, options: &SocketOptions) {
    if socket.options() == options {
        return;
    }
    let known = socket.unmet();
    if let Err(error) = socket.adjust(options) {
        let (endpoint, error) = (socket.endpoint(), with_causes(&error));
        tracing::warn!(event = "unmet", listener = %name, %endpoint, error, "{endpoint} of {name} goes on as it was: {error}");
    } else if socket.unmet() != known {
        say_unmet(name, socket);
    }
}

impl Broker {
    /// `RemoveOnStop=`: paths and their links go. Services that have the sockets go on, and nobody finds them.
    pub(super) fn remove_on_stop(&mut self) {
        let wanted: Vec<_> = self
            .table
            .iter()
            .filter(|(_, listener)| listener.config.options.remove_on_stop)
            .flat_map(|(_, listener)| listener.slots.iter().map(|slot| slot.id))
            .collect();
        for socket in wanted.into_iter().filter_map(|id| self.sockets.remove(&id)) {
            let endpoint = socket.endpoint().clone();
            if let Err(error) = socket.release() {
                tracing::warn!(%error, %endpoint, "the path of {endpoint} could not be removed: {error}");
            }
        }
    }
}
