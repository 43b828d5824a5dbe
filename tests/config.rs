//! The configuration of whole folders: `tests/config/NAME/root` is read as a root, and what comes of it is
//! compared with `tests/config/NAME/expected`: the faults, and the listeners that are left.
//!
//! `modes` beside it has the modes of files that git does not keep. With PORTBROKER_BLESS=1 in the
//! environment the expectations are written anew: look at the difference.

#![cfg(test)]

use portbroker::config::{build, show};
use portbroker::sources::{Locations, survey};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config")
}

/// Copies a folder with its links; writable by nobody but its owner, whatever the umask of the checkout was.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, Permissions::from_mode(0o755)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_symlink() {
            symlink(fs::read_link(from).unwrap(), to).unwrap();
        } else if kind.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(from, &to).unwrap();
            fs::set_permissions(to, Permissions::from_mode(0o644)).unwrap();
        }
    }
}

fn root_of(name: &str) -> (TempDir, PathBuf) {
    let place = TempDir::new().unwrap();
    let root = place.path().join("root");
    copy(&folder().join(name).join("root"), &root);
    for line in fs::read_to_string(folder().join(name).join("modes")).unwrap_or_default().lines() {
        let (mode, path) = line.split_once(' ').unwrap();
        let mode = Permissions::from_mode(u32::from_str_radix(mode, 8).unwrap());
        fs::set_permissions(root.join(path), mode).unwrap();
    }
    (place, root)
}

fn outcome(root: &Path) -> String {
    let checked = build(&survey(&Locations { root: root.to_owned(), config: None }));
    let faults: String = checked.faults.iter().map(|fault| fault.line() + "\n").collect();
    format!("{}\n\n{faults}\n{}", show::summary(&checked), show::to_toml(&checked.config))
}

#[test]
fn folders_give_what_is_expected_of_them() {
    let mut names: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert!(names.len() >= 12, "{names:?}");
    let mut wrong = Vec::new();
    for name in names {
        let name = name.to_str().unwrap();
        let (_place, root) = root_of(name);
        let outcome = outcome(&root);
        let expected = folder().join(name).join("expected");
        if std::env::var_os("PORTBROKER_BLESS").is_some() {
            fs::write(&expected, &outcome).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != outcome {
            wrong.push(format!("{name}:\n{outcome}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n==========\n"));
}

fn portbroker(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portbroker")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn check_points_at_the_line_and_exits_with_78() {
    let (_place, root) = root_of("services");
    let output = portbroker(&["check", "--root", root.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    let errors = text(&output.stderr);
    let shown = "\
error: unknown key \"ListenSteam\" in [X-PortBroker]
 --> /etc/systemd/system/mistyped.service:2:1
  |
2 | ListenSteam=80
  | ^^^^^^^^^^^^^^
  |
  = help: did you mean ListenStream=?
";
    assert!(errors.contains(shown), "{errors}");
    assert_eq!(text(&output.stdout), "the configuration has 3 errors and 3 warnings\n");
}

#[test]
fn check_of_a_valid_configuration_exits_with_0_warnings_or_not() {
    for name in ["inherited", "templates"] {
        let (_place, root) = root_of(name);
        let output = portbroker(&["check", "--root", root.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stdout).starts_with("the configuration is valid: "));
        assert_eq!(output.stderr.is_empty(), name == "templates");
    }
}

#[test]
fn check_takes_one_file_of_any_kind() {
    let (_place, root) = root_of("services");
    let (_place, toml) = root_of("bad-toml");
    let check = |path: PathBuf| {
        let output = portbroker(&["--json", "check", path.to_str().unwrap()]);
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(text(&output.stdout).lines().count(), 1);
        let file = document["faults"][0]["origin"]["file"].as_str().map(ToOwned::to_owned);
        assert!(
            file.is_none_or(|file| Path::new(&file) == path),
            "paths that were given are shown as they are"
        );
        (output.status.code().unwrap(), document["errors"].as_u64().unwrap())
    };
    let systemd = root.join("etc/systemd/system");
    assert_eq!(check(systemd.join("mistyped.service")), (78, 3));
    assert_eq!(check(systemd.join("mariadb.service.d/port.conf")), (0, 0));
    assert_eq!(check(toml.join("etc/portbroker/portbroker.conf.d/20-other.toml")), (78, 2));
    assert_eq!(check(root.join("etc/none.toml")), (78, 1));
    assert_eq!(check(root.join("none.service")), (78, 1));
}

#[test]
fn cat_config_shows_origins_and_is_a_configuration_itself() {
    let (place, root) = root_of("templates");
    let output = portbroker(&["cat-config", "--root", root.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    let line = format!("{:<44} # /etc/systemd/system/web@.service:4:1\n", "    \"127.0.0.1:8001\",");
    assert!(shown.contains(&line), "{shown}");
    let file = place.path().join("shown.toml");
    fs::write(&file, shown).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(portbroker(&["check", file.to_str().unwrap()]).status.code(), Some(0));
    let json = portbroker(&["--json", "cat-config", "--root", root.to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["listeners"][1]["required"], true);
    assert_eq!(json["listeners"][0]["sockets"][0], "tcp 127.0.0.1:8001");
}

/// What could not be read for a moment must not pass for what is not there: listeners would go.
#[test]
fn with_few_descriptors_everything_is_read_or_nothing_is_valid() {
    let place = TempDir::new().unwrap();
    let put = |path: &str, text: &str| {
        let path = place.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("etc/systemd/system/a.service", "[Service]\nExecStart=/bin/true\n");
    put("etc/systemd/system/a.service.d/p.conf", "[X-PortBroker]\nListenStream=127.0.0.1:8001\n");
    put("etc/systemd/system/web@.service", "[X-PortBroker]\nListenStream=127.0.0.1:%i\n");
    let wants = place.path().join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir(&wants).unwrap();
    symlink("../web@.service", wants.join("web@8002.service")).unwrap();
    let mut outcomes = Vec::new();
    for most in 4..16 {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={most}:{most}")).arg(env!("CARGO_BIN_EXE_portbroker"));
        let output = command.args(["cat-config", "--root"]).arg(place.path()).output().unwrap();
        let whole = ["127.0.0.1:8001", "127.0.0.1:8002"].iter().all(|at| text(&output.stdout).contains(at));
        assert_eq!(output.status.success(), whole, "with {most}: {output:?}");
        outcomes.push(whole);
    }
    assert!(outcomes.contains(&false) && outcomes.contains(&true), "{outcomes:?}");
}

#[test]
fn the_shipped_example_is_valid() {
    let place = TempDir::new().unwrap();
    let file = place.path().join("etc/portbroker/portbroker.toml");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/portbroker.toml.example");
    fs::copy(example, &file).unwrap();
    fs::write(place.path().join("etc/passwd"), "www-data:x:33:33:::\nnobody:x:65534:65534:::\n").unwrap();
    fs::write(place.path().join("etc/group"), "www-data:x:33:\n").unwrap();
    let units = place.path().join("etc/systemd/system");
    fs::create_dir_all(&units).unwrap();
    fs::write(units.join("nginx.service"), "[Service]\nExecStart=/usr/sbin/nginx\n").unwrap();
    for path in [&file, file.parent().unwrap(), file.parent().unwrap().parent().unwrap()] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let checked = build(&survey(&Locations { root: place.path().to_owned(), config: None }));
    assert_eq!(checked.faults, []);
    assert_eq!((checked.config.listeners.len(), checked.config.pools.len()), (3, 1));
}
