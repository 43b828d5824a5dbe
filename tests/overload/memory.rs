//! Connections, and what is made or kept for them.

use crate::callers::{Caller, median_and_most};
use crate::daemon::Daemon;
use crate::netns::in_netns;
use crate::served::eventually;
use crate::support::{BAD, GOOD, hits, limit, memory, open_descriptors, used, web, with_descriptors};

#[test]
fn of_ten_thousand_connections_each_user_has_its_share_and_memory_comes_back() {
    in_netns(|| {
        let limits = "[limits]\nconnections-per-user = 2000\nconnections = 100000";
        let daemon = with_descriptors(&web(1, limits), 20_000, None);
        let (before, descriptors) = (memory(daemon.pid()), open_descriptors(daemon.pid()));
        let crowd: Vec<Caller> =
            (0..5).map(|n| Caller::start(&daemon.socket(), BAD + 10 + n, &["idle", "2000"])).collect();
        let taken: usize = crowd.iter().map(|caller| caller.said[0]).sum();
        let most = limit(&daemon, "connections")["limit"].as_u64().unwrap();
        let top = memory(daemon.pid());
        assert!(taken as u64 <= most && taken > 3000, "{taken} of {most}");
        let (times, errors, _) =
            Caller::start(&daemon.socket(), 0, &["measure", "acquire", "300"]).measured();
        let (median, slow) = median_and_most(&times);
        assert_eq!(errors, 0, "root has a part of its own");
        assert!(hits(&daemon, "connections", BAD + 14) > 0);
        drop(crowd);
        eventually("the connections are gone", || used(&daemon, "connections") == 0);
        eventually("the descriptors are gone", || open_descriptors(daemon.pid()) <= descriptors + 4);
        eventually("the memory is given back", || memory(daemon.pid()) < before + 4096);
        let after = memory(daemon.pid());
        println!(
            "10,000 connections of 5 users: {taken} taken, {before} kB before, {top} kB at the top, {after} kB after; \
             root's calls meanwhile {median} µs, 99 of 100 below {slow} µs"
        );
    });
}

#[test]
fn long_replies_that_nobody_reads_take_no_more_memory_than_the_limit_and_others_get_theirs() {
    in_netns(|| {
        const LISTENERS: usize = 2000;
        let mut configuration = web(1, "[limits]\nunread-bytes-per-user = \"8M\"\nunread-time = \"20s\"");
        for n in 0..LISTENERS {
            configuration +=
                &format!("[[listener]]\nname = \"l{n}\"\nstream = \"127.0.0.1:{}\"\n", 10_000 + n);
        }
        let daemon = Daemon::start(&configuration);
        let one = Caller::start(&daemon.socket(), GOOD, &["measure", "objects", "3"]).measured();
        assert_eq!(one.1, 0);
        let before = memory(daemon.pid());
        let bad = Caller::start(&daemon.socket(), BAD, &["blind", "objects", "100", "1"]);
        eventually("it waits for room", || hits(&daemon, "unread-bytes-per-user", BAD) > 0);
        let (times, errors, _) =
            Caller::start(&daemon.socket(), GOOD, &["measure", "objects", "5"]).measured();
        let top = memory(daemon.pid());
        let held = used(&daemon, "unread-bytes");
        println!(
            "{} connections that want {LISTENERS} listeners and read nothing: {before} kB, then {top} kB, {held} bytes counted; \
             the same for another meanwhile in {} µs",
            bad.said[0], times[2]
        );
        assert_eq!(errors, 0);
        assert!(top < before + 64 * 1024, "{before} kB, then {top} kB");
        drop(bad);
        eventually("nothing is kept", || used(&daemon, "unread-bytes") == 0);
        eventually("the memory is given back", || memory(daemon.pid()) < before + 8 * 1024);
    });
}

#[test]
fn long_calls_are_counted_before_they_are_read_and_what_does_not_come_is_ended() {
    in_netns(|| {
        let limits = "[limits]\nunread-bytes-per-user = \"1M\"\nunread-time = \"1s\"";
        let daemon = Daemon::start(&web(1, limits));
        // Half of a call of 130,000 bytes on each: eight of them are what it may have.
        let bad = Caller::start(&daemon.socket(), BAD, &["press", "drip-long", "20"]);
        assert_eq!(bad.said[0], 20);
        eventually("it has its share", || hits(&daemon, "unread-bytes-per-user", BAD) > 0);
        let counted = used(&daemon, "unread-bytes");
        assert!(counted <= 1 << 20, "{counted}");
        let good = Caller::start(&daemon.socket(), GOOD, &["measure", "long", "10"]).measured();
        assert_eq!((good.0.len(), good.1), (10, 0), "another's are answered");
        // Eight at a time: the others wait for room, and have a second each from then on.
        eventually("all have ended", || used(&daemon, "connections") == 0);
        assert_eq!(used(&daemon, "unread-bytes"), 0);
        drop(bad);
    });
}
