//! A journal that takes nothing: the daemon goes on, and says afterwards what was lost. On a booted systemd.

#![cfg(test)]

use portbroker_lab::prepare;
use std::path::Path;

const CALLER: &str = include_str!("support/caller.py");
const CONFIGURATION: &str = "\
[limits]
log-lines-per-user = 1000000
[[listener]]
name = \"web\"
stream = \"127.0.0.1:5000\"
allow = \"user:nobody\"
[[listener]]
name = \"private\"
stream = \"127.0.0.1:4999\"
";

#[test]
fn a_stopped_journal_does_not_stop_the_daemon() {
    let lab = prepare("stuck-log")
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file("/etc/portbroker/portbroker.toml", CONFIGURATION)
        .file("/opt/caller.py", CALLER)
        .boot();
    let call = |what: &str| {
        lab.ok(&format!(
            "python3 /opt/caller.py /run/portbroker/bus 65534 measure {what} </dev/null | tail -n 1"
        ))
    };
    assert_eq!(call("acquire 5").trim(), "0 5");
    lab.wait_for("journalctl -q -u portbroker PORTBROKER_EVENT=hand-over | grep web", 20);

    lab.step("journald is stopped, and callers are served and refused as before");
    lab.ok("systemctl kill -s STOP systemd-journald.service");
    // Of each line 300 bytes and more: neither the journal's queue nor the daemon's buffer has room for them.
    assert_eq!(call("refused 15000").trim(), "15000 0");
    assert_eq!(call("acquire 50").trim(), "0 50");

    lab.step("it goes on, and the journal has what waited and how much was lost");
    lab.ok("systemctl kill -s CONT systemd-journald.service");
    lab.wait_for("journalctl -q -u portbroker PORTBROKER_EVENT=lost | grep 'lines of the log were lost'", 30);
    assert_eq!(call("acquire 1").trim(), "0 1");
    lab.wait_for("portbroker status", 10);
}
