//! Callers that flood the broker, do not read, or send what nobody wants, slow only themselves.

#![cfg(test)]

#[path = "../support/callers.rs"]
mod callers;
#[path = "../support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
mod descriptors;
mod floods;
mod logs;
mod memory;
#[path = "../support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;
#[path = "../support/served.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod served;
mod support;
