//! A configuration as a TOML file of its own: what the daemon keeps as the last good one.
//!
//! Read again, it gives the same configuration but for the origins; listeners of units and inherited ones
//! have become listeners of the file. Only what is not the default is written, and ports in a row as a
//! range, so that a large configuration stays below the largest file that is read.

use super::listen::{self, Address, BindIpv6Only};
use super::{
    Account, Config, Idle, ListenerConfig, Metrics, PoolConfig, PortsSpec, Protect, Quota, SocketOptions,
    Spread, TuningValue,
};
use crate::model::{Endpoint, InetEndpoint, SocketKind};
use std::fmt::Write as _;

/// The configuration as TOML.
#[must_use]
pub fn to_toml(config: &Config) -> String {
    let mut text = String::new();
    let protect = protect(&config.protect);
    if !protect.is_empty() {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "[protect]\n{protect}");
    }
    if config.limits.set().next().is_some() {
        text.push_str("[limits]\n");
        for (limit, value) in config.limits.set() {
            let _ = writeln!(text, "{} = {}", limit.key(), limit.written(value));
        }
        text.push('\n');
    }
    let metrics = metrics(&config.metrics);
    if !metrics.is_empty() {
        let _ = writeln!(text, "[metrics]\n{metrics}");
    }
    for (name, listener) in &config.listeners {
        let _ = writeln!(text, "[[listener]]\nname = {}", quote(name.as_str()));
        for (key, value) in values(listener) {
            let _ = writeln!(text, "{key} = {value}");
        }
        text.push('\n');
    }
    for (name, pool) in &config.pools {
        let _ = writeln!(text, "[[pool]]\nname = {}", quote(name.as_str()));
        for (key, value) in pool_values(pool) {
            let _ = writeln!(text, "{key} = {value}");
        }
        text.push('\n');
    }
    text
}

/// Keys and values of a pool, without those that are the default.
fn pool_values(pool: &PoolConfig) -> Vec<(&'static str, String)> {
    let texts = |all: Vec<String>| (!all.is_empty()).then(|| list(&all));
    let values = [
        ("addresses", texts(pool.addresses.iter().map(ToString::to_string).collect())),
        ("ports", (pool.ports != PortsSpec::Auto).then(|| quote(&pool.ports.to_string()))),
        ("spread", (pool.spread != Spread::default()).then(|| quote(pool.spread.as_str()))),
        ("allow", texts(pool.allow.iter().map(ToString::to_string).collect())),
        (
            "quota",
            match pool.quota {
                Quota::PortsPerCaller(ports) => Some(format!("{{ ports = {ports} }}")),
                Quota::None | Quota::Quarter => None,
            },
        ),
        ("minimum", (pool.minimum > 0).then(|| format!("{{ ports = {} }}", pool.minimum))),
        (
            "close-orphans",
            pool.close_orphans.map(|time| quote(&humantime::format_duration(time).to_string())),
        ),
    ];
    values.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))).collect()
}

/// The keys of `[protect]`, without those that are the default.
fn protect(protect: &Protect) -> String {
    let mut text = String::new();
    for (key, ports) in [("ports", &protect.ports), ("exclude", &protect.exclude)] {
        if !ports.is_empty() {
            let ranges: Vec<_> = ports.ranges().iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "{key} = {}", list(&ranges));
        }
    }
    if !protect.learn {
        text.push_str("learn = false\n");
    }
    text
}

/// The keys of `[metrics]`, without those that are the default.
fn metrics(metrics: &Metrics) -> String {
    let default = Metrics::default();
    let addresses: Vec<String> = metrics.listen.iter().map(ToString::to_string).collect();
    let values = [
        ("socket", (metrics.socket != default.socket).then(|| quote(&metrics.socket.to_string()))),
        (
            "socket-mode",
            (metrics.socket_mode != default.socket_mode)
                .then(|| quote(&format!("{:04o}", metrics.socket_mode))),
        ),
        ("socket-group", metrics.socket_group.as_ref().map(|group| quote(&group.name))),
        ("listen", (!addresses.is_empty()).then(|| list(&addresses))),
        (
            "destinations",
            (metrics.destinations != default.destinations).then(|| metrics.destinations.to_string()),
        ),
    ];
    let set = values.into_iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", value?)));
    set.collect()
}

/// A string of TOML.
pub(super) fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quote(text)).collect::<Vec<_>>().join(", "))
}

/// Keys and values as TOML has them, without those that are the default.
fn values(listener: &ListenerConfig) -> Vec<(&'static str, String)> {
    let options = &listener.options;
    let default = SocketOptions::default();
    let account = |account: &Option<Account>| account.as_ref().map(|account| quote(&account.name));
    let mode = |mode: u32, default: u32| (mode != default).then(|| quote(&format!("{mode:04o}")));
    let symlinks: Vec<_> = options.symlinks.iter().map(|path| path.display().to_string()).collect();
    let allow: Vec<_> = listener.allow.iter().map(ToString::to_string).collect();
    let (blocks, bind) = addresses(&listener.endpoints);
    let mut values: Vec<_> = blocks;
    let others = [
        ("allow", (!allow.is_empty()).then(|| list(&allow))),
        ("idle", (listener.idle != Idle::default()).then(|| quote(&listener.idle.to_string()))),
        ("activate", listener.activate.as_ref().map(|unit| quote(unit.as_str()))),
        ("backlog", (options.backlog != default.backlog).then(|| options.backlog.to_string())),
        ("free-bind", (options.free_bind != default.free_bind).then(|| options.free_bind.to_string())),
        ("bind-ipv6-only", (bind != BindIpv6Only::default()).then(|| quote(bind.as_str()))),
        ("socket-mode", mode(options.socket_mode, default.socket_mode)),
        ("socket-user", account(&options.socket_user)),
        ("socket-group", account(&options.socket_group)),
        ("directory-mode", mode(options.directory_mode, default.directory_mode)),
        ("protocol", (options.protocol != default.protocol).then(|| quote(options.protocol.as_str()))),
        ("symlinks", (!symlinks.is_empty()).then(|| list(&symlinks))),
        ("remove-on-stop", options.remove_on_stop.then(|| "true".to_owned())),
        ("reuse-port", (options.shards != default.shards).then(|| options.shards.to_string())),
    ];
    values.extend(others.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))));
    values.extend(options.tuning.iter().map(|(tunable, value)| (tunable.toml(), tuned(value))));
    values
}

fn tuned(value: &TuningValue) -> String {
    match value {
        TuningValue::Word(word) => quote(word),
        TuningValue::Flag(_) | TuningValue::Number(_) => value.to_string(),
    }
}

/// An address as the syntax of `stream` has it, its ports a range.
fn written(inet: &InetEndpoint, last: u16) -> String {
    // With the port behind it, what Display gives is `ADDRESS:PORT`, and `ADDRESS:PORT-LAST` with this.
    let range = if last == inet.address.port() { String::new() } else { format!("-{last}") };
    let device = inet.device.as_ref().map(|device| format!("%{}", device.as_str())).unwrap_or_default();
    format!("{}{range}{device}", inet.address)
}

/// Runs of endpoints that differ in nothing but the next port.
fn ranges(endpoints: &[&Endpoint]) -> Vec<String> {
    let mut texts = Vec::new();
    let mut run: Option<(&InetEndpoint, u16)> = None;
    for endpoint in endpoints {
        match (endpoint, run) {
            (Endpoint::Inet(inet), Some((first, last))) if continues(first, last, inet) => {
                run = Some((first, inet.address.port()));
                continue;
            }
            _ => texts.extend(run.take().map(|(first, last)| written(first, last))),
        }
        match endpoint {
            Endpoint::Inet(inet) => run = Some((inet, inet.address.port())),
            Endpoint::Unix(unix) => texts.push(unix.address.to_string()),
        }
    }
    texts.extend(run.map(|(first, last)| written(first, last)));
    texts
}

fn continues(first: &InetEndpoint, last: u16, next: &InetEndpoint) -> bool {
    let mut expected = first.clone();
    let Some(port) = last.checked_add(1) else { return false };
    expected.address.set_port(port);
    expected == *next
}

/// The lines for the addresses, and the `bind-ipv6-only` with which they mean these endpoints.
fn addresses(endpoints: &[Endpoint]) -> (Vec<(&'static str, String)>, BindIpv6Only) {
    let mut lines = Vec::new();
    let mut parsed: Vec<(SocketKind, Address)> = Vec::new();
    let kinds = [
        ("stream", SocketKind::Stream),
        ("datagram", SocketKind::Datagram),
        ("seqpacket", SocketKind::SeqPacket),
    ];
    for (key, kind) in kinds {
        let of_kind: Vec<_> = endpoints.iter().filter(|endpoint| endpoint.kind() == kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        let texts = ranges(&of_kind);
        parsed.extend(texts.iter().filter_map(|text| Some((kind, text.parse().ok()?))));
        lines.push((key, list(&texts)));
    }
    let fits = |bind: &BindIpv6Only| {
        let made = listen::endpoints(&parsed, *bind, None).unwrap_or_default();
        let dual = |e: &&Endpoint| matches!(e, Endpoint::Inet(inet) if inet.is_dual_stack());
        let wanted: Vec<_> = endpoints.iter().filter(dual).collect();
        let got: Vec<_> = made.iter().map(|(endpoint, _)| endpoint).filter(dual).collect();
        wanted.len() == got.len() && wanted.iter().all(|endpoint| got.contains(endpoint))
    };
    let all = [BindIpv6Only::Default, BindIpv6Only::Ipv6Only, BindIpv6Only::Both];
    (lines, all.into_iter().find(fits).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Checked, Origin, Sources, TomlFile, build};

    fn read(text: &str) -> Checked {
        let files = vec![TomlFile { path: "/x.toml".into(), text: text.into() }];
        let checked = build(&Sources { files, inherited: Some(Vec::new()), ..Sources::default() });
        assert_eq!(checked.faults, []);
        checked
    }

    fn without_origins(mut config: Config) -> Config {
        config
            .listeners
            .values_mut()
            .for_each(|listener| std::sync::Arc::make_mut(listener).origin = Origin::default());
        config.pools.values_mut().for_each(|pool| pool.origin = Origin::default());
        config
    }

    #[test]
    fn a_configuration_reads_as_it_was_kept() {
        let texts = [
            "",
            "[protect]\nports = [\"1\", \"80-90\"]\nexclude = [\"8000-8100\"]\nlearn = false",
            "[[listener]]\nname = \"a \\\"b\\\"\"\nstream = [\"0.0.0.0:443-445\", \"[::]:443-444\", \"/run/x\", \"446\", \"127.0.0.1:447\"]\n\
             datagram = [\"[::1]:53%lo\", \"@x y\"]\nallow = [\"unit:a.service+user:33\", \"group:0\"]\nidle = \"queue\"\nactivate = \"a@1.service\"\n\
             backlog = 5\nfree-bind = false\nsocket-mode = \"0600\"\nsocket-user = \"33\"\nsocket-group = \"0\"\ndirectory-mode = \"0700\"",
            "[[listener]]\nname = \"a\"\nstream = [\"80-81\", \"[fe80::1]:82%eth0\", \"[fe80::1]:83%2\"]\nbind-ipv6-only = \"ipv6-only\"",
            "[[listener]]\nname = \"a\"\nstream = [\"80\", \"/run/x\"]\nseqpacket = [\"/run/y\", \"@z\"]\nprotocol = \"mptcp\"\nremove-on-stop = true\n\
             keep-alive = true\nkeep-alive-time = \"10min\"\nmark = 4294967295\ntimestamping = \"ns\"\ntcp-congestion = \"reno\"\nreceive-buffer = \"8M\"",
            "[[listener]]\nname = \"a\"\nstream = \"/run/x\"\nsymlinks = [\"/run/b\", \"/run/c\"]\npass-credentials = true",
            "[[listener]]\nname = \"a\"\nstream = \"65534-65535\"\nbind-to-device = \"lo\"\nreuse-port = 4\n[[listener]]\nname = \"b\"\nstream = \"80\"\nbind-ipv6-only = \"both\"",
            "[[pool]]\nname = \"a \\\"b\\\"\"\naddresses = [\"192.0.2.10-192.0.2.13\", \"198.51.100.7\", \"2001:db8:1::/64\", \"dev:eth-0.5\", \"2001:db8::1-2001:db8::5\"]\n\
             ports = \"10000-32767, 61000-65535\"\nspread = \"sticky\"\nallow = [\"unit:a.service+user:33+sockets\", \"group:0\"]\nquota = { ports = 20_000 }\n\
             [[pool]]\nname = \"web\"\naddresses = \"127.0.0.0/22\"\nports = \"auto\"",
        ];
        for text in texts {
            let config = without_origins(read(text).config);
            assert_eq!(without_origins(read(&to_toml(&config)).config), config, "{}", to_toml(&config));
        }
    }

    #[test]
    fn ports_in_a_row_are_a_range() {
        let config = read("[[listener]]\nname = \"a\"\nstream = [\"0.0.0.0:1-4096\"]").config;
        assert_eq!(to_toml(&config), "[[listener]]\nname = \"a\"\nstream = [\"0.0.0.0:1-4096\"]\n\n");
    }
}
