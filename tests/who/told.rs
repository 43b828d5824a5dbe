//! Each way to use a port is seen, with whose it is, and told in words that are true.

use crate::daemon::read_until;
use crate::netns::{in_netns, ip};
use crate::support::{Program, alone, broker, connection_from, json, only_port, own, text};
use serde_json::json;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;

#[test]
fn a_service_that_cannot_start_is_told_who_has_its_port_without_any_broker() {
    in_netns(|| {
        let (client, _server, _accepted) = connection_from(3306);
        // That is why anybody asks.
        assert_eq!(TcpListener::bind("0.0.0.0:3306").unwrap_err().kind(), ErrorKind::AddrInUse);
        let told = text(&mut alone(&["who", "3306"]));
        let sentence = format!(
            "3306 is the source port of a connection that python3 (pid {}) made to 127.0.0.1:9443; MariaDB cannot \
             start until it closes\n  to mend it: ss --kill src 127.0.0.1:3306 dst 127.0.0.1:9443\n",
            client.pid()
        );
        assert!(told.contains(&sentence), "{told}");
        assert!(told.contains("3306 is in net.ipv4.ip_local_port_range 3306 and not reserved"), "{told}");
        assert!(
            told.contains(
                "not seen: what a broker holds, has learned or leases: none is reachable (/nonexistent/bus: "
            ),
            "{told}"
        );
        let document = json(&mut alone(&["who", "3306/tcp"]), 0);
        let source = own(&document, "source")[0];
        assert_eq!(source["processes"][0]["pid"], client.pid());
        assert_eq!((&source["uid"], &source["state"]), (&json!(1001), &json!("established")));
        assert!(source["processes"][0]["age"].as_u64().unwrap() < 600, "{source}");
        assert_eq!(document["service"], "mysql");
        let of_udp = json(&mut alone(&["who", "3306/udp"]), 0);
        assert!(own(&of_udp, "source").is_empty(), "{of_udp}");
    });
}

#[test]
fn a_closed_connection_is_told_with_the_time_that_is_left() {
    in_netns(|| {
        let (client, server, accepted) = connection_from(5433);
        drop(client);
        // The client has closed it first, and the server after it.
        std::io::copy(&mut &accepted, &mut std::io::sink()).unwrap();
        drop(accepted);
        let mut left = 0;
        crate::served::eventually("the connection is in TIME_WAIT", || {
            let document = json(&mut alone(&["who", "5433"]), 0);
            let rows = own(&document, "time-wait");
            left = rows.first().map_or(0, |row| row["seconds_left"].as_u64().unwrap());
            !rows.is_empty()
        });
        assert!((1..=60).contains(&left), "{left}");
        assert_eq!(TcpListener::bind("0.0.0.0:5433").unwrap_err().kind(), ErrorKind::AddrInUse);
        let told = text(&mut alone(&["who", "5433"]));
        assert!(
            told.contains("a closed connection between 127.0.0.1:5433 and 127.0.0.1:9443 is kept"),
            "{told}"
        );
        assert!(told.contains("a service may have to wait so long before it can start"), "{told}");
        drop(server);
    });
}

#[test]
fn listeners_their_connections_bound_sockets_and_datagrams_are_told_apart() {
    in_netns(|| {
        let program = "
a = socket.socket(*TCP); a.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
a.bind(('127.0.0.1', 7101)); a.listen()
b = socket.socket(*TCP); b.bind(('127.0.0.2', 7101))
c = socket.socket(*UDP); c.bind(('0.0.0.0', 7101))
d = socket.socket(*UDP); d.bind(('127.0.0.3', 7102)); d.connect(('127.0.0.4', 9))
";
        let server = Program::new(1002, program);
        let clients: Vec<TcpStream> =
            (0..20).map(|_| TcpStream::connect("127.0.0.1:7101").unwrap()).collect();
        let document = json(&mut alone(&["who", "7101"]), 0);
        for (kind, local) in
            [("listener", "127.0.0.1:7101"), ("bound", "127.0.0.2:7101"), ("datagrams", "0.0.0.0:7101")]
        {
            let rows = own(&document, kind);
            assert_eq!(rows.len(), 1, "{kind}: {document}");
            assert_eq!((&rows[0]["local"], &rows[0]["uid"]), (&json!(local), &json!(1002)));
            assert_eq!(rows[0]["processes"][0]["pid"], server.pid());
        }
        let served = own(&document, "served");
        let count: u64 = served.iter().map(|row| row["count"].as_u64().unwrap()).sum();
        assert_eq!((served.len(), count), (4, 20), "three are shown, and how many more: {document}");
        assert!(own(&document, "source").is_empty(), "{document}");
        let other = json(&mut alone(&["who", "7102/udp"]), 0);
        assert_eq!(own(&other, "source")[0]["remote"], "127.0.0.4:9");
        let told = text(&mut alone(&["who", "7101"]));
        assert!(told.contains(&format!("to free it: kill {}\n", server.pid())), "{told}");
        // From the other end of these connections the port is that of the peer, and no use of it here.
        let from = clients[0].local_addr().unwrap().port().to_string();
        let other = json(&mut alone(&["who", &from]), 0);
        assert_eq!(own(&other, "source")[0]["processes"][0]["pid"], std::process::id());
    });
}

/// A network namespace with a name, which is a file of the host; it goes with this.
struct Named(String);

impl Named {
    fn new() -> Self {
        let name = format!("portbroker-who-{}", std::process::id());
        ip(&format!("netns add {name}"));
        let named = Self(name);
        ip(&format!("-n {} link set lo up", named.0));
        named
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        ip(&format!("netns delete {}", self.0));
    }
}

#[test]
fn other_network_namespaces_are_looked_into() {
    in_netns(|| {
        let blue = Named::new();
        let server =
            Program::inside(&blue.0, "s = socket.socket(*TCP); s.bind(('127.0.0.1', 7201)); s.listen()");
        let document = json(&mut alone(&["who", "7201"]), 0);
        let rows = document["uses"].as_array().unwrap();
        let row =
            rows.iter().find(|row| row["network"] == blue.0.as_str()).unwrap_or_else(|| panic!("{document}"));
        assert_eq!((&row["use"], &row["processes"][0]["pid"]), (&json!("listener"), &json!(server.pid())));
        let told = text(&mut alone(&["who", "7201"]));
        assert!(told.contains(&format!("127.0.0.1:7201 in network namespace {}", blue.0)), "{told}");
        assert!(TcpListener::bind("127.0.0.1:7201").is_ok(), "it is in nobody's way here");
    });
}

const CONFIGURED: &str = "
[[listener]]
name = \"mysql\"
stream = \"127.0.0.1:7301\"
idle = \"refuse\"
[[listener]]
name = \"taken\"
stream = \"127.0.0.1:7302\"
[[pool]]
name = \"egress\"
addresses = [\"127.0.0.2\"]
ports = \"7301-7310\"
";

#[test]
fn what_the_broker_holds_wants_leases_and_reserves_is_told() {
    in_netns(|| {
        let thief = TcpListener::bind("127.0.0.1:7302").unwrap();
        only_port(7309);
        let daemon = broker(CONFIGURED);
        let who = |port: &str| daemon.portbroker(&["who", port]);
        let document = json(&mut who("7301"), 0);
        let held = own(&document, "brokered")[0];
        assert_eq!((&held["name"], &held["state"]), (&json!("mysql"), &json!("bound")), "{document}");
        assert_eq!(held["processes"][0]["pid"], daemon.pid());
        assert_eq!(own(&document, "reserved").len(), 1, "{document}");
        assert_eq!(own(&document, "left-out")[0]["name"], "egress");
        let told = text(&mut who("7301"));
        assert!(told.contains("the broker holds 127.0.0.1:7301 as listener mysql, reserved"), "{told}");

        let document = json(&mut who("7302"), 0);
        assert_eq!(own(&document, "wanted")[0]["name"], "taken", "{document}");
        assert_eq!(own(&document, "listener")[0]["processes"][0]["pid"], std::process::id());
        drop(thief);

        let mut lease = daemon.portbroker(&["lease", "egress", "--to", "127.0.0.1:9", "--count", "1"]);
        let mut lease = lease.stdout(Stdio::piped()).spawn().unwrap();
        let line = read_until(lease.stdout.as_mut().unwrap(), "\n");
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let port = line["pairs"][0]["port"].as_u64().unwrap().to_string();
        let document = json(&mut who(&port), 0);
        let leased = own(&document, "leased")[0];
        assert_eq!(leased["name"], "egress");
        assert!(
            leased["detail"].as_str().unwrap().contains("uid 0 on 127.0.0.2 for 127.0.0.1:9"),
            "{leased}"
        );
        assert_eq!(own(&document, "zone").len(), 1, "{document}");
        lease.kill().unwrap();
        lease.wait().unwrap();

        // Sockets of both families on one port, one of them IPv6's.
        let _udp = UdpSocket::bind("[::1]:7308").unwrap();
        let document = json(&mut who("7308"), 0);
        assert_eq!(own(&document, "datagrams")[0]["local"], "[::1]:7308");
    });
}

#[test]
fn a_port_that_nobody_uses_is_said_to_be_free_and_whether_it_stays_so() {
    in_netns(|| {
        only_port(7401);
        std::fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "7403,7500-7510\n").unwrap();
        let told = text(&mut alone(&["who", "7401"]));
        assert!(told.starts_with("no socket uses 7401\n"), "{told}");
        assert!(told.contains("sysctl -w net.ipv4.ip_local_reserved_ports=7401,7403,7500-7510"), "{told}");
        let told = text(&mut alone(&["who", "7402"]));
        assert!(told.contains("7402 is outside of net.ipv4.ip_local_port_range (7401)"), "{told}");
        let told = text(&mut alone(&["who", "7505/tcp"]));
        assert!(told.contains("7505 is in net.ipv4.ip_local_reserved_ports"), "{told}");
    });
}
