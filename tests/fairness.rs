//! Fairness among callers of a real daemon: what is kept for each, and who is served when ports come free.
//!
//! The callers are processes of two users and more, which are owners of their own.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/egress.rs"]
mod egress;
#[path = "support/leases.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod leases;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;

use daemon::{Daemon, run};
use egress::{POOL, TO, addresses, service, started};
use leases::{Client, Session, connected, eventually};
use netns::{NOBODY, in_netns, spawn};
use portbroker_client::wire::{ErrorName, ManagerProxy};
use portbroker_client::{Broker, Connector, Protocol, Target};
use std::collections::HashMap;
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use zbus::Variant;

const OTHER: u32 = 65_533;

fn allowed(rest: &str) -> String {
    format!("{POOL}allow = [\"user:{NOBODY}\", \"user:{OTHER}\"]\n{rest}\n")
}

/// `portbroker lease egress --to TO …` as a user.
fn lease_as(daemon: &Daemon, uid: u32, arguments: &str) -> std::process::Command {
    let words = ["lease", "egress", "--to", TO].into_iter().chain(arguments.split_whitespace());
    daemon.portbroker_as(uid, &words.collect::<Vec<_>>())
}

/// The same with a command that writes a line to a file of the test's.
fn waiter(daemon: &Daemon, uid: u32, count: u32, line: &str) -> Child {
    let file = daemon.folder().join("order");
    if !file.exists() {
        std::fs::write(&file, "").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&file, mode).unwrap();
    }
    let script = format!("echo {line} >> {}", file.display());
    let mut command = lease_as(daemon, uid, &format!("--count {count} --wait 60s"));
    command.args(["--", "sh", "-c", &script]).stdout(Stdio::null()).stderr(Stdio::piped());
    spawn(&mut command)
}

fn order(daemon: &Daemon) -> Vec<String> {
    let text = std::fs::read_to_string(daemon.folder().join("order")).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn waiting(client: &Client) -> u32 {
    client.pool("egress", async |pool| pool.waiting().await).unwrap()
}

fn ends_well(mut child: Child) {
    let status = child.wait().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(status.success(), "{status}: {text}");
}

fn all(client: &Client, session: &Session) -> u64 {
    client.blocks(session, "egress", TO, 400, None).unwrap().0
}

#[test]
fn a_greedy_caller_leaves_others_their_minimum_also_after_a_restart() {
    in_netns(|| {
        let configuration = allowed("minimum = { ports = 20 }");
        let mut daemon = started(&configuration);
        let client = Client::of(&daemon);
        let session = client.open();
        let (lease, blocks) = client.blocks(&session, "egress", TO, 400, Some(1)).unwrap();
        let ports = |blocks: &[leases::Block]| {
            blocks.iter().map(|(_, first, last)| u32::from(last - first) + 1).sum::<u32>()
        };
        assert_eq!(ports(&blocks), 360, "two callers are named, with 20 each");
        let refused = client.pairs(&session, "egress", "tcp", TO, 1).unwrap_err();
        assert_eq!((refused.number("free"), refused.number("kept")), (40, 40), "{refused:?}");
        assert!(refused.text.contains("40 are for others"), "{refused:?}");
        let (status, _, text) = run(&mut lease_as(&daemon, NOBODY, "--count 21 -- true"));
        assert!(status == 1 && text.contains("Exhausted"), "{text}");
        for _ in 0..3 {
            let (status, _, text) = run(&mut lease_as(&daemon, NOBODY, "--count 20 -- true"));
            assert_eq!(status, 0, "{text}");
        }
        daemon.restart_after_kill(&configuration);
        let client = Client::of(&daemon);
        // What the others had cools no more, and is kept for them still.
        let refused = || client.pairs(&session, "egress", "tcp", TO, 1).unwrap_err();
        eventually("all of it is free", || refused().number("free") == 40);
        assert_eq!(refused().number("kept"), 40);
        assert_eq!(run(&mut lease_as(&daemon, OTHER, "--count 20 -- true")).0, 0);
        let show = run(&mut daemon.portbroker(&["show", "pool", "egress"])).1;
        assert!(show.contains("20 ports for each caller"), "{show}");
        client.release(lease).unwrap();
    });
}

#[test]
fn a_minimum_that_there_is_not_for_all_is_said() {
    in_netns(|| {
        addresses();
        // It is said by `check` as well.
        let daemon = Daemon::start(&allowed("minimum = { ports = 201 }"));
        let client = Client::of(&daemon);
        let session = client.open();
        let (_, blocks) = client.blocks(&session, "egress", TO, 400, Some(1)).unwrap();
        let ports: u32 = blocks.iter().map(|(_, first, last)| u32::from(last - first) + 1).sum();
        assert_eq!(ports, 400 - 2 * 133, "a third for each");
        let (status, text, _) = run(&mut daemon.portbroker(&["status"]));
        assert!(status == 1 && text.contains("201 ports for each of 3 callers"), "{status} {text}");
        let path = daemon.config();
        let (_, text, errors) = run(&mut daemon.portbroker(&["check", path.to_str().unwrap()]));
        assert!(format!("{text}{errors}").contains("201 ports for each of 2 callers"), "{text} {errors}");
    });
}

#[test]
fn waiters_of_two_users_are_served_by_turns() {
    in_netns(|| {
        let daemon = started(&allowed(""));
        let client = Client::of(&daemon);
        let session = client.open();
        let lease = all(&client, &session);
        let mut waiters = Vec::new();
        for (n, uid) in [NOBODY, NOBODY, NOBODY, OTHER, OTHER, OTHER].into_iter().enumerate() {
            waiters.push(waiter(&daemon, uid, 400, &uid.to_string()));
            eventually("it waits", || waiting(&client) as usize == n + 1);
        }
        assert!(order(&daemon).is_empty());
        // Nobody overtakes them, not even one that wants little.
        client.release(lease).unwrap();
        waiters.into_iter().for_each(ends_well);
        let (one, two) = (NOBODY.to_string(), OTHER.to_string());
        let turns: Vec<&str> = [one.as_str(), two.as_str()].into_iter().cycle().take(6).collect();
        assert_eq!(order(&daemon), turns);
        assert_eq!(waiting(&client), 0);
    });
}

#[test]
fn who_does_not_wait_overtakes_nobody() {
    in_netns(|| {
        let daemon = started(&allowed(""));
        let client = Client::of(&daemon);
        let session = client.open();
        let (_, _) = client.blocks(&session, "egress", TO, 300, None).unwrap();
        let big = waiter(&daemon, NOBODY, 350, "big");
        eventually("it waits", || waiting(&client) == 1);
        // A hundred are free.
        let (status, _, text) = run(&mut lease_as(&daemon, OTHER, "--count 1 -- true"));
        assert!(status == 1 && text.contains("because they wait"), "{status} {text}");
        let refused = client.pairs(&session, "egress", "tcp", TO, 1).unwrap_err();
        assert_eq!((refused.number("free"), refused.number("kept")), (100, 100));
        assert_eq!(client.pairs(&session, "egress", "tcp", "192.0.2.9:444", 1).unwrap().1.len(), 1);
        // It waits, and has its turn when the big one had its own and there was not enough.
        ends_well(waiter(&daemon, OTHER, 50, "small"));
        assert_eq!(waiting(&client), 1);
        drop(session);
        ends_well(big);
        assert_eq!(order(&daemon), ["small", "big"]);
    });
}

#[test]
fn a_deadline_ends_with_the_figures() {
    in_netns(|| {
        let daemon = started(&allowed(""));
        let client = Client::of(&daemon);
        let session = client.open();
        all(&client, &session);
        let began = Instant::now();
        let (status, _, text) = run(&mut lease_as(&daemon, NOBODY, "--wait 1s -- true"));
        assert!(began.elapsed() >= Duration::from_secs(1));
        assert!(
            status == 1 && text.contains("Exhausted") && text.contains("400 are leased"),
            "{status} {text}"
        );
        let path = session.path.as_ref();
        for wait in [Variant::U32(600_001), Variant::U64(1)] {
            let options = HashMap::from([("wait", wait)]);
            let refused = client
                .ask(async |manager| manager.lease_pairs(&path, "egress", "tcp", TO, 1, options).await)
                .unwrap_err();
            assert_eq!(refused.name, Some(ErrorName::BadArgument), "{refused:?}");
        }
    });
}

/// A call that waits, as a future; and one beside it on the same connection.
#[test]
fn other_calls_of_a_connection_are_answered_while_one_waits() {
    in_netns(|| {
        let daemon = started(&allowed(""));
        let client = Client::of(&daemon);
        let session = client.open();
        let lease = all(&client, &session);
        let path = session.path.as_ref();
        let wait = async |manager: &ManagerProxy<'_>, milliseconds: u32| {
            let options = HashMap::from([("wait", Variant::U32(milliseconds))]);
            manager.lease_pairs(&path, "egress", "tcp", TO, 1, options).await
        };
        let (leased, rows) = client
            .ask(async |manager| {
                let others = async {
                    let rows = manager.list_leases(0, 10).await?;
                    manager.release(lease).await?;
                    Ok::<_, zbus::Error>(rows)
                };
                tokio::try_join!(wait(&manager, 60_000), others)
            })
            .unwrap();
        assert_eq!((leased.1.len(), rows.len()), (1, 1));
        // Of one connection so many wait.
        client.blocks(&session, "egress", TO, 399, None).unwrap();
        let refused = client
            .ask(async |manager| {
                let all: Vec<_> = (0..65).map(|_| wait(&manager, 3_000)).collect();
                let all = futures_util::future::join_all(all).await;
                Ok(all.into_iter().map(|answer| answer.unwrap_err().to_string()).collect::<Vec<_>>())
            })
            .unwrap();
        let limited = |text: &&String| text.contains("LimitsExceeded");
        assert_eq!(refused.iter().filter(limited).count(), 1, "{refused:?}");
        assert_eq!(refused.iter().filter(|text| text.contains("Exhausted")).count(), 64);
    });
}

#[test]
fn who_is_gone_waits_no_more() {
    in_netns(|| {
        let daemon = started(&allowed(""));
        let client = Client::of(&daemon);
        let session = client.open();
        let lease = all(&client, &session);
        // Killed.
        let mut killed = waiter(&daemon, NOBODY, 400, "killed");
        eventually("it waits", || waiting(&client) == 1);
        killed.kill().unwrap();
        killed.wait().unwrap();
        eventually("nobody waits", || waiting(&client) == 0);
        // Its connection is closed, and its session lives on.
        let gone = Client::of(&daemon);
        let other = gone.open();
        let path = other.path.as_ref();
        let given_up = gone.ask(async |manager| {
            let options = HashMap::from([("wait", Variant::U32(60_000))]);
            let call = manager.lease_pairs(&path, "egress", "tcp", TO, 1, options);
            Ok(tokio::time::timeout(Duration::from_millis(300), call).await.is_err())
        });
        assert!(given_up.unwrap() && waiting(&client) == 1);
        drop(gone);
        eventually("nobody waits", || waiting(&client) == 0);
        // Its session ends.
        let told = std::thread::scope(|scope| {
            let waits = Client::of(&daemon);
            let ends = waits.open();
            let path = ends.path.clone();
            let thread = scope.spawn(move || {
                let options = HashMap::from([("wait", Variant::U32(60_000))]);
                waits.ask(async |manager| {
                    manager.lease_pairs(&path.as_ref(), "egress", "tcp", TO, 1, options).await
                })
            });
            eventually("it waits", || waiting(&client) == 1);
            drop(ends);
            thread.join().unwrap()
        });
        assert_eq!(told.unwrap_err().name, Some(ErrorName::NoSuchSession));
        client.release(lease).unwrap();
        eventually("everything is free", || client.blocks(&session, "egress", TO, 400, None).is_ok());
    });
}

#[test]
fn who_waits_asks_again_when_the_daemon_was_killed() {
    in_netns(|| {
        let configuration = allowed("");
        let mut daemon = started(&configuration);
        let client = Client::of(&daemon);
        let session = client.open();
        all(&client, &session);
        let waiters = [waiter(&daemon, NOBODY, 400, "a"), waiter(&daemon, OTHER, 400, "b")];
        eventually("they wait", || waiting(&client) == 2);
        daemon.restart_after_kill(&configuration);
        let client = Client::of(&daemon);
        eventually("they wait again", || waiting(&client) == 2);
        assert!(order(&daemon).is_empty());
        drop(session);
        waiters.into_iter().for_each(ends_well);
        assert_eq!(order(&daemon).len(), 2);
    });
}

/// A process of one user that has connected and has ports to spare, and one of another that lacks them.
#[test]
fn a_connector_gives_back_what_it_does_not_need_when_another_lacks_it() {
    in_netns(|| {
        addresses();
        let ten = "[[pool]]\nname = \"egress\"\naddresses = [\"192.0.2.1\"]\nports = \"10000-10009\"\n";
        let daemon = Daemon::start(ten);
        let server = service();
        let to = server.local_addr().unwrap();
        let connector = || Connector::new("egress").socket_path(daemon.socket());
        let first = connector();
        let streams: Vec<_> = (0..10).map(|_| first.connect_blocking(to).unwrap()).collect();
        let accepted: Vec<TcpStream> = (0..10).map(|_| server.accept().unwrap().0).collect();
        // The peer closes first: nothing stays with the kernel on this side.
        drop(accepted);
        streams.iter().for_each(|stream| assert_eq!((&**stream).read(&mut [0]).unwrap(), 0));
        drop(streams);
        // The first has all ten ports and uses none.
        let client = Client::of(&daemon);
        let held =
            |session: u64| client.leases().iter().filter(|row| row.1 == session && row.7 == "held").count();
        let of_first = client.leases()[0].1;
        assert!(held(of_first) > 0);
        let second = connector().waiting(Duration::from_secs(60));
        let stream = second.connect_blocking(to).unwrap();
        drop(stream);
        // And it goes on, until the first has nothing. (The other may give back what it has then, too.)
        eventually("the first has nothing", || held(of_first) == 0);
        drop(second);
        let waits = first.waiting(Duration::from_secs(60));
        drop(waits.connect_blocking(to).unwrap());
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn the_library_waits_for_pairs_and_says_when_its_time_is_up() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        let lease = all(&client, &session);
        let broker = Broker::new().socket_path(daemon.socket());
        let destination = Some(TO.parse().unwrap());
        let target = Target { pool: "egress".into(), protocol: Protocol::Tcp, destination };
        let other = runtime().block_on(broker.open_session()).unwrap();
        let refused = runtime().block_on(other.waiting(Duration::from_millis(300)).pairs(&target, 2));
        assert!(matches!(refused, Err(portbroker_client::Error::Exhausted { .. })), "{refused:?}");
        let leased = std::thread::scope(|scope| {
            let waits = || runtime().block_on(other.waiting(Duration::from_secs(60)).pairs(&target, 2));
            let thread = scope.spawn(waits);
            eventually("it waits", || waiting(&client) == 1);
            client.release(lease).unwrap();
            thread.join().unwrap()
        });
        assert_eq!(leased.unwrap().items.len(), 2);
    });
}

/// Whether this kernel closes connections of others; if not, that was said once.
fn closes(daemon: &Daemon) -> bool {
    let log = daemon.log();
    let unsupported = log.matches("CONFIG_INET_DIAG_DESTROY is not set").count();
    assert!(unsupported <= 1, "{log}");
    unsupported == 0
}

#[test]
fn what_an_ended_session_left_open_is_closed_and_nothing_else() {
    in_netns(|| {
        let mut daemon = started(&format!("{POOL}close-orphans = \"2s\"\n"));
        let server = service();
        let to: SocketAddr = TO.parse().unwrap();
        let client = Client::of(&daemon);
        let (dies, lives) = (client.open(), client.open());
        let (_, orphans) = client.pairs(&dies, "egress", "tcp", TO, 3).unwrap();
        let (released, others) = client.pairs(&lives, "egress", "tcp", TO, 2).unwrap();
        let orphans: Vec<_> = orphans.into_iter().map(|source| connected(source, to).unwrap()).collect();
        let mut others: Vec<_> = others.into_iter().map(|source| connected(source, to).unwrap()).collect();
        let accepted: Vec<TcpStream> = (0..5).map(|_| server.accept().unwrap().0).collect();
        // A lease that was given back is not one of a dead owner.
        client.release(released).unwrap();
        drop(dies.lifeline);
        let is_open = |stream: &TcpStream| {
            stream.set_nonblocking(true).unwrap();
            let read = (&*stream).read(&mut [0]);
            matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        };
        eventually("they are closed, or cannot be", || !closes(&daemon) || !orphans.iter().any(is_open));
        if closes(&daemon) {
            eventually("it is said", || daemon.log().contains("closed 3 connections that lease"));
            let log = daemon.log();
            let line = log.lines().find(|line| line.contains("orphans-closed")).unwrap();
            assert!(line.contains(&format!("pid {}", std::process::id())), "who had it: {line}");
            let peers: Vec<_> = accepted.iter().filter(|stream| is_open(stream)).collect();
            assert_eq!(peers.len(), 2);
            eventually("its ports are free", || client.leases().len() == 1);
        } else {
            assert!(orphans.iter().all(is_open));
            assert_eq!(client.leases().len(), 2, "what cannot be closed cools");
        }
        // The live session's connection is not touched, however long one waits; and now it dies, too.
        assert!(others.iter().all(is_open));
        daemon.restart_after_kill(&format!("{POOL}close-orphans = \"2s\"\n"));
        drop(lives.lifeline);
        if closes(&daemon) {
            eventually("after a restart, too", || !others.iter().any(is_open));
        }
        others.clear();
    });
}

#[test]
fn by_default_nothing_is_closed() {
    in_netns(|| {
        let daemon = started(POOL);
        let server = service();
        let client = Client::of(&daemon);
        let session = client.open();
        let (_, sources) = client.pairs(&session, "egress", "tcp", TO, 1).unwrap();
        let stream = connected(sources[0], TO.parse().unwrap()).unwrap();
        let accepted = server.accept().unwrap().0;
        drop(session);
        eventually("it cools", || client.leases().iter().any(|row| row.7 == "cooling"));
        std::thread::sleep(Duration::from_secs(3));
        accepted.set_nonblocking(true).unwrap();
        let read = (&accepted).read(&mut [0]).unwrap_err();
        assert_eq!(read.kind(), std::io::ErrorKind::WouldBlock);
        assert_eq!(client.leases().len(), 1);
        assert!(stream.peer_addr().is_ok() && !daemon.log().contains("orphans"));
    });
}
