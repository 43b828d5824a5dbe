//! `portbroker renew` of a service that connections start, on a booted system: those that wait in the old socket start
//! it too, and nobody waits there for ever, since a unit takes no old sockets.

#![cfg(test)]

use portbroker_lab::prepare;
use std::path::Path;

const SECTION: &str =
    "[X-PortBroker]\nListenStream=/run/late.sock\nListenDatagram=127.0.0.1:4501\nActivate=yes\n";

/// Waits for an answer, and writes down what comes of it.
const CLIENT: &str = "
import socket
s = socket.socket(socket.AF_UNIX); s.settimeout(100); s.connect('/run/late.sock')
open('/run/waits', 'w').close()
try: answer = s.recv(5).decode() or 'ended'
except ConnectionResetError: answer = 'ended'
open('/run/answer', 'w').write(answer)
";

#[test]
fn who_waits_in_an_old_socket_starts_the_service_and_is_told_to_come_again() {
    let start = "/bin/sh -c 'test -e /run/repaired || exit 1; exec python3 /opt/serve.py'";
    let lab = prepare("renewed")
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file("/opt/client.py", CLIENT)
        .unit("late.service", &format!("[Service]\nExecStart={start}\n{SECTION}"))
        .boot();
    let shown = || lab.ok("portbroker show listener late");
    let stored = || lab.show("portbroker", "NFileDescriptorStore");
    lab.ok("systemd-run --unit=client python3 /opt/client.py");
    lab.wait_for("test -e /run/waits && portbroker show listener late | grep 'it was started and'", 10);

    lab.step("it is started again, though nothing waits in the new sockets, and takes those alone");
    lab.ok("portbroker renew late");
    assert!(shown().contains("draining, inode"), "{}", shown());
    lab.wait_for("test -e /run/answer", 20);
    assert_eq!(lab.ok("cat /run/answer"), "ended");
    assert!(!shown().contains("draining"), "{}", shown());

    lab.step("repaired, it serves, and nothing is left of the old ones");
    lab.ok("touch /run/repaired");
    assert_eq!(lab.ask("/run/late.sock"), "given late late");
    assert_eq!(stored(), "2", "the two ends of the box");
    lab.wait_for("portbroker status", 15);
}
