//! Services that hold listeners, and clients that never stop coming, for tests of the daemon as a process.

use crate::daemon::{Daemon, run};
use crate::netns::spawn;
use serde_json::Value;
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What `show listener` prints.
pub(crate) fn listener(daemon: &Daemon, name: &str) -> Value {
    let (_, text, errors) = run(&mut daemon.portbroker(&["--json", "show", "listener", name]));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"))
}

/// The states of its sockets.
pub(crate) fn states(daemon: &Daemon, name: &str) -> Vec<String> {
    let listener = listener(daemon, name);
    let sockets = listener["sockets"].as_array().unwrap();
    sockets.iter().map(|socket| socket["state"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Writes the configuration, and has the daemon take it.
pub(crate) fn reload(daemon: &Daemon, configuration: &str) {
    std::fs::write(daemon.config(), configuration).unwrap();
    let (status, _, errors) = run(&mut daemon.portbroker(&["reload"]));
    assert_eq!((status, errors.as_str()), (0, ""));
}

/// A service that answers each client with `ok`, on whatever sockets it was given, and that ends when its standard
/// input does, between two clients.
pub(crate) const SERVICE: &str = "
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

/// A process that holds a listener until it is told to end.
pub(crate) struct Served(Child);

impl Served {
    /// One that answers its clients.
    pub(crate) fn start(daemon: &Daemon, name: &str) -> Self {
        Self::with(daemon, name, SERVICE)
    }

    /// A Python program, which says `ready` and reads its standard input until it ends.
    pub(crate) fn with(daemon: &Daemon, name: &str, program: &str) -> Self {
        let mut command = daemon.portbroker(&["exec", name, "--", "python3", "-c", program]);
        let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut ready = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert_eq!(&ready, b"ready\n");
        Self(child)
    }

    pub(crate) fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Clients that come one after the other, each of which wants an answer.
pub(crate) struct Storm {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<u32, String>>>,
}

impl Storm {
    /// In the namespace of the thread that calls this.
    pub(crate) fn start(address: &str, clients: usize) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let client = || {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut served = 0;
                while !stop.load(Ordering::Relaxed) {
                    one_client(address).map_err(|error| format!("after {served}: {error}"))?;
                    served += 1;
                }
                Ok(served)
            })
        };
        let clients = (0..clients).map(|_| client()).collect();
        Self { stop, clients }
    }

    /// How many were served. None of them was refused, reset or forgotten.
    pub(crate) fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let served = self.clients.into_iter().map(|client| client.join().unwrap());
        served.map(|served| served.unwrap_or_else(|error| panic!("a client was lost {error}"))).sum()
    }
}

fn one_client(address: SocketAddr) -> Result<(), String> {
    let patience = Duration::from_secs(20);
    let mut client = TcpStream::connect_timeout(&address, patience).map_err(|error| error.to_string())?;
    client.set_read_timeout(Some(patience)).map_err(|error| error.to_string())?;
    let mut answer = [0; 2];
    match client.read_exact(&mut answer) {
        Ok(()) if &answer == b"ok" => Ok(()),
        Ok(()) => Err(format!("answered {answer:?}")),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err("nobody answered".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
