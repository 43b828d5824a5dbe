//! Options of sockets in the daemon and on a booted system: what is served without them, what is not, and what
//! remains when the broker is stopped; and a socket unit that is replaced by what `portbroker import` says.

#![cfg(test)]

use portbroker_lab::{Lab, prepare};
use std::path::Path;

fn installed(name: &str) -> portbroker_lab::Preparation {
    prepare(name).install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
}

/// The commands that the comments of an import name, in their order.
fn commands(import: &str) -> Vec<&str> {
    import.lines().filter_map(|line| line.strip_prefix("#   ")).collect()
}

fn state(lab: &Lab, listener: &str) -> String {
    lab.ok(&format!("portbroker --json show listener {listener} | grep -o '\"state\":\"[a-z]*\"' | head -1"))
}

#[test]
fn a_socket_unit_is_replaced_by_doing_what_its_import_says() {
    let lab = installed("import")
        .file(
            "/usr/lib/systemd/system/web.socket",
            "[Socket]\nListenStream=127.0.0.1:3306\nListenStream=%t/web.sock\nKeepAlive=yes\nKeepAliveTimeSec=11min\n\
             Mark=7\nSymlinks=/run/other.sock\nAccept=no\n[Install]\nWantedBy=sockets.target\n",
        )
        .file(
            "/usr/lib/systemd/system/web.service",
            "[Service]\nExecStart=/usr/bin/python3 /opt/serve.py 3306\n",
        )
        .link("/etc/systemd/system/sockets.target.wants/web.socket", "/usr/lib/systemd/system/web.socket")
        .boot();
    assert_eq!(lab.ask("3306"), "given web.socket web.socket");
    let import = lab.ok("portbroker import web.socket");
    lab.step("the commands of its comments, as they are");
    for command in commands(&import) {
        lab.ok(command);
    }
    assert_eq!(lab.show("web.socket", "LoadState"), "masked");
    assert_eq!(lab.ask("3306"), "given web.socket web.socket");
    assert_eq!(lab.ask("/run/web.sock"), "given web.socket web.socket");
    assert_eq!(lab.ask("/run/other.sock"), "given web.socket web.socket");
    let sockets = lab.ok("ss -tlneo 'sport = 3306'");
    assert!(sockets.contains("fwmark:0x7"), "{sockets}");
    lab.step("and it is started by its first connection, as it was");
    lab.ok("systemctl stop web.service");
    assert_eq!(lab.ask("3306"), "given web.socket web.socket");
    lab.ok("portbroker check");
}

#[test]
fn one_listener_without_its_privilege_costs_the_others_nothing_and_paths_go_where_that_is_wanted() {
    let lab = installed("options")
        .file(
            "/etc/portbroker/portbroker.toml",
            "[[listener]]\nname = \"marked\"\nstream = \"127.0.0.1:3001\"\nmark = 5\n\
             [[listener]]\nname = \"plain\"\nstream = \"127.0.0.1:3002\"\ntcp-congestion = \"nosuch\"\n\
             [[listener]]\nname = \"gone\"\nstream = \"/run/gone.sock\"\nsymlinks = \"/run/link.sock\"\nremove-on-stop = true\n\
             [[listener]]\nname = \"stays\"\nseqpacket = \"/run/stays.sock\"\n",
        )
        // As a container may have it: the ports and no more.
        .file(
            "/etc/systemd/system/portbroker.service.d/less.conf",
            "[Service]\nAmbientCapabilities=\nAmbientCapabilities=CAP_NET_BIND_SERVICE CAP_CHOWN CAP_DAC_OVERRIDE\n\
             CapabilityBoundingSet=\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE CAP_CHOWN CAP_DAC_OVERRIDE\n",
        )
        .boot();
    lab.wait_for("portbroker list listeners", 15);
    assert_eq!(state(&lab, "marked"), "\"state\":\"failed\"");
    for name in ["plain", "gone", "stays"] {
        assert_eq!(state(&lab, name), "\"state\":\"listening\"");
    }
    let faults = lab.ok("portbroker --json status || true");
    assert!(faults.contains("\\\"mark\\\" (SO_MARK) takes CAP_NET_ADMIN"), "{faults}");
    let log = lab.ok("journalctl -o cat -u portbroker");
    assert!(log.contains("this kernel has no nosuch"), "{log}");

    lab.step("with the privilege it is there");
    lab.ok("rm -r /etc/systemd/system/portbroker.service.d");
    lab.ok("systemctl daemon-reload && systemctl restart portbroker");
    lab.wait_for("portbroker show listener marked | grep -q listening", 15);
    assert!(lab.ok("ss -tlne 'sport = 3001'").contains("fwmark:0x5"));

    lab.step("options change on the living socket at a reload");
    let inode = lab.ok("portbroker --json show listener marked | grep -o '\"inode\":[0-9]*'");
    lab.ok("sed -i 's/mark = 5/mark = 6/' /etc/portbroker/portbroker.toml && portbroker reload");
    assert!(lab.ok("ss -tlne 'sport = 3001'").contains("fwmark:0x6"));
    assert_eq!(lab.ok("portbroker --json show listener marked | grep -o '\"inode\":[0-9]*'"), inode);

    lab.step("a restart keeps every path, the end only those that are to stay");
    lab.ok("systemctl restart portbroker && test -S /run/gone.sock -a -L /run/link.sock");
    lab.stop_for_good();
    lab.ok("test ! -e /run/gone.sock -a ! -L /run/link.sock -a -S /run/stays.sock");
}
