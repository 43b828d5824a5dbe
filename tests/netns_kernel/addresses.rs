//! Which addresses are local: as the kernel has it when somebody binds them, and told when it changes.

use crate::netns::{in_netns, ip};
use portbroker::kernel::addresses::{AddressWatch, present};
use std::future::Future;
use std::net::{IpAddr, TcpListener};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_millis(400);

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn has(text: &str) -> bool {
    present().unwrap().has(address(text))
}

/// Whether the kernel lets somebody bind an address.
fn can_be_bound(text: &str) -> bool {
    TcpListener::bind((address(text), 0)).is_ok()
}

/// The addresses of an interface that a pool would take.
fn of(interface: &str) -> Vec<String> {
    let present = present().unwrap();
    let of = present.interfaces().iter().filter(|of| of.interface == interface && of.global && of.ready);
    let mut found: Vec<_> = of.map(|of| of.address.to_string()).collect();
    found.sort();
    found
}

/// Runs a task on a runtime of one thread, the calling one, and so in its network namespace.
fn run<F: Future>(task: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(task)
}

async fn is_told(watch: &mut AddressWatch) -> bool {
    tokio::time::timeout(SOON, watch.changed()).await.is_ok_and(|changed| changed.is_ok())
}

async fn is_quiet(watch: &mut AddressWatch) -> bool {
    tokio::time::timeout(QUIET, watch.changed()).await.is_err()
}

/// An interface with an address of each family, without looking for other hosts that have them.
fn with_eth0() {
    ip("link add eth0 type veth peer name peer");
    // Link-local addresses would become ready a second later, which is a change too.
    ip("link set peer addrgenmode none");
    ip("link set peer up");
    ip("link set eth0 addrgenmode none");
    ip("link set eth0 up");
    ip("addr add 192.0.2.10/24 dev eth0");
    ip("addr add 2001:db8::10/64 dev eth0 nodad");
}

#[test]
fn what_is_local_is_what_can_be_bound() {
    in_netns(|| {
        with_eth0();
        ip("addr add 192.0.2.11/24 dev eth0");
        ip("addr add 192.0.2.12 peer 198.51.100.1/32 dev eth0");
        for (text, expected) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("192.0.2.10", true),
            ("192.0.2.11", true),
            ("192.0.2.12", true),
            ("2001:db8::10", true),
            ("192.0.2.13", false),
            ("198.51.100.1", false),
            ("2001:db8::11", false),
        ] {
            assert_eq!((has(text), can_be_bound(text)), (expected, expected), "{text}");
        }
        assert_eq!(of("eth0"), ["192.0.2.10", "192.0.2.11", "192.0.2.12", "2001:db8::10"]);
        assert_eq!(of("lo"), [""; 0]);
        assert_eq!(of("eth9"), [""; 0]);
    });
}

#[test]
fn addresses_that_come_and_go_are_told() {
    in_netns(|| {
        run(async {
            with_eth0();
            let mut watch = AddressWatch::new().unwrap();
            assert!(is_quiet(&mut watch).await);
            for (change, text, there) in [
                ("addr add 192.0.2.20/24 dev eth0", "192.0.2.20", true),
                ("addr del 192.0.2.20/24 dev eth0", "192.0.2.20", false),
                ("addr add 2001:db8::20/64 dev eth0 nodad", "2001:db8::20", true),
                ("addr del 2001:db8::20/64 dev eth0", "2001:db8::20", false),
                ("-6 route add local 2001:db8:1::/64 dev lo", "2001:db8:1::77", true),
                ("-6 route del local 2001:db8:1::/64 dev lo", "2001:db8:1::77", false),
                ("route add local 203.0.113.0/24 dev lo", "203.0.113.5", true),
                ("route del local 203.0.113.0/24 dev lo", "203.0.113.5", false),
            ] {
                assert_eq!(has(text), !there, "before {change}");
                ip(change);
                assert!(is_told(&mut watch).await, "{change}");
                assert_eq!(watch.present().unwrap().has(address(text)), there, "{change}");
            }
            assert!(is_quiet(&mut watch).await, "each is told once");
            // What a router does all day.
            for n in 0..20 {
                ip(&format!("route add 10.{n}.0.0/16 dev eth0"));
            }
            assert!(is_quiet(&mut watch).await, "other routes are nobody's business");
        });
    });
}

#[test]
fn a_change_is_not_lost_with_a_future_that_is_dropped() {
    in_netns(|| {
        run(async {
            with_eth0();
            let mut watch = AddressWatch::new().unwrap();
            ip("addr add 192.0.2.20/24 dev eth0");
            // Seen within this time, and told only after it.
            let dropped = tokio::time::timeout(Duration::from_millis(20), watch.changed()).await;
            assert!(dropped.is_err());
            assert!(is_told(&mut watch).await);
        });
    });
}

#[test]
fn a_prefix_by_a_route_takes_freebind() {
    in_netns(|| {
        with_eth0();
        ip("-6 route add local 2001:db8:1::/64 dev lo");
        let present = present().unwrap();
        let any = address("2001:db8:1::abcd");
        assert!(present.has(any) && present.takes_freebind(any));
        assert!(!present.takes_freebind(address("2001:db8::10")));
        assert!(!can_be_bound("2001:db8:1::abcd"), "without the flag");
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpFreebind, &true).unwrap();
        socket.bind(&std::net::SocketAddr::new(any, 0).into()).unwrap();
    });
}

#[test]
fn an_address_that_another_host_may_have_is_not_ready() {
    in_netns(|| {
        run(async {
            // Both ends of the pair are here: each finds the address of the other taken.
            ip("link add eth0 type veth peer name eth1");
            ip("link set eth1 up");
            ip("link set eth0 up");
            ip("addr add 2001:db8::30/64 dev eth1 nodad");
            let mut watch = AddressWatch::new().unwrap();
            ip("addr add 2001:db8::31/64 dev eth0");
            let begin = Instant::now();
            let tentative = !has("2001:db8::31");
            let seen_at = begin.elapsed();
            assert!(tentative || seen_at > Duration::from_millis(500), "it takes a second to be found free");
            // Told when it is added, and again when it has been found free.
            while !watch.present().unwrap().has(address("2001:db8::31")) {
                assert!(is_told(&mut watch).await && begin.elapsed() < SOON, "it never became ready");
            }
            assert!(can_be_bound("2001:db8::31"));
            ip("addr add 2001:db8::30/64 dev eth0");
            let on_eth0 = || of("eth0").contains(&"2001:db8::30".to_owned());
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert!(!on_eth0(), "eth1 has it");
            assert!(has("2001:db8::30"), "on eth1");
            ip("addr change 2001:db8::31/64 dev eth0 preferred_lft 0 valid_lft 1000");
            assert!(is_told(&mut watch).await);
            assert!(!has("2001:db8::31"), "deprecated ones are not to be used for anything new");
        });
    });
}

#[test]
fn an_interface_that_goes_takes_its_addresses_with_it() {
    in_netns(|| {
        run(async {
            with_eth0();
            let mut watch = AddressWatch::new().unwrap();
            // Down: to the kernel its IPv4 addresses are local as before, and its IPv6 addresses are gone.
            ip("link set eth0 down");
            assert!(is_told(&mut watch).await);
            for (text, there) in [("192.0.2.10", true), ("2001:db8::10", false)] {
                assert_eq!((has(text), can_be_bound(text)), (there, there), "{text}");
            }
            ip("link set eth0 up");
            assert!(is_told(&mut watch).await);
            assert!(has("192.0.2.10") && !has("2001:db8::10"));
            // What counts is the route.
            ip("route del local 192.0.2.10 dev eth0");
            assert!(is_told(&mut watch).await);
            assert_eq!((has("192.0.2.10"), can_be_bound("192.0.2.10")), (false, false));
            ip("link del eth0");
            assert!(is_told(&mut watch).await);
            assert!(!has("192.0.2.10") && of("eth0").is_empty());
            with_eth0();
            assert!(is_told(&mut watch).await);
            assert_eq!(of("eth0"), ["192.0.2.10", "2001:db8::10"]);
            ip("link set eth0 down");
            ip("link set eth0 name eth7");
            ip("link set eth7 up");
            assert!(is_told(&mut watch).await);
            assert_eq!((of("eth0"), of("eth7")), (vec![], vec!["192.0.2.10".to_owned()]));
        });
    });
}

/// How many events the watches of this network namespace have lost, as the kernel counts them.
fn events_lost() -> u64 {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    // The kernel's address of it, protocol, port id, groups, memory both ways, dump, locks, drops, inode.
    let rows = sockets.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let routes = rows.filter(|row| row[1] == "0" && row[3] != "00000000");
    routes.map(|row| row[8].parse::<u64>().unwrap()).sum()
}

#[test]
fn a_queue_that_runs_over_is_one_more_change() {
    in_netns(|| {
        run(async {
            with_eth0();
            let mut watch = AddressWatch::with_queue(1).unwrap();
            let lines = |change: &str| -> String {
                let all = (0..4000)
                    .map(|n| format!("addr {change} 10.1.{}.{}/32 dev eth0\n", n / 250, n % 250 + 1));
                all.collect()
            };
            let batch = |text: &str| {
                let file = tempfile::NamedTempFile::new().unwrap();
                std::fs::write(file.path(), text).unwrap();
                ip(&format!("-batch {}", file.path().display()));
            };
            batch(&lines("add"));
            assert!(events_lost() > 0, "the queue did not run over");
            assert!(is_told(&mut watch).await);
            assert!(is_quiet(&mut watch).await, "all of it is one change");
            let begin = Instant::now();
            let all = watch.present().unwrap();
            let took = begin.elapsed();
            assert_eq!(all.interfaces().iter().filter(|of| of.interface == "eth0").count(), 4000 + 2);
            assert!(took < Duration::from_secs(1), "{took:?}");
            assert!(all.has(address("10.1.15.250")) && !all.has(address("10.2.0.1")));
            batch(&lines("del"));
            assert!(is_told(&mut watch).await);
            assert!(!has("10.1.0.1"));
            // And it goes on afterwards.
            ip("addr add 192.0.2.77/24 dev eth0");
            assert!(is_told(&mut watch).await && has("192.0.2.77"));
        });
    });
}
