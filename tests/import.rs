//! `portbroker import`: what replaces a socket unit, for every one that is installed here and for some that are not.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn portbroker(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portbroker")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Checks a drop-in as an administrator would before using it.
fn check(drop_in: &str) -> Output {
    let place = TempDir::new().unwrap();
    let folder = place.path().join("some.service.d");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("socket.conf");
    fs::write(&file, drop_in).unwrap();
    portbroker(&["check", file.to_str().unwrap()])
}

/// A root with these files.
fn root(files: &[(&str, &str)]) -> TempDir {
    let root = TempDir::new().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

fn import(root: &Path, unit: &str) -> Output {
    portbroker(&["import", "--root", root.to_str().unwrap(), unit])
}

fn installed() -> BTreeMap<String, PathBuf> {
    let mut units = BTreeMap::new();
    for folder in ["/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system"] {
        for entry in fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
            if name.ends_with(".socket") && entry.is_file() {
                units.insert(name.replace("@.", "@1."), entry);
            }
        }
    }
    units
}

#[test]
fn every_socket_unit_of_this_machine_is_taken_over_whole_or_refused_with_reasons() {
    let units = installed();
    for needed in ["dbus.socket", "mariadb.socket"] {
        assert!(units.contains_key(needed), "tests/run installs the package of {needed}");
    }
    let mut taken = 0;
    for (name, file) in &units {
        let output = portbroker(&["import", name]);
        let content = fs::read_to_string(file).unwrap();
        let impossible =
            ["ListenFIFO=", "ListenSpecial=", "ListenNetlink=", "Accept=yes", "Accept=true", "ExecSt"]
                .iter()
                .any(|key| content.lines().any(|line| line.starts_with(key)));
        if impossible {
            assert_eq!(output.status.code(), Some(1), "{name}");
            assert!(
                text(&output.stderr).contains("cannot be taken over: "),
                "{name}: {}",
                text(&output.stderr)
            );
            assert!(output.stdout.is_empty());
            continue;
        }
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output.stderr));
        let checked = check(text(&output.stdout));
        assert_eq!(checked.status.code(), Some(0), "{name}: {}", text(&checked.stderr));
        // Each line is in the section, or named in a comment.
        for line in content.lines().skip_while(|line| *line != "[Socket]").skip(1) {
            match line.split_once('=') {
                _ if line.starts_with('[') => break,
                Some((key, value)) if !key.starts_with(['#', ';']) && !value.trim().is_empty() => {
                    assert!(text(&output.stdout).contains(&format!("{}=", key.trim())), "{name}: {line}");
                }
                _ => {}
            }
        }
        taken += 1;
    }
    assert!(taken >= 3, "{units:?}");
}

#[test]
fn drop_ins_of_the_socket_unit_count_and_its_aliases_do_too() {
    let root = root(&[
        ("usr/lib/systemd/system/web.socket", "[Socket]\nListenStream=80\nBacklog=5\n"),
        (
            "etc/systemd/system/web.socket.d/a.conf",
            "[Socket]\nListenStream=\nListenStream=127.0.0.1:8080\nNoDelay=yes\n",
        ),
        ("usr/lib/systemd/system/web.service", "[Unit]\nBindsTo=%N.socket\n[Service]\nExecStart=/bin/x\n"),
    ]);
    symlink("web.socket", root.path().join("usr/lib/systemd/system/www.socket")).unwrap();
    for name in ["web.socket", "web", "www.socket"] {
        let output = import(root.path(), name);
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let section = "[X-PortBroker]\nListenStream=127.0.0.1:8080\nFileDescriptorName=web.socket\nBacklog=5\nNoDelay=yes\n";
        assert!(shown.contains(section), "{shown}");
        assert!(
            shown.contains("# web.service requires web.socket (/usr/lib/systemd/system/web.service:2:1)"),
            "{shown}"
        );
    }
}

#[test]
fn an_instance_of_a_template_and_a_file_can_be_imported() {
    let root = root(&[("lib/systemd/system/db@.socket", "[Socket]\nListenStream=/run/db/%i.sock\n")]);
    let output = import(root.path(), "db@blue.socket");
    assert!(text(&output.stdout).contains("\nListenStream=/run/db/blue.sock\n"), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("mkdir -p /etc/systemd/system/db@blue.service.d"));
    let output = import(root.path(), "db@.socket");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("name an instance"), "{}", text(&output.stderr));
    let file = root.path().join("own.socket");
    fs::write(&file, "[Socket]\nListenStream=5000\n").unwrap();
    let output = portbroker(&["import", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let json = portbroker(&["--json", "import", file.to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["drop_in"], text(&output.stdout));
}

#[test]
fn all_that_is_in_the_way_is_pointed_at() {
    let root = root(&[(
        "etc/systemd/system/old.socket",
        "[Socket]\nListenStream=23\nAccept=yes\nListenFIFO=/run/x\nIPAddressDeny=any\n",
    )]);
    symlink("/dev/null", root.path().join("etc/systemd/system/gone.socket")).unwrap();
    let output = import(root.path(), "old.socket");
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    for (line, key) in [(3, "Accept="), (4, "ListenFIFO="), (5, "IPAddressDeny=")] {
        assert!(errors.contains(&format!("error: {key} cannot be taken over: ")), "{errors}");
        assert!(errors.contains(&format!("/etc/systemd/system/old.socket:{line}:1")), "{errors}");
    }
    assert!(errors.contains("3 | Accept=yes"), "{errors}");
    for name in ["gone.socket", "none.socket", "old.service", "a b"] {
        let output = import(root.path(), name);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{name}");
        assert!(text(&output.stderr).contains(name), "{}", text(&output.stderr));
    }
}
