//! Unit files that cannot be read any more.
//!
//! Such a file is mostly none of ours. Where listeners come from it, it is, and to give them up would not be what is
//! written there: then it is an error, and the configuration of before goes on.

use crate::config::{Checked, ListenerConfig, Severity};
use crate::model::{ListenerName, UnitName};
use crate::sources::units::CANNOT_BE_READ;
use std::path::Path;
use std::sync::Arc;

/// Listeners that there were before.
pub(super) type Before = Vec<(ListenerName, Arc<ListenerConfig>)>;

/// Makes errors of files that hide a listener of before. `last_good` is the file that knows of no units: of what was
/// read from there, it is the unit that is hidden.
pub(super) fn mind_what_is_hidden(
    checked: &mut Checked,
    last_good: &Path,
    before: impl FnOnce() -> Option<Before>,
) {
    let hides = |fault: &crate::config::Fault| !fault.is_error() && fault.message.starts_with(CANNOT_BE_READ);
    if !checked.faults.iter().any(hides) {
        return;
    }
    let Some(mut before) = before() else { return };
    before.retain(|(name, _)| !checked.config.listeners.contains_key(name));
    for fault in checked.faults.iter_mut().filter(|fault| hides(fault)) {
        let file: &Path = &fault.origin.file;
        let is_hidden = |config: &ListenerConfig| {
            let from: &Path = &config.origin.file;
            // It may be the directory that the file is in.
            from.starts_with(file)
                || from == last_good && unit_of(config).is_some_and(|unit| is_of_unit(file, unit))
        };
        if before.iter().any(|(_, config)| is_hidden(config)) {
            fault.severity = Severity::Error;
        }
    }
}

/// The unit whose section a listener was: nobody else may take it.
fn unit_of(config: &ListenerConfig) -> Option<&UnitName> {
    match &config.allow[..] {
        [only] if only.user.is_none() && only.group.is_none() => only.unit.as_ref(),
        _ => None,
    }
}

/// Whether a file, a drop-in, or the directory of one, is one that a unit is read from.
fn is_of_unit(file: &Path, unit: &UnitName) -> bool {
    let folder = file.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    let name = file.file_name().and_then(|name| name.to_str());
    let of = folder.and_then(|folder| folder.strip_suffix(".d"));
    let of = of.or_else(|| name.map(|name| name.strip_suffix(".d").unwrap_or(name)));
    // A directory of units: any could be in it.
    let Some((stem, kind)) = of.and_then(|of| of.rsplit_once('.')) else { return true };
    let is_instance = || {
        let (own, _) = unit.as_str().rsplit_once('.').unwrap_or_default();
        stem.ends_with('@') && own.starts_with(stem) && unit.as_str().ends_with(&format!(".{kind}"))
    };
    of == Some(unit.as_str()) || is_instance()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Fault, Origin, Sources, TomlFile, build};

    const LAST_GOOD: &str = "/run/portbroker/last-good.toml";

    fn read(path: &str, text: &str) -> Checked {
        let files = vec![TomlFile { path: path.into(), text: text.into() }];
        build(&Sources { files, inherited: Some(Vec::new()), ..Sources::default() })
    }

    /// Whether a file that cannot be read is an error, with these listeners before and after.
    fn is_error(hidden: &str, (path, before): (&str, &str), after: &str) -> bool {
        let before = read(path, before).config.listeners.into_iter().collect();
        let mut checked = read("/x.toml", after);
        let origin = Origin { file: hidden.into(), ..Origin::default() };
        checked.faults = vec![Fault::warning(origin, format!("{CANNOT_BE_READ}: Permission denied"))];
        mind_what_is_hidden(&mut checked, Path::new(LAST_GOOD), || Some(before));
        checked.faults[0].is_error()
    }

    const WEB: &str =
        "[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:1\"\nallow = [\"unit:web@1.service\"]\n";

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_where_a_listener_would_go_with_it() {
        let file = "/etc/systemd/system/web@.service";
        assert!(is_error(file, (file, WEB), ""));
        assert!(!is_error("/etc/systemd/system/other.service", (file, WEB), ""));
        assert!(!is_error(file, (file, WEB), WEB), "it is there all the same");
        assert!(!is_error(file, ("/etc/portbroker/portbroker.toml", WEB), ""), "it was taken out there");
    }

    #[test]
    fn of_the_last_good_configuration_the_unit_is_known() {
        for (hidden, is) in [
            ("/etc/systemd/system/web@1.service", true),
            ("/etc/systemd/system/web@.service", true),
            ("/etc/systemd/system/web@1.service.d/x.conf", true),
            ("/etc/systemd/system/web@.service.d/x.conf", true),
            ("/etc/systemd/system/web.service", false),
            ("/etc/systemd/system/we@.service", false),
            ("/etc/systemd/system/web@.socket", false),
            ("/etc/systemd/system/web@1.service.d", true),
            ("/etc/systemd/system", true),
        ] {
            assert_eq!(is_error(hidden, (LAST_GOOD, WEB), ""), is, "{hidden}");
        }
        let both = WEB.replace("\"]", "+user:0\"]");
        assert!(!is_error("/etc/systemd/system/web@1.service", (LAST_GOOD, &both), ""), "no section says so");
    }
}
