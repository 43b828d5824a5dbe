//! `portbroker renew`: a socket that its holder has spoilt gets a successor, with the real daemon.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;
#[path = "support/served.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod served;

use daemon::{Daemon, run};
use netns::in_netns;
use served::{Served, Storm, eventually, listener, states};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const WEB: &str = "127.0.0.1:7801";
const CONFIGURATION: &str = "[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:7801\"\n";

/// Throws every packet away, and lets nobody undo that.
const SPOILER: &str = "
import ctypes, socket, struct, sys
s = socket.socket(fileno=3)
program = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0))
s.setsockopt(1, 26, struct.pack('@HxxxxxxQ', 1, ctypes.addressof(program)))
s.setsockopt(1, 44, 1)
print('ready', flush=True); sys.stdin.read()
";

const IDLE: &str = "import sys; print('ready', flush=True); sys.stdin.read()";

fn renew(daemon: &Daemon, name: &str) -> (i32, String) {
    let (status, _, errors) = run(&mut daemon.portbroker(&["renew", name]));
    (status, errors)
}

fn inode(daemon: &Daemon, name: &str) -> u64 {
    listener(daemon, name)["sockets"][0]["inode"].as_u64().unwrap()
}

/// Connects until told to stop, and counts how often it is refused.
fn refusals(stop: &AtomicBool) -> u32 {
    let address: SocketAddr = WEB.parse().unwrap();
    let mut refused = 0;
    while !stop.load(Ordering::Relaxed) {
        match TcpStream::connect_timeout(&address, Duration::from_millis(20)) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => refused += 1,
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    refused
}

/// Whatever happens: the clients stop.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_locked_filter_is_left_behind_with_the_old_socket_and_nobody_is_refused() {
    in_netns(|| {
        let daemon = Daemon::start(CONFIGURATION);
        let spoiler = Served::with(&daemon, "web", SPOILER);
        let before = inode(&daemon, "web");
        let timeout = TcpStream::connect_timeout(&WEB.parse().unwrap(), Duration::from_millis(300));
        assert_eq!(timeout.unwrap_err().kind(), ErrorKind::TimedOut);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let client = scope.spawn(|| refusals(&stop));
            let _stop = Stop(&stop);
            assert_eq!(renew(&daemon, "web"), (0, String::new()));
            // The old one serves nobody, so clients may wait in the new one already.
            assert_eq!(states(&daemon, "web"), ["listening", "draining"]);
            assert_ne!(inode(&daemon, "web"), before);
            spoiler.end();
            eventually("the old one is closed", || states(&daemon, "web") == ["listening"]);
            let service = Served::start(&daemon, "web");
            let storm = Storm::start(WEB, 2);
            std::thread::sleep(Duration::from_millis(300));
            assert!(storm.stop() > 0);
            stop.store(true, Ordering::Relaxed);
            assert_eq!(client.join().unwrap(), 0);
            service.end();
        });
        // Nothing of it is left: the next renewal finds no other.
        assert_eq!(renew(&daemon, "web"), (0, String::new()));
        eventually("the old one is closed", || states(&daemon, "web") == ["listening"]);
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").unwrap().trim(), "0");
    });
}

#[test]
fn a_service_that_is_well_goes_on_with_the_old_socket_until_it_is_restarted() {
    in_netns(|| {
        let daemon = Daemon::start(CONFIGURATION);
        let mut service = Served::start(&daemon, "web");
        let storm = Storm::start(WEB, 4);
        for round in 0..6 {
            assert_eq!(renew(&daemon, "web"), (0, String::new()));
            assert_eq!(states(&daemon, "web"), ["reserved", "draining"]);
            std::thread::sleep(Duration::from_millis(100));
            if round % 2 == 0 {
                let next = Served::start(&daemon, "web");
                service.end();
                service = next;
            } else {
                service.end();
                service = Served::start(&daemon, "web");
            }
            eventually("the old one is closed", || states(&daemon, "web") == ["listening"]);
        }
        assert!(storm.stop() > 200);
        service.end();
    });
}

#[test]
fn old_sockets_take_no_room_from_those_that_were_asked_for() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        // As many as one message takes.
        let daemon = Daemon::start(&format!(
            "[[listener]]\nname = \"a\"\nstream = {path:?}\n\
             [[listener]]\nname = \"b\"\nstream = \"127.0.0.1:20000-20251\"\n"
        ));
        let _waits = UnixStream::connect(&path).unwrap();
        assert_eq!(renew(&daemon, "a"), (0, String::new()));
        assert_eq!(states(&daemon, "a"), ["listening", "draining"]);
        let names = |asked: &[&str]| {
            let command = ["--", "sh", "-c", "echo $LISTEN_FDNAMES"];
            let words: Vec<&str> = ["exec"].iter().chain(asked).chain(&command).copied().collect();
            let (status, text, errors) = run(&mut daemon.portbroker(&words));
            assert_eq!((status, errors.as_str()), (0, ""));
            text.trim().to_owned()
        };
        assert_eq!(names(&["a", "b"]), format!("a{}", ":b".repeat(252)));
        assert_eq!(names(&["a"]), "a:a", "the old one goes where there is room");
    });
}

#[test]
fn who_waits_in_an_old_socket_still_has_the_service_started() {
    in_netns(|| {
        let daemon = Daemon::start(
            "[[listener]]\nname = \"late\"\ndatagram = \"127.0.0.1:7854\"\nactivate = \"late.service\"\n",
        );
        let starter = UnixDatagram::bind(daemon.folder().join("run/portbroker/activate")).unwrap();
        starter.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let asked = || {
            let mut buffer = [0; 100];
            let length = starter.recv(&mut buffer).expect("the service is asked for");
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"old", "127.0.0.1:7854").unwrap();
        assert_eq!(asked(), "start late.service");
        assert_eq!(renew(&daemon, "late"), (0, String::new()));
        assert_eq!(states(&daemon, "late"), ["listening", "draining"]);
        // Twice: the first of them may have been on its way.
        assert_eq!([asked(), asked()], ["again late.service", "again late.service"]);
    });
}

#[test]
fn datagrams_that_wait_in_the_old_socket_go_to_the_next_holder() {
    in_netns(|| {
        let daemon = Daemon::start("[[listener]]\nname = \"dns\"\ndatagram = \"0.0.0.0:7853\"\n");
        let idle = Served::with(&daemon, "dns", IDLE);
        let send = |text: &[u8]| {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(text, "127.0.0.1:7853").unwrap();
        };
        (0..5).for_each(|_| send(b"old"));
        assert_eq!(renew(&daemon, "dns"), (0, String::new()));
        assert_eq!(states(&daemon, "dns"), ["listening", "draining"]);
        idle.end();
        (0..5).for_each(|_| send(b"new"));
        // A new one may have come to the old socket, as long as the end of its holder was not seen.
        let program = "
import select, socket, sys
new, old = ls = [socket.socket(fileno=fd) for fd in (3, 4)]
got = {new: [], old: []}
while sum(map(len, got.values())) < 10:
    ready = select.select(ls, [], [], 10)[0]
    if not ready: sys.exit(f'nothing more comes after {got}')
    for l in ready: got[l].append(l.recv(9))
print(got[old].count(b'old'), (got[old] + got[new]).count(b'new'))";
        let (_, received, errors) =
            run(daemon.portbroker(&["exec", "dns", "--", "python3", "-c"]).arg(program));
        assert_eq!(received, "5 5\n", "{errors}");
        eventually("the old one is closed", || states(&daemon, "dns") == ["listening"]);
    });
}

#[test]
fn a_unix_path_leads_to_the_new_socket_and_who_waits_in_the_old_one_is_served() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.sock");
        let daemon =
            Daemon::start(&format!("[[listener]]\nname = \"web\"\nstream = \"{}\"\n", path.display()));
        let idle = Served::with(&daemon, "web", IDLE);
        let mut clients = vec![UnixStream::connect(&path).unwrap()];
        assert_eq!(renew(&daemon, "web"), (0, String::new()));
        assert_eq!(states(&daemon, "web"), ["listening", "draining"]);
        clients.push(UnixStream::connect(&path).unwrap());
        idle.end();
        let service = Served::start(&daemon, "web");
        for mut client in clients {
            let mut answer = [0; 2];
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            std::io::Read::read_exact(&mut client, &mut answer).unwrap();
            assert_eq!(&answer, b"ok");
        }
        service.end();
        eventually("the old one is closed", || states(&daemon, "web") == ["listening"]);
        assert!(path.exists() && UnixStream::connect(&path).is_ok());
    });
}

#[test]
fn who_may_not_and_what_cannot_is_refused_and_nothing_changes() {
    in_netns(|| {
        let name = format!("@portbroker-renew-{}", std::process::id());
        let daemon = Daemon::start(&format!(
            "{CONFIGURATION}[[listener]]\nname = \"hidden\"\nstream = [\"127.0.0.1:7802\", \"{name}\"]\n"
        ));
        let _idle = Served::with(&daemon, "web", IDLE);
        let before = (inode(&daemon, "web"), inode(&daemon, "hidden"));
        let (status, _, errors) = run(&mut daemon.portbroker_as(1001, &["renew", "web"]));
        assert_eq!(status, 77, "{errors}");
        assert!(daemon.log().contains("refused pid"), "{}", daemon.log());
        let (status, errors) = renew(&daemon, "nothing");
        assert!(status == 1 && errors.contains("NoSuchListener"), "{errors}");
        let (status, errors) = renew(&daemon, "hidden");
        assert!(
            status == 1 && errors.contains("abstract name") && errors.contains("Stop its holder"),
            "{errors}"
        );
        assert_eq!((inode(&daemon, "web"), inode(&daemon, "hidden")), before);
        // Each new socket is somebody's before the next renewal, and so none of them is done with.
        let mut holders = Vec::new();
        let mut renewals = 0;
        while renew(&daemon, "web").0 == 0 {
            renewals += 1;
            assert!(renewals <= 64, "there is no limit");
            let mut holder = daemon.portbroker(&["exec", "web", "--", "sleep", "1000"]).spawn().unwrap();
            let name = format!("/proc/{}/comm", holder.id());
            eventually("a holder", || std::fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n"));
            assert!(holder.try_wait().unwrap().is_none());
            holders.push(holder);
        }
        assert_eq!(renewals, 64, "there is a limit");
        for mut holder in holders {
            holder.kill().unwrap();
            holder.wait().unwrap();
        }
    });
}
