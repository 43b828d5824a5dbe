//! The generator over whole trees: each folder of `tests/generator` has unit files below `etc`, `usr` and
//! `run`, and in `expected` what is to be generated from them (`messages` is what is to be logged).

#![cfg(test)]

use portbroker::generator::{Host, STAMP, SystemdVersion, Tool, generate};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// All files below a directory by their path in it.
fn files(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let name = PathBuf::from(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()).into_iter().map(|(path, text)| (name.join(path), text)));
        } else {
            found.insert(name, fs::read_to_string(entry.path()).unwrap());
        }
    }
    found
}

fn generated(case: &Path) -> BTreeMap<PathBuf, String> {
    let output = tempfile::tempdir().unwrap();
    let maps = "0-1 r--p 0 0:0 1 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
                2-3 r--p 0 0:0 2 /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2\n";
    let own = Path::new("/usr/lib/systemd/system-generators/portbroker-generator");
    let messages = generate(case, output.path(), &Host { tool: Tool::beside(own, maps), systemd: None });
    let mut found = files(output.path());
    assert_eq!(found.remove(Path::new(STAMP)).as_deref(), Some(""), "the stamp is always written");
    if !messages.is_empty() {
        found.insert("messages".into(), messages.iter().map(|message| format!("{message}\n")).collect());
    }
    found
}

#[test]
fn every_folder_gives_what_it_expects() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/generator");
    let mut seen = 0;
    for case in fs::read_dir(cases).unwrap().map(|entry| entry.unwrap().path()) {
        let expected = case.join("expected");
        let expected = if expected.is_dir() { files(&expected) } else { BTreeMap::new() };
        let generated = generated(&case);
        for (path, text) in &generated {
            assert_eq!(Some(text), expected.get(path), "{}: {}", case.display(), path.display());
        }
        assert_eq!(generated.len(), expected.len(), "{}: expected more than {generated:?}", case.display());
        seen += 1;
    }
    assert!(seen >= 6, "only {seen} folders were found");
}

#[test]
fn what_cannot_be_written_is_said_and_costs_the_other_units_nothing() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/generator/template");
    let output = tempfile::tempdir().unwrap();
    let tool = Tool { path: "/usr/bin/portbroker".into(), loader: None };
    fs::write(output.path().join("web@1.service.d"), "in the way").unwrap();
    let messages = generate(&case, output.path(), &Host { tool, systemd: None });
    assert_eq!(messages.len(), 1);
    assert!(messages[0].contains("web@1.service does not get its sockets"), "{}", messages[0]);
    let found = files(output.path());
    assert!(found.contains_key(Path::new("web@2.service.d/zzz-portbroker.conf")));
    assert!(found.contains_key(Path::new(STAMP)));
}

#[test]
fn what_only_a_newer_systemd_knows_is_given_to_that_one_alone() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/generator/template");
    let tool = Tool { path: "/usr/bin/portbroker".into(), loader: None };
    let given = |version| {
        let output = tempfile::tempdir().unwrap();
        let host = Host { tool: tool.clone(), systemd: Some(SystemdVersion(version)) };
        assert_eq!(generate(&case, output.path(), &host), [""; 0]);
        files(output.path()).remove(Path::new("portbroker.service.d/50-systemd.conf"))
    };
    assert_eq!(given(252), None);
    let newer = given(257).unwrap();
    assert!(newer.ends_with("[Service]\nType=notify-reload\nFileDescriptorStorePreserve=yes\n"), "{newer}");
}
