//! What is said in the log, kept for those who look on: see [`History`].

use crate::broker::History;
use std::fmt::{self, Write as _};
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::Context;

/// The layer that keeps what is of interest to an administrator.
pub(super) struct Layer(pub(super) History);

impl<S: Subscriber> tracing_subscriber::Layer<S> for Layer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => return,
        };
        let mut told = Told::default();
        event.record(&mut told);
        self.0.add(SystemTime::now(), level, told.event, told.message);
    }
}

#[derive(Default)]
struct Told {
    event: String,
    message: String,
}

impl Visit for Told {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "event" {
            value.clone_into(&mut self.event);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing into a String cannot fail.
            let _ = write!(self.message, "{value:?}");
        }
    }
}
