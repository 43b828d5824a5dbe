//! Sockets of socket units, and what is left behind when the broker is stopped, on a booted system.

#![cfg(test)]

use portbroker_lab::prepare;
use std::path::Path;

const SOCKET: &str = "\
[Unit]
DefaultDependencies=no
Before=sockets.target
[Socket]
ListenStream=127.0.0.1:3601
FileDescriptorName=given
Service=portbroker.service
";

const CONFIGURATION: &str = "\
[protect]
ports = [\"6379\"]

[[listener]]
name = \"given\"
allow = [\"user:nobody\"]

[[listener]]
name = \"own\"
stream = \"127.0.0.1:3602\"
";

const RESERVED: &str = "cat /proc/sys/net/ipv4/ip_local_reserved_ports";

#[test]
fn sockets_of_socket_units_become_listeners_and_an_end_for_good_leaves_nothing() {
    let lab = prepare("inherited")
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file("/etc/portbroker/portbroker.toml", CONFIGURATION)
        .file("/etc/sysctl.d/ours.conf", "net.ipv4.ip_local_reserved_ports=9000-9010\n")
        .unit("given.socket", SOCKET)
        .enable("given.socket", "sockets.target")
        .boot();

    lab.step("a socket of a socket unit is a listener of its name, with the options of the TOML");
    let shown = lab.ok("portbroker --json show listener given");
    assert!(shown.contains("tcp 127.0.0.1:3601") && shown.contains("\"user:nobody\""), "{shown}");
    lab.ok("portbroker status");
    lab.ok("setpriv --reuid nobody --clear-groups portbroker exec given -- sh -c 'test \"$LISTEN_FDNAMES\" = given'");
    lab.fails("setpriv --reuid daemon --clear-groups portbroker exec given -- true");

    lab.step("it is the same socket after a crash and a restart");
    let inodes = "portbroker --json list listeners | grep -o '\"inode\":[0-9]*'";
    let before = lab.ok(inodes);
    lab.ok("systemctl kill -s KILL portbroker");
    lab.wait_for("systemctl is-active portbroker", 10);
    assert_eq!(lab.ok(inodes), before);
    lab.ok("systemctl restart portbroker");
    assert_eq!(lab.ok(inodes), before);

    lab.step("a restart on a faulty configuration goes on with the last good one");
    lab.ok("sed -i 's/^stream/straem/' /etc/portbroker/portbroker.toml");
    lab.fails("systemctl reload portbroker");
    lab.ok("systemctl restart portbroker");
    assert_eq!(lab.ok(inodes), before);
    assert!(lab.fails("portbroker status").contains("straem"));
    lab.ok("sed -i 's/^straem/stream/' /etc/portbroker/portbroker.toml");
    lab.ok("systemctl reload portbroker && portbroker status");

    lab.step("the objects are on the bus, for those who look");
    lab.ok("systemctl start dbus");
    let tree = "busctl --list tree org.portbroker.PortBroker1";
    lab.wait_for(tree, 10);
    assert!(lab.ok(tree).contains("/org/portbroker/PortBroker1/listener/given"));
    let listener = "/org/portbroker/PortBroker1/listener/own org.portbroker.PortBroker1.Listener";
    assert_eq!(
        lab.ok(&format!("busctl get-property org.portbroker.PortBroker1 {listener} State")),
        "s \"listening\""
    );
    lab.ok(
        "busctl introspect org.portbroker.PortBroker1 /org/portbroker/PortBroker1 | grep AcquireListeners",
    );
    let objects = "busctl call org.portbroker.PortBroker1 /org/portbroker/PortBroker1";
    lab.ok(&format!("{objects} org.freedesktop.DBus.ObjectManager GetManagedObjects"));

    lab.step("a restart keeps what is protected, an end for good gives it back");
    lab.ok("systemctl restart portbroker");
    assert_eq!(lab.ok(RESERVED), "3601-3602,6379,9000-9010");
    lab.ok("systemctl stop given.socket");
    lab.stop_for_good();
    assert_eq!(lab.ok(RESERVED), "9000-9010");
}
