//! The pools of a real daemon: which addresses and ports they have, what they leave out and say why, and that this
//! follows the host.

#![cfg(test)]
#![expect(clippy::disallowed_methods, reason = "the tests play services that bind for themselves")]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/leases.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod leases;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;

use daemon::{Daemon, run};
use leases::{Client, eventually};
use netns::{in_netns, ip};
use portbroker_client::wire::ErrorName;
use std::net::{SocketAddr, TcpListener};

/// `192.0.2.1 in-use, 192.0.2.2 absent`
fn addresses(client: &Client, pool: &str) -> String {
    let rows = client.pool(pool, async |pool| pool.addresses().await).unwrap();
    rows.into_iter().map(|(address, state, ..)| format!("{address} {state}")).collect::<Vec<_>>().join(", ")
}

fn zone(client: &Client, pool: &str) -> (String, Vec<(String, String)>) {
    let zone = client.pool(pool, async |pool| pool.zone().await).unwrap();
    (zone, client.pool(pool, async |pool| pool.left_out().await).unwrap())
}

fn reasons(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(ports, why)| ((*ports).to_owned(), (*why).to_owned())).collect()
}

fn faults(client: &Client, pool: &str) -> Vec<String> {
    client.pool(pool, async |pool| pool.faults().await).unwrap()
}

fn state(client: &Client, pool: &str) -> String {
    client.pool(pool, async |pool| pool.state().await).unwrap()
}

#[test]
fn a_pool_follows_the_addresses_of_the_host() {
    in_netns(|| {
        ip("link add eth0 type veth peer name peer");
        ip("link set eth0 up");
        ip("address add 192.0.2.1/32 dev lo");
        let daemon = Daemon::start(
            "[[pool]]\nname = \"a\"\naddresses = \"192.0.2.1-192.0.2.2\"\nports = \"10000-10009\"\n\
             [[pool]]\nname = \"b\"\naddresses = [\"dev:eth0\", \"2001:db8:1::/126\"]\nports = \"10000-10009\"\n",
        );
        let client = Client::of(&daemon);
        let session = client.open();
        assert_eq!(addresses(&client, "a"), "192.0.2.1 in-use, 192.0.2.2 absent");
        assert_eq!(state(&client, "a"), "degraded");
        assert!(faults(&client, "a")[0].contains("192.0.2.2"), "{:?}", faults(&client, "a"));
        let absent = "2001:db8:1::1 absent, 2001:db8:1::2 absent, 2001:db8:1::3 absent";
        assert_eq!((addresses(&client, "b").as_str(), state(&client, "b").as_str()), (absent, "failed"));
        // Nothing of an address that is not there is leased.
        let (_, pairs) = client.pairs(&session, "a", "tcp", "192.0.2.1:443", 10).unwrap();
        assert!(pairs.iter().all(|source| source.ip().to_string() == "192.0.2.1"), "{pairs:?}");
        let refused = client.pairs(&session, "a", "tcp", "192.0.2.1:443", 1).unwrap_err();
        assert_eq!((refused.name, refused.number("capacity")), (Some(ErrorName::Exhausted), 10));
        ip("address add 192.0.2.2/32 dev lo");
        eventually("the second address", || addresses(&client, "a") == "192.0.2.1 in-use, 192.0.2.2 in-use");
        assert_eq!((state(&client, "a"), faults(&client, "a")), ("ready".into(), vec![]));
        let (_, pairs) = client.pairs(&session, "a", "tcp", "192.0.2.1:443", 10).unwrap();
        assert!(pairs.iter().all(|source| source.ip().to_string() == "192.0.2.2"), "{pairs:?}");
        ip("address add 198.51.100.1/24 dev eth0");
        ip("-6 route add local 2001:db8:1::/64 dev lo");
        let all = absent.replace("absent", "in-use");
        eventually("eth0 and the prefix", || {
            addresses(&client, "b") == format!("198.51.100.1 in-use, {all}")
        });
        let capacity = client.pool("b", async |pool| pool.capacity().await).unwrap();
        assert_eq!((capacity, state(&client, "b").as_str()), (30, "ready"));
        ip("address del 198.51.100.1/24 dev eth0");
        ip("-6 route del local 2001:db8:1::/64 dev lo");
        eventually("their end", || addresses(&client, "b") == absent);
        // What was leased lives on.
        assert_eq!(client.leases().len(), 2);
    });
}

#[test]
fn a_prefix_by_a_route_gives_sockets_that_connect() {
    in_netns(|| {
        ip("-6 route add local 2001:db8:1::/64 dev lo");
        let daemon = Daemon::start(
            "[[pool]]\nname = \"a\"\naddresses = \"2001:db8:1::/126\"\nports = \"10000-10001\"\n",
        );
        let client = Client::of(&daemon);
        let session = client.open();
        let service = TcpListener::bind("[::1]:443").unwrap();
        let to: SocketAddr = service.local_addr().unwrap();
        let (_, sockets) = client.sockets(&session, "a", "tcp", "[::1]:443", 6).unwrap();
        assert_eq!(sockets.len(), 6);
        for (source, socket) in sockets {
            let socket = socket2::Socket::from(socket);
            socket.connect(&to.into()).unwrap_or_else(|error| panic!("{source}: {error}"));
            assert_eq!(service.accept().unwrap().1, source);
        }
    });
}

#[test]
fn a_zone_is_without_what_is_somebodys() {
    in_netns(|| {
        let _service = TcpListener::bind("127.0.0.1:10007").unwrap();
        let _other = std::net::UdpSocket::bind("0.0.0.0:10008").unwrap();
        let daemon = Daemon::start(
            "[protect]\nports = \"10005\"\n[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:10002-10003\"\n\
             [[pool]]\nname = \"a\"\naddresses = \"127.0.0.1\"\nports = \"10000-10009\"\n",
        );
        let client = Client::of(&daemon);
        let (zone, left_out) = zone(&client, "a");
        assert_eq!(zone, "10000-10001,10004,10006,10009");
        let expected = [
            ("10002-10003", "held by listener web"),
            ("10005", "[protect] ports"),
            ("10007-10008", "listened on"),
        ];
        assert_eq!(left_out, reasons(&expected));
        let session = client.open();
        let (_, pairs) = client.pairs(&session, "a", "tcp", "", 5).unwrap();
        let mut ports: Vec<u16> = pairs.iter().map(SocketAddr::port).collect();
        ports.sort_unstable();
        assert_eq!(ports, [10000, 10001, 10004, 10006, 10009]);
    });
}

#[test]
fn what_a_pool_has_of_the_kernels_range_is_reserved_and_never_too_much() {
    in_netns(|| {
        let file = |name: &str| format!("/proc/sys/net/ipv4/{name}");
        std::fs::write(file("ip_local_port_range"), "20000 20999\n").unwrap();
        let reserved = || std::fs::read_to_string(file("ip_local_reserved_ports")).unwrap().trim().to_owned();
        let a = "[[pool]]\nname = \"a\"\naddresses = \"127.0.0.1\"\nports = \"19990-20499\"\n";
        let b = "[[pool]]\nname = \"b\"\naddresses = \"127.0.0.1\"\nports = \"20400-20999, 30000\"\n";
        let daemon = Daemon::start(&format!("{a}{b}"));
        let client = Client::of(&daemon);
        assert_eq!(zone(&client, "a"), ("19990-20499".into(), vec![]));
        let why = "more than three quarters of the kernel's own range";
        assert_eq!(zone(&client, "b"), ("20400-20499,30000".into(), reasons(&[("20500-20999", why)])));
        assert!(faults(&client, "a").is_empty());
        assert!(faults(&client, "b")[0].contains("three quarters"), "{:?}", faults(&client, "b"));
        assert_eq!(reserved(), "20000-20499");
        // The kernel chooses from the rest, and from nothing else.
        let service = TcpListener::bind("127.0.0.1:80").unwrap();
        let mine: Vec<_> =
            (0..100).map(|_| std::net::TcpStream::connect(service.local_addr().unwrap()).unwrap()).collect();
        assert!(mine.iter().all(|of| (20500..=20999).contains(&of.local_addr().unwrap().port())));
        // With another configuration the ports are given back.
        std::fs::write(daemon.config(), a.replace("20499", "20009")).unwrap();
        let (status, _, said) = run(&mut daemon.portbroker(&["reload"]));
        assert_eq!(status, 0, "{said}");
        assert_eq!((reserved(), zone(&client, "a").0), ("20000-20009".into(), "19990-20009".into()));
        let refused = client.pairs(&client.open(), "b", "tcp", "", 1).unwrap_err();
        assert_eq!(refused.name, Some(ErrorName::NoSuchPool));
        // One that has faults changes nothing.
        std::fs::write(daemon.config(), a.replace("19990-20499", "20499-19990")).unwrap();
        let (status, _, said) = run(&mut daemon.portbroker(&["reload"]));
        assert!(status != 0 && said.contains("runs backwards: write 19990-20499"), "{status} {said}");
        assert_eq!(zone(&client, "a").0, "19990-20009");
    });
}

#[test]
fn without_a_pool_there_is_one_of_the_hosts_addresses() {
    in_netns(|| {
        let daemon = Daemon::start("");
        let client = Client::of(&daemon);
        assert_eq!(addresses(&client, "default"), "127.0.0.1 in-use, ::1 in-use");
        assert_eq!(client.pool("default", async |pool| pool.origin().await).unwrap(), "built in");
        let (ports, left_out) = zone(&client, "default");
        assert!(ports.starts_with("1024-") && ports.ends_with("61000-65535"), "{ports}");
        assert_eq!(
            left_out[..2],
            reasons(&[("1-1023", "below 1024"), ("32768-60999", "the kernel's own range")])[..]
        );
        ip("address add 192.0.2.1/32 dev lo");
        eventually("a global address", || addresses(&client, "default") == "192.0.2.1 in-use");
    });
}
