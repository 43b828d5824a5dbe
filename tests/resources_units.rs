//! On a booted system: the bus and PID 1 itself started anew. The sockets
//! stay the same throughout.

#![cfg(test)]

use portbroker_lab::{Lab, prepare};
use std::path::Path;

const CONFIGURATION: &str = "/etc/portbroker/portbroker.toml";

fn listeners(count: u16) -> String {
    let table = |n| format!("[[listener]]\nname = \"p{n}\"\nstream = \"127.0.0.1:{}\"\n", 20_000 + n);
    (0..count).map(table).collect()
}

fn booted(name: &str, count: u16) -> Lab {
    prepare(name)
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file(CONFIGURATION, &listeners(count))
        .file("/opt/storm.py", STORM)
        .unit("storm.service", "[Service]\nExecStart=/usr/bin/python3 /opt/storm.py\n")
        .boot()
}

/// Connects to the first hundred without pause, to each as often as its queue has room, and says what was refused.
const STORM: &str = "
import socket, time
count = 0
while True:
    for port in range(20000, 20100):
        s = socket.socket()
        s.settimeout(10)
        try: s.connect(('127.0.0.1', port))
        except OSError as e: print('refused', port, e, flush=True)
        s.close()
        count += 1
    open('/run/storm', 'w').write(str(count))
    time.sleep(0.05)
";

const INODES: &str = "portbroker --json list listeners | grep -o '\"inode\":[0-9]*'";

fn pid(lab: &Lab) -> String {
    lab.show("portbroker", "MainPID")
}

fn is_another_and_well(lab: &Lab, before: &str) {
    lab.wait_for(&format!("test \"$(systemctl show -P MainPID portbroker)\" != {before}"), 30);
    lab.wait_for("portbroker status", 60);
}

fn nobody_was_refused(lab: &Lab) {
    lab.wait_for("test -s /run/storm", 30);
    assert_eq!(lab.ok("journalctl -u storm -o cat | grep refused || true"), "");
    let count = || lab.ok("cat /run/storm").parse::<u64>().unwrap_or(0);
    let before = count();
    lab.wait_for(&format!("test $(cat /run/storm) -gt {}", before + 200), 30);
}

#[test]
fn a_bus_and_a_pid_1_that_are_started_anew_change_nothing() {
    let lab = booted("anew", 100);
    lab.ok("systemctl start storm");
    let inodes = lab.ok(INODES);
    let status = "busctl get-property org.portbroker.PortBroker1 /org/portbroker/PortBroker1 \
                  org.portbroker.PortBroker1.Manager State | grep running";
    lab.wait_for(status, 20);

    lab.step("the bus");
    let first = pid(&lab);
    lab.ok("systemctl restart dbus.service");
    lab.ok("portbroker status");
    lab.wait_for(status, 90);
    assert_eq!(pid(&lab), first);

    lab.step("PID 1");
    for _ in 0..2 {
        lab.ok("systemctl daemon-reexec");
        lab.ok("portbroker status");
        assert_eq!(pid(&lab), first);
    }
    lab.step("what it stores has come with it");
    lab.ok("systemctl kill -s KILL portbroker");
    is_another_and_well(&lab, &first);
    assert_eq!(
        (lab.ok(INODES), lab.show("portbroker", "NFileDescriptorStore")),
        (inodes.clone(), "2".to_owned())
    );

    lab.step("and its daemon-reload is seen");
    lab.ok("systemctl daemon-reexec");
    lab.write(CONFIGURATION, &listeners(101));
    lab.ok("systemctl daemon-reload");
    lab.wait_for("portbroker show listener p100", 20);
    assert_eq!(lab.ok(INODES).lines().count(), 101);
    nobody_was_refused(&lab);
}

#[test]
fn units_keep_their_listeners_while_no_cgroup_hierarchy_is_mounted() {
    let unit = "[Service]\nExecStart=/usr/bin/python3 /opt/serve.py\n[X-PortBroker]\nListenStream=127.0.0.1:3306\n\
                FileDescriptorName=db\nIdle=refuse\n";
    let lab = prepare("cgroups")
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .unit("db.service", unit)
        .enable("db.service", "lab.target")
        .boot();
    let answer = lab.ask("3306");
    let inside = "nsenter -t $(systemctl show -P MainPID portbroker) -m";
    // Only what the daemon sees, since PID 1 needs its own.
    lab.ok(&format!("{inside} sh -c 'umount -l -R /sys/fs/cgroup || umount -l /sys/fs/cgroup'"));
    let status = lab.fails("portbroker status");
    assert!(status.contains("cgroup hierarchy"), "{status}");
    assert_eq!(lab.ask("3306"), answer, "it is held");
    assert!(lab.ok("portbroker list listeners").contains("db.service"));
    lab.step("with the next daemon, which has a mount of its own, all is well");
    let first = pid(&lab);
    lab.ok("systemctl kill -s KILL portbroker");
    is_another_and_well(&lab, &first);
    assert_eq!(lab.ask("3306"), answer);
    lab.ok("systemctl stop db.service");
    lab.wait_for("portbroker --json show listener db | grep -q '\"holder\":null'", 10);
}
