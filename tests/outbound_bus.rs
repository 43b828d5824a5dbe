//! Leases over a real dbus-daemon, by programs that know nothing but D-Bus: busctl and python3-dbus.

#![cfg(test)]

#[path = "support/bus.rs"]
mod bus;
#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/leases.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod leases;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;

use bus::Bus;
use daemon::{Daemon, run};
use leases::Client;
use netns::{NOBODY, in_netns, spawn};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const POOL: &str =
    "[[pool]]\nname = \"egress\"\naddresses = [\"127.0.0.2\", \"127.0.0.3\"]\nports = \"10000-10099\"\n";

/// Opens a session, leases a pair, binds and connects it, and a socket of 16; then says the session's path, and holds
/// it until a line comes.
const PYTHON: &str = r#"
import dbus, dbus.bus, socket, sys
bus = dbus.bus.BusConnection(sys.argv[1])
manager = dbus.Interface(bus.get_object('org.portbroker.PortBroker1', '/org/portbroker/PortBroker1'),
    'org.portbroker.PortBroker1.Manager')
session, lifeline = manager.OpenSession({}, signature='a{sv}')
host, port = sys.argv[2].rsplit(':', 1)
lease, pairs = manager.LeasePairs(session, 'egress', 'tcp', sys.argv[2], 2, {}, signature='osssua{sv}')
kept = []
for address, source in pairs:
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, source)); s.connect((host, int(port))); kept.append(s)
lease, rows = manager.LeaseSockets(session, 'egress', 'tcp', sys.argv[2], 16, {}, signature='osssua{sv}')
assert len(rows) == 16
for address, source, fd in rows:
    s = socket.socket(fileno=fd.take()); assert s.getsockname() == (address, source); s.connect((host, int(port)))
    kept.append(s)
try:
    manager.LeaseSockets(session, 'egress', 'tcp', sys.argv[2], 17, {}, signature='osssua{sv}')
except dbus.exceptions.DBusException as error:
    assert error.get_dbus_name() == 'org.portbroker.PortBroker1.Error.TooManySockets', error
try:
    manager.LeasePairs(session, 'egress', 'tcp', sys.argv[2], 5000, {}, signature='osssua{sv}')
except dbus.exceptions.DBusException as error:
    assert error.get_dbus_name() == 'org.portbroker.PortBroker1.Error.Exhausted', error
    assert '182 of 200 ports' in error.get_dbus_message(), error
print(session, flush=True)
sys.stdin.readline()
"#;

fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn python_and_busctl_lease_and_the_ports_can_be_bound_and_connected() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::start(folder.path());
        let daemon = Daemon::start_with(POOL, |command| {
            command.env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address);
        });
        wait_for("the name on the bus", || daemon.log().contains("serving the system bus"));
        #[expect(clippy::disallowed_methods, reason = "somebody else's service")]
        let service = TcpListener::bind("127.0.0.1:443").unwrap();
        let mut python = spawn(
            Command::new("/usr/bin/python3")
                .args(["-c", PYTHON, &bus.address, "127.0.0.1:443"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
        );
        let mut session = String::new();
        BufReader::new(python.stdout.take().unwrap()).read_line(&mut session).unwrap();
        let session = session.trim();
        assert!(session.starts_with("/org/portbroker/PortBroker1/session/"), "{session:?}");

        let busctl = |words: &[&str]| {
            let mut command = Command::new("busctl");
            command.arg(format!("--address={}", bus.address)).args(words);
            run(&mut command)
        };
        let manager = [
            "org.portbroker.PortBroker1",
            "/org/portbroker/PortBroker1",
            "org.portbroker.PortBroker1.Manager",
        ];
        let call = |member: &str, rest: &[&str]| busctl(&[&["call"], &manager[..], &[member], rest].concat());
        let arguments = ["osssua{sv}", session, "egress", "tcp", "127.0.0.1:443", "1", "0"];
        let (status, text, errors) = call("LeasePairs", &arguments);
        assert_eq!(status, 0, "{errors}");
        // ta(sq) 3 1 "127.0.0.2" 10017
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!((words[0], words[2]), ("ta(sq)", "1"), "{text}");
        let source: SocketAddr = format!("{}:{}", words[3].trim_matches('"'), words[4]).parse().unwrap();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&source.into()).unwrap();
        socket.connect(&service.local_addr().unwrap().into()).unwrap();

        let (_, text, _) = call("ListLeases", &["tu", "0", "100"]);
        assert!(text.starts_with("a(ttssssussa(sqq)u) 3 1 "), "{text}");
        let (status, text, errors) =
            busctl(&["introspect", manager[0], "/org/portbroker/PortBroker1/pool/egress"]);
        assert!(status == 0 && text.contains(".LeftOut"), "{text}{errors}");
        let (_, text, _) = busctl(&["tree", manager[0]]);
        assert!(text.contains("/org/portbroker/PortBroker1/pool/egress"), "{text}");
        assert_eq!(call("DrainAddress", &["sa{sv}", "127.0.0.3", "0"]).0, 0);
        let property = [
            "get-property",
            manager[0],
            "/org/portbroker/PortBroker1/pool/egress",
            "org.portbroker.PortBroker1.Pool",
        ];
        let (_, text, _) = busctl(&[&property[..], &["Addresses"]].concat());
        assert!(text.contains("\"127.0.0.3\" \"draining\""), "{text}");
        let lease = words[1];
        assert_eq!(call("Release", &["t", lease]).0, 0);
        assert_ne!(call("Release", &["t", lease]).0, 0);

        python.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(python.wait().unwrap().success());
        wait_for("the end of the session", || {
            let (_, text, _) = call("ListLeases", &["tu", "0", "100"]);
            !text.contains("held")
        });
    });
}

#[test]
fn pools_that_come_change_and_go_are_told_on_the_bus() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::start(folder.path());
        let daemon = Daemon::start_with(POOL, |command| {
            command.env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address);
        });
        wait_for("the name on the bus", || daemon.log().contains("serving the system bus"));
        let log = std::fs::File::create(folder.path().join("signals")).unwrap();
        let mut monitor = spawn(
            Command::new("dbus-monitor")
                .args(["--address", &bus.address, "type='signal',sender='org.portbroker.PortBroker1'"])
                .stdout(log)
                .stderr(Stdio::null()),
        );
        let signals = || std::fs::read_to_string(folder.path().join("signals")).unwrap();
        wait_for("the monitor", || signals().contains("NameAcquired"));
        let reload = |configuration: &str| {
            std::fs::write(daemon.config(), configuration).unwrap();
            assert_eq!(run(&mut daemon.portbroker(&["reload"])).0, 0);
        };
        reload(&format!("{POOL}[[pool]]\nname = \"new\"\naddresses = [\"127.0.0.4\"]\nports = \"10000\"\n"));
        wait_for("a new pool", || signals().contains("InterfacesAdded") && signals().contains("pool/new"));
        reload(&POOL.replace("10099", "10098"));
        wait_for("its end", || signals().contains("InterfacesRemoved"));
        wait_for("the change of the other", || {
            signals().contains("path=/org/portbroker/PortBroker1/pool/egress; interface=org.freedesktop.DBus.Properties; member=PropertiesChanged")
        });
        assert!(!signals().contains("\"Capacity\"") || signals().contains("InterfacesAdded"));
        monitor.kill().unwrap();
        monitor.wait().unwrap();
    });
}

/// Waits for 200 ports with a deadline of so many milliseconds. Says what came of it and writes it to a file, and holds
/// what it got until its standard input ends. With a fourth argument a child of its has the lifeline, and lives on.
const WAITER: &str = r#"
import dbus, dbus.bus, subprocess, sys
bus = dbus.bus.BusConnection(sys.argv[1])
manager = dbus.Interface(bus.get_object('org.portbroker.PortBroker1', '/org/portbroker/PortBroker1'),
    'org.portbroker.PortBroker1.Manager')
session, lifeline = manager.OpenSession({}, signature='a{sv}')
kept = lifeline.take()
null = subprocess.DEVNULL
if len(sys.argv) > 3:
    print(subprocess.Popen(['sleep', '200'], pass_fds=[kept], stdin=null, stdout=null, stderr=null).pid, flush=True)
try:
    lease, pairs = manager.LeasePairs(session, 'egress', 'tcp', '127.0.0.1:443', 200, {'wait': dbus.UInt32(int(sys.argv[2]))},
        signature='osssua{sv}', timeout=300)
    print('got', len(pairs), flush=True)
except dbus.exceptions.DBusException as error:
    print(error.get_dbus_name(), flush=True)
sys.stdin.read()
"#;

/// A process that waits for ports, on the bus.
struct Waiter {
    process: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Waiter {
    fn start(bus: &Bus, uid: u32, milliseconds: u32, with_child: bool) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", WAITER, &bus.address, &milliseconds.to_string()]).uid(uid).gid(uid);
        command.args(with_child.then_some("with a child"));
        let mut process = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let said = BufReader::new(process.stdout.take().unwrap());
        Self { process, said }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Ends, and what it had is given back.
    fn end(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }
}

/// Others than the test's own user come to the bus in this folder.
fn open_to_all(folder: &Path) {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Users of Debian's beside `nobody`: dbus-daemon knows nobody whom the system does not.
const DAEMON: u32 = 1;
const BIN: u32 = 2;

#[test]
fn who_waits_on_the_bus_is_served_in_turn_told_when_time_is_up_and_forgotten_when_it_leaves() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        open_to_all(folder.path());
        let bus = Bus::start(folder.path());
        let pool = format!("{POOL}allow = [\"user:{NOBODY}\", \"user:{DAEMON}\", \"user:{BIN}\"]\n");
        let daemon = Daemon::start_with(&pool, |command| {
            command.env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address);
        });
        wait_for("the name on the bus", || daemon.log().contains("serving the system bus"));
        let client = Client::of(&daemon);
        let session = client.open();
        let (all, _) = client.pairs(&session, "egress", "tcp", "127.0.0.1:443", 200).unwrap();
        let waiting = || client.pool("egress", async |pool| pool.waiting().await).unwrap();
        let mut expected = 0;
        let mut start = |uid, with_child| {
            let waiter = Waiter::start(&bus, uid, 120_000, with_child);
            expected += 1;
            wait_for("one more who waits", || waiting() == expected);
            waiter
        };
        // The turn would be that of the one who leaves; a process that it has started keeps its session.
        let mut leaves = start(BIN, true);
        let (first, second, third) = (start(NOBODY, false), start(NOBODY, false), start(DAEMON, false));

        let mut late = Waiter::start(&bus, NOBODY, 300, false);
        assert_eq!(late.line(), "org.portbroker.PortBroker1.Error.Exhausted");
        late.end();
        assert_eq!(waiting(), 4);

        let child = nix::unistd::Pid::from_raw(leaves.line().parse().unwrap());
        leaves.process.kill().unwrap();
        leaves.process.wait().unwrap();
        wait_for("its turn is given up", || waiting() == 3);
        assert!(nix::sys::signal::kill(child, None).is_ok(), "its session lives on");

        client.release(all).unwrap();
        // Users take turns, which also change with time; those of one user are served in the order in which they came.
        let (tell, told) = mpsc::channel();
        let mut waiters: Vec<Child> = [first, second, third]
            .into_iter()
            .enumerate()
            .map(|waiter| {
                let (n, Waiter { process, mut said }) = waiter;
                let tell = tell.clone();
                std::thread::spawn(move || {
                    let mut line = String::new();
                    said.read_line(&mut line).unwrap();
                    tell.send((n, line)).unwrap();
                });
                process
            })
            .collect();
        let mut order = Vec::new();
        for left in [2, 1, 0] {
            let (n, line) = told.recv_timeout(Duration::from_secs(120)).expect("the next one is served");
            assert_eq!((line.as_str(), waiting()), ("got 200\n", left));
            order.push(n);
            drop(waiters[n].stdin.take());
            assert!(waiters[n].wait().unwrap().success());
        }
        let place = |waiter| order.iter().position(|n| *n == waiter);
        assert!(place(0) < place(1), "{order:?}");
        nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
        wait_for("the end of all sessions but the test's own", || client.leases().is_empty());
    });
}
