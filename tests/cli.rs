//! The command line and the client library against the real daemon, each test in a network namespace of its own.

#![cfg(test)]

#[path = "support/bus.rs"]
mod bus;
#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "nobody is robbed here")]
mod netns;

use bus::Bus;
use daemon::{Daemon, read_until, run};
use netns::{NOBODY, in_netns};
use portbroker_client::wire::ErrorName;
use portbroker_client::{Broker, Error, Holder, ListenError, Source, listen};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CONFIGURATION: &str = r#"
[[listener]]
name = "web"
stream = ["127.0.0.1:7801", "[::1]:7801"]

[[listener]]
name = "dns"
datagram = "127.0.0.1:7853"
idle = "drop"
"#;

fn ask<T>(question: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(question)
}

fn json_of(daemon: &Daemon, arguments: &[&str]) -> Value {
    let (status, text, errors) = run(daemon.portbroker(&["--json"]).args(arguments));
    assert_eq!((status, errors.as_str()), (0, ""));
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn holder_of(daemon: &Daemon, name: &str) -> Value {
    json_of(daemon, &["show", "listener", name])["holder"].take()
}

fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_is_held_is_shown() {
    in_netns(|| {
        let daemon = Daemon::start(CONFIGURATION);
        let status = json_of(&daemon, &["status"]);
        assert_eq!(status["state"], "running");
        assert_eq!(status["faults"], json!([]));
        assert_eq!(status["listeners"]["failed"], 0);
        let list = json_of(&daemon, &["list", "listeners"]);
        assert_eq!((list[0]["name"].as_str(), list[1]["name"].as_str()), (Some("dns"), Some("web")));
        let web = json_of(&daemon, &["show", "listener", "web"]);
        // What waits is asked for one listener at a time.
        let mut listed = list[1].clone();
        for (n, socket) in listed["sockets"].as_array_mut().unwrap().iter_mut().enumerate() {
            for key in ["queue", "backlog", "overflows"] {
                assert_eq!(socket[key].take(), Value::Null);
                socket[key] = web["sockets"][n][key].clone();
            }
        }
        assert_eq!(web, listed);
        let keys: Vec<&String> = web.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "activate",
                "activation-error",
                "allow",
                "holder",
                "holders",
                "idle",
                "name",
                "notes",
                "origin",
                "sockets",
                "state"
            ]
        );
        assert_eq!(web["state"], "listening");
        assert_eq!(web["sockets"][1]["endpoint"], "tcp [::1]:7801");
        assert!(web["sockets"][1]["inode"].as_u64().unwrap() > 0);
        assert_eq!(web["origin"], format!("{}:3", daemon.config().display()));
        let (status, table, _) = run(&mut daemon.portbroker(&["list", "listeners"]));
        assert_eq!(status, 0);
        assert!(table.contains("web   listening  -       tcp 127.0.0.1:7801, tcp [::1]:7801\n"), "{table}");
    });
}

#[test]
fn a_name_that_nobody_configured_is_refused_by_name() {
    in_netns(|| {
        let daemon = Daemon::start(CONFIGURATION);
        for arguments in [
            &["show", "listener", "mail"][..],
            &["exec", "mail", "--", "true"],
            &["exec", "web", "mail", "--", "true"],
        ] {
            let (status, out, text) = run(&mut daemon.portbroker(arguments));
            assert_eq!((status, out.as_str()), (1, ""));
            assert!(text.starts_with("org.portbroker.PortBroker1.Error.NoSuchListener: "), "{text}");
            assert!(text.contains("\"mail\""), "{text}");
        }
        assert_eq!(holder_of(&daemon, "web"), Value::Null);
    });
}

#[test]
fn another_user_is_told_apart_from_a_broker_that_is_not_there() {
    in_netns(|| {
        let daemon = Daemon::start(CONFIGURATION);
        // Copied to where another user may run it; by another process, for a descriptor of ours that is open for
        // writing could be in a child of another test just then, and the program be busy.
        let tool = daemon.folder().join("portbroker");
        assert!(
            Command::new("cp").arg(env!("CARGO_BIN_EXE_portbroker")).arg(&tool).status().unwrap().success()
        );
        let as_nobody = |arguments: &[&str]| {
            let mut command = Command::new(&tool);
            run(command.env("PORTBROKER_SOCKET", daemon.socket()).args(arguments).uid(NOBODY).gid(NOBODY))
        };
        let (status, _, text) = as_nobody(&["exec", "web", "--", "true"]);
        assert_eq!(status, 77);
        assert!(text.starts_with("org.portbroker.PortBroker1.Error.NotAllowed: "), "{text}");
        // Looking is free.
        assert_eq!(as_nobody(&["status"]).0, 0);
        let socket = daemon.socket();
        drop(daemon);
        let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
        let (status, _, text) = run(command.arg("--socket").arg(socket).args(["exec", "web", "--", "true"]));
        assert_eq!(status, 69, "{text}");
    });
}

#[test]
fn a_configuration_with_faults_is_not_taken_and_all_of_them_are_said() {
    in_netns(|| {
        let daemon = Daemon::start(CONFIGURATION);
        let text = std::fs::read_to_string(daemon.config()).unwrap();
        std::fs::write(daemon.config(), format!("{text}first = 1\n[[listener]]\nname = \"x\"\nsecond = 2\n"))
            .unwrap();
        let (status, _, message) = run(&mut daemon.portbroker(&["reload"]));
        assert_eq!(status, 78, "{message}");
        assert!(message.starts_with("org.portbroker.PortBroker1.Error.InvalidConfiguration: "), "{message}");
        assert!(message.contains("\"first\"") && message.contains("\"second\""), "{message}");
        let (status, shown, _) = run(&mut daemon.portbroker(&["status"]));
        assert!(status == 1 && shown.contains("the last good one is in effect"), "{shown}");
        assert_eq!(json_of(&daemon, &["list", "listeners"]).as_array().unwrap().len(), 2);

        std::fs::write(
            daemon.config(),
            format!("{text}[[listener]]\nname = \"x\"\nstream = \"127.0.0.1:7802\"\n"),
        )
        .unwrap();
        assert_eq!(run(&mut daemon.portbroker(&["reload"])), (0, String::new(), String::new()));
        assert_eq!(run(&mut daemon.portbroker(&["status"])).0, 0);
        assert_eq!(json_of(&daemon, &["list", "listeners"]).as_array().unwrap().len(), 3);
    });
}

/// Set in the process that `portbroker exec` becomes: this test again.
const SERVER: &str = "PORTBROKER_TEST_SERVER";

#[test]
fn a_program_run_by_exec_serves_on_the_brokers_sockets() {
    if std::env::var_os(SERVER).is_some() {
        return serve_one();
    }
    in_netns(|| {
        let daemon = Daemon::start(CONFIGURATION);
        let mut command = daemon.portbroker(&["exec", "dns", "web", "--"]);
        command.arg(std::env::current_exe().unwrap());
        command.args(["--exact", "a_program_run_by_exec_serves_on_the_brokers_sockets", "--nocapture"]);
        let mut child = command.env(SERVER, "1").stderr(Stdio::piped()).spawn().unwrap();
        read_until(child.stderr.as_mut().unwrap(), "ready\n");
        let holder = holder_of(&daemon, "web");
        assert!(holder.as_str().unwrap().ends_with(&format!("[{}]", child.id())), "{holder}");

        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.send_to(b"name", "127.0.0.1:7853").unwrap();
        for address in ["127.0.0.1:7801", "[::1]:7801"] {
            let mut connection = TcpStream::connect(address).unwrap();
            connection.write_all(b"hello").unwrap();
            let mut answer = [0; 5];
            connection.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"hello");
        }
        assert!(child.wait().unwrap().success());
        wait_for("the release", || holder_of(&daemon, "web").is_null());
        // Nobody serves, and nobody is refused: idle = "queue".
        TcpStream::connect("127.0.0.1:7801").unwrap();
    });
}

/// The server: its sockets are inherited, for it can reach no broker.
fn serve_one() {
    let ask = |name| listen(name).socket_path("/nonexistent/bus").blocking().unwrap();
    let (mut web, mut dns) = (ask("web"), ask("dns"));
    assert_eq!((web.source(), web.len()), (Source::Inherited, 2));
    let listeners: Vec<TcpListener> = (0..2).map(|_| web.tcp_listener().unwrap()).collect();
    let mut question = [0; 16];
    eprintln!("ready");
    let udp = dns.udp_socket().unwrap();
    assert_eq!(udp.recv_from(&mut question).unwrap().0, 4);
    for listener in listeners {
        let (mut connection, _) = listener.accept().unwrap();
        let mut bytes = [0; 5];
        connection.read_exact(&mut bytes).unwrap();
        connection.write_all(&bytes).unwrap();
    }
}

#[test]
fn a_program_that_asks_for_itself_serves_on_the_brokers_sockets() {
    in_netns(|| {
        let path = std::env::temp_dir().join(format!("portbroker-test-{}", std::process::id()));
        let unix = path.display();
        let daemon =
            Daemon::start(&format!("{CONFIGURATION}\n[[listener]]\nname = \"app\"\nstream = \"{unix}\"\n"));
        let socket = daemon.socket();
        let mut sockets = listen("web").socket_path(&socket).or_bind("127.0.0.1:9").blocking().unwrap();
        assert_eq!((sockets.source(), sockets.len()), (Source::Broker, 2));
        let listener = sockets.tcp_listener().unwrap();
        let client = TcpStream::connect("127.0.0.1:7801").unwrap();
        assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
        assert_ne!(holder_of(&daemon, "web"), Value::Null);
        ask(async {
            let mut app = listen("app").socket_path(&socket).await.unwrap();
            let listener = app.tokio_unix_listener().unwrap();
            let client = UnixStream::connect(&path).unwrap();
            listener.accept().await.unwrap();
            drop(client);
        });
        let error = listen("mail").socket_path(&socket).blocking().unwrap_err();
        assert!(matches!(error, ListenError::Broker(Error::Refused { name: ErrorName::NoSuchListener, .. })));
        let mut own = listen("mail").socket_path(&socket).or_bind("127.0.0.1:7809").blocking().unwrap();
        assert_eq!(own.source(), Source::Bound);
        assert_eq!(own.tcp_listener().unwrap().local_addr().unwrap().port(), 7809);
    });
}

#[test]
fn more_sockets_than_a_message_takes_are_asked_for_in_parts() {
    in_netns(|| {
        let daemon = Daemon::start(
            "[[listener]]\nname = \"a\"\nstream = \"127.0.0.1:7000-7199\"\n[[listener]]\nname = \"b\"\nstream = \"127.0.0.1:7200-7399\"\n",
        );
        let broker = Broker::new().socket_path(daemon.socket());
        let (status, _, text) = run(&mut daemon.portbroker(&["exec", "a", "b", "--", "true"]));
        assert_eq!(status, 1);
        assert!(text.starts_with("org.portbroker.PortBroker1.Error.TooManySockets: "), "{text}");
        assert!(text.contains("253"), "{text}");
        assert_eq!(ask(broker.acquire(&["a"], Holder::Process)).unwrap().len(), 200);
        let count = run(&mut daemon.portbroker(&["exec", "b", "--", "sh", "-c", "echo $LISTEN_FDS"])).1;
        assert_eq!(count, "200\n");
    });
}

#[test]
fn without_a_private_socket_the_system_bus_is_asked() {
    in_netns(|| {
        assert!(
            !std::path::Path::new("/run/portbroker/bus").exists(),
            "a broker runs on this machine: stop it first"
        );
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::start(folder.path());
        let daemon = Daemon::start_with(
            &format!("{CONFIGURATION}\n[[listener]]\nname = \"many\"\nstream = \"127.0.0.1:7000-7016\"\n"),
            |command| {
                command.env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address);
            },
        );
        let portbroker = |arguments: &[&str]| {
            let mut command = daemon.portbroker(arguments);
            run(command.env_remove("PORTBROKER_SOCKET").env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address))
        };
        wait_for("the name on the bus", || portbroker(&["status"]).0 == 0);
        let (status, text, _) = portbroker(&["exec", "web", "--", "sh", "-c", "echo $LISTEN_FDNAMES"]);
        assert_eq!((status, text.as_str()), (0, "web:web\n"));
        let (status, _, text) = portbroker(&["exec", "many", "--", "true"]);
        assert_eq!(status, 1);
        assert!(text.starts_with("org.portbroker.PortBroker1.Error.TooManySockets: "), "{text}");
        assert!(text.contains("/run/portbroker/bus"), "{text}");
        // The connection, and so the daemon's name, is still there.
        assert_eq!(portbroker(&["status"]).0, 0);
        drop(daemon);
        let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
        command.env_remove("PORTBROKER_SOCKET").env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address);
        let (status, _, text) = run(command.args(["exec", "web", "--", "true"]));
        assert_eq!(status, 69);
        assert!(
            text.contains("/run/portbroker/bus: No such file") && text.contains("the system bus: "),
            "{text}"
        );
    });
}

#[test]
fn a_huge_message_does_not_get_the_daemon_thrown_off_the_bus() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::start(folder.path());
        let daemon = Daemon::start_with(CONFIGURATION, |command| {
            command.env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address);
        });
        wait_for("the name on the bus", || daemon.log().contains("serving the system bus"));
        // An answer that quotes this is longer than what the bus takes, and it disconnects who sends it.
        let quotes = "\"".repeat(20 << 20);
        let said = ask(async {
            let address: &str = &bus.address;
            let bus = zbus::connection::Builder::address(address).build().await.unwrap();
            let (name, path) = ("org.portbroker.PortBroker1", "/org/portbroker/PortBroker1");
            let body = ("org.portbroker.PortBroker1.Manager", quotes.as_str());
            let properties = Some("org.freedesktop.DBus.Properties");
            bus.call_method(Some(name), path, properties, "Get", &body).await.unwrap_err().to_string()
        });
        assert!(said.contains("org.freedesktop.DBus.Error.LimitsExceeded"), "{said}");
        assert!(!daemon.log().contains("the system bus is gone"), "{}", daemon.log());
    });
}
