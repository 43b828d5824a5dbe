//! `systemd/install` and `systemd/uninstall` in a system that is running.

#![cfg(test)]

use portbroker_lab::prepare;
use std::fs;
use std::path::Path;

#[test]
fn it_is_installed_into_a_running_system_and_taken_out_again() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let programs = Path::new(env!("CARGO_BIN_EXE_portbroker")).parent().unwrap();
    let mut lab = prepare("install").unit(
        "db.service",
        "[Service]\nExecStart=/usr/bin/python3 /opt/serve.py 3306\n[X-PortBroker]\nListenStream=127.0.0.1:3306\n",
    );
    for folder in [source.clone(), source.join("man"), source.join("monitoring")] {
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = entry.strip_prefix(&source).unwrap().to_str().unwrap().to_owned();
            if entry.is_file() {
                lab = lab.copy(&entry, &format!("/opt/portbroker/systemd/{name}"));
            }
        }
    }
    for name in ["portbroker", "portbrokerd", "portbroker-generator"] {
        lab = lab.copy(&programs.join(name), &format!("/opt/portbroker/target/release/{name}"));
    }
    let lab = lab.boot();
    let listens = "ss -Hltn 'sport = :3306' | grep -q 3306";
    lab.ok("systemctl start db");
    // It is started, and binds when it gets there.
    lab.wait_for(listens, 10);
    assert_eq!(lab.ask("3306"), "bound");

    lab.step("installed and started");
    lab.ok("/opt/portbroker/systemd/install");
    lab.ok("systemctl is-enabled portbroker.service portbroker.socket");
    assert_eq!(lab.show("portbroker.service", "ActiveState"), "active");
    lab.wait_for("busctl status org.portbroker.PortBroker1", 15);
    for file in [
        "man/man1/portbroker.1",
        "man/man1/portbroker-exec.1",
        "man/man5/portbroker.unit.5",
        "man/man8/portbrokerd.8",
        "bash-completion/completions/portbroker",
        "zsh/site-functions/_portbroker",
        "fish/vendor_completions.d/portbroker.fish",
        "portbroker/portbroker.rules.yaml",
        "portbroker/portbroker.grafana.json",
    ] {
        lab.ok(&format!("test -s /usr/local/share/{file}"));
    }

    lab.step("the service that had its port already gets it from the broker from the next start on");
    lab.ok("systemctl stop db");
    lab.wait_for("/usr/local/bin/portbroker status", 40);
    lab.ok("systemctl start db");
    assert_eq!(lab.ask("3306"), "given db");

    lab.step("what happened is in the journal, with an identifier, its fields, and what it means");
    let event = "-u portbroker PORTBROKER_EVENT=hand-over";
    lab.wait_for(&format!("journalctl -q {event} | grep db.service"), 20);
    let json = lab.ok(&format!("journalctl -q -o json {event} | tail -1"));
    let record: serde_json::Value = serde_json::from_str(&json).unwrap();
    let field =
        |name: &str| record[name].as_str().unwrap_or_else(|| panic!("no {name} in {json}")).to_owned();
    assert_eq!((field("PORTBROKER_LISTENERS"), field("PORTBROKER_UNIT")), ("db".into(), "db.service".into()));
    assert_eq!(
        (field("PORTBROKER_SOCKETS"), field("_SYSTEMD_UNIT")),
        ("1".into(), "portbroker.service".into())
    );
    let by_id = format!("journalctl -q -x MESSAGE_ID={}", field("MESSAGE_ID"));
    let explained = lab.ok(&by_id);
    assert!(explained.contains("Subject: Sockets were handed over"), "{explained}");
    assert!(explained.contains("(unit: db.service), which holds them from now on."), "{explained}");

    lab.step("metrics, for root and a group");
    let of_socket = "stat -c '%U:%G %a' /run/portbroker/metrics";
    assert_eq!(lab.ok(of_socket), "portbroker:portbroker 660");
    let scrape = "/usr/bin/python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect(\"/run/portbroker/metrics\"); \
                  s.sendall(b\"GET /metrics HTTP/1.1\\r\\n\\r\\n\"); print(s.makefile().read())'";
    assert!(lab.ok(scrape).contains("portbroker_handovers_total"));
    let refused = lab.fails(&format!("setpriv --reuid=nobody --regid=nogroup --clear-groups {scrape} 2>&1"));
    assert!(refused.contains("PermissionError"), "{refused}");
    let group = "[metrics]\nsocket-group = \"daemon\"\nlisten = \"127.0.0.1:9188\"\n";
    lab.write("/etc/portbroker/portbroker.conf.d/metrics.toml", group);
    // The generator makes the daemon a member, and the daemon starts anew for that.
    lab.ok("systemctl daemon-reload");
    lab.wait_for(&format!("{of_socket} | grep -x 'portbroker:daemon 660'"), 20);
    lab.wait_for("/usr/local/bin/portbroker status", 20);
    lab.ok(&format!("setpriv --reuid=nobody --regid=daemon --clear-groups {scrape} | grep -x '# EOF'"));
    lab.ok("ss -Hltn 'sport = :9188' | grep -q 127.0.0.1:9188");

    lab.step("a pool of the kernel's own range: its ports are reserved, and one is leased");
    let pool = "[[pool]]\nname = \"egress\"\naddresses = [\"127.0.0.2\"]\nports = \"40000-40999\"\n";
    lab.write("/etc/portbroker/portbroker.conf.d/egress.toml", pool);
    lab.ok("systemctl reload portbroker");
    let reserved = "cat /proc/sys/net/ipv4/ip_local_reserved_ports";
    assert_eq!(lab.ok(reserved), "3306,40000-40999");
    lab.ok("systemd-run --unit=crawler /usr/local/bin/portbroker lease egress --to 127.0.0.1:443");
    let leases = "portbroker --json list leases";
    lab.wait_for(&format!("{leases} | grep crawler.service"), 10);
    let leased = lab.ok(leases);

    lab.step("installed again, as an upgrade: the same sockets and leases");
    let inode = "portbroker --json show listener db | grep -o '\"inode\":[0-9]*'";
    let before = lab.ok(inode);
    lab.ok("/opt/portbroker/systemd/install");
    assert_eq!(lab.ok(inode), before);
    assert_eq!(lab.ask("3306"), "given db");
    assert_eq!(lab.ok(leases), leased);

    lab.step("taken out: the service goes on, and binds for itself from its next start on");
    lab.ok("/opt/portbroker/systemd/uninstall");
    assert_eq!(lab.ask("3306"), "given db");
    lab.ok("systemctl restart db");
    lab.wait_for(listens, 10);
    assert_eq!(lab.ask("3306"), "bound");
    assert_eq!((lab.ok(reserved).as_str(), lab.show("crawler", "ActiveState").as_str()), ("", "active"));
    lab.fails("ls /run/portbroker");
    let left = lab
        .ok("find /usr/local /usr/lib /etc /run/systemd -name '*portbroker*' -not -path '/etc/portbroker*'");
    assert_eq!(left, "");
    lab.fails("journalctl --list-catalog | grep -i portbroker");
}
