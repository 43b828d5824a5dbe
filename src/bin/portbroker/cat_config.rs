//! `portbroker cat-config`: the configuration as it would be taken now, each value with where it is written.

use crate::check;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Progress;
use portbroker::config::{build, show};
use portbroker::sources::{Locations, survey};
use std::path::PathBuf;
use std::process::ExitCode;

/// Prints it; what is faulty is left out, and said on standard error.
pub(crate) fn run(output: Output, root: PathBuf) -> Result<ExitCode, Failure> {
    let locations = Locations { root, config: None };
    let progress = Progress::begin("reading the configuration");
    let checked = build(&survey(&locations));
    drop(progress);
    check::complain(output, &locations, &checked);
    output.print_text(&show::config_json(&checked), || show::config_toml(&checked))?;
    Ok(check::status(&checked))
}
