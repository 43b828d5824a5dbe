//! The real daemon in a network namespace of the test's own: what it does when things change or go wrong.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;

use daemon::{Daemon, run};
use netns::{NOBODY, Thief, in_netns};
use serde_json::Value;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

fn json_of(daemon: &Daemon, arguments: &[&str]) -> Value {
    let (_, text, errors) = run(daemon.portbroker(&["--json"]).args(arguments));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"))
}

fn listener(daemon: &Daemon, name: &str) -> Value {
    json_of(daemon, &["show", "listener", name])
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn reload(daemon: &Daemon, configuration: &str) -> (i32, String) {
    fs::write(daemon.config(), configuration).unwrap();
    let (status, _, errors) = run(&mut daemon.portbroker(&["reload"]));
    (status, errors)
}

/// A program that takes listeners and lives until its standard input closes.
struct Served(Child);

impl Served {
    fn start(daemon: &Daemon, names: &[&str], script: &str) -> Self {
        let mut command = daemon.portbroker(&["exec"]);
        command.args(names).args(["--", "python3", "-c", script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"ready\n");
        Self(child)
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

/// Accepts nothing.
const IDLE: &str = "import sys; print('ready', flush=True); sys.stdin.read()";

/// Accepts one connection at once and keeps it until the end.
const ACCEPT: &str = "import socket, sys
l = socket.socket(fileno=3); print('ready', flush=True)
c, _ = l.accept(); c.send(b'hello'); sys.stdin.read()";

fn is_refused(address: &str) -> bool {
    let address: SocketAddr = address.parse().unwrap();
    matches!(TcpStream::connect(address), Err(error) if error.kind() == ErrorKind::ConnectionRefused)
}

#[expect(clippy::disallowed_methods, reason = "a service that knows nothing of the broker")]
fn somebody_listens(address: &str) -> TcpListener {
    TcpListener::bind(address).unwrap()
}

#[test]
fn a_listener_refuses_again_when_its_holder_is_gone_and_its_port_is_nobodys_meanwhile() {
    in_netns(|| {
        let daemon =
            Daemon::start("[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7801\"\nidle = \"refuse\"\n");
        let inode = listener(&daemon, "web")["sockets"][0]["inode"].clone();
        let thief = Thief::tcp("127.0.0.1:7801".parse().unwrap());
        for _ in 0..5 {
            assert!(is_refused("127.0.0.1:7801"));
            let served = Served::start(&daemon, &["web"], ACCEPT);
            let mut client = TcpStream::connect("127.0.0.1:7801").unwrap();
            let mut hello = [0; 5];
            client.read_exact(&mut hello).unwrap();
            served.end();
            // With a connection that is alive on the client's side, and soon others in TIME_WAIT.
            eventually("the listener refuses", || listener(&daemon, "web")["state"] == "reserved");
            assert!(is_refused("127.0.0.1:7801"));
            drop(client);
        }
        let loot = thief.stop();
        assert!(loot.tries > 100, "{loot:?}");
        assert_eq!((loot.listens, loot.accepts), (0, 0), "{loot:?}");
        assert_eq!(listener(&daemon, "web")["sockets"][0]["inode"], inode, "the port was never given up");
    });
}

#[test]
fn patience_ends_in_refusal_and_begins_anew_with_each_holder() {
    in_netns(|| {
        let daemon =
            Daemon::start("[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7801\"\nidle = \"queue 3s\"\n");
        TcpStream::connect("127.0.0.1:7801").unwrap();
        eventually("the end of patience", || is_refused("127.0.0.1:7801"));
        Served::start(&daemon, &["web"], IDLE).end();
        TcpStream::connect("127.0.0.1:7801").unwrap();
        eventually("the end of patience", || is_refused("127.0.0.1:7801"));
    });
}

#[test]
fn datagrams_are_dropped_while_nobody_holds_the_listener() {
    in_netns(|| {
        let daemon =
            Daemon::start("[[listener]]\nname = \"dns\"\ndatagram = \"0.0.0.0:7853\"\nidle = \"drop\"\n");
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect("127.0.0.1:7853").unwrap();
        for _ in 0..3 {
            client.send(b"old").unwrap();
        }
        let script = "import socket, sys
s = socket.socket(fileno=3); print('ready', flush=True)
while True:
    d, a = s.recvfrom(9); s.sendto(d, a)
    if d == b'end': break";
        let mut served = Served::start(&daemon, &["dns"], script);
        client.send(b"new").unwrap();
        client.send(b"end").unwrap();
        let mut answer = [0; 3];
        client.recv(&mut answer).unwrap();
        assert_eq!(&answer, b"new");
        served.0.wait().unwrap();
        eventually("the listener drops", || listener(&daemon, "dns")["state"] == "reserved");
    });
}

#[test]
fn a_port_that_somebody_holds_is_named_waited_for_and_costs_the_others_nothing() {
    in_netns(|| {
        let taken = somebody_listens("127.0.0.1:7801");
        let daemon = Daemon::start(
            "[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7801\"\n\
             [[listener]]\nname = \"api\"\nstream = \"127.0.0.1:7802\"\n",
        );
        assert_eq!(run(&mut daemon.portbroker(&["status"])).0, 1, "degraded");
        let error = listener(&daemon, "web")["sockets"][0]["error"].as_str().unwrap().to_owned();
        let own = format!("(pid {}", std::process::id());
        assert!(error.contains("listens on it") && error.contains(&own), "{error}");
        let (status, _, text) = run(&mut daemon.portbroker(&["exec", "web", "--", "true"]));
        assert_eq!(status, 1);
        assert!(text.starts_with("org.portbroker.PortBroker1.Error.NotReady: "), "{text}");
        Served::start(&daemon, &["api"], IDLE).end();
        drop(taken);
        // Whoever asks need not wait for the next try.
        Served::start(&daemon, &["web"], IDLE).end();
        assert_eq!(run(&mut daemon.portbroker(&["status"])).0, 0);
    });
}

#[test]
fn a_port_that_becomes_free_is_taken_without_being_asked() {
    in_netns(|| {
        let taken = somebody_listens("127.0.0.1:7801");
        let daemon = Daemon::start("[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7801\"\n");
        assert_eq!(listener(&daemon, "web")["state"], "failed");
        drop(taken);
        eventually("the port is taken", || listener(&daemon, "web")["state"] == "listening");
    });
}

#[test]
fn a_reload_leaves_what_did_not_change_alone() {
    in_netns(|| {
        let a = "[[listener]]\nname = \"a\"\nstream = [\"127.0.0.1:7801\", \"/tmp/portbroker-test-a\"]\n";
        let path = std::env::temp_dir().join(format!("portbroker-reload-{}", std::process::id()));
        let a = a.replace("/tmp/portbroker-test-a", &path.display().to_string());
        let daemon = Daemon::start(&format!("{a}[[listener]]\nname = \"b\"\nstream = \"127.0.0.1:7802\"\n"));
        let served = Served::start(&daemon, &["a"], IDLE);
        let before = listener(&daemon, "a");
        // A connection that waits in the queue of b, which stays under another name.
        let mut queued = TcpStream::connect("127.0.0.1:7802").unwrap();
        let (status, errors) = reload(
            &daemon,
            &format!(
                "{a}[[listener]]\nname = \"c\"\nstream = \"127.0.0.1:7802\"\nbacklog = 7\n\
                      [[listener]]\nname = \"d\"\nstream = \"127.0.0.1:7803\"\n"
            ),
        );
        assert_eq!((status, errors.as_str()), (0, ""));
        assert_eq!(listener(&daemon, "a"), before, "held as before, by the same process");
        assert!(run(&mut daemon.portbroker(&["show", "listener", "b"])).0 == 1);
        let other = Served::start(&daemon, &["c"], ACCEPT);
        let mut hello = [0; 5];
        queued.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello");
        served.end();
        other.end();
        let text = Command::new("ss").args(["-Hltn", "sport = :7802"]).output().unwrap().stdout;
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.split_whitespace().nth(2), Some("7"), "{text}");
        // From a wildcard to one address of the same port, with no moment without.
        let thief = Thief::tcp("127.0.0.1:7803".parse().unwrap());
        for address in ["0.0.0.0:7803", "127.0.0.1:7803", "[::]:7803", "127.0.0.1:7803"] {
            let to = format!("[[listener]]\nname = \"d\"\nstream = \"{address}\"\n");
            assert_eq!(reload(&daemon, &to), (0, String::new()));
            TcpStream::connect("127.0.0.1:7803").unwrap();
        }
        assert_eq!(thief.stop().listens, 0);
        assert!(!path.exists(), "the path of a removed listener is removed");
    });
}

#[test]
fn only_our_reserved_ports_are_taken_out_again_also_after_a_crash() {
    in_netns(|| {
        fs::write(RESERVED, "9000-9010,7801").unwrap();
        let reserved = || fs::read_to_string(RESERVED).unwrap().trim().to_owned();
        let mut daemon = Daemon::start(
            "[protect]\nports = [\"6379\", \"9010-9012\"]\n[[listener]]\nname = \"web\"\n\
             stream = [\"127.0.0.1:7801\", \"127.0.0.1:7802\"]\n",
        );
        assert_eq!(reserved(), "6379,7801-7802,9000-9012");
        // Somebody else adds one, and another wipes everything.
        fs::write(RESERVED, "4444").unwrap();
        assert_eq!(run(&mut daemon.portbroker(&["reload"])).0, 0);
        assert_eq!(reserved(), "4444,6379,7801-7802,9010-9012");
        fs::write(RESERVED, "4444,6379,7801-7802,9000-9012").unwrap();
        daemon.restart_after_kill("[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7802\"\n");
        // 7801 and 9010 were the others' in the beginning, and ours since the wipe.
        assert_eq!(reserved(), "4444,7802,9000-9009");
        daemon.terminate();
        assert_eq!(reserved(), "4444,9000-9009", "an end for good leaves nothing of ours");
    });
}

#[test]
fn a_wipe_of_the_reserved_ports_is_mended_within_a_minute() {
    in_netns(|| {
        let _daemon = Daemon::start("[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7801\"\n");
        fs::write(RESERVED, "\n").unwrap();
        let begin = Instant::now();
        while fs::read_to_string(RESERVED).unwrap().trim() != "7801" {
            assert!(begin.elapsed() < Duration::from_secs(70), "not mended");
            std::thread::sleep(Duration::from_millis(200));
        }
    });
}

#[test]
fn without_privileges_it_says_what_it_lacks_and_does_the_rest() {
    in_netns(|| {
        fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "1024").unwrap();
        let configuration = "[[listener]]\nname = \"low\"\nstream = \"127.0.0.1:80\"\n\
                             [[listener]]\nname = \"high\"\nstream = \"127.0.0.1:7801\"\n";
        let daemon = Daemon::start_as(NOBODY, configuration);
        let status = json_of(&daemon, &["status"]);
        assert_eq!(status["state"], "degraded");
        let faults = status["faults"].to_string();
        assert!(faults.contains("CAP_NET_BIND_SERVICE"), "{faults}");
        assert!(faults.contains("ip_local_reserved_ports"), "{faults}");
        assert_eq!(listener(&daemon, "high")["state"], "listening");
        // The daemon's own user is its administrator there, and root of the host is not.
        let mut command = daemon.portbroker_as(NOBODY, &["exec", "high", "--", "true"]);
        assert_eq!(run(&mut command), (0, String::new(), String::new()));
    });
}

#[test]
fn grants_of_users_and_groups_are_kept_and_everything_else_is_refused() {
    in_netns(|| {
        let daemon = Daemon::start(
            "[[listener]]\nname = \"user\"\nstream = \"127.0.0.1:7801\"\nallow = [\"user:65534\"]\n\
             [[listener]]\nname = \"group\"\nstream = \"127.0.0.1:7802\"\nallow = [\"group:4711\"]\n\
             [[listener]]\nname = \"root\"\nstream = \"127.0.0.1:7803\"\n",
        );
        let taken = |uid: u32, gid: u32, name: &str| {
            let mut command = daemon.portbroker_as(uid, &["exec", name, "--", "true"]);
            run(command.gid(gid)).0
        };
        assert_eq!(taken(NOBODY, NOBODY, "user"), 0);
        assert_eq!(taken(NOBODY - 1, NOBODY, "user"), 77);
        assert_eq!(taken(NOBODY, 4711, "group"), 0);
        assert_eq!(taken(NOBODY, NOBODY, "group"), 77);
        assert_eq!(taken(NOBODY, NOBODY, "root"), 77);
        let (status, _, text) = run(&mut daemon.portbroker_as(NOBODY, &["reload"]));
        assert_eq!(status, 77, "{text}");
        // One structured event each.
        let log = daemon.log();
        assert_eq!(log.matches("event=\"hand-over\"").count(), 2, "{log}");
        assert_eq!(log.matches("event=\"refusal\"").count(), 4, "{log}");
    });
}

#[test]
fn the_root_of_a_container_is_not_root() {
    in_netns(|| {
        let daemon = Daemon::start("[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7801\"\n");
        for flags in [&["-m"][..], &["-p", "-f", "-m"], &["-U", "-r"]] {
            let mut command = Command::new("unshare");
            command.args(flags).arg(env!("CARGO_BIN_EXE_portbroker")).args(["exec", "web", "--", "true"]);
            let (status, _, text) = run(command.env("PORTBROKER_SOCKET", daemon.socket()));
            assert_eq!(status, 77, "unshare {flags:?}: {text}");
        }
        assert!(daemon.log().contains("outside of the initial namespaces"), "{}", daemon.log());
    });
}

#[test]
fn callers_that_vanish_send_garbage_or_never_read_cost_nobody_else_anything() {
    in_netns(|| {
        let daemon = Daemon::start("[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7801\"\n");
        let descriptors = || fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
        assert_eq!(run(&mut daemon.portbroker(&["status"])).0, 0);
        eventually("a quiet beginning", || descriptors() < 40);
        let before = descriptors();
        let hello = b"\0AUTH EXTERNAL 30\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n";
        let mut open = Vec::new();
        for n in 0..200usize {
            let mut stream = UnixStream::connect(daemon.socket()).unwrap();
            match n % 4 {
                // Not a word of D-Bus.
                0 => drop(stream.write_all(&[0xff; 4096])),
                // Authenticated, then a message that claims to be 100 MB, and nothing more.
                1 => {
                    let mut message = hello.to_vec();
                    message.extend(b"l\x01\0\x01\0\0\0\x06\x01\0\0\0\0\0\0\0");
                    stream.write_all(&message).unwrap();
                    open.push(stream);
                }
                // Authenticated, then a header that is none.
                2 => drop(stream.write_all(
                    &[hello, &b"l\x01\0\x01\x04\0\0\0\x01\0\0\0\xff\xff\0\0garbage"[..]].concat(),
                )),
                _ => {}
            }
        }
        for _ in 0..20 {
            let mut child = daemon.portbroker(&["exec", "web", "--", "sleep", "60"]).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(u64::from(child.id() % 7)));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(run(&mut daemon.portbroker(&["exec", "web", "--", "true"])).0, 0);
        let rss = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let rss: u64 = rss
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:"))
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap();
        assert!(rss < 100_000, "50 clients that claim to send 100 MB each made it {rss} kB");
        drop(open);
        eventually("all is let go", || descriptors() <= before);
        eventually("nobody holds it", || listener(&daemon, "web")["holder"].is_null());
    });
}

#[test]
fn one_user_cannot_use_up_the_connections_of_all() {
    in_netns(|| {
        let daemon = Daemon::start("[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7801\"\n");
        let program = format!(
            "import socket, sys\nl = []\nfor _ in range(2000):\n    s = socket.socket(socket.AF_UNIX); s.connect('{}'); l.append(s)\n\
             print('ready', flush=True); sys.stdin.read()",
            daemon.socket().display()
        );
        let mut command = Command::new("python3");
        command.args(["-c", &program]).uid(NOBODY).gid(NOBODY).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert_eq!(run(&mut daemon.portbroker(&["exec", "web", "--", "true"])).0, 0);
        let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
        assert!(open < 400, "{open} descriptors");
        drop(child.stdin.take());
        child.wait().unwrap();
    });
}

#[test]
fn the_system_bus_may_come_late_and_come_back() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        let bus = folder.path().join("deep/bus");
        let address = format!("unix:path={}", bus.display());
        let daemon =
            Daemon::start_with("[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7801\"\n", |command| {
                command.env("DBUS_SYSTEM_BUS_ADDRESS", &address);
            });
        for _ in 0..2 {
            fs::create_dir_all(bus.parent().unwrap()).unwrap();
            let mut running = Command::new("dbus-daemon")
                .args(["--session", "--nofork", "--nopidfile", "--address", &address])
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            eventually("the name is on the bus", || {
                let mut command = Command::new("busctl");
                command.args(["--address", &address, "get-property", "org.portbroker.PortBroker1"]);
                command.args(["/org/portbroker/PortBroker1", "org.portbroker.PortBroker1.Manager", "State"]);
                command.stderr(Stdio::null()).output().unwrap().stdout == b"s \"running\"\n"
            });
            running.kill().unwrap();
            running.wait().unwrap();
            fs::remove_dir_all(bus.parent().unwrap()).unwrap();
            assert_eq!(run(&mut daemon.portbroker(&["status"])).0, 0, "the private socket serves on");
        }
    });
}

#[test]
fn a_unix_socket_that_could_not_be_mended_is_bound_anew_before_it_is_handed_out() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("run");
        let path = directory.join("x.sock");
        let daemon =
            Daemon::start(&format!("[[listener]]\nname = \"web\"\nstream = \"{}\"\n", path.display()));
        let served = Served::start(&daemon, &["web"], IDLE);
        // As RuntimeDirectory= of a service that stops, with somebody else's file in its place.
        fs::remove_dir_all(&directory).unwrap();
        fs::write(&directory, "").unwrap();
        served.end();
        eventually("the listener has failed", || listener(&daemon, "web")["state"] == "failed");
        assert_ne!(
            run(&mut daemon.portbroker(&["exec", "web", "--", "true"])).0,
            0,
            "handed out without a name"
        );
        fs::remove_file(&directory).unwrap();
        let served = Served::start(&daemon, &["web"], ACCEPT);
        let mut hello = [0; 5];
        UnixStream::connect(&path).unwrap().read_exact(&mut hello).unwrap();
        served.end();
        assert_eq!(listener(&daemon, "web")["state"], "listening");
    });
}

#[test]
fn a_holder_that_stops_its_socket_without_end_keeps_nobody_else_waiting() {
    in_netns(|| {
        let daemon = Daemon::start(
            "[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7803-8050\"\n[[listener]]\nname = \"db\"\nstream = \"127.0.0.1:7802\"\n",
        );
        let script = "import os, socket, sys, threading
for _ in range(3):
    if os.fork() == 0:
        ls = [socket.socket(fileno=3 + i) for i in range(248)]
        while os.getppid() != 1:
          for l in ls:
            try: l.shutdown(socket.SHUT_RD)
            except OSError: pass
        os._exit(0)
print('ready', flush=True); sys.stdin.read()
os.killpg(0, 9)";
        let script = format!("import os; os.setpgid(0, 0)\n{script}");
        let mut spoiler = Served::start(&daemon, &["web"], &script);
        let begin = Instant::now();
        for _ in 0..3 {
            assert_eq!(run(&mut daemon.portbroker(&["exec", "db", "--", "true"])).0, 0);
        }
        let took = begin.elapsed();
        drop(spoiler.0.stdin.take());
        spoiler.0.wait().unwrap();
        assert!(took < Duration::from_secs(8), "{took:?}");
    });
}
