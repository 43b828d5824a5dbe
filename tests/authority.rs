//! Who may administer besides root, on a booted system with a real polkitd and a real dbus-daemon: by rules, by a
//! password on a terminal, and not at all where polkit is silent. And what a bus lets through to the broker.

#![cfg(test)]

use portbroker_lab::{Lab, prepare};
use std::path::Path;

const CONFIGURATION: &str = "\
[[pool]]
name = \"egress\"
addresses = [\"127.0.0.2\", \"127.0.0.3\"]
ports = \"10000-10099\"
";
const FILE: &str = "/etc/portbroker/portbroker.toml";
/// Exit status of what the broker does not allow.
const NOT_ALLOWED: i32 = 77;
/// Connections of the daemon's to the bus: the one that serves, and one for each question to polkit.
const CONNECTIONS: &str = "busctl list --unique --no-legend | grep -c ' portbrokerd '";

fn booted(name: &str) -> Lab {
    let lab = prepare(name)
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file(FILE, CONFIGURATION)
        .file("/etc/polkit-1/rules.d/00-test.rules", include_str!("authority/rules.js"))
        .file("/opt/bus.py", include_str!("authority/bus.py"))
        .file("/opt/terminal.py", include_str!("authority/terminal.py"))
        .boot();
    // What polkit itself logs of its rules is nowhere to be found.
    lab.ok("mkdir -m 1777 /run/asked && touch /run/asked/log && chmod 666 /run/asked/log");
    lab.ok(
        "for user in deputy stranger other banned boss; do useradd $user; done; echo boss:secret | chpasswd",
    );
    lab.wait_for("busctl status org.portbroker.PortBroker1", 15);
    lab
}

/// The same, as somebody else.
fn by(user: &str, command: &str) -> String {
    format!("setpriv --reuid={user} --regid={user} --clear-groups {command}")
}

/// The same on a terminal, which does `what` where a password is asked for.
fn on_terminal(what: &str, user: &str, command: &str) -> String {
    format!("/usr/bin/python3 /opt/terminal.py {what} {}", by(user, command))
}

/// By python3-dbus, over the bus.
fn call(user: &str, arguments: &str) -> String {
    by(user, &format!("/usr/bin/python3 /opt/bus.py system {arguments}"))
}

/// What a command ends with, and what it says.
fn ends(lab: &Lab, command: &str) -> (i32, String) {
    let output = lab.sh(command);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), said.into_owned())
}

fn is_refused(lab: &Lab, command: &str, because: &str) {
    let (status, said) = ends(lab, command);
    assert!(status == NOT_ALLOWED && said.contains(because), "`{command}`: {status}, {said}");
}

/// A lease of root's; its number.
fn lease_of_root(lab: &Lab) -> String {
    lab.ok("systemd-run --quiet portbroker lease egress --to 127.0.0.1:443");
    let held = "portbroker --json list leases | grep -o '\"lease\":[0-9]*,[^}]*\"state\":\"held\"' | grep -o '[0-9]*' | head -1";
    lab.wait_for(&format!("test -n \"$({held})\""), 15);
    lab.ok(held)
}

#[test]
fn polkit_says_who_may_administer_besides_root() {
    let lab = booted("authority");

    lab.step("whom a rule lets, over the private socket");
    lab.ok(&by("deputy", "portbroker reload"));
    lab.ok(&by("deputy", "portbroker drain 127.0.0.2"));
    lab.ok(&by("deputy", "portbroker drain --undo 127.0.0.2"));
    let evicted = lab.ok(&by("deputy", "portbroker who 9999/udp --evict"));
    assert!(evicted.ends_with("nothing was there to be closed"), "{evicted}");
    is_refused(&lab, &by("deputy", "portbroker drain 127.0.0.3"), "org.portbroker.PortBroker1.drain");
    let lease = lease_of_root(&lab);
    lab.ok(&by("deputy", &format!("portbroker release {lease}")));
    assert!(lab.ok("journalctl -b -o cat -u portbroker").contains("polkit lets pid"), "it is in the log");

    lab.step("the same over the bus, by the flag, by the option, and without");
    for arguments in ["Reload", "Reload i=yes", "Reload i=no", "Reload o=", "DrainAddress s=127.0.0.2 i=yes"]
    {
        assert_eq!(lab.ok(&call("deputy", arguments)), "done", "{arguments}");
    }
    let flagged = "busctl --allow-interactive-authorization=yes call org.portbroker.PortBroker1 \
                   /org/portbroker/PortBroker1 org.portbroker.PortBroker1.Manager Reload";
    lab.ok(&by("deputy", flagged));
    let lease = lease_of_root(&lab);
    assert!(lab.ok(&call("stranger", &format!("Release t={lease}"))).contains("Error.NotAllowed"));
    assert_eq!(lab.ok(&call("deputy", &format!("Release t={lease} i=no"))), "done");
    for arguments in [
        "Reload bad=else",
        "Reload bad=interactive",
        "Release t=1 bad=undo",
        "DrainAddress s=::1 bad=interactive",
    ] {
        let said = lab.ok(&call("deputy", arguments));
        assert!(said.contains("BadArgument"), "{arguments}: {said}");
    }

    lab.step("polkit is told who sends, and what it is about");
    let asked = lab.ok("cat /run/asked/log");
    let own = lab.show("portbroker", "MainPID");
    for line in [
        "asked about deputy pid",
        "drain - 127.0.0.2 -",
        "evict - - 9999/udp",
        &format!("release {lease} - -"),
    ] {
        assert!(asked.contains(line), "no {line:?} in {asked}");
    }
    assert!(!asked.contains("asked about portbroker") && !asked.contains(&format!(" pid {own} ")), "{asked}");

    lab.step("who would have to authenticate, and whom a rule forbids it");
    is_refused(&lab, &by("stranger", "portbroker reload"), "who authenticates to polkit");
    is_refused(&lab, &by("stranger", "portbroker --no-ask-password reload"), "who authenticates to polkit");
    is_refused(&lab, &by("stranger", "portbroker who 9999 --evict"), "who authenticates to polkit");
    is_refused(
        &lab,
        &by("banned", "portbroker reload"),
        "whom polkit lets (org.portbroker.PortBroker1.reload)",
    );
    assert!(lab.ok(&call("banned", "Reload i=yes")).contains("whom polkit lets"));

    lab.step("one's own lease takes nobody's word");
    let before = lab.ok("cat /run/asked/log");
    let own = "sh -c 'portbroker lease default --to 127.0.0.1:443 >/dev/null & sleep 1; n=$(portbroker --json list leases | grep -o \"lease.:[0-9]*\" | grep -o \"[0-9]*\"); portbroker release $n; e=$?; kill $!; exit $e'";
    lab.ok(&format!("printf '[[pool]]\\nname = \"default\"\\naddresses = [\"127.0.0.4\"]\\nports = \"10000-10099\"\\nallow = \"user:stranger\"\\n' >>{FILE} && portbroker reload"));
    lab.ok(&by("stranger", own));
    assert_eq!(lab.ok("cat /run/asked/log"), before);

    lab.step("uid 0 of other namespaces is not root, though polkit would say that it is");
    is_refused(&lab, "unshare --mount portbroker reload", "only root may");
    is_refused(&lab, "unshare --pid --fork portbroker reload", "only root may");
    lab.ok("portbroker reload");
    let outside = lab.ok("unshare --mount /usr/bin/python3 /opt/bus.py system Reload");
    assert!(outside.contains("NotAllowed"), "{outside}");
    lab.step("and a user of another user or pid namespace is nobody whom polkit knows");
    is_refused(&lab, &by("deputy", "unshare --user --map-current-user portbroker reload"), "another system");
    assert_eq!(lab.ok(&call("deputy", "Reload")), "done");
}

/// What a command ends with, and what it says among other things.
fn says(lab: &Lab, command: &str, expected: i32, parts: &[&str]) {
    let (status, said) = ends(lab, command);
    let is_said = parts.iter().all(|part| said.contains(part));
    assert!(status == expected && is_said, "`{command}`: {status}, {said}");
}

/// Nobody is asked any more.
fn is_withdrawn(lab: &Lab) {
    lab.wait_for(&format!("test $({CONNECTIONS}) = 1"), 15);
}

/// With an agent that was there before, as one of the session's would be.
fn with_an_agent(agent: &str) -> String {
    format!(
        "sh -c 'rm -f /tmp/there; mkfifo /tmp/there; {agent} --process $$ --notify-fd 9 9>/tmp/there & \
         cat /tmp/there; exec portbroker reload'"
    )
}

/// As if it were not there, only the bus is.
const WITHOUT_SOCKET: &str = "unshare --mount sh -c 'mount -t tmpfs tmpfs /run/portbroker && exec \"$@\"' sh";

#[test]
fn an_administrator_s_password_is_asked_for_on_a_terminal() {
    let lab = booted("password");

    lab.step("it is typed, for each verb that administers, and that is done");
    let lease = lease_of_root(&lab);
    for (command, asked) in [
        ("portbroker reload", "to reload the configuration of the port broker."),
        ("portbroker drain 127.0.0.2", "to change whether ports of 127.0.0.2 are leased"),
        ("portbroker who 9999/udp --evict", "to close what uses port 9999/udp."),
        (&format!("portbroker release {lease}"), &format!("to end lease {lease}, which is somebody else's.")),
    ] {
        let command = on_terminal("type secret", "stranger", command);
        says(&lab, &command, 0, &[asked, "asked 1 times, echo on, agents left 0"]);
    }
    assert!(lab.ok("portbroker --json show pool egress").contains("\"drained\""), "it is drained");
    assert!(!lab.ok("portbroker --json list leases").contains("\"state\":\"held\""), "it is ended");

    lab.step("over the bus too");
    let command = on_terminal("type secret", "stranger", "portbroker reload");
    says(&lab, &format!("{WITHOUT_SOCKET} {command}"), 0, &["asked 1 times, echo on"]);

    lab.step("a wrong one, none, and no agent any more; nothing is written over the prompt");
    for (what, asked) in [
        ("type wrong", "asked 1 times, echo on"),
        ("type ^D", "echo on"),
        ("kill pkttyagent", "asked 1 times"),
    ] {
        let command = on_terminal(what, "stranger", "portbroker reload");
        let (status, said) = ends(&lab, &command);
        let told = "the authentication failed, or a rule forbids it";
        let is_told = said.contains("Error.NotAllowed") && said.contains(told) && said.contains(asked);
        assert!(status == NOT_ALLOWED && is_told && !said.contains("asking the broker"), "{status}: {said}");
    }

    lab.step("nobody is asked who does not want to be, or has no terminal, or whom a rule forbids it");
    let agents = "journalctl -b -o cat -u polkit | grep -c '^Registered Authentication Agent'";
    let before = lab.ok(agents);
    for command in ["portbroker --no-ask-password reload", "sh -c 'portbroker reload </dev/null'"] {
        let command = on_terminal("type secret", "stranger", command);
        says(&lab, &command, NOT_ALLOWED, &["who authenticates to polkit", "asked 0 times"]);
    }
    is_refused(&lab, &by("stranger", "portbroker reload"), "who authenticates to polkit");
    let banned = on_terminal("type secret", "banned", "portbroker reload");
    says(&lab, &banned, NOT_ALLOWED, &["whom polkit lets", "asked 0 times"]);
    assert_eq!(lab.ok(agents), before);

    lab.step("an agent that is there already is asked, and no other");
    let before: u32 = lab.ok(agents).parse().unwrap();
    let command = with_an_agent("setpriv --pdeathsig TERM pkttyagent");
    let command = on_terminal("type secret", "stranger", &command);
    says(&lab, &command, 0, &["asked 1 times, echo on, agents left 0"]);
    assert_eq!(lab.ok(agents), (before + 1).to_string());

    lab.step("no agent to be had: it is said");
    lab.ok("mv /usr/bin/pkttyagent /usr/bin/pkttyagent.away");
    let command = on_terminal("type secret", "stranger", "portbroker reload");
    let told = ["pkttyagent cannot be started", "who authenticates to polkit", "asked 0 times"];
    says(&lab, &command, NOT_ALLOWED, &told);
}

#[test]
fn who_leaves_while_it_is_asked_takes_the_question_along() {
    let lab = booted("leaving");

    lab.step("command and agent, over the socket and over the bus");
    for (what, status) in [("type ^C", 128 + 2), ("kill portbroker", 128 + 9)] {
        let command = on_terminal(what, "stranger", "portbroker reload");
        for command in [&command, &format!("{WITHOUT_SOCKET} {command}")] {
            says(&lab, command, status, &["asked 1 times, echo on, agents left 0"]);
            is_withdrawn(&lab);
        }
    }

    lab.step("another agent is told that its question is withdrawn");
    let calls = "busctl monitor --match \"type='method_call',member='CancelAuthentication'\"";
    lab.ok(&format!("{calls} >/run/calls 2>&1 & echo $! >/run/monitor"));
    lab.wait_for("grep -q Monitoring /run/calls", 15);
    let command = on_terminal("kill portbroker", "stranger", &with_an_agent("pkttyagent"));
    lab.ok(&format!("({command}; echo ended $?) >/run/other 2>&1 &"));
    lab.wait_for("grep -q 'Member=CancelAuthentication' /run/calls", 30);
    is_withdrawn(&lab);
    lab.ok("kill $(cat /run/monitor); pkill -x pkttyagent");
    lab.wait_for("grep -q '^ended 137' /run/other", 15);

    lab.step("as many as one user may have at a time, and others are served meanwhile");
    let held = on_terminal("hold /run/asked/enough", "stranger", "portbroker reload");
    lab.ok(&format!("for n in 1 2 3 4; do {held} >/run/open.$n 2>&1 & done"));
    lab.wait_for(&format!("test $({CONNECTIONS}) = 5 && test $(pgrep -cx pkttyagent) = 4"), 30);
    says(&lab, &by("stranger", "portbroker reload"), 1, &["polkit is asked too many questions at once"]);
    for _ in 0..3 {
        lab.ok("portbroker reload && portbroker status");
        lab.ok(&by("deputy", "portbroker reload"));
        lab.ok(&by("stranger", "portbroker list pools"));
    }
    let typed = on_terminal("type secret", "other", "portbroker reload");
    says(&lab, &typed, 0, &["asked 1 times"]);
    lab.ok(&format!("test $({CONNECTIONS}) = 5 && touch /run/asked/enough"));
    is_withdrawn(&lab);
    lab.wait_for("test $(grep -l 'asked 1 times, echo on, agents left 0' /run/open.? | wc -l) = 4", 15);
    let typed = on_terminal("type secret", "stranger", "portbroker reload");
    says(&lab, &typed, 0, &["asked 1 times"]);
}

/// Someone asks polkit while it hangs, something is done that lets it go on, and it lets the one who asked.
fn is_let_late(lab: &Lab, then: &str) {
    lab.ok("systemctl start polkit && systemctl kill -s STOP polkit && rm -f /run/late");
    lab.ok(&format!("({}; echo $?) >/run/late 2>&1 &", by("deputy", "portbroker --json reload")));
    lab.wait_for(&format!("test $({CONNECTIONS}) = 2"), 8);
    lab.ok(then);
    lab.wait_for("grep -q '^0$' /run/late", 40);
}

#[test]
fn a_polkit_that_says_nothing_holds_up_nobody() {
    let lab = booted("silent");
    let stop = "systemctl kill -s STOP polkit";
    lab.ok(&by("deputy", "portbroker reload"));

    lab.step("hanging: root and everybody else are answered, who asks is refused");
    lab.ok(stop);
    lab.ok(&format!("{} >/run/hung 2>&1 & echo $! >/run/pid", by("deputy", "portbroker reload")));
    lab.wait_for(&format!("test $({CONNECTIONS}) = 2"), 5);
    for _ in 0..3 {
        lab.ok("portbroker reload && portbroker status");
        lab.ok(&by("deputy", "portbroker list pools"));
    }
    lab.wait_for("grep -q 'polkit cannot be asked: it did not answer within 10 s' /run/hung", 40);
    lab.wait_for(&format!("test $({CONNECTIONS}) = 1"), 5);

    lab.step("more questions of one user than it may have");
    lab.ok(&format!("for n in 1 2 3 4 5 6; do {} >/run/many.$n 2>&1 & done", call("deputy", "Reload")));
    lab.wait_for("test $(grep -l 'LimitsExceeded.*questions' /run/many.? | wc -l) = 2", 8);
    lab.ok("portbroker reload");

    lab.step("killed with the questions: the next one answers them");
    lab.ok("systemctl kill -s KILL polkit");
    lab.wait_for("test $(grep -lx done /run/many.? | wc -l) = 4", 20);
    lab.wait_for(&by("deputy", "portbroker reload"), 20);

    lab.step("its answer comes while the daemon reloads, and takes effect");
    let table = |n: u16| format!("[[listener]]\nname = \"l{n}\"\nstream = \"127.0.0.1:{}\"\n", 20_000 + n);
    let many: String = (0..3000).map(table).collect();
    for round in 0..3 {
        lab.write(FILE, &format!("{many}{}", table(4000 + round)));
        is_let_late(&lab, "portbroker reload >/dev/null & systemctl kill -s CONT polkit; wait");
        lab.ok(&format!("portbroker show listener l{}", 4000 + round));
    }

    lab.step("a daemon that is killed meanwhile: its client asks the next one");
    lab.write(FILE, CONFIGURATION);
    is_let_late(&lab, "systemctl kill -s KILL portbroker && systemctl kill -s CONT polkit");

    lab.step("none: only root may");
    lab.ok("systemctl mask --runtime --now polkit.service");
    is_refused(
        &lab,
        &by("deputy", "portbroker reload"),
        "only root may, for polkit cannot be asked: there is no polkit",
    );
    assert!(lab.ok(&call("deputy", "Reload i=yes")).contains("there is no polkit"));
    lab.ok("portbroker reload");
    assert_eq!(lab.ok("/usr/bin/python3 /opt/bus.py system Reload"), "done");

    lab.step("no bus: the same");
    lab.ok("systemctl stop dbus.socket dbus.service");
    is_refused(&lab, &by("deputy", "portbroker reload"), "there is no system bus here");
    lab.ok("portbroker reload");
}

#[test]
fn a_bus_lets_through_what_is_listed_and_nothing_else() {
    let lab = booted("policy");
    let policy = lab.ok("cat /usr/share/dbus-1/system.d/org.portbroker.PortBroker1.conf");
    let mut listed: Vec<String> = policy
        .split("<allow ")
        .filter_map(|rule| {
            let value =
                |key: &str| Some(rule.split_once(&format!("{key}=\""))?.1.split('"').next()?.to_owned());
            Some(format!("{} {}", value("send_interface")?, value("send_member")?))
        })
        .collect();
    listed.sort();

    lab.step("each member of the real introspection, of all objects, is listed, and no other");
    lab.write(FILE, &format!("{CONFIGURATION}[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:3801\"\n"));
    lab.ok("portbroker reload");
    let mut there: Vec<String> = Vec::new();
    for path in ["", "/pool/egress", "/listener/web"] {
        let members = lab.ok(&format!(
            "busctl introspect --no-legend --xml-interface org.portbroker.PortBroker1 /org/portbroker/PortBroker1{path}"
        ));
        let mut interface = "";
        for line in members.split('<') {
            let name = |kind: &str| line.strip_prefix(kind)?.split('"').nth(1);
            interface = name("interface name").unwrap_or(interface);
            there.extend(name("method name").map(|method| format!("{interface} {method}")));
        }
    }
    there.sort();
    there.dedup();
    assert!(there.len() > 20, "{there:?}");
    assert_eq!(listed, there);

    lab.step("what is not listed does not come through, not even root's");
    let at = "org.portbroker.PortBroker1 /org/portbroker/PortBroker1";
    for (interface, member) in [
        ("org.portbroker.PortBroker1.Manager", "Nothing"),
        ("org.portbroker.PortBroker1.Other", "Reload"),
        ("org.freedesktop.DBus.Properties", "Set ssv a b s c"),
    ] {
        let said = lab.fails(&format!("busctl call {at} {interface} {member}"));
        assert!(said.contains("Access denied") || said.contains("AccessDenied"), "{member}: {said}");
    }
    let said = lab.fails(
        "busctl --address=unix:path=/run/portbroker/bus --peer=yes call org.portbroker.PortBroker1 / a.b C",
    );
    assert!(!said.is_empty());
}
