//! `portbroker who`, the whole process, without a broker.

use crate::crowd::{SERVER, SOCKETS, bare_pass};
use crate::measure::{Samples, Table, Target, milliseconds, row};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

const RUNS: usize = 11;
const TIMES: f64 = 1.5;
/// A port that one connection has as its source.
const SOURCE: u16 = 9002;

fn who(port: u16) -> Vec<u8> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portbroker"));
    command.env("PORTBROKER_SOCKET", "/nonexistent/bus").args(["who", &port.to_string()]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn table(title: String, port: u16, sees: &str) -> Table {
    let [mut ours, mut bare] = [const { Samples::new() }; 2];
    for _ in 0..RUNS {
        let (time, sockets) = milliseconds(bare_pass);
        assert!(sockets >= SOCKETS, "{sockets} sockets");
        bare.push(time);
        let (time, told) = milliseconds(|| who(port));
        assert!(String::from_utf8_lossy(&told).contains(sees), "{}", String::from_utf8_lossy(&told));
        ours.push(time);
    }
    let limit = bare.median() * TIMES;
    Table {
        title,
        unit: "ms",
        ours: row("portbroker who, the whole process", ours),
        target: Target { limit, says: format!("at most {TIMES} times the bare pass") },
        others: vec![row("a bare pass over the links of /proc/*/fd", bare)],
    }
}

pub(crate) fn measure() -> Table {
    let server = TcpListener::bind(("127.0.0.1", SOURCE + 1)).unwrap();
    let client = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    client.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], SOURCE)).into()).unwrap();
    client.connect(&server.local_addr().unwrap().into()).unwrap();
    let _client = TcpStream::from(client);
    let title = format!("who has a port, beside {SOCKETS} sockets");
    table(title, SOURCE, "is the source port of a connection that")
}

pub(crate) fn measure_busy() -> Table {
    let title = format!("who has a port that half of {SOCKETS} sockets have");
    table(title, SERVER, "listens on 127.0.1.1:")
}
