//! Which services may be started because of a connection: those that the configuration names, and no others.
//!
//! The daemon has no right to start anything: it names services, and what it names is held against this
//! list, which is made of files that only root can write.

use super::gather_services;
use crate::config::{Config, build};
use crate::model::UnitName;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// Where the generator writes the list, a name a line, beside the units that it makes.
pub const LIST: &str = "portbroker.activate";

/// The directory of systemd's generators.
const GENERATED: &str = "run/systemd/generator";

/// The services that a configuration names.
#[must_use]
pub fn named_in(config: &Config) -> BTreeSet<UnitName> {
    config.listeners.values().filter_map(|listener| listener.activate.clone()).collect()
}

/// The text of the list.
#[must_use]
pub fn to_list(services: &BTreeSet<UnitName>) -> String {
    services.iter().map(|unit| format!("{unit}\n")).collect()
}

/// The list that the generator wrote; empty where it wrote none.
pub fn read_list(root: &Path) -> io::Result<BTreeSet<UnitName>> {
    match std::fs::read_to_string(root.join(GENERATED).join(LIST)) {
        Ok(text) => Ok(text.lines().filter_map(|line| UnitName::try_from(line).ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// The same from the configuration itself: slower, and newer where `systemctl daemon-reload` was not run since.
#[must_use]
pub fn read_configuration(root: &Path) -> BTreeSet<UnitName> {
    named_in(&build(&gather_services(root)).config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_list_reads_as_it_was_written() {
        let root = tempfile::tempdir().unwrap();
        assert!(read_list(root.path()).unwrap().is_empty());
        let units = ["a.service", "b@\\x2d.service"].map(|name| UnitName::try_from(name).unwrap());
        let list = root.path().join(GENERATED);
        fs::create_dir_all(&list).unwrap();
        fs::write(list.join(LIST), to_list(&BTreeSet::from(units.clone()))).unwrap();
        assert_eq!(read_list(root.path()).unwrap(), BTreeSet::from(units));
    }

    #[test]
    fn services_of_sections_and_of_toml_are_named() {
        let root = tempfile::tempdir().unwrap();
        let units = root.path().join("etc/systemd/system");
        let broker = root.path().join("etc/portbroker");
        fs::create_dir_all(&units).unwrap();
        fs::create_dir_all(&broker).unwrap();
        let section = |more| format!("[X-PortBroker]\nListenStream={more}\n");
        fs::write(units.join("a.service"), section("81\nActivate=yes")).unwrap();
        fs::write(units.join("b.service"), section("82\nActivate=no")).unwrap();
        fs::write(units.join("c.service"), section("83")).unwrap();
        let toml = "[[listener]]\nname = \"d\"\nstream = \"84\"\nactivate = \"d.service\"\n";
        fs::write(broker.join("portbroker.toml"), toml).unwrap();
        let named: Vec<_> = read_configuration(root.path()).iter().map(ToString::to_string).collect();
        assert_eq!(named, ["a.service", "d.service"]);
    }
}
