//! `portbroker activate`, run as root by `portbroker-activate.service`: starts the services that the broker has
//! named, because connections wait for them.
//!
//! The broker's user may start nothing, and so what it names is held against what root has configured. It fails
//! only where the names could not be read, and would be run again for them at once: what became of the services
//! themselves is seen by the broker, which names them again later.

use crate::failure::{Failure, complain};
use portbroker::kernel::store::take_listen_fds;
use portbroker::kernel::triggers::{self, Received};
use portbroker::model::UnitName;
use portbroker::sources::activated;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitCode};

pub(crate) fn run() -> Result<ExitCode, Failure> {
    let Some((_, socket)) = take_listen_fds().into_iter().next() else {
        complain(
            "portbroker-activate.socket did not pass its socket: this is run by systemd, and not by hand",
        );
        return Ok(ExitCode::FAILURE);
    };
    match triggers::receive(socket) {
        Ok(received) => {
            if received.senseless > 0 {
                complain(&format!("{} messages name no service, and were thrown away", received.senseless));
            }
            start(&received);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            complain(&format!("cannot read which services are to be started: {error}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn start(received: &Received) {
    let allowed = allowed(received);
    let (start, refused): (Vec<_>, Vec<_>) =
        received.services.iter().partition(|(unit, _)| allowed.contains(*unit));
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
fn allowed(received: &Received) -> BTreeSet<UnitName> {
    let root = Path::new("/");
    let listed = activated::read_list(root).unwrap_or_else(|error| {
        complain(&format!("the list of services that may be started cannot be read: {error}"));
        BTreeSet::new()
    });
    if received.services.keys().all(|unit| listed.contains(unit)) {
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
