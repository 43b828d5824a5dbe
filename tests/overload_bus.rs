//! A caller that floods the broker over the system bus, from many connections, has what one user has; others theirs.

#![cfg(test)]

#[path = "support/bus.rs"]
mod bus;
#[path = "support/callers.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod callers;
#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;
#[path = "support/served.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod served;

use bus::Bus;
use callers::{Caller, median_and_most};
use daemon::{Daemon, run};
use netns::in_netns;
use served::eventually;

/// Users that every system has: a bus takes no others. nobody, and daemon.
const BAD: u32 = 65_534;
const GOOD: u32 = 1;

#[test]
fn who_floods_the_bus_is_refused_and_others_are_not() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let bus = Bus::start(folder.path());
        let configuration = format!(
            "[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:5000\"\nallow = \"user:{GOOD}\"\n\
             [[listener]]\nname = \"private\"\nstream = \"127.0.0.1:4999\"\n"
        );
        let daemon = Daemon::start_with(&configuration, |command| {
            command.env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address);
        });
        eventually("the name on the bus", || daemon.log().contains("serving the system bus"));
        let socket = folder.path().join("system_bus");
        // Each connection has one call at a time, and those of a user are ten times as many as it may have.
        let bad = Caller::start(&socket, BAD, &["bus-flood", "acquire", "80"]);
        assert_eq!(bad.said, [80]);
        let (times, errors, sockets) =
            Caller::start(&socket, GOOD, &["bus-measure", "acquire", "200"]).measured();
        let counts = bad.end();
        let (median, slow) = median_and_most(&times);
        println!(
            "200 calls of another, {median} µs, 99 of 100 below {slow} µs, beside a flood of {} of which {} were too many",
            counts[0], counts[2]
        );
        assert_eq!((errors, sockets), (0, 200));
        assert!(
            counts[2] > 0 && counts[1] > counts[2],
            "80 at once are more than one user may have: {counts:?}"
        );
        let text = run(&mut daemon.portbroker(&["status"])).1;
        assert!(text.contains("calls-per-user") && text.contains(&format!("user {BAD} (")), "{text}");
    });
}
