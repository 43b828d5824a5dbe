//! `portbroker who`, with real sockets of real processes in network namespaces of the test's own.
//!
//! Other tests have namespaces beside these, and `who` sees them: only what is of the own one is asserted.

#![expect(clippy::disallowed_methods, reason = "services bind for themselves here, as services do")]
#![cfg(test)]

#[path = "../support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
mod eviction;
#[path = "../support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;
mod scan;
#[path = "../support/served.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod served;
mod support;
mod told;
mod unprivileged;
