use crate::config::{AddressSpec, Checked, PortsSpec, Quota, Sources, Spread, TomlFile, build, show};
use proptest::prelude::*;

fn read(texts: &[&str]) -> Checked {
    let file =
        |(n, text): (usize, &&str)| TomlFile { path: format!("/{n}").into(), text: (*text).to_owned() };
    let files = texts.iter().enumerate().map(file).collect();
    build(&Sources { files, inherited: Some(Vec::new()), ..Sources::default() })
}

fn faults(texts: &[&str]) -> Vec<String> {
    read(texts).faults.iter().map(ToString::to_string).collect()
}

#[test]
fn a_pool_is_read_with_all_its_keys() {
    let text = "[[pool]]\nname = \"web\"\naddresses = [\"192.0.2.10-192.0.2.13\", \"dev:eth0\"]\nports = [\"10000-20000\", \"30000\"]\n\
        spread = \"sticky\"\nallow = \"user:33+sockets\"\nquota = { ports = 20_000 }\n[[pool]]\nname = \"b\"\naddresses = \"::1\"\n\
        [[listener]]\nname = \"web\"\nstream = \"80\"";
    let checked = read(&[text]);
    assert_eq!(checked.faults, []);
    let pools: Vec<_> = checked.config.pools.iter().collect();
    let [(b, plain), (web, pool)] = pools.as_slice() else { panic!("{pools:?}") };
    assert_eq!((b.as_str(), web.as_str()), ("b", "web"), "beside a listener of its name");
    assert_eq!(pool.addresses.len(), 2);
    assert_eq!(pool.addresses[1], AddressSpec::Device("eth0".into()));
    assert_eq!(pool.ports.to_string(), "10000-20000,30000");
    assert_eq!((pool.spread, pool.quota), (Spread::Sticky, Quota::PortsPerCaller(20_000)));
    assert_eq!(pool.allow[0].to_string(), "user:33+sockets");
    assert_eq!(pool.origin.to_string(), "/0:2:8");
    assert_eq!((&plain.ports, plain.spread, plain.quota), (&PortsSpec::Auto, Spread::LeastUsed, Quota::None));
    assert!(plain.allow.is_empty(), "root only");
}

#[test]
fn all_faults_of_a_pool_are_said_at_once() {
    let text = "[[pool]]\nname = \"a:b\"\nadresses = \"::1\"\n\
        [[pool]]\nname = \"x\"\naddresses = [\"10.0.0.9-10.0.0.1\", 5, \"10.0.0.0/21\"]\nports = \"0, 5-4\"\nspread = \"least_used\"\n\
        allow = [\"nobody\", \"sockets\"]\nquota = { port = 5, ports = 0 }\n\
        [[pool]]\nports = 80\nspread = 1\nquota = 7\n\
        [pool.more]\n";
    assert_eq!(
        faults(&[text]),
        [
            "/0:2:8: error: \"a:b\" is no name of a pool: 1 to 255 printable ASCII characters without ':'",
            "/0:3:1: error: unknown key in [[pool]] \"adresses\"; did you mean \"addresses\"?",
            "/0:6:14: error: the range 10.0.0.9-10.0.0.1 runs backwards: write 10.0.0.1-10.0.0.9",
            "/0:6:35: error: \"addresses\" takes strings, and this is an integer; write it as in addresses = [\"192.0.2.10-192.0.2.13\", \"2001:db8:1::/64\", \"dev:eth0\"]",
            "/0:6:38: warning: of 10.0.0.0/21 the first 1024 addresses are used, and 1022 are not; write a range, or a longer prefix: /22 has as many as are used",
            "/0:7:9: error: \"0\" is no port: ports are numbers from 1 to 65535",
            "/0:8:10: error: \"least_used\" is no way to choose among addresses; did you mean \"least-used\"?",
            "/0:9:10: error: \"nobody\" is no grant; write \"unit:NAME.service\", \"user:NAME\" or \"group:NAME\", or several joined by '+' that must all hold, and \"+sockets\" for callers in other network namespaces",
            "/0:9:20: error: \"sockets\" says what, and not to whom; write it behind a grant, as in \"unit:crawler.service+sockets\"",
            "/0:10:11: error: unknown key in quota \"port\"; did you mean \"ports\"?",
            "/0:10:29: error: 0 is no quota: a number of ports from 1 to 4294967295; leave the quota out where there is to be none",
            "/0:11:1: error: a [[pool]] without a name; add a line as in name = \"egress\"",
            "/0:12:9: error: \"ports\" takes strings, and this is an integer; write it as in ports = \"10000-32767, 61000-65535\"",
            "/0:13:10: error: \"spread\" takes a string, and this is an integer; write it as in spread = \"round-robin\"",
            "/0:14:9: error: \"quota\" takes a table, and this is an integer; write it as in quota = { ports = 20000 }",
            "/0:15:7: error: unknown key in [[pool]] \"more\"; take it out; there is name, addresses, ports, spread, allow, quota, minimum, close-orphans",
        ]
    );
    assert_eq!(
        faults(&["[pool]\nname = \"a\"", "pool = [1]"]),
        [
            "/0:1:1: error: \"pool\" takes a list of tables, and this is a table; write it as in [[pool]], with two brackets",
            "/1:1:9: error: \"pool\" takes tables, and this is an integer; write it as in [[pool]]",
        ]
    );
}

#[test]
fn pools_are_seen_beside_each_other_and_beside_listeners() {
    let first = "[[pool]]\nname = \"a\"\naddresses = \"::1\"\nports = \"1000-1001, 8080\"\n\
        [[listener]]\nname = \"l\"\nstream = \"127.0.0.1:1000-1001\"\n[protect]\nports = \"8080\"";
    let second = "[[pool]]\nname = \"a\"\naddresses = \"::1\"\nports = \"1000-1002\"\n[[pool]]\nname = \"b\"\n[[pool]]\nname = \"c\"\naddresses = []\nports = [\" \"]\n\
        [[pool]]\nname = \"d\"\naddresses = [\"10.0.0.0-10.0.15.254\", \"::1\", \"::2\", \"::3\"]\nports = [\"auto\", \"80\"]";
    assert_eq!(
        faults(&[first, second]),
        [
            "/0:4:9: error: the pool \"a\" has no port left: all of 1000-1001,8080 are held by listeners, or are under [protect] ports; give it others",
            "/1:2:8: error: the pool \"a\" is defined twice; give one of them another name (/0:2:8: the other)",
            "/1:6:8: error: the pool \"b\" has no addresses; add a line as in addresses = [\"192.0.2.10-192.0.2.13\", \"dev:eth0\"]",
            "/1:8:8: error: the pool \"c\" has no addresses; add a line as in addresses = [\"192.0.2.10-192.0.2.13\", \"dev:eth0\"]",
            "/1:10:10: error: the pool \"c\" has no ports; write ranges as in \"10000-32767\", or \"auto\", which is the default",
            "/1:13:45: error: the pool \"d\" has more than 4096 addresses, from here on; make it several pools",
            "/1:14:10: error: \"ports\" has \"auto\" and ranges beside it; write \"auto\" alone, or the ranges alone",
        ]
    );
}

#[test]
fn an_account_that_is_not_there_is_warned_of() {
    assert_eq!(
        faults(&["[[pool]]\nname = \"a\"\naddresses = \"::1\"\nallow = [\"user:later\"]"]),
        [
            "/0:4:10: warning: the user \"later\" is not in /etc/passwd yet; the grant matches nobody until it is, and the configuration is read again"
        ]
    );
}

#[test]
fn a_minimum_is_within_the_quota_and_within_the_pool() {
    let pool =
        "[[pool]]\nname = \"a\"\naddresses = [\"10.0.0.1-10.0.0.4\", \"::1\"]\nports = \"1000-1099\"\n";
    let with = |rest: &str| faults(&[&format!("{pool}{rest}")]);
    let two = "allow = [\"unit:a.service\", \"unit:b.service\"]\n";
    assert_eq!(with(&format!("{two}minimum = {{ ports = 50 }}\nquota = {{ ports = 50 }}")), [""; 0]);
    assert_eq!(
        with(&format!("{two}minimum = {{ ports = 51 }}")),
        [
            "/0:6:21: warning: a minimum of 51 ports for each of 2 callers is more than the 100 ports of the pool \"a\": 50 are kept for each; write a smaller minimum, or give the pool more addresses or ports"
        ]
    );
    // One share more for whoever comes besides.
    let open = "allow = [\"unit:a.service\", \"unit:b.service\", \"group:33\"]\n";
    assert!(with(&format!("{open}minimum = {{ ports = 34 }}"))[0].contains("34 ports for each of 3 callers"));
    assert!(
        with("minimum = { ports = 5 }\nquota = { ports = 4 }")[0].contains("is more than the quota of 4")
    );
    for (orphans, fault) in [
        ("\"soon\"", "\"soon\" is no span of time"),
        ("\"10ms\"", "at least 1 s and at most 24 h"),
        ("\"2days\"", "at least 1 s and at most 24 h"),
        ("30", "takes a string"),
    ] {
        let faults = with(&format!("close-orphans = {orphans}"));
        assert!(faults.len() == 1 && faults[0].contains(fault), "{faults:?}");
    }
}

proptest! {
    /// What the daemon keeps, and what `cat-config` prints, is the same pool again.
    #[test]
    fn a_pool_reads_as_it_was_kept(
        addresses in proptest::collection::vec(
            "(10\\.0\\.0\\.[1-9]|10\\.0\\.1\\.1-10\\.0\\.1\\.9|2001:db8:[1-9]::/64|10\\.1\\.0\\.0/2[2-4]|dev:[a-z]{1,9})", 1..4,
        ),
        ports in prop_oneof![Just("auto".to_owned()), "[1-9][0-9]{0,3}(-6[0-4][0-9]{3})?(, [1-5][0-9]{2,4})?"],
        spread in prop_oneof![Just("least-used"), Just("round-robin"), Just("sticky")],
        allow in proptest::collection::vec("(unit:[a-z]{1,5}\\.service|group:[0-9]{1,4})(\\+user:[0-9]{1,4})?(\\+sockets)?", 0..3),
        quota in proptest::option::of(1000u32..),
        minimum in proptest::option::of(1u32..1000),
        orphans in proptest::option::of(prop_oneof![Just("30s"), Just("5min"), Just("1h 1s 500ms")]),
        name in "[ -9;-~]{1,20}",
    ) {
        let quota = quota.map_or(String::new(), |ports| format!("quota = {{ ports = {ports} }}"));
        let minimum = minimum.map_or(String::new(), |ports| format!("minimum = {{ ports = {ports} }}"));
        let orphans = orphans.map_or(String::new(), |time| format!("close-orphans = {time:?}"));
        let name = toml::Value::from(name);
        let text = format!(
            "[[pool]]\nname = {name}\naddresses = {addresses:?}\nports = {ports:?}\nspread = {spread:?}\nallow = {allow:?}\n{quota}\n{minimum}\n{orphans}"
        );
        let without_origin = |checked: Checked| {
            let mut pools = checked.config.pools;
            pools.values_mut().for_each(|pool| pool.origin = super::super::Origin::default());
            // There may be too few ports for the minimum.
            let errors = checked.faults.into_iter().filter(|fault| fault.severity == crate::config::Severity::Error);
            (errors.collect::<Vec<_>>(), pools)
        };
        let first = read(&[&text]);
        let (kept, shown) = (show::to_toml(&first.config), show::config_toml(&first));
        let (faults, pools) = without_origin(first);
        prop_assert_eq!((faults.len(), pools.len()), (0, 1), "{:?} of {}", faults, text);
        for again in [&kept, &shown] {
            prop_assert_eq!(without_origin(read(&[again])), (Vec::new(), pools.clone()), "{}", again);
        }
    }
}
