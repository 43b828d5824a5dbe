//! What a port is used for, from sockets to sentences.

use super::fixture::{any_socket, between, waits};
use super::*;
use crate::model::SocketState;
use proptest::prelude::*;
use std::collections::HashMap;
use std::time::Duration;

const QUESTION: Question = Question { port: 3306, protocol: None };

fn process(pid: u32, name: &str, unit: Option<&str>) -> Process {
    let unit = unit.map(|unit| UnitName::try_from(unit).unwrap());
    Process { pid, name: name.into(), uid: Some(1000), unit, age: Some(Duration::from_secs(60)) }
}

fn network(sockets: Vec<Socket>) -> Network {
    let range = Some(PortRange::new(1024, 65535).unwrap());
    Network { sockets, range, ..Network::default() }
}

/// Uses with their processes, and what is said of them.
fn told(
    networks: &[Network],
    broker: Option<&Broker>,
    processes: &HashMap<u32, Process>,
) -> (Vec<Use>, Vec<Sentence>) {
    let mut uses = of_sockets(&QUESTION, networks, broker);
    for one in &mut uses {
        one.processes = one.inode().and_then(|inode| processes.get(&inode).cloned()).into_iter().collect();
    }
    uses.extend(of_configuration(&QUESTION, networks, broker));
    let users = Users::parse("ann:x:1000:1000::/:\n");
    let context = Context { question: QUESTION, networks, broker, users: &users, service: Some("mysql") };
    let sentences = explain(&context, &uses);
    (uses, sentences)
}

fn curl() -> HashMap<u32, Process> {
    HashMap::from([(8, process(812, "curl", None)), (7, process(900, "mariadbd", Some("mariadb.service")))])
}

fn source() -> Socket {
    between("192.0.2.1:3306", "192.0.2.7:443", SocketState::Established, 8)
}

#[test]
fn the_source_port_of_a_connection_is_told_with_whom_it_keeps_out_and_what_closes_it() {
    let networks = [network(vec![source()])];
    let (uses, says) = told(&networks, None, &curl());
    assert_eq!(uses.iter().map(|one| one.kind).collect::<Vec<_>>(), [Kind::Source, Kind::Ephemeral]);
    let first = &says[0];
    assert_eq!(
        first.text,
        "3306 is the source port of a connection that curl (pid 812) made to 192.0.2.7:443; MariaDB cannot start \
         until it closes"
    );
    assert_eq!(first.tone, Tone::Bad);
    assert_eq!(first.remedy.as_deref(), Some("ss --kill src 192.0.2.1:3306 dst 192.0.2.7:443"));
    let (_, says) = told(&networks, Some(&Broker::default()), &curl());
    assert_eq!(says[0].remedy.as_deref(), Some("portbroker who 3306 --evict"));
    assert!(says[1].remedy.as_ref().unwrap().contains("ports = [\"3306\"]"), "{:?}", says[1]);
}

#[test]
fn the_unit_of_the_listener_or_of_what_was_learned_is_who_is_kept_out() {
    let held = Held {
        listener: "mysql".into(),
        endpoint: "tcp 192.0.2.1:3306".into(),
        state: "failed".into(),
        inode: None,
        error: Some("address already in use".into()),
        holders: vec![],
        allow: vec!["unit:db.service".into()],
    };
    let broker = Broker { listeners: vec![held], ..Broker::default() };
    let (uses, says) = told(&[network(vec![source()])], Some(&broker), &curl());
    assert!(says[0].text.ends_with("; db.service cannot start until it closes"), "{:?}", says[0]);
    assert!(uses.iter().any(|one| one.kind == Kind::Wanted));
    assert!(says.iter().any(|one| one.text.contains("listener mysql and does not: address already in use")));
}

#[test]
fn another_network_namespace_is_named_and_its_commands_run_there() {
    let blue = Network {
        name: Some("blue".into()),
        enter: Some("ip netns exec blue".into()),
        ..network(vec![source()])
    };
    let (_, says) = told(&[network(vec![]), blue], Some(&Broker::default()), &curl());
    assert!(
        says[0].text.contains("to 192.0.2.7:443 in network namespace blue; MariaDB cannot"),
        "{:?}",
        says[0]
    );
    assert_eq!(
        says[0].remedy.as_deref(),
        Some("ip netns exec blue ss --kill src 192.0.2.1:3306 dst 192.0.2.7:443"),
        "the broker closes nothing there"
    );
}

#[test]
fn beside_a_listener_connections_are_nobodys_trouble() {
    let listener = waits("0.0.0.0:3306", SocketState::Listen, 7);
    let old = Socket {
        expires: Some(Duration::from_millis(42_100)),
        ..between("192.0.2.1:3306", "192.0.2.9:40000", SocketState::TimeWait, 0)
    };
    let came = between("192.0.2.1:3306", "192.0.2.9:40001", SocketState::Established, 9);
    let (uses, says) = told(&[network(vec![came, old, listener])], None, &curl());
    let kinds: Vec<Kind> = uses.iter().map(|one| one.kind).collect();
    assert_eq!(kinds, [Kind::Listener, Kind::Served, Kind::TimeWait, Kind::Ephemeral]);
    assert_eq!(
        says[0].text,
        "mariadbd (pid 900, mariadb.service) listens on 0.0.0.0:3306: no other service can"
    );
    assert_eq!(says[0].remedy.as_deref(), Some("systemctl stop mariadb.service"));
    assert!(says[1].text.contains("192.0.2.9:40001") && says[1].tone == Tone::Good, "{:?}", says[1]);
    assert!(says[2].text.contains("for 43 s more (TIME_WAIT): it is in nobody's way"), "{:?}", says[2]);
    assert!(!says.iter().any(|one| one.tone == Tone::Bad));
}

#[test]
fn time_wait_of_a_source_port_is_waited_for_and_of_one_that_came_in_hardly() {
    let closed = |remote| Socket {
        expires: Some(Duration::from_secs(30)),
        ..between("192.0.2.1:3306", remote, SocketState::TimeWait, 0)
    };
    let (_, says) = told(&[network(vec![closed("192.0.2.7:443")])], None, &curl());
    assert!(says[0].text.ends_with("MariaDB may have to wait so long before it can start"), "{:?}", says[0]);
    let remedy = "ss --kill state time-wait src 192.0.2.1:3306 dst 192.0.2.7:443";
    assert_eq!(says[0].remedy.as_deref(), Some(remedy));
    // 3306 is none that the kernel chooses here, and 40000 is.
    let network = Network {
        range: Some(PortRange::new(32768, 60999).unwrap()),
        ..network(vec![closed("192.0.2.9:40000")])
    };
    let (_, says) = told(&[network], None, &curl());
    assert_eq!(says[0].tone, Tone::Warning, "{:?}", says[0]);
    assert!(says[1].text.contains("outside of net.ipv4.ip_local_port_range (32768-60999)"), "{:?}", says[1]);
}

#[test]
fn what_the_broker_holds_and_knows_is_told() {
    let held = |state: &str, inode| Held {
        listener: "mysql".into(),
        endpoint: "tcp 127.0.0.1:3306".into(),
        state: state.into(),
        inode: Some(inode),
        error: None,
        holders: vec!["mariadb.service".into()],
        allow: vec![],
    };
    let lease = Lease {
        number: 7,
        pool: "egress".into(),
        protocol: "tcp".into(),
        destination: None,
        owner: "crawler.service".into(),
        state: "held".into(),
        addresses: vec!["192.0.2.1".into()],
    };
    let pool = |name: &str, zone: &str, left_out: &str| Pool {
        name: name.into(),
        zone: zone.parse().unwrap(),
        left_out: vec![(left_out.parse().unwrap(), "held by listener mysql".into())],
    };
    let broker = Broker {
        listeners: vec![held("listening", 5)],
        learned: vec![LearnedPort { port: 3306, protocol: "tcp".into(), unit: "mariadb.service".into() }],
        pools: vec![pool("egress", "3000-4000", ""), pool("other", "1-2", "3306")],
        leases: vec![lease],
    };
    let mut own = network(vec![waits("127.0.0.1:3306", SocketState::Listen, 5), source()]);
    own.reserved = "3306".parse().unwrap();
    let (uses, says) = told(&[own], Some(&broker), &curl());
    let kinds: Vec<Kind> = uses.iter().map(|one| one.kind).collect();
    let expected = [
        Kind::Brokered,
        Kind::Source,
        Kind::Leased,
        Kind::Learned,
        Kind::Reserved,
        Kind::Zone,
        Kind::LeftOut,
    ];
    assert_eq!(kinds, expected);
    assert_eq!(
        says[0].text,
        "the broker holds 127.0.0.1:3306 as listener mysql, listening; mariadb.service has it"
    );
    assert!(says[1].text.contains("by lease 7") && says[1].tone == Tone::Good, "{:?}", says[1]);
    assert!(says.iter().any(|one| one.text.contains("pool other leaves 3306 out: held by listener mysql")));
}

#[test]
fn nothing_is_said_to_be_nothing() {
    let (uses, says) = told(&[network(vec![])], None, &HashMap::new());
    assert_eq!(uses.len(), 1, "that it is ephemeral");
    assert_eq!(says[0].text, "no socket uses 3306");
    assert_eq!(
        says[1].remedy.as_deref(),
        Some("sysctl -w net.ipv4.ip_local_reserved_ports=3306"),
        "{:?}",
        says[1]
    );
}

#[test]
fn endpoints_of_listeners_have_ports() {
    let port = |endpoint: &str| {
        let held = Held {
            listener: "x".into(),
            endpoint: endpoint.into(),
            state: "failed".into(),
            inode: None,
            error: None,
            holders: vec![],
            allow: vec![],
        };
        held.port()
    };
    assert_eq!(port("tcp 127.0.0.1:3306"), Some((Protocol::Tcp, 3306)));
    assert_eq!(port("udp [::]:53%eth0"), Some((Protocol::Udp, 53)));
    assert_eq!(port("unix /run/x:80"), None);
    assert_eq!(port("odd"), None);
}

proptest! {
    #[test]
    fn every_socket_of_the_port_is_counted_once_and_something_is_said_of_it(
        sockets in proptest::collection::vec((any_socket(), any::<bool>()), 0..80),
        protocol in prop_oneof![Just(None), Just(Some(Protocol::Tcp)), Just(Some(Protocol::Udp))],
        apart: bool,
    ) {
        let question = Question { port: 9, protocol };
        // Some are on another port.
        let moved = |(socket, other): (Socket, bool)| {
            let mut socket = socket;
            if other {
                socket.local.set_port(10);
            }
            socket
        };
        let sockets: Vec<Socket> = sockets.into_iter().map(moved).collect();
        let is_wanted = |socket: &&Socket| socket.local.port() == 9 && question.is_about(socket.protocol);
        let wanted = sockets.iter().filter(is_wanted).count();
        let networks = if apart {
            let (one, other) = sockets.split_at(sockets.len() / 2);
            vec![network(one.to_vec()), network(other.to_vec())]
        } else {
            vec![network(sockets)]
        };
        let uses = of_sockets(&question, &networks, None);
        prop_assert_eq!(uses.iter().map(|one| one.count).sum::<usize>(), wanted);
        prop_assert!(uses.len() <= 2 * 2 * 7 * (SHOWN + 1));
        let users = Users::default();
        let context = Context { question, networks: &networks, broker: None, users: &users, service: None };
        let says = explain(&context, &uses);
        prop_assert!(!says.is_empty());
        prop_assert!(says.iter().all(|one| !one.text.is_empty()));
        prop_assert_eq!(wanted == 0, says[0].text.starts_with("no socket uses"));
    }
}
