//! The Debian package, on a booted system: installed, upgraded under load, removed, and purged. It is built from the
//! programs under test.

#![cfg(test)]

use portbroker_lab::prepare;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Connects without pause, as often as the queue has room, and says what was refused.
const STORM: &str = "
import socket, time
count = 0
while True:
    s = socket.socket()
    s.settimeout(20)
    try:
        s.connect(('127.0.0.1', 3306))
        if not s.recv(100): print('unanswered', flush=True)
    except OSError as e: print('refused', e, flush=True)
    s.close()
    count += 1
    open('/run/storm', 'w').write(str(count))
    time.sleep(0.005)
";

/// The package, of a revision.
fn built(revision: &str, directory: &Path) -> PathBuf {
    let file = directory.join(format!("{revision}.deb"));
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/deb/build"))
        .args(["--fast", "--deb-revision", revision, "--output"])
        .arg(&file)
        .env("BINDIR", Path::new(env!("CARGO_BIN_EXE_portbroker")).parent().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "needs cargo-deb: {output:?}");
    file
}

#[test]
fn a_package_installs_upgrades_under_load_and_purges() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (built("1", directory.path()), built("2", directory.path()));
    let lab = prepare("package")
        .copy(&first, "/opt/first.deb")
        .copy(&second, "/opt/second.deb")
        .file("/opt/storm.py", STORM)
        .unit("storm.service", "[Service]\nExecStart=/usr/bin/python3 /opt/storm.py\n")
        .unit(
            "db.service",
            "[Service]\nExecStart=/usr/bin/python3 /opt/serve.py 3306\n[X-PortBroker]\nListenStream=127.0.0.1:3306\n",
        )
        .boot();
    // Images of containers have one that keeps packages from starting what they install.
    lab.ok("rm -f /usr/sbin/policy-rc.d");
    let packages = "find /etc /usr /var/lib /run -xdev -name '*portbroker*' | sort";
    let before = lab.ok(packages);
    let install = |file: &str| format!("DEBIAN_FRONTEND=noninteractive dpkg -i /opt/{file}.deb 2>&1");

    lab.step("installed, enabled and started");
    lab.ok(&install("first"));
    lab.ok("systemctl is-enabled portbroker.service portbroker.socket && portbroker status");
    lab.wait_for("busctl status org.portbroker.PortBroker1", 15);
    lab.ok("systemctl start db");
    assert_eq!(lab.ask("3306"), "given db");
    assert_eq!(lab.ok("dpkg --verify portbroker"), "");
    lab.ok("pkaction --action-id org.portbroker.PortBroker1.reload");
    lab.ok(
        "cd /usr/share && ls bash-completion/completions/portbroker zsh/vendor-completions/_portbroker portbroker/portbroker.rules.yaml man/man1/portbroker.1.gz",
    );
    assert_eq!(lab.ok("systemd-analyze verify portbroker.service portbroker.socket 2>&1"), "");

    lab.step("upgraded under load: nobody is refused, and the sockets are the same");
    let inode = "portbroker --json show listener db | grep -o '\"inode\":[0-9]*'";
    let (socket, pid) = (lab.ok(inode), lab.show("portbroker", "MainPID"));
    lab.ok("systemctl start storm");
    let more = |than: u64| lab.wait_for(&format!("test $(cat /run/storm) -gt {than}"), 30);
    let count = || lab.ok("cat /run/storm || echo 0").parse::<u64>().unwrap_or(0);
    lab.wait_for("test -s /run/storm", 15);
    for file in ["second", "first", "second"] {
        more(count() + 20);
        lab.ok(&install(file));
        lab.ok("portbroker status");
        more(count() + 20);
    }
    assert_eq!(lab.ok(inode), socket);
    assert_ne!(lab.show("portbroker", "MainPID"), pid);
    assert_eq!(lab.ok("dpkg-query -W -f '${Version}' portbroker | grep -o '[0-9]*$'"), "2");
    assert_eq!(lab.ok("journalctl -b -u storm -o cat | grep -E 'refused|unanswered' || true"), "");

    lab.step("what an administrator disabled stays disabled");
    lab.ok("systemctl disable portbroker.service");
    lab.ok(&install("first"));
    lab.fails("systemctl is-enabled portbroker.service");
    lab.ok("systemctl enable portbroker.service portbroker.socket");

    lab.step("removed: the configuration stays, services bind for themselves");
    lab.write("/etc/portbroker/portbroker.toml", "[protect]\nports = [\"6379\"]\n");
    lab.ok("systemctl stop storm && dpkg -r portbroker 2>&1");
    lab.ok("test -f /etc/portbroker/portbroker.toml -a ! -e /run/portbroker");
    assert_eq!(lab.ok("cat /proc/sys/net/ipv4/ip_local_reserved_ports"), "");
    lab.ok("systemctl restart db");
    lab.wait_for("ss -Hltn 'sport = :3306' | grep -q 3306", 10);
    assert_eq!(lab.ask("3306"), "bound");

    lab.step("installed again");
    lab.ok("systemctl stop db");
    lab.ok(&install("second"));
    lab.ok("systemctl is-enabled portbroker.service && portbroker status && systemctl start db");
    assert_eq!(lab.ask("3306"), "given db");
    assert_eq!(lab.ok("cat /proc/sys/net/ipv4/ip_local_reserved_ports"), "3306,6379");

    lab.step("purged: nothing is left");
    lab.ok("dpkg -P portbroker 2>&1 && systemctl stop db");
    assert_eq!(lab.ok(packages), before);
    lab.fails("getent passwd portbroker");
    lab.fails("systemctl cat portbroker.service");
    assert_eq!(lab.ok("cat /proc/sys/net/ipv4/ip_local_reserved_ports"), "");
    assert_eq!(lab.ok("journalctl -b -o cat | grep -i 'portbroker.*unknown key' || true"), "");
}
