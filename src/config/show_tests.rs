//! Tests of what is printed.

use super::*;
use crate::config::units::{Unit, parse};
use crate::config::{ListenerConfig, Sources, TomlFile, build};
use crate::model::UnitName;
use std::path::Path;

const TOML: &str = r#"[protect]
ports = ["5432"]
[[listener]]
name = "a \"b\""
stream = ["0.0.0.0:443", "[::]:443"]
allow = ["user:33"]
idle = "queue 30s"
free-bind = false
bind-to-device = "lo"
socket-mode = "0600"
[[pool]]
name = "egress"
addresses = ["192.0.2.10-192.0.2.13", "dev:eth0"]
ports = "10000-32767, 61000-65535"
allow = "user:33+sockets"
quota = { ports = 20000 }
"#;

fn checked() -> Checked {
    let name = UnitName::try_from("db.service").unwrap();
    let text =
        "[X-PortBroker]\nListenStream=%p.sock\nListenStream=\nListenStream=/run/%p.sock\nRequired=yes\n";
    let (settings, _) = parse(Path::new("/db.service"), Some(&name), text.as_bytes());
    build(&Sources {
        files: vec![TomlFile { path: "/a.toml".into(), text: TOML.into() }],
        units: vec![Unit { name, enabled: true, settings }],
        ..Sources::default()
    })
}

#[test]
fn every_value_is_shown_with_its_origin() {
    let text = config_toml(&checked());
    assert_eq!(
        text,
        r#"[protect]
learn = true                                 # default
ports = [
    "5432",                                  # /a.toml:2:10
]

[limits]
connections-per-user = 128                   # default
connections = 4096                           # default
calls-per-user = 8                           # default
unread-descriptors-per-user = 2048           # default
unread-descriptors = 65536                   # default
unread-bytes-per-user = "16M"                # default
unread-bytes = "64M"                         # default
unread-time = "30s"                          # default
log-lines-per-user = 100                     # default
log-buffer = "1M"                            # default
holders-per-user = 1024                      # default

[metrics]
socket = "default"                           # default
socket-mode = "0660"                         # default
destinations = 20                            # default

[[listener]]
name = "db"                                  # /db.service:4:1
stream = [
    "/run/db.sock",                          # /db.service:4:1
]
allow = [
    "unit:db.service",                       # /db.service:4:1
]
idle = "queue"                               # default
backlog = 4096                               # default
free-bind = true                             # default
bind-ipv6-only = "default"                   # default
socket-mode = "0666"                         # default
directory-mode = "0755"                      # default
protocol = "tcp"                             # default
remove-on-stop = false                       # default
reuse-port = 1                               # default
# Required=yes: the unit does not start without the broker # /db.service:5:1

[[listener]]
name = 'a "b"'                               # /a.toml:4:8
stream = [
    "0.0.0.0:443",                           # /a.toml:5:11
    "[::]:443",                              # /a.toml:5:26
]
allow = [
    "user:33",                               # /a.toml:6:10
]
idle = "queue 30s"                           # /a.toml:7:8
backlog = 4096                               # default
free-bind = false                            # /a.toml:8:13
bind-ipv6-only = "default"                   # default
bind-to-device = "lo"                        # /a.toml:9:18
socket-mode = "0600"                         # /a.toml:10:15
directory-mode = "0755"                      # default
protocol = "tcp"                             # default
remove-on-stop = false                       # default
reuse-port = 1                               # default

[[pool]]
name = "egress"                              # /a.toml:12:8
addresses = [
    "192.0.2.10-192.0.2.13",                 # /a.toml:13:14
    "dev:eth0",                              # /a.toml:13:39
]
ports = "10000-32767, 61000-65535"           # /a.toml:14:9
spread = "least-used"                        # default
allow = [
    "user:33+sockets",                       # /a.toml:15:9
]
quota = { ports = 20000 }                    # /a.toml:16:19
"#
    );
}

#[test]
fn what_is_shown_reads_as_the_same_configuration() {
    let first = checked();
    let file = TomlFile { path: "/shown.toml".into(), text: config_toml(&first) };
    let second = build(&Sources { files: vec![file], ..Sources::default() });
    assert_eq!(second.faults, []);
    let plain = |checked: &Checked| -> Vec<ListenerConfig> {
        let listeners = checked.config.listeners.values().map(|listener| ListenerConfig::clone(listener));
        listeners.map(|listener| ListenerConfig { origin: Origin::default(), ..listener }).collect()
    };
    assert_eq!(plain(&first), plain(&second));
    assert_eq!(first.config.protect, second.config.protect);
    let pools = |checked: &Checked| {
        let mut pools = checked.config.pools.clone();
        pools.values_mut().for_each(|pool| pool.origin = Origin::default());
        pools
    };
    assert_eq!(pools(&first), pools(&second));
}

#[test]
fn the_pool_that_nobody_wrote_is_told_of() {
    let empty = build(&Sources::default());
    let text = config_toml(&empty);
    assert!(text.contains("\n# No [[pool]], and so there is one: \"default\""), "{text}");
    let file = TomlFile { path: "/shown.toml".into(), text };
    assert_eq!(build(&Sources { files: vec![file], ..Sources::default() }).config, empty.config);
    assert_eq!(config_json(&empty)["pools"], json!([]));
}

#[test]
fn json_has_the_documented_keys() {
    let json = config_json(&checked());
    assert_eq!(json["protect"]["ports"], "5432");
    let db = &json["listeners"][0];
    assert_eq!((&db["name"], &db["source"], &db["required"]), (&json!("db"), &json!("unit"), &json!(true)));
    assert_eq!(db["sockets"], json!(["unix /run/db.sock"]));
    assert_eq!(
        db["values"][0],
        json!({"key": "stream", "value": "/run/db.sock",
               "origin": {"file": "/db.service", "line": 4, "column": 1, "unit": "db.service"}})
    );
    let backlog = db["values"].as_array().unwrap().iter().find(|value| value["key"] == "backlog").unwrap();
    assert_eq!((&backlog["value"], &backlog["origin"]), (&json!(4096), &Value::Null));
    assert_eq!(json["listeners"][1]["source"], "toml");
    let pool = &json["pools"][0];
    assert_eq!((&pool["name"], &pool["ports"]), (&json!("egress"), &json!("10000-32767,61000-65535")));
    let values: Vec<_> = pool["values"].as_array().unwrap().iter().map(|value| &value["key"]).collect();
    let keys = ["addresses", "addresses", "ports", "spread", "allow", "quota", "minimum", "close-orphans"];
    assert_eq!(values, keys);
    assert_eq!(
        (&pool["values"][5]["value"], &pool["values"][5]["origin"]["line"]),
        (&json!({"ports": 20000}), &json!(16))
    );
}

#[test]
fn faults_are_json_too() {
    let file = TomlFile { path: "/a.toml".into(), text: "[x]\n".into() };
    let checked = build(&Sources { files: vec![file], ..Sources::default() });
    let origin = json!({"file": "/a.toml", "line": 1, "column": 2, "unit": null});
    let fault = json!({
        "severity": "error", "origin": origin, "message": "unknown section \"x\"",
        "help": "take it out; there is protect, limits, metrics, listener, pool", "related": [],
    });
    assert_eq!(faults_json(&checked), json!({"valid": false, "errors": 1, "warnings": 0, "faults": [fault]}));
    assert_eq!(summary(&checked), "the configuration has 1 error");
}

#[test]
fn the_summary_counts() {
    assert_eq!(
        summary(&checked()),
        "the configuration is valid: 2 listeners, 3 sockets, 1 pool, 1 protected port, 0 warnings"
    );
}
