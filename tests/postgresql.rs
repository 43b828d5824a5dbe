//! Debian's PostgreSQL, which takes no sockets from anybody and knows nothing of the broker, over a reboot: its port
//! is learned in one boot and is nobody's source port in the next, before it has started.

#![cfg(test)]

use portbroker_lab::{Lab, Preparation, prepare};
use std::path::Path;

/// In place before anything of the network, from its second boot on: connections from source ports that the kernel
/// chooses, most of those of one parity (it takes the ports of the other parity only when there are no more), each
/// closed and opened anew in its turn.
const STORM: &str = "\
[Unit]
DefaultDependencies=no
ConditionPathExists=/var/lib/storm
After=systemd-tmpfiles-setup.service systemd-sysctl.service systemd-sysusers.service network-pre.target
Before=sysinit.target network.target
[Service]
Type=notify
NotifyAccess=all
LimitNOFILE=12000
ExecStart=/usr/bin/python3 /opt/storm.py
";
const STORM_PROGRAM: &str = r#"
import collections, os, random, socket, struct, subprocess
RESET = struct.pack('ii', 1, 0)
# Several, for a process may not have so many descriptors; to one address, for a port serves several.
PROCESSES, EACH = 5, 5600
peer = socket.socket(); peer.bind(('127.0.0.1', 1023)); peer.listen(1000)
def connection():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    s.connect(('127.0.0.1', 1023))
    # Maybe another's, who accepts ours.
    return s, peer.accept()[0]
reader, writer = os.pipe()
for _ in range(PROCESSES):
    if os.fork(): continue
    kept = collections.deque(connection() for _ in range(EACH))
    os.write(writer, b'.')
    while True:
        for _ in range(random.randrange(EACH // 5)):
            for s in kept.popleft(): s.close()
        while len(kept) < EACH: kept.append(connection())
for _ in range(PROCESSES): assert os.read(reader, 1)
subprocess.run(['systemd-notify', '--ready'], check=True)
os.wait()
"#;
/// The kernel may choose from all of these.
const RANGE: &str = "net.ipv4.ip_local_port_range = 1024 65535\n";
const RESTARTS: usize = 5;

fn storm(lab: Preparation) -> Preparation {
    lab.file("/etc/sysctl.d/50-all-ports.conf", RANGE)
        .file("/opt/storm.py", STORM_PROGRAM)
        .unit("storm.service", STORM)
        .enable("storm.service", "sysinit.target")
        .link(
            "/etc/systemd/system/lab.target.wants/postgresql.service",
            "/lib/systemd/system/postgresql.service",
        )
}

/// The unit of the machine's first cluster, which Debian's package made.
fn unit(lab: &Lab) -> String {
    let cluster = lab.ok("pg_lsclusters -h | head -1");
    let mut words = cluster.split_whitespace();
    let (version, name, port) = (words.next(), words.next(), words.next());
    let (Some(version), Some(name)) = (version, name) else {
        panic!("no cluster of PostgreSQL: {cluster:?}")
    };
    assert_eq!(port, Some("5432"), "{cluster}");
    format!("postgresql@{version}-{name}.service")
}

fn is_ready(lab: &Lab) -> bool {
    lab.sh("pg_isready -q -h 127.0.0.1 -p 5432").status.success()
}

/// Restarts it a few times after a boot, all under the storm: how many of the starts failed, the boot's among them.
fn failed_starts(lab: &Lab, unit: &str) -> usize {
    assert_eq!(lab.show("storm.service", "ActiveState"), "active");
    let before = lab.show("storm.service", "ActiveEnterTimestampMonotonic").parse::<u64>().expect("a time");
    let started = lab.show(unit, "ExecMainStartTimestampMonotonic").parse::<u64>().expect("a time");
    assert!(before < started || started == 0, "the storm began at {before}, PostgreSQL at {started}");
    let mut failed = usize::from(!is_ready(lab));
    for _ in 0..RESTARTS {
        lab.ok(&format!("systemctl stop {unit}; sleep 1"));
        // It may fail, and then says so or not: what counts is whether it listens.
        let _ = lab.sh(&format!("systemctl start {unit}"));
        failed += usize::from(!is_ready(lab));
    }
    failed
}

#[test]
fn a_learned_port_is_free_for_its_service_over_a_reboot_under_a_storm() {
    let lab = prepare("postgresql")
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")));
    let mut lab = storm(lab).boot();
    let unit = unit(&lab);
    lab.step("it is learned in its second life");
    assert!(is_ready(&lab));
    lab.ok(&format!("sleep 7; systemctl restart {unit}"));
    assert_eq!(lab.ok("portbroker --json list learned"), "[]");
    lab.wait_for("portbroker list learned | grep -q '^5432 .*postgresql@'", 20);
    lab.ok("grep -q 5432 /proc/sys/net/ipv4/ip_local_reserved_ports");

    lab.step("after a reboot it is protected before anything can connect");
    lab.ok("touch /var/lib/storm");
    let boot = lab.ok("cat /proc/sys/kernel/random/boot_id; systemctl show -P UserspaceTimestamp");
    lab.reboot();
    assert_ne!(lab.ok("cat /proc/sys/kernel/random/boot_id; systemctl show -P UserspaceTimestamp"), boot);
    assert_eq!(lab.ok("cat /proc/sys/net/ipv4/ip_local_reserved_ports"), "5432");
    assert_eq!(failed_starts(&lab, &unit), 0, "failed starts of {}", RESTARTS + 1);
    lab.ok("portbroker status");
}

#[test]
fn without_the_broker_the_same_storm_keeps_it_from_starting() {
    let mut lab = storm(prepare("no-broker")).boot();
    let unit = unit(&lab);
    assert!(is_ready(&lab));
    lab.ok("touch /var/lib/storm");
    lab.reboot();
    let failed = failed_starts(&lab, &unit);
    println!("{failed} of {} starts failed", RESTARTS + 1);
    assert!(failed > 0, "no start failed, so the storm tells nothing");
}
