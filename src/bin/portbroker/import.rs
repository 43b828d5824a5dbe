//! `portbroker import`: the section that replaces a socket unit. Changes nothing.

use crate::failure::{FAILED, Failure, complain};
use crate::output::Output;
use portbroker::config::{Accounts, Colour, Fault, import, render, units::Unit};
use portbroker::model::UnitName;
use portbroker::sources::{Locations, gather_named, gather_unit, text_of, unit_of_file};
use serde_json::json;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Prints it, or all that is in the way.
pub(crate) fn run(output: Output, root: PathBuf, unit: &str) -> Result<ExitCode, Failure> {
    let file = unit.contains('/').then(|| PathBuf::from(unit));
    let locations = Locations { root, config: file.clone() };
    let text = read(&locations.root, unit, file.as_deref()).and_then(|(socket, accounts)| {
        let service = import::service_of(&socket).map_err(|fault| vec![*fault])?;
        let service = gather_named(&locations.root, &service).units.pop();
        import::import(&socket, service.as_ref(), &accounts)
    });
    match text {
        Ok(text) => {
            output.print_text(&json!({"drop_in": text}), || text.clone())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(faults) => {
            faults.iter().for_each(|fault| say(output, &locations, fault));
            Ok(FAILED.into())
        }
    }
}

/// With the line that it is about, where there is one.
fn say(output: Output, locations: &Locations, fault: &Fault) {
    if fault.origin.file.as_os_str().is_empty() {
        return complain(&format!("{}; {}", fault.message, fault.help.as_deref().unwrap_or_default()));
    }
    let colour = if output.colours_errors() { Colour::On } else { Colour::Off };
    let shown = render(fault, &|path| text_of(locations, path), colour);
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{shown}\n");
}

/// The socket unit of that name, or in that file.
fn read(root: &Path, unit: &str, file: Option<&Path>) -> Result<(Unit, Accounts), Vec<Fault>> {
    let fault = |message: String, help: &str| vec![Fault::error(Default::default(), message).help(help)];
    let name = match file {
        Some(file) => unit_of_file(file),
        None if unit.contains('.') => UnitName::try_from(unit).ok(),
        None => UnitName::try_from(format!("{unit}.socket").as_str()).ok(),
    };
    let name = name.filter(|name| name.as_str().ends_with(".socket")).ok_or_else(|| {
        fault(format!("{unit:?} is no name of a socket unit"), "write it as in cups.socket")
    })?;
    if name.stem().ends_with('@') {
        let help = "name an instance, as in web@1.socket";
        return Err(fault(format!("{name} is a template, and listens on nothing itself"), help));
    }
    let mut sources = match file {
        Some(file) => gather_unit(root, file, name.clone()),
        None => gather_named(root, &name),
    };
    sources.faults.retain(Fault::is_error);
    match sources.units.pop() {
        Some(socket) if sources.faults.is_empty() => Ok((socket, sources.accounts)),
        None if sources.faults.is_empty() => {
            Err(fault(format!("there is no {name}, or it is masked"), "mind its name"))
        }
        _ => Err(sources.faults),
    }
}
