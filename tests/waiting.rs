//! What waits in an old socket of a service: nothing waits for ever, on a booted system.
//!
//! A service that does not go on is stopped by a signal; a client comes, and the listener is renewed.

#![cfg(test)]

use portbroker_lab::{Lab, prepare};
use std::path::Path;

const UNIT: &str = "\
[Service]
ExecStart=/usr/bin/python3 /opt/serve.py
[X-PortBroker]
ListenStream=/run/app.sock
FileDescriptorName=app
";

/// Connects, says so, and tells what it gets.
const CLIENT: &str = "
import socket
s = socket.socket(socket.AF_UNIX)
s.connect('/run/app.sock')
print('connected', flush=True)
s.settimeout(30)
try:
    got = s.recv(100)
    print('greeted' if got else 'closed', flush=True)
except ConnectionResetError:
    print('reset', flush=True)
except TimeoutError:
    print('hangs', flush=True)
";

fn renewed_before_a_client_was_served(name: &str, more: &str) -> Lab {
    let lab = prepare(name)
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file("/opt/client.py", CLIENT)
        .unit("app.service", &format!("{UNIT}{more}"))
        .boot();
    lab.ok("systemctl start app");
    lab.ok("systemctl kill -s STOP app");
    lab.ok("systemd-run --unit=client python3 /opt/client.py");
    lab.wait_for(&said("connected"), 10);
    lab.ok("portbroker renew app");
    lab
}

fn said(word: &str) -> String {
    format!("journalctl -u client -o cat | grep -qx {word}")
}

#[test]
fn who_waits_in_an_old_socket_that_a_service_will_never_get_is_told_so() {
    let lab = renewed_before_a_client_was_served("renew-units", "");
    lab.ok("systemctl kill -s KILL app; systemctl restart app");
    lab.wait_for(&said("reset"), 10);
    lab.wait_for("! portbroker show listener app | grep -q draining", 10);
    assert_eq!(lab.ask("/run/app.sock"), "given app");
    assert_eq!(lab.show("app", "NFileDescriptorStore"), "1");
    lab.ok("portbroker status");
}

#[test]
fn what_waits_in_an_old_socket_starts_the_service_too() {
    let lab = renewed_before_a_client_was_served("renew-activated", "Activate=yes\n");
    lab.step("the service ends when it has lived long enough to be no failure");
    lab.ok("sleep 11; systemctl kill -s KILL app");
    lab.wait_for("systemctl is-active app", 5);
    lab.wait_for(&said("reset"), 5);
    assert_eq!(lab.ask("/run/app.sock"), "given app");
}
