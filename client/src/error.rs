//! What can go wrong between a client and the broker, as callers have to tell it apart.
//!
//! The three that matter: [`Error::NotReachable`] (there is no broker: go on without one, if that is sound),
//! [`Error::Refused`] and [`Error::Forbidden`] (there is one and it says no: going on without it would be
//! wrong), and [`Error::Protocol`] (what answered does not speak the interface).

use crate::lease::Exhausted;
use crate::wire::{DETAIL_CHALLENGE, ErrorName, ExhaustedRow};
use std::collections::HashMap;
use std::io;
use zbus::wire::{OwnedVariant, Variant};

/// Why the broker did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing is there: no socket, nobody behind it, or no reply in time.
    #[error(
        "the port broker is not reachable ({tried}): start portbroker.service, or name its socket in PORTBROKER_SOCKET"
    )]
    NotReachable {
        /// Every place that was tried, with what came of it.
        tried: String,
    },
    /// The broker's socket, or the bus, does not let this process talk to it.
    #[error("no access to the port broker at {place}: {reason}")]
    Forbidden {
        /// The socket or bus.
        place: String,
        /// What the kernel or the bus said.
        reason: String,
    },
    /// Something else keeps this process from connecting; that tells nothing about the broker.
    #[error("cannot connect to the port broker at {place}: {source}")]
    Connect {
        /// The socket or bus.
        place: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The sockets came, and this process may not have so many descriptors.
    #[error(
        "too few open files are allowed here for the sockets from {place} ({reason}): raise LimitNOFILE= or ulimit -n"
    )]
    TooFewFiles {
        /// The socket or bus.
        place: String,
        /// What went wrong on the way.
        reason: String,
    },
    /// The broker's own answer.
    #[error("{}: {message}{}", name.full(), advice(*name))]
    Refused {
        /// The error's name.
        name: ErrorName,
        /// The broker's words.
        message: String,
    },
    /// The broker's own answer to one who may do it after authenticating: see
    /// [`Broker::interactive`](crate::Broker::interactive).
    #[error("{}: {message}", ErrorName::NotAllowed.full())]
    AuthenticationRequired {
        /// The broker's words.
        message: String,
    },
    /// The broker's own answer where a pool has nothing left for a destination.
    #[error("{}: {message}", ErrorName::Exhausted.full())]
    Exhausted {
        /// The broker's words.
        message: String,
        /// How full the pool is, and when there is more.
        figures: Exhausted,
    },
    /// The broker, or the bus, has as much to do for this user as a user may ask for: a limit of `[limits]`.
    #[error("org.freedesktop.DBus.Error.LimitsExceeded: {message}")]
    LimitsExceeded {
        /// The broker's words.
        message: String,
    },
    /// What is there does not speak the interface, or not this version of it.
    #[error("the port broker at {place} does not answer as it should: {source}")]
    Protocol {
        /// The socket or bus.
        place: String,
        /// What was wrong.
        #[source]
        source: Box<zbus::Error>,
    },
    /// The reply has other sockets than those asked for.
    #[error("the port broker's reply does not fit the question: {0}")]
    Reply(String),
    /// The private runtime of a blocking call could not be made.
    #[error(
        "no runtime for asking the port broker (raise LimitNOFILE= where it says too many open files): {0}"
    )]
    Runtime(#[source] io::Error),
}

/// What the client knows to do about an error, and the broker's message need not repeat.
fn advice(name: ErrorName) -> &'static str {
    match name {
        ErrorName::TooManySockets => {
            " (a bus takes 16 sockets at a time and the private socket /run/portbroker/bus takes 253: ask there, \
             or for fewer names at a time)"
        }
        _ => "",
    }
}

/// What became of one attempt.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody is there.
    Absent(String),
    /// Somebody was there and hung up: a daemon that is being restarted does that, so ask again.
    Lost(String),
    /// An answer, or a state that asking again does not change.
    Final(Error),
}

impl Failure {
    /// Sorts what connect(2) said of a place. Only what shows that nobody is there means that nobody is: whoever
    /// hears that may bind for himself.
    pub(crate) fn of_connect(place: &str, error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        let place = place.to_owned();
        match error.kind() {
            Kind::NotFound | Kind::NotADirectory | Kind::ConnectionRefused => {
                Self::Absent(format!("{place}: {error}"))
            }
            Kind::PermissionDenied => Self::Final(Error::Forbidden { place, reason: error.to_string() }),
            // A full accept queue; a daemon that goes away.
            Kind::WouldBlock | Kind::ConnectionReset | Kind::BrokenPipe => {
                Self::Lost(format!("{place}: {error}"))
            }
            _ if is_limit(error) => Self::Final(Error::TooFewFiles { place, reason: error.to_string() }),
            _ => Self::Final(Error::Connect { place, source: copy(error) }),
        }
    }

    /// Sorts what a handshake or call ended with.
    pub(crate) fn of_call(place: &str, error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, message, reply) => match ErrorName::from_full(name.as_str()) {
                Some(ErrorName::Exhausted) => Self::Final(exhausted(message, &reply)),
                Some(ErrorName::NotAllowed) if is_challenge(&reply) => {
                    Self::Final(Error::AuthenticationRequired { message: message.unwrap_or_default() })
                }
                Some(name) => Self::Final(Error::Refused { name, message: message.unwrap_or_default() }),
                None => {
                    let text = format!("{name}: {}", message.unwrap_or_default());
                    Self::protocol(place, zbus::Error::Failure(text))
                }
            },
            zbus::Error::FDO(error) => Self::of_standard_error(place, *error),
            zbus::Error::Connection(error, _) => Self::of_connect(place, &error),
            zbus::Error::InputOutput(error) if !is_limit(&error) => Self::Lost(format!("{place}: {error}")),
            // zbus has no error of its own for a peer that hangs up during the handshake.
            zbus::Error::Handshake(text) if text.contains("EOF") => Self::Lost(format!("{place}: {text}")),
            error if lacks_descriptors(&error) => {
                Self::Final(Error::TooFewFiles { place: place.to_owned(), reason: error.to_string() })
            }
            error => Self::protocol(place, error),
        }
    }

    fn of_standard_error(place: &str, error: zbus::fdo::Error) -> Self {
        use zbus::fdo::Error as Standard;
        match error {
            Standard::ServiceUnknown(text) | Standard::NameHasNoOwner(text) => {
                Self::Absent(format!("{place}: {text}"))
            }
            Standard::LimitsExceeded(message) => Self::Final(Error::LimitsExceeded { message }),
            // The bus says so when the daemon goes away with a call unanswered.
            Standard::NoReply(text) | Standard::Disconnected(text) => Self::Lost(format!("{place}: {text}")),
            Standard::AccessDenied(reason) | Standard::AuthFailed(reason) => {
                Self::Final(Error::Forbidden { place: place.to_owned(), reason })
            }
            error => Self::protocol(place, zbus::Error::FDO(Box::new(error))),
        }
    }

    fn protocol(place: &str, error: zbus::Error) -> Self {
        Self::Final(Error::Protocol { place: place.to_owned(), source: Box::new(error) })
    }
}

/// The figures are beside the text; what cannot be read of them is zero.
fn exhausted(message: Option<String>, reply: &zbus::Message) -> Error {
    let facts = reply.body().deserialize::<(String, ExhaustedRow)>().map(|(_, facts)| facts);
    let figures = facts.map(|facts| Exhausted::read(&facts)).unwrap_or_default();
    Error::Exhausted { message: message.unwrap_or_default(), figures }
}

/// Whether it would be allowed to who authenticates.
fn is_challenge(reply: &zbus::Message) -> bool {
    let facts = reply.body().deserialize::<(String, HashMap<String, OwnedVariant>)>();
    facts.is_ok_and(|(_, facts)| {
        facts.get(DETAIL_CHALLENGE).is_some_and(|value| matches!(**value, Variant::Bool(true)))
    })
}

/// EMFILE and ENFILE, which the standard library has no kind for.
fn is_limit(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

fn copy(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}

/// The kernel drops descriptors that are over the limit and delivers the message without them. zbus then misses
/// them, or fails to copy them, and says so in words only.
fn lacks_descriptors(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::UnknownFd => true,
        zbus::Error::InputOutput(error) => is_limit(error),
        zbus::Error::MissingParameter(what) => what.contains("file descriptors"),
        zbus::Error::Failure(text) => text.contains("os error 24"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_begins_with_its_name_and_says_what_to_do() {
        let error =
            Error::Refused { name: ErrorName::TooManySockets, message: "20 sockets asked for".into() };
        let text = error.to_string();
        assert!(
            text.starts_with("org.portbroker.PortBroker1.Error.TooManySockets: 20 sockets asked for"),
            "{text}"
        );
        assert!(text.contains("/run/portbroker/bus"), "{text}");
    }

    #[test]
    fn a_missing_socket_is_no_broker_and_a_forbidden_one_is() {
        let of = |kind| Failure::of_connect("/x", &io::Error::from(kind));
        assert!(matches!(of(io::ErrorKind::NotFound), Failure::Absent(_)));
        assert!(matches!(of(io::ErrorKind::ConnectionRefused), Failure::Absent(_)));
        assert!(matches!(of(io::ErrorKind::PermissionDenied), Failure::Final(Error::Forbidden { .. })));
        assert!(matches!(of(io::ErrorKind::WouldBlock), Failure::Lost(_)));
        // EMFILE, ENOMEM: our own trouble, and no word about the broker.
        let of = |number| Failure::of_connect("/x", &io::Error::from_raw_os_error(number));
        assert!(matches!(of(24), Failure::Final(Error::TooFewFiles { .. })));
        assert!(matches!(of(12), Failure::Final(Error::Connect { .. })));
    }
}
