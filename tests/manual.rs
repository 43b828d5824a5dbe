//! The manual page of the configuration has every key, and every key of systemd.socket(5).

#![cfg(test)]

use portbroker::config::Limit;
use portbroker::config::socket_keys::{Fate, all, fate, toml_keys, unit_keys};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn page() -> String {
    fs::read_to_string(project().join("systemd/man/portbroker.toml.5")).unwrap()
}

/// The keys of the manual of systemd 252.
fn socket_keys() -> Vec<String> {
    let list = fs::read_to_string(project().join("tests/manual/systemd.socket-252")).unwrap();
    list.lines().map(str::to_owned).collect()
}

/// The keys that paragraphs begin with, as TOML and as units have them.
fn described() -> Vec<String> {
    let page = page().replace("\\-", "-");
    let headed = page.lines().zip(page.lines().skip(1)).filter(|(line, _)| *line == ".TP");
    headed
        .flat_map(|(_, head)| {
            head.split_ascii_whitespace().skip(1).map(|word| word.trim_matches(['"', ',', '=']).to_owned())
        })
        .filter(|word| !word.is_empty())
        .collect()
}

#[test]
fn every_key_of_the_configuration_is_described() {
    let described = described();
    let others = ["ports", "learn", "exclude", "name", "Required", "addresses", "spread", "allow", "quota"];
    let others = others.into_iter().chain(["minimum", "close-orphans", "socket", "listen", "destinations"]);
    let limits = Limit::all().map(Limit::key);
    for key in toml_keys().chain(unit_keys()).chain(others).chain(limits) {
        assert!(described.iter().any(|known| known == key), "{key} is not in the page: {described:?}");
    }
}

#[test]
fn every_key_of_a_socket_unit_has_its_row_with_what_becomes_of_it() {
    let page = page();
    let keys = socket_keys();
    assert_eq!(keys.len(), 60);
    for key in keys.iter().map(String::as_str).chain(all().map(|(key, _)| key)) {
        let row = page.lines().find_map(|line| line.strip_prefix(&format!("{key}=@")));
        let row = row.unwrap_or_else(|| panic!("{key} has no row"));
        let expected = match fate(key) {
            Some(Fate::Taken) => "taken",
            Some(Fate::NotNeeded(_)) => "not needed",
            Some(Fate::Refused { unless_no: true, .. }) => "refused unless no",
            Some(Fate::Refused { unless_no: false, .. }) => "refused",
            None => panic!("{key} is a key of socket units and has no fate"),
        };
        assert_eq!(row.split('@').next(), Some(expected), "{key}");
    }
    // The reasons too.
    let flat = page.replace("\\-", "-");
    for (key, fate) in all() {
        if let Fate::NotNeeded(why) | Fate::Refused { why, .. } = fate {
            assert!(flat.contains(why), "{key}: {why}");
        }
    }
}

#[test]
fn the_list_of_keys_is_systemds_own() {
    let output = Command::new("/lib/systemd/systemd").arg("--dump-configuration-items").output().unwrap();
    let items = String::from_utf8(output.stdout).unwrap();
    let socket: Vec<_> = items
        .lines()
        .skip_while(|line| *line != "[Socket]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split('=').next())
        .collect();
    for key in socket_keys() {
        assert!(socket.contains(&key.as_str()), "{key}");
    }
}

#[test]
fn the_page_is_well_formed() {
    let output = Command::new("groff")
        .args(["-ww", "-t", "-man", "-Tutf8"])
        .arg(project().join("systemd/man/portbroker.toml.5"))
        .output()
        .expect("groff, of the package groff-base");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.stdout.len() > 10_000);
}

#[test]
fn every_limit_is_described_with_its_default_and_its_range() {
    let page = page().replace("\\-", "-");
    for limit in Limit::all() {
        let (_, after) =
            page.split_once(&format!(".B {}\n", limit.key())).unwrap_or_else(|| panic!("{limit:?}"));
        let text = after.split(".TP").next().unwrap().replace('\n', " ");
        let (least, most) = limit.range();
        for value in [least, most, limit.default_value()] {
            assert!(text.contains(&limit.written(value)), "{} {}: {text}", limit.key(), limit.written(value));
        }
    }
}
