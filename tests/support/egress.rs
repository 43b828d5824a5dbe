//! A pool of four addresses in a network namespace of the test's own, and a service to connect to.

use crate::daemon::Daemon;
use crate::netns::ip;
use std::net::TcpListener;

/// Four addresses of a hundred ports.
pub(crate) const POOL: &str = "\
[[pool]]
name = \"egress\"
addresses = [\"192.0.2.1-192.0.2.4\"]
ports = \"10000-10099\"
";
/// Where everybody connects to.
pub(crate) const TO: &str = "192.0.2.9:443";

pub(crate) fn addresses() {
    for n in [1, 2, 3, 4, 9] {
        ip(&format!("address add 192.0.2.{n}/32 dev lo"));
    }
}

pub(crate) fn started(configuration: &str) -> Daemon {
    addresses();
    Daemon::start(configuration)
}

#[expect(clippy::disallowed_methods, reason = "somebody else's service")]
pub(crate) fn service() -> TcpListener {
    TcpListener::bind(TO).unwrap()
}
