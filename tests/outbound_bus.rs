//! Leases over a real dbus-daemon, by programs that know nothing but D-Bus: busctl and python3-dbus.

#![cfg(test)]

#[path = "support/bus.rs"]
mod bus;
#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;

use bus::Bus;
use daemon::{Daemon, run};
use netns::{in_netns, spawn};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
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
    let deadline = Instant::now() + Duration::from_secs(10);
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
