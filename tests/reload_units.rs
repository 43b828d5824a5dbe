//! Sections that go, come back and are renamed under a running service, on a booted systemd, with kills of the daemon.

#![cfg(test)]

use portbroker_lab::{Lab, prepare};
use std::path::Path;

const UNIT: &str = "/etc/systemd/system/web.service";

/// The service, with a section of this name, or none.
fn unit(name: Option<&str>) -> String {
    let section =
        name.map(|name| format!("[X-PortBroker]\nListenStream=127.0.0.1:3801\nFileDescriptorName={name}\n"));
    format!("[Service]\nExecStart=/usr/bin/python3 /opt/serve.py 3801\n{}", section.unwrap_or_default())
}

fn inode(lab: &Lab, name: &str) -> String {
    lab.ok(&format!("portbroker --json show listener {name} | grep -o '\"inode\":[0-9]*' | head -1"))
}

/// Waits until a listener is in this state, and held by the service.
fn wait_until_held(lab: &Lab, name: &str, state: &str) {
    lab.wait_for(
        &format!(
            "portbroker --json show listener {name} | grep '\"state\":\"{state}\"' | grep -q '\"holder\":\"web.service\"'"
        ),
        15,
    );
}

fn kill(lab: &Lab) {
    lab.ok("systemctl kill -s KILL portbroker");
    // Degraded will do.
    lab.wait_for("portbroker --json status; [ $? -le 1 ]", 30);
}

const IS_RESERVED: &str = "grep -qw 3801 /proc/sys/net/ipv4/ip_local_reserved_ports";

#[test]
fn a_services_socket_outlives_its_section_its_name_and_the_daemon_but_not_the_service() {
    let lab = prepare("lingers")
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file(UNIT, &unit(Some("web")))
        .boot();
    lab.ok("systemctl start web.service");
    let answer = lab.ask("3801");
    wait_until_held(&lab, "web", "listening");
    let before = inode(&lab, "web");

    lab.step("the section goes: the service has its socket on, and nobody else is given it or its port");
    lab.write(UNIT, &unit(None));
    lab.ok("systemctl daemon-reload");
    wait_until_held(&lab, "web", "lingering");
    for when in ["before", "after a kill of the daemon"] {
        lab.step(when);
        assert_eq!((inode(&lab, "web"), lab.ask("3801")), (before.clone(), answer.clone()));
        lab.ok(IS_RESERVED);
        lab.ok("! portbroker exec web -- true");
        if when == "before" {
            kill(&lab);
            wait_until_held(&lab, "web", "lingering");
        }
    }

    lab.step("it comes back under another name");
    lab.write(UNIT, &unit(Some("site")));
    lab.ok("systemctl daemon-reload");
    wait_until_held(&lab, "site", "listening");
    assert_eq!((inode(&lab, "site"), lab.ask("3801")), (before.clone(), answer.clone()));

    lab.step("renamed while no daemon is there");
    lab.ok("systemctl kill -s STOP portbroker");
    lab.write(UNIT, &unit(Some("third")));
    kill(&lab);
    wait_until_held(&lab, "third", "listening");
    assert_eq!((inode(&lab, "third"), lab.ask("3801")), (before.clone(), answer.clone()));

    lab.step("taken out while no daemon is there");
    lab.ok("systemctl kill -s STOP portbroker");
    lab.write(UNIT, &unit(None));
    kill(&lab);
    wait_until_held(&lab, "third", "lingering");
    assert_eq!((inode(&lab, "third"), lab.ask("3801")), (before, answer));

    lab.step("it goes with the service");
    lab.ok("systemctl stop web.service");
    lab.wait_for("! portbroker show listener third", 15);
    lab.ok(&format!("! {IS_RESERVED}"));
    assert_eq!(lab.ok("ss -Hltn 'sport = :3801'"), "");
    kill(&lab);
    assert_eq!(lab.ok("ss -Hltn 'sport = :3801'; portbroker --json list listeners"), "[]");
}

const OTHER: &str = "/etc/portbroker/portbroker.conf.d/other.toml";

#[test]
fn a_unit_file_that_becomes_unreadable_fails_the_reload_as_a_whole() {
    let lab = prepare("unreadable")
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file(UNIT, &unit(Some("web")))
        .boot();
    lab.ok("systemctl start web.service");
    let answer = lab.ask("3801");
    wait_until_held(&lab, "web", "listening");
    let before = inode(&lab, "web");
    let other = |port: u16| format!("[[listener]]\nname = \"other\"\nstream = \"127.0.0.1:{port}\"\n");
    lab.ok("mkdir -p /etc/portbroker/portbroker.conf.d");
    lab.write(OTHER, &other(3802));
    lab.ok("portbroker reload");
    let shown = lab.ok("portbroker --json list listeners");

    lab.step("nothing of it is taken, and who asked is told which file, and why");
    lab.ok(&format!("chmod 000 {UNIT}"));
    lab.write(OTHER, &other(3803));
    let text = lab.fails("portbroker reload");
    assert!(text.contains(UNIT) && text.contains("cannot be read: Permission denied"), "{text}");
    assert_eq!(lab.ok("portbroker --json list listeners"), shown);
    assert_eq!((inode(&lab, "web"), lab.ask("3801")), (before.clone(), answer.clone()));
    assert_eq!(lab.ok("ss -Hltn 'sport = :3803'"), "");
    lab.ok(IS_RESERVED);
    let text = lab.fails("portbroker status");
    assert!(text.contains("degraded") && text.contains(UNIT), "{text}");

    lab.step("nor by systemctl daemon-reload, nor by a daemon that is started anew");
    lab.ok("systemctl daemon-reload");
    kill(&lab);
    wait_until_held(&lab, "web", "listening");
    assert_eq!((inode(&lab, "web"), lab.ask("3801")), (before.clone(), answer.clone()));
    lab.ok(IS_RESERVED);
    assert!(lab.fails("portbroker reload").contains(UNIT));
    assert_eq!(inode(&lab, "web"), before);

    lab.step("readable again, it goes on");
    lab.ok(&format!("chmod 644 {UNIT}"));
    lab.ok("systemctl daemon-reload");
    lab.ok("portbroker reload");
    lab.ok("portbroker status");
    assert!(lab.ok("portbroker show listener other").contains("127.0.0.1:3803"));
    assert_eq!((inode(&lab, "web"), lab.ask("3801")), (before, answer));
}
