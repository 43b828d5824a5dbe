//! `portbroker doctor`, the whole process, without a broker, on a host with nothing configured.

use crate::crowd::{SOCKETS, bare_pass};
use crate::measure::{Samples, Table, Target, milliseconds, row};
use std::process::{Command, Stdio};

const RUNS: usize = 11;
const TIMES: f64 = 3.0;

/// The crowd has taken 45 % of nobody's sources, but all of its sockets are looked at; the real files are, too.
fn doctor() -> Vec<u8> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
    command.env("PORTBROKER_SOCKET", "/nonexistent/bus").args(["--json", "doctor"]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.code().is_some_and(|code| code <= 1));
    output.stdout
}

pub(crate) fn measure() -> Table {
    let [mut ours, mut bare] = [const { Samples::new() }; 2];
    for _ in 0..RUNS {
        let (time, sockets) = milliseconds(bare_pass);
        assert!(sockets >= SOCKETS, "{sockets} sockets");
        bare.push(time);
        let (time, told) = milliseconds(doctor);
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains("\"findings\":["), "{told}");
        ours.push(time);
    }
    let limit = bare.median() * TIMES;
    Table {
        title: format!("what is wrong with a host, beside {SOCKETS} sockets"),
        unit: "ms",
        ours: row("portbroker doctor, the whole process", ours),
        target: Target { limit, says: format!("at most {TIMES} times the bare pass") },
        others: vec![row("a bare pass over the links of /proc/*/fd", bare)],
    }
}
