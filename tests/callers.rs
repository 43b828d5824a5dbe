//! Who is believed to be who on a booted system, and the system bus that comes late and goes.

#![cfg(test)]

use portbroker_lab::{Lab, Preparation, prepare};
use std::path::Path;

const NAME: &str = "org.portbroker.PortBroker1";
const ACQUIRE: &str = "busctl call org.portbroker.PortBroker1 /org/portbroker/PortBroker1 \
                       org.portbroker.PortBroker1.Manager AcquireListeners 'asa{sv}' 1 db 0";
/// Exit status of what the broker does not allow.
const NOT_ALLOWED: Option<i32> = Some(77);

fn installed(name: &str) -> Preparation {
    prepare(name)
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .unit(
            "db.service",
            "[Service]\nUser=nobody\nExecStart=/usr/bin/python3 /opt/serve.py 3306\n\
             [X-PortBroker]\nListenStream=127.0.0.1:3306\n",
        )
        .enable("db.service", "lab.target")
}

/// The exit status of a shell command inside, with what it said.
fn status(lab: &Lab, command: &str) -> (Option<i32>, String) {
    let output = lab.sh(command);
    (output.status.code(), format!("{output:?}"))
}

#[test]
fn only_the_unit_and_root_take_its_listener() {
    let lab = installed("callers")
        // The same as the deposit does, by the unit's own process and without root.
        .unit(
            "own.service",
            "[Service]\nUser=nobody\nExecStart=/usr/bin/portbroker exec own -- /usr/bin/python3 /opt/serve.py 3307\n\
             [X-PortBroker]\nListenStream=127.0.0.1:3307\n",
        )
        .boot();
    assert_eq!(lab.ask("3306"), "given db");

    lab.step("a process of the unit, though not root");
    lab.ok("systemctl start own");
    assert_eq!(lab.ask("3307"), "given own");

    lab.step("root");
    lab.ok("portbroker exec db -- true");

    lab.step("another unit of the same user");
    let run = "systemd-run --quiet --wait --pipe -p User=nobody";
    let (code, said) = status(&lab, &format!("{run} portbroker exec db -- true"));
    assert_eq!(code, NOT_ALLOWED, "{said}");
    let (code, said) = status(&lab, &format!("{run} {ACQUIRE}"));
    assert!(code != Some(0) && said.contains("not allow"), "{said}");

    lab.step("a unit whose name only begins or ends alike");
    for unit in ["db.service.service", "xdb.service", "db@1.service"] {
        let (code, said) = status(&lab, &format!("{run} --unit={unit} portbroker exec db -- true"));
        assert_eq!(code, NOT_ALLOWED, "{unit}: {said}");
    }

    lab.step("a delegated cgroup that calls itself by the unit's name");
    lab.write(
        "/opt/pose.sh",
        "for root in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do\n\
           mine=$root/system.slice/pose.service\n\
           if mkdir $mine/db.service 2>/dev/null; then echo $$ >$mine/db.service/cgroup.procs && posed=yes; fi\n\
         done\n\
         test \"$posed\" = yes || exit 3\n\
         exec portbroker exec db -- true\n",
    );
    let (code, said) = status(&lab, &format!("{run} --unit=pose -p Delegate=yes sh /opt/pose.sh"));
    assert_eq!(code, NOT_ALLOWED, "{said}");

    lab.step("the root of a container");
    let (code, said) = status(&lab, "unshare --pid --mount --fork portbroker exec db -- true");
    assert_eq!(code, NOT_ALLOWED, "{said}");

    lab.step("a user's own manager, which has a unit of the same name");
    lab.ok("useradd --create-home someone && systemctl start user@$(id -u someone).service");
    let user = "runuser -u someone -- env XDG_RUNTIME_DIR=/run/user/$(id -u someone) systemd-run --user";
    lab.ok(&format!("{user} --quiet --wait --unit=probe true"));
    let (code, said) =
        status(&lab, &format!("{user} --quiet --wait --pipe --unit=db.service portbroker exec db -- true"));
    assert_eq!(code, NOT_ALLOWED, "{said}");

    lab.step("each refusal is in the journal, with who asked");
    let journal = lab.ok("journalctl -u portbroker -o json");
    assert!(journal.contains("\"pose.service\""), "{journal}");
    assert_eq!(lab.ask("3306"), "given db");
}

#[test]
fn the_system_bus_may_come_late_and_go_and_come_back() {
    let on_bus = format!("busctl status {NAME}");
    let lab = installed("bus").mask(&["dbus.socket", "dbus.service"]).boot();

    lab.step("without a bus, the private socket serves");
    assert_eq!(lab.ask("3306"), "given db");
    lab.ok("portbroker list listeners");
    lab.fails(&on_bus);

    lab.step("a bus appears");
    lab.ok("rm /etc/systemd/system/dbus.socket /etc/systemd/system/dbus.service");
    lab.ok("systemctl daemon-reload && systemctl start dbus.service");
    lab.wait_for(&on_bus, 15);
    lab.ok(&format!("{ACQUIRE} | grep '^a(sh) 1 \"db\"'"));

    lab.step("a bus that is restarted, twice");
    for _ in 0..2 {
        lab.ok("systemctl restart dbus.service");
        lab.wait_for(&on_bus, 15);
    }

    lab.step("nobody else can take the name, not even root");
    let take = "busctl call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus RequestName su";
    let said = lab.fails(&format!("{take} {NAME} 0"));
    assert!(said.contains("Access denied"), "{said}");

    lab.step("introspection, properties and objects are for everybody");
    let everybody = "runuser -u nobody -- busctl";
    lab.ok(&format!("{everybody} tree {NAME} | grep listener/db"));
    lab.ok(&format!("{everybody} introspect {NAME} /org/portbroker/PortBroker1 | grep AcquireListeners"));
    let property = "/org/portbroker/PortBroker1/listener/db org.portbroker.PortBroker1.Listener State";
    assert_eq!(lab.ok(&format!("{everybody} get-property {NAME} {property}")), "s \"listening\"");
    assert_eq!(lab.ask("3306"), "given db");
}
