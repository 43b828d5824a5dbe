//! What a stop and a reload of the broker's unit mean, on the systemd that there is: what 253 and 254 brought is used
//! where they are, and nothing of it is known to an older one.

#![cfg(test)]

use portbroker_lab::{Lab, prepare};
use std::path::Path;

const CONFIGURATION: &str = "\
[[listener]]
name = \"web\"
stream = [\"127.0.0.1:3801\", \"/run/web.sock\"]
remove-on-stop = true
[[listener]]
name = \"closed\"
stream = \"127.0.0.1:3802\"
idle = \"refuse\"
";

const FILE: &str = "/etc/portbroker/portbroker.toml";
const INODES: &str = "portbroker --json list listeners | grep -o '\"inode\":[0-9]*'";
const RESERVED: &str = "cat /proc/sys/net/ipv4/ip_local_reserved_ports";
const STOP: &str = "systemctl stop portbroker.socket portbroker.service";
/// Whoever waits is answered when a service comes.
const CLIENT: &str = "systemd-run --unit=client sh -c 'python3 /opt/ask.py 3801 >/run/answer'";

/// `Type=notify-reload`.
const NOTIFY_RELOAD: u32 = 253;
/// `FileDescriptorStorePreserve=`.
const PRESERVE: u32 = 254;

fn booted(name: &str) -> Lab {
    let lab = prepare(name)
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file(FILE, CONFIGURATION)
        .boot();
    println!("systemd {}", lab.systemd());
    lab.ok("portbroker status");
    lab
}

fn listens(lab: &Lab) -> bool {
    lab.ok("ss -Hltn 'sport = :3801'").contains("3801")
}

/// A TCP socket that is bound and does not listen is in no list but this.
fn is_bound(lab: &Lab, port: u16) -> bool {
    let bind = format!("import socket; socket.socket().bind((\"127.0.0.1\", {port}))");
    let output = lab.sh(&format!("python3 -c '{bind}'"));
    let in_use = String::from_utf8_lossy(&output.stderr).contains("Address already in use");
    assert!(output.status.success() || in_use, "{output:?}");
    in_use
}

#[test]
fn a_stop_keeps_what_this_systemd_can_keep() {
    let lab = booted("stop");
    let before = lab.ok(INODES);
    assert_eq!(lab.ok(RESERVED), "3801-3802");
    lab.ok(STOP);
    if lab.systemd() < PRESERVE {
        lab.step("an older one gives all sockets up, and so the broker gives back what is its own");
        assert!(!listens(&lab) && !is_bound(&lab, 3802));
        assert_eq!(lab.ok(RESERVED), "");
        lab.fails("test -e /run/web.sock");
        lab.ok("systemctl start portbroker");
        assert_ne!(lab.ok(INODES), before);
        return;
    }

    lab.step("a newer one keeps them, and everything that belongs to them");
    assert!(listens(&lab) && is_bound(&lab, 3802));
    assert_eq!(lab.ok(RESERVED), "3801-3802");
    lab.ok("test -S /run/web.sock");
    lab.ok(CLIENT);
    lab.wait_for("ss -Hltn 'sport = :3801' | awk '$2 == 1 { found = 1 } END { exit !found }'", 10);

    lab.step("the next start has the same, and who connected meanwhile is served");
    lab.ok("systemctl start portbroker.socket portbroker.service");
    assert_eq!(lab.ok(INODES), before);
    lab.ok("systemd-run --unit=server portbroker exec web -- python3 /opt/serve.py");
    lab.wait_for("grep -q '^given web web$' /run/answer", 10);
    assert!(lab.ok("portbroker --json status").contains("\"kept\":3"));

    lab.step("what empties the store is asked for");
    lab.ok(&format!("systemctl stop server && {STOP} && systemctl clean --what=fdstore portbroker.service"));
    assert!(!listens(&lab) && !is_bound(&lab, 3802));
    lab.ok("systemctl start portbroker");
    assert_ne!(lab.ok(INODES), before);
    lab.ok("portbroker status");

    lab.step("an administrator can have it as it was");
    lab.write(
        "/etc/systemd/system/portbroker.service.d/override.conf",
        "[Service]\nFileDescriptorStorePreserve=no\n",
    );
    lab.ok(&format!("systemctl daemon-reload && {STOP}"));
    assert!(!listens(&lab));
    assert_eq!(lab.ok(RESERVED), "");
    lab.fails("test -e /run/web.sock");
}

#[test]
fn a_reload_is_over_when_systemctl_says_so_and_a_refused_one_fails() {
    let lab = booted("reloads");
    lab.step("the unit has what this systemd knows, and nothing else");
    let newer = lab.systemd() >= NOTIFY_RELOAD;
    assert_eq!(lab.show("portbroker", "Type"), if newer { "notify-reload" } else { "notify" });
    assert_eq!(lab.ok("systemd-analyze verify portbroker.service portbroker.socket 2>&1"), "");
    lab.fails("journalctl -b -o cat | grep -i 'portbroker.*unknown key'");

    let more = |port: u16| format!("[[listener]]\nname = \"p{port}\"\nstream = \"127.0.0.1:{port}\"\n");
    let with = |port| format!("{CONFIGURATION}{}", more(port));
    let before = lab.ok("portbroker --json show listener web | grep -o '\"inode\":[0-9]*'");
    for port in 3811..3814 {
        lab.write(FILE, &with(port));
        lab.ok(&format!("systemctl reload portbroker && portbroker show listener p{port}"));
        assert_eq!(lab.show("portbroker", "ActiveState"), "active");
    }

    lab.step("with faults, systemctl says so, and all goes on");
    lab.write(FILE, &format!("{}port = 1\n", with(3813)));
    lab.fails("systemctl reload portbroker");
    assert_eq!(lab.show("portbroker", "ActiveState"), "active");
    lab.ok("portbroker show listener p3813");
    lab.fails("portbroker status");

    if newer {
        lab.step("the signal alone, whose end is told by READY=1");
        lab.write("/etc/systemd/system/portbroker.service.d/override.conf", "[Service]\nExecReload=\n");
        lab.ok("systemctl daemon-reload");
        for port in 3821..3824 {
            lab.write(FILE, &with(port));
            lab.ok(&format!("systemctl reload portbroker && portbroker show listener p{port}"));
            assert_eq!(lab.show("portbroker", "SubState"), "running");
        }
    } else {
        lab.step("the signal alone");
        lab.write(FILE, &with(3821));
        lab.ok("systemctl kill -s HUP portbroker");
        lab.wait_for("portbroker show listener p3821 && systemctl is-active portbroker", 10);
    }
    assert_eq!(lab.ok("portbroker --json show listener web | grep -o '\"inode\":[0-9]*'"), before);
    lab.ok("portbroker status");
}
