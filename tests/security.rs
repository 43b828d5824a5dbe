//! What `SECURITY.md` says that a test holds, a test does: each that it names is there.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const DOCUMENT: &str = include_str!("../SECURITY.md");

/// What must be considered, each under a heading of its own.
const BOUNDARIES: [&str; 14] = [
    "Callers",
    "Unit identity",
    "The system bus",
    "The private socket",
    "polkit",
    "Configuration",
    "The generator",
    "Holders of sockets",
    "The descriptor store",
    "The keeper",
    "The runtime directory",
    "Outbound leases",
    "Metrics",
    "The sandbox",
];

/// What the document names as `file::function`.
fn named() -> Vec<(&'static str, &'static str)> {
    let quoted = DOCUMENT.split('`').skip(1).step_by(2);
    quoted.filter_map(|text| text.split_once(".rs::")).collect()
}

#[test]
fn every_test_that_is_named_is_there() {
    let named = named();
    assert!(named.len() >= 40, "only {} tests are named", named.len());
    for (file, function) in named {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{file}.rs"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}.rs: {error}"));
        let at =
            text.find(&format!("fn {function}(")).unwrap_or_else(|| panic!("{file}.rs has no {function}"));
        let before = text[..at].trim_end_matches("async ").trim_end();
        // Properties are tests of a macro's.
        assert!(
            before.ends_with("#[test]") || before.ends_with("#[tokio::test]"),
            "{file}.rs::{function} is no test"
        );
        assert!(!text[..at].rsplit("\n\n").next().unwrap().contains("#[ignore"), "{function} is not run");
    }
}

#[test]
fn every_boundary_has_its_section_with_tests() {
    let sections: Vec<(&str, &str)> =
        DOCUMENT.split("\n### ").skip(1).map(|section| section.split_once('\n').unwrap()).collect();
    let there: BTreeSet<&str> = sections.iter().map(|(heading, _)| *heading).collect();
    assert_eq!(there, BTreeSet::from(BOUNDARIES));
    for (heading, text) in sections {
        for part in ["*Trusted:*", "*An attacker may try:*", "*Held by:*"] {
            assert!(text.contains(part), "{heading} has no {part}");
        }
        assert!(text.contains(".rs::"), "{heading} names no test");
    }
}

#[test]
fn it_says_how_to_report() {
    let report = DOCUMENT.split("\n## ").find(|section| section.starts_with("Reporting a vulnerability"));
    let report = report.expect("a section");
    assert!(report.contains("privately") && report.contains("days"), "{report}");
}
