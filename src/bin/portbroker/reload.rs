//! `portbroker reload`: the broker reads its configuration again, all or nothing.

use crate::args::block_on;
use crate::failure::Failure;
use crate::output::Output;
use portbroker_client::Broker;
use serde::Serialize;
use std::process::ExitCode;

#[derive(Debug, Serialize)]
struct Document {
    reloaded: bool,
}

pub(crate) fn run(broker: &Broker, output: Output) -> Result<ExitCode, Failure> {
    block_on(broker.reload())?;
    output.print(&Document { reloaded: true }, Vec::new)?;
    Ok(ExitCode::SUCCESS)
}
