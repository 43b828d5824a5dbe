//! `portbroker completions` and `portbroker manual`, hidden: what packages make of the command line at build time,
//! so that neither can say anything else than the program itself does.

use crate::failure::Failure;
use clap::Command;
use clap_complete::Shell;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// The completions for a shell, on standard output.
pub(crate) fn completions(mut command: Command, shell: Shell) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "portbroker", &mut script);
    io::stdout().write_all(&script).map_err(Failure::Output)?;
    Ok(ExitCode::SUCCESS)
}

/// A manual page for the program and one for each verb, into a directory that exists.
pub(crate) fn manual(command: Command, directory: &Path) -> Result<ExitCode, Failure> {
    let written = clap_mangen::generate_to(command, directory);
    written.map_err(|source| Failure::Manual { directory: directory.to_owned(), source })?;
    Ok(ExitCode::SUCCESS)
}
