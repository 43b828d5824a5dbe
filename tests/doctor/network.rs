//! Sockets and sysctls of a network namespace of the test's own.

use crate::daemon::Daemon;
use crate::netns::in_netns;
use crate::support::{Program, Report, Root, evidence, report, set};
use std::fs;
use std::net::TcpListener;

/// Connections of a process of user 1001, of which so many are closed again by it.
fn crawler(open: usize, closed: usize) -> Program {
    let program = format!(
        "
l = [socket.create_connection(('127.0.0.1', 9000)) for _ in range({})]
for s in l[{open}:]: s.close()
del l[{open}:]",
        open + closed
    );
    Program::new(1001, &program)
}

#[test]
fn a_destination_that_uses_half_of_the_sources_is_found_with_its_owner() {
    in_netns(|| {
        set("ip_local_port_range", "40000 40099");
        let root = Root::new(&[]);
        let (open, closed) = (40, 15);
        let _server = server();
        let crawler = crawler(open, closed);
        let finding = eventually(&root, |report| {
            let found = report.found("destination-crowded");
            let text = found.first().map(|finding| evidence(finding)).unwrap_or_default();
            text.contains("40 are open and 15 in TIME_WAIT (27 %)").then(|| (*found[0]).clone())
        });
        assert_eq!(finding["severity"], "error");
        assert_eq!(finding["subject"], "127.0.0.1 to 127.0.0.1:9000");
        let owner = format!("python3 (pid {}", crawler.pid());
        assert!(
            evidence(&finding).contains(&owner) && evidence(&finding).contains("has 40 of them"),
            "{finding}"
        );
        assert!(finding["message"].as_str().unwrap().starts_with("55 of the 100 sources"), "{finding}");
        assert!(finding["remedy"].as_str().unwrap().contains("portbroker plan --connections 40 --rate 1/s"));
        // With more sources they are no crowd.
        set("ip_local_port_range", "40000 40199");
        assert!(report(&mut root.doctor()).found("destination-crowded").is_empty());
    });
}

/// A server that keeps what it accepts, and closes what its client closes.
fn server() -> Program {
    let program = "
import threading
l = made(TCP, ADDRESS); l.bind(('127.0.0.1', 9000)); l.listen(200)
def serve(s):
    s.recv(1); s.close()
def accept():
    while True: threading.Thread(target=serve, args=(l.accept()[0],), daemon=True).start()
threading.Thread(target=accept, daemon=True).start()";
    Program::new(0, program)
}

/// What is found as soon as it is there: closed connections take a moment to be in TIME_WAIT.
fn eventually<T>(root: &Root, find: impl Fn(&Report) -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let report = report(&mut root.doctor());
        if let Some(found) = find(&report) {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "{}", report.document);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn timestamps_that_are_off_are_found() {
    in_netns(|| {
        let root = Root::new(&[]);
        assert!(report(&mut root.doctor()).found("timestamps-off").is_empty());
        set("tcp_timestamps", "0");
        let report = report(&mut root.doctor());
        assert_eq!(report.one("timestamps-off")["severity"], "warning");
        assert_eq!(report.status, 1);
    });
}

#[test]
fn a_service_port_of_the_range_is_found_until_it_is_reserved() {
    in_netns(|| {
        set("ip_local_port_range", "40000 40099");
        let root = Root::new(&[("/etc/ssh/sshd_config", "Port 22\nPort 40022\n")]);
        let seen = report(&mut root.doctor());
        let finding = seen.one("service-port-ephemeral");
        assert_eq!((&finding["severity"], &finding["subject"]), (&"error".into(), &"tcp 40022".into()));
        assert_eq!(evidence(finding), "/etc/ssh/sshd_config:2 names tcp *:40022");
        // While it listens that is a warning.
        let sshd = Program::new(0, "s = made(TCP, ADDRESS); s.bind(('0.0.0.0', 40022)); s.listen()");
        let seen = report(&mut root.doctor());
        assert_eq!(seen.one("service-port-ephemeral")["severity"], "warning");
        drop(sshd);
        // What it says to do does it.
        set("ip_local_reserved_ports", "40022");
        assert!(report(&mut root.doctor()).found("service-port-ephemeral").is_empty());
    });
}

#[test]
#[expect(clippy::disallowed_methods, reason = "any server of the world")]
fn a_connection_that_has_a_service_port_is_found_with_its_process() {
    in_netns(|| {
        let root = Root::new(&[("/etc/mysql/my.cnf", "[mysqld]\nport = 33060\n")]);
        let _server = TcpListener::bind("127.0.0.1:9000").unwrap();
        // The only one that the kernel can choose.
        set("ip_local_port_range", "33060 33060");
        let client = Program::new(1001, "s = socket.create_connection(('127.0.0.1', 9000))");
        let seen = report(&mut root.doctor());
        let finding = seen.one("service-port-taken");
        assert_eq!(finding["severity"], "error");
        let owner =
            format!("127.0.0.1:33060 to 127.0.0.1:9000, established, of python3 (pid {}", client.pid());
        assert!(evidence(finding).starts_with(&owner), "{finding}");
        // And it is true that nobody can listen there.
        let service = "s = made(TCP, ADDRESS); print(tried(lambda: s.bind(('0.0.0.0', 33060))))";
        assert_eq!(Program::says(0, service), nix::libc::EADDRINUSE.to_string());
    });
}

#[test]
fn what_a_running_broker_holds_is_safe_and_what_it_protects_is_in_the_kernels_list() {
    in_netns(|| {
        set("ip_local_port_range", "40000 40099");
        let configuration = "[protect]\nlearn = false\nports = [\"40001\"]\n[[listener]]\nname = \"web\"\n\
                             stream = \"127.0.0.1:40010\"\n[[pool]]\nname = \"p\"\naddresses = \"127.0.0.1\"\nports = \"2000-2009\"\n";
        let files = [("/etc/portbroker/portbroker.toml", configuration)];
        let root = Root::new(&files);
        let absent = report(&mut root.doctor());
        assert!(absent.has("service-port-ephemeral", "tcp 40010"), "{}", absent.document);
        assert!(evidence(absent.one("broker-absent")).contains("the listener web"), "{}", absent.document);
        let daemon = Daemon::start(configuration);
        let look = || report(root.doctor().env("PORTBROKER_SOCKET", daemon.socket()));
        let well = look();
        for code in ["service-port-ephemeral", "broker-absent", "broker-degraded", "port-not-reserved"] {
            assert!(well.found(code).is_empty(), "{code}: {}", well.document);
        }
        // Its socket is nobody's to steal.
        assert!(!well.document.to_string().contains("40010"), "{}", well.document);
        // As sysctl --system does it.
        set("ip_local_reserved_ports", "");
        let wiped = look();
        assert_eq!(wiped.one("port-not-reserved")["subject"], "40001,40010");
    });
}

#[test]
fn faults_of_the_configuration_are_findings() {
    in_netns(|| {
        let root = Root::new(&[("/etc/portbroker/portbroker.toml", "[[listener]]\nnaem = \"web\"\n")]);
        let seen = report(&mut root.doctor());
        let finding = seen.one("configuration-faults");
        assert!(evidence(finding).contains("/etc/portbroker/portbroker.toml:2: "), "{finding}");
        fs::remove_file(root.join("/etc/portbroker/portbroker.toml")).unwrap();
        assert!(report(&mut root.doctor()).found("configuration-faults").is_empty());
    });
}
