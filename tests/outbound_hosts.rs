//! Pools on hosts of many kinds, as an operator sees them: a booted system with the broker's own hardened unit, whose
//! interfaces, addresses and kernel's range change while it runs.

#![cfg(test)]

use portbroker_lab::{Lab, prepare};
use std::path::Path;

const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "cat /proc/sys/net/ipv4/ip_local_reserved_ports";
const POOL: &str = r#"
[[listener]]
name = "web"
stream = "0.0.0.0:12000"
[[pool]]
name = "egress"
addresses = ["192.0.2.10", "dev:eth0", "dev:eht0"]
ports = "10000-12999"
allow = ["unit:crawler.service", "unit:inner.service+sockets"]
quota = { ports = 100 }
"#;
/// As strict as a unit can be that speaks to anybody.
const CRAWLER: &str = "[Service]\nDynamicUser=yes\nProtectSystem=strict\nProtectProc=invisible\nPrivateUsers=yes\n\
    PrivateDevices=yes\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\nSystemCallFilter=@system-service\n\
    CapabilityBoundingSet=\nExecStart=/usr/bin/portbroker lease egress --to 192.0.2.99:443 --count 4\n";
/// In a network of its own.
const INNER: &str = "[Service]\nType=oneshot\nUser=nobody\nPrivateNetwork=yes\n\
    ExecStart=/usr/bin/portbroker lease egress --to 192.0.2.99:443 -- true\n";

fn lab(name: &str) -> Lab {
    let lab = prepare(name)
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .unit("crawler.service", CRAWLER)
        .unit("inner.service", INNER)
        .boot();
    lab.wait_for("portbroker status", 10);
    lab
}

fn add_eth0(lab: &Lab) {
    lab.ok("ip link add eth0 type veth peer name other && ip link set other up && ip link set eth0 up");
    lab.ok("ip address add 192.0.2.10/24 dev eth0 && ip address add 192.0.2.11/24 dev eth0");
}

/// Waits until a pool's addresses are these.
fn wait_for_addresses(lab: &Lab, pool: &str, expected: &str) {
    let ask = format!("portbroker show pool {pool} | sed -n 's/^address *//;T;s/,.*//p' | paste -sd,");
    lab.wait_for(&format!("[ \"$({ask})\" = '{expected}' ]"), 10);
}

#[test]
fn the_default_pool_is_what_the_host_has() {
    let lab = lab("outbound-default");
    lab.step("nothing but loopback");
    wait_for_addresses(&lab, "default", "127.0.0.1 in-use,::1 in-use");
    // Of one family: a destination is not reached from both.
    assert!(lab.ok("portbroker show pool default").contains("36280 connections to one destination"));

    lab.step("an interface comes, and IPv6 alone is left");
    add_eth0(&lab);
    wait_for_addresses(&lab, "default", "192.0.2.10 in-use,192.0.2.11 in-use");
    lab.ok("ip address flush dev eth0 && ip address add 2001:db8::1/64 dev eth0 nodad");
    wait_for_addresses(&lab, "default", "2001:db8::1 in-use");
    lab.ok("portbroker lease default --to '[2001:db8::9]:443' -- true");
    let refused = lab.fails("portbroker lease default --to 192.0.2.99:443 -- true");
    assert!(refused.contains("no IPv4 address in use"), "{refused}");

    lab.step("a user has one quota, and not one with each login");
    let quarter = "su -s /bin/sh nobody -c 'portbroker lease default --to any --block 9070 -- ";
    let listed = lab.ok(&format!("{quarter}portbroker list leases'"));
    assert!(listed.contains("user-65534.slice"), "{listed}");
    let twice =
        format!("{quarter}sleep 1000' >/run/first & {}", "until [ -s /run/first ]; do sleep 0.1; done");
    lab.ok(&format!("({twice}) 2>/dev/null"));
    let refused = lab.fails(&format!("{quarter}true'"));
    assert!(refused.contains("QuotaExceeded: user-65534.slice holds 9070 ports"), "{refused}");
    let status = lab.ok("portbroker status");
    assert!(status.contains("1 ready, 0 degraded, 0 failed; 9070 ports leased"), "{status}");
    let refused = lab.fails("su -s /bin/sh nobody -c 'portbroker drain 2001:db8::1'");
    assert!(refused.contains("only root may"), "{refused}");

    lab.step("the kernel has all ports for itself: nothing is taken from it where nobody asked for a pool");
    assert_eq!(lab.ok(RESERVED), "");
    lab.ok(&format!("echo 1024 65535 >{RANGE} && systemctl reload portbroker"));
    assert!(lab.ok("portbroker show pool default").contains("1024-65535: the kernel's own range"));
    assert_eq!(lab.ok(&format!("portbroker status >/dev/null && {RESERVED}")), "");

    lab.step("half of the kernel's ports are carved out for one that is configured");
    lab.write("/etc/portbroker/portbroker.toml", "[[pool]]\nname = \"egress\"\naddresses = [\"dev:eth0\"]\n");
    lab.ok("systemctl reload portbroker");
    assert_eq!(lab.ok(RESERVED), "33280-65535");
    assert!(lab.ok("portbroker show pool egress").contains("1024-33279: the kernel's own range"));
    lab.stop_for_good();
    assert_eq!(lab.ok(RESERVED), "", "given back");
}

#[test]
fn a_pool_says_what_it_lacks_and_follows_its_interface() {
    let lab = lab("outbound-pool");
    add_eth0(&lab);
    lab.write("/etc/portbroker/portbroker.toml", POOL);
    lab.ok("portbroker check && systemctl reload portbroker");

    lab.step("an interface that is mistyped is not passed over, nor a listener in the zone");
    let both = "192.0.2.10 in-use,192.0.2.11 in-use";
    wait_for_addresses(&lab, "egress", both);
    let status = lab.fails("portbroker status");
    assert!(status.contains("pool egress: dev:eht0 has no global address"), "{status}");
    let shown = lab.ok("portbroker show pool egress");
    assert!(shown.contains("degraded") && shown.contains("12000: held by listener web"), "{shown}");
    assert!(shown.contains("10000-11999,12001-12999") && shown.contains("portbroker.toml:6"), "{shown}");

    lab.step("a unit that may do next to nothing may lease; one in another network is told what to ask for");
    lab.ok("systemctl start crawler");
    lab.wait_for("journalctl -o cat -u crawler | grep '\"pairs\"'", 10);
    lab.fails("systemctl start inner");
    let told = lab.ok("journalctl -o cat -u inner");
    assert!(told.contains("NotAllowed") && told.contains("another network namespace"), "{told}");

    lab.step("renamed and back: what is leased lives on, the addresses leave and join");
    lab.ok("ip link set eth0 down && ip link set eth0 name eth9 && ip link set eth9 up");
    wait_for_addresses(&lab, "egress", "192.0.2.10 in-use");
    let status = lab.fails("portbroker status");
    assert!(status.contains("dev:eth0 has no global address"), "{status}");
    lab.ok("portbroker list leases | grep crawler.service | grep held");
    lab.ok("ip link set eth9 down && ip link set eth9 name eth0 && ip link set eth0 up");
    wait_for_addresses(&lab, "egress", both);

    lab.step("drained by name: over a kill, a stop and a start; then released by number");
    lab.ok("portbroker drain 192.0.2.10");
    for verb in ["kill -s KILL", "stop", "start"] {
        lab.ok(&format!("systemctl {verb} portbroker"));
        wait_for_addresses(&lab, "egress", "192.0.2.10 draining,192.0.2.11 in-use");
    }
    lab.ok("systemctl is-active crawler");
    let lease = lab.ok("portbroker list leases | awk '/crawler.service/ {print $1}'");
    lab.ok(&format!("portbroker release {lease}"));
    wait_for_addresses(&lab, "egress", "192.0.2.10 drained,192.0.2.11 in-use");
    lab.ok("portbroker drain --undo 192.0.2.10");
    wait_for_addresses(&lab, "egress", both);
    let refused = lab.fails("portbroker drain 203.0.113.9");
    assert!(refused.contains("no pool has the address 203.0.113.9"), "{refused}");
}
