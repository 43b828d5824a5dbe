//! Callers that flood the broker, do not read, or send what nobody wants, slow only themselves.

#![cfg(test)]

#[path = "support/callers.rs"]
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

use callers::{Caller, median_and_most};
use daemon::{Daemon, run};
use netns::in_netns;
use nix::sys::socket::{MsgFlags, UnixAddr, recvmsg};
use serde_json::Value;
use served::{eventually, listener, reload};
use std::fs;
use std::io::{IoSliceMut, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who misbehaves, who does not, and who the daemon is.
const BAD: u32 = 61_901;
const GOOD: u32 = 61_902;
const DAEMON: u32 = 61_903;

/// A listener of so many sockets for both, and one that is nobody's.
fn web(sockets: u16, more: &str) -> String {
    format!(
        "{more}\n[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:5000-{}\"\nallow = [\"user:{BAD}\", \"user:{GOOD}\"]\n\
         [[listener]]\nname = \"private\"\nstream = \"127.0.0.1:4999\"\n",
        4999 + sockets
    )
}

/// A daemon of a user of its own, which has so many descriptors, no right to more, and perhaps a service manager.
fn with_descriptors(configuration: &str, descriptors: u32, manager: Option<&Path>) -> Daemon {
    Daemon::start_with(configuration, |command| {
        let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        let folder = PathBuf::from(arguments.iter().skip_while(|a| *a != "--root").nth(1).unwrap());
        for path in [folder.clone(), folder.join("portbroker.toml")] {
            std::os::unix::fs::chown(path, Some(DAEMON), Some(DAEMON)).unwrap();
        }
        let program = folder.join("portbrokerd");
        let mut copy = Command::new("cp");
        assert!(copy.arg(env!("CARGO_BIN_EXE_portbrokerd")).arg(&program).status().unwrap().success());
        *command = Command::new("prlimit");
        command.arg(format!("--nofile={descriptors}:{descriptors}")).arg(program).args(arguments);
        command.arg("--no-bus").uid(DAEMON).gid(DAEMON);
        for variable in
            ["NOTIFY_SOCKET", "LISTEN_FDS", "XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY", "JOURNAL_STREAM"]
        {
            command.env_remove(variable);
        }
        command.envs(manager.map(|path| ("NOTIFY_SOCKET", path)));
    })
}

fn status(daemon: &Daemon) -> Value {
    let (_, text, errors) = run(&mut daemon.portbroker(&["--json", "status"]));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"))
}

/// A limit as `status` shows it.
fn limit(daemon: &Daemon, name: &str) -> Value {
    let status = status(daemon);
    let limits = status["limits"].as_array().unwrap();
    limits.iter().find(|limit| limit["name"] == name).unwrap().clone()
}

fn used(daemon: &Daemon, name: &str) -> u64 {
    limit(daemon, name)["used"].as_u64().unwrap()
}

/// How often a user hit a limit.
fn hits(daemon: &Daemon, name: &str, uid: u32) -> u64 {
    let limit = limit(daemon, name);
    let by = limit["hit_by"].as_array().unwrap().clone();
    by.iter().find(|by| by["who"] == format!("user {uid}")).map_or(0, |by| by["times"].as_u64().unwrap())
}

fn open_descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Resident memory in kB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

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
fn a_flood_of_refusals_is_a_hundred_lines_and_a_sum() {
    in_netns(|| {
        let daemon = Daemon::start(&web(1, "[limits]\nlog-lines-per-user = 50"));
        let bad = Caller::start(&daemon.socket(), BAD, &["measure", "refused", "2000"]).measured();
        assert_eq!(bad.1, 2000);
        let good = Caller::start(&daemon.socket(), GOOD, &["measure", "refused", "3"]).measured();
        assert_eq!(good.1, 3);
        let sum = format!("more lines like these on behalf of user {BAD}");
        eventually_in(30, "the sum", || daemon.log().contains(&sum));
        let log = daemon.log();
        let of = |uid: u32| {
            log.lines()
                .filter(|l| l.contains("refused private") && l.contains(&format!("user {uid}:")))
                .count()
        };
        // A slow machine may need more than one span of ten seconds.
        assert!((50..=200).contains(&of(BAD)), "{} lines", of(BAD));
        assert_eq!(of(GOOD), 3, "another's are all there");
        let told: u64 = log.lines().filter(|line| line.contains(&sum)).map(left_out).sum();
        assert!(told > 1000, "{told}");
    });
}

/// The number in `N more lines like these`.
fn left_out(line: &str) -> u64 {
    let before = line.split(" more lines like these").next().unwrap();
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

fn eventually_in(seconds: u64, what: &str, mut is: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    while !is() {
        assert!(std::time::Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// A daemon whose log is a pipe of four KiB that nobody reads yet, and the reader of that.
fn logging_into_a_pipe(place: &Path, configuration: &str) -> (Daemon, fs::File) {
    let pipe = place.join("log");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    // Opened for both, it does not wait for the other.
    let log = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(&pipe)
        .unwrap();
    nix::fcntl::fcntl(&log, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let daemon = Daemon::start_with(configuration, |command| {
        let arguments: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        *command = Command::new("/bin/sh");
        command.args(["-c", "exec \"$@\" 2>\"$0\""]).arg(&pipe).arg(env!("CARGO_BIN_EXE_portbrokerd"));
        command.args(arguments).arg("--no-bus");
        for variable in ["NOTIFY_SOCKET", "LISTEN_FDS", "RUNTIME_DIRECTORY", "JOURNAL_STREAM"] {
            command.env_remove(variable);
        }
    });
    (daemon, log)
}

/// What is in the pipe now.
fn all_of(log: &mut fs::File) -> String {
    let (mut text, mut some) = (Vec::new(), [0; 65_536]);
    while let Ok(length) = log.read(&mut some) {
        text.extend_from_slice(&some[..length]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn who_leases_and_releases_in_a_loop_hides_nobody_elses_lines_also_where_nobody_reads_the_log() {
    in_netns(|| {
        let place = tempfile::tempdir().unwrap();
        let pool = format!(
            "[limits]\nlog-lines-per-user = 50\nlog-buffer = \"64K\"\n[[pool]]\nname = \"egress\"\n\
             addresses = [\"127.0.0.2\"]\nports = \"10000-10999\"\nallow = [\"user:{BAD}\", \"user:{GOOD}\"]\n"
        );
        let (daemon, mut log) = logging_into_a_pipe(place.path(), &web(1, &pool));
        let bad = Caller::start(&daemon.socket(), BAD, &["lease", "egress", "127.0.0.1:443"]);
        eventually("it has had its lines", || hits(&daemon, "log-lines-per-user", BAD) > 500);
        // Longer than lines are counted together: nobody reads them, so it gets no more.
        std::thread::sleep(std::time::Duration::from_secs(11));
        let words = ["lease", "egress", "--to", "127.0.0.1:444", "--", "true"];
        for _ in 0..3 {
            let (status, _, errors) = run(&mut daemon.portbroker_as(GOOD, &words));
            assert_eq!(status, 0, "{errors}");
        }
        assert!(used(&daemon, "log-buffer") > 0);
        assert_eq!(limit(&daemon, "log-buffer")["hits"], 0, "nothing is lost");
        let [rounds, errors] = bad.end()[..] else { panic!("two numbers") };
        assert_eq!(errors, 0);
        let (mut text, sum) = (String::new(), format!("more lines like these on behalf of user {BAD}"));
        eventually_in(30, "all lines, and the sum", || {
            text += &all_of(&mut log);
            text.contains(&sum)
        });
        let of = |uid: u32, word: &str| {
            text.lines().filter(|l| l.contains(word) && l.contains(&format!("uid {uid}"))).count() as u64
        };
        assert_eq!((of(GOOD, "leased 1 ports"), of(GOOD, "ended, and with it")), (3, 3), "{text}");
        let written = of(BAD, "leased 1 ports") + of(BAD, "gave lease");
        // In its first span, and in the one that began when the log was read.
        assert!((50..=100).contains(&written), "{written} lines");
        let told: u64 = text.lines().filter(|line| line.contains(&sum)).map(left_out).sum();
        println!("{rounds} leases by a user that floods: {written} lines, and {told} in a sum");
        assert!(told + 100 > 2 * rounds - written, "{told} of {rounds} leases");
    });
}

#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    in_netns(|| {
        let place = tempfile::tempdir().unwrap();
        let limits = "[limits]\nlog-lines-per-user = 1000000\nlog-buffer = \"128K\"";
        let (daemon, mut log) = logging_into_a_pipe(place.path(), &web(1, limits));
        // A line of about 200 bytes each: this pipe takes 4 KiB, and the daemon's buffer 128.
        let (times, errors, _) =
            Caller::start(&daemon.socket(), BAD, &["measure", "refused", "12000"]).measured();
        assert_eq!((times.len(), errors), (12_000, 12_000));
        assert_eq!(run(&mut daemon.portbroker(&["exec", "web", "--", "true"])).0, 0);
        let lost = limit(&daemon, "log-buffer")["hits"].as_u64().unwrap();
        let waits = used(&daemon, "log-buffer");
        assert!(lost > 5000 && waits > 100 << 10 && waits <= 128 << 10, "{lost} lost, {waits} bytes wait");
        let shown = run(&mut daemon.portbroker(&["status"])).1;
        assert!(shown.contains("lines of the log lost"), "{shown}");
        let mut text = String::new();
        eventually("what was lost is said", || {
            text += &all_of(&mut log);
            text.contains("lines of the log were lost")
        });
        eventually("nothing waits", || used(&daemon, "log-buffer") == 0);
        println!("{} bytes of log, {}", text.len(), text.lines().find(|l| l.contains("were lost")).unwrap());
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
