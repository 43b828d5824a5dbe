//! 50,000 sockets: connections of processes with themselves, since no process may have more than 20,000 here.

use crate::place::in_role;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};

/// The role of a process that has a part of them.
pub(crate) const MEMBER: &str = "member";
const MEMBERS: u8 = 3;
/// Two sockets each.
const CONNECTIONS: usize = 8_334;
pub(crate) const SOCKETS: usize = MEMBERS as usize * CONNECTIONS * 2;
/// Where each listens.
pub(crate) const SERVER: u16 = 9001;
/// Says which of them it is.
const NUMBER: &str = "PORTBROKER_BENCH_MEMBER";

pub(crate) struct Crowd(Vec<Child>);

impl Crowd {
    /// Starts them, and waits until all sockets are there.
    pub(crate) fn gather() -> Self {
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65000\n").unwrap();
        let start = |number: u8| {
            let mut command = in_role(MEMBER);
            command.env(NUMBER, number.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
            command.spawn().unwrap()
        };
        let mut crowd = Self((1..=MEMBERS).map(start).collect());
        for child in &mut crowd.0 {
            let mut ready = [0];
            child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        }
        crowd
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What such a process does, until its input ends.
pub(crate) fn be_one() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let number: u8 = std::env::var(NUMBER).unwrap().parse().unwrap();
    let address = SocketAddr::from(([127, 0, 1, number], SERVER));
    let listener = TcpListener::bind(address).unwrap();
    let pair = |_| (TcpStream::connect(address).unwrap(), listener.accept().unwrap().0);
    let _connections: Vec<(TcpStream, TcpStream)> = (0..CONNECTIONS).map(pair).collect();
    std::io::stdout().write_all(b".").unwrap();
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
}

/// Reads every link of /proc/*/fd, as whoever asks who has a socket has to; gives how many were sockets.
pub(crate) fn bare_pass() -> usize {
    let is_pid =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit());
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).filter(is_pid);
    let links = processes.flat_map(|process| fs::read_dir(process.join("fd")).into_iter().flatten());
    let targets = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
    targets.filter(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:")).count()
}
