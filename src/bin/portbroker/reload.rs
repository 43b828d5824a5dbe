//! `portbroker reload`: the broker reads its configuration again, all or nothing.

use crate::args::block_on;
use crate::failure::{Failure, complain};
use crate::output::Output;
use portbroker_client::Broker;
use portbroker_client::inspect::Condition;
use serde::Serialize;
use std::process::ExitCode;

#[derive(Debug, Serialize)]
struct Document {
    reloaded: bool,
    faults: Vec<String>,
    notes: Vec<String>,
}

/// What of the configuration cannot be had at the moment goes to standard error too: it was taken all the same.
pub(crate) fn run(broker: &Broker, output: Output) -> Result<ExitCode, Failure> {
    let Condition { faults, notes, .. } = block_on(async {
        broker.reload().await?;
        broker.condition().await
    })?;
    for (kind, text) in
        faults.iter().map(|fault| ("degraded", fault)).chain(notes.iter().map(|n| ("note", n)))
    {
        complain(&format!("{kind}: {text}"));
    }
    output.print(&Document { reloaded: true, faults, notes }, Vec::new)?;
    Ok(ExitCode::SUCCESS)
}
