//! As `echo_std`, on tokio:
//!
//! ```sh
//! cargo run -p portbroker-client --example echo_tokio -- echo 127.0.0.1:7007
//! ```

use portbroker_client::listen;
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("usage: echo_tokio NAME [ADDRESS:PORT]")?;
    let question = match arguments.next() {
        Some(address) => listen(name).or_bind(address),
        None => listen(name),
    };
    let mut sockets = question.await?;
    let from = sockets.source();
    let listener = sockets.tokio_tcp_listener()?;
    complain(&format!("serving {} ({from:?})", listener.local_addr()?));
    loop {
        let (mut connection, peer) = listener.accept().await?;
        tokio::spawn(async move {
            let (mut read, mut write) = connection.split();
            if let Err(error) = tokio::io::copy(&mut read, &mut write).await {
                complain(&format!("{peer}: {error}"));
            }
        });
    }
}

#[expect(clippy::print_stderr, reason = "an example's messages are for whoever runs it")]
fn complain(text: &str) {
    eprintln!("{text}");
}
