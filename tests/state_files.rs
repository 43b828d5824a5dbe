//! What a daemon makes of what the one before it wrote down: of an earlier version, of a later one, unreadable, of
//! another boot, or of a configuration that calls things otherwise now. Whatever it is, no socket is lost.

#![cfg(test)]

#[path = "support/netns.rs"]
#[expect(dead_code, reason = "nobody is robbed here")]
mod netns;
#[path = "support/supervisor.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod supervisor;

use netns::{in_netns, ip, spawn};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use supervisor::Supervisor;

const CONFIGURATION: &str = "\
[[listener]]
name = \"web\"
stream = \"127.0.0.1:7001\"
idle = \"refuse\"
[[listener]]
name = \"queued\"
stream = \"127.0.0.1:7002\"
[[listener]]
name = \"shards\"
stream = \"127.0.0.1:7003\"
reuse-port = 2
[[pool]]
name = \"egress\"
addresses = [\"192.0.2.1\"]
ports = \"10000-10099\"
";

/// Takes what comes, says a word to everybody, and lives until it is told to end.
const SERVICE: &str = "
import socket
s = socket.socket(fileno=3)
print('ready', flush=True)
while True:
    c = s.accept()[0]
    c.sendall(b'served')
    c.close()
";

/// Ended when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn service(supervisor: &Supervisor, name: &str) -> Process {
    let mut command = supervisor.portbroker(&["exec", name, "--", "python3", "-c", SERVICE]);
    let mut service = Process(spawn(command.stdout(Stdio::piped())));
    let mut said = [0; 6];
    std::io::Read::read_exact(service.0.stdout.as_mut().unwrap(), &mut said).unwrap();
    service
}

fn is_served(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).is_ok() && text == "served"
}

fn run(supervisor: &Supervisor, arguments: &[&str]) -> (i32, String) {
    let output = supervisor.portbroker(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), text)
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All sockets by the listeners' names, as inodes, and who holds them.
fn listeners(supervisor: &Supervisor) -> BTreeMap<String, (Vec<u64>, Vec<String>)> {
    let (status, text) = run(supervisor, &["--json", "list", "listeners"]);
    assert_eq!(status, 0, "{text}");
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    let row = |row: &serde_json::Value| {
        let name = row["name"].as_str().unwrap().to_owned();
        let shown: serde_json::Value =
            serde_json::from_str(&run(supervisor, &["--json", "show", "listener", &name]).1).unwrap();
        let sockets = shown["sockets"].as_array().unwrap().iter();
        let mut inodes: Vec<u64> = sockets.map(|socket| socket["inode"].as_u64().unwrap()).collect();
        inodes.sort_unstable();
        let holders = shown["holders"].as_array().unwrap().iter();
        (name, (inodes, holders.map(|holder| holder.as_str().unwrap().to_owned()).collect()))
    };
    rows.as_array().unwrap().iter().map(row).collect()
}

fn started(configuration: &str) -> Supervisor {
    ip("address add 192.0.2.1/32 dev lo");
    let mut supervisor = Supervisor::new(configuration);
    supervisor.begin();
    supervisor.wait_until_ready();
    supervisor
}

/// Kills it, changes what it wrote down, and starts the next.
fn restart(supervisor: &mut Supervisor, meanwhile: impl FnOnce(&Supervisor)) {
    // What it wrote down after it was ready, too.
    let holders = supervisor.runtime_directory().join("holders.json");
    eventually("holders.json", || holders.exists());
    supervisor.end(Signal::SIGKILL);
    meanwhile(supervisor);
    supervisor.begin();
    supervisor.wait_until_ready();
}

/// Of a file of the runtime directory: everything that it can be and that cannot be read.
fn spoil(name: &str, how: &str) -> impl FnOnce(&Supervisor) {
    let (name, how) = (name.to_owned(), how.to_owned());
    move |supervisor| {
        let path = supervisor.runtime_directory().join(name);
        match how.as_str() {
            "garbage" => fs::write(&path, b"{\"version\":2,\"boot\":\xff\0garbage").unwrap(),
            "cut off" => {
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            }
            "of a later version" => {
                let bytes = fs::read(&path).unwrap();
                let text = String::from_utf8_lossy(&bytes).replacen("\"version\":2", "\"version\":7", 1);
                fs::write(&path, text).unwrap();
            }
            "a directory" => {
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
            }
            other => panic!("{other}"),
        }
    }
}

/// Lives, and takes nothing.
fn holder(supervisor: &Supervisor, name: &str) -> Process {
    let holder = Process(spawn(&mut supervisor.portbroker(&["exec", name, "--", "sleep", "1000"])));
    let pid = format!("[{}]", holder.0.id());
    eventually("a holder", || listeners(supervisor)[name].1.iter().any(|holder| holder.ends_with(&pid)));
    holder
}

/// A listener that would refuse is held, and another one that was renewed since somebody took it; then what the daemon
/// wrote down is spoilt, and the next one comes.
fn survives(name: &str, how: &str) {
    let mut supervisor = started(CONFIGURATION);
    let service = service(&supervisor, "web");
    let old = holder(&supervisor, "queued");
    assert_eq!(run(&supervisor, &["renew", "queued"]).0, 0);
    eventually("all files", || supervisor.runtime_directory().join(name).exists());
    let before = listeners(&supervisor);
    assert_eq!(before["queued"].0.len(), 2, "an old one is drained");
    restart(&mut supervisor, spoil(name, how));
    assert!(is_served(7001), "the service goes on: {}", supervisor.log());
    let now = listeners(&supervisor);
    for (listener, (inodes, _)) in &before {
        // Where it is not known which one is old, the one that somebody has stays, and the one that nobody has goes.
        let kept =
            if (name, listener.as_str()) == ("draining", "queued") { &inodes[..1] } else { &inodes[..] };
        assert_eq!(now[listener].0, *kept, "{listener}: {}", supervisor.log());
    }
    let aside = supervisor.runtime_directory().join(format!("{name}.unreadable"));
    assert!(aside.exists(), "it is kept");
    let (status, text) = run(&supervisor, &["status"]);
    assert!(status == 1 && text.contains(&*aside.to_string_lossy()), "{text}");
    let log = supervisor.log();
    assert!(log.contains(&format!("/{name} ")) && log.contains("unreadable"), "{log}");
    if name == "holders.json" {
        an_unknown_holder_ends_with_the_next(&mut supervisor, service, old);
    }
}

fn an_unknown_holder_ends_with_the_next(supervisor: &mut Supervisor, service: Process, old: Process) {
    let is_unknown = |supervisor: &Supervisor, name: &str| listeners(supervisor)[name].1 == ["unknown"];
    assert!(is_unknown(supervisor, "web") && is_unknown(supervisor, "queued"));
    restart(supervisor, |_| {});
    assert!(is_served(7001) && is_unknown(supervisor, "web"), "it is not forgotten by the one after");
    drop(service);
    let next = self::service(supervisor, "web");
    assert!(is_served(7001) && !is_unknown(supervisor, "web"));
    drop(next);
    eventually("it refuses", || TcpStream::connect("127.0.0.1:7001").is_err());
    // Nobody is left in the old socket once somebody has the new one.
    drop(old);
    let _new = holder(supervisor, "queued");
    eventually("the old one is closed", || listeners(supervisor)["queued"].0.len() == 1);
}

#[test]
fn whatever_cannot_be_read_costs_no_socket_and_is_said() {
    for name in ["holders.json", "reserved-ports", "tcp-migrate-req", "draining"] {
        // They are all read alike.
        let ways = ["of a later version", "garbage", "cut off", "a directory"];
        let ways = if name == "holders.json" { &ways[..] } else { &ways[..1] };
        for how in ways {
            println!("{name} {how}");
            in_netns(|| survives(name, how));
        }
    }
}

#[test]
fn leases_that_cannot_be_read_are_said_too() {
    for (at, byte) in [(0, b'x'), (8, 9)] {
        in_netns(|| {
            let mut supervisor = started(CONFIGURATION);
            let path = supervisor.runtime_directory().join("leases");
            restart(&mut supervisor, |_| {
                let mut bytes = fs::read(&path).unwrap();
                bytes[at] = byte;
                fs::write(&path, bytes).unwrap();
            });
            let (status, text) = run(&supervisor, &["status"]);
            assert!(status == 1 && text.contains("leases.unreadable"), "{text}");
            assert!(supervisor.log().contains("no lease of before is known"), "{}", supervisor.log());
        });
    }
}

#[test]
fn a_listener_that_is_called_otherwise_after_a_restart_keeps_its_holder() {
    in_netns(|| {
        let mut supervisor = started(CONFIGURATION);
        let service = service(&supervisor, "web");
        let before = listeners(&supervisor);
        let renamed = CONFIGURATION.replace("\"web\"", "\"www\"");
        restart(&mut supervisor, |supervisor| supervisor.configure(&renamed));
        let now = listeners(&supervisor);
        assert_eq!(now["www"], before["web"], "socket and holder");
        assert!(is_served(7001), "it does not refuse, as it would if nobody held it");
        drop(service);
        eventually("it refuses", || TcpStream::connect("127.0.0.1:7001").is_err());
        // Version 1 knew nothing but names.
        let held = self::service(&supervisor, "www");
        let back = |supervisor: &Supervisor| {
            let path = supervisor.runtime_directory().join("holders.json");
            let text = fs::read_to_string(&path).unwrap();
            let mut file: serde_json::Value = serde_json::from_str(&text).unwrap();
            file["version"] = 1.into();
            for holder in file["holders"].as_array_mut().unwrap() {
                holder.as_object_mut().unwrap().remove("sockets");
            }
            fs::write(path, file.to_string()).unwrap();
        };
        restart(&mut supervisor, back);
        assert!(is_served(7001) && listeners(&supervisor)["www"].1.len() == 1, "version 1 is read");
        assert_eq!(run(&supervisor, &["status"]).0, 0, "and nothing is wrong with it");
        drop(held);
        eventually("it refuses", || TcpStream::connect("127.0.0.1:7001").is_err());
    });
}

#[test]
fn what_is_of_another_boot_is_nobodys() {
    in_netns(|| {
        let mut supervisor = started(CONFIGURATION);
        let reserved = || fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap();
        assert!(reserved().contains("7001-7003"));
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let other = "11111111-2222-3333-4444-555555555555";
        restart(&mut supervisor, |supervisor| {
            // Somebody else has reserved one of these in the new boot.
            fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "7001\n").unwrap();
            for name in ["holders.json", "reserved-ports"] {
                let path = supervisor.runtime_directory().join(name);
                let text = fs::read_to_string(&path).unwrap();
                assert!(text.contains(boot.trim()), "{text}");
                fs::write(&path, text.replace(boot.trim(), other)).unwrap();
            }
            supervisor.configure("");
        });
        assert_eq!(reserved().trim(), "7001", "it is not ours to take away");
        assert_eq!(run(&supervisor, &["status"]).0, 0);
    });
}

#[test]
fn a_last_good_configuration_that_cannot_be_read_either_is_said_and_the_sockets_wait() {
    in_netns(|| {
        let mut supervisor = started(CONFIGURATION);
        let before = listeners(&supervisor);
        eventually("last-good.toml", || supervisor.runtime_directory().join("last-good.toml").exists());
        supervisor.end(Signal::SIGKILL);
        fs::write(supervisor.runtime_directory().join("last-good.toml"), "later = \"version\"\n").unwrap();
        supervisor.configure("[[listener]]\nname = \"web\"\nstraem = \"127.0.0.1:7001\"\n");
        supervisor.begin();
        eventually("the faults are said", || {
            let log = supervisor.log();
            log.contains("stay in the descriptor store")
                && log.contains("straem")
                && log.contains("last-good.toml")
        });
        assert!(TcpStream::connect("127.0.0.1:7002").is_ok(), "it waits in the queue");
        supervisor.wait_until_it_ends();
        supervisor.configure(CONFIGURATION);
        supervisor.begin();
        supervisor.wait_until_ready();
        assert_eq!(listeners(&supervisor), before);
    });
}
