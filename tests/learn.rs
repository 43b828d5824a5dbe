//! Ports of services that know nothing of the broker, learned on a booted system.

#![cfg(test)]

use portbroker_lab::{Lab, Preparation, prepare};
use std::path::Path;

fn installed(name: &str) -> Preparation {
    prepare(name).install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
}

/// The learned ports, as `PORT/PROTOCOL UNIT` in one line.
fn learned(lab: &Lab) -> String {
    let python = "import json,sys; print(', '.join(f\"{l['port']}/{l['protocol']} {l['unit']}\" for l in json.load(sys.stdin)))";
    lab.ok(&format!("portbroker --json list learned | python3 -c \"{}\"", python.replace('"', "\\\"")))
}

fn reserved(lab: &Lab) -> String {
    lab.ok("cat /proc/sys/net/ipv4/ip_local_reserved_ports")
}

/// A new life of units, long enough to be seen; the second look comes some four seconds after the start.
fn restart(lab: &Lab, units: &str) {
    lab.ok(&format!("systemctl restart {units} && sleep 7"));
}

/// Listens on all the ports of its arguments: `80`, `53/udp`, or `0` for one that the kernel chooses.
const LISTEN: &str = r#"
import os, socket, sys, time
if sys.argv[1] == 'below':
    # As a container manager does: a cgroup of its own below the unit's.
    line = [l for l in open('/proc/self/cgroup') if l.startswith('0::')][0]
    mounts = ['/sys/fs/cgroup/unified', '/sys/fs/cgroup']
    mount = [m for m in mounts if os.path.exists(m + '/cgroup.procs')][0]
    below = mount + line.strip()[3:] + '/payload'
    os.makedirs(below, exist_ok=True)
    open(below + '/cgroup.procs', 'w').write(str(os.getpid()))
kept = []
for word in sys.argv[1:]:
    if word == 'below': continue
    port, _, protocol = word.partition('/')
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if protocol else socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('127.0.0.1', int(port)))
    if not protocol: s.listen(5)
    kept.append(s)
print('ports', *(s.getsockname()[1] for s in kept), flush=True)
time.sleep(10000)
"#;

fn service(options: &str, arguments: &str) -> String {
    format!("[Service]\n{options}ExecStart=/usr/bin/python3 /opt/listen.py {arguments}\n")
}

/// All units that listen; what is to be learned of them is 5001 alone, and 2222 of the socket unit.
fn listening(name: &str) -> Preparation {
    let units = [
        ("plain", "", "5001 8050"),
        ("chosen", "", "0 0 0"),
        ("session", "Slice=user-1000.slice\n", "5003"),
        ("machine", "Slice=machine.slice\n", "5004"),
        ("network", "PrivateNetwork=yes\n", "5005"),
        ("below", "Delegate=yes\n", "below 5006"),
    ];
    let lab = installed(name)
        .file("/opt/listen.py", LISTEN)
        .file("/etc/portbroker/portbroker.toml", "[protect]\nexclude = [\"8000-8100\"]\n")
        .unit("some.socket", "[Socket]\nListenStream=127.0.0.1:2222\n")
        .unit("some.service", "[Service]\nExecStart=/bin/sleep 1000\n")
        .enable("some.socket", "sockets.target")
        .unit("off.socket", "[Socket]\nListenStream=127.0.0.1:2223\n")
        .unit("off.service", "[Service]\nExecStart=/bin/sleep 1000\n");
    units.iter().fold(lab, |lab, (name, options, ports)| {
        let name = format!("{name}.service");
        lab.unit(&name, &service(options, ports)).enable(&name, "lab.target")
    })
}

const ALL: &str = "plain chosen session machine network below";

#[test]
fn a_service_is_learned_in_its_second_life_and_nobody_else_is() {
    let lab = listening("learned").boot();
    lab.step("one life, and an enabled socket unit");
    lab.ok("sleep 7");
    assert_eq!(learned(&lab), "2222/tcp some.socket");
    assert_eq!(reserved(&lab), "2222");

    lab.step("a scope is no service");
    lab.ok(
        "systemd-run --scope --slice=system.slice -- setsid -f python3 /opt/listen.py 5007 >/dev/null 2>&1",
    );
    for _ in 0..2 {
        restart(&lab, ALL);
    }
    assert_eq!(learned(&lab), "2222/tcp some.socket, 5001/tcp plain.service");
    assert_eq!(reserved(&lab), "2222,5001");
    lab.step("not because they would not have listened");
    let listened = lab.ok("ss -tlnH | grep -o '127.0.0.1:[0-9]*' | sort | tr '\\n' ' '") + " ";
    for port in [2222, 5001, 5003, 5004, 5006, 5007, 8050] {
        assert!(listened.contains(&format!(":{port} ")), "{port}: {listened}");
    }
    lab.ok(
        "grep -q '0::/system.slice/below.service/payload' /proc/$(systemctl show -P MainPID below)/cgroup",
    );
    let chosen = lab.ok("journalctl -o cat -u chosen -t python3 | grep ports");
    assert_eq!(chosen.lines().count(), 3, "three lives: {chosen}");

    lab.step("it stays protected while it is down, and status counts it");
    lab.ok("systemctl stop plain && sleep 2");
    assert_eq!(reserved(&lab), "2222,5001");
    assert_eq!(lab.ok("portbroker --json status | grep -o '\"learned\":[0-9]*'"), "\"learned\":2");
    assert!(lab.ok("portbroker list learned").contains("plain.service"));

    lab.step("who has a port is told with the unit, in other network namespaces too");
    let who = |port: &str| lab.ok(&format!("portbroker who {port}"));
    let told = who("5001");
    assert!(told.contains("keeps 5001 out of ephemeral allocation for plain.service"), "{told}");
    let told = who("5006");
    assert!(told.contains(", below.service) listens on 127.0.0.1:5006: no other service can"), "{told}");
    assert!(told.contains("to free it: systemctl stop below.service"), "{told}");
    let told = who("5005");
    assert!(
        told.contains(", network.service) listens on 127.0.0.1:5005 in network namespace of pid "),
        "{told}"
    );
    let told = lab.ok("setpriv --reuid=65534 --clear-groups portbroker who 5004");
    assert!(told.contains("a process of user root (machine.service) listens on 127.0.0.1:5004"), "{told}");

    lab.step("it is told on the bus");
    let call = "busctl call org.portbroker.PortBroker1 /org/portbroker/PortBroker1 org.portbroker.PortBroker1.Manager";
    let told = lab.ok(&format!("{call} ListLearned"));
    assert!(told.starts_with("a(qsstt) 2 2222 \"tcp\" \"some.socket\" "), "{told}");

    lab.step("killed, the broker still knows");
    lab.ok("systemctl kill -s KILL portbroker");
    lab.wait_for("portbroker status", 10);
    assert_eq!(learned(&lab), "2222/tcp some.socket, 5001/tcp plain.service");

    lab.step("only root may forget");
    let denied = lab.fails("setpriv --reuid=65534 --clear-groups portbroker forget 5001; test $? = 0");
    assert!(denied.contains("NotAllowed"), "{denied}");
    assert!(lab.fails("portbroker forget 5002").contains("not learned"));
    lab.ok("portbroker forget 5001");
    assert_eq!((learned(&lab), reserved(&lab)), ("2222/tcp some.socket".into(), "2222".into()));
    lab.ok("systemctl start plain && sleep 7");
    assert_eq!(learned(&lab), "2222/tcp some.socket", "one new life is not enough");
    restart(&lab, "plain");
    assert_eq!(learned(&lab), "2222/tcp some.socket, 5001/tcp plain.service");

    lab.step("nothing is learned where that is switched off, and what is ours is given back");
    lab.write("/etc/portbroker/portbroker.toml", "[protect]\nlearn = false\n");
    lab.ok("portbroker reload");
    assert_eq!((learned(&lab), reserved(&lab)), (String::new(), String::new()));
    lab.write("/etc/portbroker/portbroker.toml", "[protect]\nexclude = [\"2222\"]\n");
    lab.ok("portbroker reload");
    assert_eq!((learned(&lab), reserved(&lab)), ("5001/tcp plain.service".into(), "5001".into()));
    lab.stop_for_good();
    assert_eq!(reserved(&lab), "", "stopped for good");
}

#[test]
fn a_state_directory_that_takes_nothing_or_holds_garbage_is_said_and_learning_goes_on() {
    let lab = installed("state")
        .file("/opt/listen.py", LISTEN)
        .file("/var/lib/portbroker/learned.json", "{\"version\":1,\"units\":[")
        .unit("plain.service", &service("", "5001"))
        .boot();
    lab.step("garbage is moved aside");
    let journal = lab.ok("journalctl -o cat -u portbroker");
    assert!(journal.contains("/var/lib/portbroker/learned.json cannot be used and is"), "{journal}");
    assert_eq!(lab.ok("cat /var/lib/portbroker/learned.json.unreadable"), "{\"version\":1,\"units\":[");
    assert!(lab.fails("portbroker status").contains("learned.json.unreadable could not be read"));
    lab.ok("rm /var/lib/portbroker/learned.json.unreadable");
    lab.wait_for("portbroker status", 70);

    lab.step("a full disk");
    let mount = "nsenter -t $(systemctl show -P MainPID portbroker) -m";
    lab.ok(&format!("{mount} mount -t tmpfs -o size=4k,mode=777 tmpfs /var/lib/portbroker"));
    lab.ok(&format!("{mount} sh -c 'head -c 4096 /dev/zero >/var/lib/portbroker/full'"));
    lab.ok("systemctl start plain && sleep 7");
    restart(&lab, "plain");
    assert_eq!(learned(&lab), "5001/tcp plain.service");
    assert_eq!(reserved(&lab), "5001");
    lab.wait_for("portbroker status | grep -q 'No space left'", 10);
    assert!(lab.fails("portbroker status").contains("degraded"));

    lab.step("a file system that is read-only");
    lab.ok(&format!("{mount} mount -o remount,ro /var/lib/portbroker"));
    lab.ok("portbroker forget 5001");
    lab.wait_for("portbroker status | grep -q 'Read-only file system'", 10);
    assert!(lab.fails("portbroker status").contains("degraded"));
    assert_eq!(learned(&lab), "");

    lab.step("when it can be written again, all is well");
    lab.ok(&format!("{mount} umount /var/lib/portbroker"));
    restart(&lab, "plain");
    lab.wait_for("portbroker status", 90);
    lab.ok("grep -q '\"port\":5001' /var/lib/portbroker/learned.json");
}
