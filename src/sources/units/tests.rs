//! Trees of unit files, and what is read from them. That systemd reads the same is tested on a booted one
//! (`tests/boot.rs`).

use super::*;
use std::fs;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

const ETC: &str = "etc/systemd/system";
const USR: &str = "usr/lib/systemd/system";
const OURS: &str = "[X-PortBroker]\nListenStream=80\n";

/// Makes a tree: a path with ` -> ` in it is a link, all others are files.
fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let (path, target) = path.split_once(" -> ").map_or((*path, None), |(path, to)| (path, Some(to)));
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match target {
            Some(target) => symlink(target, path).unwrap(),
            None => fs::write(path, text).unwrap(),
        }
    }
    root
}

/// The units by name, each with the values of the key `V` of any section.
fn values(files: &[(&str, &str)]) -> Vec<(String, String)> {
    let root = tree(files);
    let Read { units, faults, .. } = read(root.path());
    assert_eq!(faults, []);
    let join = |unit: &Unit| {
        let values = unit.settings.iter().filter(|s| s.key == "V").map(|s| s.value.clone());
        values.collect::<Vec<_>>().join(" ")
    };
    units.iter().map(|unit| (unit.name.to_string(), join(unit))).collect()
}

fn names(files: &[(&str, &str)]) -> Vec<String> {
    values(files).into_iter().map(|(name, _)| name).collect()
}

fn ours(value: &str) -> String {
    format!("[X-PortBroker]\nV={value}\n")
}

#[test]
fn only_services_with_a_section_are_read_and_all_sockets() {
    let found = names(&[
        (&format!("{USR}/a.service"), OURS),
        (&format!("{USR}/b.service"), "[Service]\n"),
        (&format!("{USR}/c.socket"), "[Socket]\n"),
        (&format!("{USR}/d.target"), OURS),
        (&format!("{USR}/e.service.bak"), OURS),
    ]);
    assert_eq!(found, ["a.service", "c.socket"]);
}

#[test]
fn the_first_directory_wins_and_a_drop_in_adds() {
    let found = values(&[
        (&format!("{USR}/a.service"), &ours("usr")),
        ("run/systemd/system/a.service", &ours("run")),
        (&format!("{ETC}/a.service"), &ours("etc")),
        (&format!("{USR}/a.service.d/20.conf"), &ours("20usr")),
        (&format!("{ETC}/a.service.d/20.conf"), &ours("20etc")),
        (&format!("{ETC}/a.service.d/10.conf"), &ours("10")),
        (&format!("{ETC}/a.service.d/30.text"), &ours("no")),
        (&format!("{ETC}/a.service.d/.hidden.conf"), &ours("no")),
    ]);
    assert_eq!(found, [("a.service".into(), "etc 10 20etc".into())]);
}

#[test]
fn a_section_may_stand_in_a_drop_in_alone() {
    let found = names(&[
        (&format!("{USR}/a.service"), "[Service]\n"),
        (&format!("{ETC}/a.service.d/x.conf"), OURS),
        (&format!("{ETC}/no-such.service.d/x.conf"), OURS),
    ]);
    assert_eq!(found, ["a.service"]);
}

#[test]
fn a_masked_unit_or_drop_in_is_not_there() {
    let found = values(&[
        (&format!("{USR}/a.service"), &ours("a")),
        (&format!("{ETC}/a.service -> /dev/null"), ""),
        (&format!("{USR}/b.service"), &ours("b")),
        (&format!("{ETC}/b.service"), ""),
        (&format!("{USR}/c.service"), &ours("c")),
        (&format!("{USR}/c.service.d/1.conf"), &ours("1")),
        (&format!("{USR}/c.service.d/2.conf"), &ours("2")),
        (&format!("{ETC}/c.service.d/1.conf -> /dev/null"), ""),
        (&format!("{ETC}/c.service.d/2.conf"), ""),
    ]);
    assert_eq!(found, [("c.service".into(), "c".into())]);
}

#[test]
fn an_alias_is_another_name_of_the_unit_and_brings_its_drop_ins() {
    let found = values(&[
        (&format!("{USR}/mariadb.service"), &ours("m")),
        (&format!("{ETC}/mysql.service -> /{USR}/mariadb.service"), ""),
        (&format!("{ETC}/mysqld.service -> mysql.service"), ""),
        (&format!("{ETC}/mysqld.service.d/x.conf"), &ours("alias")),
        (&format!("{ETC}/odd.service -> mariadb.socket"), ""),
    ]);
    assert_eq!(found, [("mariadb.service".into(), "m alias".into())]);
}

#[test]
fn a_linked_file_is_a_unit_of_its_own() {
    let found = values(&[
        ("opt/a.service", &ours("opt")),
        (&format!("{ETC}/a.service -> /opt/a.service"), ""),
        (&format!("{ETC}/b.service -> /opt/none.service"), ""),
        (&format!("{ETC}/c.service -> /{USR}/c.service"), ""),
        (&format!("{USR}/c.service"), &ours("c")),
    ]);
    assert_eq!(found, [("a.service".into(), "opt".into()), ("c.service".into(), "c".into())]);
}

#[test]
fn drop_ins_of_a_prefix_and_of_the_type_count_too() {
    let found = values(&[
        (&format!("{USR}/a-b-c.service"), &ours("f")),
        (&format!("{ETC}/service.d/1.conf"), &ours("type1")),
        (&format!("{ETC}/service.d/4.conf"), &ours("type4")),
        (&format!("{ETC}/a-.service.d/1.conf"), &ours("a1")),
        (&format!("{ETC}/a-.service.d/3.conf"), &ours("a3")),
        (&format!("{ETC}/a-b-.service.d/3.conf"), &ours("ab3")),
        (&format!("{ETC}/a-b-c.service.d/2.conf"), &ours("abc2")),
    ]);
    assert_eq!(found, [("a-b-c.service".into(), "f a1 abc2 ab3 type4".into())]);
}

#[test]
fn of_a_template_the_enabled_instances_count() {
    let wants = format!("{ETC}/multi-user.target.wants");
    let found = values(&[
        (&format!("{USR}/web@.service"), &ours("%i")),
        (&format!("{wants}/web@1.service -> /{USR}/web@.service"), ""),
        (&format!("{ETC}/x.target.requires/web@2.service -> /{USR}/web@.service"), ""),
        (&format!("{USR}/web@4.service"), &ours("own")),
        (&format!("{ETC}/web@.service.d/1.conf"), &ours("all")),
        (&format!("{ETC}/web@2.service.d/2.conf"), &ours("two")),
        (&format!("{ETC}/web@3.service.d/3.conf"), &ours("three")),
        (&format!("{USR}/multi-user.target.wants/web@5.service -> ../web@.service"), ""),
        (&format!("{wants}/web@5.service -> /dev/null"), ""),
    ]);
    let expected =
        [("web@1.service", "%i all"), ("web@2.service", "%i all two"), ("web@4.service", "own all")];
    assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn an_instance_of_an_aliased_template_is_one_of_the_template() {
    let found = values(&[
        (&format!("{USR}/getty@.service"), &ours("g")),
        (&format!("{USR}/autovt@.service -> getty@.service"), ""),
        (&format!("{ETC}/getty.target.wants/autovt@tty1.service -> /{USR}/getty@.service"), ""),
        (&format!("{ETC}/autovt@tty1.service.d/x.conf"), &ours("x")),
    ]);
    assert_eq!(found, [("getty@tty1.service".into(), "g x".into())]);
}

#[test]
fn a_unit_is_enabled_where_a_link_names_it_or_an_alias() {
    let root = tree(&[
        (&format!("{USR}/a.socket"), "[Socket]\n"),
        (&format!("{USR}/b.socket"), "[Socket]\n"),
        (&format!("{USR}/c.socket"), "[Socket]\n"),
        (&format!("{ETC}/d.socket -> /{USR}/c.socket"), ""),
        (&format!("{ETC}/sockets.target.wants/b.socket -> /{USR}/b.socket"), ""),
        (&format!("{ETC}/sockets.target.wants/d.socket -> /{USR}/c.socket"), ""),
    ]);
    let Read { units, .. } = read(root.path());
    let enabled: Vec<_> = units.iter().map(|unit| (unit.name.as_str(), unit.enabled)).collect();
    assert_eq!(enabled, [("a.socket", false), ("b.socket", true), ("c.socket", true)]);
}

#[test]
fn the_generator_takes_units_whose_file_another_generator_may_be_writing() {
    let files = [
        (&*format!("{ETC}/legacy.service.d/x.conf"), OURS),
        (&format!("{ETC}/masked.service -> /dev/null"), ""),
        (&format!("{ETC}/masked.service.d/x.conf"), OURS),
        (&format!("{USR}/a.socket"), OURS),
    ];
    let root = tree(&files);
    let services: Vec<_> =
        read_services(root.path()).0.into_iter().map(|unit| unit.name.to_string()).collect();
    assert_eq!(services, ["legacy.service"]);
}

#[test]
fn what_the_generator_wrote_is_not_read() {
    let found = values(&[
        (&format!("{USR}/a.service"), &ours("a")),
        (&format!("run/systemd/generator/a.service.d/{DELIVERY_FILE}"), &ours("generated")),
    ]);
    assert_eq!(found, [("a.service".into(), "a".into())]);
}

#[test]
fn loops_of_links_and_odd_files_do_no_harm() {
    let root = tree(&[
        (&format!("{ETC}/a.service -> b.service"), ""),
        (&format!("{ETC}/b.service -> a.service"), ""),
        (&format!("{USR}/d.service"), OURS),
        (&format!("{ETC}/e.service/file"), OURS),
    ]);
    let pipe = root.path().join(ETC).join("c.service");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let Read { units, faults, .. } = read(root.path());
    assert_eq!(units.iter().map(|unit| unit.name.as_str()).collect::<Vec<_>>(), ["d.service"]);
    assert_eq!(faults, []);
}

#[test]
fn a_file_that_is_too_large_is_a_warning_and_no_unit() {
    let root = tree(&[(&format!("{USR}/a.service"), OURS)]);
    let path = root.path().join(USR).join("a.service");
    fs::File::options().write(true).open(&path).unwrap().set_len(5 * 1024 * 1024).unwrap();
    let Read { units, faults, .. } = read(root.path());
    assert_eq!(units, []);
    assert_eq!(faults.len(), 1);
    assert!(!faults[0].is_error() && *faults[0].origin.file == *Path::new("/").join(USR).join("a.service"));
}
