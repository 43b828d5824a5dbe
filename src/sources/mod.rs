//! Finds and reads the files that the configuration is made of. What they mean is `config`'s matter.
//!
//! Everything is below a root, and shown without it; only paths that were given as options are taken as
//! they are. A file that cannot be read, or that others could have written, is an error: nothing is made
//! of what is left.

pub mod activated;
mod drop_ins;
mod service_files;
mod settled;
mod trusted;
pub mod units;

use crate::config::units::{Unit, parse};
use crate::config::{Accounts, Fault, Origin, Sources, TomlFile};
use crate::model::{Endpoint, ListenerName, UnitName};
pub use service_files::ServiceFiles;
pub use settled::settled;
use std::path::{Path, PathBuf};
use trusted::{Location, Text};

/// The main file.
const MAIN: &str = "/etc/portbroker/portbroker.toml";
/// Far more than the accounts of any host.
const MAX_ACCOUNTS: u64 = 64 * 1024 * 1024;

/// Where the configuration is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locations {
    /// Goes before every path that is not given as an option.
    pub root: PathBuf,
    /// `--config`: this one file instead of all others, and of the units.
    pub config: Option<PathBuf>,
}

impl Default for Locations {
    fn default() -> Self {
        Self { root: PathBuf::from("/"), config: None }
    }
}

/// Reads everything that the configuration is made of; `inherited` are the sockets that came from outside.
#[must_use]
pub fn gather(locations: &Locations, inherited: Vec<(ListenerName, Vec<Endpoint>)>) -> Sources {
    Sources { inherited: Some(inherited), ..survey(locations) }
}

/// Reads everything that the configuration is made of, where nobody knows what the daemon inherits.
#[must_use]
pub fn survey(locations: &Locations) -> Sources {
    let mut sources = Sources::default();
    sources.accounts = accounts(&locations.root, &mut sources.faults);
    match &locations.config {
        Some(path) => {
            let location = Location::given(path);
            match location.read() {
                Ok(Some(text)) => sources.add_file(path.clone(), text),
                Ok(None) => {
                    sources.faults.push(location.fault("there is no such file").help("mind the path"))
                }
                Err(fault) => sources.faults.push(fault),
            }
        }
        None => {
            toml_files(&locations.root, &mut sources);
            let units::Read { units, services, faults, changed } = units::read(&locations.root);
            sources.services = Some(services);
            sources.changed = sources.changed.max(changed);
            sources.add_units(&locations.root, units, faults);
        }
    }
    sources
}

/// Reads what the generator needs: no socket units, and services that may come from other generators.
#[must_use]
pub fn gather_services(root: &Path) -> Sources {
    let mut sources = Sources::default();
    sources.accounts = accounts(root, &mut sources.faults);
    toml_files(root, &mut sources);
    let (units, faults) = units::read_services(root);
    sources.add_units(root, units, faults);
    sources
}

/// Reads one unit file, or one drop-in, wherever it is: its name says which unit it is of.
#[must_use]
pub fn gather_unit(root: &Path, path: &Path, name: UnitName) -> Sources {
    let name = some_instance(name);
    let mut sources = Sources::default();
    sources.accounts = accounts(root, &mut sources.faults);
    let location = Location::given(path);
    match location.read() {
        Ok(Some(text)) => {
            let (settings, faults) = parse(path, Some(&name), text.text.as_bytes());
            sources.faults.extend(faults);
            sources.units.push(Unit { name, enabled: false, settings });
        }
        Ok(None) => sources.faults.push(location.fault("there is no such file").help("mind the path")),
        Err(fault) => sources.faults.push(fault),
    }
    sources
}

/// Reads one unit by its name, with its drop-ins; no unit where there is none, or it is masked.
#[must_use]
pub fn gather_named(root: &Path, name: &UnitName) -> Sources {
    let mut sources = Sources::default();
    sources.accounts = accounts(root, &mut sources.faults);
    let (unit, faults) = units::read_unit(root, name);
    sources.add_units(root, unit.into_iter().collect(), faults);
    sources
}

/// Of a template, an instance: the settings of the template itself have no meaning without one.
///
/// `1` can stand for most of what %i stands for: a name, a number, a port.
fn some_instance(name: UnitName) -> UnitName {
    let instance = match name.as_str().split_once("@.") {
        Some((prefix, suffix)) => UnitName::try_from(format!("{prefix}@1.{suffix}").as_str()).ok(),
        None => None,
    };
    instance.unwrap_or(name)
}

/// The unit that a file is of: `x.service`, or `x.service.d/*.conf`. `None` where it is no file of a unit.
#[must_use]
pub fn unit_of_file(path: &Path) -> Option<UnitName> {
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let own = name(path)?;
    if own.ends_with(".conf") {
        let folder = name(path.parent()?)?;
        return UnitName::try_from(folder.strip_suffix(".d")?).ok();
    }
    UnitName::try_from(own.as_str()).ok()
}

/// The text of a file of the configuration, for pointing at its lines.
#[must_use]
pub fn text_of(locations: &Locations, path: &Path) -> Option<String> {
    if locations.config.as_deref() == Some(path) {
        return Location::given(path).text_to_show();
    }
    Location::below(&locations.root, path).text_to_show()
}

fn toml_files(root: &Path, sources: &mut Sources) {
    let main = Location::below(root, Path::new(MAIN));
    // The directory that the file is in: who can write there can put another in its place.
    if let Some(folder) = Path::new(MAIN).parent()
        && let Err(fault) = Location::below(root, folder).is_trusted_directory()
    {
        sources.faults.push(fault);
    }
    let drop_ins = drop_ins::find(root, &mut sources.faults);
    for location in std::iter::once(main).chain(drop_ins) {
        if location.is_masked() {
            continue;
        }
        match location.read() {
            Ok(Some(text)) => sources.add_file(location.shown, text),
            Ok(None) => {}
            Err(fault) => sources.faults.push(fault),
        }
    }
}

impl Sources {
    fn add_file(&mut self, path: PathBuf, Text { text, changed }: Text) {
        self.changed = self.changed.max(Some(changed));
        self.files.push(TomlFile { path, text });
    }

    /// Adds units; their places are shown without the root, like all others.
    fn add_units(&mut self, root: &Path, mut units: Vec<Unit>, mut faults: Vec<Fault>) {
        let settings =
            units.iter_mut().flat_map(|unit| &mut unit.settings).map(|setting| &mut setting.origin);
        for origin in settings.chain(faults.iter_mut().map(|fault| &mut fault.origin)) {
            if root != Path::new("/")
                && let Ok(below) = origin.file.strip_prefix(root)
            {
                origin.file = Path::new("/").join(below).into();
            }
        }
        self.units = units;
        self.faults.extend(faults);
    }
}

fn accounts(root: &Path, faults: &mut Vec<Fault>) -> Accounts {
    let mut read = |path: &str| {
        let text = Location::below(root, Path::new(path)).read_public(MAX_ACCOUNTS);
        text.unwrap_or_else(|error| {
            let origin = Origin { file: path.into(), ..Origin::default() };
            faults.push(Fault::warning(origin, format!("the file cannot be read: {error}")));
            String::new()
        })
    };
    let passwd = read("/etc/passwd");
    let group = read("/etc/group");
    Accounts::parse(&passwd, &group)
}

#[cfg(test)]
mod tests;
