//! `portbroker reload`: the broker reads its configuration again, all or nothing.

use crate::agent::{AskPassword, administer};
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
pub(crate) fn run(broker: &Broker, output: Output, password: AskPassword) -> Result<ExitCode, Failure> {
    let Condition { faults, notes, .. } = administer(broker, password, |broker| async move {
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
