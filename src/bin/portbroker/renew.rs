//! `portbroker renew`: new sockets for a listener, beside the old ones until these are drained.

use crate::args::block_on;
use crate::failure::Failure;
use crate::output::Output;
use portbroker_client::Broker;
use serde::Serialize;
use std::process::ExitCode;

#[derive(Debug, Serialize)]
struct Document<'a> {
    renewed: &'a str,
}

pub(crate) fn run(broker: &Broker, output: Output, name: &str) -> Result<ExitCode, Failure> {
    block_on(broker.renew(name))?;
    output.print(&Document { renewed: name }, Vec::new)?;
    Ok(ExitCode::SUCCESS)
}
