//! Tests of learning: lives of services go by, and what is learned is looked at.

use super::*;
use crate::model::Protocol;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A host whose time goes on by one look at a time.
struct Host {
    memory: Memory,
    rules: Rules,
    begin: Instant,
    seconds: u64,
}

fn unit(name: &str) -> UnitName {
    UnitName::try_from(format!("{name}.service").as_str()).unwrap()
}

fn life(text: &str) -> Life {
    Life::new(text).unwrap()
}

fn rules() -> Rules {
    Rules {
        learn: true,
        exclude: PortSet::default(),
        held: PortSet::default(),
        range: Some(PortRange::new(32768, 60999).unwrap()),
    }
}

const NONE: [u16; 0] = [];

/// `(unit, life, ports)`, all TCP.
type Running<'a> = (&'a str, &'a str, &'a [u16]);

impl Host {
    fn new() -> Self {
        Self { memory: Memory::default(), rules: rules(), begin: Instant::now(), seconds: 0 }
    }

    fn look_at(&mut self, running: &[Running<'_>], protocol: Protocol) -> Outcome {
        let seen = running
            .iter()
            .map(|(name, id, ports)| (unit(name), (life(id), ports.iter().map(|p| (protocol, *p)).collect())))
            .collect();
        let now = Moment(1_000_000 + self.seconds);
        let at = self.begin + Duration::from_secs(self.seconds);
        self.memory.look(&seen, &self.rules, now, at)
    }

    /// A minute in which nothing changes, looked at twice.
    fn minute(&mut self, running: &[Running<'_>]) {
        for _ in 0..2 {
            self.look_at(running, Protocol::Tcp);
            self.seconds += 30;
        }
    }

    fn ports(&self) -> Vec<u16> {
        self.memory.learned().iter().map(|learned| learned.port).collect()
    }
}

#[test]
fn a_port_is_learned_in_the_second_life_of_its_service() {
    let mut host = Host::new();
    for _ in 0..5 {
        host.minute(&[("db", "a", &[5432])]);
        assert_eq!(host.ports(), NONE);
    }
    host.minute(&[]);
    host.minute(&[("db", "b", &[5432])]);
    let learned = host.memory.learned();
    assert_eq!(learned.len(), 1);
    assert_eq!((learned[0].port, &learned[0].unit), (5432, &unit("db")));
    assert!(learned[0].first < learned[0].last);
    assert_eq!(host.memory.wanted(&host.rules).to_string(), "5432");
    // While it is down, and after others have used the port.
    host.minute(&[("other", "c", &[5432])]);
    assert_eq!(host.ports(), [5432]);
}

#[test]
fn another_unit_or_protocol_is_no_second_life() {
    let mut host = Host::new();
    host.minute(&[("a", "1", &[5432])]);
    host.minute(&[("b", "2", &[5432])]);
    for _ in 0..3 {
        host.look_at(&[("a", "3", &[5432])], Protocol::Udp);
        host.seconds += 40;
    }
    assert_eq!(host.ports(), NONE);
}

#[test]
fn a_socket_that_comes_and_goes_is_not_learned() {
    let mut host = Host::new();
    for id in ["1", "2", "3"] {
        for _ in 0..5 {
            // Always the same port, and in every other look only.
            host.look_at(&[("ftp", id, &[21, 40000])], Protocol::Tcp);
            host.seconds += 30;
            host.look_at(&[("ftp", id, &[21])], Protocol::Tcp);
            host.seconds += 30;
        }
    }
    assert_eq!(host.ports(), [21]);
}

#[test]
fn new_sockets_ask_to_be_looked_at_again() {
    let mut host = Host::new();
    assert!(host.look_at(&[("a", "1", &[80])], Protocol::Tcp).unsettled);
    host.seconds += 4;
    let outcome = host.look_at(&[("a", "1", &[80])], Protocol::Tcp);
    assert!(!outcome.unsettled && outcome.changed);
    host.seconds += 60;
    let outcome = host.look_at(&[("a", "1", &[80])], Protocol::Tcp);
    assert_eq!(outcome, Outcome::default());
    // One that is learned already does not.
    for id in ["2", "3"] {
        host.minute(&[("a", id, &[80])]);
    }
    assert!(!host.look_at(&[("a", "4", &[80])], Protocol::Tcp).unsettled);
}

#[test]
fn a_candidate_that_the_next_life_does_not_have_is_dropped() {
    let mut host = Host::new();
    host.minute(&[("rpc", "1", &[111, 40001])]);
    host.minute(&[("rpc", "2", &[111, 40002])]);
    host.minute(&[("rpc", "3", &[111, 40001])]);
    assert_eq!(host.ports(), [111]);
    // By now two candidates were dropped: a port found twice by chance does not do any more.
    host.minute(&[("rpc", "4", &[111, 40004])]);
    host.minute(&[("rpc", "5", &[111, 40004])]);
    assert_eq!(host.ports(), [111]);
    host.minute(&[("rpc", "6", &[111, 40004])]);
    assert_eq!(host.ports(), [111, 40004]);
}

#[test]
fn what_is_forgotten_is_learned_in_two_new_lives() {
    let mut host = Host::new();
    host.minute(&[("a", "1", &[80])]);
    host.minute(&[("a", "2", &[80])]);
    assert_eq!(host.memory.forget(81), 0);
    assert_eq!(host.memory.forget(80), 1);
    assert_eq!(host.memory.forget(80), 0);
    assert_eq!(host.ports(), NONE);
    host.minute(&[("a", "2", &[80])]);
    host.minute(&[("a", "3", &[80])]);
    assert_eq!(host.ports(), NONE);
    host.minute(&[("a", "4", &[80])]);
    assert_eq!(host.ports(), [80]);
}

#[test]
fn what_is_excluded_or_held_is_not_learned() {
    let mut host = Host::new();
    host.rules.exclude = "8000-8100".parse().unwrap();
    host.rules.held = "3306".parse().unwrap();
    for id in ["1", "2", "3"] {
        host.minute(&[("a", id, &[80, 3306, 8050, 8101])]);
    }
    assert_eq!(host.ports(), [80, 8101]);
    host.rules.exclude = "80".parse().unwrap();
    host.memory.configure(&host.rules, &[], Moment(0));
    assert_eq!(host.ports(), [8101]);
    host.rules.learn = false;
    assert!(host.memory.wanted(&host.rules).is_empty());
}

#[test]
fn socket_units_are_learned_while_they_are_enabled() {
    let mut host = Host::new();
    let socket = UnitName::try_from("ssh.socket").unwrap();
    let named = |port| Named { unit: socket.clone(), protocol: Protocol::Tcp, port };
    let outcome = host.memory.configure(&host.rules, &[named(22), named(2222)], Moment(1));
    assert_eq!(outcome.learned.len(), 2);
    assert_eq!(host.memory.configure(&host.rules, &[named(22), named(2222)], Moment(2)), Outcome::default());
    assert_eq!(host.ports(), [22, 2222]);
    assert_eq!(host.memory.forget(2222), 1);
    host.memory.configure(&host.rules, &[named(22), named(2222)], Moment(3));
    assert_eq!(host.ports(), [22]);
    assert!(host.memory.configure(&host.rules, &[named(2222)], Moment(4)).changed);
    assert_eq!(host.ports(), NONE);
    host.memory.configure(&host.rules, &[], Moment(5));
    host.memory.configure(&host.rules, &[named(2222)], Moment(6));
    assert_eq!(host.ports(), [2222]);
}

#[test]
fn no_more_is_learned_than_there_is_room_for() {
    let mut host = Host::new();
    host.rules.range = Some(PortRange::new(40000, 40999).unwrap());
    let inside: Vec<u16> = (40000..40100).collect();
    for id in ["1", "2", "3"] {
        host.minute(&[("a", id, &inside), ("b", id, &[80])]);
    }
    assert_eq!(host.ports().len(), 51, "5 % of 1,000, and what lies outside");
    assert_eq!(host.memory.without_room(&host.rules).to_string(), "40050-40099");
    // There is room again.
    assert_eq!(host.memory.forget(40000), 1);
    host.minute(&[("a", "3", &inside)]);
    assert_eq!(host.ports().len(), 51);
    assert!(host.ports().contains(&40050));
    // The range becomes smaller: what was learned last is left out.
    host.rules.range = Some(PortRange::new(40000, 40019).unwrap());
    assert_eq!(host.memory.wanted(&host.rules).intersection(&"40000-40019".parse().unwrap()).len(), 1);
    let all: Vec<u16> = (1..600).collect();
    for id in ["1", "2", "3"] {
        host.minute(&[("c", id, &all)]);
    }
    assert_eq!(host.memory.ports().len(), MOST_PORTS);
}

#[test]
fn what_is_refused_is_said_once() {
    let mut host = Host::new();
    host.rules.range = Some(PortRange::new(40000, 40009).unwrap());
    host.minute(&[("a", "1", &[40001])]);
    host.look_at(&[("a", "2", &[40001])], Protocol::Tcp);
    host.seconds += 4;
    assert_eq!(host.look_at(&[("a", "2", &[40001])], Protocol::Tcp).refused.len(), 1);
    host.seconds += 60;
    assert_eq!(host.look_at(&[("a", "2", &[40001])], Protocol::Tcp).refused.len(), 0);
    assert_eq!(host.memory.without_room(&host.rules).to_string(), "40001");
}

#[test]
fn units_that_never_come_again_leave_no_more_than_a_bounded_memory() {
    let mut host = Host::new();
    for n in 0..2200u16 {
        host.look_at(&[(&format!("run-{n}"), "1", &[1000 + n])], Protocol::Tcp);
        host.seconds += 10;
        host.look_at(&[(&format!("run-{n}"), "1", &[1000 + n])], Protocol::Tcp);
    }
    assert_eq!(host.memory.units.len(), memory::MOST_CANDIDATES);
    assert!(
        !host.memory.units.contains_key(&unit("run-0")) && host.memory.units.contains_key(&unit("run-2199"))
    );
}

#[test]
fn a_learned_port_is_not_given_to_a_pool() {
    use crate::config::PortsSpec;
    let mut host = Host::new();
    for id in ["1", "2"] {
        host.minute(&[("a", id, &[80, 20000])]);
    }
    let learned = host.memory.learned().into_iter().map(|learned| (learned.port, learned.unit.to_string()));
    let pools = crate::pools::Host {
        ephemeral: host.rules.range.unwrap(),
        brokered: Vec::new(),
        protected: PortSet::default(),
        learned: learned.collect(),
        // The service is down: nothing but what was learned keeps its port.
        listened: PortSet::default(),
    };
    for spec in [PortsSpec::Auto, PortsSpec::Ports("10000-32767".parse().unwrap())] {
        let zone = crate::pools::zone(&spec, &pools);
        assert!(!zone.ports.contains(20000) && zone.ports.contains(20001));
        let left_out = zone.left_out.iter().find(|(ports, _)| ports.contains(20000)).unwrap();
        assert_eq!((left_out.0.to_string().as_str(), left_out.1.as_str()), ("20000", "learned: a.service"));
    }
}

#[test]
fn only_a_services_own_cgroup_counts() {
    let of = |path| service_of(path).map(|unit| unit.to_string());
    assert_eq!(of("/system.slice/db.service").as_deref(), Some("db.service"));
    let template = "/system.slice/system-postgresql.slice/postgresql@15-main.service";
    assert_eq!(of(template).as_deref(), Some("postgresql@15-main.service"));
    assert_eq!(of("/own.slice/db.service").as_deref(), Some("db.service"));
    assert_eq!(of("/db.service").as_deref(), Some("db.service"));
    for other in [
        "/user.slice/user-1000.slice/user@1000.service",
        "/user.slice/user-1000.slice/user@1000.service/app.slice/db.service",
        "/machine.slice/systemd-nspawn@x.service",
        "/machine.slice/db.service",
        "/system.slice/systemd-nspawn@x.service",
        "/system.slice/portbroker.service",
        "/system.slice/docker-1.scope",
        "/system.slice/podman.service/libpod-payload-1",
        "/system.slice/db.service/inner.service",
        "/../db.service",
        "/system.slice",
        "/init.scope",
        "/",
        "",
    ] {
        assert_eq!(of(other), None, "{other}");
    }
}

#[test]
fn looks_come_soon_after_a_start_and_never_often() {
    let begin = Instant::now();
    let mut schedule = Schedule::new(begin);
    assert_eq!(schedule.due(), None);
    schedule.unit_started(begin);
    assert_eq!(schedule.due(), Some(begin + Duration::from_secs(1)));
    // Something new is looked at once more, and then no more.
    schedule.looked(begin + Duration::from_secs(1), true);
    assert_eq!(schedule.due(), Some(begin + Duration::from_millis(3500)));
    schedule.looked(begin + Duration::from_secs(5), true);
    assert_eq!(schedule.due(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_service_that_starts_without_end_is_looked_at_once_in_ten_seconds(gaps in proptest::collection::vec(0u64..3000, 100..400)) {
        let begin = Instant::now();
        let (mut schedule, mut now, mut looks) = (Schedule::new(begin), begin, 0u64);
        for gap in gaps {
            now += Duration::from_millis(gap);
            schedule.unit_started(now);
            if let Some(due) = schedule.due().filter(|due| *due <= now + Duration::from_secs(1)) {
                now = now.max(due);
                schedule.looked(now, true);
                looks += 1;
            }
        }
        prop_assert!(looks <= (now - begin).as_secs() / 10 + 6, "{looks} in {:?}", now - begin);
    }

    #[test]
    fn chosen_ports_are_never_learned_and_fixed_ones_always(
        lives in proptest::collection::vec((1usize..4, 0u8..3), 2..12),
    ) {
        let mut host = Host::new();
        let mut next = 32768;
        for (n, (chosen, minutes)) in lives.iter().enumerate() {
            let mut ports = vec![111];
            ports.extend((next..).take(*chosen));
            next += 7;
            for _ in 0..=*minutes {
                host.minute(&[("rpc", &n.to_string(), &ports)]);
            }
        }
        prop_assert_eq!(host.ports(), [111]);
    }

    #[test]
    fn whatever_happens_the_limits_hold(
        steps in proptest::collection::vec((0u8..4, 0u8..5, proptest::collection::btree_set(39990u16..40400, 0..90), any::<bool>()), 1..25),
        exclude in proptest::collection::btree_set(39990u16..40400, 0..40),
        size in 1u16..2000,
    ) {
        let mut host = Host::new();
        let range = PortRange::new(40000, 40000 + size).unwrap();
        host.rules.range = Some(range);
        host.rules.exclude = exclude.into_iter().collect();
        for (name, id, ports, forgets) in steps {
            let (name, id) = (name.to_string(), id.to_string());
            let ports: Vec<u16> = ports.into_iter().collect();
            host.minute(&[(&name, &id, &ports)]);
            if forgets && let Some(port) = ports.first() {
                host.memory.forget(*port);
            }
            let learned = host.memory.ports();
            let inside = learned.iter().filter(|port| (range.first()..=range.last()).contains(port)).count();
            prop_assert!(learned.len() <= MOST_PORTS && inside <= (usize::from(size) + 1) / SHARE);
            prop_assert!(learned.intersection(&host.rules.exclude).is_empty());
            prop_assert_eq!(host.memory.wanted(&host.rules), learned);
            let text = host.memory.to_text().unwrap();
            let again = from_text(&text).unwrap();
            prop_assert_eq!(&again.units, &host.memory.units);
        }
    }

    #[test]
    fn no_text_is_too_odd(text in "\\PC{0,60}", cut in 0usize..200) {
        prop_assert!(from_text(&text).is_err());
        let mut host = Host::new();
        host.minute(&[("a", "1", &[80])]);
        let whole = host.memory.to_text().unwrap();
        let cut = cut.min(whole.len() - 2);
        prop_assert!(from_text(&whole[..cut]).is_err());
    }
}

#[test]
fn a_file_with_more_than_may_be_learned_is_refused() {
    let port =
        |n: u32| format!("{{\"protocol\":\"tcp\",\"port\":{n},\"first\":1,\"last\":2,\"is\":\"learned\"}}");
    let file = |ports: BTreeSet<u32>| {
        let ports: Vec<String> = ports.into_iter().map(port).collect();
        format!(
            "{{\"version\":1,\"units\":{{\"a.service\":{{\"life\":null,\"dropped\":0,\"ports\":[{}]}}}}}}",
            ports.join(",")
        )
    };
    assert_eq!(from_text(&file((1..=512).collect())).unwrap().ports().len(), 512);
    for wrong in [
        file((1..=513).collect()),
        file([0].into()),
        file([80].into()).replace("a.service", "a/b"),
        file([80].into()).replace("tcp", "icmp"),
    ] {
        assert!(from_text(&wrong).is_err(), "{wrong}");
    }
    assert!(matches!(from_text("{\"version\":2,\"units\":{}}"), Err(FileError::Version(2))));
}

#[test]
fn version_1_is_read_and_written_as_ever() {
    let text = include_str!("../../tests/state/version-1/learned.json");
    let memory = from_text(text).unwrap();
    assert_eq!(memory.ports().to_string(), "5432,8080");
    assert_eq!(memory.to_text().unwrap(), text);
}
