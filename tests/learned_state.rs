//! The daemon with what an earlier one had learned, in a network namespace of its own and without a systemd.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "not all of it is needed here")]
mod daemon;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "nobody is robbed here")]
mod netns;

use daemon::{Daemon, run};
use netns::in_netns;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Two ports of a service that were seen in two lives, and one that was seen in one.
const LEARNED: &str = r#"{"version":1,"units":{"db.service":{"life":"b","dropped":0,"ports":[
    {"protocol":"tcp","port":40001,"first":1,"last":3,"is":"learned"},
    {"protocol":"tcp","port":5432,"first":2,"last":3,"is":"learned"},
    {"protocol":"tcp","port":5433,"first":2,"last":3,"is":"candidate","life":"b","lives":1}]}}}"#;

fn start(configuration: &str, learned: &str) -> Daemon {
    Daemon::start_with(configuration, |command: &mut Command| {
        command.arg("--no-bus");
        let root = PathBuf::from(command.get_args().skip_while(|a| *a != "--root").nth(1).unwrap());
        fs::create_dir_all(root.join("var/lib/portbroker")).unwrap();
        fs::write(root.join("var/lib/portbroker/learned.json"), learned).unwrap();
    })
}

/// As the namespace of this thread has it.
fn reserved() -> String {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap().trim().to_owned()
}

#[test]
fn what_was_learned_is_reserved_from_the_start_and_given_back_at_the_end() {
    in_netns(|| {
        let mut daemon = start("", LEARNED);
        assert_eq!(reserved(), "5432,40001");
        let (status, text, _) = run(&mut daemon.portbroker(&["--json", "list", "learned"]));
        let rows = r#"[{"port":5432,"protocol":"tcp","unit":"db.service","first_seen":2,"last_seen":3},{"port":40001,"protocol":"tcp","unit":"db.service","first_seen":1,"last_seen":3}]"#;
        assert_eq!((status, text.trim()), (0, rows));
        let (status, text, _) = run(&mut daemon.portbroker(&["status"]));
        assert!(status == 0 && text.contains("learned     2 ports"), "{text}");
        daemon.terminate();
        assert_eq!(reserved(), "");
    });
}

#[test]
fn what_is_brokered_and_learned_stays_reserved_when_it_is_forgotten() {
    in_netns(|| {
        let daemon = start("[[listener]]\nname = \"db\"\nstream = \"127.0.0.1:5432\"\n", LEARNED);
        assert_eq!(reserved(), "5432,40001");
        for port in ["5432", "40001"] {
            assert_eq!(run(&mut daemon.portbroker(&["forget", port])).0, 0);
        }
        assert_eq!(reserved(), "5432");
        let (status, _, message) = run(&mut daemon.portbroker(&["forget", "5433"]));
        assert_eq!(status, 1, "a candidate is not learned");
        assert!(message.contains("BadArgument") && message.contains("not learned"), "{message}");
    });
}

#[test]
fn where_the_ephemeral_range_has_no_room_it_is_left_alone_and_that_is_said() {
    in_netns(|| {
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40009\n").unwrap();
        let daemon = start("", LEARNED);
        assert_eq!(reserved(), "5432");
        let (status, text, _) = run(&mut daemon.portbroker(&["status"]));
        assert_eq!(status, 1);
        assert!(text.contains("not kept out of ephemeral allocation: 40001;"), "{text}");
    });
}

#[test]
fn what_is_not_to_be_learned_is_not_protected_and_is_not_lost() {
    in_netns(|| {
        let daemon = start("[protect]\nlearn = false\n", LEARNED);
        assert_eq!(reserved(), "");
        assert_eq!(run(&mut daemon.portbroker(&["list", "learned", "--json"])).1, "[]\n");
        fs::write(daemon.config(), "[protect]\nexclude = [\"40000-41000\"]\n").unwrap();
        assert_eq!(run(&mut daemon.portbroker(&["reload"])).0, 0);
        assert_eq!(reserved(), "5432");
        let kept = || fs::read_to_string(daemon.folder().join("var/lib/portbroker/learned.json")).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !kept().contains("5432") || kept().contains("40001") {
            assert!(std::time::Instant::now() < deadline, "{}", kept());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    });
}
