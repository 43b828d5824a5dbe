//! What is foretold of a pool's ports by a real daemon: to whom, when, how often, and that it comes true.

#![cfg(test)]

#[path = "support/bus.rs"]
mod bus;
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

use bus::Bus;
use daemon::{Daemon, run};
use egress::{POOL, TO, addresses, started};
use leases::{Client, eventually};
use netns::{NOBODY, in_netns};
use portbroker_client::wire::{ErrorName, ForecastRow, MAX_FORECAST_ROWS, NEVER};
use portbroker_client::{Broker, pools::Forecast};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

const OTHER: &str = "192.0.2.9:444";

fn forecasts(client: &Client) -> Vec<ForecastRow> {
    client.ask(async |manager| manager.list_forecasts(u32::MAX).await).unwrap()
}

fn of<'a>(rows: &'a [ForecastRow], protocol: &str, destination: &str) -> &'a ForecastRow {
    let found = rows.iter().find(|row| row.1 == protocol && row.2 == destination);
    found.unwrap_or_else(|| panic!("no {protocol} {destination} in {rows:?}"))
}

fn lines(daemon: &Daemon, event: &str) -> usize {
    daemon.log().lines().filter(|line| line.contains(&format!("event=\"{event}\""))).count()
}

/// `ExhaustionAhead` as they come, with what was free when each did.
fn signals(socket: &std::path::Path) -> std::sync::mpsc::Receiver<(String, u32, u32, u32, f64, u64)> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let socket = socket.to_owned();
    let (ready, begun) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let client = Client::at(&socket);
        let _ = client.pool("egress", async |pool| {
            let mut signals = pool.receive_exhaustion_ahead().await?;
            ready.send(()).unwrap();
            while let Some(signal) = futures_util::StreamExt::next(&mut signals).await {
                if sender.send(signal.message().body().deserialize()?).is_err() {
                    break;
                }
            }
            Ok(())
        });
    });
    begun.recv_timeout(Duration::from_secs(20)).expect("signals are heard");
    receiver
}

#[test]
fn a_climb_is_told_before_the_ports_are_used_up_and_once() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        assert_eq!(forecasts(&client), [], "nothing is leased");
        let signals = signals(&daemon.socket());
        // 32 a second, of 400.
        let (mut taken, mut leases) = (0, Vec::new());
        let signal = loop {
            leases.push(client.pairs(&session, "egress", "tcp", TO, 8).expect("told too late").0);
            taken += 8;
            if let Ok(signal) = signals.recv_timeout(Duration::from_millis(250)) {
                break signal;
            }
        };
        let (protocol, used, cooling, capacity, rate, seconds) = signal;
        assert_eq!((protocol.as_str(), cooling, capacity), ("tcp", 0, 400));
        assert!((200..=taken).contains(&used) && rate > 0.0 && seconds <= 300, "{used} {rate} {seconds}");
        assert!(taken < 400, "before its end");
        let rows = forecasts(&client);
        let row = of(&rows, "tcp", TO);
        assert_eq!((row.0.as_str(), row.3, row.5, row.8), ("egress", taken, 400, true));
        assert!(row.6 > 0.0 && row.7 != NEVER);

        // It comes true, and is not told again.
        while client.pairs(&session, "egress", "tcp", TO, 8).is_ok() {}
        assert_eq!(
            client.pairs(&session, "egress", "tcp", TO, 1).unwrap_err().name,
            Some(ErrorName::Exhausted)
        );
        assert!(signals.recv_timeout(Duration::from_secs(3)).is_err(), "told twice");
        assert_eq!(lines(&daemon, "exhaustion-ahead"), 1);
        assert!(daemon.log().contains(&format!("for tcp to {TO} are taken")), "{}", daemon.log());
        let row = of(&forecasts(&client), "tcp", TO).clone();
        assert_eq!((row.3 + row.4, row.7), (400, 0), "{row:?}");

        // The client library has the same.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let broker = Broker::new().socket_path(daemon.socket());
        let seen = runtime.block_on(broker.forecasts()).unwrap();
        let seen: &Forecast = seen.iter().find(|of| of.destination.as_deref() == Some(TO)).unwrap();
        assert!(seen.ahead && seen.exhausted_in == Some(Duration::ZERO) && seen.taken() > 0.99, "{seen:?}");

        // Given back, there is no end any more.
        for lease in leases {
            client.release(lease).unwrap();
        }
        eventually("the forecast ends", || of(&forecasts(&client), "tcp", TO).7 == NEVER);
    });
}

#[test]
fn each_destination_has_its_own_and_udp_has_one_for_all() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        client.pairs(&session, "egress", "tcp", TO, 100).unwrap();
        client.pairs(&session, "egress", "tcp", OTHER, 20).unwrap();
        client.pairs(&session, "egress", "tcp", "", 10).unwrap();
        client.pairs(&session, "egress", "udp", TO, 30).unwrap();
        client.pairs(&session, "egress", "udp", OTHER, 10).unwrap();
        let rows = forecasts(&client);
        // What is leased for any destination is taken of each.
        assert_eq!(of(&rows, "tcp", TO).3, 110, "{rows:?}");
        assert_eq!(of(&rows, "tcp", OTHER).3, 30);
        assert_eq!(of(&rows, "udp", "0.0.0.0:0").3, 40);
        assert_eq!(rows.len(), 4, "{rows:?}");
        let shares: Vec<u32> = rows.iter().map(|row| row.3 + row.4).collect();
        assert!(shares.is_sorted_by(|a, b| a >= b), "the busiest first: {rows:?}");
        let first = client.ask(async |manager| manager.list_forecasts(1).await).unwrap();
        assert_eq!(first.len(), 1);
    });
}

#[test]
fn a_daemon_that_is_started_again_knows_what_was_leased_before() {
    in_netns(|| {
        let mut daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        client.pairs(&session, "egress", "tcp", TO, 100).unwrap();
        client.pairs(&session, "egress", "tcp", OTHER, 390).unwrap();
        eventually("it is told", || lines(&daemon, "exhaustion-ahead") == 1);
        daemon.restart_after_kill(POOL);
        let client = Client::of(&daemon);
        eventually("all is known", || forecasts(&client).len() == 2);
        let rows = forecasts(&client);
        assert_eq!((of(&rows, "tcp", TO).3, of(&rows, "tcp", OTHER).3), (100, 390));
        assert_eq!(of(&rows, "tcp", TO).7, NEVER, "what was there before does not climb");
        drop(session);
    });
}

#[test]
fn very_many_destinations_take_no_more_memory_than_few() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        for n in 0..2000_u32 {
            let to = format!("198.51.{}.{}:443", n / 250, n % 250 + 1);
            client.pairs(&session, "egress", "tcp", &to, 1).unwrap();
            if n % 100 == 0 {
                client.pairs(&session, "egress", "tcp", TO, 10).unwrap();
            }
        }
        eventually("the busiest is followed among all the others", || {
            client.pairs(&session, "egress", "tcp", TO, 1).unwrap();
            forecasts(&client).first().is_some_and(|row| row.2 == TO)
        });
        let followed = forecasts(&client).len();
        assert!((64..=MAX_FORECAST_ROWS as usize).contains(&followed), "{followed}");
    });
}

#[test]
fn nobody_learns_whom_others_connect_to() {
    in_netns(|| {
        addresses();
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::start(folder.path());
        let pool = format!("{POOL}allow = [\"user:{NOBODY}\"]\n");
        let daemon = Daemon::start_with(&pool, |command| {
            command.env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address);
        });
        eventually("the name on the bus", || daemon.log().contains("serving the system bus"));
        let client = Client::of(&daemon);
        let session = client.open();
        client.pairs(&session, "egress", "tcp", TO, 50).unwrap();
        let mut own = daemon.portbroker_as(NOBODY, &["lease", "egress", "--to", OTHER, "--", "sleep", "60"]);
        let mut own = netns::spawn(&mut own);
        eventually("nobody has leased", || client.leases().len() == 2);
        let asked_by = |uid: u32| {
            let mut ask = Command::new("busctl");
            ask.arg(format!("--address={}", bus.address)).args(["--json=short", "call"]);
            ask.args(["org.portbroker.PortBroker1", "/org/portbroker/PortBroker1"]);
            ask.args(["org.portbroker.PortBroker1.Manager", "ListForecasts", "u", "9"]).uid(uid).gid(uid);
            let (status, told, error) = run(&mut ask);
            assert_eq!(status, 0, "{error}");
            told
        };
        let (to_nobody, to_root) = (asked_by(NOBODY), asked_by(0));
        assert!(to_nobody.contains(OTHER) && !to_nobody.contains(TO), "{to_nobody}");
        assert!(to_root.contains(OTHER) && to_root.contains(TO), "{to_root}");
        own.kill().unwrap();
        own.wait().unwrap();
    });
}
