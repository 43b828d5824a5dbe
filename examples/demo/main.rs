//! The two things that portbroker mends, seen with one's own eyes (as root, in network namespaces of its own), each
//! first without the broker and then with it:
//!
//! - a service on port 3306 is restarted 50 times beside a storm of outgoing connections;
//! - as many connections as there can be are made to one destination.
//!
//! `cargo run --release --example demo`
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a demonstration prints")]

mod child;
mod connections;
mod restarts;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => demonstrate(),
        ["restarts", daemon] => restarts::run(given(daemon)),
        ["storm"] => restarts::storm(),
        ["sink"] => restarts::sink(),
        ["service"] => return restarts::service(),
        ["connections", daemon] => connections::run(given(daemon)),
        ["connect", socket] => connections::connect(given(socket)),
        _ => Err("usage: cargo run --release --example demo".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn given(argument: &str) -> Option<&str> {
    Some(argument).filter(|argument| !argument.is_empty())
}

/// Both halves, one after the other, each in network namespaces of its own.
fn demonstrate() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err("network namespaces need root: run it with sudo".into());
    }
    println!("building portbrokerd …");
    let daemon = build_daemon()?;
    let daemon = daemon.display().to_string();
    let begin = Instant::now();
    connections::demonstrate(&daemon)?;
    println!();
    restarts::demonstrate(&daemon, begin)
}

/// `cargo run --example` does not build the package's programs.
fn build_daemon() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let profile = own.parent().and_then(Path::parent).ok_or("the demo is not where cargo builds it")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // With the example, so that the same features are chosen, and what is built already is used.
    cargo.args(["build", "--quiet", "--bin", "portbrokerd", "--example", "demo", "--manifest-path"]);
    cargo.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    if !cargo.status()?.success() {
        return Err("portbrokerd could not be built".into());
    }
    Ok(profile.join("portbrokerd"))
}
