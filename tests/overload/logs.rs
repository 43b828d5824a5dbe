//! The log under a flood, and a log that nobody reads.

use crate::callers::Caller;
use crate::daemon::{Daemon, run};
use crate::netns::in_netns;
use crate::served::eventually;
use crate::support::{BAD, GOOD, hits, limit, used, web};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;

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
