//! Who waits in old sockets, those that were renewed and those of shards that are gone, of services on a booted system.
//! They have their service started as others have; and nobody waits there for ever, since a unit takes no old sockets.

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

/// Connections without an end to the one port, some of which come to the shards that are to go.
const CLIENTS: &str = "
import socket
waiting = [socket.create_connection(('127.0.0.1', 4502)) for _ in range(64)]
open('/run/waits', 'w').close()
ended = 0
for s in waiting:
    s.settimeout(60)
    try: s.recv(100)
    except ConnectionResetError: ended += 1
open('/run/answer', 'w').write('answered %d' % (len(waiting) - ended))
";

#[test]
fn old_shards_take_no_clients_from_a_unit_where_the_kernel_moves_none() {
    let unit = |shards: u8| {
        format!(
            "[Service]\nExecStart=/usr/bin/python3 /opt/serve.py\n\
             [X-PortBroker]\nListenStream=127.0.0.1:4502\nReusePort={shards}\n"
        )
    };
    let lab = prepare("unmoved")
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file(
            "/etc/systemd/system/portbroker.service.d/sysctl.conf",
            "[Service]\nReadOnlyPaths=/proc/sys/net/ipv4/tcp_migrate_req\n",
        )
        .file("/opt/clients.py", CLIENTS)
        .unit("web.service", &unit(4))
        .boot();
    lab.ok("systemctl start web");
    lab.ok("systemctl kill -s STOP web && systemd-run --unit=clients python3 /opt/clients.py");
    lab.wait_for("test -e /run/waits", 10);
    lab.write("/etc/systemd/system/web.service", &unit(2));
    lab.ok("systemctl daemon-reload");
    lab.wait_for("portbroker show listener web | grep 'draining.*queue [1-9]'", 10);
    assert_eq!(lab.ok("cat /proc/sys/net/ipv4/tcp_migrate_req"), "0");

    lab.step("restarted, it serves all who come, and nobody waits where nobody serves");
    lab.ok("systemctl kill -s KILL web; systemctl restart web");
    for _ in 0..20 {
        assert_eq!(lab.ask("4502"), "given web web");
    }
    lab.wait_for("test -e /run/answer", 10);
    assert_ne!(lab.ok("cat /run/answer"), "answered 0");
    assert!(!lab.ok("portbroker show listener web").contains("draining"));
}
