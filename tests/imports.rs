//! Holds the map of the code: which room may import which, and that the pure rooms stay pure.
//!
//! Rust has one crate here and so would let every room import every other. This reads the sources instead. It
//! looks at paths (`crate::room`, `super::…` that leaves a room, names of crates), not at what they mean, and
//! leaves tests out: they may use what they need.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each room may import of ours. A room that is not here is a fault: it has to be given its place first.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("config", &["model"]),
    ("policy", &["config", "model"]),
    ("listeners", &["config", "model"]),
    ("learn", &["model"]),
    ("limits", &["config", "model"]),
    ("pools", &["config", "model"]),
    ("leases", &["config", "model", "pools"]),
    ("forecast", &[]),
    ("metrics", &[]),
    ("scrape", &["broker", "kernel", "metrics"]),
    ("state", &["model"]),
    ("uses", &["model"]),
    ("plan", &["config", "leases", "model", "pools"]),
    ("services", &["model"]),
    ("doctor", &["config", "model", "services"]),
    ("generator", &["config", "model", "sources"]),
    ("kernel", &["config", "model"]),
    ("keeper", &["kernel"]),
    ("sources", &["config", "model", "services"]),
    (
        "broker",
        &[
            "config",
            "forecast",
            "kernel",
            "learn",
            "leases",
            "limits",
            "listeners",
            "metrics",
            "model",
            "policy",
            "pools",
            "sources",
            "state",
            "uses",
            "portbroker_client::wire",
        ],
    ),
    ("bus", &["broker", "kernel", "limits", "model", "policy", "uses", "portbroker_client::wire"]),
    ("daemon", &["broker", "bus", "config", "generator", "keeper", "kernel", "model", "scrape", "sources"]),
    ("lib", &[]),
];

/// What each program may import of the library.
const PROGRAMS: &[(&str, &[&str])] = &[
    (
        "portbroker",
        &[
            "config",
            "doctor",
            "kernel",
            "model",
            "plan",
            "pools",
            "services",
            "sources",
            "uses",
            "portbroker_client",
        ],
    ),
    ("portbrokerd", &["daemon"]),
    ("portbroker-generator", &["generator"]),
];

/// Rooms that take text, time and events as arguments and give values and effects back.
const PURE: &[&str] = &[
    "model",
    "config",
    "policy",
    "listeners",
    "learn",
    "limits",
    "pools",
    "leases",
    "forecast",
    "metrics",
    "state",
    "uses",
    "plan",
    "services",
    "doctor",
    "generator/daemon.rs",
    "generator/delivery.rs",
    "generator/systemd.rs",
    "generator/tool.rs",
    "keeper/life.rs",
    "keeper/message.rs",
    "keeper/store.rs",
];

/// What `portbroker top` shows is a function of what is known, what was chosen, and the time.
const PICTURE: &[&str] = &["model.rs", "ui.rs", "canvas.rs", "panels.rs", "view.rs"];

/// What no pure room may name, with the reason that a failure gives.
const IMPURE: &[(&str, &str)] = &[
    ("std::fs", "files are read by sources"),
    ("std::env", "the environment is an argument"),
    ("std::process", "programs are run by nobody here"),
    ("std::thread", "one task owns the state"),
    ("std::sync", "one task owns the state"),
    ("std::os::unix::net", "sockets are made by kernel"),
    ("std::os::fd", "descriptors belong to kernel and broker"),
    ("TcpStream", "sockets are made by kernel"),
    ("TcpListener", "sockets are made by kernel"),
    ("UdpSocket", "sockets are made by kernel"),
    ("Instant::now", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("tokio::", "pure rooms are not asynchronous"),
    ("async fn", "pure rooms are not asynchronous"),
    ("nix::", "system calls are made by kernel"),
    ("socket2::", "system calls are made by kernel"),
    ("zbus::", "D-Bus is spoken by bus"),
    ("println!", "what is printed is the programs' matter"),
];

const MAIN_LINES: usize = 15;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file with its path below `src`, tests left out.
fn files() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![source()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
                let text = code(&fs::read_to_string(&path).unwrap());
                files.push((path.strip_prefix(source()).unwrap().to_owned(), text));
            }
        }
    }
    files.sort();
    files
}

fn is_test(path: &Path) -> bool {
    let stem = path.file_stem().unwrap().to_str().unwrap();
    stem == "tests" || stem.ends_with("_tests") || path.components().any(|part| part.as_os_str() == "tests")
}

/// A file without its comments and without its module of tests, which comes last.
fn code(text: &str) -> String {
    let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..tests].lines().map(|line| match line.find("//") {
        // "://" is in a string, if anywhere.
        Some(at) if !line[..at].ends_with(':') => &line[..at],
        _ => line,
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The room of a file: the first component of its path.
fn room(path: &Path) -> String {
    path.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The rooms and client modules that a text names, by `crate::a`, `crate::{a, b::{c}}` and `portbroker_client::a`.
fn imports(text: &str, root: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (prefix, of_client) in [(format!("{root}::"), false), ("portbroker_client::".to_owned(), true)] {
        for (at, _) in text.match_indices(&prefix) {
            if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            for name in names_after(&text[at + prefix.len()..]) {
                found.insert(if of_client { format!("portbroker_client::{name}") } else { name });
            }
        }
    }
    found
}

/// The first names of a path, or of each path of a group in braces.
fn names_after(text: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = text.strip_prefix('{') else {
        return vec![name(text)];
    };
    let (mut names, mut depth, mut item) = (Vec::new(), 0, String::new());
    for c in group.chars() {
        match (c, depth) {
            (',', 0) => names.push(name(&std::mem::take(&mut item))),
            ('}', 0) => break,
            ('{', _) => depth += 1,
            ('}', _) => depth -= 1,
            _ => item.push(c),
        }
    }
    names.push(name(&item));
    names.retain(|name| !name.is_empty());
    names
}

/// How many modules above the file a chain of `super::` reaches, at most.
fn highest_super(text: &str) -> usize {
    let chains = text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    chains.map(|path| path.split("::").take_while(|part| *part == "super").count()).max().unwrap_or_default()
}

/// How many modules a file is below the crate's root.
fn depth(path: &Path) -> usize {
    let components = path.components().count();
    if path.file_name().is_some_and(|name| name == "mod.rs") { components - 1 } else { components }
}

/// The faults of one file of a room.
fn faults(path: &Path, text: &str, own: &str, root: &str, allowed: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    for name in imports(text, root) {
        let client = name.strip_prefix("portbroker_client::").map(|_| "portbroker_client");
        let named = |allowed: &str| allowed == name || Some(allowed) == client;
        if name != own && !allowed.iter().any(|allowed| named(allowed)) {
            faults.push(format!("{} imports {name}: {own} may import {allowed:?}", path.display()));
        }
    }
    if highest_super(text) >= depth(path).max(1) && root == "crate" {
        faults.push(format!("{} leaves {own} by super::, which hides an import", path.display()));
    }
    faults
}

fn impurities(path: &Path, text: &str) -> Vec<String> {
    // A value that many have copies of is still a value: nothing can be changed through it, and nobody waits for it.
    let text = text.replace("std::sync::Arc", "");
    let named = IMPURE.iter().filter(|(what, _)| text.contains(what));
    named.map(|(what, why)| format!("{} uses {what}: {why}", path.display())).collect()
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_room_imports_only_the_rooms_before_it() {
    let mut found = Vec::new();
    for (path, text) in files().iter().filter(|(path, _)| !path.starts_with("bin")) {
        let room = room(path);
        match ROOMS.iter().find(|(name, _)| *name == room) {
            Some((_, allowed)) => found.extend(faults(path, text, &room, "crate", allowed)),
            None => found.push(format!("{} is in no room of the map", path.display())),
        }
    }
    report(&found);
}

#[test]
fn every_program_imports_only_what_it_is_for() {
    let mut found = Vec::new();
    for (path, text) in files().iter().filter(|(path, _)| path.starts_with("bin")) {
        let program = room(path.strip_prefix("bin").unwrap());
        match PROGRAMS.iter().find(|(name, _)| *name == program) {
            Some((_, allowed)) => found.extend(faults(path, text, &program, "portbroker", allowed)),
            None => found.push(format!("{} is a program that the map does not know", path.display())),
        }
    }
    report(&found);
}

#[test]
fn the_picture_of_top_is_a_function() {
    let mut found = Vec::new();
    for file in PICTURE {
        let path = Path::new("bin/portbroker/top").join(file);
        let text = fs::read_to_string(source().join(&path)).unwrap();
        // A time is an argument of it, and the clock is not looked at.
        let text = code(&text).replace("SystemTime::now", "Instant::now").replace("SystemTime", "");
        found.extend(impurities(&path, &text));
    }
    report(&found);
}

#[test]
fn the_pure_rooms_do_nothing() {
    let pure = |path: &Path| PURE.iter().any(|room| path.starts_with(room));
    let files = files();
    for room in PURE.iter().filter(|room| !room.contains('/')) {
        assert!(
            files.iter().any(|(path, _)| path.starts_with(room)),
            "the map has {room}, and the code has not"
        );
    }
    let found: Vec<String> =
        files.iter().filter(|(path, _)| pure(path)).flat_map(|(path, text)| impurities(path, text)).collect();
    report(&found);
}

#[test]
fn unsafe_code_is_in_the_kernel_room_only() {
    let word =
        |text: &str| text.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == "unsafe");
    let elsewhere = files().into_iter().filter(|(path, text)| !path.starts_with("kernel") && word(text));
    report(&elsewhere.map(|(path, _)| format!("{} has unsafe code", path.display())).collect::<Vec<_>>());
}

#[test]
fn the_programs_are_thin() {
    let mut mains = 0;
    for (path, text) in files().iter().filter(|(path, _)| path.starts_with("bin")) {
        let Some(at) = text.find("fn main()") else { continue };
        let lines = text[at..].lines().take_while(|line| *line != "}").count();
        assert!(lines < MAIN_LINES, "main of {} has {lines} lines: move them to the library", path.display());
        mains += 1;
    }
    assert!(mains >= 1, "no program was found");
}

#[test]
fn this_test_sees_what_it_is_to_see() {
    let names = |text: &str| imports(text, "crate").into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(names("use crate::model::Name; crate::bus::x();"), "bus model");
    assert_eq!(names("use crate::{a::{b, c}, d, e::f};\nuse crate::g;"), "a d e g");
    assert_eq!(
        names("use crate::{\n    kernel::socket::{A, B},\n    model,\n};\nlet x = {1};"),
        "kernel model"
    );
    assert_eq!(names("use mycrate::model; use portbroker_client::wire::X;"), "portbroker_client::wire");

    let check = |path: &str, text: &str, allowed: &[&str]| {
        faults(Path::new(path), &code(text), "model", "crate", allowed).len()
    };
    assert_eq!(check("model/name.rs", "use crate::model::x; use super::y;", &[]), 0);
    assert_eq!(check("model/name.rs", "use crate::config::x;", &[]), 1);
    assert_eq!(check("model/name.rs", "use crate::config::x;", &["config"]), 0);
    assert_eq!(
        check("model/name.rs", "// crate::config\n#[cfg(test)]\nmod tests { use crate::bus; }", &[]),
        0
    );
    assert_eq!(check("model/name.rs", "use super::super::config::x;", &[]), 1);
    assert_eq!(check("model/mod.rs", "use super::config::x;", &[]), 1);
    assert_eq!(check("model/deep/name.rs", "use super::super::x;", &[]), 0);
    assert_eq!(check("daemon.rs", "use portbroker_client::listen;", &["portbroker_client::wire"]), 1);
    assert_eq!(check("daemon.rs", "use portbroker_client::listen;", &["portbroker_client"]), 0);

    assert_eq!(impurities(Path::new("model/x.rs"), "let t = Instant::now(); std::fs::read(p)").len(), 2);
    assert!(impurities(Path::new("model/x.rs"), "use std::net::SocketAddr;").is_empty());
    assert!(impurities(Path::new("model/x.rs"), "use std::sync::Arc;").is_empty());
    assert_eq!(impurities(Path::new("model/x.rs"), "use std::sync::{Arc, Mutex};").len(), 1);
}
