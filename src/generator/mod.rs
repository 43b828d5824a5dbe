//! The systemd generator: what systemd has to be told so that a unit gets its sockets from the broker.
//!
//! `delivery`, `daemon`, `systemd` and `tool` are pure: units and paths in, text out. `run` reads the machine
//! and writes the files.
//!
//! A generator runs before anything else at every boot and daemon-reload. So it never fails: what is wrong
//! with one unit is said and costs the others nothing. It starts no program and asks no service.

mod daemon;
mod delivery;
mod run;
mod systemd;
mod tool;
mod words;

pub use delivery::Delivery;
pub use run::{DAEMON, GenerateError, Host, PRIVILEGES, STAMP, generate};
pub use systemd::SystemdVersion;
pub use tool::Tool;
