//! Pictures of hosts, and what is wrong with them.

use super::*;
use crate::config::{SocketUnitPort, Sources, TomlFile, build};
use crate::model::{PortSet, Process, Protocol, Reuse, Socket, SocketState, UnitName};
use crate::services::{Claim, Program, Where};
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const USUAL: &str = "32768-60999";

/// A host of which everything is seen, and that is well.
fn host() -> Picture {
    let own = Network {
        name: None,
        range: Some(USUAL.parse().unwrap()),
        reserved: Some(PortSet::default()),
        unprivileged_from: Some(1024),
        timestamps: Some(true),
        sockets: Vec::new(),
    };
    Picture { networks: vec![own], broker: Broker::Absent, ..Picture::default() }
}

fn socket(protocol: Protocol, state: SocketState, local: &str, remote: Option<&str>, inode: u32) -> Socket {
    Socket {
        protocol,
        state,
        local: local.parse().unwrap(),
        remote: remote.map(|text| text.parse().unwrap()),
        v6only: false,
        inode,
        uid: 1000,
        cgroup: 0,
        cookie: u64::from(inode),
        device: 0,
        expires: (state == SocketState::TimeWait).then(|| Duration::from_secs(40)),
    }
}

impl Picture {
    fn with(mut self, socket: Socket) -> Self {
        self.networks[0].sockets.push(socket);
        self
    }

    fn listening(self, local: &str, inode: u32) -> Self {
        self.with(socket(Protocol::Tcp, SocketState::Listen, local, None, inode))
    }

    /// A process that has a socket.
    fn owned(mut self, inode: u32, name: &str, unit: Option<&str>) -> Self {
        let pid = 100 + inode;
        let unit = unit.map(|unit| UnitName::try_from(unit).unwrap());
        self.processes.insert(pid, Process { pid, name: name.into(), uid: Some(1000), unit, age: None });
        self.holders.entry(inode).or_default().push(pid);
        self
    }

    fn reserving(mut self, ports: &str) -> Self {
        self.networks[0].reserved = Some(ports.parse().unwrap());
        self
    }

    fn claiming(mut self, program: Program, address: Where, port: u16) -> Self {
        let file = PathBuf::from("/etc/it");
        let protocol = Protocol::Tcp;
        self.claims.push(Claim { program, instance: None, protocol, port, address, file, line: 7 });
        self
    }

    /// With this configuration of the broker; nothing of which is a unit's.
    fn configured(mut self, toml: &str) -> Self {
        let files = vec![TomlFile { path: PathBuf::from("a.toml"), text: toml.to_owned() }];
        let checked = build(&Sources { files, ..Sources::default() });
        assert!(checked.is_valid(), "{:?}", checked.faults);
        self.config = checked.config;
        self
    }

    fn held_by_broker(mut self, inodes: &[u64]) -> Self {
        let held = inodes.iter().copied().collect::<HashSet<u64>>();
        self.broker = Broker::Running { faults: Vec::new(), held, learned: Vec::new() };
        self
    }
}

/// `SEVERITY CODE SUBJECT` of each.
fn found(picture: &Picture) -> Vec<String> {
    let line = |of: &Finding| format!("{} {} {}", of.severity.as_str(), of.code, of.subject);
    findings(picture).iter().map(line).collect()
}

fn only(picture: &Picture) -> Finding {
    let mut all = findings(picture);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

#[test]
fn a_host_with_nothing_wrong_has_no_finding() {
    assert_eq!(found(&host()), [""; 0]);
    assert_eq!(found(&Picture::default()), [""; 0]);
    let usual = host().listening("0.0.0.0:22", 1).owned(1, "sshd", Some("ssh.service"));
    assert_eq!(found(&usual.claiming(Program::Sshd, Where::Everywhere, 22)), [""; 0]);
}

mod service_ports {
    use super::*;

    #[test]
    fn a_port_of_the_kernels_range_is_an_error_and_a_warning_while_it_listens() {
        let idle = host().claiming(Program::Nginx, Where::Everywhere, 40_000);
        let finding = only(&idle);
        assert_eq!(
            (finding.severity, finding.code, finding.subject.as_str()),
            (Severity::Error, "service-port-ephemeral", "tcp 40000")
        );
        assert!(finding.message.contains(USUAL) && finding.message.contains("nginx"), "{finding:?}");
        assert_eq!(finding.evidence, ["/etc/it:7 names tcp *:40000"]);
        assert!(finding.remedy.contains("ip_local_reserved_ports=40000,"), "{}", finding.remedy);
        assert!(is_wrong(&[finding]));
        let serving = idle.listening("0.0.0.0:40000", 1).owned(1, "nginx", Some("nginx.service"));
        let all = findings(&serving);
        assert_eq!((all[0].severity, all[0].code), (Severity::Warning, "service-port-ephemeral"));
        assert!(all[0].evidence[1].contains("nginx (pid 101, nginx.service) listens"), "{:?}", all[0]);
    }

    #[test]
    fn the_remedy_keeps_what_is_reserved_already() {
        let picture =
            host().claiming(Program::Nginx, Where::Everywhere, 40_000).reserving("3306,50000-50002");
        assert!(only(&picture).remedy.contains("=3306,40000,50000-50002,"), "{}", only(&picture).remedy);
    }

    #[test]
    fn no_remedy_undoes_another() {
        let both = host().claiming(Program::Nginx, Where::Everywhere, 40_000);
        let both = both.claiming(Program::Redis, Where::Everywhere, 40_002).reserving("7");
        let remedies: Vec<String> = findings(&both).into_iter().map(|finding| finding.remedy).collect();
        assert!(
            remedies.len() == 2 && remedies.iter().all(|text| text.contains("=7,40000,40002,")),
            "{remedies:?}"
        );
    }

    #[test]
    fn what_is_reserved_held_or_outside_of_the_range_is_safe() {
        let nginx = |port| host().claiming(Program::Nginx, Where::Everywhere, port);
        assert_eq!(found(&nginx(40_000).reserving("39999-40001")), [""; 0]);
        assert_eq!(found(&nginx(443)), [""; 0]);
        let held = nginx(40_000).listening("0.0.0.0:40000", 9).held_by_broker(&[9]);
        assert_eq!(found(&held), [""; 0]);
    }

    #[test]
    fn a_connection_that_has_the_port_keeps_the_service_from_starting() {
        let of = |state, inode| {
            let taken = socket(Protocol::Tcp, state, "10.0.0.1:40000", Some("192.0.2.9:443"), inode);
            host().claiming(Program::Nginx, Where::Everywhere, 40_000).with(taken).owned(5, "curl", None)
        };
        let live = of(SocketState::Established, 5);
        let finding = &findings(&live)[1];
        assert_eq!((finding.severity, finding.code), (Severity::Error, "service-port-taken"));
        assert_eq!(finding.evidence, ["10.0.0.1:40000 to 192.0.2.9:443, established, of curl (pid 105)"]);
        let waiting = of(SocketState::TimeWait, 0);
        let finding = findings(&waiting).into_iter().find(|of| of.code == "service-port-taken").unwrap();
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(finding.evidence, ["10.0.0.1:40000 to 192.0.2.9:443, time-wait for 40 s more"]);
        // Whoever listens has got it.
        let serving = live.listening("0.0.0.0:40000", 6);
        assert!(!found(&serving).iter().any(|line| line.contains("service-port-taken")));
    }

    #[test]
    fn a_default_counts_where_the_service_is_there() {
        let mut picture = host().claiming(Program::Mysql, Where::Everywhere, 40_000);
        picture.claims[0].line = 0;
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let services = |present: &[&str], masked: &[&str]| {
            Some(crate::config::Services { present: names(present), masked: names(masked) })
        };
        picture.services = services(&["nginx.service"], &[]);
        assert_eq!(found(&picture), [""; 0]);
        picture.services = services(&["mariadb.service"], &["mariadb.service"]);
        assert_eq!(found(&picture), [""; 0]);
        for present in ["mariadb.service", "mysqld.service", "mariadb@.service"] {
            picture.services = services(&[present], &[]);
            assert_eq!(found(&picture), ["error service-port-ephemeral tcp 40000"]);
        }
    }

    #[test]
    fn listeners_and_socket_units_have_ports_too() {
        let mut picture = host().configured("[[listener]]\nname = \"web\"\nstream = \"0.0.0.0:40000\"\n");
        picture.config.socket_units = vec![SocketUnitPort {
            unit: UnitName::try_from("x.socket").unwrap(),
            protocol: Protocol::Udp,
            port: 40_001,
        }];
        let expected = [
            "error service-port-ephemeral tcp 40000",
            "error service-port-ephemeral udp 40001",
            "warning broker-absent portbroker",
        ];
        assert_eq!(found(&picture), expected);
        assert!(findings(&picture)[0].remedy.contains("start the broker"));
    }

    #[test]
    fn what_is_only_listened_on_is_a_note_of_services_alone() {
        let picture = host()
            .listening("0.0.0.0:40000", 1)
            .owned(1, "rpc.statd", Some("rpc-statd.service"))
            .listening("127.0.0.1:40001", 2)
            .owned(2, "node", Some("session-1.scope"));
        let finding = only(&picture);
        assert_eq!((finding.severity, finding.code), (Severity::Note, "service-listens-ephemeral"));
        assert_eq!(finding.evidence.len(), 1);
        assert!(!is_wrong(&[finding]));
    }
}

mod destinations {
    use super::*;

    /// A host with a hundred sources, of which some are in use.
    fn with(open: u16, waiting: u16) -> Picture {
        let mut picture = host();
        picture.networks[0].range = Some("40000-40099".parse().unwrap());
        for n in 0..open + waiting {
            let (state, inode) =
                if n < open { (SocketState::Established, 7) } else { (SocketState::TimeWait, 0) };
            let local = format!("10.0.0.1:{}", 40_000 + n);
            picture = picture.with(socket(Protocol::Tcp, state, &local, Some("192.0.2.9:443"), inode));
        }
        picture.owned(7, "crawler", Some("crawler.service"))
    }

    #[test]
    fn from_45_percent_on_it_is_said_and_from_50_on_it_is_slow() {
        assert_eq!(found(&with(44, 0)), [""; 0]);
        for (open, waiting, severity, word) in [
            (45, 0, Severity::Warning, "from 50 % on"),
            (20, 29, Severity::Warning, "from 50 % on"),
            (50, 0, Severity::Error, "twenty times as long as"),
            (30, 64, Severity::Error, "twenty times as long as"),
            (95, 0, Severity::Error, "cannot assign requested address"),
            (0, 100, Severity::Error, "cannot assign requested address"),
        ] {
            let finding = only(&with(open, waiting));
            assert_eq!(
                (finding.severity, finding.code),
                (severity, "destination-crowded"),
                "{open} {waiting}"
            );
            assert!(finding.message.contains(word), "{}", finding.message);
        }
    }

    #[test]
    fn it_says_whose_they_are_how_many_wait_and_at_which_rate() {
        let picture = with(20, 31);
        let other = socket(Protocol::Tcp, SocketState::SynSent, "10.0.0.1:40098", Some("192.0.2.9:443"), 8);
        let finding = only(&picture.with(other));
        assert_eq!(finding.subject, "10.0.0.1 to 192.0.2.9:443");
        assert!(finding.message.starts_with("52 of the 100 sources"), "{}", finding.message);
        assert_eq!(
            finding.evidence,
            [
                "21 are open and 31 in TIME_WAIT (59 %), so about 1 connections a second are closed from here",
                "crawler (pid 107, crawler.service) has 20 of them",
                "a process of user 1000 has 1 of them",
            ]
        );
        assert!(finding.remedy.contains("portbroker plan --connections 21 --rate 1/s"), "{}", finding.remedy);
    }

    #[test]
    fn what_is_reserved_is_no_source_and_others_are_not_counted() {
        // Half of them are reserved: 23 of 50.
        assert_eq!(
            found(&with(23, 0).reserving("40050-40099")),
            ["warning destination-crowded 10.0.0.1 to 192.0.2.9:443"]
        );
        let mut elsewhere = with(44, 0);
        for (local, remote, protocol) in [
            ("10.0.0.2:40050", "192.0.2.9:443", Protocol::Tcp),
            ("10.0.0.1:40051", "192.0.2.9:444", Protocol::Tcp),
            ("10.0.0.1:40052", "192.0.2.9:443", Protocol::Udp),
            ("10.0.0.1:20000", "192.0.2.9:443", Protocol::Tcp),
        ] {
            elsewhere = elsewhere.with(socket(protocol, SocketState::Established, local, Some(remote), 9));
        }
        assert_eq!(found(&elsewhere), [""; 0]);
    }

    #[test]
    fn other_networks_have_their_own_ranges() {
        let mut picture = host();
        let mut other = with(60, 0).networks.remove(0);
        other.name = Some("the network namespace blue".into());
        picture.networks.push(other);
        let finding = only(&picture);
        assert_eq!(finding.subject, "10.0.0.1 to 192.0.2.9:443 in the network namespace blue");
    }

    proptest! {
        /// Against a count of everything by everybody.
        #[test]
        fn a_crowd_is_where_counting_finds_one(
            sockets in proptest::collection::vec((0u16..30, 0u8..3, 0u8..3, 0u8..4, any::<bool>()), 0..200), reserved in 0u16..30,
        ) {
            let mut picture = host();
            picture.networks[0].range = Some("40000-40019".parse().unwrap());
            let reserved: PortSet = (40_000..40_000 + reserved.min(19)).collect();
            picture.networks[0].reserved = Some(reserved.clone());
            let mut naive: std::collections::BTreeMap<(SocketAddr, std::net::IpAddr), usize> = Default::default();
            for (n, (port, source, to, state, udp)) in sockets.into_iter().enumerate() {
                let local = format!("10.0.0.{source}:{}", 40_000 + port);
                let remote = format!("192.0.2.{to}:443");
                let states = [SocketState::Established, SocketState::TimeWait, SocketState::FinWait2, SocketState::Listen];
                let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
                let state = states[usize::from(state)];
                let one = socket(protocol, state, &local, Some(&remote), u32::try_from(n).unwrap());
                let counts = port < 20 && !udp && state != SocketState::Listen && !reserved.contains(40_000 + port);
                if counts {
                    *naive.entry((one.remote.unwrap(), one.local.ip())).or_default() += 1;
                }
                picture = picture.with(one);
            }
            let sources = 20 - reserved.len();
            let expected: HashSet<_> = naive.into_iter().filter(|(_, used)| used * 100 / sources >= 45)
                .map(|((to, from), used)| (from, to, used)).collect();
            let got: HashSet<_> = crowded(&picture.networks[0]).into_iter().map(|c| (c.source, c.destination, c.used)).collect();
            prop_assert_eq!(got, expected);
        }
    }
}

mod the_host {
    use super::*;

    #[test]
    fn timestamps_that_are_off_are_said_of_each_network() {
        let mut picture = host();
        let other = Network {
            name: Some("the network namespace blue".into()),
            timestamps: Some(false),
            ..Network::default()
        };
        picture.networks.push(other);
        assert_eq!(
            found(&picture),
            ["warning timestamps-off net.ipv4.tcp_timestamps in the network namespace blue"]
        );
        picture.networks[0].timestamps = Some(false);
        assert_eq!(found(&picture).len(), 2);
        picture.networks[0].timestamps = None;
        assert_eq!(found(&picture).len(), 1);
    }

    #[test]
    fn a_range_that_is_reserved_is_said() {
        assert_eq!(found(&host().reserving("32768-53000")), [""; 0]);
        assert_eq!(
            found(&host().reserving("32768-54000")),
            ["warning range-reserved net.ipv4.ip_local_reserved_ports"]
        );
        assert_eq!(
            found(&host().reserving("1-65535")),
            ["error range-reserved net.ipv4.ip_local_reserved_ports"]
        );
    }

    #[test]
    fn the_broker_is_to_run_where_it_is_configured_and_to_be_well() {
        let web = host().configured("[[listener]]\nname = \"web\"\nstream = \"0.0.0.0:80\"\n");
        assert_eq!(found(&web), ["warning broker-absent portbroker"]);
        assert_eq!(found(&web.clone().held_by_broker(&[])), [""; 0]);
        let mut unknown = web.clone();
        unknown.broker = Broker::Unknown;
        assert_eq!(found(&unknown), [""; 0]);
        let faults = vec!["something".to_owned()];
        let mut degraded = web;
        degraded.broker = Broker::Running { faults, held: HashSet::new(), learned: Vec::new() };
        assert_eq!(found(&degraded), ["warning broker-degraded portbroker"]);
        let mut faulty = host();
        faulty.config_faults.push("a.toml:3: no".into());
        assert_eq!(found(&faulty), ["error configuration-faults portbroker's configuration"]);
    }

    #[test]
    fn what_the_broker_protects_is_to_be_in_the_kernels_list() {
        let text = "[[listener]]\nname = \"web\"\nstream = \"0.0.0.0:40000\"\n[protect]\nports = [\"40001\", \"80\"]\n";
        let mut picture = host().configured(text).listening("0.0.0.0:40000", 3).held_by_broker(&[3]);
        if let Broker::Running { learned, .. } = &mut picture.broker {
            learned.push((Protocol::Tcp, 40_002, "x.service".into()));
        }
        let finding = only(&picture);
        assert_eq!((finding.code, finding.subject.as_str()), ("port-not-reserved", "40000-40002"));
        assert_eq!(finding.evidence.len(), 3);
        assert_eq!(found(&picture.reserving("40000-40002")), [""; 0]);
    }
}

mod stealing {
    use super::*;

    fn asked(mut picture: Picture, inode: u32, address: bool, port: bool) -> Picture {
        picture.reuse.insert(inode, Reuse { address, port });
        picture
    }

    fn udp(local: &str) -> Picture {
        host().with(socket(Protocol::Udp, SocketState::Bound, local, None, 4)).owned(4, "syslogd", None)
    }

    #[test]
    fn datagrams_can_be_taken_where_reuse_address_is_on() {
        let stolen = asked(udp("0.0.0.0:5140"), 4, true, false);
        assert_eq!(found(&stolen)[0], "warning listener-stealable udp 0.0.0.0:5140");
        for safe in [
            asked(udp("0.0.0.0:5140"), 4, false, false),
            asked(udp("0.0.0.0:514"), 4, true, false),
            udp("0.0.0.0:5140"),
        ] {
            assert!(
                !found(&safe).iter().any(|line| line.contains("listener-stealable ")),
                "{:?}",
                found(&safe)
            );
        }
        // mDNS is shared by all on purpose.
        let shared = asked(udp("0.0.0.0:5353"), 4, true, true);
        assert!(!is_wrong(&findings(&shared)));
        assert!(found(&shared).contains(&"note listener-stealable udp 0.0.0.0:5353".to_owned()));
    }

    #[test]
    fn users_bind_from_where_the_host_lets_them() {
        let mut picture = asked(udp("0.0.0.0:514"), 4, true, false);
        picture.networks[0].unprivileged_from = Some(0);
        assert_eq!(found(&picture)[0], "warning listener-stealable udp 0.0.0.0:514");
    }

    #[test]
    fn a_port_that_is_bound_and_not_listened_on_can_be_taken_where_it_is_a_services() {
        let bound = |local: &str| host().with(socket(Protocol::Tcp, SocketState::Bound, local, None, 4));
        let source = asked(bound("127.0.0.1:8080"), 4, true, false);
        assert_eq!(found(&source), [""; 0]);
        let service =
            asked(bound("127.0.0.1:8080"), 4, true, false).claiming(Program::Nginx, Where::Everywhere, 8080);
        assert_eq!(found(&service), ["warning listener-stealable tcp 127.0.0.1:8080"]);
    }

    #[test]
    fn processes_of_one_user_join_a_group() {
        let picture = asked(host().listening("0.0.0.0:443", 4), 4, true, true);
        let finding = only(&picture);
        assert_eq!((finding.severity, finding.code), (Severity::Note, "listener-shared-by-user"));
        let mut of_root = picture;
        of_root.networks[0].sockets[0].uid = 0;
        assert_eq!(found(&of_root), [""; 0]);
    }

    #[test]
    fn ports_that_users_may_bind_are_nobodys_while_their_service_is_down() {
        let picture = host()
            .listening("127.0.0.1:3306", 1)
            .owned(1, "mariadbd", Some("mariadb.service"))
            .listening("0.0.0.0:443", 2)
            .listening("127.0.0.1:40000", 3)
            .listening("127.0.0.1:5432", 4)
            .held_by_broker(&[4]);
        let finding = only(&picture);
        assert_eq!((finding.severity, finding.code), (Severity::Note, "listener-stealable-when-down"));
        assert_eq!(finding.evidence, ["tcp 3306 of mariadbd (pid 101, mariadb.service)"]);
    }
}

mod agreement {
    use super::*;

    /// A listener for nginx, and what nginx's own configuration names.
    fn nginx(stream: &str, claims: &[(&str, u16)]) -> Picture {
        let toml =
            format!("[[listener]]\nname = \"web\"\nstream = {stream}\nallow = \"unit:nginx.service\"\n");
        let address = |text: &str| match text {
            "*" => Where::Everywhere,
            text => text.parse().map_or_else(|_| Where::Name(text.into()), Where::Address),
        };
        let start = host().configured(&toml).held_by_broker(&[]);
        claims.iter().fold(start, |host, (text, port)| host.claiming(Program::Nginx, address(text), *port))
    }

    #[test]
    fn the_same_addresses_agree() {
        let all = "[\"0.0.0.0:80\", \"[::]:80\"]";
        for (stream, claims) in [
            (all, &[("*", 80)][..]),
            (all, &[("0.0.0.0", 80), ("::", 80)]),
            ("\"0.0.0.0:80\"", &[("*", 80)]),
            ("\"[::]:80\"", &[("*", 80)]),
            ("\"127.0.0.1:80\"", &[("localhost", 80)]),
            ("[\"127.0.0.1:80\", \"[::1]:80\"]", &[("localhost", 80)]),
            ("\"192.0.2.1:80\"", &[("www.example.org", 80)]),
            ("\"192.0.2.1:80\"", &[]),
        ] {
            assert_eq!(found(&nginx(stream, claims)), [""; 0], "{stream}");
        }
    }

    #[test]
    fn other_ports_and_other_addresses_do_not() {
        for (stream, claims, says) in [
            (
                "\"0.0.0.0:80\"",
                &[("0.0.0.0", 81)][..],
                "holds tcp 80 for it, and its own configuration does not name",
            ),
            ("\"0.0.0.0:80\"", &[("0.0.0.0", 81)], "names tcp 81, and the broker does not"),
            (
                "\"0.0.0.0:80\"",
                &[("0.0.0.0", 80), ("0.0.0.0", 443)],
                "names tcp 443, and the broker does not",
            ),
            (
                "\"0.0.0.0:80\"",
                &[("127.0.0.1", 80)],
                "holds tcp 80 on 0.0.0.0, and its own configuration does not",
            ),
            ("\"127.0.0.1:80\"", &[("*", 80)], "has tcp 80 on 0.0.0.0, ::, and the broker does not"),
            ("\"192.0.2.1:80\"", &[("192.0.2.2", 80)], "has tcp 80 on 192.0.2.2"),
        ] {
            let finding = only(&nginx(stream, claims));
            assert_eq!((finding.severity, finding.code), (Severity::Warning, "configurations-disagree"));
            assert_eq!(finding.subject, "nginx.service");
            let evidence = finding.evidence.join("\n");
            assert!(evidence.contains(says), "{stream}: {evidence}");
            assert!(evidence.contains("a.toml:2") && evidence.contains("/etc/it:7"), "{evidence}");
        }
    }

    #[test]
    fn others_services_and_services_without_a_known_configuration_are_left_alone() {
        let toml = "[[listener]]\nname = \"x\"\nstream = \"0.0.0.0:80\"\nallow = \"unit:x.service\"\n";
        let picture =
            host().configured(toml).held_by_broker(&[]).claiming(Program::Nginx, Where::Everywhere, 81);
        assert_eq!(found(&picture), [""; 0]);
    }

    #[test]
    fn two_services_for_one_address_collide() {
        let both = |one: Where, other: Where| {
            host().claiming(Program::Nginx, one, 80).claiming(Program::Apache, other, 80)
        };
        let at = |text: &str| Where::Address(text.parse().unwrap());
        assert_eq!(found(&both(Where::Everywhere, at("::1"))), ["warning services-collide tcp 80"]);
        assert_eq!(found(&both(at("0.0.0.0"), at("192.0.2.1"))), ["warning services-collide tcp 80"]);
        assert_eq!(found(&both(at("192.0.2.2"), at("192.0.2.1"))), [""; 0]);
        assert_eq!(found(&both(at("0.0.0.0"), at("::"))), [""; 0]);
        let mut one_is_gone = both(Where::Everywhere, Where::Everywhere);
        let present = ["nginx.service".to_owned()].into();
        one_is_gone.services = Some(crate::config::Services { present, masked: Default::default() });
        assert_eq!(found(&one_is_gone), [""; 0]);
    }
}

#[test]
fn the_worst_comes_first_and_much_evidence_is_cut() {
    let mut picture = host().claiming(Program::Nginx, Where::Everywhere, 40_000);
    picture.networks[0].timestamps = Some(false);
    for n in 0..40u16 {
        picture = picture.listening(&format!("127.0.0.1:{}", 2000 + n), u32::from(n) + 1);
    }
    let all = findings(&picture);
    let severities: Vec<Severity> = all.iter().map(|finding| finding.severity).collect();
    assert_eq!(severities, [Severity::Error, Severity::Warning, Severity::Note]);
    assert_eq!((all[2].evidence.len(), all[2].evidence[12].as_str()), (13, "and 28 more"));
}
