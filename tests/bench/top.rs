//! What `portbroker top` costs with very many leases and listeners, and what it costs the daemon; and its picture.
//!
//! Both run on a real terminal of tmux's. A slow machine is no fault: it ends with 0 whatever was reached.

#![cfg(test)]

#[path = "load/ground.rs"]
#[expect(dead_code, reason = "nobody is connected to")]
mod ground;
#[expect(dead_code, reason = "only leases are made by it")]
mod lease_calls;
#[expect(dead_code, reason = "nothing takes milliseconds here")]
mod measure;
mod svg;

#[path = "../support/daemon.rs"]
#[expect(dead_code, reason = "nothing is tested here")]
mod daemon;
#[path = "../support/netns.rs"]
#[expect(dead_code, reason = "nobody is robbed here")]
mod netns;
#[path = "../support/tty.rs"]
#[expect(dead_code, reason = "nothing is tested here")]
mod tty;

use daemon::Daemon;
use ground::Meter;
use lease_calls::Caller;
use measure::{Samples, Table, Target, row};
use netns::{in_netns, ip};
use portbroker_client::wire::ManagerProxy;
use std::collections::HashMap;
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;
use tty::Tty;

const LISTENERS: u16 = 1000;
const LEASES: u32 = 100_000;
/// Each is measured so many times for so long.
const ROUNDS: usize = 3;
const TIME: Duration = Duration::from_secs(10);

/// Sixteen addresses with a million ports for each destination.
const POOL: &str = "\
[[pool]]
name = \"large\"
addresses = [\"10.0.0.1-10.0.0.16\"]
ports = \"1024-63523\"
";

fn main() {
    // "--bench" is cargo's.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {
            println!("{}", measure::machine());
            in_netns(figures).iter().for_each(|table| print!("{table}"));
        }
        ["picture"] => in_netns(picture),
        _ => println!("top: the figures; top picture: writes tests/bench/top.svg"),
    }
}

fn listeners() -> String {
    let one = |n: u16| format!("[[listener]]\nname = \"l{n:04}\"\nstream = [\"127.0.0.1:{}\"]\n", 64_000 + n);
    (0..LISTENERS).map(one).collect()
}

fn runs(daemon: &Daemon, arguments: &str) -> String {
    format!("'{}' --socket '{}' {arguments}", env!("CARGO_BIN_EXE_portbroker"), daemon.socket().display())
}

fn figures() -> Vec<Table> {
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "63600 63900\n").unwrap();
    (1..=16).for_each(|n| ip(&format!("address add 10.0.0.{n}/32 dev lo")));
    let daemon = Daemon::start(&format!("{POOL}{}", listeners()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_connection, session, _lifeline) = runtime.block_on(async {
        let stream = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
        let connection = zbus::connection::Builder::unix_stream(stream).p2p().build().await.unwrap();
        let manager = ManagerProxy::new(&connection).await.unwrap();
        let (session, lifeline) = manager.open_session(HashMap::new()).await.unwrap();
        (connection, session, lifeline)
    });
    let mut caller = Caller::connect(&daemon, session);
    caller.lease("large", 64, LEASES);
    // What the leases left to be done is done by then.
    std::thread::sleep(Duration::from_secs(5));
    let alone = measured(&[daemon.pid()]).remove(0);
    let mut tables = Vec::new();
    for (width, height) in [(80, 24), (200, 60)] {
        let tty = Tty::start(width, height, &[], &runs(&daemon, "top"));
        tty.wait_for("10.0.0.1");
        std::thread::sleep(Duration::from_secs(3));
        let top = u32::try_from(tty.pid_of("portbroker")).unwrap();
        let [its_own, the_daemons] = measured(&[top, daemon.pid()]).try_into().unwrap();
        let size = format!("{width} x {height}");
        tables.push(Table {
            title: format!("portbroker top, {LISTENERS} listeners and {LEASES} leases, {size}, % of one CPU"),
            unit: "%",
            ours: row("itself", its_own),
            target: Target { limit: 2.0, says: "at most 2 % of one CPU".into() },
            others: vec![row("the daemon meanwhile", the_daemons), row("the daemon alone", alone.clone())],
        });
    }
    tables
}

/// The shares of one processor that processes take meanwhile, in per cent.
fn measured(pids: &[u32]) -> Vec<Samples> {
    let mut samples = vec![Samples::new(); pids.len()];
    for _ in 0..ROUNDS {
        let meters: Vec<Meter> = pids.iter().map(|pid| Meter::new(*pid)).collect();
        std::thread::sleep(TIME);
        meters.iter().zip(&mut samples).for_each(|(meter, samples)| samples.push(meter.read().of_one()));
    }
    samples
}

const SCENE: &str = "\
[[listener]]
name = \"mysql\"
stream = [\"127.0.0.1:3306\", \"/run/mysqld.sock\"]
[[listener]]
name = \"web\"
stream = [\"0.0.0.0:443\", \"[::]:443\"]
[[listener]]
name = \"admin\"
stream = [\"127.0.0.1:8443\"]
idle = \"refuse\"
[[listener]]
name = \"dns\"
stream = [\"127.0.0.53:53\"]
datagram = [\"127.0.0.53:53\"]
[[pool]]
name = \"egress\"
addresses = [\"192.0.2.10-192.0.2.13\"]
ports = \"10000-19999\"
";

/// Takes the picture.
fn picture() {
    for n in 10..14 {
        ip(&format!("address add 192.0.2.{n}/32 dev lo"));
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("mysqld.sock");
    let daemon = Daemon::start(&SCENE.replace("/run/mysqld.sock", socket.to_str().unwrap()));
    let holds =
        |arguments: &[&str]| Holds(daemon.portbroker(arguments).stdout(Stdio::null()).spawn().unwrap());
    let sleeps = "import time; time.sleep(1000)";
    let mut children = vec![
        holds(&["exec", "mysql", "--", "python3", "-c", sleeps]),
        holds(&["exec", "web", "dns", "--", "python3", "-c", sleeps]),
        holds(&["lease", "egress", "--to", "198.51.100.7:443", "--block", "18000"]),
        holds(&["lease", "egress", "--to", "203.0.113.20:5432", "--block", "6000"]),
    ];
    let waiting: Vec<TcpStream> = (0..37).map(|_| TcpStream::connect("127.0.0.1:443").unwrap()).collect();
    let refused = daemon.portbroker_as(netns::NOBODY, &["exec", "admin", "--", "true"]).output().unwrap();
    assert!(!refused.status.success());
    let drained = daemon.portbroker(&["drain", "192.0.2.13"]).status().unwrap();
    assert!(drained.success());
    // A destination that fills while one looks on.
    let tty = Tty::start(80, 24, &[], &runs(&daemon, "top"));
    tty.wait("everything", |seen| {
        ["37/", "python3[", "192.0.2.13", "draining", "refusal"].iter().all(|part| seen.contains(part))
    });
    for _ in 0..6 {
        children.push(holds(&["lease", "egress", "--to", "198.51.100.7:443", "--block", "300"]));
        std::thread::sleep(Duration::from_secs(1));
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/top.svg");
    std::fs::write(file, svg::of(&tty.coloured(), 80)).unwrap();
    println!("{}\n{file}", tty.text());
    drop((waiting, children));
}

/// A process that has something until it is dropped, also where the picture fails.
struct Holds(std::process::Child);

impl Drop for Holds {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
