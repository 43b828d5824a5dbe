//! A new configuration in the real daemon: sockets that are no longer configured and that somebody has, options of
//! living sockets, what cannot be had, and many who reload at once.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/leases.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod leases;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;
#[path = "support/served.rs"]
mod served;

use daemon::{Daemon, run};
use leases::Client;
use netns::{NOBODY, Thief, in_netns};
use serde_json::Value;
use served::{Served, Storm, eventually, listener, reload, states};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const WEB: &str = "127.0.0.1:7801";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

fn web(name: &str, more: &str) -> String {
    format!("[[listener]]\nname = \"{name}\"\nstream = \"{WEB}\"\n{more}")
}

fn json(daemon: &Daemon, arguments: &[&str]) -> Value {
    let (_, text, errors) = run(daemon.portbroker(&["--json"]).args(arguments));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"))
}

fn names(daemon: &Daemon) -> Vec<String> {
    let list = json(daemon, &["list", "listeners"]);
    list.as_array().unwrap().iter().map(|listener| listener["name"].as_str().unwrap().to_owned()).collect()
}

fn inode(daemon: &Daemon, name: &str) -> u64 {
    listener(daemon, name)["sockets"][0]["inode"].as_u64().unwrap()
}

fn is_reserved(port: u16) -> bool {
    let ports = fs::read_to_string(RESERVED).unwrap();
    ports.trim().split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse().is_ok_and(|first: u16| first <= port)
            && last.parse().is_ok_and(|last: u16| port <= last)
    })
}

/// What ss(8) says of the socket that listens on a port.
fn ss(port: u16) -> String {
    let output = Command::new("ss").args(["-Htlnemo", &format!("sport = :{port}")]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Reloads, and returns what was said of it.
fn reload_with_notes(daemon: &Daemon, configuration: &str) -> String {
    fs::write(daemon.config(), configuration).unwrap();
    let (status, _, errors) = run(&mut daemon.portbroker(&["reload"]));
    assert_eq!(status, 0, "{errors}");
    errors
}

#[test]
fn a_removed_listener_lingers_until_its_holder_goes_and_is_nobody_elses_meanwhile() {
    in_netns(|| {
        let daemon = Daemon::start(&web("web", ""));
        let before = inode(&daemon, "web");
        let service = Served::start(&daemon, "web");
        let storm = Storm::start(WEB, 2);
        let thief = Thief::tcp(WEB.parse().unwrap());
        let holder = listener(&daemon, "web")["holder"].clone();
        for _ in 0..3 {
            reload(&daemon, "");
            let lingers = listener(&daemon, "web");
            assert_eq!((&lingers["state"], &lingers["holder"]), (&"lingering".into(), &holder));
            assert_eq!(states(&daemon, "web"), ["lingering"]);
            assert_eq!((inode(&daemon, "web"), names(&daemon)), (before, vec!["web".to_owned()]));
            assert_eq!(json(&daemon, &["status"])["listeners"]["lingering"], 1);
            assert!(is_reserved(7801), "its port is not given to others while somebody has it");
            let (status, _, text) = run(&mut daemon.portbroker(&["exec", "web", "--", "true"]));
            assert!(status == 1 && text.contains("NoSuchListener"), "{text}");
            let (status, text, _) = run(&mut daemon.portbroker(&["show", "listener", "web"]));
            assert!(
                status == 0 && text.contains("lingering") && text.contains("no longer configured"),
                "{text}"
            );
            // Back, under another name: the same socket, with its holder.
            reload(&daemon, &web("other", "idle = \"refuse\"\n"));
            let back = listener(&daemon, "other");
            assert_eq!((&back["state"], &back["holder"]), (&"listening".into(), &holder));
            assert_eq!((inode(&daemon, "other"), names(&daemon)), (before, vec!["other".to_owned()]));
            reload(&daemon, &web("web", ""));
            assert_eq!((inode(&daemon, "web"), &listener(&daemon, "web")["holder"]), (before, &holder));
        }
        reload(&daemon, "");
        assert!(storm.stop() > 100);
        assert_eq!(thief.stop().listens, 0);
        service.end();
        eventually("it is gone with its holder", || names(&daemon).is_empty());
        assert!(!is_reserved(7801) && TcpStream::connect(WEB).is_err());
        // And what comes then is another one.
        reload(&daemon, &web("web", ""));
        assert_ne!(inode(&daemon, "web"), before);
        assert!(listener(&daemon, "web")["holder"].is_null());
    });
}

#[test]
fn a_list_shows_what_each_listener_by_itself_is_whatever_changed_since_the_last_list() {
    in_netns(|| {
        let of = |names: &str, more: &str| {
            let one = |name: char| {
                let port = 7801 + u32::from(name) - u32::from('a');
                format!("[[listener]]\nname = \"{name}\"\nstream = \"127.0.0.1:{port}\"\n{more}")
            };
            names.chars().map(one).collect::<String>()
        };
        let daemon = Daemon::start(&of("abc", ""));
        let agrees = |expected: &str| {
            let list = json(&daemon, &["list", "listeners"]);
            for row in list.as_array().unwrap() {
                let mut one = listener(&daemon, row["name"].as_str().unwrap());
                for socket in one["sockets"].as_array_mut().unwrap() {
                    // What a look at the socket tells, and a list has not.
                    for key in ["backlog", "overflows", "queue"] {
                        socket[key] = Value::Null;
                    }
                }
                assert_eq!(row, &one);
            }
            assert_eq!(names(&daemon).concat(), expected);
        };
        agrees("abc");
        let service = Served::start(&daemon, "b");
        (0..2).for_each(|_| agrees("abc"));
        reload(&daemon, &of("bcd", "idle = \"refuse\"\n"));
        agrees("bcd");
        reload(&daemon, &of("cde", "backlog = 5\n"));
        (0..2).for_each(|_| agrees("bcde"));
        service.end();
        eventually("b is gone with its holder", || names(&daemon).concat() == "cde");
        #[expect(clippy::disallowed_methods, reason = "somebody else's service")]
        let taken = TcpListener::bind("127.0.0.1:7806").unwrap();
        assert!(reload_with_notes(&daemon, &of("def", "")).contains("the address is in use"));
        agrees("def");
        assert_eq!(states(&daemon, "f"), ["failed"]);
        drop(taken);
        eventually("f is bound", || states(&daemon, "f") == ["listening"]);
        agrees("def");
    });
}

#[test]
fn addresses_that_leave_a_listener_linger_beside_those_that_stay_and_paths_yield_to_new_ones() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let path = path.display();
        let text = |addresses: &str| format!("[[listener]]\nname = \"web\"\n{addresses}\n");
        let daemon = Daemon::start(&text(&format!("stream = [\"{WEB}\", \"{path}\"]\ndatagram = \"{WEB}\"")));
        let service =
            Served::with(&daemon, "web", "import sys; print('ready', flush=True); sys.stdin.read()");
        reload(&daemon, &text("stream = \"127.0.0.1:7802\""));
        assert_eq!(states(&daemon, "web"), ["listening", "lingering", "lingering", "lingering"]);
        UnixStream::connect(path.to_string()).unwrap();
        assert!(is_reserved(7801) && is_reserved(7802));

        // A port is free only when its holder closes it: that is said, and waited for.
        let wildcard = "stream = \"127.0.0.1:7802\"\ndatagram = \"0.0.0.0:7801\"";
        let said = reload_with_notes(&daemon, &text(wildcard));
        assert!(
            said.contains("udp 127.0.0.1:7801 of web, which is no longer configured, is still held by"),
            "{said}"
        );
        // A path is taken away.
        let other_kind = format!("stream = \"127.0.0.1:7802\"\nseqpacket = \"{path}\"");
        reload(&daemon, &text(&other_kind));
        assert_eq!(states(&daemon, "web"), ["listening", "listening", "lingering", "lingering"]);
        assert!(UnixStream::connect(path.to_string()).is_err(), "it is of another kind now");

        reload_with_notes(&daemon, &text(wildcard));
        service.end();
        eventually("all is as configured", || states(&daemon, "web") == ["listening", "listening"]);
        assert_eq!(run(&mut daemon.portbroker(&["status"])).0, 0);
        reload(&daemon, "");
        assert!(!is_reserved(7801) && !is_reserved(7802));
    });
}

#[test]
fn options_change_on_the_living_socket_and_what_cannot_is_said() {
    in_netns(|| {
        let daemon = Daemon::start(&web("web", "backlog = 100\n"));
        let before = inode(&daemon, "web");
        let service = Served::start(&daemon, "web");
        let has = |text: &str| assert!(ss(7801).contains(text), "no {text:?} in {}", ss(7801));
        has(" 100 ");
        reload(
            &daemon,
            &web("web", "backlog = 7\nmark = 5\nreceive-buffer = \"32K\"\nsend-buffer = \"64K\"\n"),
        );
        for text in [" 7 ", "fwmark:0x5", ",rb65536,", ",tb131072,"] {
            has(text);
        }
        reload(&daemon, &web("web", "mark = 6\n"));
        assert!(!ss(7801).contains(",rb65536,"), "back in the kernel's hands: {}", ss(7801));
        for text in [" 4096 ", "fwmark:0x6"] {
            has(text);
        }
        assert_eq!(inode(&daemon, "web"), before);

        // What a bound socket cannot change takes a new one, and that is said until it is there.
        let said = reload_with_notes(&daemon, &web("web", "protocol = \"mptcp\"\n"));
        assert!(
            said.contains("note: listener \"web\": tcp 127.0.0.1:7801: ")
                && said.contains("portbroker renew"),
            "{said}"
        );
        assert!(json(&daemon, &["status"])["notes"][0].as_str().unwrap().contains("portbroker renew"));
        assert!(listener(&daemon, "web")["notes"][0].as_str().unwrap().contains("portbroker renew"));
        assert_eq!(run(&mut daemon.portbroker(&["status"])).0, 0, "it is served, and not degraded");
        assert_eq!(run(&mut daemon.portbroker(&["renew", "web"])).0, 0);
        assert_eq!(json(&daemon, &["status"])["notes"], Value::Array(vec![]));
        service.end();

        let said =
            reload_with_notes(&daemon, &web("web", "protocol = \"mptcp\"\ntcp-congestion = \"nosuch\"\n"));
        assert!(said.contains("this kernel has no nosuch"), "{said}");
    });
}

#[test]
fn what_a_living_socket_could_not_be_given_is_a_fault_until_it_is_not_asked_for() {
    in_netns(|| {
        let daemon = Daemon::start_as(NOBODY, &web("web", ""));
        let before = inode(&daemon, "web");
        let reload = |text: &str| {
            fs::write(daemon.config(), text).unwrap();
            run(&mut daemon.portbroker_as(NOBODY, &["reload"]))
        };
        for _ in 0..2 {
            let (status, _, said) = reload(&web("web", "mark = 5\nbacklog = 9\n"));
            assert_eq!(status, 0, "the port is kept");
            let fault = "goes on as it was: \"mark\" (SO_MARK) takes CAP_NET_ADMIN";
            assert!(said.contains("CAP_NET_ADMIN") && said.contains("goes on as it was"), "{fault}: {said}");
            assert!(ss(7801).contains(" 9 "), "one that fails keeps none of the others back: {}", ss(7801));
            let shown = listener(&daemon, "web");
            assert!(shown["sockets"][0]["error"].as_str().unwrap().contains("CAP_NET_ADMIN"), "{shown}");
            assert_eq!((&shown["state"], inode(&daemon, "web")), (&"listening".into(), before));
        }
        let (_, _, said) = reload(&web("web", ""));
        assert!(!said.contains("mark"), "{said}");
        assert!(listener(&daemon, "web")["sockets"][0]["error"].is_null());
    });
}

#[test]
fn a_configuration_that_cannot_be_had_as_a_whole_is_taken_and_says_what_is_missing() {
    in_netns(|| {
        let daemon = Daemon::start(&web("web", ""));
        #[expect(clippy::disallowed_methods, reason = "a service that knows nothing of the broker")]
        let taken = TcpListener::bind("127.0.0.1:7803").unwrap();
        let more = "[[listener]]\nname = \"taken\"\nstream = \"127.0.0.1:7803\"\n\
                    [[listener]]\nname = \"free\"\nstream = \"127.0.0.1:7804\"\n\
                    [[pool]]\nname = \"egress\"\naddresses = [\"192.0.2.77\"]\nports = \"10000-10009\"\n";
        let said = reload_with_notes(&daemon, &format!("{}{more}", web("web", "")));
        assert!(said.contains("degraded: listener \"taken\": ") && said.contains("(pid "), "{said}");
        assert!(said.contains("degraded: pool egress: ") && said.contains("192.0.2.77"), "{said}");
        assert_eq!(states(&daemon, "free"), ["listening"], "the others have what they should");
        let document = json(&daemon, &["reload"]);
        assert_eq!((&document["reloaded"], document["faults"].as_array().unwrap().len()), (&true.into(), 2));
        drop(taken);
        eventually("the port is taken when it is free", || states(&daemon, "taken") == ["listening"]);
    });
}

#[test]
fn half_a_file_is_a_fault() {
    in_netns(|| {
        let daemon = Daemon::start(&web("web", ""));
        let whole = format!("{}[[listener]]\nname = \"b\"\nstream = \"127.0.0.1:7802\"\n", web("web", ""));
        reload(&daemon, &whole);
        let known = names(&daemon);
        // Cut anywhere it is a fault or, where a table ends just there, what is left of it; the old one goes on.
        let mut faults = 0;
        for end in (web("web", "").len() + 1..whole.len() - 1).step_by(3) {
            fs::write(daemon.config(), &whole[..end]).unwrap();
            let (status, _, errors) = run(&mut daemon.portbroker(&["reload"]));
            if status == 78 {
                faults += 1;
                assert!(errors.contains("portbroker.toml:"), "{errors}");
                assert_eq!(names(&daemon), known, "{:?}", &whole[..end]);
            }
        }
        assert!(faults > 10, "{faults}");
    });
}

/// A daemon of a user's own, which is configured by units below its root.
fn of_units(files: &[(&str, &str)]) -> Daemon {
    Daemon::start_with("", |command| {
        let folder = PathBuf::from(command.get_args().skip_while(|a| *a != "--root").nth(1).unwrap());
        for (path, text) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        std::os::unix::fs::chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        let program = folder.join("portbrokerd");
        let mut copy = Command::new("cp");
        assert!(copy.arg(env!("CARGO_BIN_EXE_portbrokerd")).arg(&program).status().unwrap().success());
        *command = Command::new(program);
        command.arg("--root").arg(&folder).arg("--socket").arg(folder.join("bus")).arg("--no-bus");
        command.uid(NOBODY).gid(NOBODY);
        for variable in
            ["NOTIFY_SOCKET", "LISTEN_FDS", "XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY", "JOURNAL_STREAM"]
        {
            command.env_remove(variable);
        }
    })
}

#[test]
fn a_unit_that_cannot_be_read_any_more_loses_no_listener() {
    const USR: &str = "usr/lib/systemd/system";
    const ETC: &str = "etc/systemd/system";
    let section = |name: &str, port: u16| {
        format!("[X-PortBroker]\nListenStream=127.0.0.1:{port}\nFileDescriptorName={name}\n")
    };
    in_netns(|| {
        let daemon = of_units(&[
            (&format!("{USR}/db.service"), "[Service]\nExecStart=/bin/true\n"),
            (&format!("{ETC}/db.service.d/ports.conf"), &section("db", 7805)),
            (&format!("{USR}/own.service"), &section("own", 7806)),
            (&format!("{USR}/other.service"), "[Service]\nExecStart=/bin/true\n"),
        ]);
        let inodes = || ["db", "own"].map(|name| inode(&daemon, name));
        let before = inodes();
        let hide = |path: &str, mode| {
            fs::set_permissions(daemon.folder().join(path), fs::Permissions::from_mode(mode)).unwrap();
            let (status, _, errors) = run(&mut daemon.portbroker(&["reload"]));
            assert_eq!(inodes(), before, "{path}");
            (status, errors)
        };
        // What has no section, and what has none of its own: only the log says so.
        for path in [format!("{USR}/other.service"), format!("{USR}/db.service")] {
            assert_eq!(hide(&path, 0).0, 0);
            assert!(daemon.log().contains(&format!("/{path}: warning: cannot be read: Permission denied")));
        }
        // What has one, or has what has one in it.
        for path in [format!("{USR}/own.service"), format!("{ETC}/db.service.d"), ETC.to_owned()] {
            let (status, errors) = hide(&path, 0);
            assert!(status == 78 && errors.contains(&format!("/{path}: error: cannot be read")), "{errors}");
            assert_eq!(hide(&path, 0o755).0, 0);
        }
    });
}

#[test]
fn the_last_of_many_reloads_at_once_is_what_counts_and_signals_are_reloads() {
    in_netns(|| {
        let daemon = Daemon::start(&web("web", ""));
        let service = Served::start(&daemon, "web");
        let storm = Storm::start(WEB, 1);
        let write = |n: usize| {
            let text = format!("{}[protect]\nports = [\"{}\"]\n", web("web", ""), 5000 + n);
            let new = daemon.config().with_extension("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, daemon.config()).unwrap();
        };
        let done = std::sync::atomic::AtomicBool::new(false);
        let done = &done;
        std::thread::scope(|scope| {
            let (socket, pid) = (daemon.socket(), daemon.pid());
            for n in 0..4 {
                let socket = socket.clone();
                scope.spawn(move || {
                    let client = Client::at(&socket);
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        if n == 0 {
                            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
                            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
                        } else if n == 1 {
                            let acquire = client.ask(async |manager| {
                                manager.acquire_listeners(&["web"], HashMap::new()).await
                            });
                            assert_eq!(acquire.unwrap().len(), 1);
                        } else {
                            client.ask(async |manager| manager.reload().await).unwrap();
                        }
                    }
                });
            }
            let client = Client::at(&socket);
            for n in 0..50 {
                write(n);
                client.ask(async |manager| manager.reload().await).unwrap();
                // Whoever has the answer has the configuration that was there before the question, or a later one.
                assert!(is_reserved(u16::try_from(5000 + n).unwrap()), "after {n}");
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        write(77);
        let pid = nix::unistd::Pid::from_raw(daemon.pid().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
        eventually("the signal is obeyed", || is_reserved(5077));
        assert!(storm.stop() > 50);
        service.end();
    });
}

#[test]
fn ten_thousand_listeners_come_and_go_and_nobody_waits_long() {
    in_netns(|| {
        const MANY: u16 = 10_000;
        let daemon = Daemon::start(&web("web", ""));
        let before = inode(&daemon, "web");
        let mut half = web("web", "");
        let add = |text: &mut String, ports: std::ops::Range<u16>| {
            for port in ports {
                let _ = write!(text, "[[listener]]\nname = \"p{port}\"\nstream = \"127.0.0.1:{port}\"\n");
            }
        };
        add(&mut half, 20_000..20_000 + MANY / 2);
        let mut many = half.clone();
        add(&mut many, 20_000 + MANY / 2..20_000 + MANY);
        let socket = daemon.socket();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let waited = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let client = Client::at(&socket);
                let mut longest = Duration::ZERO;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let begun = Instant::now();
                    client.ask(async |manager| manager.version().await).unwrap();
                    longest = longest.max(begun.elapsed());
                }
                longest
            });
            let client = Client::of(&daemon);
            let mut took = Vec::new();
            for text in [&half, &many, &web("web", ""), &half, &web("web", "backlog = 5\n")] {
                fs::write(daemon.config(), text).unwrap();
                let begun = Instant::now();
                client.ask(async |manager| manager.reload().await).unwrap();
                took.push(begun.elapsed());
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            println!("5,000 listeners added, 5,000 more, 10,000 removed, 5,000 added, removed: {took:.1?}");
            asking.join().unwrap()
        });
        println!("the longest that somebody else waited meanwhile: {waited:.1?}");
        assert_eq!((names(&daemon), inode(&daemon, "web")), (vec!["web".to_owned()], before));
        assert!(!is_reserved(20_000) && is_reserved(7801));
        let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
        assert!(open < 100, "{open} descriptors");
    });
}
