//! Services that are started by the first connection, on a booted systemd.

#![cfg(test)]

use portbroker_lab::{Lab, Preparation, prepare};
use std::path::Path;
use std::time::Duration;

/// A service that greets its clients with its pid and ends when none came for so long: idle.py SECONDS.
const IDLE: &str = "
import os, select, socket, sys
assert os.environ['LISTEN_PID'] == str(os.getpid())
given = [socket.socket(fileno=3 + n) for n in range(int(os.environ['LISTEN_FDS']))]
while True:
    ready = select.select(given, [], [], float(sys.argv[1]))[0]
    if not ready:
        sys.exit(0)
    for s in ready:
        if s.type == socket.SOCK_DGRAM:
            data, peer = s.recvfrom(100)
            s.sendto(data.upper() + b' %d' % os.getpid(), peer)
        else:
            connection, _ = s.accept()
            connection.sendall(b'idle %d\\n' % os.getpid())
            connection.close()
";

/// Sends a datagram to a port of 127.0.0.1 and prints the answer: datagram.py PORT TEXT.
const DATAGRAM: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.sendto(sys.argv[2].encode(), ('127.0.0.1', int(sys.argv[1])))
print(s.recv(100).decode())
";

fn installed(name: &str) -> Preparation {
    prepare(name)
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .file("/opt/idle.py", IDLE)
        .file("/opt/datagram.py", DATAGRAM)
}

/// The unit file of a service that is started on demand at a port: `service` is its own section.
fn on_demand(service: &str, port: u16) -> String {
    format!("[Service]\n{service}\n[X-PortBroker]\nListenStream=127.0.0.1:{port}\nActivate=yes\n")
}

/// Waits until nobody holds a listener.
fn wait_until_free(lab: &Lab, listener: &str) {
    lab.wait_for(&format!("portbroker --json show listener {listener} | grep -q '\"holder\":null'"), 10);
}

#[test]
fn a_service_is_started_by_the_first_connection_and_when_it_has_exited_by_the_next() {
    let lab = installed("demand")
        .unit("idle.service", &on_demand("ExecStart=/usr/bin/python3 /opt/idle.py 0.3", 4001))
        .unit(
            "datagram.service",
            "[Service]\nExecStart=/usr/bin/python3 /opt/idle.py 0.3\n\
             [X-PortBroker]\nListenDatagram=127.0.0.1:4002\nListenStream=/run/datagram.sock\nActivate=yes\n",
        )
        .boot();
    for unit in ["idle", "datagram"] {
        assert_eq!(lab.show(unit, "ActiveState"), "inactive");
    }
    for round in 1..=3 {
        lab.step(&format!("connection {round}"));
        assert_eq!(lab.ask("4001"), "idle");
        wait_until_free(&lab, "idle");
        lab.step(&format!("datagram {round}"));
        assert!(lab.ok("python3 /opt/datagram.py 4002 hello").starts_with("HELLO "));
        wait_until_free(&lab, "datagram");
    }
    lab.step("unix");
    assert_eq!(lab.ask("/run/datagram.sock"), "idle");
    lab.ok("portbroker status");
    let journal = lab.ok("journalctl -u portbroker -o cat");
    assert!(!journal.contains("it was started and"), "{journal}");

    lab.step("a connection that came while there was no broker");
    wait_until_free(&lab, "idle");
    lab.ok("systemctl kill -s KILL portbroker");
    assert_eq!(lab.ask("4001"), "idle");

    lab.step("an administrator starts and stops it");
    lab.ok("systemctl start idle && systemctl stop idle");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(lab.show("idle", "ActiveState"), "inactive");
    assert_eq!(lab.ask("4001"), "idle");
}

/// When a unit was started, by the journal, in seconds.
fn starts(lab: &Lab, unit: &str) -> Vec<f64> {
    let lines =
        lab.ok(&format!("journalctl -o short-unix -u portbroker | grep 'starting {unit}.service' || true"));
    lines
        .lines()
        .map(|line| line.split(' ').next().and_then(|time| time.parse().ok()).expect("a time"))
        .collect()
}

/// A client inside that waits for a service, and writes down what it is told.
fn wait_for_greeting(lab: &Lab, port: u16) {
    let client = format!(
        "import socket; s = socket.create_connection(('127.0.0.1', {port})); s.settimeout(180); \
         open('/run/greeting-{port}', 'w').write(s.recv(100).decode().split()[0])"
    );
    lab.ok(&format!("systemd-run --unit=client-{port} python3 -c \"{client}\""));
}

/// Services that fail in one way each, and the ports that start them.
const FAILING: [(&str, u16); 5] =
    [("fails", 4101), ("dies", 4102), ("idler", 4103), ("nothing", 4104), ("masked", 4105)];

fn failing() -> Preparation {
    let idle = "exec python3 /opt/idle.py 60";
    // Twice in an hour is what systemd lets it be started.
    let limits = "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=2\n";
    let repaired = |otherwise: &str| {
        let start = format!("/bin/sh -c 'test -e /run/repaired || {otherwise}; {idle}'");
        format!("{limits}[Service]\nExecStart={start}\n")
    };
    let toml = |name: &str, port: u16| {
        format!(
            "[[listener]]\nname = \"{name}\"\nstream = \"127.0.0.1:{port}\"\nactivate = \"{name}.service\"\n"
        )
    };
    let section = |port: u16| format!("[X-PortBroker]\nListenStream=127.0.0.1:{port}\nActivate=yes\n");
    installed("failing")
        .unit("fails.service", &format!("{}{}", repaired("exit 7"), section(4101)))
        .unit(
            "dies.service",
            &format!("{}Restart=always\nRestartSec=0\n{}", repaired("exec sleep 0.1"), section(4102)),
        )
        // It takes no socket, whatever happens.
        .unit("idler.service", "[Service]\nExecStart=/bin/sleep 1000\n")
        .mask(&["masked.service"])
        .file(
            "/etc/portbroker/portbroker.toml",
            &[toml("idler", 4103), toml("nothing", 4104), toml("masked", 4105)].concat(),
        )
}

#[test]
fn failing_services_are_started_at_growing_intervals_and_no_connection_is_lost() {
    let lab = failing().boot();
    let check = lab.sh("portbroker check");
    let warnings = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(check.status.success(), "{warnings}");
    assert!(
        warnings.contains("there is no nothing.service") && warnings.contains("masked.service is masked")
    );
    lab.ok("portbroker status");
    for (_, port) in FAILING {
        wait_for_greeting(&lab, port);
    }

    lab.step("they are started after 1, 2, 4 and 8 seconds, whatever systemd's own limit is");
    std::thread::sleep(Duration::from_secs(16));
    let mut all = Vec::new();
    for (unit, _) in FAILING {
        all.push((unit, starts(&lab, unit)));
    }
    println!("{all:?}");
    for (unit, times) in &all {
        assert!(times.len() >= 4, "{unit}: {times:?}");
        let pauses: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (n, pause) in pauses.iter().enumerate() {
            let expected = f64::from(1 << n);
            assert!(*pause >= expected - 0.05, "{unit}: {pauses:?}");
            assert!(*pause <= expected * 1.2 + 2.0, "{unit}: {pauses:?}");
        }
    }

    lab.step("it is said, and not too often");
    let status = lab.fails("portbroker status");
    for (unit, _) in FAILING {
        assert!(status.contains(&format!("{unit}.service: it was started and")), "{unit}: {status}");
        let shown = lab.ok(&format!("portbroker --json show listener {unit}"));
        assert!(shown.contains(&format!("\"activate\":\"{unit}.service\"")), "{shown}");
        assert!(shown.contains("it is looked at again at 2"), "{shown}");
    }
    assert!(lab.ok("portbroker show listener idler").contains("activates"));
    let said: usize =
        lab.ok("journalctl -u portbroker -o cat | grep -c 'waits for: it was'").parse().unwrap();
    let starts: usize = all.iter().map(|(_, times)| times.len()).sum();
    assert!(said <= starts + FAILING.len(), "{said} lines for {starts} starts");

    lab.step("repaired, each client is answered that has waited since");
    lab.ok("touch /run/repaired");
    for unit in ["nothing", "masked", "idler"] {
        let service = format!("[Service]\nExecStart=portbroker exec {unit} -- python3 /opt/idle.py 60\n");
        lab.ok(&format!("rm -f /etc/systemd/system/{unit}.service"));
        lab.write(&format!("/etc/systemd/system/{unit}.service"), &service);
    }
    lab.ok("systemctl daemon-reload && systemctl stop idler");
    for (unit, port) in FAILING {
        lab.wait_for(&format!("grep -q idle /run/greeting-{port}"), 70);
        println!("{unit} is answered");
    }
    // Those that died have to live for ten seconds first.
    lab.wait_for("portbroker status", 15);
    assert_eq!(lab.show("portbroker-activate.socket", "ActiveState"), "active");
}

#[test]
fn only_services_that_root_has_named_are_started() {
    let lab = installed("named")
        .unit("named.service", "[Service]\nExecStart=portbroker exec named -- python3 /opt/idle.py 60\n")
        .unit("other.service", "[Service]\nExecStart=/bin/sleep 1000\n")
        .boot();
    let send = |user: &str, text: &str| {
        let send =
            format!("import socket; socket.socket(1, 2).sendto(b'{text}', '/run/portbroker/activate')");
        format!("setpriv --reuid {user} --clear-groups /usr/bin/python3 -c \"{send}\"")
    };

    lab.step("a broker that was taken over can start nothing else, and a stranger nothing at all");
    lab.ok(&send("portbroker", "start other.service"));
    lab.ok(&send("portbroker", "start --help"));
    lab.fails(&send("nobody", "start other.service"));
    lab.wait_for("journalctl -u portbroker-activate -o cat | grep 'other.service is not started'", 10);
    assert_eq!(lab.show("other", "ActiveState"), "inactive");

    lab.step("a listener that a reload of the broker alone brought");
    lab.write(
        "/etc/portbroker/portbroker.toml",
        "[[listener]]\nname = \"named\"\nstream = \"127.0.0.1:4201\"\nactivate = \"named.service\"\n",
    );
    lab.ok("portbroker reload");
    assert_eq!(lab.ask("4201"), "idle");

    lab.step("neither a broken tool nor a storm of messages puts an end to it for good");
    lab.ok("systemctl stop named && mv /usr/bin/portbroker /usr/bin/portbroker.away");
    let storm =
        format!("for n in $(seq 5); do {}; sleep 0.1; done", send("portbroker", "start named.service"));
    lab.ok(&storm);
    std::thread::sleep(Duration::from_secs(2));
    let failures = "journalctl -u portbroker-activate -o cat | grep -c 'Failed with result'";
    let count: u32 = lab.ok(failures).parse().expect("a number");
    assert!((1..=5).contains(&count), "{count} runs of a tool that is not there");
    lab.ok("mv /usr/bin/portbroker.away /usr/bin/portbroker");
    lab.wait_for("systemctl is-active named", 10);
    assert_eq!(lab.show("portbroker-activate.socket", "ActiveState"), "active");
}

/// Whether sshd of Debian's takes sockets of LISTEN_FDS at all; it and a client have to be there.
#[test]
fn sshd_is_started_by_the_first_ssh() {
    let section =
        "[X-PortBroker]\nListenStream=0.0.0.0:22\nListenStream=[::]:22\nActivate=yes\nRequired=yes\n";
    let lab = installed("ssh").file("/etc/systemd/system/ssh.service.d/port.conf", section).boot();
    lab.ok("ssh-keygen -q -t ed25519 -N '' -f /root/lab-key");
    lab.ok("mkdir -p -m 0700 /root/.ssh && cp /root/lab-key.pub /root/.ssh/authorized_keys");
    let ssh = |address: &str| {
        lab.ok(&format!(
            "timeout 60 ssh -i /root/lab-key -o IdentitiesOnly=yes -o StrictHostKeyChecking=no \
             -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR root@{address} 'echo \"hello from $SSH_CONNECTION\"'"
        ))
    };
    assert_eq!(lab.show("ssh", "ActiveState"), "inactive");
    for address in ["127.0.0.1", "::1"] {
        let said = ssh(address);
        assert!(said.starts_with(&format!("hello from {address} ")) && said.ends_with(" 22"), "{said}");
        assert!(lab.ok("portbroker show listener ssh").contains("ssh.service"));
        assert_eq!(lab.show("ssh", "NFileDescriptorStore"), "2");

        lab.step("stopped, it is started by the next one");
        lab.ok("systemctl stop ssh");
    }
    lab.ok("systemctl start ssh");
    lab.step("killed, with Restart= or without");
    lab.ok("systemctl kill --kill-whom=main -s KILL ssh");
    assert!(ssh("127.0.0.1").starts_with("hello"));
    lab.ok("portbroker status");
}
