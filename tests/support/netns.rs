//! Network namespaces for tests, and the people in them: clients, and a thief of another user.
//!
//! Each test makes a namespace of its own on a thread of its own, so tests run beside each other and nothing of
//! the host is touched. It takes root; without it a test fails and says so.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The user that thieves are.
pub(crate) const NOBODY: u32 = 65534;

/// Held while a process is being made.
static FORKS: Mutex<()> = Mutex::new(());

/// Does something while no other thread makes a process. Between fork and exec a child has a copy of every
/// descriptor of this process, so a socket that a test closes would live on for that moment.
pub(crate) fn undisturbed<R>(act: impl FnOnce() -> R) -> R {
    let _alone = FORKS.lock().unwrap_or_else(PoisonError::into_inner);
    act()
}

/// Makes a process, and returns when it is a program of its own.
pub(crate) fn spawn(command: &mut Command) -> Child {
    let name = command.get_program().to_owned();
    undisturbed(|| command.spawn()).unwrap_or_else(|error| panic!("needs {name:?}: {error}"))
}

/// What ip(8) does in the namespace of this thread.
pub(crate) fn ip(arguments: &str) {
    let status = spawn(Command::new("ip").args(arguments.split_whitespace())).wait().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Runs a test on a thread in a new network namespace, with the loopback interface up.
pub(crate) fn in_netns<R: Send>(test: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("unshare(CLONE_NEWNET) takes root");
            let up = spawn(Command::new("ip").args(["link", "set", "lo", "up"])).wait();
            assert!(up.expect("ip ends").success(), "cannot bring lo up");
            // So that thieves may try every port; the file is the namespace's own.
            let low = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
            std::fs::write(low, "0\n").expect("low ports are opened to users");
            test()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A Python program that runs as another user and tries the same thing until it is stopped.
///
/// The program defines `attempt(count)`, and counts what it gets; [`Thief::stop`] returns the counts.
pub(crate) struct Thief {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// The frame of every thief: `attempt` is called in a loop until standard input ends.
const FRAME: &str = r#"
import collections, errno, os, select, socket, sys
S, R, P = socket.SOL_SOCKET, socket.SO_REUSEADDR, socket.SO_REUSEPORT
count = collections.Counter()
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
exec(sys.argv[2])
attempt(count)
print('ready', flush=True)
while not select.select([0], [], [], 0)[0]:
    for _ in range(50): attempt(count)
print(' '.join(f'{k}={v}' for k, v in count.items()), flush=True)
"#;

/// Tries to bind a TCP port with each combination of the reuse options, to listen, and to accept.
const TCP: &str = r#"
def attempt(count):
    for r, p in ((1, 0), (1, 1), (0, 1), (0, 0)):
        s = socket.socket(FAMILY); s.setsockopt(S, R, r); s.setsockopt(S, P, p); s.setblocking(False)
        count['tries'] += 1
        try:
            s.bind(ADDRESS); count['binds'] += 1
            s.listen(5); count['listens'] += 1
            s.accept(); count['accepts'] += 1
        except OSError as e: assert e.errno != errno.EACCES, 'a thief that may not try at all'
        s.close()
"#;

/// Tries to bind a UDP port with each combination of the reuse options, and to receive.
const UDP: &str = r#"
def attempt(count):
    for r, p in ((1, 0), (1, 1), (0, 1), (0, 0)):
        s = socket.socket(FAMILY, socket.SOCK_DGRAM); s.setsockopt(S, R, r); s.setsockopt(S, P, p)
        s.setblocking(False); count['tries'] += 1
        try:
            s.bind(ADDRESS); count['binds'] += 1
            s.recv(9); count['receives'] += 1
        except OSError as e: assert e.errno != errno.EACCES, 'a thief that may not try at all'
        s.close()
"#;

/// Tries to bind a unix name.
const UNIX: &str = r#"
def attempt(count):
    s = socket.socket(socket.AF_UNIX, FAMILY); count['tries'] += 1
    try:
        s.bind(ADDRESS); count['binds'] += 1
    except OSError as e: assert e.errno != errno.EACCES, 'a thief that may not try at all'
    s.close()
"#;

/// What a thief got.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Loot {
    pub(crate) tries: u64,
    pub(crate) binds: u64,
    pub(crate) listens: u64,
    pub(crate) accepts: u64,
    pub(crate) receives: u64,
}

impl Thief {
    /// After a TCP address.
    pub(crate) fn tcp(address: std::net::SocketAddr) -> Self {
        Self::start(&with_address(TCP, address))
    }

    /// After a UDP address.
    pub(crate) fn udp(address: std::net::SocketAddr) -> Self {
        Self::start(&with_address(UDP, address))
    }

    /// After a unix name; `@` begins an abstract one.
    pub(crate) fn unix(name: &str, datagram: bool) -> Self {
        let name = name.replacen('@', "\\0", 1);
        let kind = if datagram { "socket.SOCK_DGRAM" } else { "socket.SOCK_STREAM" };
        Self::start(&format!("FAMILY, ADDRESS = {kind}, '{name}'\n{UNIX}"))
    }

    /// A program of the test's own, as the user nobody, that is running its attempts already.
    pub(crate) fn start(program: &str) -> Self {
        let mut child = spawn(
            Command::new("python3")
                .args(["-c", FRAME, &NOBODY.to_string(), program])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
        );
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("its output is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the thief says that it is ready");
        assert_eq!(line, "ready\n", "the thief did not start");
        Self { child, stdin, stdout }
    }

    /// Ends it and counts.
    pub(crate) fn stop(mut self) -> Loot {
        drop(self.stdin.take());
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).expect("the thief counts");
        assert!(self.child.wait().expect("the thief ends").success());
        let mut loot = Loot::default();
        for item in text.split_whitespace() {
            let (name, number) = item.split_once('=').expect("name=number");
            let number = number.parse().expect("a number");
            match name {
                "tries" => loot.tries = number,
                "binds" => loot.binds = number,
                "listens" => loot.listens = number,
                "accepts" => loot.accepts = number,
                "receives" => loot.receives = number,
                other => panic!("the thief counts {other}"),
            }
        }
        assert!(loot.tries > 0, "the thief never tried");
        loot
    }
}

impl Drop for Thief {
    fn drop(&mut self) {
        // Only after a failed assertion: stop() has reaped it otherwise.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn with_address(program: &str, address: std::net::SocketAddr) -> String {
    let family = if address.is_ipv4() { "socket.AF_INET" } else { "socket.AF_INET6" };
    format!("FAMILY, ADDRESS = {family}, ('{}', {})\n{program}", address.ip(), address.port())
}

/// A Python process of another user that is handed a listener's socket, does something with it, and lives on
/// with its copy until it is dropped.
pub(crate) struct Holder {
    child: Child,
}

/// `s` is the socket; what is in `kept` lives as long as the process.
const HOLDER: &str = r#"
import ctypes, os, socket, struct, sys, time
S, R, P = socket.SOL_SOCKET, socket.SO_REUSEADDR, socket.SO_REUSEPORT
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
s = socket.socket(fileno=os.dup(0)); os.close(0)
libc = ctypes.CDLL(None, use_errno=True)
kept = []
def unspec():
    assert libc.connect(s.fileno(), bytes(28), 28) == 0
def accept():
    kept.append(s.accept()[0])
def attach(*code):
    program = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *c) for c in code))
    s.setsockopt(S, 26, struct.pack('@HxxxxxxQ', len(code), ctypes.addressof(program)))
exec(sys.argv[2])
print('ready', flush=True)
time.sleep(1000)
"#;

impl Holder {
    /// Hands a copy of the socket to a process of user `uid`, and waits until it has run `program`.
    pub(crate) fn new(socket: &impl std::os::fd::AsFd, uid: u32, program: &str) -> Self {
        let copy = socket.as_fd().try_clone_to_owned().expect("a copy of the socket");
        let mut child = spawn(
            Command::new("python3")
                .args(["-c", HOLDER, &uid.to_string(), program])
                .stdin(copy)
                .stdout(Stdio::piped()),
        );
        let mut stdout = BufReader::new(child.stdout.take().expect("its output is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the holder says that it is ready");
        assert_eq!(line, "ready\n", "the holder failed: {program}");
        Self { child }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
