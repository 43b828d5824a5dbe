//! From the first connection to a service that is down to its greeting, beside `systemctl start` and the same
//! connection; on a booted systemd.

use crate::measure::{Samples, Table, Target, row};
use portbroker_lab::prepare;
use std::path::Path;

const RUNS: usize = 30;

/// How much longer a connection may take than the start that it causes.
const MILLISECONDS: f64 = 30.0;

const UNIT: &str = "\
[Service]
ExecStart=/usr/bin/python3 /opt/serve.py 4100
[X-PortBroker]
ListenStream=127.0.0.1:4100
Activate=yes
";

/// Both sides in turns, each from a stopped service: a line of two times in milliseconds for each run.
const PROGRAM: &str = "
import socket, subprocess, sys, time

def systemctl(verb):
    subprocess.run(['systemctl', verb, 'served'], check=True)

def greeted(begin):
    with socket.create_connection(('127.0.0.1', 4100), timeout=20) as s:
        assert s.recv(100).startswith(b'given')
    return (time.monotonic() - begin) * 1000

for n in range(int(sys.argv[1]) + 1):
    times = []
    for start in (lambda: None, lambda: systemctl('start')):
        systemctl('stop')
        # Longer than two starts are kept apart.
        time.sleep(0.3)
        begin = time.monotonic()
        start()
        times.append(greeted(begin))
    if n > 0:
        print(*times)
";

pub(crate) fn measure() -> Table {
    let lab = prepare("bench")
        .install(Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_BIN_EXE_portbroker")))
        .unit("served.service", UNIT)
        .file("/opt/measure.py", PROGRAM)
        .boot();
    let [mut over, mut ours, mut bare] = [const { Samples::new() }; 3];
    for line in lab.ok(&format!("/usr/bin/python3 /opt/measure.py {RUNS}")).lines() {
        let times: Vec<f64> = line.split(' ').map(|time| time.parse().expect("a time")).collect();
        let [activated, started] = times[..] else { panic!("two times: {line}") };
        over.push(activated - started);
        ours.push(activated);
        bare.push(started);
    }
    Table {
        title: format!("first connection to a service that is down, until it greets, {RUNS} times"),
        unit: "ms",
        ours: row("more than systemctl start and the same connection", over),
        target: Target { limit: MILLISECONDS, says: format!("at most {MILLISECONDS} ms") },
        others: vec![row("by the connection alone", ours), row("systemctl start, then the connection", bare)],
    }
}
