//! A TCP echo server of the standard library, which serves what the broker holds under the name that it is given,
//! and binds an address for itself where no broker runs:
//!
//! ```sh
//! cargo run -p portbroker-client --example echo_std -- echo 127.0.0.1:7007
//! ```
//!
//! It works the same by `portbroker exec echo -- echo_std echo`, and in a unit with an `[X-PortBroker]` section.

use std::io;
use std::net::TcpStream;
use std::process::ExitCode;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("usage: echo_std NAME [ADDRESS:PORT]")?;
    let mut question = portbroker_client::listen(name);
    if let Some(address) = arguments.next() {
        question = question.or_bind(address);
    }
    let mut sockets = question.blocking()?;
    let from = sockets.source();
    let listener = sockets.tcp_listener()?;
    complain(&format!("serving {} ({from:?})", listener.local_addr()?));
    for connection in listener.incoming() {
        let connection = connection?;
        std::thread::spawn(move || echo(&connection));
    }
    Ok(())
}

fn echo(mut connection: &TcpStream) {
    if let Err(error) = io::copy(&mut { connection }, &mut connection) {
        complain(&format!("a connection ended: {error}"));
    }
}

#[expect(clippy::print_stderr, reason = "an example's messages are for whoever runs it")]
fn complain(text: &str) {
    eprintln!("{text}");
}
