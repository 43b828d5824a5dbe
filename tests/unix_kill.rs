//! A kill between the two steps by which a unix path gets a new socket: the path is the old one's again.

#![cfg(test)]

#[path = "support/manager.rs"]
#[expect(dead_code, reason = "it is always there")]
mod manager;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;
#[path = "soak/site.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod site;

use netns::{in_netns, spawn};
use site::Site;
use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Answers each client with `ok`.
const SERVICE: &str = "
import socket
l = socket.socket(fileno=3); print('ready', flush=True)
while True:
    c, _ = l.accept(); c.send(b'ok'); c.close()
";

fn is_answered(path: &Path) -> bool {
    let mut answer = [0; 2];
    UnixStream::connect(path).is_ok_and(|mut client| client.read_exact(&mut answer).is_ok())
}

/// Kills the daemon where it is about to make this system call next, and asks it to renew its listener.
fn kill_at(call: &str, site: &Site) {
    let pid = site.pid();
    let mut tracer = Command::new("strace");
    tracer.args(["-f", "-qq", "-p", &pid.to_string(), "-o", "/dev/null", "-e", &format!("trace={call}")]);
    tracer.args(["-e", &format!("inject={call}:signal=SIGKILL:when=1")]);
    let mut tracer = spawn(&mut tracer);
    let deadline = Instant::now() + Duration::from_secs(10);
    let is_traced = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        !status.lines().any(|line| line == "TracerPid:\t0")
    };
    while !is_traced() {
        assert!(Instant::now() < deadline, "strace does not attach");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_ne!(site.run(&["renew", "path"]).0, Some(0), "it was killed before it could answer");
    tracer.wait().unwrap();
}

#[test]
fn a_path_is_not_lost_by_a_kill_in_the_middle_of_its_renewal() {
    in_netns(|| {
        let site = Site::start("", "unix:path=/nonexistent/bus");
        let path = site.folder().join("path.sock");
        site.configure(&format!("[[listener]]\nname = \"path\"\nstream = \"{}\"\n", path.display()));
        assert_eq!(site.run(&["reload"]).0, Some(0));
        let mut command = site.portbroker(&["exec", "path", "--", "python3", "-c", SERVICE]);
        let mut service = spawn(command.stdout(Stdio::piped()));
        service.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        assert!(is_answered(&path));
        let inodes = site.inodes();
        kill_at("bind", &site);
        assert!(!path.exists(), "it was killed in between");
        site.kill();
        assert_eq!(site.inodes(), inodes, "{}", site.log());
        assert!(is_answered(&path), "by the service that has had it all the time");
        let names =
            || fs::read_dir(site.folder()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        assert!(!names().any(|name| name.ends_with(".portbroker")), "nothing is left beside it");

        // And a renewal that is not killed is one.
        assert_eq!(site.run(&["renew", "path"]).0, Some(0));
        assert_ne!(site.inodes(), inodes);
        assert!(path.exists() && !names().any(|name| name.ends_with(".portbroker")));
        service.kill().unwrap();
        service.wait().unwrap();
    });
}
