use super::*;
use proptest::prelude::*;
use std::net::IpAddr;

fn ports(text: &str) -> PortSet {
    text.parse().unwrap()
}

fn host(ephemeral: &str) -> Host {
    Host {
        ephemeral: ephemeral.parse().unwrap(),
        brokered: Vec::new(),
        protected: PortSet::default(),
        learned: Vec::new(),
        listened: PortSet::default(),
    }
}

fn written(zone: &Zone) -> (String, Vec<(String, &str)>, String) {
    let left_out = zone.left_out.iter().map(|(ports, why)| (ports.to_string(), why.as_str()));
    (zone.ports.to_string(), left_out.collect(), zone.reserve.to_string())
}

fn reasons(all: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
    all.iter().map(|(ports, why)| ((*ports).to_owned(), *why)).collect()
}

#[test]
fn auto_is_beside_the_kernels_range_and_leaves_out_what_is_taken() {
    let host = Host {
        brokered: vec![("80".parse().unwrap(), "web".into()), ("3306-3307".parse().unwrap(), "mysql".into())],
        protected: ports("5432,6379"),
        learned: vec![(5432, "postgresql.service".into()), (9000, "php.service".into())],
        listened: ports("22,8080,40000"),
        ..host("32768-60999")
    };
    let zone = zone(&PortsSpec::Auto, &host);
    let expected = reasons(&[
        ("1-1023", "below 1024"),
        ("32768-60999", "the kernel's own range"),
        ("3306-3307", "held by listener mysql"),
        ("5432,6379", "[protect] ports"),
        ("9000", "learned: php.service"),
        ("8080", "listened on"),
    ]);
    let ports = "1024-3305,3308-5431,5433-6378,6380-8079,8081-8999,9001-32767,61000-65535";
    assert_eq!(written(&zone), (ports.into(), expected, String::new()));
}

#[test]
fn auto_carves_out_the_upper_half_where_too_few_are_beside() {
    let zone = zone(&PortsSpec::Auto, &host("1024-65535"));
    let expected = reasons(&[("1-1023", "below 1024"), ("1024-33279", "the kernel's own range")]);
    assert_eq!(written(&zone), ("33280-65535".into(), expected, "33280-65535".into()));
    let just_enough = super::zone(&PortsSpec::Auto, &host("17408-65535"));
    assert_eq!((just_enough.ports.to_string(), just_enough.reserve.len()), ("1024-17407".into(), 0));
    let one_less = super::zone(&PortsSpec::Auto, &host("17407-65535"));
    assert_eq!(one_less.reserve.len(), 24064);
    assert_eq!(one_less.ports.len(), 16383 + 24064);
}

#[test]
fn very_many_listeners_are_one_reason() {
    let listener = |n: u16| (PortRange::new(n, n).unwrap(), format!("l{n}"));
    let host = Host { brokered: (2000..2065).map(listener).collect(), ..host("32768-60999") };
    let zone = zone(&PortsSpec::Ports(ports("2000-2100")), &host);
    assert_eq!(
        written(&zone),
        ("2065-2100".into(), reasons(&[("2000-2064", "held by listeners")]), String::new())
    );
}

#[test]
fn the_default_pool_takes_nothing_from_the_kernel() {
    let all = zone(&PortsSpec::Beside, &host("1024-65535"));
    let expected = reasons(&[("1-1023", "below 1024"), ("1024-65535", "the kernel's own range")]);
    assert_eq!(written(&all), (String::new(), expected, String::new()));
    let usual = zone(&PortsSpec::Beside, &host("32768-60999"));
    assert_eq!(usual, zone(&PortsSpec::Auto, &host("32768-60999")));
}

#[test]
fn written_ports_are_taken_as_they_are_and_those_of_the_range_reserved() {
    let host = Host { listened: ports("32769"), ..host("32768-60999") };
    let zone = zone(&PortsSpec::Ports(ports("100-101,32760-32770")), &host);
    let expected = reasons(&[("32769", "listened on")]);
    assert_eq!(written(&zone), ("100-101,32760-32768,32770".into(), expected, "32768,32770".into()));
    let gone = super::zone(&PortsSpec::Ports(ports("32769")), &host);
    assert!(gone.ports.is_empty() && gone.reserve.is_empty());
}

#[test]
fn pools_together_reserve_three_quarters_at_most() {
    let host = Host { protected: ports("1000"), ..host("1000-1099") };
    let of = |name: &str, text: &str| {
        (PoolName::try_from(name).unwrap(), zone(&PortsSpec::Ports(ports(text)), &host))
    };
    // With the protected one the first two take 71 of 75; the third has some of theirs, and ten beside.
    let mut zones =
        [of("a", "900-1050"), of("b", "1041-1070"), of("c", "950,1060-1080"), of("d", "1081-1084")];
    let faults = limit_reserved(&mut zones, &host);
    let [(pool, fault)] = faults.as_slice() else { panic!("{faults:?}") };
    assert_eq!(pool.as_str(), "c");
    let begin =
        "the pool c asks for 10 ports of the kernel's own range 1000-1099, and with them 81 of its 100 ports";
    assert!(fault.starts_with(begin), "{fault}");
    let [(_, a), (_, b), (_, c), (_, d)] = zones;
    assert_eq!((a.reserve.to_string().as_str(), b.reserve.to_string().as_str()), ("1001-1050", "1041-1070"));
    let why = "more than three quarters of the kernel's own range";
    assert_eq!(written(&c), ("950,1060-1070".into(), reasons(&[("1071-1080", why)]), "1060-1070".into()));
    assert_eq!(d.reserve.len(), 4);
}

fn some_ports() -> impl Strategy<Value = PortSet> {
    let range = (1u16.., 0u16..3000).prop_map(|(first, more)| set(first, first.saturating_add(more)));
    proptest::collection::vec(range, 0..6)
        .prop_map(|ranges| ranges.iter().fold(PortSet::default(), |all, range| all.union(range)))
}

prop_compose! {
    fn some_host()(
        first in 1u16.., more in any::<u16>(), brokered in some_ports(), protected in some_ports(),
        learned in proptest::collection::vec((1u16.., 0u8..3), 0..20), listened in some_ports(),
    ) -> Host {
        let name = |range: PortRange| (range, format!("l{}", range.first() % 3));
        Host {
            ephemeral: PortRange::new(first, first.saturating_add(more)).unwrap(),
            brokered: brokered.ranges().into_iter().map(name).collect(),
            protected,
            learned: learned.into_iter().map(|(port, unit)| (port, format!("{unit}.service"))).collect(),
            listened,
        }
    }
}

fn taken(host: &Host) -> PortSet {
    let mut taken = host.protected.union(&host.listened);
    taken.extend(host.brokered.iter().flat_map(|(range, _)| range.iter()));
    taken.extend(host.learned.iter().map(|(port, _)| *port));
    taken
}

/// What holds of every zone, whoever made it.
fn is_sound(zone: &Zone, spec: &PortsSpec, host: &Host) -> Result<(), TestCaseError> {
    let asked = match spec {
        PortsSpec::Auto | PortsSpec::Beside => set(1, u16::MAX),
        PortsSpec::Ports(ports) => ports.clone(),
    };
    prop_assert!(zone.ports.intersection(&taken(host)).is_empty(), "a taken port");
    let ephemeral: PortSet = host.ephemeral.into();
    prop_assert_eq!(&zone.ports.intersection(&ephemeral), &zone.reserve);
    let mut all = zone.ports.clone();
    for (ports, why) in &zone.left_out {
        prop_assert!(!ports.is_empty() && !why.is_empty());
        prop_assert!(all.intersection(ports).is_empty(), "{} twice", ports);
        all = all.union(ports);
    }
    prop_assert_eq!(&all, &asked, "all that was asked for, and no more");
    Ok(())
}

proptest! {
    // Each case is a few hundred thousand ports.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_zone_has_nothing_that_is_taken_and_says_what_it_left_out(host in some_host(), explicit in some_ports()) {
        let explicit = PortsSpec::Ports(explicit);
        for spec in [&PortsSpec::Auto, &PortsSpec::Beside, &explicit] {
            is_sound(&zone(spec, &host), spec, &host)?;
        }
        let auto = zone(&PortsSpec::Auto, &host);
        prop_assert!(auto.ports.iter().all(|port| port >= 1024));
        let beside = set(1024, u16::MAX).difference(&host.ephemeral.into()).difference(&taken(&host));
        prop_assert!(beside.difference(&auto.ports).is_empty(), "a port that could be had");
        prop_assert!(beside.len() < ENOUGH || auto.ports == beside, "more than is needed");
    }

    #[test]
    fn three_quarters_hold_for_all_pools(host in some_host(), all in proptest::collection::vec(some_ports(), 1..5)) {
        let name = |n: usize| PoolName::try_from(format!("p{n}").as_str()).unwrap();
        let specs: Vec<_> = std::iter::once(PortsSpec::Auto).chain(all.into_iter().map(PortsSpec::Ports)).collect();
        let mut zones: Vec<_> = specs.iter().enumerate().map(|(n, spec)| (name(n), zone(spec, &host))).collect();
        let before = zones.clone();
        let faults = limit_reserved(&mut zones, &host);
        let mut reserved = PortSet::default();
        for ((_, zone), spec) in zones.iter().zip(&specs) {
            is_sound(zone, spec, &host)?;
            reserved = reserved.union(&zone.reserve);
        }
        let ephemeral: PortSet = host.ephemeral.into();
        prop_assert!(reserved.len() * 4 <= ephemeral.len() * 3, "{} of {}", reserved.len(), ephemeral.len());
        let less = zones.iter().zip(&before).filter(|(now, then)| now != then).map(|((name, _), _)| name);
        prop_assert!(less.eq(faults.iter().map(|(name, _)| name)));
        // What is not of the kernel's range is nobody's business here.
        for ((_, now), (_, then)) in zones.iter().zip(&before) {
            prop_assert_eq!(now.ports.difference(&ephemeral), then.ports.difference(&ephemeral));
        }
    }

    #[test]
    fn the_capacity_is_addresses_of_a_family_times_ports(four in 0u32..5000, six in 0u32..5000, explicit in some_ports()) {
        let zone = zone(&PortsSpec::Ports(explicit.clone()), &host("32768-60999"));
        let of_four = (1..=four).map(|n| IpAddr::V4(n.into()));
        let addresses: Vec<IpAddr> = of_four.chain((1..=six).map(|n| IpAddr::V6(u128::from(n).into()))).collect();
        let expected = u64::from(four.max(six)) * explicit.len() as u64;
        prop_assert_eq!(crate::pools::capacity(&addresses, &zone), expected);
    }
}
