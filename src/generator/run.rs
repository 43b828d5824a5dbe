//! Reads the machine's units and configuration and writes what the pure part makes of them.

use super::daemon;
use super::delivery::Delivery;
use super::systemd::{self, SystemdVersion};
use super::tool::Tool;
use crate::config::section::UnitSection;
use crate::config::units::Unit;
use crate::config::{self, Checked, Fault};
use crate::model::UnitName;
use crate::sources::units::DELIVERY_FILE;
use crate::sources::{self, activated};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file that is written last, by rename: a running daemon that watches for it reads the units anew.
pub const STAMP: &str = "portbroker.stamp";

/// The daemon's own unit.
pub const DAEMON: &str = "portbroker.service";
/// The drop-in with what sockets that have a path take. An administrator's own drop-ins come later, by their names:
/// what they reset stays reset (after `SystemCallFilter=`, one more that is allowed would be the only one).
pub const PRIVILEGES: &str = "50-sockets.conf";
/// The drop-in with what a newer systemd has.
const NEWER: &str = "50-systemd.conf";
/// The most faults that are logged; `portbroker check` shows all.
const MAX_LOGGED: usize = 20;

/// What the generator has to know of the host beside its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The command-line tool.
    pub tool: Tool,
    /// The manager that runs; `None` where that does not show.
    pub systemd: Option<SystemdVersion>,
}

/// What went wrong with one file; the others are written all the same.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// No section for this unit then.
    #[error("cannot write {path}: {source}; {unit} does not get its sockets")]
    Delivery {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        unit: UnitName,
        /// Why.
        source: io::Error,
    },
    /// The broker lacks capabilities then.
    #[error("cannot write {path}: {source}; the broker cannot make unix sockets in others' directories")]
    Daemon {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A stop gives all sockets up then.
    #[error("cannot write {path}: {source}; the broker's sockets do not outlive \"systemctl stop\"")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Each start takes longer then.
    #[error("cannot write {path}: {source}; services are started by connections all the same, more slowly")]
    Activated {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon is not told then.
    #[error("cannot write {path}: {source}; run \"portbroker reload\" by hand")]
    Stamp {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Writes the drop-ins for all units with a section below `root`, and then [`STAMP`], into `output`
/// (systemd.generator(7), its first argument). What went wrong comes back, to be logged.
#[must_use]
pub fn generate(root: &Path, output: &Path, host: &Host) -> Vec<String> {
    let sources = sources::gather_services(root);
    let checked = config::build(&sources);
    let mut messages = logged(&checked.faults);
    for delivery in deliveries(&sources.units, &checked) {
        let path = dropin_path(output, delivery.unit.name.as_str(), DELIVERY_FILE);
        if let Err(source) = write(&path, &delivery.drop_in(&host.tool)) {
            let unit = delivery.unit.name.clone();
            messages.push(GenerateError::Delivery { path, unit, source }.to_string());
        }
    }
    if let Some(text) = daemon::drop_in(&checked.config) {
        let path = dropin_path(output, DAEMON, PRIVILEGES);
        if let Err(source) = write(&path, &text) {
            messages.push(GenerateError::Daemon { path, source }.to_string());
        }
    }
    if let Some(text) = systemd::drop_in(host.systemd) {
        let path = dropin_path(output, DAEMON, NEWER);
        if let Err(source) = write(&path, &text) {
            messages.push(GenerateError::Newer { path, source }.to_string());
        }
    }
    let activated = activated::named_in(&checked.config);
    if !activated.is_empty() {
        let path = output.join(activated::LIST);
        if let Err(source) = write(&path, &activated::to_list(&activated)) {
            messages.push(GenerateError::Activated { path, source }.to_string());
        }
    }
    if let Err(source) = stamp(output) {
        messages.push(GenerateError::Stamp { path: output.join(STAMP), source }.to_string());
    }
    messages
}

/// The units that get a drop-in. Listeners that are nowhere bound are faults, and nothing to deliver.
fn deliveries<'a>(units: &'a [Unit], checked: &'a Checked) -> Vec<Delivery<'a>> {
    let of_section = |section: &'a UnitSection| {
        let unit = units.iter().find(|unit| unit.name == section.unit)?;
        let listeners: Vec<_> = section
            .listeners
            .iter()
            .filter(|listener| !listener.config.endpoints.is_empty())
            .map(|listener| (&listener.name, listener.config.endpoints.as_slice()))
            .collect();
        let sockets = section.listeners.iter().map(|listener| listener.config.sockets()).sum();
        let broker_itself = unit.name.as_str() == DAEMON;
        (!listeners.is_empty() && !broker_itself).then_some(Delivery {
            unit,
            listeners,
            sockets,
            required: section.required,
        })
    };
    checked.sections().iter().filter_map(of_section).collect()
}

fn logged(faults: &[Fault]) -> Vec<String> {
    let mut messages: Vec<_> = faults.iter().take(MAX_LOGGED).map(ToString::to_string).collect();
    if let Some(more) = faults.len().checked_sub(MAX_LOGGED).filter(|more| *more > 0) {
        messages.push(format!("and {more} more: run \"portbroker check\""));
    }
    messages
}

fn dropin_path(output: &Path, unit: &str, file: &str) -> PathBuf {
    output.join(format!("{unit}.d")).join(file)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, text)
}

fn stamp(output: &Path) -> io::Result<()> {
    let new = output.join(format!(".{STAMP}.new"));
    write(&new, "")?;
    fs::rename(new, output.join(STAMP))
}
