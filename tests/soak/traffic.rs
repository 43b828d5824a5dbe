//! Clients that connect without pause, services and holders that come and go, and processes that lease.

use crate::holder::{HOLDER, LISTENERS};
use crate::lessee::{LESSEE, REPORT, Random, SEED, SOCKET, TO};
use crate::netns::{spawn, undisturbed};
use crate::{Scene, count, in_role};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::Scope;
use std::time::Duration;

const LESSEES: u64 = 3;
/// A machine that has much to do takes its time to start a service.
const PATIENCE: Duration = Duration::from_secs(90);

/// A service that answers each client with `ok`, and that ends when its standard input does, between two clients.
const SERVICE: &str = "
import os, select, socket, sys
ls = [socket.socket(fileno=fd) for fd in range(3, 3 + int(os.environ['LISTEN_FDS']))]
for l in ls: l.setblocking(False)
print('ready', flush=True)
while True:
    ready = select.select([0] + ls, [], [])[0]
    if 0 in ready: break
    for l in ready:
        try: c, _ = l.accept()
        except OSError: continue
        c.setblocking(True)
        try: c.send(b'ok')
        except OSError: pass
        c.close()
";

pub(crate) fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    scene: &'scope Scene<'_>,
    folder: &'scope Path,
) {
    scope.spawn(move || serve(scene));
    scope.spawn(move || clients(scene));
    for n in 0..2 {
        scope.spawn(move || knock(scene, n));
    }
    scope.spawn(move || holders(scene));
    scope.spawn(move || destination(scene));
    for n in 0..LESSEES {
        scope.spawn(move || lessee(scene, folder, n));
    }
}

/// A service of `web`, restarted again and again; in between its clients wait in the queue.
fn serve(scene: &Scene<'_>) {
    while scene.goes_on() {
        let mut command = scene.site.portbroker(&["exec", "web", "path", "--", "python3", "-c", SERVICE]);
        let child = undisturbed(|| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
        });
        let mut child = child.unwrap();
        let mut ready = [0; 6];
        // Its call may be lost with a daemon that is killed: it is made again.
        if child.stdout.as_mut().unwrap().read_exact(&mut ready).is_ok() {
            count(&scene.tally.services);
            std::thread::sleep(Duration::from_millis(900));
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

/// Each wants an answer, and gets it.
fn clients(scene: &Scene<'_>) {
    let address: SocketAddr = "127.0.0.1:7000".parse().unwrap();
    while scene.goes_on() {
        let mut client =
            TcpStream::connect_timeout(&address, PATIENCE).unwrap_or_else(|error| panic!("web: {error}"));
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = [0; 2];
        if let Err(error) = client.read_exact(&mut answer)
            && scene.goes_on()
        {
            panic!("web does not answer: {error}");
        }
        count(&scene.tally.connects);
    }
}

/// Connects to listeners that are held and not held, and is never refused.
fn knock(scene: &Scene<'_>, seed: u64) {
    let mut random = Random(seed);
    while scene.goes_on() {
        let port = 7010 + u16::try_from(random.next(u64::from(LISTENERS))).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let connected = TcpStream::connect_timeout(&address, PATIENCE);
        drop(connected.unwrap_or_else(|error| panic!("port {port}: {error}")));
        count(&scene.tally.connects);
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Processes that take listeners and die.
fn holders(scene: &Scene<'_>) {
    let mut seed = u64::from(std::process::id());
    while scene.goes_on() {
        seed += 1;
        let mut command = in_role(HOLDER);
        command.env(SOCKET, scene.site.socket()).env(SEED, seed.to_string());
        spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())).wait().unwrap();
        count(&scene.tally.holders);
    }
}

/// What is connected to: it closes what it accepts, so that TIME_WAIT is on its side.
#[expect(clippy::disallowed_methods, reason = "any server of the world")]
fn destination(scene: &Scene<'_>) {
    let listener = loop {
        // That of the time before may have connections left.
        match TcpListener::bind(TO) {
            Ok(listener) => break listener,
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    listener.set_nonblocking(true).unwrap();
    while scene.goes_on() {
        let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut waiting, PollTimeout::from(50u8)).unwrap();
        while let Ok((stream, _)) = listener.accept() {
            drop(stream);
        }
    }
}

fn started(scene: &Scene<'_>, folder: &Path, seed: u64) -> Child {
    let mut command = in_role(LESSEE);
    command.env(SOCKET, scene.site.socket()).env(SEED, seed.to_string());
    command.env(REPORT, folder.join(seed.to_string()));
    spawn(command.stdin(Stdio::piped()).stdout(Stdio::null()))
}

/// A process that leases; now and then it is killed, and another takes its place.
fn lessee(scene: &Scene<'_>, folder: &Path, n: u64) {
    let mut random = Random(n);
    while scene.goes_on() {
        let mut child = started(scene, folder, random.next(u64::MAX));
        let lives = Duration::from_millis(2_000 + random.next(6_000));
        let begin = std::time::Instant::now();
        while scene.goes_on() && begin.elapsed() < lives {
            std::thread::sleep(Duration::from_millis(20));
        }
        if scene.goes_on() && random.next(2) == 0 {
            count(&scene.tally.lessees_killed);
            child.kill().unwrap();
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
