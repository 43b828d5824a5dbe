//! Leases by calls to a real daemon over the private socket: how many a second, and how soon a refusal comes, with few
//! leases and with many.

use crate::daemon::Daemon;
use crate::measure::{Samples, Table, Target, in_microseconds, row};
use crate::netns::{in_netns, spawn};
use portbroker_client::wire::{MANAGER_INTERFACE, MANAGER_PATH, ManagerProxy};
use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Instant;
use zbus::message::{Message, Type};
use zbus::{OwnedObjectPath, Variant};

/// Sixteen addresses with a million ports, and one with a block that is leased from the start.
pub(crate) const CONFIGURATION: &str = "\
[[pool]]
name = \"large\"
addresses = [\"10.0.0.1-10.0.0.16\"]
ports = \"1024-63523\"
[[pool]]
name = \"full\"
addresses = [\"10.0.0.17\"]
ports = \"10000-10063\"
";
const FEW: u32 = 10;
const MANY: u32 = 100_000;
const ROUNDS: u32 = 10;
const CALLS_IN_A_ROUND: u32 = 2000;
const REFUSALS: u32 = 2000;
/// Calls that are on the way at a time.
const PIPELINED: u32 = 64;
/// Blocks as the client library's first.
const PORTS: u32 = 64;

pub(crate) fn measure() -> Vec<Table> {
    in_netns(|| {
        make_addresses();
        let daemon = Daemon::start(CONFIGURATION);
        let (mut caller, _session) = open(&daemon);
        caller.lease("full", PORTS, 1);
        let mut tables = Vec::new();
        for leases in [FEW, MANY] {
            caller.lease("large", PORTS, leases.saturating_sub(caller.leases));
            let at = caller.leases;
            tables.push(rate(&mut caller, at));
            tables.push(refusals(&mut caller, at));
        }
        tables
    })
}

/// Those of the pools, and a range of the kernel's that leaves them what they ask for.
pub(crate) fn make_addresses() {
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "64000 65535\n").unwrap();
    for n in 1..=17 {
        let add = format!("address add 10.0.0.{n}/32 dev lo");
        assert!(spawn(Command::new("ip").args(add.split(' '))).wait().unwrap().success());
    }
}

/// A caller, and what its session lives by.
pub(crate) fn open(daemon: &Daemon) -> (Caller, impl Sized + use<>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (connection, session, lifeline) = runtime.block_on(async {
        let stream = UnixStream::connect(daemon.socket()).unwrap();
        let connection = zbus::connection::Builder::unix_stream(stream).p2p().build().await.unwrap();
        let manager = ManagerProxy::new(&connection).await.unwrap();
        let (session, lifeline) = manager.open_session(HashMap::new()).await.unwrap();
        (connection, session, lifeline)
    });
    (Caller::connect(daemon, session), (connection, lifeline, runtime))
}

fn rate(caller: &mut Caller, leases: u32) -> Table {
    let mut samples = Samples::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        caller.lease("large", PORTS, CALLS_IN_A_ROUND);
        samples.push(in_microseconds(begin.elapsed()) / f64::from(CALLS_IN_A_ROUND));
    }
    Table {
        title: format!("LeaseBlocks of {PORTS} ports, {PIPELINED} calls at a time, with {leases} leases"),
        unit: "µs",
        ours: row("a lease", samples),
        target: Target { limit: 100.0, says: "at most 100 µs, which is 10,000 a second".into() },
        others: Vec::new(),
    }
}

fn refusals(caller: &mut Caller, leases: u32) -> Table {
    let mut samples = Samples::new();
    for _ in 0..REFUSALS {
        let begin = Instant::now();
        caller.refused();
        samples.push(in_microseconds(begin.elapsed()));
    }
    Table {
        title: format!("LeaseBlocks of an exhausted pool, one call after the other, with {leases} leases"),
        unit: "µs",
        ours: row("a refusal", samples),
        target: Target { limit: 200.0, says: "at most 200 µs".into() },
        others: Vec::new(),
    }
}

/// A caller that costs next to nothing itself: its messages are made before, and of answers it reads no more than their
/// kind.
pub(crate) struct Caller {
    stream: UnixStream,
    session: OwnedObjectPath,
    leases: u32,
    read: Vec<u8>,
}

impl Caller {
    fn connect(daemon: &Daemon, session: OwnedObjectPath) -> Self {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        let uid: String = nix::unistd::geteuid().to_string().bytes().map(|b| format!("{b:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes()).unwrap();
        let mut answer = [0; 256];
        let length = stream.read(&mut answer).unwrap();
        assert!(answer[..length].starts_with(b"OK "));
        stream.write_all(b"BEGIN\r\n").unwrap();
        Self { stream, session, leases: 0, read: Vec::new() }
    }

    fn call(&self, pool: &str, ports: u32, n: u32) -> Vec<u8> {
        // The blocks of a hundred destinations.
        let destination = format!("192.0.2.1:{}", 1000 + n % 100);
        let options: HashMap<&str, Variant<'_>> = HashMap::new();
        let body = (&self.session, pool, "tcp", destination.as_str(), ports, options);
        let call = Message::method_call(MANAGER_PATH, "LeaseBlocks");
        call.interface(MANAGER_INTERFACE).build(&body).unwrap().data().to_vec()
    }

    pub(crate) fn lease(&mut self, pool: &str, ports: u32, count: u32) {
        let calls: Vec<Vec<u8>> = (0..100).map(|n| self.call(pool, ports, n)).collect();
        let (mut sent, mut answered) = (0, 0);
        while answered < count {
            let now = PIPELINED.min(count - sent);
            let batch: Vec<u8> =
                (sent..sent + now).flat_map(|n| calls[n as usize % 100].iter().copied()).collect();
            self.stream.write_all(&batch).unwrap();
            sent += now;
            for _ in 0..now {
                assert_eq!(self.answer(), Type::MethodReturn);
                answered += 1;
            }
        }
        self.leases += count;
    }

    fn refused(&mut self) {
        let call = self.call("full", PORTS, 0);
        self.stream.write_all(&call).unwrap();
        assert_eq!(self.answer(), Type::Error);
    }

    /// Reads one message, and says of what kind it is.
    fn answer(&mut self) -> Type {
        loop {
            let number = |at: usize| u32::from_le_bytes(self.read[at..at + 4].try_into().unwrap()) as usize;
            if self.read.len() >= 16 {
                let length = 16 + number(12).next_multiple_of(8) + number(4);
                if self.read.len() >= length {
                    let kind = self.read[1];
                    self.read.drain(..length);
                    match kind {
                        2 => return Type::MethodReturn,
                        3 => return Type::Error,
                        _ => continue,
                    }
                }
            }
            let mut buffer = [0; 1 << 16];
            let length = self.stream.read(&mut buffer).unwrap();
            assert!(length > 0, "the daemon closed the connection");
            self.read.extend(&buffer[..length]);
        }
    }
}
