//! The second thing: connections to one destination, until there is no source port left.
//!
//! Processes hold the connections, since one may not have so many descriptors; they are told what to do by lines on
//! their standard input. Nobody accepts: the connections wait in the queue of the destination, which is long enough.
#![expect(clippy::print_stdout, reason = "a demonstration prints")]

use crate::Result;
use crate::child::{Place, Running, enter_namespace, ip, itself, set};
use portbroker_client::outbound::Connection;
use portbroker_client::{ConnectError, Connector};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

const DESTINATION: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 9), 443));
const ADDRESSES: u32 = 4;
/// The kernel's own range, as it is by default; a pool has as many ports of each address.
const FIRST: u32 = 32_768;
const PORTS: u32 = 28_232;
const POOL: &str = "4536-32767";
/// How full the ports are when connect() is timed.
const FILLS: [u32; 5] = [25, 49, 51, 75, 99];
const TIMED: u32 = 200;
/// Connections that a process holds.
const HELD: u32 = 16_000;
/// And that it holds besides when nothing is left for the others. A process leases up to 1,024 ports at a time.
const SPARE: u32 = 2_000;
/// Ports that the kernel has to choose from while the time until the next measurement is shortened.
const PIECE: u32 = 512;

/// Both, one after the other, and side by side at the end.
pub(crate) fn demonstrate(daemon: &str) -> Result<()> {
    println!("As many connections as there can be are made to one destination, {DESTINATION}:");
    println!("from the ports of the kernel's choice, and from those of a pool of {ADDRESSES} addresses.\n");
    let without = run_side("the kernel's choice", "")?;
    let with = run_side("portbroker", daemon)?;
    println!(
        "\n                     connections   mean and p99 of connect(), in µs, where so much is in use"
    );
    print!("                         reached");
    for fill in FILLS {
        print!(" {:>14}", format!("{fill} %"));
    }
    println!();
    for (title, side) in [("the kernel's choice", &without), ("portbroker", &with)] {
        print!("{title:<20} {:>11}", side.reached);
        for (mean, p99) in &side.times {
            print!(" {:>14}", format!("{mean:.0} ({p99:.0})"));
        }
        println!();
    }
    Ok(())
}

/// What came of one side.
struct Side {
    reached: u32,
    /// Mean and 99th percentile of connect() at each of [`FILLS`], in microseconds.
    times: Vec<(f64, f64)>,
}

/// Runs one side in a process of its own.
fn run_side(title: &str, daemon: &str) -> Result<Side> {
    let mut child = itself(&["connections", daemon]).stdout(Stdio::piped()).spawn()?;
    let output = BufReader::new(child.stdout.take().ok_or("no output")?);
    let mut side = Side { reached: 0, times: Vec::new() };
    for line in output.lines() {
        let line = line?;
        let numbers: Vec<f64> = line.split(' ').map(str::parse).collect::<std::result::Result<_, _>>()?;
        match numbers[..] {
            [fill, mean, p99] => {
                println!("{title:<20} {fill:>3.0} % in use: connect() takes {mean:.0} µs");
                side.times.push((mean, p99));
            }
            [_] => side.reached = line.parse()?,
            _ => return Err("the process printed something strange".into()),
        }
    }
    if !child.wait()?.success() {
        return Err(format!("{title:?} broke off").into());
    }
    println!("{title:<20} {} connections, and no port left for another", side.reached);
    Ok(side)
}

/// One side, in a process of its own, which has a namespace of its own.
pub(crate) fn run(daemon: Option<&str>) -> Result<()> {
    enter_namespace()?;
    ip(&["address", "add", "10.0.0.9/32", "dev", "lo"])?;
    for host in 1..=ADDRESSES {
        ip(&["address", "add", &format!("10.0.0.{host}/32"), "dev", "lo"])?;
    }
    for (sysctl, value) in
        [("core/somaxconn", "1000000"), ("ipv4/tcp_max_syn_backlog", "1000000"), ("ipv4/tcp_syncookies", "0")]
    {
        set(sysctl, value)?;
    }
    let server = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    server.bind(&DESTINATION.into())?;
    server.listen(1_000_000)?;
    let place = Place::new()?;
    let socket = place.socket();
    let configuration = format!(
        "[[pool]]\nname = \"egress\"\naddresses = [\"10.0.0.1-10.0.0.{ADDRESSES}\"]\nports = \"{POOL}\"\n"
    );
    let _daemon = daemon.map(|daemon| place.start(daemon, &configuration)).transpose()?;
    let mut side = Connections { socket: daemon.map(|_| socket.display().to_string()), holders: Vec::new() };
    let capacity = if daemon.is_some() { PORTS * ADDRESSES } else { PORTS };
    for fill in FILLS {
        side.fill(capacity * fill / 100)?;
        let times = side.open(TIMED)?;
        let mean = times.iter().sum::<f64>() / f64::from(TIMED);
        let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
        println!("{fill} {mean} {p99}");
    }
    side.open(capacity)?;
    println!("{}", side.count());
    Ok(())
}

/// The connections of all holders.
struct Connections {
    /// The broker's socket; without it the kernel chooses.
    socket: Option<String>,
    holders: Vec<Holder>,
}

/// A process that holds connections.
struct Holder {
    _process: Running,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    held: u32,
}

impl Connections {
    fn count(&self) -> u32 {
        self.holders.iter().map(|holder| holder.held).sum()
    }

    /// Opens connections until there are so many.
    fn fill(&mut self, wanted: u32) -> Result<()> {
        if self.socket.is_some() {
            self.open(wanted.saturating_sub(self.count()))?;
            return Ok(());
        }
        // The kernel takes every other port of its range first, and the rest when it has found all of these in use, for
        // each connection anew. Within a small range it finds that out soon, and the ports in use are the same.
        let low = FIRST;
        for half in [1, 2] {
            for first in (low..low + PORTS).step_by(PIECE as usize) {
                let ports = PIECE.min(low + PORTS - first);
                set("ipv4/ip_local_port_range", &format!("{first} {}", first + ports - 1))?;
                let full_before = self.count();
                let target = wanted.min(low_half(first - low, ports, half));
                if target > full_before {
                    self.open(target - full_before)?;
                }
            }
        }
        set("ipv4/ip_local_port_range", &format!("{low} {}", low + PORTS - 1))
    }

    /// Opens so many connections, or as many as there are ports for; their times in microseconds, in order of length.
    fn open(&mut self, mut count: u32) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        while count > 0 {
            if self.holders.last().is_none_or(|holder| holder.held >= HELD) {
                self.holders.push(Holder::start(self.socket.as_deref().unwrap_or_default())?);
            }
            let Some(holder) = self.holders.last_mut() else { break };
            let wanted = count.min(HELD - holder.held);
            let opened = holder.open(wanted)?;
            let got = u32::try_from(opened.len())?;
            times.extend(opened);
            count -= got;
            if got < wanted {
                break;
            }
        }
        // Nothing is left to lease: what is left is leased already, by those who came first.
        for holder in &mut self.holders {
            let opened = holder.open(count.min((HELD + SPARE).saturating_sub(holder.held)))?;
            count -= u32::try_from(opened.len())?;
            times.extend(opened);
        }
        times.sort_by(f64::total_cmp);
        Ok(times)
    }
}

/// How many connections there are when this piece is filled: of its ports the first half, or all.
fn low_half(before: u32, ports: u32, half: u32) -> u32 {
    if half == 1 { (before + ports) / 2 } else { PORTS / 2 + (before + ports) / 2 }
}

impl Holder {
    fn start(socket: &str) -> Result<Self> {
        let mut process =
            itself(&["connect", socket]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = process.stdin.take().ok_or("no input")?;
        let answers = BufReader::new(process.stdout.take().ok_or("no output")?);
        Ok(Self { _process: Running(process), orders, answers, held: 0 })
    }

    fn open(&mut self, count: u32) -> Result<Vec<f64>> {
        writeln!(self.orders, "{count}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let times: Vec<f64> =
            line.split_ascii_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?;
        self.held += u32::try_from(times.len())?;
        Ok(times)
    }
}

/// A connection of either side.
enum Held {
    Kernel(#[expect(dead_code, reason = "held, and not used")] TcpStream),
    Leased(#[expect(dead_code, reason = "held, and not used")] Connection<TcpStream>),
}

/// Opens as many connections as each line of the input says, and answers with the times of those that it could open.
pub(crate) fn connect(socket: Option<&str>) -> Result<()> {
    let descriptors = u64::from(HELD + SPARE) + 100;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, descriptors, descriptors)?;
    let connector = socket.map(|socket| Connector::new("egress").socket_path(socket));
    let mut held: Vec<Held> = Vec::new();
    for line in std::io::stdin().lines() {
        let count: u32 = line?.parse()?;
        let mut answer = String::new();
        for _ in 0..count {
            let begin = Instant::now();
            match one(connector.as_ref())? {
                Some(connection) => held.push(connection),
                None => break,
            }
            answer.push_str(&format!("{:.1} ", micros(begin.elapsed())));
        }
        println!("{answer}");
    }
    Ok(())
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A connection; `None`: there is no port left.
fn one(connector: Option<&Connector>) -> Result<Option<Held>> {
    let Some(connector) = connector else {
        return match TcpStream::connect(DESTINATION) {
            Ok(stream) => Ok(Some(Held::Kernel(stream))),
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Ok(None),
            Err(error) => Err(error.into()),
        };
    };
    match connector.connect_blocking(DESTINATION) {
        Ok(connection) => Ok(Some(Held::Leased(connection))),
        Err(ConnectError::Exhausted { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
