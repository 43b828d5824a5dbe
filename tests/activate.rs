//! Services that are started by the first connection, on a booted systemd.

#![cfg(test)]

use portbroker_lab::{Lab, Preparation, prepare};
use std::path::Path;
use std::time::Duration;

/// A service that greets its clients with its pid and ends when none came for so long: idle.py SECONDS.
const IDLE: &str = "
import os, select, socket, sys
assert os.environ['LISTEN_PID'] == str(os.getpid())
given = [socket.socket(fileno=3 + n) for n in range(int(os.environ['LISTEN_FDS']))]
while True:
    ready = select.select(given, [], [], float(sys.argv[1]))[0]
    if not ready:
        sys.exit(0)
    for s in ready:
        if s.type == socket.SOCK_DGRAM:
            data, peer = s.recvfrom(100)
            s.sendto(data.upper() + b' %d' % os.getpid(), peer)
        else:
            connection, _ = s.accept()
            connection.sendall(b'idle %d\\n' % os.getpid())
            connection.close()
";

/// Sends a datagram to a port of 127.0.0.1 and prints the answer: datagram.py PORT TEXT.
const DATAGRAM: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.sendto(sys.argv[2].encode(), ('127.0.0.1', int(sys.argv[1])))
print(s.recv(100).decode())
";

fn installed(name: &str) -> Preparation {
    prepare(name)
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file("/opt/idle.py", IDLE)
        .file("/opt/datagram.py", DATAGRAM)
}

/// The unit file of a service that is started on demand at a port: `service` is its own section.
fn on_demand(service: &str, port: u16) -> String {
    format!("[Service]\n{service}\n[X-PortBroker]\nListenStream=127.0.0.1:{port}\nActivate=yes\n")
}

/// Waits until nobody holds a listener.
fn wait_until_free(lab: &Lab, listener: &str) {
    lab.wait_for(&format!("portbroker --json show listener {listener} | grep -q '\"holder\":null'"), 10);
}

#[test]
fn a_service_is_started_by_the_first_connection_and_when_it_has_exited_by_the_next() {
    let lab = installed("demand")
        .unit("idle.service", &on_demand("ExecStart=/usr/bin/python3 /opt/idle.py 0.3", 4001))
        .unit(
            "datagram.service",
            "[Service]\nExecStart=/usr/bin/python3 /opt/idle.py 0.3\n\
             [X-PortBroker]\nListenDatagram=127.0.0.1:4002\nListenStream=/run/datagram.sock\nActivate=yes\n",
        )
        .boot();
    for unit in ["idle", "datagram"] {
        assert_eq!(lab.show(unit, "ActiveState"), "inactive");
    }
    for round in 1..=3 {
        lab.step(&format!("connection {round}"));
        assert_eq!(lab.ask("4001"), "idle");
        wait_until_free(&lab, "idle");
        lab.step(&format!("datagram {round}"));
        assert!(lab.ok("python3 /opt/datagram.py 4002 hello").starts_with("HELLO "));
        wait_until_free(&lab, "datagram");
    }
    lab.step("unix");
    assert_eq!(lab.ask("/run/datagram.sock"), "idle");
    lab.ok("portbroker status");
    let journal = lab.ok("journalctl -u portbroker -o cat");
    assert!(!journal.contains("it was started and"), "{journal}");

    lab.step("an administrator starts and stops it");
    lab.ok("systemctl start idle && systemctl stop idle");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(lab.show("idle", "ActiveState"), "inactive");
    assert_eq!(lab.ask("4001"), "idle");
}
