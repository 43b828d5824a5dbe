//! portbroker: holds listening ports from boot on and hands their sockets to services.
//!
//! The rooms, and the one way in which they may import each other (held by `tests/imports.rs`):
//!
//! - [`model`]: names, addresses, port sets, units. Imports nothing of ours.
//! - [`config`], [`policy`], [`listeners`], [`learn`], [`limits`], [`pools`], [`leases`], [`forecast`], [`metrics`], [`state`]: pure; text and events in, a valid value or effects out.
//! - [`plan`], [`services`], [`doctor`]: pure, for the command line: how much a load takes, which ports the configurations of
//!   services name, what is wrong with a host.
//! - [`generator`]: the systemd generator: units in, drop-ins out; and the writing of them.
//! - [`sources`]: finds and reads the files that `config` is made of.
//! - [`kernel`]: the only room with system calls and unsafe code.
//! - [`broker`]: the one task that owns all state.
//! - [`bus`]: the D-Bus interface on both transports.
//! - [`scrape`]: metrics over HTTP, on sockets of this host.
//! - [`generator`]: what systemd has to know, as drop-ins: pure.
//! - [`uses`]: what a port is used for, in facts and in words: pure.
//! - [`keeper`]: the parent of a daemon that has no systemd: starts it again, and keeps its sockets meanwhile.
//! - [`daemon`] wires them.

pub mod broker;
pub mod bus;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod forecast;
pub mod generator;
pub mod keeper;
pub mod kernel;
pub mod learn;
pub mod leases;
pub mod limits;
pub mod listeners;
pub mod metrics;
pub mod model;
pub mod plan;
pub mod policy;
pub mod pools;
pub mod scrape;
pub mod services;
pub mod sources;
pub mod state;
pub mod uses;
