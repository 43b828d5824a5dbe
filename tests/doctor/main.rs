//! `portbroker doctor` and `portbroker plan`, with real sockets of real processes in network namespaces of the test's own,
//! and with configurations as Debian ships them.
//!
//! Other tests have namespaces beside these, and root sees them: only what is of the own one is asserted.

#![cfg(test)]

#[path = "../support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
mod files;
#[path = "../support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;
mod network;
mod plan;
mod stealing;
mod support;
mod unprivileged;
