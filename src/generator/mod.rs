//! The systemd generator: what systemd has to be told so that a unit gets its sockets from the broker.
//!
//! `delivery`, `daemon` and `tool` are pure: units and paths in, text out. `run` reads the machine
//! and writes the files.
//!
//! A generator runs before anything else at every boot and daemon-reload. So it never fails: what is wrong
//! with one unit is said and costs the others nothing. It starts no program and asks no service.

mod daemon;
mod delivery;
mod run;
mod tool;
mod words;

pub use delivery::Delivery;
pub use run::{GenerateError, STAMP, generate};

pub use tool::Tool;
