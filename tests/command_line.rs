//! The `portbroker` program against a peer that answers as the test says, and a notification socket that is the
//! test's own: what it does with every kind of answer. (What a real daemon answers is in `cli.rs`.)

#![cfg(test)]

#[path = "../client/tests/peer/mod.rs"]
#[expect(dead_code, reason = "the client's own tests need more of it")]
mod peer;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use peer::{Call, Peer, Reply};
use std::collections::HashMap;
use std::io::{IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use zbus::wire::{OwnedVariant, Variant};

const NO_SUCH_LISTENER: &str = "org.portbroker.PortBroker1.Error.NoSuchListener";

fn portbroker(socket: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
    command.env("PORTBROKER_SOCKET", socket).env_remove("NOTIFY_SOCKET");
    command.args(arguments.split(' ')).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn inode(fd: impl AsFd) -> u64 {
    nix::sys::stat::fstat(fd).unwrap().st_ino
}

/// A peer with `count` sockets for each name, whatever the name, and their inodes.
fn giver(count: usize) -> (Peer, Vec<u64>) {
    let sockets: Vec<OwnedFd> = (0..count).map(|_| UnixDatagram::unbound().unwrap().into()).collect();
    let inodes = sockets.iter().map(inode).collect();
    let peer = Peer::start(move |call: &Call| {
        let of = |name: &String| {
            let copies: Vec<_> = sockets.iter().map(|s| (name.clone(), s.try_clone().unwrap())).collect();
            copies
        };
        Reply::Sockets(call.names.iter().flat_map(of).collect())
    });
    (peer, inodes)
}

mod exec {
    use super::*;

    /// Prints the LISTEN_ variables and the inodes of descriptors from 3 on, then waits for its input to end.
    const REPORT: &str = r#"echo $$; env | grep ^LISTEN_ | sort
        n=3; while [ -e /proc/$$/fd/$n ]; do readlink /proc/$$/fd/$n; n=$((n+1)); done; echo; read x"#;

    fn report(count: usize, names: &str) -> (HashMap<String, String>, Vec<u64>, Vec<u64>, u32, u64) {
        let (peer, inodes) = giver(count);
        let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
        command.env("PORTBROKER_SOCKET", peer.path()).env("LISTEN_PIDFDID", "1");
        command.arg("exec").args(names.split(' ')).args(["--", "sh", "-c", REPORT]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut text = String::new();
        let mut byte = [0];
        while !text.ends_with("\n\n") {
            child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
            text.push(char::from(byte[0]));
        }
        let pidfd_inode = inode(pidfd(child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
        let pid = text.lines().next().unwrap().parse().unwrap();
        let variables = text.lines().filter_map(|line| line.split_once('='));
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let socket = |line: &str| line.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
        assert_eq!(pid, child.id(), "the process did not replace itself");
        (variables, text.lines().filter_map(socket).collect(), inodes, pid, pidfd_inode)
    }

    #[expect(unsafe_code, reason = "nix has no pidfd_open")]
    fn pidfd(pid: u32) -> OwnedFd {
        // SAFETY: pidfd_open(2) takes two integers.
        let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: it has just been made.
        unsafe { OwnedFd::from_raw_fd(fd.try_into().unwrap()) }
    }

    #[test]
    fn the_command_has_the_sockets_from_3_on_in_the_order_asked_for() {
        let (variables, got, inodes, pid, pidfd_inode) = report(2, "web admin");
        assert_eq!(got, [inodes.as_slice(), inodes.as_slice()].concat());
        assert_eq!(variables["LISTEN_FDS"], "4");
        assert_eq!(variables["LISTEN_FDNAMES"], "web:web:admin:admin");
        assert_eq!(variables["LISTEN_PID"], pid.to_string());
        // Where pidfds have inodes of their own, the variable is the process's; before Linux 6.9 it is unset.
        let pidfs = nix::sys::statfs::fstatfs(pidfd(std::process::id())).unwrap().filesystem_type();
        let expected = (pidfs.0 == 0x5049_4446).then(|| pidfd_inode.to_string());
        assert_eq!(variables.get("LISTEN_PIDFDID"), expected.as_ref());
    }

    #[test]
    fn targets_that_are_sources_of_others_are_not_lost() {
        for count in [1, 7, 40, 250] {
            let (_, got, inodes, ..) = report(count, "web");
            assert_eq!(got, inodes, "{count}");
        }
    }

    #[test]
    fn a_command_that_is_not_there_is_said_to_be() {
        let (peer, _) = giver(1);
        let (status, _, text) = run(&mut portbroker(peer.path(), "exec web -- /nonexistent/command"));
        assert_eq!(status, 1);
        assert!(text.contains("cannot run \"/nonexistent/command\": No such file"), "{text}");
    }

    #[test]
    fn a_limit_of_open_files_that_is_too_low_is_named() {
        let (peer, _) = giver(9);
        let try_with = |limit: u32| {
            let mut shell = Command::new("sh");
            shell.args(["-c", r#"ulimit -n $1; exec "$0" exec web -- true"#]);
            shell.args([env!("CARGO_BIN_EXE_portbroker"), &limit.to_string()]);
            run(shell.env("PORTBROKER_SOCKET", peer.path()))
        };
        assert_eq!(try_with(64).0, 0);
        // Whichever step runs out of descriptors: receiving, copying, or lifting above the targets.
        for limit in 10..30 {
            let (status, _, text) = try_with(limit);
            assert!(status == 0 || text.contains("LimitNOFILE="), "{limit}: {text}");
        }
        assert_eq!(try_with(10).0, 1);
    }

    #[test]
    fn the_answer_decides_the_exit_status() {
        let cases = [
            ("org.portbroker.PortBroker1.Error.NotAllowed", 77),
            (NO_SUCH_LISTENER, 1),
            ("org.portbroker.PortBroker1.Error.NotReady", 1),
            ("org.portbroker.PortBroker1.Error.InvalidConfiguration", 78),
        ];
        for (name, expected) in cases {
            let peer = Peer::start(move |_| Reply::Error(name, "because"));
            let (status, _, text) = run(&mut portbroker(peer.path(), "exec web -- true"));
            assert_eq!(status, expected, "{name}");
            assert_eq!(text, format!("{name}: because\n"));
        }
        let (status, _, text) = run(&mut portbroker(Path::new("/nonexistent/bus"), "exec web -- true"));
        assert_eq!(status, 69);
        assert!(text.contains("/nonexistent/bus"), "{text}");
    }
}

mod deposit {
    use super::*;

    /// A service manager that reads notifications and takes the descriptors, as systemd does.
    struct Manager {
        socket: UnixDatagram,
        folder: tempfile::TempDir,
    }

    impl Manager {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
            Self { socket, folder }
        }

        fn read(&self) -> (String, Vec<OwnedFd>) {
            let mut text = [0; 4096];
            let mut control = nix::cmsg_space!([std::os::fd::RawFd; 253]);
            let mut parts = [IoSliceMut::new(&mut text)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let message =
                recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags).unwrap();
            let mut fds = Vec::new();
            for part in message.cmsgs().unwrap() {
                if let ControlMessageOwned::ScmRights(received) = part {
                    fds.extend(received.into_iter().map(own));
                }
            }
            let length = message.bytes;
            (String::from_utf8(text[..length].to_vec()).unwrap(), fds)
        }

        /// Everything up to the barrier, each message with the inodes of its sockets; then answers the barrier.
        fn messages(&self) -> Vec<(String, Vec<u64>)> {
            let mut messages = Vec::new();
            loop {
                let (text, fds) = self.read();
                if text == "BARRIER=1\n" {
                    assert_eq!(fds.len(), 1);
                    return messages;
                }
                messages.push((text, fds.iter().map(inode).collect()));
            }
        }

        fn command(&self, socket: &Path, arguments: &str) -> Command {
            let mut command = portbroker(socket, arguments);
            command.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
            command
        }
    }

    #[expect(unsafe_code, reason = "nix gives received descriptors as numbers")]
    fn own(fd: std::os::fd::RawFd) -> OwnedFd {
        // SAFETY: recvmsg(2) has just made it.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    fn deposited(peer: &Peer, arguments: &str) -> (Vec<(String, Vec<u64>)>, String) {
        let manager = Manager::new();
        let mut command = manager.command(peer.path(), arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let messages = manager.messages();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (messages, String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn its_names_are_taken_out_of_the_store_and_then_put_in() {
        let (peer, inodes) = giver(2);
        let (messages, text) = deposited(&peer, "--json deposit web admin");
        let expected = [
            ("FDSTOREREMOVE=1\nFDNAME=admin\n".to_owned(), vec![]),
            ("FDSTOREREMOVE=1\nFDNAME=web\n".to_owned(), vec![]),
            // One by one and the last first: what systemd stored last it hands out first.
            ("FDSTORE=1\nFDNAME=admin\nFDPOLL=0\n".to_owned(), vec![inodes[1]]),
            ("FDSTORE=1\nFDNAME=admin\nFDPOLL=0\n".to_owned(), vec![inodes[0]]),
            ("FDSTORE=1\nFDNAME=web\nFDPOLL=0\n".to_owned(), vec![inodes[1]]),
            ("FDSTORE=1\nFDNAME=web\nFDPOLL=0\n".to_owned(), vec![inodes[0]]),
        ];
        assert_eq!(messages, expected);
        assert_eq!(
            text,
            "{\"deposited\":[{\"name\":\"admin\",\"sockets\":2},{\"name\":\"web\",\"sockets\":2}]}\n"
        );
        let call = peer.calls().remove(0);
        assert_eq!(
            (call.holder.as_str(), call.names.as_slice()),
            ("unit", &["web".to_owned(), "admin".to_owned()][..])
        );
    }

    #[test]
    fn a_name_that_the_broker_does_not_know_yet_is_worth_one_reload() {
        let socket = OwnedFd::from(UnixDatagram::unbound().unwrap());
        let reloaded = std::sync::atomic::AtomicBool::new(false);
        let peer = Peer::start(move |call| {
            use std::sync::atomic::Ordering::SeqCst;
            match call.member.as_str() {
                "Reload" => {
                    reloaded.store(true, SeqCst);
                    Reply::Done
                }
                _ if reloaded.load(SeqCst) => {
                    Reply::Sockets(vec![("web".into(), socket.try_clone().unwrap())])
                }
                _ => Reply::Error(NO_SUCH_LISTENER, "no listener is named \"web\""),
            }
        });
        assert_eq!(deposited(&peer, "deposit web").0.len(), 2);
        let members: Vec<String> = peer.calls().into_iter().map(|call| call.member).collect();
        assert_eq!(members, ["AcquireListeners", "Reload", "AcquireListeners", "ListDeposits"]);
    }

    #[test]
    fn a_name_that_nobody_knows_fails_the_unit() {
        let peer = Peer::start(|call| match call.member.as_str() {
            "Reload" => Reply::Done,
            _ => Reply::Error(NO_SUCH_LISTENER, "no listener is named \"web\""),
        });
        let manager = Manager::new();
        let (status, _, text) = run(&mut manager.command(peer.path(), "deposit web"));
        assert_eq!(status, 1);
        assert!(text.starts_with(NO_SUCH_LISTENER), "{text}");
        assert_eq!(peer.calls().len(), 3);

        let invalid = "org.portbroker.PortBroker1.Error.InvalidConfiguration";
        let peer = Peer::start(move |call| match call.member.as_str() {
            "Reload" => Reply::Error(invalid, "x.toml:1:1: unknown key"),
            _ => Reply::Error(NO_SUCH_LISTENER, "no listener is named \"web\""),
        });
        let (status, _, text) = run(&mut manager.command(peer.path(), "deposit web"));
        assert_eq!(status, 78);
        assert!(text.starts_with(NO_SUCH_LISTENER) && text.contains("x.toml:1:1: unknown key"), "{text}");
    }

    #[test]
    fn more_sockets_than_a_message_takes_come_name_by_name() {
        let socket = OwnedFd::from(UnixDatagram::unbound().unwrap());
        let peer = Peer::start(move |call| match call.names.as_slice() {
            [name] => Reply::Sockets(vec![(name.clone(), socket.try_clone().unwrap())]),
            _ => Reply::Error("org.portbroker.PortBroker1.Error.TooManySockets", "20 sockets"),
        });
        assert_eq!(deposited(&peer, "deposit a b").0.len(), 4);
        let asked = peer.calls().into_iter().filter(|call| call.member == "AcquireListeners").count();
        assert_eq!(asked, 3);
    }

    #[test]
    fn without_a_broker_the_service_starts_unless_it_requires_one() {
        let manager = Manager::new();
        let nowhere = Path::new("/nonexistent/bus");
        let (status, _, text) = run(&mut manager.command(nowhere, "deposit web"));
        assert_eq!(status, 0);
        assert!(text.contains("not reachable") && text.contains("binds web for itself"), "{text}");
        let (status, _, text) = run(&mut manager.command(nowhere, "deposit --required web"));
        assert_eq!(status, 69);
        assert!(text.contains("not reachable"), "{text}");
    }

    #[test]
    fn a_refusal_fails_the_unit() {
        let manager = Manager::new();
        let peer = Peer::start(|_| Reply::Error("org.portbroker.PortBroker1.Error.NotAllowed", "no grant"));
        let (status, _, text) = run(&mut manager.command(peer.path(), "deposit web"));
        assert_eq!(status, 77);
        assert_eq!(text, "org.portbroker.PortBroker1.Error.NotAllowed: no grant\n");
    }

    #[test]
    fn outside_of_a_unit_it_says_where_it_belongs() {
        let (peer, _) = giver(1);
        let (status, _, text) = run(&mut portbroker(peer.path(), "deposit web"));
        assert_eq!(status, 1);
        assert!(text.contains("NOTIFY_SOCKET") && text.contains("ExecStartPre="), "{text}");
        assert!(peer.calls().is_empty());
        let mut command = portbroker(peer.path(), "deposit web");
        let (status, _, text) = run(command.env("NOTIFY_SOCKET", "/nonexistent/notify"));
        assert_eq!(status, 1);
        assert!(text.contains("/nonexistent/notify") && text.contains("No such file"), "{text}");
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for_for_ever() {
        let (peer, _) = giver(1);
        let manager = Manager::new();
        let begin = std::time::Instant::now();
        let (status, _, text) = run(&mut manager.command(peer.path(), "deposit web"));
        assert_eq!(status, 1);
        assert!(text.contains("within 5s"), "{text}");
        assert!(begin.elapsed() < std::time::Duration::from_secs(9));
    }
}

fn properties(state: &str) -> HashMap<String, OwnedVariant> {
    let row = ("tcp 127.0.0.1:80".to_owned(), state.to_owned(), 7_u64, String::new());
    let pairs: [(&str, Variant<'static>); 7] = [
        ("Name", "web".into()),
        ("State", state.to_owned().into()),
        ("Sockets", vec![row].into()),
        ("Holders", vec!["evil\x1b[2J[7]".to_owned()].into()),
        ("Idle", "queue".into()),
        ("Allow", vec!["user:www".to_owned()].into()),
        ("Origin", "/etc/x.toml:3".into()),
    ];
    pairs.into_iter().map(|(k, v)| (k.to_owned(), OwnedVariant::try_from(v).unwrap())).collect()
}

/// A broker in this state, with one listener.
fn stateful(state: &'static str) -> Peer {
    use portbroker_client::wire;
    Peer::start(move |call| match (call.member.as_str(), call.path.as_str()) {
        ("Reload", _) => Reply::Done,
        ("GetAll", wire::MANAGER_PATH) => {
            let faults: Vec<String> = if state == "degraded" { vec!["one".into()] } else { vec![] };
            let mut pairs: Vec<(&str, Variant<'static>)> =
                vec![("State", state.into()), ("Version", "1.2".into()), ("Faults", faults.into())];
            if state == "degraded" {
                let counts = HashMap::from([("stored".to_owned(), 3_u32), ("kept".to_owned(), 2)]);
                pairs.push(("Takeover", Variant::new(counts)));
                pairs.push(("TakeoverDifferences", vec!["one is let go".to_owned()].into()));
            }
            Reply::Properties(
                pairs.into_iter().map(|(k, v)| (k.to_owned(), OwnedVariant::try_from(v).unwrap())).collect(),
            )
        }
        ("GetAll", _) => Reply::Properties(properties("listening")),
        ("Queues" | "ListForecasts", _) => {
            Reply::Error("org.freedesktop.DBus.Error.UnknownMethod", "of a later version")
        }
        _ => {
            let path = wire::listener_path("web").try_into().unwrap();
            let interfaces = HashMap::from([(wire::LISTENER_INTERFACE.to_owned(), properties("listening"))]);
            Reply::Objects(HashMap::from([(path, interfaces)]))
        }
    })
}

#[test]
fn status_tells_well_from_degraded_from_stopped() {
    let healthy = stateful("running");
    let (status, text, _) = run(&mut portbroker(healthy.path(), "status"));
    assert_eq!(
        (status, text.as_str()),
        (0, "portbroker  1.2\nstate       running\nlisteners   1 listening, 0 reserved, 0 failed\n")
    );
    let degraded = stateful("degraded");
    let (status, text, _) = run(&mut portbroker(degraded.path(), "--json status"));
    assert_eq!(status, 1);
    assert_eq!(
        text,
        "{\"state\":\"degraded\",\"version\":\"1.2\",\"faults\":[\"one\"],\"notes\":[],\"listeners\":{\"listening\":1,\"reserved\":0,\"failed\":0,\"lingering\":0},\"learned\":null,\"pools\":{\"ready\":0,\"degraded\":0,\"failed\":0,\"leased\":0,\"cooling\":0},\"takeover\":{\"kept\":2,\"stored\":3,\"differences\":[\"one is let go\"]},\"limits\":null,\"forecasts\":[]}\n"
    );
    let (_, text, _) = run(&mut portbroker(degraded.path(), "status"));
    assert!(
        text.contains(
            "\ntakeover    3 sockets stored, 2 kept; 0 holders, 0 gone\ndiffered    one is let go\n"
        ),
        "{text}"
    );
    let (status, text, message) = run(&mut portbroker(Path::new("/nonexistent/bus"), "status --json"));
    assert_eq!(status, 3);
    assert_eq!(
        text,
        "{\"state\":\"stopped\",\"version\":null,\"faults\":[],\"notes\":[],\"listeners\":null,\"learned\":null,\"pools\":null,\"takeover\":null,\"limits\":null,\"forecasts\":[]}\n"
    );
    assert!(message.contains("not reachable"), "{message}");
}

#[test]
fn the_socket_of_the_command_line_comes_before_that_of_the_environment() {
    let peer = stateful("running");
    let mut command = portbroker(Path::new("/nonexistent/bus"), "status --socket");
    assert_eq!(run(command.arg(peer.path())).0, 0);
}

#[test]
fn a_list_is_a_table_or_one_line_of_json() {
    let peer = stateful("running");
    let (status, text, _) = run(&mut portbroker(peer.path(), "list listeners"));
    let expected =
        "NAME  STATE      HOLDER            SOCKETS\nweb   listening  evil\\u{1b}[2J[7]  tcp 127.0.0.1:80\n";
    assert_eq!((status, text.as_str()), (0, expected));
    let (_, list, _) = run(&mut portbroker(peer.path(), "--json list listeners"));
    let (_, one, _) = run(&mut portbroker(peer.path(), "--json show listener web"));
    assert_eq!(list, format!("[{}]\n", one.trim_end()));
    let one: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one["holder"], "evil\u{1b}[2J[7]");
    assert_eq!(one["sockets"][0]["inode"], 7);
    let (_, text, _) = run(&mut portbroker(peer.path(), "show listener web"));
    assert!(text.contains("socket  tcp 127.0.0.1:80 listening, inode 7\n"), "{text}");
}

#[test]
fn a_reload_says_that_it_is_done() {
    let peer = stateful("running");
    assert_eq!(run(&mut portbroker(peer.path(), "reload")), (0, String::new(), String::new()));
    assert_eq!(
        run(&mut portbroker(peer.path(), "--json reload")).1,
        "{\"reloaded\":true,\"faults\":[],\"notes\":[]}\n"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let peer = stateful("running");
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    let output = portbroker(peer.path(), "status").stdout(Stdio::from(writer)).output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = portbroker(peer.path(), "status").stdout(Stdio::from(full)).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("No space left"));
}

#[test]
fn a_wrong_command_line_is_usage() {
    for line in ["", "frobnicate", "list", "exec web", "show listener a:b", "deposit"] {
        let (status, out, text) = run(&mut portbroker(Path::new("/nonexistent/bus"), line));
        assert_eq!((status, out.as_str()), (2, ""), "{line}");
        assert!(!text.is_empty());
    }
    let mut command = portbroker(Path::new("/nonexistent/bus"), "--help");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().code().is_some(), "help into a closed pipe ended by a signal");
}

#[test]
fn packages_get_completions_and_manual_pages() {
    let nowhere = Path::new("/nonexistent/bus");
    for shell in ["bash", "zsh", "fish"] {
        let (status, text, _) = run(&mut portbroker(nowhere, &format!("completions {shell}")));
        assert_eq!(status, 0);
        assert!(text.contains("deposit") && text.contains("required"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = portbroker(nowhere, "manual");
    assert_eq!(run(command.arg(folder.path())).0, 0);
    let page = std::fs::read_to_string(folder.path().join("portbroker-deposit.1")).unwrap();
    assert!(page.contains("ExecStartPre=+portbroker deposit"), "{page}");
    let (status, _, text) = run(&mut portbroker(nowhere, "manual /nonexistent/directory"));
    assert_eq!(status, 1);
    assert!(text.contains("/nonexistent/directory"), "{text}");
}
