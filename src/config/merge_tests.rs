//! Tests of the three sources together.

use super::*;
use crate::config::units::parse;
use crate::model::{SocketKind, UnitName};
use std::path::Path;
use std::time::{Duration, Instant};

fn unit_at(path: &str, name: &str, enabled: bool, text: &str) -> Unit {
    let name = UnitName::try_from(name).unwrap();
    let (settings, _) = parse(Path::new(path), Some(&name), text.as_bytes());
    Unit { name, enabled, settings }
}

fn unit(name: &str, text: &str) -> Unit {
    unit_at(&format!("/usr/{name}"), name, false, text)
}

fn listens(name: &str, address: &str) -> Unit {
    unit(name, &format!("[X-PortBroker]\nListenStream={address}\n"))
}

fn sources(texts: &[&str], units: Vec<Unit>) -> Sources {
    let file =
        |(n, text): (usize, &&str)| TomlFile { path: format!("/{n}.toml").into(), text: (*text).into() };
    let files = texts.iter().enumerate().map(file).collect();
    Sources { files, units, inherited: Some(Vec::new()), ..Sources::default() }
}

fn faults(sources: &Sources) -> Vec<String> {
    build(sources).faults.iter().map(ToString::to_string).collect()
}

fn of_toml(text: &str) -> Vec<String> {
    faults(&sources(&[text], Vec::new()))
}

fn toml(name: &str, rest: &str) -> String {
    format!("[[listener]]\nname = {name:?}\n{rest}\n")
}

fn inherited(names: &[(&str, &str)]) -> Option<Vec<(ListenerName, Vec<Endpoint>)>> {
    let endpoints = |address: &str| {
        let address = address.parse().unwrap();
        let inet = InetEndpoint::new(SocketKind::Stream, address, false, None);
        vec![Endpoint::Inet(inet.unwrap())]
    };
    Some(names.iter().map(|&(name, at)| (ListenerName::try_from(name).unwrap(), endpoints(at))).collect())
}

#[test]
fn all_sources_make_one_configuration() {
    let mut sources = sources(
        &[&toml("web", "stream = \"80\""), "[protect]\nports = [\"5432\"]\n"],
        vec![listens("db.service", "127.0.0.1:3306")],
    );
    sources.inherited = inherited(&[("old", "127.0.0.1:25")]);
    let checked = build(&sources);
    assert_eq!(checked.faults, []);
    let names: Vec<_> = checked.config.listeners.keys().map(ListenerName::as_str).collect();
    assert_eq!(names, ["db", "old", "web"]);
    assert_eq!(checked.config.protect.ports.to_string(), "5432");
    assert_eq!(checked.sections().len(), 1);
    let old = checked.config.listeners.values().nth(1).unwrap();
    assert_eq!(old.origin, Origin::default());
    assert_eq!(old.endpoints[0].to_string(), "tcp 127.0.0.1:25");
}

#[test]
fn nothing_configured_is_valid() {
    let checked = build(&Sources::default());
    assert!(checked.is_valid() && checked.config == Config::default());
}

#[test]
fn a_name_is_defined_once_in_all_sources() {
    let mut sources = sources(
        &[&toml("a", "stream = \"1\""), &toml("a", "stream = \"2\"")],
        vec![listens("a.service", "3")],
    );
    sources.inherited = inherited(&[("a", "127.0.0.1:4")]);
    assert_eq!(
        faults(&sources),
        [
            "/0.toml:2:8: error: the listener \"a\" is defined twice; give one of them another name (inherited: the other)",
            "/1.toml:2:8: error: the listener \"a\" is defined twice; give one of them another name (inherited: the other)",
            "/usr/a.service:2:1: error: the listener \"a\" is defined twice; give one of them another name (inherited: the other)",
        ]
    );
}

#[test]
fn an_address_is_listened_on_once_in_all_sources() {
    let two = sources(&[&toml("a", "stream = \"80\"")], vec![listens("b.service", "80")]);
    assert_eq!(
        faults(&two),
        [
            "/0.toml:3:10: error: \"b\" and \"a\" both listen on tcp [::]:80; take one of them out (/usr/b.service:2:1: tcp [::]:80 of \"b\")"
        ]
    );
    let dual = of_toml(&(toml("a", "stream = \"127.0.0.1:80\"") + &toml("b", "stream = \"[::]:80\"")));
    assert_eq!(
        dual,
        [
            "/0.toml:6:10: error: tcp [::]:80 of \"b\" cannot be beside tcp 127.0.0.1:80 of \"a\"; take one of them out, or set bind-ipv6-only to \"ipv6-only\" for the IPv6 wildcard, which takes IPv4 too (/0.toml:3:10: tcp 127.0.0.1:80 of \"a\")"
        ]
    );
    assert_eq!(
        of_toml(&toml("a", "stream = [\"0.0.0.0:1-9\", \"127.0.0.1:5-7\"]")),
        [
            "/0.toml:3:26: error: tcp 127.0.0.1:5 of \"a\" cannot be beside its tcp 0.0.0.0:5; take one of them out (/0.toml:3:11: tcp 0.0.0.0:5 of \"a\")"
        ]
    );
    assert!(of_toml(&toml("a", "stream = [\"/x\", \"/x\"]"))[0].contains("\"a\" names unix /x twice"));
    assert!(of_toml(&toml("a", "stream = \"@x\"\ndatagram = \"@x\""))[0].contains("cannot be beside its"));
}

#[test]
fn addresses_that_can_be_side_by_side_are_no_fault() {
    let beside = [
        "stream = [\"0.0.0.0:80\", \"[::]:80\"]",
        "stream = \"80\"\ndatagram = \"80\"",
        "stream = [\"127.0.0.1:80\", \"127.0.0.2:80\", \"[::1]:80\", \"[fe80::1]:80%eth0\"]",
        "stream = [\"127.0.0.1:80%eth0\", \"127.0.0.1:80%eth1\"]",
        "stream = [\"/x\", \"@/x\", \"/y\"]",
    ];
    for addresses in beside {
        assert_eq!(of_toml(&toml("a", addresses)), [""; 0], "{addresses}");
    }
    let two =
        toml("a", "stream = \"0.0.0.0:80\"") + &toml("b", "stream = \"80\"\nbind-ipv6-only = \"ipv6-only\"");
    assert_eq!(of_toml(&two), [""; 0]);
}

#[test]
fn ten_thousand_listeners_are_checked_in_no_time() {
    let one = |n: u32| {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + n);
        toml(&format!("l{n}"), &format!("stream = \"{ip}:80\""))
    };
    let texts: Vec<String> = (0..10_000).map(one).collect();
    let sources = sources(&[&texts.concat()], Vec::new());
    let start = Instant::now();
    let checked = build(&sources);
    assert_eq!(checked.faults, []);
    assert_eq!(checked.config.listeners.len(), 10_000);
    // Quadratic would be some 50 million comparisons, and minutes; this is an unoptimised build on a busy machine.
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

#[test]
fn options_go_to_the_inherited_listener_of_that_name() {
    let text = toml("web", "allow = \"user:33\"\nidle = \"refuse\"\nfree-bind = false");
    let mut sources = sources(&[&text], Vec::new());
    assert!(faults(&sources)[0].contains("error: the listener \"web\" has no address, and no socket"));
    sources.inherited = None;
    let unknown = build(&sources);
    assert!(
        unknown.is_valid() && unknown.faults[0].to_string().contains("has no address: it is one only if")
    );
    assert_eq!(unknown.config.listeners.values().next().unwrap().endpoints, []);
    sources.inherited = inherited(&[("web", "0.0.0.0:80")]);
    let known = build(&sources);
    let web = known.config.listeners.values().next().unwrap();
    assert_eq!(web.endpoints[0].to_string(), "tcp 0.0.0.0:80");
    assert_eq!((web.allow.len(), web.idle.to_string()), (1, "refuse".to_owned()));
    assert_eq!(web.origin.file, "/0.toml".into());
    let warnings: Vec<_> = known.faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "/0.toml:5:13: warning: \"free-bind\" does nothing for \"web\", whose sockets came from outside; set it where they are made"
        ]
    );
    sources.files.push(TomlFile { path: "/1.toml".into(), text });
    assert!(faults(&sources).iter().any(|fault| fault.contains("\"web\" is defined twice")));
}

#[test]
fn an_inherited_listener_may_be_written_with_its_own_addresses() {
    let mut sources =
        sources(&[&toml("web", "stream = \"0.0.0.0:80\"\nidle = \"refuse\"\nfree-bind = false")], Vec::new());
    sources.inherited = inherited(&[("web", "0.0.0.0:80")]);
    let checked = build(&sources);
    assert_eq!(checked.faults, []);
    assert_eq!(checked.config.listeners.values().next().unwrap().idle.to_string(), "refuse");
    // What the daemon keeps as the last good configuration is taken beside the same sockets.
    let text = crate::config::show::to_toml(&checked.config);
    sources.files = vec![TomlFile { path: "/0.toml".into(), text }];
    assert_eq!(build(&sources).config, checked.config);
    sources.inherited = inherited(&[("web", "0.0.0.0:81")]);
    assert!(faults(&sources)[0].contains("\"web\" is defined twice"));
}

#[test]
fn an_inherited_listener_has_its_addresses_like_any_other() {
    let mut sources = sources(&[&toml("a", "stream = \"80\"")], Vec::new());
    sources.inherited = inherited(&[("web", "0.0.0.0:80")]);
    assert_eq!(
        faults(&sources),
        [
            "/0.toml:3:10: error: tcp [::]:80 of \"a\" cannot be beside tcp 0.0.0.0:80 of \"web\"; take one of them out, or set bind-ipv6-only to \"ipv6-only\" for the IPv6 wildcard, which takes IPv4 too (inherited: tcp 0.0.0.0:80 of \"web\")"
        ]
    );
}

#[test]
fn socket_units_of_ours_are_inherited_where_nothing_else_is_known() {
    let socket = unit(
        "old.socket",
        "[Socket]\nListenStream=1\nListenStream=\nListenStream=127.0.0.1:25\nFileDescriptorName=old\nService=portbroker.service\n",
    );
    let own = unit(
        "portbroker.socket",
        "[Socket]\nListenStream=/run/portbroker/bus\nFileDescriptorName=portbroker\n",
    );
    let mut sources = sources(&[&toml("old", "allow = \"user:33\"")], vec![socket, own]);
    sources.inherited = None;
    let checked = build(&sources);
    assert_eq!(checked.faults, []);
    assert_eq!(checked.config.listeners.len(), 1);
    assert_eq!(
        checked.config.listeners.values().next().unwrap().endpoints[0].to_string(),
        "tcp 127.0.0.1:25"
    );
}

#[test]
fn a_socket_unit_on_the_same_address_is_a_fault() {
    let socket =
        "[Socket]\nListenStream=127.0.0.1:9\nListenStream=3306\nListenStream=/run/x\nListenFIFO=/x\n";
    let with = |path: &str, enabled| {
        let sock = unit_at(path, "db.socket", enabled, socket);
        faults(&sources(&[], vec![listens("db.service", "127.0.0.1:3306"), sock]))
    };
    let place = "(/usr/lib/systemd/system/db.socket:3:1: tcp [::]:3306 of db.socket)";
    assert_eq!(
        with("/usr/lib/systemd/system/db.socket", true),
        [format!(
            "/usr/db.service:2:1: error: the socket unit db.socket listens on tcp [::]:3306, where \"db\" is; run \"systemctl mask --now db.socket\", or take the listener out {place}"
        )]
    );
    assert_eq!(
        with("/usr/lib/systemd/system/db.socket", false),
        [format!(
            "/usr/db.service:2:1: warning: the socket unit db.socket listens on tcp [::]:3306, where \"db\" is; it is not enabled: leave it so, or run \"systemctl mask db.socket\" {place}"
        )]
    );
    assert!(with("/etc/systemd/system/db.socket", false)[0].contains("error: the socket unit db.socket"));
    let ours =
        unit("db.socket", "[Socket]\nListenStream=3306\nService=portbroker.service\nFileDescriptorName=o\n");
    assert_eq!(faults(&sources(&[], vec![listens("a.service", "3306"), ours])), [""; 0]);
    let ipv6 = unit_at("/etc/x", "db.socket", true, "[Socket]\nListenStream=3306\nBindIPv6Only=ipv6-only\n");
    assert_eq!(faults(&sources(&[], vec![listens("a.service", "0.0.0.0:3306"), ipv6])), [""; 0]);
}

#[test]
fn idle_is_what_each_kind_of_socket_can_do() {
    let idle = |addresses: &str, idle: &str| of_toml(&toml("a", &format!("{addresses}\nidle = {idle:?}")));
    assert_eq!(
        idle("stream = [\"80\", \"@x\"]", "refuse"),
        [
            "/0.toml:4:8: error: unix @x of \"a\" cannot refuse: an abstract name would have to be given up for it; use \"queue\", or a path instead of the abstract name"
        ]
    );
    assert!(idle("stream = \"@x\"", "queue 30s")[0].contains("cannot refuse"));
    assert_eq!(
        idle("stream = \"80\"", "drop"),
        [
            "/0.toml:4:8: error: tcp [::]:80 of \"a\" cannot drop: it has no datagrams; use \"refuse\" for streams, in a listener of their own"
        ]
    );
    assert_eq!(
        idle("datagram = \"53\"", "refuse"),
        [
            "/0.toml:4:8: warning: udp [::]:53 of \"a\" drops instead of refusing: senders to a wildcard address get no ICMP error; write \"drop\", or name the addresses one by one"
        ]
    );
    for (addresses, word) in [
        ("stream = [\"80\", \"/x\"]\ndatagram = \"127.0.0.1:53\"", "refuse"),
        ("datagram = [\"53\", \"@x\"]", "drop"),
        ("datagram = \"@x\"", "refuse"),
        ("stream = \"@x\"", "queue"),
    ] {
        assert_eq!(idle(addresses, word), [""; 0], "{addresses} {word}");
    }
}

#[test]
fn a_forking_service_is_warned_of() {
    let forking = unit("a.service", "[Service]\nType=forking\n[X-PortBroker]\nListenStream=80\n");
    assert_eq!(
        faults(&sources(&[], vec![forking])),
        [
            "/usr/a.service:2:1: warning: a.service is of Type=forking: LISTEN_PID is its first process, and most such services take no sockets; run it in the foreground with Type=notify, exec or simple"
        ]
    );
    let reset = unit("a.service", "[Service]\nType=forking\nType=notify\n[X-PortBroker]\nListenStream=80\n");
    assert_eq!(faults(&sources(&[], vec![reset])), [""; 0]);
}

#[test]
fn unknown_accounts_are_warned_of() {
    let text = toml("a", "stream = \"/x\"\nallow = [\"user:later\", \"group:0\"]\nsocket-group = \"gone\"");
    assert_eq!(
        of_toml(&text),
        [
            "/0.toml:4:10: warning: the user \"later\" is not in /etc/passwd yet; the grant matches nobody until it is, and the configuration is read again",
            "/0.toml:5:16: warning: the group \"gone\" is not in /etc/group yet; the socket is not made until it is, and the configuration is read again",
        ]
    );
}

#[test]
fn all_listeners_together_have_a_limit() {
    let many: Vec<_> =
        (0..17).map(|n| toml(&format!("l{n}"), &format!("stream = \"10.0.0.{n}:1-4096\""))).collect();
    let checked = build(&sources(&[&many.concat()], Vec::new()));
    assert_eq!(checked.faults.len(), 1);
    assert!(checked.faults[0].message.contains("more than 65536 sockets"));
    assert_eq!(checked.config.listeners.values().map(|l| l.endpoints.len()).sum::<usize>(), 65536);
}

#[test]
fn no_more_faults_are_shown_than_can_be_read() {
    let checked = build(&sources(&[&"[[listener]]\n".repeat(500)], Vec::new()));
    assert_eq!(checked.faults.len(), 201);
    assert_eq!(
        checked.faults[200].to_string(),
        "/0.toml: error: 300 more faults are not shown, from here on"
    );
}
