//! portbroker: holds listening ports from boot on and hands their sockets to services.
//!
//! The rooms, and the one way in which they may import each other (held by `tests/imports.rs`):
//!
//! - [`model`]: names, addresses, port sets, units. Imports nothing of ours.
//! - [`config`], [`policy`], [`listeners`]: pure; text and events in, a valid value or effects out.
//! - [`sources`]: finds and reads the files that `config` is made of.
//! - [`kernel`]: the only room with system calls and unsafe code.

pub mod config;
pub mod kernel;
pub mod listeners;
pub mod model;
pub mod policy;
pub mod sources;
