//! That our reader of unit files and a booted systemd see the same units with the same files in the same order.

#![cfg(test)]

use portbroker::config::units::Unit;
use portbroker::sources::units;
use portbroker_lab::{self as lab, Preparation};
use std::path::{Path, PathBuf};

const ETC: &str = "/etc/systemd/system";
const USR: &str = "/usr/lib/systemd/system";

/// A file of a unit that says where it is.
fn marked(lab: Preparation, path: &str) -> Preparation {
    let service = if path.ends_with(".service") { "[Service]\nExecStart=/bin/true\n" } else { "" };
    lab.file(path, &format!("{service}[X-PortBroker]\nListenStream=1\n"))
}

fn tangle() -> Preparation {
    let files = [
        "/usr/lib/systemd/system/a-b-c.service",
        "/etc/systemd/system/a-b-c.service.d/50.conf",
        "/usr/lib/systemd/system/a-b-c.service.d/40.conf",
        "/usr/lib/systemd/system/a-b-c.service.d/50.conf",
        "/etc/systemd/system.control/a-b-c.service.d/40.conf",
        "/etc/systemd/system/a-b-.service.d/40.conf",
        "/etc/systemd/system/a-b-.service.d/60.conf",
        "/usr/lib/systemd/system/a-.service.d/60.conf",
        "/usr/lib/systemd/system/a-.service.d/70.conf",
        "/etc/systemd/system/service.d/40.conf",
        "/etc/systemd/system/service.d/70.conf",
        "/usr/lib/systemd/system/service.d/80.conf",
        "/usr/local/lib/systemd/system/local.service",
        "/usr/lib/systemd/system/local.service",
        "/usr/lib/systemd/system/web@.service",
        "/etc/systemd/system/web@.service.d/50.conf",
        "/usr/lib/systemd/system/web@1.service.d/50.conf",
        "/usr/lib/systemd/system/web@1.service.d/10.conf",
        "/usr/lib/systemd/system/x-y@.service",
        "/etc/systemd/system/x-@.service.d/10.conf",
        "/etc/systemd/system/x-@2.service.d/10.conf",
        "/usr/lib/systemd/system/x-y@2.service.d/10.conf",
        "/usr/lib/systemd/system/real.service",
        "/etc/systemd/system/other.service.d/20.conf",
        "/usr/lib/systemd/system/real.service.d/20.conf",
        "/usr/lib/systemd/system/real.service.d/30.conf",
        "/opt/linked.service",
        "/usr/lib/systemd/system/gone.service",
        "/usr/lib/systemd/system/empty.service",
    ];
    files
        .into_iter()
        .fold(lab::prepare("units"), marked)
        .link(&format!("{ETC}/other.service"), &format!("{USR}/real.service"))
        .link(&format!("{ETC}/real.service.d/30.conf"), "/dev/null")
        .link(&format!("{ETC}/linked.service"), "/opt/linked.service")
        .link(&format!("{ETC}/gone.service"), "/dev/null")
        .file(&format!("{ETC}/empty.service"), "")
        .link(&format!("{ETC}/lab.target.wants/web@1.service"), &format!("{USR}/web@.service"))
        .link(&format!("{ETC}/lab.target.requires/x-y@2.service"), &format!("{USR}/x-y@.service"))
        .link(&format!("{USR}/alias@.service"), "web@.service")
        .link(&format!("{ETC}/lab.target.wants/alias@3.service"), &format!("{USR}/web@.service"))
        .file(&format!("{ETC}/alias@3.service.d/5.conf"), "[X-PortBroker]\nListenStream=1\n")
}

/// The files of a unit in the order in which they were read.
fn files_of(unit: &Unit) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = Vec::new();
    for setting in &unit.settings {
        if files.last().map(|path| path.as_path()) != Some(&*setting.origin.file) {
            files.push(setting.origin.file.to_path_buf());
        }
    }
    files
}

fn masks(path: &Path) -> bool {
    std::fs::read_link(path).is_ok_and(|target| target == Path::new("/dev/null"))
}

#[test]
fn systemd_sees_the_same_files_of_the_same_units() {
    let lab = tangle().boot();
    let units::Read { units: found, .. } = units::read(&lab.root());
    let services: Vec<_> = found.iter().filter(|unit| unit.name.as_str().ends_with(".service")).collect();

    let names: Vec<_> = services.iter().map(|unit| format!("'{}'", unit.name)).collect();
    let show = "systemctl show -p Id,LoadState,FragmentPath,DropInPaths";
    let shown = lab.ok(&format!("{show} {}", names.join(" ")));
    let shown: Vec<_> = shown.split("\n\n").collect();
    assert_eq!(shown.len(), services.len());
    for (unit, shown) in services.iter().zip(shown) {
        let name = unit.name.as_str();
        lab.step(name);
        let property = |key: &str| shown.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        assert_eq!(property("Id="), name);
        assert_eq!(property("LoadState="), "loaded");
        let mut expected = vec![property("FragmentPath=").to_owned()];
        expected.extend(property("DropInPaths=").split_whitespace().map(str::to_owned));
        // It shows what masks too, and /lib, which is /usr/lib.
        expected.retain(|path| !masks(&lab.root().join(path.trim_start_matches('/'))));
        for path in expected.iter_mut().filter(|path| path.starts_with("/lib/")) {
            path.insert_str(0, "/usr");
        }
        // systemd shows the link, we what it leads to.
        let shown = |path: PathBuf| path.to_str().unwrap().replace("/opt/", &format!("{ETC}/"));
        let ours: Vec<_> = files_of(unit).into_iter().map(shown).collect();
        assert_eq!(ours, expected, "{name}");
    }
    let names: Vec<_> = services.iter().map(|unit| unit.name.as_str()).collect();
    for name in ["a-b-c.service", "alias@3.service", "linked.service", "local.service", "real.service"] {
        let id = lab.show(name, "Id");
        assert!(names.contains(&id.as_str()), "{name} is {id}, which is not among {names:?}");
    }
    for name in ["gone.service", "empty.service"] {
        assert_eq!(lab.show(name, "LoadState"), "masked");
        assert!(!names.contains(&name));
    }
}
