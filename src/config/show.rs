//! The configuration and its faults as text and as JSON: what `portbroker check` and `cat-config` print.
//!
//! The text of a configuration is TOML again, each value with where it comes from as a comment; read as a
//! file of its own it gives the same listeners and pools.

mod pools;

use super::definition::{Definition, Source};
use super::fault::Place;
use super::key::Key;
use super::plain::quote;
use super::{Checked, Fault, Limit, Origin};
use crate::model::SocketKind;
use serde_json::{Value, json};
use std::fmt::Write as _;

pub use super::plain::to_toml;

/// Where the comments begin.
const COLUMN: usize = 44;

/// A value of a listener that is not in a list, and its place where it has one.
struct Single<'a> {
    key: Key,
    value: Value,
    place: Option<&'a Place>,
}

/// `check --json`: keys `valid`, `errors`, `warnings` (counts) and `faults`, each with `severity`, `origin`
/// (`file`, `line`, `column`, `unit`; null for what is not known), `message`, `help` and `related`.
#[must_use]
pub fn faults_json(checked: &Checked) -> Value {
    let errors = checked.faults.iter().filter(|fault| fault.is_error()).count();
    json!({
        "valid": checked.is_valid(),
        "errors": errors,
        "warnings": checked.faults.len().saturating_sub(errors),
        "faults": checked.faults.iter().map(fault_json).collect::<Vec<_>>(),
    })
}

fn fault_json(fault: &Fault) -> Value {
    let related = |(origin, what): &(Origin, String)| json!({"origin": origin_json(origin), "what": what});
    json!({
        "severity": fault.severity.to_string(),
        "origin": origin_json(&fault.origin),
        "message": fault.message,
        "help": fault.help,
        "related": fault.related.iter().map(related).collect::<Vec<_>>(),
    })
}

fn origin_json(origin: &Origin) -> Value {
    let number = |n: usize| if n == 0 { Value::Null } else { json!(n) };
    let file = origin.file.display().to_string();
    json!({
        "file": if file.is_empty() { Value::Null } else { json!(file) },
        "line": number(origin.line),
        "column": number(origin.column),
        "unit": origin.unit.as_ref().map(ToString::to_string),
    })
}

/// One line: what was checked and what came out.
#[must_use]
pub fn summary(checked: &Checked) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let errors = checked.faults.iter().filter(|fault| fault.is_error()).count();
    let warnings = checked.faults.len().saturating_sub(errors);
    let sockets = checked.config.listeners.values().map(|listener| listener.sockets()).sum();
    match (errors, warnings) {
        (0, _) => format!(
            "the configuration is valid: {}, {}, {}{}, {}",
            count(checked.config.listeners.len(), "listener"),
            count(sockets, "socket"),
            match checked.config.pools.len() {
                0 => String::new(),
                pools => format!("{}, ", count(pools, "pool")),
            },
            count(checked.config.protect.ports.len(), "protected port"),
            count(warnings, "warning")
        ),
        (errors, 0) => format!("the configuration has {}", count(errors, "error")),
        (errors, warnings) => {
            format!("the configuration has {} and {}", count(errors, "error"), count(warnings, "warning"))
        }
    }
}

/// Every key of a listener with one value: all of them, assigned or not.
fn singles(definition: &Definition) -> Vec<Single<'_>> {
    let options = &definition.config.options;
    let account = |account: &Option<super::Account>| match account {
        Some(account) => json!(account.name),
        None => Value::Null,
    };
    let values = [
        (Key::Idle, json!(definition.config.idle.to_string())),
        (Key::Activate, definition.config.activate.as_ref().map_or(Value::Null, |unit| json!(unit.as_str()))),
        (Key::Backlog, json!(options.backlog)),
        (Key::FreeBind, json!(options.free_bind)),
        (Key::BindIpv6Only, json!(definition.bind_ipv6_only.as_str())),
        (Key::BindToDevice, definition.device.as_ref().map_or(Value::Null, |device| json!(device.as_str()))),
        (Key::SocketMode, json!(format!("{:04o}", options.socket_mode))),
        (Key::SocketUser, account(&options.socket_user)),
        (Key::SocketGroup, account(&options.socket_group)),
        (Key::DirectoryMode, json!(format!("{:04o}", options.directory_mode))),
        (Key::Protocol, json!(options.protocol.as_str())),
        (Key::RemoveOnStop, json!(options.remove_on_stop)),
        (Key::ReusePort, json!(options.shards)),
    ];
    // What is left to the kernel has no default of ours.
    let tuned = options.tuning.iter().map(|(tunable, value)| (Key::Tune(*tunable), value.json()));
    let single = |(key, value)| Single { key, value, place: definition.places.get(&key) };
    values.into_iter().chain(tuned).map(single).collect()
}

/// The lists of a listener: key, text and place.
fn lists(definition: &Definition) -> [(Key, Vec<(String, &Place)>); 5] {
    let addresses = |kind: SocketKind| {
        let of_kind = definition.addresses.iter().filter(move |address| address.kind == kind);
        of_kind.map(|address| (address.text.clone(), &address.place)).collect()
    };
    let links_at = definition.place_of(Key::Symlinks);
    let symlinks =
        definition.config.options.symlinks.iter().map(|path| (path.display().to_string(), links_at));
    let grants = definition.config.allow.iter().zip(&definition.grant_places);
    [
        (Key::Stream, addresses(SocketKind::Stream)),
        (Key::Datagram, addresses(SocketKind::Datagram)),
        (Key::SeqPacket, addresses(SocketKind::SeqPacket)),
        (Key::Allow, grants.map(|(grant, place)| (grant.to_string(), place)).collect()),
        (Key::Symlinks, symlinks.collect()),
    ]
}

/// `cat-config`: TOML, with the origin of every value as a comment.
#[must_use]
pub fn config_toml(checked: &Checked) -> String {
    let mut text = String::new();
    text.push_str("[protect]\n");
    let learn = checked.protect.learn.as_ref().map(|(_, place)| place);
    line(&mut text, &format!("learn = {}", checked.config.protect.learn), learn);
    for (key, ranges) in [("exclude", &checked.protect.exclude), ("ports", &checked.protect.ports)] {
        let ranges: Vec<_> = ranges.iter().map(|(range, place)| (range.to_string(), place)).collect();
        list(&mut text, key, &ranges);
    }
    text.push_str("\n[limits]\n");
    for limit in Limit::all() {
        let value = limit.written(checked.config.limits.get(limit));
        line(&mut text, &format!("{} = {value}", limit.key()), checked.limits.place(limit));
    }
    text.push_str("\n[metrics]\n");
    for (key, value, place) in checked.metrics.shown() {
        if let Some(value) = scalar(&value) {
            line(&mut text, &format!("{key} = {value}"), place);
        }
    }
    list(&mut text, "listen", &checked.metrics.listen());
    for definition in &checked.definitions {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str("[[listener]]\n");
        line(&mut text, &format!("name = {}", quote(definition.name.as_str())), Some(&definition.place));
        for (key, values) in lists(definition) {
            list(&mut text, key.toml(), &values);
        }
        for Single { key, value, place } in singles(definition) {
            // What is not set has no text in TOML.
            if let Some(value) = scalar(&value) {
                line(&mut text, &format!("{key} = {value}"), place);
            }
        }
        if let Some(origin) = required(checked, definition) {
            let place = Place { origin: origin.clone(), width: 0 };
            line(&mut text, "# Required=yes: the unit does not start without the broker", Some(&place));
        }
    }
    pools::toml(checked, &mut text);
    text
}

fn required<'a>(checked: &'a Checked, definition: &Definition) -> Option<&'a Origin> {
    let unit = definition.config.origin.unit.as_ref().filter(|_| definition.source == Source::Unit)?;
    let section = checked.sections.iter().find(|section| section.unit == *unit)?;
    section.required_at.as_ref().filter(|_| section.required)
}

fn line(text: &mut String, value: &str, place: Option<&Place>) {
    let origin = place.map_or_else(|| "default".to_owned(), |place| place.origin.to_string());
    // Writing into a String cannot fail.
    let _ = writeln!(text, "{value:<COLUMN$} # {}", origin.escape_debug());
}

fn list(text: &mut String, key: &str, values: &[(String, &Place)]) {
    if values.is_empty() {
        return;
    }
    let _ = writeln!(text, "{key} = [");
    for (value, place) in values {
        line(text, &format!("    {},", quote(value)), Some(place));
    }
    text.push_str("]\n");
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(quote(text)),
        other => Some(other.to_string()),
    }
}

/// `cat-config --json`: keys `listeners`, `pools`, `protect`, `limits` and `metrics`.
///
/// A listener has `name`, `source` (`unit`, `toml`, `inherited`), `origin`, `required`, `sockets` (the
/// endpoints that come of it) and `values`, each with `key`, `value` and `origin`, null for a default.
/// Keys with several values come once for each. A pool has `name`, `origin`, `ports` (`auto`, or ranges) and `values`;
/// where there is none the list is empty, and the broker has the pool `default`. `protect` has `ports`, `learn`, `exclude` and `values`, `limits` and `metrics` have `values`.
#[must_use]
pub fn config_json(checked: &Checked) -> Value {
    let listeners: Vec<_> = checked.definitions.iter().map(|d| listener_json(checked, d)).collect();
    json!({ "listeners": listeners, "pools": pools::all_json(checked), "protect": protect_json(checked), "limits": limits_json(checked), "metrics": metrics_json(checked) })
}

fn protect_json(checked: &Checked) -> Value {
    let value = |key: &str, value: Value, place: Option<&Place>| {
        let origin = place.map_or(Value::Null, |place| origin_json(&place.origin));
        json!({"key": key, "value": value, "origin": origin})
    };
    let learn = checked.protect.learn.as_ref().map(|(_, place)| place);
    let mut values = vec![value("learn", json!(checked.config.protect.learn), learn)];
    for (key, ranges) in [("exclude", &checked.protect.exclude), ("ports", &checked.protect.ports)] {
        values.extend(ranges.iter().map(|(range, place)| value(key, json!(range.to_string()), Some(place))));
    }
    json!({
        "ports": checked.config.protect.ports.to_string(),
        "learn": checked.config.protect.learn,
        "exclude": checked.config.protect.exclude.to_string(),
        "values": values,
    })
}

fn limits_json(checked: &Checked) -> Value {
    let value = |limit: Limit| {
        let origin = checked.limits.place(limit).map_or(Value::Null, |place| origin_json(&place.origin));
        json!({"key": limit.key(), "value": checked.config.limits.get(limit), "origin": origin})
    };
    json!({ "values": Limit::all().map(value).collect::<Vec<_>>() })
}

fn metrics_json(checked: &Checked) -> Value {
    let value = |key: &str, value: Value, place: Option<&Place>| {
        let origin = place.map_or(Value::Null, |place| origin_json(&place.origin));
        json!({"key": key, "value": value, "origin": origin})
    };
    let shown = checked.metrics.shown().into_iter().map(|(key, of, place)| value(key, of, place));
    let listen =
        checked.metrics.listen().into_iter().map(|(of, place)| value("listen", json!(of), Some(place)));
    json!({ "values": shown.chain(listen).collect::<Vec<_>>() })
}

fn listener_json(checked: &Checked, definition: &Definition) -> Value {
    let mut values = Vec::new();
    for (key, list) in lists(definition) {
        for (value, place) in list {
            values.push(json!({"key": key.toml(), "value": value, "origin": origin_json(&place.origin)}));
        }
    }
    for Single { key, value, place } in singles(definition) {
        let origin = place.map_or(Value::Null, |place| origin_json(&place.origin));
        values.push(json!({"key": key.toml(), "value": value, "origin": origin}));
    }
    let source = match definition.source {
        Source::Unit => "unit",
        Source::Toml => "toml",
        Source::Inherited | Source::InheritedWithOptions => "inherited",
    };
    json!({
        "name": definition.name.as_str(),
        "source": source,
        "origin": origin_json(&definition.place.origin),
        "required": required(checked, definition).is_some(),
        "sockets": definition.config.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "values": values,
    })
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
