//! On a booted system: the private socket, the bus and PID 1 itself started anew, fewer descriptors than are stored, too little memory. The
//! sockets stay the same throughout.

#![cfg(test)]

#[path = "support/memory.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod memory;

use memory::{MemoryCgroup, squeeze_out};
use portbroker_lab::{Lab, prepare};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const CONFIGURATION: &str = "/etc/portbroker/portbroker.toml";

fn listeners(count: u16) -> String {
    let table = |n| format!("[[listener]]\nname = \"p{n}\"\nstream = \"127.0.0.1:{}\"\n", 20_000 + n);
    (0..count).map(table).collect()
}

/// Asks without pause and takes a socket each time, and says what was not answered.
const CALLS: &str = "#!/bin/sh
count=0
while :; do
    portbroker exec p1 -- true || echo lost
    portbroker list listeners >/dev/null || echo lost
    count=$((count + 1))
    echo $count >/run/calls
done
";

fn booted(name: &str, count: u16) -> Lab {
    prepare(name)
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file(CONFIGURATION, &listeners(count))
        .file("/opt/storm.py", STORM)
        .unit("storm.service", "[Service]\nExecStart=/usr/bin/python3 /opt/storm.py\n")
        .program("/opt/calls", CALLS)
        .unit("calls.service", "[Service]\nExecStart=/opt/calls\n")
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
fn a_private_socket_a_bus_and_a_pid_1_that_are_started_anew_change_nothing() {
    let lab = booted("anew", 100);
    lab.ok("systemctl start storm");
    let inodes = lab.ok(INODES);
    let status = "busctl get-property org.portbroker.PortBroker1 /org/portbroker/PortBroker1 \
                  org.portbroker.PortBroker1.Manager State | grep running";
    lab.wait_for(status, 20);

    lab.step("the private socket");
    lab.ok("systemctl start calls");
    for _ in 0..5 {
        lab.wait_for("test -s /run/calls", 20);
        let (before, count) = (pid(&lab), lab.ok("cat /run/calls"));
        lab.ok("systemctl restart portbroker.socket");
        is_another_and_well(&lab, &before);
        lab.wait_for(&format!("test $(cat /run/calls) -gt $(({count} + 3))"), 20);
        assert_eq!(lab.ok(INODES), inodes);
    }
    lab.ok("systemctl stop calls");
    assert_eq!(lab.ok("journalctl _SYSTEMD_UNIT=calls.service -o cat -q"), "");
    lab.wait_for(status, 90);

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

/// State, inode and holder by name.
fn shown(lab: &Lab) -> BTreeMap<String, (String, u64, String)> {
    let list: Value = serde_json::from_str(&lab.ok("portbroker --json list listeners")).unwrap();
    let row = |row: &Value| {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        (text("name"), (text("state"), row["sockets"][0]["inode"].as_u64().unwrap_or(0), text("holder")))
    };
    list.as_array().unwrap().iter().map(row).collect()
}

/// Every tenth of 300 refuses while nobody holds it, and a unit holds these.
fn three_hundred() -> (String, String) {
    let table = |n: u16| {
        let idle = if n.is_multiple_of(10) { "idle = \"refuse\"\n" } else { "" };
        format!("[[listener]]\nname = \"p{n}\"\nstream = \"127.0.0.1:{}\"\n{idle}", 20_000 + n)
    };
    let held: Vec<String> = (0..30).map(|n| format!("p{}", 10 * n)).collect();
    let unit = format!(
        "[Service]\nExecStart=/usr/bin/portbroker exec {} -- /usr/bin/python3 /opt/serve.py\n",
        held.join(" ")
    );
    ((0..300).map(table).collect(), unit)
}

/// Connects to each of them, and asks those that are held.
const EACH: &str = "
import socket
for n in range(300):
    s = socket.create_connection(('127.0.0.1', 20000 + n), 10)
    if n % 10 == 0: assert s.makefile().readline().startswith('given'), n
    s.close()
";

const FEW: &str = "/etc/systemd/system/portbroker.service.d/few.conf";

#[test]
fn with_fewer_descriptors_than_are_stored_the_daemon_works_and_what_it_cannot_take_stays_stored() {
    let (configuration, held) = three_hundred();
    let lab = prepare("few")
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file(CONFIGURATION, &configuration)
        .file("/opt/each.py", EACH)
        .unit("held.service", &held)
        .boot();
    lab.ok("systemctl start held");
    lab.wait_for("portbroker status", 20);
    lab.wait_for("python3 /opt/each.py", 20);
    let before = shown(&lab);
    assert_eq!(before.values().filter(|(.., holder)| holder.starts_with("python3[")).count(), 30);

    lab.step("fewer");
    lab.write(FEW, "[Service]\nLimitNOFILE=200\n");
    lab.ok("systemctl daemon-reload");
    for _ in 0..2 {
        let first = pid(&lab);
        lab.ok("systemctl kill -s KILL portbroker");
        lab.wait_for(&format!("test \"$(systemctl show -P MainPID portbroker)\" != {first}"), 30);
        lab.wait_for("portbroker status; test $? = 1", 30);
        is_short(&lab, &before);
    }

    lab.step("what is new is bound, and what is stored is not bound a second time");
    lab.write(
        CONFIGURATION,
        &format!("{configuration}[[listener]]\nname = \"new\"\nstream = \"127.0.0.1:21000\"\n"),
    );
    let first = pid(&lab);
    lab.sh("portbroker reload");
    let now = shown(&lab);
    assert_eq!(now["new"].0, "listening");
    lab.write(CONFIGURATION, &configuration);
    lab.sh("portbroker reload");
    assert_eq!(pid(&lab), first);

    lab.step("enough");
    lab.ok(&format!("rm {FEW} && systemctl daemon-reload && systemctl restart portbroker"));
    lab.wait_for("portbroker status", 30);
    assert_eq!(shown(&lab), before);
    lab.wait_for("python3 /opt/each.py", 20);
    assert_eq!(lab.show("portbroker", "NFileDescriptorStore"), "2");
    lab.ok("portbroker exec p1 -- true");

    lab.step("and killed for want of memory");
    let cgroup = MemoryCgroup::new("unit");
    let first = pid(&lab);
    squeeze_out(&cgroup, lab.pid_outside(&first));
    is_another_and_well(&lab, &first);
    assert_eq!(shown(&lab), before);
    lab.wait_for("python3 /opt/each.py", 20);
}

/// The daemon works with what it could take, says what it could not, and nothing has changed for clients.
fn is_short(lab: &Lab, before: &BTreeMap<String, (String, u64, String)>) {
    let first = pid(lab);
    let status = lab.fails("portbroker status");
    for part in
        ["of 300 stored sockets can be taken over", "200 descriptors", "raise LimitNOFILE=", "to 2048"]
    {
        assert!(status.contains(part), "{part}: {status}");
    }
    let now = shown(lab);
    let (taken, left): (Vec<_>, Vec<_>) = now.iter().partition(|(_, (_, inode, _))| *inode != 0);
    println!("{} of 300 are taken over", taken.len());
    assert!(taken.len() >= 100 && taken.len() < 200, "{}", taken.len());
    assert!(taken.iter().all(|(name, row)| before.get(*name) == Some(row)));
    assert!(left.iter().all(|(_, (state, ..))| state == "failed"));
    let counted: Value = serde_json::from_str(&lab.ok("portbroker --json status || true")).unwrap();
    let counted = &counted["takeover"];
    assert_eq!((counted["stored"].as_u64(), counted["kept"].as_u64()), (Some(300), Some(taken.len() as u64)));
    assert_eq!(counted["left"].as_u64(), Some(left.len() as u64));
    // Two ends of a box, and nothing is said of it that is not so.
    assert_eq!(lab.show("portbroker", "NFileDescriptorStore"), "2");
    // A queue of clients and a service that serves on.
    lab.wait_for("python3 /opt/each.py", 20);
    // What is in flight is more than may be: nothing goes to anybody, and at once.
    let refused = lab.fails(&format!("portbroker exec {} -- true", taken[1].0));
    assert!(refused.contains("no sockets can be sent to anybody"), "{refused}");
    let refused = lab.fails(&format!("portbroker exec {} -- true", left[1].0));
    assert!(refused.contains("is not bound anew") || refused.contains("no sockets can be sent"), "{refused}");
    assert_eq!(pid(lab), first, "it is the same daemon");
}
