//! `portbroker check`: says what is wrong with the configuration. Asks no broker and changes nothing.

use crate::failure::{CONFIGURATION, Failure};
use crate::output::{Cell, Output};
use crate::progress::Progress;
use portbroker::config::{Checked, Colour, build, render, show};
use portbroker::sources::{Locations, gather_unit, survey, text_of, unit_of_file};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Checks everything, or one file.
pub(crate) fn run(output: Output, root: PathBuf, path: Option<&Path>) -> Result<ExitCode, Failure> {
    let locations = Locations { root, config: path.map(Path::to_owned) };
    let progress = Progress::begin("reading the configuration");
    let checked = match path.map(|path| (path, unit_of_file(path))) {
        Some((path, Some(unit))) => build(&gather_unit(&locations.root, path, unit)),
        _ => build(&survey(&locations)),
    };
    drop(progress);
    complain(output, &locations, &checked);
    output.print(&show::faults_json(&checked), || vec![vec![Cell::plain(show::summary(&checked))]])?;
    Ok(status(&checked))
}

/// Each fault with the line that it is about, on standard error, unless JSON has them.
pub(crate) fn complain(output: Output, locations: &Locations, checked: &Checked) {
    let colour = if output.colours_errors() { Colour::On } else { Colour::Off };
    let mut errors = io::stderr().lock();
    for fault in &checked.faults {
        let shown = render(fault, &|path| text_of(locations, path), colour);
        // Where standard error is closed there is nobody to tell.
        let _ = writeln!(errors, "{shown}\n");
    }
}

pub(crate) fn status(checked: &Checked) -> ExitCode {
    if checked.is_valid() { ExitCode::SUCCESS } else { CONFIGURATION.into() }
}
