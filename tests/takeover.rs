//! What a daemon makes of the sockets that come back to it, on a booted system.

#![cfg(test)]

use portbroker_lab::{Lab, prepare};
use serde_json::Value;
use std::path::Path;

const CONFIGURATION: &str = "\
[[listener]]
name = \"web\"
stream = \"127.0.0.1:3701\"
[[listener]]
name = \"patient\"
stream = \"127.0.0.1:3702\"
idle = \"queue 5s\"
";

const PATIENT: &str = "portbroker --json show listener patient | grep -o '\"state\":\"[a-z]*\"' | head -1";

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
    lab.wait_for(&format!("test \"$({PATIENT})\" = '\"state\":\"reserved\"'"), 20);

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
        // Its time was up, and is not begun anew for those who come now.
        assert_eq!(lab.ok(PATIENT), "\"state\":\"reserved\"");
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

const DIFFERENT: &str = "\
[[listener]]
name = \"same\"
stream = \"127.0.0.1:3711\"
[[listener]]
name = \"lost\"
stream = \"127.0.0.1:3712\"
[[listener]]
name = \"closed\"
stream = \"127.0.0.1:3713\"
idle = \"refuse\"
[[listener]]
name = \"tuned\"
stream = \"127.0.0.1:3714\"
ip-ttl = 9
[[listener]]
name = \"held\"
stream = \"127.0.0.1:3715\"
";

const NEW: &str = "[[listener]]\nname = \"new\"\nstream = \"127.0.0.1:3716\"\n";

/// Holds a listener, and spoils its socket.
const HOLDER: &str = "systemd-run --unit=holder portbroker exec held -- python3 -c \"
import socket, time
socket.socket(fileno=3).setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
open('/run/spoilt', 'w')
time.sleep(1000)\"";

/// A daemon that leaves behind what ours never would. It empties the store first.
const STRANGE: &str = "\
import array, os, socket, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ['NOTIFY_SOCKET'])
names = os.environ['LISTEN_FDNAMES'].split(':')
for n, name in enumerate(names):
    if name != 'portbroker':
        notify.send(f'FDSTOREREMOVE=1\\nFDNAME={name}'.encode())
        os.close(3 + n)
def store(name, fd):
    notify.sendmsg([f'FDSTORE=1\\nFDNAME=portbroker.{name}\\nFDPOLL=0'.encode()],
                   [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))])
kept = []
for port in 3711, 3713, 3714, 3715, 3719:
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    while True:
        try: s.bind(('127.0.0.1', port))
        except OSError: time.sleep(0.01)
        else: break
    s.listen()
    if port == 3715: s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
    store(os.fstat(s.fileno()).st_ino, s.fileno())
    kept.append(s)
store(1, os.pipe()[0])
notify.send(b'READY=1')
time.sleep(1000)
";

fn takeover(lab: &Lab) -> Value {
    // It is told once every socket has been looked at.
    lab.wait_for("portbroker --json status | grep -q '\"takeover\":{'", 10);
    let status: Value = serde_json::from_str(&lab.ok("portbroker --json status")).unwrap();
    assert_eq!((&status["state"], &status["faults"]), (&"running".into(), &Value::Array(Vec::new())));
    status["takeover"].clone()
}

#[test]
fn what_differs_between_store_configuration_and_kernel_is_told_and_put_right() {
    let drop_in = "/etc/systemd/system/portbroker.service.d/strange.conf";
    let lab = prepare("differs")
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file("/etc/portbroker/portbroker.toml", DIFFERENT)
        .file("/opt/strange.py", STRANGE)
        .boot();
    lab.step("of a cold start there is nothing to tell");
    assert!(lab.ok("portbroker --json status").contains("\"takeover\":null"));
    lab.ok(HOLDER);
    lab.wait_for("test -e /run/spoilt", 10);

    lab.step("nor of sockets that come back as they were, but how many");
    kill(&lab);
    let found = takeover(&lab);
    assert_eq!((&found["stored"], &found["kept"], &found["holders"]), (&5.into(), &5.into(), &1.into()));
    assert_eq!(found["differences"], Value::Array(Vec::new()), "{found}");

    lab.step("of what a holder has done that is gone");
    lab.ok("systemctl kill -s STOP portbroker && systemctl stop holder && systemctl kill -s KILL portbroker");
    lab.wait_for("portbroker status", 20);
    let found = takeover(&lab);
    for (word, count) in [("kept", 5), ("mended", 1), ("holders", 0), ("holders-gone", 1)] {
        assert_eq!(found[word], count, "{word}: {found}");
    }
    let told = found["differences"].to_string();
    assert!(told.contains("tcp 127.0.0.1:3715 of held: IP_TTL was changed: put right"), "{told}");
    assert!(lab.ok("portbroker status").contains("1 mended; 0 holders, 1 gone"));

    lab.step("of everything else that differs");
    lab.ok(&format!("rm /run/spoilt; {HOLDER}"));
    lab.wait_for("test -e /run/spoilt", 10);
    lab.write(drop_in, "[Service]\nExecStart=\nExecStart=/usr/bin/python3 /opt/strange.py\n");
    // The holder has the socket, and would keep the strange daemon from it.
    lab.ok("systemctl kill -s STOP portbroker && systemctl stop holder && systemctl daemon-reload");
    lab.ok("systemctl kill -s KILL portbroker");
    lab.wait_for("test $(systemctl show -P NFileDescriptorStore portbroker) = 6", 20);
    lab.write("/etc/portbroker/portbroker.toml", &format!("{DIFFERENT}{NEW}"));
    lab.ok(&format!("rm {drop_in} && systemctl daemon-reload"));
    kill(&lab);
    let found = takeover(&lab);
    let counts = [
        ("stored", 6),
        ("kept", 4),
        ("draining", 0),
        ("let-go", 1),
        ("unusable", 1),
        ("missing", 1),
        ("new", 1),
        ("changed", 2),
        ("mended", 0),
        ("replaced", 0),
        ("holders", 0),
        ("holders-gone", 1),
    ];
    for (word, count) in counts {
        assert_eq!(found[word], count, "{word}: {found}");
    }
    let told: Vec<&str> = found["differences"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for what in [
        "tcp 127.0.0.1:3719 is no longer configured: let go",
        "a stored socket is none of ours",
        "tcp 127.0.0.1:3712 of lost was configured before and is not among what was stored: bound anew",
        "tcp 127.0.0.1:3716 of new is configured since: bound anew",
        "tcp 127.0.0.1:3713 of closed was open to clients, and refuses them again",
        "tcp 127.0.0.1:3714 of tuned: ip-ttl was 64 and is 9",
        ", which held held, is gone",
    ] {
        assert!(told.iter().any(|text| text.contains(what)), "{what}: {told:?}");
    }
    assert_eq!(told.len(), 7, "{told:?}");

    lab.step("in the text of status and in one line of the journal, too");
    let status = lab.ok("portbroker status");
    let line =
        "6 sockets stored, 4 kept, 1 let go, 1 unusable, 1 missing, 1 new, 2 changed; 0 holders, 1 gone";
    assert!(status.contains(line) && status.contains("ip-ttl was 64 and is 9"), "{status}");
    let journal = lab.ok("journalctl -u portbroker -o cat PORTBROKER_EVENT=takeover | tail -1");
    assert!(journal.starts_with("took 4 of 6 stored sockets over, with 0 holders; 1 let go"), "{journal}");

    lab.step("it has been put right: the next one finds nothing");
    lab.ok("ss -Hltn 'sport = :3712' | grep -q 3712");
    assert_eq!(lab.ok("ss -Hltn 'sport = :3713 or sport = :3719'"), "");
    kill(&lab);
    let found = takeover(&lab);
    assert_eq!((&found["stored"], &found["kept"]), (&6.into(), &6.into()));
    assert_eq!(found["differences"], Value::Array(Vec::new()), "{found}");
}
