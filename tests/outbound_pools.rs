//! Pools of a real daemon while everything around them changes: addresses, ports, configuration.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/egress.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod egress;
#[path = "support/leases.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod leases;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;

use daemon::{Daemon, run};
use egress::{POOL, TO, addresses, started};
use leases::{Client, eventually};
use netns::{in_netns, ip};
use portbroker_client::wire::ErrorName;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;

/// The JSON of a verb of the command line.
fn json_of(daemon: &Daemon, arguments: &[&str]) -> Value {
    let (_, text, errors) = run(daemon.portbroker(&["--json"]).args(arguments));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{errors}"))
}

fn reload(daemon: &Daemon, configuration: &str) {
    std::fs::write(daemon.config(), configuration).unwrap();
    let (status, _, errors) = run(&mut daemon.portbroker(&["reload"]));
    assert_eq!(status, 0, "{errors}");
}

#[test]
fn an_address_that_is_drained_gives_nothing_more_and_is_drained_with_its_last_lease() {
    in_netns(|| {
        let mut daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        let (lease, _) = client.pairs(&session, "egress", "tcp", TO, 8).unwrap();
        client.drain("192.0.2.2", false).unwrap();
        assert_eq!(client.address("egress", "192.0.2.2"), ("draining".into(), 2, 0));
        assert_eq!(client.pool("egress", async |pool| pool.capacity().await).unwrap(), 300);
        let (_, others) = client.pairs(&session, "egress", "tcp", "192.0.2.9:444", 300).unwrap();
        assert!(others.iter().all(|source| source.ip().to_string() != "192.0.2.2"));
        assert_eq!(
            client.pairs(&session, "egress", "tcp", "192.0.2.9:444", 1).unwrap_err().name,
            Some(ErrorName::Exhausted)
        );
        // It is written down.
        daemon.restart_after_kill(POOL);
        let client = Client::of(&daemon);
        assert_eq!(client.address("egress", "192.0.2.2").0, "draining");
        client.release(lease).unwrap();
        assert_eq!(client.address("egress", "192.0.2.2").0, "drained");
        assert!(daemon.log().contains("192.0.2.2 is drained"));
        client.drain("192.0.2.2", true).unwrap();
        assert_eq!(client.address("egress", "192.0.2.2").0, "in-use");
        client.pairs(&session, "egress", "tcp", "192.0.2.9:444", 100).unwrap();
    });
}

#[test]
fn addresses_that_go_and_come_leave_the_pool_and_join_it() {
    in_netns(|| {
        addresses();
        ip("address del 192.0.2.4/32 dev lo");
        let daemon = Daemon::start(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        assert_eq!(client.address("egress", "192.0.2.4").0, "absent");
        assert_eq!(client.pool("egress", async |pool| pool.state().await).unwrap(), "degraded");
        let status = json_of(&daemon, &["status"]);
        assert!(
            status.to_string().contains("1 of its 4 addresses are not on this host: 192.0.2.4"),
            "{status}"
        );
        let (_, pairs) = client.pairs(&session, "egress", "tcp", TO, 300).unwrap();
        assert!(pairs.iter().all(|source| source.ip().to_string() != "192.0.2.4"));
        ip("address add 192.0.2.4/32 dev lo");
        eventually("the address", || client.address("egress", "192.0.2.4").0 == "in-use");
        assert_eq!(client.pool("egress", async |pool| pool.state().await).unwrap(), "ready");
        client.pairs(&session, "egress", "tcp", TO, 100).unwrap();
        ip("address del 192.0.2.1/32 dev lo");
        eventually("its going", || client.address("egress", "192.0.2.1").0 == "absent");
        assert_eq!(client.address("egress", "192.0.2.1").1, 100, "its leases live on");
        ip("address add 192.0.2.1/32 dev lo");
        eventually("its return", || client.address("egress", "192.0.2.1").0 == "in-use");
        assert_eq!(client.pairs(&session, "egress", "tcp", TO, 1).unwrap_err().number("used"), 400);
        for n in 1..=4 {
            ip(&format!("address del 192.0.2.{n}/32 dev lo"));
        }
        eventually("the end of the pool", || {
            client.pool("egress", async |pool| pool.state().await).unwrap() == "failed"
        });
        assert_eq!(
            client.pairs(&session, "egress", "tcp", TO, 1).unwrap_err().name,
            Some(ErrorName::NotReady)
        );
    });
}

#[test]
fn a_reload_changes_pools_and_keeps_leases() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        let (lease, _) = client.pairs(&session, "egress", "tcp", TO, 400).unwrap();
        reload(&daemon, &POOL.replace("10099", "10109"));
        assert_eq!(client.pairs(&session, "egress", "tcp", TO, 41).unwrap_err().number("free"), 40);
        let (_, new) = client.pairs(&session, "egress", "tcp", TO, 40).unwrap();
        assert!(new.iter().all(|source| (10_100..=10_109).contains(&source.port())));
        // What listens and what a listener has is no pool's.
        #[expect(clippy::disallowed_methods, reason = "somebody else's service")]
        let _other = TcpListener::bind("127.0.0.1:10105").unwrap();
        reload(
            &daemon,
            &format!(
                "[protect]\nports = [\"10001\"]\n[[listener]]\nname = \"web\"\nstream = \"127.0.0.1:10003\"\n{POOL}"
            ),
        );
        let zone = client.pool("egress", async |pool| pool.zone().await).unwrap();
        assert_eq!(zone, "10000,10002,10004-10099");
        let left_out = client.pool("egress", async |pool| pool.left_out().await).unwrap();
        let left_out: BTreeMap<String, String> = left_out.into_iter().collect();
        assert_eq!(left_out["10003"], "held by listener web");
        assert_eq!(left_out["10001"], "[protect] ports");
        // A pool that is gone: its leases are not.
        reload(&daemon, "[[pool]]\nname = \"other\"\naddresses = [\"192.0.2.1\"]\nports = \"10000-10199\"\n");
        assert_eq!(
            client.pairs(&session, "egress", "tcp", TO, 1).unwrap_err().name,
            Some(ErrorName::NoSuchPool)
        );
        assert!(client.leases().iter().any(|row| row.0 == lease && row.7 == "held" && row.2 == "egress"));
        let left_out = client.pool("other", async |pool| pool.left_out().await).unwrap();
        assert_eq!(left_out, [("10105".to_owned(), "listened on".to_owned())]);
        // The same tuples, by another pool: 110 of them are leased, and one is listened on.
        let refused = client.pairs(&session, "other", "tcp", TO, 100).unwrap_err();
        assert_eq!((refused.number("capacity"), refused.number("free")), (199, 90));
        client.release(lease).unwrap();
        // Nothing but what is taken.
        reload(&daemon, "[[pool]]\nname = \"none\"\naddresses = [\"192.0.2.1\"]\nports = \"10105\"\n");
        let refused = client.pairs(&session, "none", "tcp", TO, 1).unwrap_err();
        assert_eq!((refused.name, refused.number("capacity")), (Some(ErrorName::Exhausted), 0));
        assert_eq!(client.pool("none", async |pool| pool.state().await).unwrap(), "failed");
        // A reload with a fault changes nothing.
        std::fs::write(daemon.config(), POOL.replace("192.0.2.1-", "192.0.2.300-")).unwrap();
        assert_eq!(run(&mut daemon.portbroker(&["reload"])).0, 78);
        assert_eq!(client.pool("none", async |pool| pool.state().await).unwrap(), "failed");
    });
}

#[test]
fn ports_of_the_kernels_own_range_are_reserved_and_given_back() {
    const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let reserved = || std::fs::read_to_string(RESERVED).unwrap().trim().to_owned();
    in_netns(|| {
        addresses();
        std::fs::write(RESERVED, "40000,50001\n").unwrap();
        let pool = |ports: &str| POOL.replace("10000-10099", ports);
        let mut daemon = Daemon::start(&pool("10000-10099, 50000-50009"));
        assert_eq!(reserved(), "40000,50000-50009");
        reload(&daemon, &pool("50005-50014"));
        assert_eq!(reserved(), "40000,50001,50005-50014");
        daemon.restart_after_kill(&pool("50005-50014"));
        assert_eq!(reserved(), "40000,50001,50005-50014");
        reload(&daemon, &pool("10000-10099"));
        assert_eq!(reserved(), "40000,50001");
        reload(&daemon, &pool("50005-50014"));
        daemon.terminate();
        assert_eq!(reserved(), "40000,50001");
    });
}

#[test]
fn a_learned_port_is_no_pools_until_it_is_forgotten() {
    const LEARNED: &str = r#"{"version":1,"units":{"db.service":{"life":"b","dropped":0,"ports":[
        {"protocol":"tcp","port":10042,"first":1,"last":3,"is":"learned"}]}}}"#;
    in_netns(|| {
        addresses();
        let daemon = Daemon::start_with(POOL, |command| {
            command.arg("--no-bus");
            let root = PathBuf::from(command.get_args().skip_while(|a| *a != "--root").nth(1).unwrap());
            std::fs::create_dir_all(root.join("var/lib/portbroker")).unwrap();
            std::fs::write(root.join("var/lib/portbroker/learned.json"), LEARNED).unwrap();
        });
        let client = Client::of(&daemon);
        let session = client.open();
        let left_out = client.pool("egress", async |pool| pool.left_out().await).unwrap();
        assert_eq!(left_out, [("10042".to_owned(), "learned: db.service".to_owned())]);
        let (_, all) = client.pairs(&session, "egress", "tcp", TO, 396).unwrap();
        assert!(all.iter().all(|source| source.port() != 10_042));
        assert_eq!(run(&mut daemon.portbroker(&["forget", "10042"])).0, 0);
        let (_, rest) = client.pairs(&session, "egress", "tcp", TO, 4).unwrap();
        assert!(rest.iter().all(|source| source.port() == 10_042));
    });
}

#[test]
fn a_leased_udp_port_that_waits_for_anybody_is_not_taken_for_a_service() {
    in_netns(|| {
        let before = UdpSocket::bind("0.0.0.0:10049").unwrap();
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        let (_, leased) = client.pairs(&session, "egress", "udp", "", 1).unwrap();
        let _socket = UdpSocket::bind(leased[0]).unwrap();
        let _service = UdpSocket::bind("0.0.0.0:10050").unwrap();
        assert_eq!(
            client.pool("egress", async |pool| pool.left_out().await).unwrap(),
            [("10049".to_owned(), "listened on".to_owned())],
            "what was listened on before the start"
        );
        drop(before);
        reload(&daemon, &format!("{POOL}spread = \"round-robin\"\n"));
        let left_out = client.pool("egress", async |pool| pool.left_out().await).unwrap();
        assert_eq!(left_out, [("10050".to_owned(), "listened on".to_owned())]);
        assert_eq!(client.pool("egress", async |pool| pool.spread().await).unwrap(), "round-robin");
    });
}

#[test]
fn addresses_of_a_prefix_that_is_local_by_a_route_can_be_leased() {
    in_netns(|| {
        ip("-6 route add local 2001:db8:1::/64 dev lo");
        let daemon = Daemon::start(
            "[[pool]]\nname = \"six\"\naddresses = [\"2001:db8:1::/64\"]\nports = \"10000-10009\"\n",
        );
        let client = Client::of(&daemon);
        let session = client.open();
        assert_eq!(client.pool("six", async |pool| pool.capacity().await).unwrap(), 10_240);
        let service = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        service.set_freebind_v6(true).unwrap();
        let to: SocketAddr = "[2001:db8:1::ffff]:443".parse().unwrap();
        service.bind(&to.into()).unwrap();
        service.listen(64).unwrap();
        let (_, sockets) = client.sockets(&session, "six", "tcp", &to.to_string(), 20).unwrap();
        let mut sources = std::collections::BTreeSet::new();
        for (source, socket) in sockets {
            let socket = socket2::Socket::from(socket);
            socket.connect(&to.into()).unwrap();
            assert_eq!(socket.local_addr().unwrap().as_socket(), Some(source));
            sources.insert(source.ip());
        }
        assert_eq!(sources.len(), 20, "each of another address");
        let refused = client.pairs(&session, "six", "tcp", "192.0.2.9:443", 1).unwrap_err();
        assert_eq!(refused.name, Some(ErrorName::BadArgument), "{refused:?}");
        ip("-6 route del local 2001:db8:1::/64 dev lo");
        eventually("the end of the pool", || {
            client.pool("six", async |pool| pool.state().await).unwrap() == "failed"
        });
    });
}
