//! `portbroker who --evict`: what is in the way is closed, and nothing else is. Where the kernel cannot close sockets of
//! others, that is what is said, and the status is 1.

use crate::daemon::{Daemon, run};
use crate::netns::in_netns;
use crate::served::eventually;
use crate::support::{Program, alone, broker, can_destroy, connection_from, json};
use serde_json::Value;
use std::net::{TcpListener, TcpStream};

/// `outcome local` of each row.
fn outcomes(document: &Value) -> Vec<String> {
    let rows = document["evicted"].as_array().unwrap().iter();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let mut all: Vec<String> =
        rows.map(|row| format!("{} {}", text(row, "outcome"), text(row, "local"))).collect();
    all.sort();
    all
}

/// Evicts; the status is 0 where the kernel can, and 1 where it cannot, which is `None`.
fn evict(daemon: &Daemon, port: &str) -> Option<Value> {
    let (status, out, errors) = run(&mut daemon.portbroker(&["--json", "who", port, "--evict"]));
    let document: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{errors}"));
    let can = can_destroy(&document);
    assert_eq!(status, i32::from(!can), "{out}{errors}");
    can.then_some(document)
}

#[test]
fn a_connection_in_the_way_is_closed_and_then_its_time_wait_and_the_service_starts() {
    in_netns(|| {
        let daemon = broker("");
        let (mut client, server, accepted) = connection_from(5434);
        assert!(TcpListener::bind("0.0.0.0:5434").is_err());
        let Some(document) = evict(&daemon, "5434") else { return };
        assert_eq!(outcomes(&document), ["closed 127.0.0.1:5434"]);
        assert_eq!(document["uses"][0]["use"], "source", "what it was before");
        drop(TcpListener::bind("0.0.0.0:5434").expect("nothing is in the way any more"));
        assert!(client.go_on().contains("103"), "ECONNABORTED");
        drop((client, server, accepted));
        assert!(daemon.log().contains("closed 1 sockets of port 5434 for pid "), "{}", daemon.log());

        let (client, _server, accepted) = connection_from(5434);
        drop(client);
        std::io::copy(&mut &accepted, &mut std::io::sink()).unwrap();
        drop(accepted);
        eventually("it is in TIME_WAIT", || {
            json(&mut alone(&["who", "5434"]), 0)["uses"][0]["use"] == "time-wait"
        });
        assert!(TcpListener::bind("0.0.0.0:5434").is_err());
        let document = evict(&daemon, "5434/tcp").unwrap();
        assert_eq!(outcomes(&document), ["closed 127.0.0.1:5434"]);
        drop(TcpListener::bind("0.0.0.0:5434").expect("nothing is in the way any more"));
        let (status, out, _) = run(&mut daemon.portbroker(&["who", "5434", "--evict"]));
        assert!(status == 0 && out.ends_with("\nnothing was there to be closed\n"), "{out}");
    });
}

#[test]
fn a_service_is_closed_by_force_alone_and_its_clients_are_in_nobodys_way() {
    in_netns(|| {
        let daemon = broker("");
        let program = "
a = socket.socket(*TCP); a.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
a.bind(('127.0.0.1', 7601)); a.listen()
b = socket.socket(*UDP); b.bind(('127.0.0.1', 7601))
";
        let server = Program::new(1003, program);
        let _client = TcpStream::connect("127.0.0.1:7601").unwrap();
        let document = json(&mut daemon.portbroker(&["who", "7601", "--evict"]), 1);
        let expected = ["kept 127.0.0.1:7601", "refused 127.0.0.1:7601", "refused 127.0.0.1:7601"];
        assert_eq!(outcomes(&document), expected);
        TcpStream::connect("127.0.0.1:7601").expect("it serves");
        let (_, out, _) = run(&mut daemon.portbroker(&["who", "7601/tcp", "--evict"]));
        assert!(
            out.contains("refused tcp 127.0.0.1:7601 (listen): it serves: stop the service, or say --force"),
            "{out}"
        );

        let (status, out, errors) =
            run(&mut daemon.portbroker(&["--json", "who", "7601/tcp", "--evict", "--force"]));
        let document: Value = serde_json::from_str(&out).unwrap();
        assert!(!errors.contains("panicked"), "{errors}");
        if can_destroy(&document) {
            // Its process still has the socket: the port is bound, and nobody can connect.
            assert_eq!(status, 1, "{out}");
            let row =
                document["evicted"].as_array().unwrap().iter().find(|row| row["state"] == "listen").unwrap();
            assert!(row["reason"].as_str().unwrap().contains("its process still has the port"), "{row}");
            assert!(TcpStream::connect("127.0.0.1:7601").is_err());
            // Both set SO_REUSEADDR: so a service can start.
            drop(TcpListener::bind("127.0.0.1:7601").unwrap());
        }
        drop(server);
    });
}

#[test]
fn nothing_that_the_broker_holds_is_ever_closed() {
    in_netns(|| {
        let listener = "[[listener]]\nname = \"held\"\nstream = \"127.0.0.1:7602\"\nallow = [\"user:1\"]\n";
        let daemon = broker(listener);
        let queued = TcpStream::connect("127.0.0.1:7602").expect("it waits in the queue");
        let document = json(&mut daemon.portbroker(&["who", "7602", "--evict", "--force"]), 0);
        assert_eq!(outcomes(&document), ["kept 127.0.0.1:7602", "kept 127.0.0.1:7602"], "{document}");
        TcpStream::connect("127.0.0.1:7602").expect("it is still held");
        queued.set_nonblocking(true).unwrap();
        let error = std::io::Read::read(&mut &queued, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "it waits still");
        let listed = json(&mut daemon.portbroker(&["show", "listener", "held"]), 0);
        assert_eq!(listed["state"], "listening");
    });
}

#[test]
fn a_broker_closes_nothing_in_another_network_namespace_and_says_so() {
    in_netns(|| {
        let daemon = broker("");
        std::thread::scope(|scope| {
            let elsewhere = || {
                in_netns(|| {
                    let (mut client, _server, _accepted) = connection_from(5437);
                    let (status, out, errors) = run(&mut daemon.portbroker(&["who", "5437", "--evict"]));
                    assert_eq!((status, out.as_str()), (1, ""), "{errors}");
                    assert!(
                        errors.contains("it is in another network namespace, and closes nothing"),
                        "{errors}"
                    );
                    drop(_accepted);
                    assert!(client.go_on().starts_with('0'), "it ended by itself");
                });
            };
            scope.spawn(elsewhere).join().unwrap();
        });
    });
}

#[test]
fn a_broker_that_may_close_nothing_says_so_and_nothing_is_closed() {
    in_netns(|| {
        // Without CAP_NET_ADMIN, as an unprivileged daemon.
        let daemon = Daemon::start_as(1006, "[protect]\nlearn = false\n");
        let (mut client, _server, accepted) = connection_from(5438);
        let document = json(&mut daemon.portbroker(&["who", "5438", "--evict"]), 1);
        assert_eq!(outcomes(&document), ["failed 127.0.0.1:5438"], "{document}");
        let reason = document["evicted"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("CAP_NET_ADMIN") || !can_destroy(&document), "{reason}");
        drop(accepted);
        assert!(client.go_on().starts_with('0'), "it ended by itself");
    });
}

#[test]
fn who_may_not_and_where_nobody_is_there_have_their_own_status() {
    in_netns(|| {
        let daemon = broker("");
        let (client, _server, _accepted) = connection_from(5436);
        let (status, out, errors) = run(&mut daemon.portbroker_as(1, &["who", "5436", "--evict"]));
        assert_eq!((status, out.as_str()), (77, ""), "{errors}");
        assert!(errors.starts_with("org.portbroker.PortBroker1.Error.NotAllowed: "), "{errors}");
        let document = json(&mut alone(&["who", "5436"]), 0);
        assert_eq!(document["uses"][0]["processes"][0]["pid"], client.pid(), "it is there still");
        let (status, _, errors) = run(&mut alone(&["who", "5436", "--evict"]));
        assert!(status == 69 && errors.contains("not reachable"), "{status}: {errors}");
    });
}
