//! What a daemon makes of the sockets that come back to it, on a booted system.

#![cfg(test)]

use portbroker_lab::{Lab, prepare};
use std::path::Path;

const CONFIGURATION: &str = "[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:3701\"\n";

/// Spoils its socket so that nobody who is farther away than the next router reaches it, and stays.
const SPOILER: &str = "
import socket, time
s = socket.socket(fileno=3)
s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
print('spoilt', flush=True)
time.sleep(1000)
";

const TTL: &str = "portbroker exec web -- python3 -c \
                   'import socket; print(socket.socket(fileno=3).getsockopt(socket.IPPROTO_IP, socket.IP_TTL))'";

const INODE: &str = "portbroker --json show listener web | grep -o '\"inode\":[0-9]*' | head -1";

fn kill(lab: &Lab) {
    lab.ok("systemctl kill -s KILL portbroker");
    lab.wait_for("portbroker --json status", 30);
}

#[test]
fn what_a_holder_spoilt_is_mended_by_the_next_daemon_and_faults_cost_no_socket() {
    let lab = prepare("takeover")
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file("/etc/portbroker/portbroker.toml", CONFIGURATION)
        .file("/opt/spoiler.py", SPOILER)
        .boot();
    let inode = lab.ok(INODE);

    for when in ["while the holder lives", "after the holder"] {
        lab.step(&format!("the daemon is killed {when}"));
        lab.ok("systemd-run --unit=spoiler portbroker exec web -- python3 /opt/spoiler.py");
        lab.wait_for("journalctl -u spoiler -o cat | tail -3 | grep -q spoilt", 10);
        if when == "while the holder lives" {
            kill(&lab);
            lab.ok("systemctl stop spoiler");
        } else {
            lab.ok("systemctl kill -s STOP portbroker; systemctl stop spoiler");
            kill(&lab);
        }
        assert_eq!((lab.ok(TTL), lab.ok(INODE)), ("64".to_owned(), inode.clone()));
    }

    lab.step("a faulty configuration, and no last good one: the sockets wait for a better one");
    lab.ok("sed -i 's/^stream/straem/' /etc/portbroker/portbroker.toml; rm /run/portbroker/last-good.toml");
    lab.ok("systemctl kill -s KILL portbroker");
    lab.wait_for("journalctl -u portbroker -o cat | grep -q 'stay in the descriptor store'", 10);
    // Nobody refuses it: it waits in the queue.
    lab.ok("timeout 5 nc -N 127.0.0.1 3701 </dev/null & sleep 3; ss -Hltn 'sport = :3701' | grep -q 3701");
    lab.ok("sed -i 's/^straem/stream/' /etc/portbroker/portbroker.toml");
    lab.wait_for("portbroker --json status", 10);
    assert_eq!(lab.ok(INODE), inode);
}
