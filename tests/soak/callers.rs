//! What is done to the daemon: kills, reloads, calls by the bus, floods; and to what is around it.

use crate::lessee::Random;
use crate::netns::{NOBODY, ip, spawn};
use crate::site::RESERVED;
use crate::{Scene, configuration, count};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::thread::Scope;
use std::time::Duration;

/// Connections of one user: garbage, calls whose answers are never read, and nothing at all.
const FLOOD: &str = r#"
import os, socket, struct, sys, time
os.setgroups([]); os.setgid(65534); os.setuid(65534)
def field(code, kind, value):
    body = value.encode()
    return bytes([code, 1]) + kind + b'\0' + struct.pack('<I', len(body)) + body + b'\0'
def call(serial):
    fields = b''
    for code, kind, value in ((1, b'o', '/org/portbroker/PortBroker1'), (3, b's', 'GetManagedObjects'),
                              (2, b's', 'org.freedesktop.DBus.ObjectManager')):
        fields += b'\0' * (-len(fields) % 8) + field(code, kind, value)
    header = struct.pack('<BBBBIII', ord('l'), 1, 0, 1, 0, serial, len(fields)) + fields
    return header + b'\0' * (-len(header) % 8)
kept = []
for n in range(150):
    s = socket.socket(socket.AF_UNIX); s.setblocking(False)
    try:
        s.connect(sys.argv[1])
        if n % 3 == 0: s.send(os.urandom(3000))
        elif n % 3 == 1:
            s.send(b'\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n')
            for serial in range(1, 200): s.send(call(serial))
    except OSError: pass
    kept.append(s)
time.sleep(0.3)
"#;

pub(crate) fn start<'scope>(scope: &'scope Scope<'scope, '_>, scene: &'scope Scene<'_>) {
    scope.spawn(move || catch_up(scene));
    scope.spawn(move || kills(scene));
    scope.spawn(move || reloads(scene));
    scope.spawn(move || bus(scene));
    scope.spawn(move || floods(scene));
    scope.spawn(move || addresses(scene));
    scope.spawn(move || wipes(scene));
}

/// Sleeps for a while, or until the end.
fn rest(scene: &Scene<'_>, milliseconds: u64) {
    for _ in 0..milliseconds / 20 {
        if scene.goes_on() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn catch_up(scene: &Scene<'_>) {
    while scene.goes_on() {
        scene.site.catch_up();
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn kills(scene: &Scene<'_>) {
    let mut random = Random(5);
    while scene.goes_on() {
        rest(scene, 200 + random.next(1_800));
        if scene.goes_on() && scene.kills.load(Ordering::Relaxed) {
            scene.site.kill();
            count(&scene.tally.kills);
            // Where the machine has much to do, one that never answered would be killed after the other.
            while scene.goes_on() && scene.site.run(&["list", "pools"]).0 != Some(0) {}
        }
    }
}

/// Good and faulty ones in turn.
fn reloads(scene: &Scene<'_>) {
    let folder = scene.site.folder();
    let mut more = true;
    while scene.goes_on() {
        scene.site.configure(&configuration(folder, more));
        let (status, text) = scene.site.run(&["reload"]);
        // 69, or a reply that is lost: the daemon was killed just then.
        assert!(matches!(status, Some(0 | 1 | 69)), "{status:?} {text}");
        if status == Some(0) {
            count(&scene.tally.reloads);
        }
        rest(scene, 150);
        scene
            .site
            .configure(&(configuration(folder, !more) + "[[listener]]\nname = \"bad\"\nstraem = \"80\"\n"));
        let (status, text) = scene.site.run(&["reload"]);
        assert!(matches!(status, Some(1 | 69 | 78)), "a faulty one was taken: {status:?} {text}");
        if status == Some(78) {
            count(&scene.tally.faulty_reloads);
        }
        rest(scene, 150);
        more = !more;
    }
}

fn bus(scene: &Scene<'_>) {
    while scene.goes_on() {
        let mut command = Command::new("busctl");
        command.args(["--address", scene.bus, "--timeout", "2", "call", "org.portbroker.PortBroker1"]);
        command.args([
            "/org/portbroker/PortBroker1",
            "org.portbroker.PortBroker1.Manager",
            "AcquireListeners",
        ]);
        command.args(["asa{sv}", "1", "api3", "0"]);
        let called = spawn(command.stdout(Stdio::null()).stderr(Stdio::null())).wait().unwrap();
        if called.success() {
            count(&scene.tally.bus_calls);
        }
        rest(scene, 100);
    }
}

fn floods(scene: &Scene<'_>) {
    while scene.goes_on() {
        let mut command = Command::new("python3");
        command.args(["-c", FLOOD]).arg(scene.site.socket()).stdin(Stdio::null()).process_group(0);
        assert!(spawn(&mut command).wait().unwrap().success(), "the flood of user {NOBODY}");
        count(&scene.tally.floods);
        rest(scene, 700);
    }
}

/// One of the pool's addresses comes and goes.
fn addresses(scene: &Scene<'_>) {
    while scene.goes_on() {
        ip("address add 192.0.2.77/32 dev lo");
        rest(scene, 400);
        ip("address del 192.0.2.77/32 dev lo");
        count(&scene.tally.addresses);
        rest(scene, 400);
    }
}

/// As `sysctl --system` does. The next reload, or the minute, puts ours back.
fn wipes(scene: &Scene<'_>) {
    while scene.goes_on() {
        std::fs::write(RESERVED, "\n").unwrap();
        count(&scene.tally.wipes);
        rest(scene, 1_500);
    }
}
