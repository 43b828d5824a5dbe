//! Leases of units on a booted system: by the broker's own hardened unit, over the system bus with its policy.

#![cfg(test)]

use portbroker_lab::{Lab, prepare};
use std::path::Path;

const CALL: &str =
    "busctl call org.portbroker.PortBroker1 /org/portbroker/PortBroker1 org.portbroker.PortBroker1.Manager";

/// Leases four pairs over the system bus, connects one of them to a service of its own, and stays.
const CRAWL: &str = r#"
import dbus, socket, time
bus = dbus.SystemBus()
manager = dbus.Interface(bus.get_object('org.portbroker.PortBroker1', '/org/portbroker/PortBroker1'),
    'org.portbroker.PortBroker1.Manager')
session, lifeline = manager.OpenSession({}, signature='a{sv}')
lease, pairs = manager.LeasePairs(session, 'egress', 'tcp', '127.0.0.1:8443', 4, {}, signature='osssua{sv}')
l = socket.socket(); l.bind(('127.0.0.1', 8443)); l.listen(5)
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((pairs[0][0], pairs[0][1])); s.connect(('127.0.0.1', 8443))
print('crawls with', len(pairs), flush=True)
time.sleep(10000)
"#;

fn leases(lab: &Lab) -> String {
    lab.ok(&format!("{CALL} ListLeases tu 0 100"))
}

#[test]
fn a_unit_leases_over_the_system_bus_and_the_broker_is_killed_meanwhile() {
    let crawler = "[Service]\nUser=nobody\nExecStart=/usr/bin/python3 /opt/crawl.py\n";
    let pool = "[[pool]]\nname = \"egress\"\naddresses = [\"127.0.0.2-127.0.0.3\"]\nports = \"10000-10099\"\nallow = [\"unit:crawler.service\"]\n";
    let lab = prepare("outbound")
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file("/opt/crawl.py", CRAWL)
        .file("/etc/portbroker/portbroker.toml", pool)
        .unit("crawler.service", crawler)
        .unit("other.service", crawler)
        .boot();
    lab.step("its unit may, and another of the same user may not");
    lab.ok("systemctl start crawler other");
    lab.wait_for("journalctl -o cat -u crawler | grep 'crawls with 4'", 10);
    lab.wait_for("journalctl -o cat -u other | grep Error.NotAllowed", 10);
    let before = leases(&lab);
    assert!(before.contains(" \"crawler.service\" ") && before.contains("\"held\""), "{before}");
    assert!(lab.ok("journalctl -o cat -u portbroker").contains("leased 4 ports of egress"));

    lab.step("the broker is killed, and the unit notices nothing");
    lab.ok("systemctl kill -s KILL portbroker");
    lab.wait_for("portbroker status", 10);
    assert_eq!(leases(&lab), before);
    lab.ok("systemctl is-active crawler");

    lab.step("restarted, and stopped and started");
    lab.ok("systemctl restart portbroker");
    lab.wait_for("portbroker status", 10);
    assert_eq!(leases(&lab), before);

    lab.step("the unit ends, and so does its lease");
    lab.ok("systemctl stop crawler");
    lab.wait_for(&format!("! {CALL} ListLeases tu 0 100 | grep held"), 10);
    assert_eq!(lab.ok("ls /run/portbroker/sessions | wc -l"), "0");
    lab.ok("portbroker status");
}
