//! Calls without end, and the limits that they meet.

use crate::callers::{Caller, median_and_most};
use crate::daemon::{Daemon, run};
use crate::netns::in_netns;
use crate::served::{listener, reload};
use crate::support::{BAD, GOOD, hits, limit, used, web};
use std::fs;

/// What a user can flood the broker with: what it is called, and what it calls.
const FLOODS: [(&str, &[&str]); 8] = [
    ("hand-overs", &["flood", "acquire", "100"]),
    ("refusals", &["flood", "refused", "100"]),
    ("all objects", &["flood", "objects", "100"]),
    ("all of the manager", &["flood", "manager", "100"]),
    ("leases", &["flood", "leases", "100"]),
    ("names of objects", &["flood", "introspect", "100"]),
    ("learned ports", &["flood", "learned", "100"]),
    ("connections", &["churn"]),
];

#[test]
fn who_floods_the_broker_from_a_hundred_connections_slows_only_himself() {
    in_netns(|| {
        let listeners: usize =
            std::env::var("OVERLOAD_LISTENERS").ok().map_or(500, |text| text.parse().unwrap());
        let mut configuration = web(1, "");
        for n in 0..listeners {
            configuration +=
                &format!("[[listener]]\nname = \"l{n}\"\nstream = \"127.0.0.1:{}\"\n", 10_000 + n);
        }
        let daemon = Daemon::start(&configuration);
        const CALLS: usize = 300;
        let measure = || {
            let (times, errors, sockets) =
                Caller::start(&daemon.socket(), GOOD, &["measure", "acquire", &CALLS.to_string()]).measured();
            assert_eq!((errors, sockets), (0, CALLS as u64));
            median_and_most(&times)
        };
        let (median, slow) = measure();
        println!(
            "{listeners} listeners; AcquireListeners of a user alone: {median} µs, 99 of 100 below {slow} µs"
        );
        for (name, flood) in FLOODS {
            let bad = Caller::start(&daemon.socket(), BAD, flood);
            let (median, slow) = measure();
            let served = bad.end()[0];
            println!(
                "beside 100 connections that ask for {name}: {median} µs, 99 of 100 below {slow} µs ({served} served)"
            );
        }
        assert!(hits(&daemon, "calls-per-user", BAD) > 0);
    });
}

#[test]
fn uid_0_of_containers_has_what_one_user_has() {
    in_netns(|| {
        let daemon = Daemon::start(&web(1, ""));
        let root = Caller::start(&daemon.socket(), 0, &["idle", "200"]);
        assert_eq!(root.said[0], 200);
        let contained = Caller::contained(&daemon.socket(), &["idle", "200"]);
        assert_eq!(contained.said[0], 128);
        let limit = limit(&daemon, "connections-per-user");
        assert_eq!(limit["hit_by"][0]["who"], "root of a container", "{limit}");
    });
}

#[test]
fn limits_follow_a_reload_and_are_shown() {
    in_netns(|| {
        let daemon = Daemon::start(&web(1, "[limits]\nconnections-per-user = 3"));
        assert_eq!(limit(&daemon, "connections-per-user")["limit"], 3);
        let three = Caller::start(&daemon.socket(), BAD, &["idle", "10"]);
        assert_eq!(three.said, [3]);
        assert_eq!(limit(&daemon, "connections-per-user")["greatest"], format!("user {BAD}"));
        assert_eq!(hits(&daemon, "connections-per-user", BAD), 7);
        reload(&daemon, &web(1, "[limits]\nconnections-per-user = 5"));
        let two = Caller::start(&daemon.socket(), BAD, &["idle", "10"]);
        assert_eq!(two.said, [2]);
        assert_eq!(used(&daemon, "connections"), 5);
        reload(&daemon, &web(1, "[limits]\nconnections-per-user = 1"));
        assert_eq!(used(&daemon, "connections"), 5, "who has more keeps it");
        assert!(Caller::start(&daemon.socket(), BAD, &["idle", "1"]).said == [0]);
        assert_eq!(Caller::start(&daemon.socket(), GOOD, &["idle", "10"]).said, [1]);
        fs::write(daemon.config(), web(1, "[limits]\nconnections-per-user = 0")).unwrap();
        let (status, _, errors) = run(&mut daemon.portbroker(&["reload"]));
        assert!(status == 78 && errors.contains("it takes 1 to 65536"), "{errors}");
        assert_eq!(limit(&daemon, "connections-per-user")["limit"], 1);
        assert_eq!(listener(&daemon, "web")["state"], "listening");
        drop((three, two));
    });
}
