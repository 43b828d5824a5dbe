//! A process that leases and connects without pause, by the client library, and writes down what was its own and when.

use portbroker_client::{Broker, ConnectError, Connector, Error, Protocol, Session, Target};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::record::now;

pub(crate) const LESSEE: &str = "lessee";
pub(crate) const SOCKET: &str = "SOAK_SOCKET";
pub(crate) const SEED: &str = "SOAK_SEED";
pub(crate) const REPORT: &str = "SOAK_REPORT";

/// What is connected to, and what leases are for.
pub(crate) const TO: &str = "192.0.2.9:443";
const OF_PAIRS: &str = "192.0.2.9:444";
const OF_SOCKETS: &str = "192.0.2.9:445";
/// Connections of one process at a time.
const CONNECTIONS: usize = 40;

/// Something that one process alone had, from when it was told to before it gave it back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Had {
    /// For which destination.
    pub(crate) to: String,
    pub(crate) source: SocketAddr,
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) had: Vec<Had>,
    /// Errors, by what they begin with.
    pub(crate) errors: BTreeMap<String, u64>,
}

impl Report {
    fn failed(&mut self, what: &str, error: &str) {
        // Numbers and names differ, and are none of the matter.
        let kind: String = error.chars().filter(|c| !c.is_ascii_digit()).take(160).collect();
        *self.errors.entry(format!("{what}: {}", kind.trim().replace('\n', " "))).or_default() += 1;
    }

    fn write(&self, path: &Path) {
        let mut text = String::new();
        for Had { to, source, begin, end } in &self.had {
            let _ = writeln!(text, "had {to} {source} {begin} {end}");
        }
        for (error, count) in &self.errors {
            let _ = writeln!(text, "error {count} {error}");
        }
        std::fs::write(path, text).unwrap();
    }

    /// Adds what a process wrote.
    pub(crate) fn read(&mut self, path: &Path) {
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["had", to, source, begin, end] => self.had.push(Had {
                    to: to.to_owned(),
                    source: source.parse().unwrap(),
                    begin: begin.parse().unwrap(),
                    end: end.parse().unwrap(),
                }),
                ["error", count, ..] => {
                    let text = line.splitn(3, ' ').nth(2).unwrap().to_owned();
                    *self.errors.entry(text).or_default() += count.parse::<u64>().unwrap();
                }
                _ => panic!("{line}"),
            }
        }
    }

    /// Two that had the same at the same time, if there are any.
    pub(crate) fn given_twice(&mut self) -> Option<(Had, Had)> {
        self.had.sort();
        let same = |two: &&[Had]| {
            (&two[0].to, two[0].source) == (&two[1].to, two[1].source) && two[1].begin < two[0].end
        };
        self.had.windows(2).find(same).map(|two| (two[0].clone(), two[1].clone()))
    }
}

/// splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// The process: until its standard input ends.
pub(crate) fn work() {
    let get = |name| std::env::var(name).unwrap();
    let (socket, report): (PathBuf, PathBuf) = (get(SOCKET).into(), get(REPORT).into());
    let seed: u64 = get(SEED).parse().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        told.store(true, Ordering::Relaxed);
    });
    let (of_socket, of_stop) = (socket.clone(), Arc::clone(&stop));
    let leasing = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(lease(&of_socket, Random(seed ^ 77), &of_stop))
    });
    let mut all = connect(&socket, Random(seed), &stop);
    let leased = leasing.join().unwrap();
    all.had.extend(leased.had);
    all.errors.extend(leased.errors);
    all.write(&report);
}

fn connect(socket: &Path, mut random: Random, stop: &AtomicBool) -> Report {
    let mut report = Report::default();
    let connector = Connector::new("egress").socket_path(socket);
    let mut open: VecDeque<(portbroker_client::outbound::Connection<TcpStream>, u64)> = VecDeque::new();
    let close = |open: &mut VecDeque<(portbroker_client::outbound::Connection<TcpStream>, u64)>,
                 report: &mut Report| {
        let Some((stream, begin)) = open.pop_front() else { return };
        let source = stream.local_addr().unwrap();
        // The other side closes first, so that nothing of it is left here.
        let _ = (&*stream).read(&mut [0]);
        report.had.push(Had { to: TO.into(), source, begin, end: now() });
        drop(stream);
    };
    while !stop.load(Ordering::Relaxed) {
        if open.len() < CONNECTIONS && random.next(2) == 0 {
            match connector.connect_blocking(TO) {
                Ok(stream) => open.push_back((stream, now())),
                Err(error @ ConnectError::Exhausted { .. }) => report.failed("connect", &error.to_string()),
                Err(error) => report.failed("connect", &error.to_string()),
            }
        } else {
            close(&mut open, &mut report);
        }
        std::thread::sleep(Duration::from_millis(1 + random.next(4)));
    }
    while !open.is_empty() {
        close(&mut open, &mut report);
    }
    report
}

async fn lease(socket: &Path, mut random: Random, stop: &AtomicBool) -> Report {
    let mut report = Report::default();
    let broker = Broker::new().socket_path(socket).timeout(Duration::from_secs(5));
    let target = |to: &str, protocol| Target {
        pool: "egress".to_owned(),
        protocol,
        destination: Some(to.parse().unwrap()),
    };
    let (pairs, sockets) = (target(OF_PAIRS, Protocol::Tcp), target(OF_SOCKETS, Protocol::Udp));
    let mut session: Option<Session> = None;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(1 + random.next(10))).await;
        if session.is_none() || random.next(20) == 0 {
            // All leases of the one before end with it.
            session = broker
                .open_session()
                .await
                .map_err(|error| report.failed("session", &error.to_string()))
                .ok();
        }
        let Some(of) = &session else { continue };
        let count = 1 + u32::try_from(random.next(20)).unwrap();
        let outcome = match random.next(3) {
            0 => of.sockets(&sockets, count.min(8)).await.map(|lease| {
                let (sources, kept): (Vec<_>, Vec<_>) = lease.items.into_iter().unzip();
                (lease.id, OF_SOCKETS, sources, kept)
            }),
            _ => of.pairs(&pairs, count).await.map(|lease| (lease.id, OF_PAIRS, lease.items, Vec::new())),
        };
        match outcome {
            Err(error) => {
                if matches!(error, Error::Refused { .. }) {
                    session = None;
                }
                report.failed("lease", &error.to_string());
            }
            Ok((id, to, sources, kept)) => {
                let begin = now();
                tokio::time::sleep(Duration::from_millis(random.next(30))).await;
                let end = now();
                report.had.extend(sources.into_iter().map(|source| Had {
                    to: to.into(),
                    source,
                    begin,
                    end,
                }));
                drop(kept);
                if random.next(4) != 0
                    && let Err(error) = of.release(id).await
                {
                    report.failed("release", &error.to_string());
                }
            }
        }
    }
    report
}
