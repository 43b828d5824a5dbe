//! `portbroker lease`: holds source addresses and ports while a command runs.
//!
//! The lifeline stays with this process and not with the command, which may close what it does not know. So this
//! process outlives the command: it leaves the terminal's signals to the command, and passes on those that are sent
//! to itself.

use crate::args;
use crate::failure::{self, FAILED, Failure, complain};
use crate::progress::Progress;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portbroker_client::{Broker, Protocol, Session, Target};
use serde::Serialize;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use tokio::process::Command;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

/// The environment variable that COMMAND has the line in.
const VARIABLE: &str = "PORTBROKER_LEASE";
/// What a shell adds the number of a signal to.
const BY_SIGNAL: i32 = 128;

/// The line that is printed.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Document {
    Pairs { lease: u64, pairs: Vec<Pair> },
    Blocks { lease: u64, blocks: Vec<Block> },
}

#[derive(Debug, Serialize)]
struct Pair {
    address: IpAddr,
    port: u16,
}

#[derive(Debug, Serialize)]
struct Block {
    address: IpAddr,
    first: u16,
    last: u16,
}

pub(crate) fn run(broker: &Broker, arguments: &args::Lease) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.map_err(failure::no_runtime)?.block_on(hold(broker, arguments))
}

async fn hold(broker: &Broker, arguments: &args::Lease) -> Result<ExitCode, Failure> {
    // From now on, so that none is lost between the lease and the command.
    let mut signals = Received::new().map_err(failure::no_runtime)?;
    let progress = Progress::begin("waiting for ports");
    let session = broker.open_session().await?;
    let document = lease(&session, arguments).await?;
    drop(progress);
    let line = serde_json::to_string(&document).map_err(|error| Failure::Output(error.into()))?;
    let mut stdout = io::stdout().lock();
    let printed = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    drop(stdout);
    printed.map_err(Failure::Output)?;
    match arguments.command.split_first() {
        Some((program, rest)) => Ok(run_command(program, rest, &line, &mut signals).await),
        None => {
            signals.any().await;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn lease(session: &Session, arguments: &args::Lease) -> Result<Document, Failure> {
    let protocol = if arguments.protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
    let target = Target { pool: arguments.pool.clone(), protocol, destination: arguments.to };
    let session = session.waiting(arguments.wait.unwrap_or_default());
    if let Some(ports) = arguments.block {
        let lease = session.blocks(&target, ports, ports).await?;
        let block = |block: &portbroker_client::Block| Block {
            address: block.address,
            first: block.first,
            last: block.last,
        };
        return Ok(Document::Blocks { lease: lease.id, blocks: lease.items.iter().map(block).collect() });
    }
    let lease = session.pairs(&target, arguments.count).await?;
    let pairs = lease.items.iter().map(|source| Pair { address: source.ip(), port: source.port() });
    Ok(Document::Pairs { lease: lease.id, pairs: pairs.collect() })
}

/// The signals that end a program, as far as they can be waited for.
struct Received {
    interrupt: Signals,
    terminate: Signals,
    hangup: Signals,
    quit: Signals,
}

impl Received {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn any(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.hangup.recv() => Signal::SIGHUP,
            _ = self.quit.recv() => Signal::SIGQUIT,
        }
    }
}

async fn run_command(program: &OsString, rest: &[OsString], line: &str, signals: &mut Received) -> ExitCode {
    let mut child = match Command::new(program).args(rest).env(VARIABLE, line).spawn() {
        Ok(child) => child,
        Err(error) => {
            complain(&format!("cannot run {}: {error}", program.display()));
            return FAILED.into();
        }
    };
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    loop {
        tokio::select! {
            status = child.wait() => return match status {
                Ok(status) => code(status),
                Err(error) => {
                    complain(&format!("cannot wait for {}: {error}", program.display()));
                    FAILED.into()
                }
            },
            signal = signals.any() => {
                // Those that a terminal sends, it sends to the command as well.
                if let Some(pid) = pid.filter(|_| !matches!(signal, Signal::SIGINT | Signal::SIGQUIT)) {
                    let _ = kill(pid, signal);
                }
            }
        }
    }
}

/// As a shell tells it.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| BY_SIGNAL + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_as_documented() {
        let address = "192.0.2.10".parse().unwrap();
        let pairs = Document::Pairs { lease: 7, pairs: vec![Pair { address, port: 20001 }] };
        let line = serde_json::to_string(&pairs).unwrap();
        assert_eq!(line, r#"{"lease":7,"pairs":[{"address":"192.0.2.10","port":20001}]}"#);
        let blocks = Document::Blocks { lease: 8, blocks: vec![Block { address, first: 1, last: 2 }] };
        let line = serde_json::to_string(&blocks).unwrap();
        assert_eq!(line, r#"{"lease":8,"blocks":[{"address":"192.0.2.10","first":1,"last":2}]}"#);
    }

    #[test]
    fn the_status_is_the_commands_or_its_signals() {
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), 3.into());
        assert_eq!(code(ExitStatus::from_raw(15)), 143.into());
    }
}
