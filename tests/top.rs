//! `portbroker top` on a real terminal, with a real daemon: what is seen, what the keys do, and how it ends.

#![cfg(test)]

#[path = "support/bus.rs"]
mod bus;
#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "others need more of it")]
mod daemon;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "nobody is robbed here")]
mod netns;
#[path = "support/tty.rs"]
mod tty;

use daemon::{Daemon, run};
use netns::{NOBODY, in_netns, ip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use tty::Tty;

const CONFIGURATION: &str = "\
[[listener]]
name = \"web\"
stream = [\"127.0.0.1:8080\"]
[[listener]]
name = \"admin\"
stream = [\"127.0.0.1:8081\", \"[::1]:8081\"]
idle = \"refuse\"
[[pool]]
name = \"egress\"
addresses = [\"192.0.2.1-192.0.2.2\"]
ports = \"10000-10099\"
";

/// As a terminal is told it.
const GREEN: &str = "\x1b[38;5;2m";

fn started() -> Daemon {
    ip("address add 192.0.2.1/32 dev lo");
    ip("address add 192.0.2.2/32 dev lo");
    Daemon::start(CONFIGURATION)
}

/// A line that runs the verb, and then says how it ended and whether the terminal is as it was.
fn line(daemon: &Daemon, arguments: &str) -> String {
    let (program, socket) = (env!("CARGO_BIN_EXE_portbroker"), daemon.socket());
    let run = format!("'{program}' --socket '{}' {arguments}", socket.display());
    format!(
        "echo before; stty -g >modes; {run}; echo \"ended with $?\"; [ \"$(stty -g)\" = \"$(cat modes)\" ] && echo as before"
    )
}

fn top_with(
    daemon: &Daemon,
    (width, height): (u16, u16),
    variables: &[(&str, &str)],
    arguments: &str,
) -> Tty {
    // The modes of the terminal are written down beside the daemon.
    let line = format!("cd '{}'; {}", daemon.folder().display(), line(daemon, arguments));
    Tty::start(width, height, variables, &line)
}

fn top(daemon: &Daemon) -> Tty {
    let tty = top_with(daemon, (80, 24), &[], "top");
    tty.wait_for("4 Events");
    tty
}

/// The terminal was given back: what was there is there again, with its cursor and its modes.
fn given_back(tty: &Tty, status: i32) {
    let seen = tty.wait_for("as before");
    assert!(seen.starts_with("before\n") && seen.contains(&format!("ended with {status}\n")), "{seen}");
    assert_eq!((tty.is("alternate_on").as_str(), tty.is("cursor_flag").as_str()), ("0", "1"));
}

fn json(daemon: &Daemon, arguments: &[&str]) -> Value {
    let (status, text, errors) = run(daemon.portbroker(&["--json"]).args(arguments));
    assert_eq!((status, errors.as_str(), text.lines().count()), (0, "", 1));
    serde_json::from_str(&text).unwrap()
}

/// A process that has a lease or a listener until it is dropped.
struct Holds(Child);

impl Holds {
    fn new(daemon: &Daemon, arguments: &[&str]) -> Self {
        Self(daemon.portbroker(arguments).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_the_broker_has_is_seen_as_it_changes() {
    in_netns(|| {
        let daemon = started();
        let tty = top(&daemon);
        let seen = tty.wait_for("192.0.2.2");
        for part in [
            "portbroker ",
            "running",
            "1 Listeners 2",
            "admin",
            "web",
            "2 Pools 3",
            "egress",
            "3 Destinations",
        ] {
            assert!(seen.contains(part), "{part}: {seen}");
        }
        assert_eq!((seen.lines().count(), tty.is("alternate_on").as_str()), (24, "1"));
        assert!(tty.coloured().contains(GREEN), "in colours");

        // A listener is taken: its state and holder come by a signal, the hand-over by the log.
        let holder = Holds::new(&daemon, &["exec", "admin", "--", "sleep", "1000"]);
        tty.wait_for("sleep[");
        tty.wait_for("admin was reserved, is listening");
        tty.wait_for("hand-over");
        // Somebody else may not.
        assert_eq!(run(&mut daemon.portbroker_as(NOBODY, &["exec", "web", "--", "true"])).0, 77);
        tty.wait_for("refusal");
        drop(holder);
        tty.wait_for("admin was listening, is reserved");

        let waiting: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect("127.0.0.1:8080").unwrap()).collect();
        tty.wait(" 3 connections wait", |seen| {
            seen.lines().any(|line| line.starts_with("web") && line.contains(" 3/"))
        });
        drop(waiting);
        let lease = Holds::new(&daemon, &["lease", "egress", "--to", "198.51.100.7:443", "--count", "120"]);
        tty.wait("the bars of 60 ports each", |seen| seen.matches("60 %").count() >= 2 && seen.contains('█'));
        drop(lease);
        // A new listener, by a reload.
        let more = format!("{CONFIGURATION}[[listener]]\nname = \"more\"\nstream = [\"127.0.0.1:8082\"]\n");
        std::fs::write(daemon.config(), more).unwrap();
        assert_eq!(run(&mut daemon.portbroker(&["reload"])).0, 0);
        tty.wait_for("1 Listeners 3");
        tty.keys(&["q"]);
        given_back(&tty, 0);
    });
}

#[test]
fn keys_sort_filter_and_drain_after_a_question() {
    in_netns(|| {
        let daemon = started();
        let tty = top(&daemon);
        tty.keys(&["s"]);
        tty.wait_for("s by state");
        tty.keys(&["/"]);
        tty.keys(&["w", "e"]);
        tty.wait("only one is left", |seen| seen.contains("1 Listeners 1") && seen.contains("/we_"));
        tty.keys(&["Enter"]);
        tty.wait_for("only \"we\"");
        tty.keys(&["Escape"]);
        tty.wait_for("1 Listeners 2");
        tty.keys(&["?"]);
        tty.wait_for("Keys of portbroker top");
        tty.keys(&["x"]);
        tty.keys(&["2", "j", "d"]);
        tty.wait_for("Drain 192.0.2.1?");
        tty.keys(&["n"]);
        tty.wait("no question", |seen| !seen.contains("Drain 192.0.2.1?"));
        let state = || json(&daemon, &["show", "pool", "egress"])["addresses"][0]["state"].clone();
        assert_eq!(state(), "in-use");
        tty.keys(&["d"]);
        tty.wait_for("Drain 192.0.2.1?");
        tty.keys(&["y"]);
        tty.wait("it is drained", |seen| seen.contains("192.0.2.1 is drained") && seen.contains("drained  "));
        assert_eq!(state(), "drained");
        tty.keys(&["u"]);
        tty.wait_for("Give 192.0.2.1 out again?");
        tty.keys(&["y"]);
        tty.wait_for("192.0.2.1 is given out again");
        assert_eq!(state(), "in-use");
        // The picture stands still, and goes on.
        tty.keys(&["Space"]);
        tty.wait_for("STOPPED");
        let _holder = Holds::new(&daemon, &["exec", "web", "--", "sleep", "1000"]);
        tty.keys(&["Space"]);
        tty.wait_for("sleep[");
    });
}

#[test]
fn whoever_may_not_is_told_so() {
    in_netns(|| {
        let daemon = started();
        let command = daemon.portbroker_as(NOBODY, &["top"]);
        let program = command.get_program().to_owned();
        let line = format!(
            "setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups '{}' --socket '{}' top",
            program.display(),
            daemon.socket().display()
        );
        let tty = Tty::start(80, 24, &[], &line);
        tty.wait_for("192.0.2.1");
        tty.keys(&["2", "j", "d", "y"]);
        tty.wait_for("only root may");
        // Without the log there is what is announced.
        let _holder = Holds::new(&daemon, &["exec", "admin", "--", "sleep", "1000"]);
        // Told before the process became another program, or after that.
        tty.wait_for("admin: held by ");
        tty.wait_for("sleep[");
        assert!(!tty.text().contains("hand-over"));
    });
}

#[test]
fn any_size_will_do() {
    in_netns(|| {
        let daemon = started();
        let tty = top(&daemon);
        for (width, height, seen) in
            [(200, 60, "4 Events"), (40, 10, "1 Listeners"), (20, 3, "portbroker"), (80, 24, "4 Events")]
        {
            tty.resize(width, height);
            let text = tty.wait_for(seen);
            assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{text}");
        }
        tty.resize(1, 1);
        tty.wait("the first letter", |text| text.starts_with('p'));
        tty.resize(80, 24);
        tty.wait_for("q quit");
        tty.keys(&["q"]);
        given_back(&tty, 0);
        // One that says nothing of its size.
        let run = format!("stty cols 0 rows 0; {}", line(&daemon, "top"));
        let tty = Tty::start(80, 24, &[], &format!("cd '{}'; {run}", daemon.folder().display()));
        tty.wait_for("4 Events");
        tty.keys(&["q"]);
        given_back(&tty, 0);
    });
}

#[test]
fn letters_and_colours_are_those_that_are_wanted() {
    in_netns(|| {
        let daemon = started();
        let _lease = Holds::new(&daemon, &["lease", "egress", "--to", "any", "--block", "120"]);
        let tty = top_with(&daemon, (80, 24), &[("LANG", "C"), ("NO_COLOR", "1")], "top");
        let seen = tty.wait_for("###");
        assert!(seen.is_ascii(), "{seen}");
        let escapes = tty.coloured();
        assert!(!escapes.contains(GREEN) && !escapes.contains("\x1b[38;"), "{escapes}");
    });
}

#[test]
fn it_goes_on_when_the_daemon_is_restarted() {
    in_netns(|| {
        let mut daemon = started();
        let tty = top(&daemon);
        tty.wait_for("192.0.2.1");
        daemon.terminate();
        let seen = tty.wait_for("GONE for");
        assert!(seen.contains("web") && seen.contains("egress"), "what was is seen still: {seen}");
        daemon.restart_after_kill(CONFIGURATION);
        tty.wait_for("the broker is back");
        let seen = tty.wait("it is well", |seen| !seen.contains("GONE for"));
        assert!(seen.contains("running"), "{seen}");
        // And hears what the new one says.
        let _holder = Holds::new(&daemon, &["exec", "web", "--", "sleep", "1000"]);
        tty.wait_for("sleep[");
    });
}

#[test]
fn by_the_system_bus_it_is_the_same() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        let bus = bus::Bus::start(folder.path());
        ip("address add 192.0.2.1/32 dev lo");
        ip("address add 192.0.2.2/32 dev lo");
        let start = || {
            Daemon::start_with(CONFIGURATION, |command| {
                command.env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address);
            })
        };
        let daemon = start();
        let program = env!("CARGO_BIN_EXE_portbroker");
        let by_bus = || {
            Command::new(program)
                .env_remove("PORTBROKER_SOCKET")
                .env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address)
                .args(["--json", "top"])
                .output()
                .unwrap()
        };
        while !by_bus().status.success() {
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
        let tty = Tty::start(
            80,
            24,
            &[("DBUS_SYSTEM_BUS_ADDRESS", &bus.address)],
            &format!("unset PORTBROKER_SOCKET; '{program}' top"),
        );
        tty.wait_for("192.0.2.2");
        let _holder = Holds::new(&daemon, &["exec", "admin", "--", "sleep", "1000"]);
        tty.wait_for("admin was reserved, is listening");
        tty.wait_for("hand-over");
        drop(daemon);
        tty.wait_for("GONE for");
        let daemon = start();
        tty.wait_for("the broker is back");
        let _holder = Holds::new(&daemon, &["exec", "web", "--", "sleep", "1000"]);
        tty.wait_for("sleep[");
    });
}

#[test]
fn the_terminal_is_given_back_however_it_ends() {
    in_netns(|| {
        let daemon = started();
        for (keys, status) in [("q", 0), ("C-c", 0)] {
            let tty = top(&daemon);
            assert_eq!(tty.is("cursor_flag"), "0");
            tty.keys(&[keys]);
            given_back(&tty, status);
        }
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
            let tty = top(&daemon);
            kill(Pid::from_raw(tty.pid_of("portbroker")), signal).unwrap();
            given_back(&tty, 128 + signal as i32);
        }
    });
}

#[test]
fn it_can_be_stopped_and_goes_on() {
    in_netns(|| {
        let daemon = started();
        let tty = top(&daemon);
        let pid = Pid::from_raw(tty.pid_of("portbroker"));
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
        };
        let stop: [(&str, &dyn Fn()); 2] = [
            ("by its key", &|| tty.keys(&["C-z"])),
            ("by a signal", &|| kill(pid, Signal::SIGTSTP).unwrap()),
        ];
        for (how, stop) in stop {
            stop();
            tty.wait(how, |_| state() == 'T');
            assert_eq!(
                (tty.is("alternate_on").as_str(), tty.is("cursor_flag").as_str()),
                ("0", "1"),
                "{how}"
            );
            kill(pid, Signal::SIGCONT).unwrap();
            tty.wait_for("q quit");
            assert_eq!(
                (tty.is("alternate_on").as_str(), tty.is("cursor_flag").as_str()),
                ("1", "0"),
                "{how}"
            );
        }
        // Whoever stops it so leaves it no time for anything.
        kill(pid, Signal::SIGSTOP).unwrap();
        tty.wait("stopped", |_| state() == 'T');
        kill(pid, Signal::SIGCONT).unwrap();
        tty.keys(&["?"]);
        tty.wait_for("Keys of portbroker top");
        tty.keys(&["x", "q"]);
        given_back(&tty, 0);
    });
}

#[test]
fn scripts_get_one_picture() {
    in_netns(|| {
        let daemon = started();
        let _lease = Holds::new(&daemon, &["lease", "egress", "--to", "198.51.100.7:443", "--count", "120"]);
        let _waiting = TcpStream::connect("127.0.0.1:8080").unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let picture = loop {
            let picture = json(&daemon, &["top", "--once"]);
            if picture["pools"][0]["addresses"][1]["leased"] == 60 && picture["listeners"][1]["queue"] == 1 {
                break picture;
            }
            assert!(std::time::Instant::now() < deadline, "{picture}");
        };
        assert_eq!(
            (picture["state"].as_str(), picture["listeners"][0]["name"].as_str()),
            (Some("running"), Some("admin"))
        );
        assert!(
            picture["events"].as_array().unwrap().iter().any(|event| event["event"] == "leased"),
            "{picture}"
        );
        let (status, text, errors) = run(&mut daemon.portbroker(&["top", "--once"]));
        assert_eq!((status, errors.as_str()), (0, ""));
        assert!(
            text.contains("1 Listeners 2") && text.contains("192.0.2.2") && !text.contains('\x1b'),
            "{text}"
        );

        let (status, out, errors) = run(&mut daemon.portbroker(&["top"]));
        assert_eq!((status, out.as_str()), (2, ""));
        assert!(errors.contains("needs a terminal") && errors.contains("--once"), "{errors}");
        let tty = top_with(&daemon, (80, 24), &[("TERM", "dumb")], "top");
        assert!(tty.wait_for("as before").contains("ended with 2"));
        let line = line(&daemon, "top").replace(daemon.socket().to_str().unwrap(), "/nonexistent/bus");
        let tty = Tty::start(80, 24, &[], &format!("cd '{}'; {line}", daemon.folder().display()));
        given_back(&tty, 69);
        // A reader that has seen enough.
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        let output = daemon.portbroker(&["top", "--once"]).stdout(Stdio::from(writer)).output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
    });
}

#[test]
fn what_is_longer_than_the_terminal_goes_to_a_pager() {
    in_netns(|| {
        let many: String = (0..30)
            .map(|n| format!("[[listener]]\nname = \"l{n}\"\nstream = [\"127.0.0.1:{}\"]\n", 9000 + n))
            .collect();
        let daemon = Daemon::start(&many);
        let tty = top_with(&daemon, (80, 10), &[], "list listeners");
        tty.wait("less, at the beginning", |seen| seen.starts_with("NAME") && !seen.contains("l9 "));
        tty.keys(&["G"]);
        tty.wait_for("127.0.0.1:9009");
        tty.keys(&["q"]);
        tty.wait_for("ended with 0");
        let page = |variables: &[(&str, &str)], arguments: &str| {
            let tty = top_with(&daemon, (80, 10), variables, arguments);
            tty.wait_for("ended with 0")
        };
        let pager = tty.folder().join("pager");
        std::fs::File::create(&pager)
            .unwrap()
            .write_all(b"#!/bin/sh\necho paged $(wc -l) lines, $LESS $LESSSECURE\n")
            .unwrap();
        let chmod = Command::new("chmod").arg("755").arg(&pager).status().unwrap();
        assert!(chmod.success());
        let mine = [("SYSTEMD_PAGER", pager.to_str().unwrap())];
        assert!(page(&mine, "list listeners").contains("paged 31 lines, FRSXMK 1"));
        for not_paged in
            ["--no-pager list listeners", "--json list listeners", "list listeners | cat", "show listener l1"]
        {
            assert!(!page(&mine, not_paged).contains("paged"), "{not_paged}");
        }
        // No pager of one's own with the rights of another.
        let tty = top_with(&daemon, (80, 10), &[mine[0], ("SUDO_UID", "1000")], "list listeners");
        tty.wait("less", |seen| seen.starts_with("NAME") && !seen.contains("paged"));
    });
}

#[test]
fn status_is_on_one_screen() {
    in_netns(|| {
        // Of which no address is on this host.
        let pool = |n| {
            format!("[[pool]]\nname = \"p{n}\"\naddresses = [\"203.0.113.{n}\"]\nports = \"10000-10009\"\n")
        };
        let configuration: String = (1..=20).map(pool).collect();
        let daemon = Daemon::start(&configuration);
        let tty = top_with(&daemon, (80, 24), &[], "status");
        let seen = tty.wait_for("ended with 1");
        assert!(seen.contains("and 15 more: see \"portbroker status --full\""), "{seen}");
        assert!(seen.contains("20 failed") && seen.contains("before"), "{seen}");
        let (status, text, _) = run(&mut daemon.portbroker(&["status"]));
        assert!(status == 1 && text.contains("203.0.113.20") && !text.contains("more"), "{text}");
        let tty = top_with(&daemon, (80, 24), &[], "status --full");
        tty.wait("a pager", |seen| seen.starts_with("portbroker  ") && !seen.contains("ended"));
        tty.keys(&["q"]);
        tty.wait_for("ended with 1");
    });
}

#[test]
fn waiting_is_told_of_after_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("bus");
    // Nobody answers there.
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let line = format!("'{}' --socket '{}' status", env!("CARGO_BIN_EXE_portbroker"), socket.display());
    let tty = Tty::start(80, 24, &[], &format!("{line}; echo ended with $?"));
    tty.wait_for("asking the broker, for 2 s");
    drop(listener);
    let seen = tty.wait_for("ended with");
    assert!(seen.contains("not reachable") && !seen.contains("asking"), "it is gone when it is done: {seen}");
}

#[test]
fn the_daemon_has_nothing_of_it() {
    let has = |program: &str, word: &str| {
        let found = Command::new("grep").args(["-q", "-a", "-F", word, program]).status().unwrap().code();
        assert!(found < Some(2), "{program} can be read");
        found == Some(0)
    };
    for word in ["ratatui", "crossterm"] {
        assert!(has(env!("CARGO_BIN_EXE_portbroker"), word), "{word} can be told from the program");
        assert!(!has(env!("CARGO_BIN_EXE_portbrokerd"), word), "{word} is in the daemon");
        assert!(!has(env!("CARGO_BIN_EXE_portbroker-generator"), word), "{word} is in the generator");
    }
}
