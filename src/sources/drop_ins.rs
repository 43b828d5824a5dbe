//! Which drop-ins of the TOML configuration apply: `portbroker.conf.d/*.toml` of four folders, sorted by file
//! name over all of them, the later folder winning for the same name.

use super::trusted::Location;
use crate::config::Fault;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

/// From the least to the most important.
const FOLDERS: [&str; 4] =
    ["/usr/lib/portbroker", "/usr/local/lib/portbroker", "/run/portbroker", "/etc/portbroker"];
/// More files than anybody can keep in mind.
const MAX_FILES: usize = 1024;

/// The drop-ins in the order in which they apply, masked ones too.
pub(super) fn find(root: &Path, faults: &mut Vec<Fault>) -> Vec<Location> {
    let mut found: BTreeMap<OsString, Location> = BTreeMap::new();
    for folder in FOLDERS {
        let folder = Path::new(folder).join("portbroker.conf.d");
        let location = Location::below(root, &folder);
        match location.list() {
            Ok(names) => {
                for name in names.into_iter().filter(|name| is_drop_in(name)) {
                    let file = Location::below(root, &folder.join(&name));
                    found.insert(name.into_os_string(), file);
                }
            }
            Err(fault) => faults.push(fault),
        }
        if found.len() > MAX_FILES {
            let fault = location.fault(format!("there are more than {MAX_FILES} drop-ins"));
            faults.push(fault.help("put several into one file"));
            return Vec::new();
        }
    }
    found.into_values().collect()
}

fn is_drop_in(name: &Path) -> bool {
    name.extension().is_some_and(|extension| extension == "toml")
        && !name.as_os_str().as_encoded_bytes().starts_with(b".")
}
