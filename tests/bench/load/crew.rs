//! Processes that make connections, and do it when they are told to: this program again, in another role.
//!
//! They are told a line at a time over a socket that is their standard input, answer with a line each, and end when it
//! closes.

use crate::churn::record::{self, Record};
use crate::way::{Held, Missed, Opener, Way, ipv4};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::SockRef;
use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// The role of these processes.
pub(crate) const WORKER: &str = "worker";

/// Descriptors that a process needs beside its connections.
const SPARE: u64 = 60;

/// How many connections one process can hold.
pub(crate) fn most() -> u32 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    u32::try_from(hard.min(20_000) - SPARE).unwrap()
}

/// As many descriptors as there may be.
pub(crate) fn raise_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// How opening went on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// All of them are open.
    Done,
    /// The broker has no source left.
    Exhausted,
    /// Something else.
    Failed(String),
}

/// What came of opening some connections.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) count: u32,
    pub(crate) end: End,
}

/// What came of changing connections for a while.
#[derive(Debug)]
pub(crate) struct Churned {
    pub(crate) count: u32,
    pub(crate) time: Duration,
}

/// A process that is told what to do.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    answers: BufReader<UnixStream>,
}

impl Worker {
    /// In the namespace of this thread.
    pub(crate) fn start(way: &Way, destination: SocketAddr) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut command = crate::in_role(WORKER);
        let child =
            crate::netns::spawn(command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()));
        let mut worker = Self { child, answers: BufReader::new(ours) };
        worker.tell(format_args!("{destination} {way}"));
        worker
    }

    fn tell(&mut self, line: fmt::Arguments<'_>) {
        writeln!(self.answers.get_mut(), "{line}").expect("the worker lives");
    }

    fn hear(&mut self) -> Vec<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the worker lives");
        assert!(line.ends_with('\n'), "the worker ended: {line:?}");
        line.trim_end().splitn(3, ' ').map(str::to_owned).collect()
    }

    /// Begins to open so many connections more; all of its workers can be told before one is heard.
    pub(crate) fn tell_open(&mut self, count: u32) {
        self.tell(format_args!("open {count}"));
    }

    pub(crate) fn hear_opened(&mut self) -> Opened {
        let answer = self.hear();
        let end = match answer[1].as_str() {
            "done" => End::Done,
            "exhausted" => End::Exhausted,
            _ => End::Failed(answer[2].clone()),
        };
        Opened { count: answer[0].parse().unwrap(), end }
    }

    /// So many times, closes any one and opens another: how long each took to open.
    pub(crate) fn times(&mut self, count: u32) -> Vec<Duration> {
        self.tell(format_args!("times {count}"));
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the worker lives");
        let times = line.trim_end().split(' ').map(|time| {
            Duration::from_nanos(time.parse().unwrap_or_else(|_| panic!("the worker says {line}")))
        });
        times.collect()
    }

    /// Begins to close any one and open another for so long, and to write down each.
    pub(crate) fn tell_churn(&mut self, time: Duration) {
        self.tell(format_args!("churn {}", time.as_millis()));
    }

    pub(crate) fn hear_churned(&mut self) -> Churned {
        let answer = self.hear();
        assert_eq!(answer.len(), 2, "the worker says: {}", answer.join(" "));
        Churned { count: answer[0].parse().unwrap(), time: Duration::from_micros(answer[1].parse().unwrap()) }
    }

    /// Closes all, and has what it wrote down of all of its connections written to this file.
    pub(crate) fn write_down(&mut self, path: &Path) {
        self.tell(format_args!("records {}", path.display()));
        assert_eq!(self.hear(), ["written"]);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.answers.get_ref().shutdown(std::net::Shutdown::Both);
        if std::thread::panicking() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Has all of them open connections, a few at a time, until each has so many or finds no source left.
pub(crate) fn fill(workers: &mut [Worker], each: u32, at_a_time: u32) -> Filled {
    let mut filled = Filled::default();
    let mut at_work: Vec<_> = workers.iter_mut().map(|worker| (worker, each)).collect();
    while !at_work.is_empty() {
        for (worker, left) in &mut at_work {
            worker.tell_open(at_a_time.min(*left));
        }
        at_work.retain_mut(|(worker, left)| {
            let opened = worker.hear_opened();
            *left -= opened.count;
            filled.connections += opened.count;
            match opened.end {
                End::Done => return *left > 0,
                End::Exhausted => filled.exhausted += 1,
                End::Failed(error) => filled.failures.push(error),
            }
            false
        });
    }
    filled
}

/// What came of [`fill`].
#[derive(Debug, Default)]
pub(crate) struct Filled {
    /// How many connections there are.
    pub(crate) connections: u32,
    /// How many workers found no source left.
    pub(crate) exhausted: u32,
    /// What else kept a worker from going on.
    pub(crate) failures: Vec<String>,
}

/// The whole life of a [`WORKER`].
pub(crate) fn work() {
    raise_limit();
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut orders = BufReader::new(UnixStream::from(stdin));
    let mut line = String::new();
    orders.read_line(&mut line).unwrap();
    let (destination, way) = line.trim_end().split_once(' ').expect("destination and way");
    let mut life = Life::new(Opener::new(&Way::parse(way), destination.parse().unwrap()));
    loop {
        line.clear();
        if orders.read_line(&mut line).unwrap() == 0 {
            return;
        }
        let answer = match line.trim_end().split_once(' ').expect("an order and its argument") {
            ("open", count) => life.open(count.parse().unwrap()),
            ("times", count) => life.times(count.parse().unwrap()),
            ("churn", time) => life.churn(Duration::from_millis(time.parse().unwrap())),
            ("records", path) => life.write_down(Path::new(path)),
            (order, _) => panic!("no order {order:?}"),
        };
        // Whoever gave the order may be gone: then the next one is the end.
        let _ = writeln!(orders.get_mut(), "{answer}");
    }
}

/// How a connection ends.
#[derive(Debug, Clone, Copy)]
enum Close {
    /// Nothing of it is left.
    Reset,
    /// It is in FIN_WAIT2 until the server closes, too; then in TIME_WAIT.
    AndForget,
    /// The server closes as well, before this side's socket is; then it is in TIME_WAIT.
    Orderly,
}

/// What a worker has.
struct Life {
    opener: Opener,
    held: Vec<(Held, Record)>,
    ended: Vec<Record>,
    random: u64,
}

impl Life {
    fn new(opener: Opener) -> Self {
        let random = u64::from(std::process::id()) | 1 << 40;
        Self { opener, held: Vec::new(), ended: Vec::new(), random }
    }

    /// Any number below a limit: xorshift64.
    fn any(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % u64::try_from(below).unwrap()).unwrap()
    }

    fn open(&mut self, count: u32) -> String {
        let mut end = "done".to_owned();
        let mut opened = 0;
        while opened < count {
            match self.opener.open() {
                Ok(held) => self.hold(held),
                Err(Missed::Exhausted) => {
                    end = "exhausted".to_owned();
                    break;
                }
                Err(Missed::Failed(error)) => {
                    end = format!("failed {error}");
                    break;
                }
            }
            opened += 1;
        }
        format!("{opened} {end}")
    }

    fn times(&mut self, count: u32) -> String {
        let mut times = Vec::new();
        for _ in 0..count {
            self.let_go(Close::Reset);
            let begin = Instant::now();
            let held = self.opener.open();
            let took = begin.elapsed();
            match held {
                Ok(held) => self.held.push((held, Record::default())),
                Err(missed) => return format!("{missed:?}"),
            }
            times.push(took.as_nanos().to_string());
        }
        times.join(" ")
    }

    fn churn(&mut self, time: Duration) -> String {
        let begin = Instant::now();
        let mut count = 0_u32;
        while begin.elapsed() < time {
            let close = match self.any(16) {
                0 | 1 => Close::Reset,
                2 => Close::AndForget,
                _ => Close::Orderly,
            };
            let ended = self.let_go(close);
            self.ended.push(ended);
            match self.opener.open() {
                Ok(held) => self.hold(held),
                Err(missed) => return format!("no connection after {count}: {missed:?}"),
            }
            count += 1;
        }
        format!("{count} {}", begin.elapsed().as_micros())
    }

    /// Closes any one.
    fn let_go(&mut self, close: Close) -> Record {
        let any = self.any(self.held.len());
        let (held, mut record) = self.held.swap_remove(any);
        match close {
            Close::Reset => held.reset_at_close(),
            Close::AndForget => {}
            Close::Orderly => held.wait_for_the_end(),
        }
        record.end = record::now();
        self.opener.close(held);
        record.closed = record::now();
        record
    }

    fn hold(&mut self, held: Held) {
        let begin = record::now();
        let (address, port) = ipv4(held.stream().local_addr().unwrap());
        let cookie = SockRef::from(held.stream()).cookie().unwrap();
        self.held.push((held, Record { cookie, address, port, begin, ..Record::default() }));
    }

    fn write_down(&mut self, path: &Path) -> String {
        while !self.held.is_empty() {
            let ended = self.let_go(Close::Reset);
            self.ended.push(ended);
        }
        record::write(path, &self.ended);
        self.ended.clear();
        "written".to_owned()
    }
}
