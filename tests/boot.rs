//! The boot of a whole system with portbroker in it: who is first, and what happens where it cannot run.

#![cfg(test)]

use portbroker_lab::{Lab, Preparation, prepare};
use std::path::Path;

const SECTION: &str = "\
[Service]
ExecStart=/bin/sh -c 'echo \"$LISTEN_FDS $LISTEN_FDNAMES\"; exec sleep 1000'
[X-PortBroker]
ListenStream=127.0.0.1:3306
FileDescriptorName=db
";

fn installed(name: &str) -> Preparation {
    prepare(name).install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
}

fn microseconds(lab: &Lab, unit: &str, property: &str) -> u64 {
    lab.show(unit, property).parse().expect("a time of systemd's")
}

/// A unit ordered as systemd-networkd is, which takes every ephemeral port that it can get from its first
/// moment on and keeps it. The kernel may give it ten, one of which is the service's.
const STORM: &str = "\
[Unit]
DefaultDependencies=no
After=network-pre.target systemd-sysusers.service systemd-sysctl.service
Before=network.target
[Service]
Type=notify
ExecStart=/usr/bin/python3 /opt/storm.py
";
const STORM_PROGRAM: &str = "
import errno, socket, subprocess, time
peer = socket.socket(); peer.bind(('127.0.0.1', 40000)); peer.listen(100)
kept = []
while True:
    s = socket.socket()
    try:
        s.connect(('127.0.0.1', 40000))
        kept.append(s)
    except OSError as e:
        if e.errno != errno.EADDRNOTAVAIL: raise
        break
with open('/run/storm', 'w') as f:
    f.write(' '.join(str(p) for p in sorted(s.getsockname()[1] for s in kept)))
subprocess.run(['systemd-notify', '--ready'], check=True)
time.sleep(1000)
";

#[test]
fn ports_are_held_before_anything_can_connect() {
    let lab = installed("first")
        .file("/etc/sysctl.d/50-few-ports.conf", "net.ipv4.ip_local_port_range = 3300 3309\n")
        .file("/opt/storm.py", STORM_PROGRAM)
        .unit("storm.service", &STORM.replace("Type=notify", "Type=notify\nNotifyAccess=all"))
        .enable("storm.service", "sysinit.target")
        .unit("db.service", SECTION)
        .enable("db.service", "lab.target")
        .boot();

    lab.step("the broker was ready before the storm began");
    let ready = microseconds(&lab, "portbroker.service", "ActiveEnterTimestampMonotonic");
    let storm = microseconds(&lab, "storm.service", "ExecMainStartTimestampMonotonic");
    assert!(ready < storm, "ready at {ready} µs, the storm began at {storm} µs");

    lab.step("the storm got all ports but the service's");
    assert_eq!(lab.ok("cat /run/storm"), "3300 3301 3302 3303 3304 3305 3307 3308 3309");

    lab.step("the service was given its socket");
    lab.ok("systemctl is-active db.service");
    assert_eq!(lab.ok("journalctl -u db.service -o cat -t sh"), "1 db");

    lab.step("the broker is well, and is no more than it needs to be");
    lab.ok("portbroker status");
    let process = "/proc/$(systemctl show -P MainPID portbroker)";
    assert_eq!(lab.ok(&format!("stat -c %U {process}")), "portbroker");
    // CAP_NET_BIND_SERVICE is 10, CAP_NET_ADMIN 12.
    assert_eq!(lab.ok(&format!("grep CapEff {process}/status")), "CapEff:\t0000000000001400");
    assert_eq!(lab.ok(&format!("grep CapBnd {process}/status")), "CapBnd:\t0000000000001400");

    lab.step("systemd has nothing to say against our units");
    assert_eq!(lab.ok("systemd-analyze verify portbroker.service portbroker.socket db.service 2>&1"), "");
}

#[test]
fn without_the_broker_the_same_storm_takes_the_port() {
    let lab = prepare("storm")
        .file("/etc/sysctl.d/50-few-ports.conf", "net.ipv4.ip_local_port_range = 3300 3309\n")
        .file("/opt/storm.py", STORM_PROGRAM)
        .unit("storm.service", &STORM.replace("Type=notify", "Type=notify\nNotifyAccess=all"))
        .enable("storm.service", "sysinit.target")
        .boot();
    assert!(lab.ok("cat /run/storm").contains("3306"));
}

#[test]
fn a_broker_that_hangs_does_not_block_the_boot() {
    let lab = installed("hang")
        .program("/usr/sbin/portbrokerd", "#!/bin/sh\nexec sleep 1000\n")
        .unit("plain.service", "[Service]\nExecStart=/bin/sleep 1000\n")
        .enable("plain.service", "lab.target")
        .boot();
    lab.ok("systemctl is-active plain.service");
    let waited = microseconds(&lab, "plain.service", "ActiveEnterTimestampMonotonic")
        - microseconds(&lab, "systemd-sysusers.service", "ActiveEnterTimestampMonotonic");
    assert!(
        (9_000_000..20_000_000).contains(&waited),
        "it waited for {waited} µs, and TimeoutStartSec= is 10 s"
    );
}

#[test]
fn a_broker_that_dies_at_once_does_not_block_the_boot() {
    let lab = installed("dies")
        .program("/usr/sbin/portbrokerd", "#!/bin/sh\nexit 1\n")
        .unit("plain.service", "[Service]\nExecStart=/bin/sleep 1000\n")
        .enable("plain.service", "lab.target")
        .boot();
    lab.ok("systemctl is-active plain.service");
    lab.step("it is tried again for ever");
    lab.wait_for("test \"$(systemctl show -P NRestarts portbroker)\" -gt 7", 30);
    assert_ne!(lab.show("portbroker.service", "ActiveState"), "failed");
    lab.step("ten times a second at the most");
    let restarts = || lab.show("portbroker.service", "NRestarts").parse::<u64>().expect("a number");
    let before = restarts();
    lab.ok("sleep 2");
    assert!(restarts() - before <= 21);
}

#[test]
fn a_cold_start_with_a_faulty_configuration_is_refused_and_services_bind_for_themselves() {
    let lab = installed("faulty")
        .file("/etc/portbroker/portbroker.toml", "[[listener]]\nname = \"web\"\nstraem = \"80\"\n")
        .unit("db.service", SECTION)
        .enable("db.service", "lab.target")
        .boot();
    lab.step("the fault is in the journal with its place");
    let journal = lab.ok("journalctl -u portbroker -o cat");
    assert!(journal.contains("/etc/portbroker/portbroker.toml:3"), "{journal}");
    assert_eq!(lab.show("portbroker.service", "ExecMainStatus"), "78");

    lab.step("the service runs, without sockets, and says why");
    lab.wait_for("systemctl is-active db.service", 30);
    let refused = microseconds(&lab, "portbroker.service", "InactiveEnterTimestampMonotonic");
    let started = microseconds(&lab, "db.service", "ActiveEnterTimestampMonotonic");
    assert!(
        started < refused + 5_000_000,
        "refused at {refused} µs, and the service waited until {started} µs"
    );
    assert_eq!(lab.ok("journalctl -u db.service -o cat -t sh"), "");
    let journal = lab.ok("journalctl -u db.service -o cat");
    assert!(journal.contains("binds db for itself"), "{journal}");

    lab.step("once it is mended, it starts, and the service gets its socket");
    lab.ok("rm /etc/portbroker/portbroker.toml && systemctl start portbroker && systemctl restart db");
    lab.wait_for("test \"$(journalctl -u db.service -o cat -t sh | tail -1)\" = '1 db'", 10);
}
