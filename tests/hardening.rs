//! The sandbox of the daemon's unit: what systemd-analyze says of it, with and without what the generator adds, and
//! that what is configured works inside of it, on a booted system.

#![cfg(test)]

use portbroker::generator::{Host, Tool, generate};
use portbroker_lab::{Lab, prepare, program_of_the_tree};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What systemd-analyze(1) calls the exposure, in tenths: as it is installed.
const PLAIN: u32 = 20;
/// With the drop-in for sockets that have a path.
const WITH_PATHS: u32 = 24;

const UNIT: &str = "portbroker.service";

fn source() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether the unit in a directory, with its drop-ins there, is exposed no more than this; and what was said.
fn is_within(directory: &Path, threshold: u32) -> (bool, String) {
    let output = program_of_the_tree("systemd-analyze", directory)
        .args(["security", "--no-pager", "--offline=true", &format!("--threshold={threshold}")])
        .arg(Path::new("/mnt").join(UNIT))
        .output()
        .expect("unshare of util-linux, and systemd-analyze of systemd");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Overall exposure level"), "{said}");
    (output.status.success(), said.into_owned())
}

/// The unit as it is installed, in a directory.
fn installed() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(source().join("systemd/install"))
        .env("DESTDIR", directory.path())
        .env("PREFIX", "/usr")
        .env("BINDIR", Path::new(env!("CARGO_BIN_EXE_portbroker")).parent().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    directory
}

#[test]
fn the_unit_is_exposed_as_little_as_is_said() {
    let directory = installed();
    let units = directory.path().join("usr/lib/systemd/system");
    let (within, said) = is_within(&units, PLAIN);
    assert!(within, "{said}");
    let (within, _) = is_within(&units, PLAIN / 2);
    assert!(!within, "the check can fail");

    // What the generator adds where there are sockets that are given to somebody.
    let etc = directory.path().join("etc/systemd/system");
    fs::create_dir_all(&etc).unwrap();
    let service =
        "[Service]\nExecStart=/bin/true\n[X-PortBroker]\nListenStream=/run/db/db.sock\nSocketUser=0\n";
    fs::write(etc.join("db.service"), service).unwrap();
    let tool = Tool { path: "/usr/bin/portbroker".into(), loader: None };
    let messages = generate(directory.path(), &units, &Host { tool, systemd: None });
    assert!(messages.is_empty(), "{messages:?}");
    assert!(
        fs::read_to_string(units.join("portbroker.service.d/50-sockets.conf")).unwrap().contains("CAP_CHOWN")
    );
    let (within, said) = is_within(&units, WITH_PATHS);
    assert!(within, "{said}");
    let (within, said) = is_within(&units, PLAIN);
    assert!(!within, "the drop-in was not seen: {said}");
}

#[test]
fn the_unit_says_nothing_that_would_cut_off_services() {
    let unit = fs::read_to_string(source().join("systemd").join(UNIT)).unwrap();
    let keys: Vec<&str> = unit
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split('=').next())
        .collect();
    for key in [
        "PrivateNetwork",
        "IPAddressDeny",
        "IPAddressAllow",
        "PrivateUsers",
        "DynamicUser",
        "ProtectProc",
        "ProcSubset",
    ] {
        assert!(!keys.contains(&key), "{key}=");
    }
    assert!(keys.contains(&"SystemCallFilter") && unit.contains("\nSystemCallErrorNumber=EPERM\n"));
}

const CONFIGURATION: &str = "\
[[listener]]
name = \"plain\"
stream = [\"127.0.0.1:80\", \"/run/plain/plain.sock\"]
symlinks = \"/run/links/deep/plain.sock\"
[[listener]]
name = \"closed\"
stream = \"/srv/closed/deep/closed.sock\"
socket-user = \"nobody\"
socket-group = \"mail\"
socket-mode = \"0660\"
directory-mode = \"2750\"
idle = \"refuse\"
[[listener]]
name = \"datagrams\"
datagram = [\"127.0.0.1:81\", \"/run/plain/datagrams.sock\"]
idle = \"drop\"
reuse-port = 1
[[listener]]
name = \"shards\"
stream = \"127.0.0.1:82\"
reuse-port = 2
";
const FILE: &str = "/etc/portbroker/portbroker.toml";

fn mode(lab: &Lab, path: &str) -> String {
    lab.ok(&format!("stat -c '%a %U %G' {path}"))
}

#[test]
fn what_is_configured_works_inside_and_nothing_else_may_be_done() {
    let lab = prepare("hardening")
        .install(source(), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file(FILE, "[[listener]]\nname = \"plain\"\nstream = \"127.0.0.1:80\"\n")
        .boot();
    lab.step("without sockets that have a path");
    lab.ok("portbroker status");
    lab.ok(&format!("systemd-analyze security --no-pager --threshold={PLAIN} {UNIT}"));
    let status = |lab: &Lab| lab.ok(&format!("cat /proc/$(systemctl show -P MainPID {UNIT})/status"));
    let before = status(&lab);
    // CAP_NET_BIND_SERVICE and CAP_NET_ADMIN.
    for line in [
        "CapBnd:\t0000000000001400",
        "CapEff:\t0000000000001400",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "Umask:\t0077",
    ] {
        assert!(before.contains(line), "no {line:?} in {before}");
    }

    lab.step("with them, and only then, it has what they take");
    lab.write(FILE, CONFIGURATION);
    lab.ok("systemctl daemon-reload");
    lab.wait_for("portbroker show listener shards && portbroker status", 30);
    // And CAP_CHOWN and CAP_DAC_OVERRIDE.
    assert!(status(&lab).contains("CapEff:\t0000000000001403"), "{}", status(&lab));
    let (lower, score) =
        (WITH_PATHS, lab.ok(&format!("systemd-analyze security --no-pager {UNIT} | tail -1")));
    println!("{score}");
    // A setgid directory is one thing more, and so is systemd's word for it.
    lab.ok(&format!("systemd-analyze security --no-pager --threshold={} {UNIT}", lower + 3));

    lab.step("files have the modes that the configuration says, whatever the umask");
    assert_eq!(mode(&lab, "/run/plain"), "755 portbroker portbroker");
    assert_eq!(mode(&lab, "/run/links/deep"), "755 portbroker portbroker");
    assert_eq!(mode(&lab, "/run/plain/plain.sock"), "666 portbroker portbroker");
    assert_eq!(mode(&lab, "/srv/closed/deep"), "2750 portbroker portbroker");
    assert_eq!(mode(&lab, "/srv/closed/deep/closed.sock"), "660 nobody mail");
    assert_eq!(mode(&lab, "/run/portbroker"), "755 portbroker portbroker");
    assert_eq!(
        lab.ok("find /run/portbroker /var/lib/portbroker -type f -perm /077"),
        "",
        "nobody else's to read"
    );

    lab.step("an administrator's own drop-in has the last word, also on the system calls");
    lab.write("/etc/systemd/system/portbroker.service.d/override.conf", "[Service]\nSystemCallFilter=\n");
    lab.ok("systemctl daemon-reload && systemctl restart portbroker && portbroker status");
    lab.ok("rm /etc/systemd/system/portbroker.service.d/override.conf && systemctl daemon-reload");
    lab.ok("systemctl restart portbroker && portbroker status");

    lab.step("and all of it is served, also after a kill");
    lab.ok("systemctl kill -s KILL portbroker");
    lab.wait_for("portbroker status", 30);
    for name in ["plain", "datagrams", "shards"] {
        lab.ok(&format!("portbroker exec {name} -- true"));
    }
    lab.ok("systemd-run --quiet --unit=serve portbroker exec plain -- python3 /opt/serve.py");
    lab.wait_for("ss -Hltn 'sport = :80' | grep -q 80", 10);
    assert_eq!(lab.ask("80"), "given plain plain");
    // Of this life: an earlier one had to start anew before it had what a path takes.
    let denied = "journalctl -b _PID=$(systemctl show -P MainPID portbroker) -o cat | grep -i 'operation not permitted' || true";
    assert_eq!(lab.ok(denied), "");
}
