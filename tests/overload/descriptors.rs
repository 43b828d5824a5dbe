//! Descriptors that were sent to callers and not read, that callers send in, and that holders take.

use crate::callers::{Caller, median_and_most};
use crate::daemon::{Daemon, run};
use crate::netns::in_netns;
use crate::served::eventually;
use crate::support::{BAD, GOOD, hits, limit, open_descriptors, status, used, web, with_descriptors};
use nix::sys::socket::{MsgFlags, UnixAddr, recvmsg};
use std::fs;
use std::io::IoSliceMut;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// A service manager that stores whatever it is given, and keeps it.
fn store(path: PathBuf) -> UnixDatagram {
    let socket = UnixDatagram::bind(&path).unwrap();
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let own = socket.try_clone().unwrap();
    std::thread::spawn(move || {
        let (mut bytes, mut room) = ([0; 8192], nix::cmsg_space!([i32; 253]));
        loop {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            // The descriptors stay in this process's table: that is the store.
            let came = recvmsg::<UnixAddr>(own.as_raw_fd(), &mut parts, Some(&mut room), MsgFlags::empty());
            if !came.is_ok_and(|message| message.bytes > 0) {
                return;
            }
        }
    });
    socket
}

#[test]
fn a_caller_that_never_reads_its_sockets_does_not_stop_hand_overs_to_others_nor_the_store() {
    in_netns(|| {
        const DESCRIPTORS: u32 = 1024;
        let first = web(20, "");
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let notify = place.path().join("notify");
        let _store = store(notify.clone());
        let daemon = with_descriptors(&first, DESCRIPTORS, Some(&notify));
        // Without the right to it, the reserved ports cannot be written.
        let faults = status(&daemon)["faults"].clone();
        let most = limit(&daemon, "unread-descriptors-per-user")["limit"].as_u64().unwrap();
        assert!(
            most < u64::from(DESCRIPTORS) / 2,
            "{most}: with few descriptors the limit is less than configured"
        );
        // 400 connections, 8,000 hand-overs of 20 sockets: 160,000 descriptors, of 1,024 that may be in flight.
        let bad = Caller::start(&daemon.socket(), BAD, &["blind", "acquire", "400", "20"]);
        eventually("it has its share", || hits(&daemon, "unread-descriptors-per-user", BAD) > 0);
        let (kept, held) = (bad.said[0], used(&daemon, "unread-descriptors"));
        println!("{kept} of 400 connections were taken, {held} descriptors are unread, {most} may be");
        assert!(held <= most && held + 20 > most, "{held} of {most}");

        let (times, errors, sockets) =
            Caller::start(&daemon.socket(), GOOD, &["measure", "acquire", "300"]).measured();
        let (median, slow) = median_and_most(&times);
        println!("meanwhile another takes 300 times 20 sockets: {median} µs, 99 of 100 below {slow} µs");
        assert_eq!((errors, sockets), (0, 300 * 20));
        // The store takes more sockets, and gives up others.
        for sockets in [60, 10, 20] {
            let other =
                format!("[[listener]]\nname = \"other\"\nstream = \"127.0.0.1:6000-{}\"", 5999 + sockets);
            // It says that reserved ports take a privilege which this daemon does not have.
            fs::write(daemon.config(), web(20, &other)).unwrap();
            let (reloaded, _, errors) = run(&mut daemon.portbroker(&["reload"]));
            assert_eq!(reloaded, 0, "{errors}");
            assert_eq!(status(&daemon)["faults"], faults, "with {sockets} sockets");
        }
        assert!(run(&mut daemon.portbroker(&["exec", "web", "--", "true"])).0 == 0, "root has its own part");
        let text = run(&mut daemon.portbroker(&["status"])).1;
        assert!(
            text.contains("unread-descriptors-per-user") && text.contains(&format!("user {BAD}")),
            "{text}"
        );
        let said = daemon.log().matches("is kept within unread-descriptors-per-user").count();
        assert_eq!(said, 1, "said once: {}", daemon.log());

        drop(bad);
        eventually("with the caller goes what it had not read", || used(&daemon, "unread-descriptors") == 0);
        let again = Caller::start(&daemon.socket(), BAD, &["measure", "acquire", "5"]).measured();
        assert_eq!((again.1, again.2), (0, 100), "and it gets sockets again");
    });
}

#[test]
fn a_connection_that_reads_nothing_is_closed_and_counts_until_its_other_end_is_gone() {
    in_netns(|| {
        let daemon = Daemon::start(&web(20, "[limits]\nunread-time = \"1s\""));
        let bad = Caller::start(&daemon.socket(), BAD, &["blind", "acquire", "1", "3"]);
        eventually("it is closed", || {
            daemon.log().contains("which read nothing of what was sent to it for 1 s")
        });
        assert_eq!(hits(&daemon, "unread-time", BAD), 1);
        assert_eq!(used(&daemon, "unread-descriptors"), 60, "nothing can take them back");
        assert_eq!(used(&daemon, "connections"), 1, "it has its place still");
        drop(bad);
        eventually("they are gone", || {
            used(&daemon, "unread-descriptors") == 0 && used(&daemon, "connections") == 0
        });
    });
}

#[test]
fn one_user_cannot_have_all_processes_that_can_be_watched_and_its_comings_and_goings_fill_no_log() {
    in_netns(|| {
        let limits = "[limits]\nholders-per-user = 16\nlog-lines-per-user = 20";
        let daemon = with_descriptors(&web(1, limits), 1024, None);
        let bad = Caller::start(&daemon.socket(), BAD, &["holders", "40"]);
        assert_eq!(bad.said[0], 16);
        assert_eq!(used(&daemon, "holders-per-user"), 16);
        let good = Caller::start(&daemon.socket(), GOOD, &["measure", "acquire", "3"]).measured();
        assert_eq!((good.1, good.2), (0, 3), "another user is handed sockets");
        drop(bad);
        eventually("they are gone", || used(&daemon, "holders-per-user") == 0);
        // A holder that stops its socket from listening without end.
        let bad = Caller::start(&daemon.socket(), BAD, &["unlisten"]);
        eventually("it did", || daemon.log().contains("its holder had changed the socket"));
        let good = Caller::start(&daemon.socket(), GOOD, &["measure", "acquire", "3"]).measured();
        assert_eq!((good.1, good.2), (0, 3));
        let times = bad.end()[0];
        let lines = daemon.log().matches("its holder had changed the socket").count();
        println!("stopped {times} times, {lines} lines of the log");
        assert!(times > 100 && lines <= 60, "{lines} lines of {times}");
    });
}

#[test]
fn descriptors_and_garbage_that_are_sent_in_are_closed_and_never_add_up() {
    in_netns(|| {
        let daemon = Daemon::start(&web(1, ""));
        let before = open_descriptors(daemon.pid());
        let bad = Caller::start(&daemon.socket(), BAD, &["garbage", "60"]);
        let during = open_descriptors(daemon.pid());
        println!(
            "{} connections sent 160,000 descriptors: {before} open before, {during} with them",
            bad.said[0]
        );
        assert!(bad.said[0] >= 50);
        assert!(during <= before + 2 * bad.said[0] + 8, "{before}, then {during}");
        assert_eq!(run(&mut daemon.portbroker(&["status"])).0, 0);
        drop(bad);
        eventually("all are closed", || open_descriptors(daemon.pid()) <= before + 2);
    });
}
