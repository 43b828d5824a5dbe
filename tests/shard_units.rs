//! A service with shards on a booted system: delivery, crashes of the broker, a smaller number, renewal.

#![cfg(test)]

use portbroker_lab::{Lab, prepare};
use std::path::Path;

/// Tells each client how many sockets it has, under which names.
const SERVICE: &str = "
import os, select, socket
names = os.environ['LISTEN_FDNAMES']
ls = [socket.socket(fileno=fd) for fd in range(3, 3 + int(os.environ['LISTEN_FDS']))]
while True:
    for l in select.select(ls, [], [])[0]:
        c, _ = l.accept(); c.sendall(f'{names} {os.getpid()}\\n'.encode()); c.close()
";

fn unit(shards: &str) -> String {
    format!(
        "[Service]\nUser=nobody\nExecStart=/usr/bin/python3 /opt/workers.py\n\
         [X-PortBroker]\nListenStream=127.0.0.1:3701\nFileDescriptorName=web\nReusePort={shards}\n"
    )
}

fn sockets(lab: &Lab, key: &str) -> Vec<String> {
    let text = lab.ok("portbroker --json show listener web");
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    shown["sockets"].as_array().unwrap().iter().map(|socket| socket[key].to_string()).collect()
}

fn states(lab: &Lab) -> String {
    sockets(lab, "state").join(" ").replace('"', "")
}

fn kill_broker(lab: &Lab) {
    lab.ok("systemctl kill -s KILL portbroker");
    lab.wait_for("systemctl is-active portbroker", 10);
}

#[test]
fn a_service_has_all_shards_and_their_number_changes_without_a_loss() {
    let lab = prepare("shards")
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file("/opt/workers.py", SERVICE)
        .unit("web.service", &unit("3"))
        .boot();
    let ask = || lab.ask("3701");

    lab.step("it has all of them, under one name");
    lab.ok("systemctl start web");
    assert_eq!((ask().as_str(), states(&lab).as_str()), ("web:web:web", "listening listening listening"));
    assert_eq!(lab.show("web", "NFileDescriptorStore"), "3");
    assert_eq!(lab.ok("cat /proc/sys/net/ipv4/tcp_migrate_req"), "1", "its sandbox lets the broker write it");
    lab.ok("portbroker status");

    lab.step("they are the same after a crash of the broker");
    let mut before = sockets(&lab, "inode");
    kill_broker(&lab);
    let mut after = sockets(&lab, "inode");
    before.sort();
    after.sort();
    assert_eq!(after, before);

    lab.step(
        "one fewer: the surplus stays the service's, over a crash of the broker too, until it is restarted",
    );
    lab.write("/etc/systemd/system/web.service", &unit("2"));
    lab.ok("systemctl daemon-reload");
    lab.wait_for("portbroker show listener web | grep -q draining", 10);
    kill_broker(&lab);
    assert_eq!((ask().as_str(), states(&lab).as_str()), ("web:web:web", "listening listening draining"));
    let left: Vec<String> = sockets(&lab, "inode").into_iter().take(2).collect();
    lab.ok("systemctl restart web");
    lab.wait_for("! portbroker show listener web | grep -q draining", 10);
    assert_eq!((ask().as_str(), sockets(&lab, "inode")), ("web:web", left));
    assert_eq!(lab.show("web", "NFileDescriptorStore"), "2");

    lab.step("renewed, it has new ones after its restart, and no more of them");
    let before = sockets(&lab, "inode");
    lab.ok("portbroker renew web");
    assert_eq!(states(&lab), "reserved reserved draining draining");
    kill_broker(&lab);
    assert_eq!(states(&lab), "reserved reserved draining draining");
    assert_eq!(ask(), "web:web");
    lab.ok("systemctl restart web");
    lab.wait_for("! portbroker show listener web | grep -q draining", 10);
    assert_eq!((ask().as_str(), states(&lab).as_str()), ("web:web", "listening listening"));
    assert!(sockets(&lab, "inode").iter().all(|inode| !before.contains(inode)));
    lab.fails("setpriv --reuid nobody --clear-groups portbroker renew web");

    lab.step("systemd's boolean is one socket, and the kernel's setting is given back");
    lab.write("/etc/systemd/system/web.service", &unit("yes"));
    lab.ok("systemctl daemon-reload && systemctl restart web");
    lab.wait_for("! portbroker show listener web | grep -q draining", 10);
    assert_eq!((ask().as_str(), states(&lab).as_str()), ("web", "listening"));
    assert_eq!(lab.ok("cat /proc/sys/net/ipv4/tcp_migrate_req"), "0");
    lab.ok("portbroker status");
}
