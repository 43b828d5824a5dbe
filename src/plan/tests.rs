//! Plans against a simulation that knows no formula: every connection begins and ends, and takes the first free source.

use super::*;
use crate::config::{PortsSpec, Sources, TomlFile, build};
use crate::model::{PortRange, PortSet, Protocol};
use crate::pools::{Host, capacity};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

const MS: u64 = 1_000_000;

fn host(ephemeral: &str) -> Host {
    Host {
        ephemeral: ephemeral.parse().unwrap(),
        brokered: Vec::new(),
        protected: PortSet::default(),
        learned: Vec::new(),
        listened: PortSet::default(),
    }
}

fn asked(connections: Option<u64>, rate: Option<&str>, lifetime: Option<&str>) -> Asked {
    Asked {
        connections,
        rate: rate.map(|text| text.parse().unwrap()),
        lifetime: lifetime.map(|text| span(text).unwrap()),
        time_wait: None,
        destinations: 1,
        protocol: Protocol::Tcp,
    }
}

fn planned(load: Load, ports: &PortsSpec, host: &Host, own: &[IpAddr]) -> Plan {
    plan(load, ports, &Surroundings { host, reserved: &PortSet::default(), own }).unwrap()
}

fn of_default(asked: &Asked) -> Plan {
    planned(Load::new(asked).unwrap(), &PortsSpec::Auto, &host("32768-60999"), &[])
}

#[test]
fn the_example_of_the_manual() {
    let plan = of_default(&asked(Some(2_000_000), Some("20k/s"), Some("30s")));
    // 600,000 open evenly and a burst of 1,400,000; and 20,000 a second for a minute in TIME_WAIT.
    assert_eq!((plan.load.burst, plan.peak), (1_400_000, 3_200_000));
    // 1,024 to 32,767 and 61,000 to 65,535.
    assert_eq!(plan.zone.ports.to_string(), "1024-32767,61000-65535");
    assert_eq!((plan.zone.ports.len(), plan.addresses, plan.pools), (36_280, 89, 1));
    assert_eq!((plan.peak_without_time_wait, plan.addresses_without_time_wait), (2_000_000, 56));
    let kernel = plan.kernel;
    assert_eq!((kernel.sources, kernel.slow_from), (28_232, 14_116));
    assert_eq!(kernel.slow_after, Some(Duration::from_micros(705_750)));
    assert_eq!(kernel.exhausted_after, Some(Duration::from_micros(1_411_600)));
}

#[test]
fn any_one_follows_from_the_two_others() {
    let all = Load::new(&asked(Some(600_000), Some("20k/s"), Some("30s"))).unwrap();
    let without_rate = Load::new(&asked(Some(600_000), None, Some("30s"))).unwrap();
    assert_eq!(Load::new(&asked(None, Some("20k/s"), Some("30s"))), Ok(all));
    assert_eq!(Load::new(&asked(Some(600_000), Some("20k/s"), None)), Ok(all));
    assert_eq!(all.burst, 0);
    assert_eq!((without_rate.peak(), without_rate.rate.to_string()), (all.peak(), all.rate.to_string()));
}

#[test]
fn what_does_not_agree_is_said() {
    let error = |asked: Asked| Load::new(&asked).unwrap_err().to_string();
    for (connections, rate, lifetime) in
        [(None, None, None), (Some(1), None, None), (None, Some("1/s"), None), (None, None, Some("1s"))]
    {
        assert!(error(asked(connections, rate, lifetime)).starts_with("two of "));
    }
    let text = error(asked(Some(599_999), Some("20k/s"), Some("30s")));
    assert!(text.starts_with("20,000/s that live 30s each are 600,000 open at once"), "{text}");
    assert!(text.contains("at most 599,999"), "{text}");
    assert!(error(asked(Some(1), Some("1/s"), Some("0s"))).contains("no time at all"));
    assert!(error(asked(None, Some("1000G/s"), Some("1s"))).contains("a rate of more than"));
    assert!(error(asked(Some(1_000_000_000_000), None, Some("1ns"))).contains("a rate of more than"));
    assert!(error(asked(Some(1), Some("2G/s"), None)).contains("a rate of more than"));
    assert!(error(asked(None, Some("1000G/h"), Some("1y"))).contains("connections at once are more than"));
    assert!(error(asked(Some(1_000_000_000_000), Some("1/h"), None)).contains("ten years"));
    assert!(error(asked(None, Some("1/h"), Some("1000000000y"))).contains("ten years"));
    let long = Asked { time_wait: Some(Duration::MAX), ..asked(Some(1), Some("1/s"), None) };
    assert!(error(long).contains("--time-wait is longer"));
    let udp =
        Asked { protocol: Protocol::Udp, time_wait: Some(TIME_WAIT), ..asked(Some(9), None, Some("1s")) };
    assert!(error(udp).contains("UDP has no TIME_WAIT"));
}

#[test]
fn udp_ports_are_shared_by_no_destinations_and_do_not_wait() {
    let tcp = Asked { destinations: 100, ..asked(Some(100_000), None, Some("60s")) };
    assert_eq!(of_default(&tcp).peak, 2_000);
    let udp = Asked { protocol: Protocol::Udp, ..tcp };
    let plan = of_default(&udp);
    assert_eq!((plan.peak, plan.addresses), (100_000, 3));
    assert!(plan.notes.iter().any(|note| note.contains("one destination alone")), "{:?}", plan.notes);
}

#[test]
fn a_host_with_no_port_left_is_said_to_have_none() {
    let mut host = host("1024-65535");
    host.protected = "2000-2009".parse().unwrap();
    let load = Load::new(&asked(Some(9), None, Some("1s"))).unwrap();
    let ports = PortsSpec::Ports("2000-2009".parse().unwrap());
    let around = Surroundings { host: &host, reserved: &PortSet::default(), own: &[] };
    let error = plan(load, &ports, &around).unwrap_err().to_string();
    assert!(error.starts_with("no port is left for a pool: of 2000-2009"), "{error}");
    assert!(error.contains("[protect] ports"), "{error}");
}

/// `auto` on a host whose own range is everything carves out the upper half; and no more than three quarters.
#[test]
fn the_zone_is_that_of_a_pool() {
    let load = Load::new(&asked(Some(1_000_000), None, Some("60s"))).unwrap();
    let all = planned(load, &PortsSpec::Auto, &host("1024-65535"), &[]);
    assert_eq!((all.zone.ports.to_string().as_str(), all.addresses), ("33280-65535", 63));
    let ports = PortsSpec::Ports("1024-65535".parse().unwrap());
    let limited = plan(
        load,
        &ports,
        &Surroundings { host: &host("1024-65535"), reserved: &PortSet::default(), own: &[] },
    );
    let Err(PlanError::NoPorts { why, .. }) = limited else { panic!("{limited:?}") };
    assert!(why.contains("three quarters"), "{why}");
}

/// What the kernel would choose from is without what is reserved.
#[test]
fn the_kernel_alone_has_what_is_not_reserved() {
    let host = host("32768-60999");
    let reserved: PortSet = "3306,40000-49999".parse().unwrap();
    let load = Load::new(&asked(Some(10), None, Some("60s"))).unwrap();
    let around = Surroundings { host: &host, reserved: &reserved, own: &[] };
    let kernel = plan(load, &PortsSpec::Auto, &around).unwrap().kernel;
    assert_eq!((kernel.sources, kernel.slow_from), (18_232, 9_116));
    assert_eq!((kernel.slow_after, kernel.exhausted_after), (None, None));
}

#[test]
fn what_is_to_be_written_is_a_configuration() {
    let own: Vec<IpAddr> =
        ["10.1.0.4", "10.1.0.5", "10.1.0.7", "2001:db8::1"].map(|text| text.parse().unwrap()).to_vec();
    let lines = |connections| {
        let load = Load::new(&asked(Some(connections), None, Some("1h"))).unwrap();
        planned(load, &PortsSpec::Auto, &host("32768-60999"), &own).configuration
    };
    let three = lines(100_000);
    assert!(three.contains("addresses = [\"10.1.0.4-10.1.0.5\", \"10.1.0.7\"]"), "{three}");
    let four = lines(110_000);
    assert!(
        four.contains("4 of one family; this host has 3") && four.contains("192.0.2.1-192.0.2.4"),
        "{four}"
    );
    for connections in [1, 10_000_000, 100_000_000, 1_000_000_000, 1_000_000_000_000] {
        let text = lines(connections);
        let sources = Sources {
            files: vec![TomlFile { path: PathBuf::from("a.toml"), text: text.clone() }],
            ..Sources::default()
        };
        let checked = build(&sources);
        assert!(checked.is_valid(), "{:?}\n{text}", checked.faults);
    }
    assert!(lines(1_000_000_000_000).contains("and so on, to egress-"));
}

/// What one connection does: the number that it has, when it begins, and when its source is free again.
#[derive(Debug, Clone, Copy)]
struct Connection {
    begin: u64,
    end: u64,
    destination: u64,
}

/// Connections that begin evenly, each to the next destination; and those of the burst at once.
fn connections(load: &Load, until: u64) -> Vec<Connection> {
    let occupied = u64::try_from(load.occupied().as_nanos()).unwrap();
    let (count, per) = (load.rate.count, u64::try_from(load.rate.per.as_nanos()).unwrap());
    let mut all = Vec::new();
    for n in 0.. {
        // Not before its time: the n-th of `count` in `per`.
        let begin = u64::try_from((u128::from(n) * u128::from(per)).div_ceil(u128::from(count))).unwrap();
        if begin > until {
            break;
        }
        all.push(Connection { begin, end: begin + occupied, destination: n % load.sharers() });
    }
    if let Some(at) = Curve::new(load).burst() {
        let begin = u64::try_from(at.as_nanos()).unwrap();
        let burst = (0..load.burst).map(|n| Connection {
            begin,
            end: begin + occupied,
            destination: n % load.sharers(),
        });
        all.extend(burst);
    }
    all
}

/// Gives each connection the first source of its destination that is free, and returns the most that any had.
fn simulate(mut all: Vec<Connection>, sharers: u64) -> usize {
    all.sort_by_key(|connection| connection.begin);
    let mut taken: Vec<Vec<(u64, usize)>> = vec![Vec::new(); usize::try_from(sharers).unwrap()];
    let mut most = 0;
    for Connection { begin, end, destination } in all {
        let sources = &mut taken[usize::try_from(destination).unwrap()];
        sources.retain(|(end, _)| *end > begin);
        let used: BTreeSet<usize> = sources.iter().map(|(_, source)| *source).collect();
        let free = (0..).find(|source| !used.contains(source)).unwrap();
        sources.push((end, free));
        most = most.max(free + 1);
    }
    most
}

fn some_load() -> impl Strategy<Value = Load> {
    let times = (1u64..40, 0u64..40);
    (1u64..20, 5u64..50, times, 0u64..30, 1u64..5, any::<bool>()).prop_map(
        |(count, per, (lifetime, time_wait), burst, destinations, udp)| {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let rate = Rate { count, per: Duration::from_nanos(per * MS) };
            let lifetime = Duration::from_nanos(lifetime * MS);
            let even = u64::try_from(rate.in_time(lifetime)).unwrap();
            let asked = Asked {
                connections: Some(even + burst),
                rate: Some(rate),
                lifetime: Some(lifetime),
                time_wait: (!udp).then(|| Duration::from_nanos(time_wait * MS)),
                destinations,
                protocol,
            };
            Load::new(&asked).unwrap()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// As many sources are enough, and one fewer is not: where each destination has its burst in full.
    #[test]
    fn a_plan_is_what_a_simulation_needs(load in some_load()) {
        let until = u64::try_from(Curve::new(&load).end().as_nanos()).unwrap();
        let most = simulate(connections(&load, until), load.sharers()) as u128;
        prop_assert!(most <= load.peak(), "{} are needed, and {} planned", most, load.peak());
        // Evenly alone it is exact; which destination begins a window is chance for a burst beside it.
        let slack = u128::from(load.burst > 0);
        prop_assert!(most + slack >= load.peak(), "{} are needed, and {} planned", most, load.peak());
    }

    /// The curve counts those that the simulation has at a moment.
    #[test]
    fn the_curve_is_what_is_taken(load in some_load(), part in 0u64..1000) {
        let curve = Curve::new(&load);
        let end = u64::try_from(curve.end().as_nanos()).unwrap();
        let at = end / 1000 * part;
        let all = connections(&load, end);
        let of = |destination| {
            all.iter().filter(|c| c.begin < at && c.end > at && c.destination == destination).count()
        };
        let most = (0..load.sharers()).map(of).max().unwrap() as u128;
        let moment = curve.at(Duration::from_nanos(at));
        let taken = moment.open + moment.waiting;
        prop_assert!(taken.abs_diff(most) <= 2, "{} counted, {} said", most, taken);
        prop_assert!(taken <= load.peak());
    }

    #[test]
    fn it_reaches_what_it_reaches_and_not_before(load in some_load(), tuples in 1u128..200) {
        let curve = Curve::new(&load);
        match curve.reaches(tuples) {
            None => prop_assert!(load.peak() < tuples),
            Some(time) => {
                let after = curve.at(time + Duration::from_nanos(1));
                prop_assert!(after.open + after.waiting >= tuples);
                let even = load.even(time.saturating_sub(Duration::from_nanos(1)), load.occupied());
                prop_assert!(even < tuples || curve.burst() == Some(time));
            }
        }
    }

    /// The pools' own arithmetic: so many addresses have room, and one fewer have not.
    #[test]
    fn pools_of_that_size_have_room(
        load in some_load(), first in 1024u16..60_000, ports in 1u16..60, low in 1024u16..60_000, size in 0u16..5000,
    ) {
        let mut host = host("1024-65535");
        host.ephemeral = PortRange::new(low, low.saturating_add(size)).unwrap();
        let spec = PortsSpec::Ports(PortRange::new(first, first + ports).unwrap().into());
        let around = Surroundings { host: &host, reserved: &PortSet::default(), own: &[] };
        let Ok(plan) = plan(load, &spec, &around) else {
            return Ok(());
        };
        let addresses = |n: u128| -> Vec<IpAddr> {
            (0..n).map(|n| IpAddr::V4((0x0a00_0001 + u32::try_from(n).unwrap()).into())).collect()
        };
        prop_assert!(u128::from(capacity(&addresses(plan.addresses), &plan.zone)) >= plan.peak);
        prop_assert!(u128::from(capacity(&addresses(plan.addresses - 1), &plan.zone)) < plan.peak);
    }

    #[test]
    fn nothing_overflows(
        connections in 1..=MOST_CONNECTIONS, count in 1..=MOST_CONNECTIONS, seconds in 1u64..=316_224_000,
        destinations in 1..=MOST_CONNECTIONS, which in 0u8..4, wait in 0u64..=316_224_000,
    ) {
        let lifetime = Duration::from_secs(seconds);
        let asked = Asked {
            connections: (which != 0).then_some(connections),
            rate: (which != 1).then_some(Rate { count, per: Duration::from_secs(3600) }),
            lifetime: (which != 2).then_some(lifetime),
            time_wait: Some(Duration::from_secs(wait)),
            destinations,
            protocol: Protocol::Tcp,
        };
        if let Ok(load) = Load::new(&asked) {
            let plan = of_default(&asked);
            prop_assert!(plan.capacity >= plan.peak && plan.peak >= 1);
            prop_assert!(Curve::new(&load).sampled(80).iter().all(|at| at.open + at.waiting <= plan.peak));
        }
    }
}
