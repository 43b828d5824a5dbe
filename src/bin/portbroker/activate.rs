//! `portbroker activate`, run as root by `portbroker-activate.service`: starts the services that the broker has
//! named, because connections wait for them.
//!
//! The broker's user may start nothing, and so what it names is held against what root has configured. It fails
//! only where it could not take the names, and would be run again for them at once: what became of the services
//! themselves is seen by the broker, which names them again later.

use crate::failure::{Failure, complain};
use portbroker::kernel::triggers::{self, Taken};
use portbroker::model::UnitName;
use portbroker::sources::activated;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitCode};

pub(crate) fn run(directory: &Path) -> Result<ExitCode, Failure> {
    let taken = match triggers::take(directory) {
        Ok(taken) => taken,
        Err(error) => {
            complain(&format!("cannot take the names of services from {}: {error}", directory.display()));
            return Ok(ExitCode::FAILURE);
        }
    };
    for name in &taken.foreign {
        complain(&format!("{name} is no name of a service, and was thrown away"));
    }
    for (name, error) in &taken.left {
        complain(&format!("cannot remove {name}: {error}"));
    }
    start(&taken);
    Ok(if taken.left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn start(taken: &Taken) {
    let allowed = allowed(taken);
    let (start, refused): (Vec<_>, Vec<_>) =
        taken.services.iter().partition(|(unit, _)| allowed.contains(*unit));
    for (unit, _) in refused {
        complain(&format!(
            "{unit} is not started: no section and no file of /etc/portbroker says to activate it"
        ));
    }
    // Past its own limit of starts systemd refuses each one, perhaps for a day; our back-off is the limit here.
    let again: Vec<&UnitName> = start.iter().filter(|(_, again)| **again).map(|(unit, _)| *unit).collect();
    systemctl(&["reset-failed"], &again);
    let units: Vec<&UnitName> = start.iter().map(|(unit, _)| *unit).collect();
    systemctl(&["start", "--no-block"], &units);
}

/// Which of them may be started. The configuration itself is read only where the generator's list does not know one.
fn allowed(taken: &Taken) -> BTreeSet<UnitName> {
    let root = Path::new("/");
    let listed = activated::read_list(root).unwrap_or_else(|error| {
        complain(&format!("the list of services that may be started cannot be read: {error}"));
        BTreeSet::new()
    });
    if taken.services.keys().all(|unit| listed.contains(unit)) {
        return listed;
    }
    activated::read_configuration(root)
}

fn systemctl(verb: &[&str], units: &[&UnitName]) {
    if units.is_empty() {
        return;
    }
    let mut command = Command::new("systemctl");
    command.args(verb).arg("--").args(units.iter().map(|unit| unit.as_str()));
    // It says itself what is wrong with a unit.
    if let Err(error) = command.status() {
        complain(&format!("cannot run systemctl: {error}"));
    }
}
