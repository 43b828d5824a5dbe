//! The ground that loads run on: a namespace of their own with room for very many connections, a destination that
//! takes them all, and a meter on the daemon.
//!
//! A destination that only listens holds connections in its queue, and needs no descriptor for them.

use crate::netns::spawn;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How many connections may wait to be accepted: all of them.
const QUEUE: i32 = 2_000_000;

/// What is connected to.
pub(crate) const DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// What the kernel takes as the source of a connection for which nobody chose one.
pub(crate) const KERNELS: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);

/// The destination with a port.
pub(crate) fn destination(port: u16) -> SocketAddr {
    SocketAddr::from((DESTINATION, port))
}

/// The n-th of a pool's addresses.
pub(crate) fn source(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 10, 0, n + 1)
}

/// Prepares the namespace of this thread: the kernel's own range of ports, so many source addresses on the loopback
/// interface, and the destination beside them.
pub(crate) fn prepare(ephemeral: (u16, u16), sources: u8) {
    open_wide(ephemeral);
    add_address("lo", &format!("{DESTINATION}/32"));
    add_address("lo", &format!("{KERNELS}/32"));
    add_sources("lo", sources);
    // A local address is connected to from itself otherwise, not from one beside it.
    ip(&format!("route replace local {DESTINATION} dev lo src {KERNELS} table local"));
}

/// As [`prepare`], with the destination in a namespace of its own, behind a pair of virtual interfaces; and something
/// that listens there.
pub(crate) fn prepare_apart(ephemeral: (u16, u16), sources: u8, port: u16) -> Socket {
    open_wide(ephemeral);
    let here = nix::unistd::gettid();
    let there = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        open_wide((32_768, 60_999));
        ip(&format!("link add name there type veth peer name here netns {here}"));
        add_address("there", &format!("{DESTINATION}/8"));
        ip("link set there up");
        listen(destination(port))
    };
    // The namespace lives as long as the socket does.
    let listening = std::thread::spawn(there).join().unwrap();
    ip("link set here up");
    ip(&format!("addr add {KERNELS}/8 dev here"));
    add_sources("here", sources);
    listening
}

fn open_wide((first, last): (u16, u16)) {
    for (name, value) in [
        ("core/somaxconn", QUEUE.to_string()),
        ("ipv4/tcp_max_syn_backlog", QUEUE.to_string()),
        ("ipv4/tcp_syncookies", "0".to_owned()),
        // Ports from 1,024 up are a pool's in some figures, and the kernel's are below.
        ("ipv4/ip_unprivileged_port_start", "0".to_owned()),
        ("ipv4/ip_local_port_range", format!("{first} {last}")),
        // Two thousand neighbours would be the least of it.
        ("ipv4/tcp_max_tw_buckets", QUEUE.to_string()),
    ] {
        let path = Path::new("/proc/sys/net").join(name);
        fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

fn add_sources(interface: &str, count: u8) {
    for n in 0..count {
        add_address(interface, &format!("{}/32", source(n)));
    }
}

fn add_address(interface: &str, address: &str) {
    ip(&format!("addr add {address} dev {interface}"));
}

/// Runs ip(8), in the namespace of this thread.
fn ip(arguments: &str) {
    let status = spawn(Command::new("ip").args(arguments.split(' '))).wait().unwrap();
    assert!(status.success(), "ip {arguments} fails");
}

/// Listens, with room for every connection that there will be.
pub(crate) fn listen(at: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SockAddr::from(at)).unwrap();
    socket.listen(QUEUE).unwrap();
    socket
}

/// A `[[pool]]` for root alone, over the first addresses of [`source`].
pub(crate) fn pool(name: &str, sources: u8, ports: &str) -> String {
    let last = source(sources - 1);
    format!("[[pool]]\nname = \"{name}\"\naddresses = [\"{}-{last}\"]\nports = \"{ports}\"\n", source(0))
}

/// What a process has used since this was made.
#[derive(Debug)]
pub(crate) struct Meter {
    pid: u32,
    begin: Instant,
    before: Duration,
}

/// What was used of the processor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    pub(crate) processor: Duration,
    pub(crate) wall: Duration,
}

impl Used {
    /// The share of one processor, in per cent.
    pub(crate) fn of_one(self) -> f64 {
        100.0 * self.processor.as_secs_f64() / self.wall.as_secs_f64()
    }

    /// The share of all processors of this machine, in per cent.
    pub(crate) fn of_all(self) -> f64 {
        self.of_one() / processors()
    }
}

pub(crate) fn processors() -> f64 {
    let count = std::thread::available_parallelism().unwrap().get();
    f64::from(u32::try_from(count).unwrap())
}

impl Meter {
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid, begin: Instant::now(), before: processor_time(pid) }
    }

    pub(crate) fn read(&self) -> Used {
        Used { processor: processor_time(self.pid) - self.before, wall: self.begin.elapsed() }
    }
}

/// Of all threads, in user and in kernel mode: fields 14 and 15 of proc_pid_stat(5), in hundredths of a second.
fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    let ticks = after_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// The resident memory of a process, in megabytes of a million bytes, as `VmRSS` or `VmHWM` (the most that there was).
pub(crate) fn megabytes(pid: u32, which: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6
}
