//! A flood of connections to a service that is down: one request to start it, a queue as long as its backlog, and
//! nothing of it in the daemon.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;

use daemon::{Daemon, run};
use netns::in_netns;
use socket2::{Domain, Socket, Type};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

const BACKLOG: usize = 100;
const CONFIGURATION: &str = "\
[[listener]]
name = \"flood\"
stream = \"127.0.0.1:4301\"
datagram = \"127.0.0.1:4301\"
backlog = 100
activate = \"flood.service\"
";
/// Accepts what waits and prints how many that were.
const COUNT: &str = "
import socket
stream = next(s for s in (socket.socket(fileno=n) for n in (3, 4)) if s.type == socket.SOCK_STREAM)
stream.setblocking(False)
count = 0
try:
    while True:
        stream.accept()
        count += 1
except BlockingIOError:
    print(count)
";

/// A number of /proc/PID/status.
fn of_status(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

/// So many connections at once, of which none waits for an answer.
fn connect(count: usize, address: SocketAddr) -> Vec<Socket> {
    let socket = |_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        // EINPROGRESS: where the queue is full it stays at that.
        let _ = socket.connect(&address.into());
        socket
    };
    (0..count).map(socket).collect()
}

#[test]
fn a_flood_is_one_start_and_costs_the_daemon_nothing() {
    in_netns(|| {
        let daemon = Daemon::start(CONFIGURATION);
        let starter = UnixDatagram::bind(daemon.folder().join("run/portbroker/activate")).unwrap();
        starter.set_nonblocking(true).unwrap();
        let address: SocketAddr = "127.0.0.1:4301".parse().unwrap();
        let (memory, wakes) =
            (of_status(daemon.pid(), "VmRSS"), of_status(daemon.pid(), "voluntary_ctxt_switches"));
        let begun = Instant::now();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut last = Vec::new();
        for _ in 0..30 {
            // The ones of before are reset or given up.
            last = connect(500, address);
            for _ in 0..1000 {
                let _ = udp.send_to(&[7; 1000], address);
            }
        }
        std::thread::sleep(Duration::from_millis(300));
        let seconds = begun.elapsed().as_secs_f64();
        let (after, woken) =
            (of_status(daemon.pid(), "VmRSS"), of_status(daemon.pid(), "voluntary_ctxt_switches"));

        let mut messages = Vec::new();
        let mut buffer = [0; 300];
        while let Ok(length) = starter.recv(&mut buffer) {
            messages.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        println!("{seconds:.1} s: {messages:?}, {memory} kB, then {after} kB, woken {} times", woken - wakes);
        assert_eq!(messages.first().map(String::as_str), Some("start flood.service"));
        // After 1, 3, 7 … seconds it is asked for again.
        let retries = (seconds + 1.0).log2().floor();
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let asked = messages.len() as f64;
        assert!(asked <= 2.0 + retries, "{messages:?} in {seconds} s");
        assert!(messages.iter().skip(1).all(|message| message == "again flood.service"), "{messages:?}");
        assert!(after <= memory + 1024, "{memory} kB before, {after} kB after");
        assert!(woken - wakes <= 100, "woken {} times by 45,000 arrivals", woken - wakes);

        // The daemon still answers, and what waits is as much as the backlog says.
        let (status, count, errors) =
            run(daemon.portbroker(&["exec", "flood", "--", "/usr/bin/python3", "-c"]).arg(COUNT));
        assert_eq!(status, 0, "{errors}");
        let count: usize = count.trim().parse().unwrap();
        assert!((1..=BACKLOG + 1).contains(&count), "{count} waited");
        drop(last);
    });
}
