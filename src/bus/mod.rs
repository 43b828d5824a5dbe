//! The D-Bus interface on both transports: conversions, callers, errors. No decisions: those are the broker's.
//!
//! zbus does the protocol; the calls are answered here, by one loop a connection, and not by zbus's object
//! server, for three reasons. An object server belongs to one connection, so ten thousand listeners would be
//! ten thousand objects for each client. It takes locks and starts tasks for every call. And one loop that
//! answers before it reads on is all the back-pressure that a flooding caller needs.

mod caller;
mod evict;
mod incoming;
mod introspect;
mod manager;
mod outbound;
mod outgoing;
mod polkit;
mod private;
mod properties;
mod senders;
mod signals;
mod system;
mod systemd;
mod transport;

pub use private::{PrivateSocketError, bind_private_socket, serve_private_socket};
pub use system::serve_system_bus;
pub use systemd::is_stopped_for_good;

use portbroker_client::wire::ErrorName;
use std::collections::HashMap;
use zbus::Variant;
use zbus::message::{Header, Message};

/// What a caller wrote, no more than a line of it.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

/// An error reply: a name and a text.
#[derive(Debug)]
struct Failure {
    name: String,
    message: String,
    /// Facts for programs; there is a second argument only where there are any.
    details: HashMap<&'static str, Variant<'static>>,
}

impl Failure {
    fn ours(name: ErrorName, message: impl Into<String>) -> Self {
        Self { name: name.full(), message: message.into(), details: HashMap::new() }
    }

    /// One of `org.freedesktop.DBus.Error`.
    fn standard(name: &str, message: impl Into<String>) -> Self {
        let name = format!("org.freedesktop.DBus.Error.{name}");
        Self { name, message: message.into(), details: HashMap::new() }
    }

    /// The reply to a call.
    fn reply(self, call: &Header<'_>) -> zbus::Result<Message> {
        let reply = Message::error(call, self.name);
        if self.details.is_empty() {
            reply.build(&self.message)
        } else {
            reply.build(&(self.message, self.details))
        }
    }
}

impl From<crate::broker::Refusal> for Failure {
    fn from(refusal: crate::broker::Refusal) -> Self {
        use crate::broker::Refusal;
        let name = match &refusal {
            Refusal::NoSuchListener(_) => ErrorName::NoSuchListener,
            Refusal::NotAllowed { .. } => ErrorName::NotAllowed,
            Refusal::NotReady(..) => ErrorName::NotReady,
            Refusal::NoSuchPool(_) => ErrorName::NoSuchPool,
            Refusal::Exhausted { shortage, .. } => {
                let details = outbound::of_shortage(shortage);
                return Self { details, ..Self::ours(ErrorName::Exhausted, refusal.to_string()) };
            }
            Refusal::QuotaExceeded(_) | Refusal::SharedQuotaExceeded(_) => ErrorName::QuotaExceeded,
            Refusal::NoSuchSession(_) => ErrorName::NoSuchSession,
            Refusal::CannotLease(_) | Refusal::CannotEvict(_) | Refusal::CannotSend(_) => ErrorName::NotReady,
            Refusal::OverLimit(_) => return Self::standard("LimitsExceeded", refusal.to_string()),
            Refusal::TooManySockets(_) => ErrorName::TooManySockets,
            Refusal::BadArgument(_) => ErrorName::BadArgument,
            Refusal::InvalidConfiguration(_) => ErrorName::InvalidConfiguration,
        };
        Self::ours(name, refusal.to_string())
    }
}

impl From<crate::broker::Stopping> for Failure {
    /// Nobody knows whether it was done. It is what a bus says of a program that went away without a reply: whoever
    /// asked asks again, and the daemon that follows answers.
    fn from(stopping: crate::broker::Stopping) -> Self {
        Self::standard("NoReply", stopping.to_string())
    }
}

impl From<zbus::Error> for Failure {
    fn from(error: zbus::Error) -> Self {
        Self::standard("InvalidArgs", error.to_string())
    }
}
