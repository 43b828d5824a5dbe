//! Reads what a scrape says, strictly: OpenMetrics 1.0, as much of it as gauges, counters and infos need.

use std::collections::{BTreeMap, BTreeSet};

/// All samples: name, labels in order of their names, value.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

impl Exposition {
    pub(crate) fn read(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
        let mut read = Self::default();
        let (mut family, mut kind, mut families) = (String::new(), String::new(), BTreeSet::new());
        for line in body.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match *words {
                ["#", "HELP", name, help] => {
                    assert!(families.insert(name.to_owned()), "{name} is in two parts");
                    assert!(!help.is_empty());
                    (family, kind) = (name.to_owned(), String::new());
                }
                ["#", "TYPE", name, of] => {
                    assert_eq!((name, kind.as_str()), (family.as_str(), ""), "{line}");
                    assert!(["gauge", "counter", "info"].contains(&of), "{line}");
                    of.clone_into(&mut kind);
                }
                _ => {
                    assert!(!line.starts_with('#'), "{line}");
                    let (name, labels, value) = sample(line);
                    let expected = match kind.as_str() {
                        "counter" => format!("{family}_total"),
                        "info" => format!("{family}_info"),
                        _ => family.clone(),
                    };
                    assert_eq!(name, expected, "{line}");
                    assert!(kind != "counter" || value >= 0.0, "{line}");
                    assert!(read.samples.insert((name, labels), value).is_none(), "twice: {line}");
                }
            }
        }
        read
    }

    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.samples.keys().map(|(name, _)| name.as_str()).collect()
    }

    /// The values of a name with these labels among others.
    pub(crate) fn all(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let has = |of: &BTreeMap<String, String>| {
            labels.iter().all(|(key, value)| of.get(*key).is_some_and(|v| v == value))
        };
        self.samples.iter().filter(|((of, all), _)| of == name && has(all)).map(|(_, value)| *value).collect()
    }

    /// The only one of them.
    pub(crate) fn one(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let all = self.all(name, labels);
        assert_eq!(all.len(), 1, "{name} {labels:?}: {all:?} of {:?}", self.samples.keys());
        all[0]
    }

    /// The values that a label of a name has.
    pub(crate) fn values(&self, name: &str, label: &str) -> BTreeSet<&str> {
        let of = self.samples.keys().filter(|(of, _)| of == name);
        of.filter_map(|(_, labels)| labels.get(label)).map(String::as_str).collect()
    }
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(key), "{line}");
            let (value, after) = quoted(after, line);
            assert!(labels.insert(key.to_owned(), value).is_none(), "{line}");
            match after.strip_prefix(',') {
                Some(more) => rest = more,
                None => {
                    rest = after.strip_prefix('}').unwrap_or_else(|| panic!("{line}"));
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("{line}")))
}

/// Up to the quote that ends it, and what is after that.
fn quoted<'a>(text: &'a str, line: &str) -> (String, &'a str) {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match characters.next() {
                Some((_, 'n')) => '\n',
                Some((_, c @ ('"' | '\\'))) => c,
                other => panic!("{other:?} in {line}"),
            }),
            c => value.push(c),
        }
    }
    panic!("no end of a label in {line}")
}
