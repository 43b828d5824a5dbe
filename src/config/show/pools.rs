//! Pools as `cat-config` shows them.

use super::super::pool_definition::PoolDefinition;
use super::super::{Checked, Quota};
use super::{line, list, origin_json, quote};
use crate::config::fault::Place;
use serde_json::{Value, json};

/// The pools as TOML, with origins; what there is without any is a comment, since it cannot be written.
pub(super) fn toml(checked: &Checked, text: &mut String) {
    for pool in &checked.pools {
        text.push_str("\n[[pool]]\n");
        one(pool, text);
    }
    if checked.pools.is_empty() {
        text.push_str(
            "\n# No [[pool]], and so there is one: \"default\" has the addresses of the host, or of loopback where it has no\n\
             # other, for every user of the host; a quarter for each, and three quarters for all together.\n",
        );
    }
}

fn one(pool: &PoolDefinition, text: &mut String) {
    let config = &pool.config;
    line(text, &format!("name = {}", quote(pool.name.as_str())), Some(&pool.place));
    let addresses = config.addresses.iter().map(ToString::to_string).zip(&pool.address_places);
    list(text, "addresses", &addresses.collect::<Vec<_>>());
    match pool.ports.as_slice() {
        [] => line(text, &format!("ports = {}", quote(&config.ports.to_string())), None),
        [(ports, place)] => line(text, &format!("ports = {}", quote(ports)), Some(place)),
        several => {
            let several = several.iter().map(|(ports, place)| (ports.clone(), place));
            list(text, "ports", &several.collect::<Vec<_>>());
        }
    }
    line(text, &format!("spread = {}", quote(config.spread.as_str())), pool.spread.as_ref());
    let allow = config.allow.iter().map(ToString::to_string).zip(&pool.grant_places);
    list(text, "allow", &allow.collect::<Vec<_>>());
    if let Quota::PortsPerCaller(ports) = config.quota {
        line(text, &format!("quota = {{ ports = {ports} }}"), pool.quota.as_ref());
    }
    if config.minimum > 0 {
        line(text, &format!("minimum = {{ ports = {} }}", config.minimum), pool.minimum.as_ref());
    }
    if let Some(time) = config.close_orphans {
        let time = humantime::format_duration(time).to_string();
        line(text, &format!("close-orphans = {}", quote(&time)), pool.close_orphans.as_ref());
    }
}

/// The pools as JSON: `name`, `origin`, `ports` (`auto` or ranges) and `values`, as listeners have them.
pub(super) fn all_json(checked: &Checked) -> Value {
    checked.pools.iter().map(pool_json).collect()
}

fn pool_json(pool: &PoolDefinition) -> Value {
    let config = &pool.config;
    let value = |key: &str, value: Value, place: Option<&Place>| {
        let origin = place.map_or(Value::Null, |place| origin_json(&place.origin));
        json!({"key": key, "value": value, "origin": origin})
    };
    let mut values = Vec::new();
    for (address, place) in config.addresses.iter().zip(&pool.address_places) {
        values.push(value("addresses", json!(address.to_string()), Some(place)));
    }
    values.extend(pool.ports.iter().map(|(ports, place)| value("ports", json!(ports), Some(place))));
    if pool.ports.is_empty() {
        values.push(value("ports", json!(config.ports.to_string()), None));
    }
    values.push(value("spread", json!(config.spread.as_str()), pool.spread.as_ref()));
    for (grant, place) in config.allow.iter().zip(&pool.grant_places) {
        values.push(value("allow", json!(grant.to_string()), Some(place)));
    }
    let quota = match config.quota {
        Quota::PortsPerCaller(ports) => json!({"ports": ports}),
        Quota::None | Quota::Quarter => Value::Null,
    };
    values.push(value("quota", quota, pool.quota.as_ref()));
    let minimum = (config.minimum > 0).then(|| json!({"ports": config.minimum}));
    values.push(value("minimum", minimum.unwrap_or(Value::Null), pool.minimum.as_ref()));
    let time = config.close_orphans.map(|time| json!(humantime::format_duration(time).to_string()));
    values.push(value("close-orphans", time.unwrap_or(Value::Null), pool.close_orphans.as_ref()));
    json!({
        "name": pool.name.as_str(),
        "origin": origin_json(&pool.place.origin),
        "ports": config.ports.to_string(),
        "values": values,
    })
}
