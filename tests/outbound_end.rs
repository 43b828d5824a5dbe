//! What is left of leases when they end: what cools, what a killed daemon knows, what somebody goes on using.

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

use daemon::Daemon;
use egress::{POOL, TO, addresses, service, started};
use leases::{Client, connected, eventually};
use netns::{in_netns, spawn};
use nix::mount::{MsFlags, mount};
use portbroker_client::wire::ErrorName;
use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn a_lease_ends_with_the_last_copy_of_its_lifeline() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        client.pairs(&session, "egress", "tcp", TO, 400).unwrap();
        let copy = session.lifeline.try_clone().unwrap();
        let inherited = session.lifeline.try_clone().unwrap();
        let mut child = spawn(Command::new("cat").stdin(Stdio::piped()).stdout(inherited));
        drop((session, copy));
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(client.leases().len(), 1, "a child holds it");
        drop(child.stdin.take());
        child.wait().unwrap();
        eventually("the end of the lease", || client.leases().is_empty());
        let session = client.open();
        client.pairs(&session, "egress", "tcp", TO, 400).expect("nobody used them, so all are free at once");
    });
}

#[test]
fn what_a_child_keeps_open_is_not_leased_again_and_time_wait_is_waited_for() {
    in_netns(|| {
        addresses();
        let daemon =
            Daemon::start("[[pool]]\nname = \"one\"\naddresses = [\"192.0.2.1\"]\nports = \"10000\"\n");
        let client = Client::of(&daemon);
        let service = service();
        let to = service.local_addr().unwrap();
        let session = client.open();
        let (_, pairs) = client.pairs(&session, "one", "tcp", TO, 1).unwrap();
        let connection = connected(pairs[0], to).unwrap();
        let (accepted, _) = service.accept().unwrap();
        // The owner is gone, and its child has the connection, and not the lifeline.
        let mut child =
            spawn(Command::new("cat").stdin(Stdio::piped()).stdout(std::os::fd::OwnedFd::from(connection)));
        drop(session);
        eventually("the end of the lease", || client.leases().first().is_some_and(|row| row.7 == "cooling"));
        let session = client.open();
        let refused = client.pairs(&session, "one", "tcp", TO, 1).unwrap_err();
        assert_eq!(refused.name, Some(ErrorName::Exhausted));
        assert_eq!(
            (refused.number("capacity"), refused.number("used"), refused.number("cooling")),
            (1, 0, 1)
        );
        assert!(!refused.details.contains_key("next"), "nobody knows how long that goes on: {refused:?}");
        // Another destination can have it; any cannot.
        let (other, _) = client.pairs(&session, "one", "tcp", "192.0.2.9:444", 1).unwrap();
        client.release(other).unwrap();
        assert_eq!(client.pairs(&session, "one", "tcp", "", 1).unwrap_err().name, Some(ErrorName::Exhausted));
        // The other side closes first, so nothing of the tuple is left here.
        drop(accepted);
        drop(child.stdin.take());
        child.wait().unwrap();
        eventually("the port", || client.pairs(&session, "one", "tcp", TO, 1).is_ok());
        let connection = connected(pairs[0], to).unwrap();
        let (_accepted, _) = service.accept().unwrap();
        let held = client.leases().into_iter().find(|row| row.7 == "held").unwrap();
        connection.shutdown(std::net::Shutdown::Both).unwrap();
        drop((connection, _accepted));
        client.release(held.0).unwrap();
        let refused = client.pairs(&session, "one", "tcp", TO, 1).unwrap_err();
        assert_eq!(refused.name, Some(ErrorName::Exhausted));
        let next = refused.number("next");
        assert!((30_000..=61_000).contains(&next), "TIME_WAIT lasts a minute: {next} ms");
        assert!(refused.text.contains("the next is expected in"), "{refused:?}");
    });
}

#[test]
fn a_tuple_is_free_as_soon_as_its_connection_is_reset() {
    in_netns(|| {
        addresses();
        let daemon =
            Daemon::start("[[pool]]\nname = \"one\"\naddresses = [\"192.0.2.1\"]\nports = \"10000\"\n");
        let client = Client::of(&daemon);
        let service = service();
        let session = client.open();
        let (lease, pairs) = client.pairs(&session, "one", "tcp", TO, 1).unwrap();
        let connection = connected(pairs[0], service.local_addr().unwrap()).unwrap();
        client.release(lease).unwrap();
        // It is looked at after one second, two more, and four more.
        std::thread::sleep(Duration::from_millis(3300));
        assert_eq!(client.pairs(&session, "one", "tcp", TO, 1).unwrap_err().name, Some(ErrorName::Exhausted));
        socket2::SockRef::from(&connection).set_linger(Some(Duration::ZERO)).unwrap();
        drop(connection);
        let reset = std::time::Instant::now();
        eventually("the port", || client.pairs(&session, "one", "tcp", TO, 1).is_ok());
        assert!(reset.elapsed() < Duration::from_millis(2500), "{:?}", reset.elapsed());
    });
}

#[test]
fn what_was_leased_for_any_destination_can_be_leased_again_at_once() {
    in_netns(|| {
        addresses();
        let daemon =
            Daemon::start("[[pool]]\nname = \"one\"\naddresses = [\"192.0.2.1\"]\nports = \"10000\"\n");
        let client = Client::of(&daemon);
        let session = client.open();
        for protocol in ["tcp", "udp"] {
            for to in ["", TO, "", ""] {
                let (lease, pairs) = client.pairs(&session, "one", protocol, to, 1).unwrap();
                client.release(lease).unwrap();
                assert_eq!(pairs, ["192.0.2.1:10000".parse().unwrap()]);
            }
        }
        // And not where it is used.
        let used = connected("192.0.2.1:10000".parse().unwrap(), service().local_addr().unwrap());
        let (lease, _) = client.pairs(&session, "one", "tcp", "", 1).unwrap();
        client.release(lease).unwrap();
        for to in ["", TO] {
            let refused = client.pairs(&session, "one", "tcp", to, 1).unwrap_err();
            assert_eq!((refused.name, refused.number("cooling")), (Some(ErrorName::Exhausted), 1));
        }
        drop(used);
    });
}

#[test]
fn a_connection_that_is_bound_to_a_device_holds_its_tuple_too() {
    in_netns(|| {
        addresses();
        let daemon =
            Daemon::start("[[pool]]\nname = \"one\"\naddresses = [\"192.0.2.1\"]\nports = \"10000\"\n");
        let client = Client::of(&daemon);
        let service = service();
        let session = client.open();
        let (lease, pairs) = client.pairs(&session, "one", "tcp", TO, 1).unwrap();
        let connection = leases::bound(pairs[0]).unwrap();
        connection.bind_device(Some(b"lo")).unwrap();
        connection.connect(&service.local_addr().unwrap().into()).unwrap();
        client.release(lease).unwrap();
        let refused = client.pairs(&session, "one", "tcp", TO, 1).unwrap_err();
        assert_eq!((refused.name, refused.number("cooling")), (Some(ErrorName::Exhausted), 1));
    });
}

#[test]
fn whoever_binds_after_the_end_of_its_lease_is_reported() {
    in_netns(|| {
        let daemon = started(POOL);
        let client = Client::of(&daemon);
        let session = client.open();
        let service = service();
        let (lease, pairs) = client.pairs(&session, "egress", "tcp", TO, 4).unwrap();
        client.release(lease).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let _connection = connected(pairs[0], service.local_addr().unwrap()).unwrap();
        let (_accepted, _) = service.accept().unwrap();
        let text = format!("goes on using {}", pairs[0]);
        eventually("the report", || daemon.log().contains(&text));
        assert!(daemon.log().contains(&format!("lease {lease} of")));
        let refused = client.pairs(&session, "egress", "tcp", TO, 400).unwrap_err();
        assert_eq!((refused.number("cooling"), refused.number("free")), (1, 399));
    });
}

#[test]
fn after_a_kill_leases_sessions_and_what_cools_are_as_before() {
    in_netns(|| {
        let mut daemon = started(POOL);
        let client = Client::of(&daemon);
        let service = service();
        let to = service.local_addr().unwrap();
        let (kept, cut) = (client.open(), client.open());
        let (lease, held) = client.pairs(&kept, "egress", "tcp", TO, 100).unwrap();
        client.blocks(&cut, "egress", TO, 100, None).unwrap();
        let (ended, cooling) = client.pairs(&kept, "egress", "tcp", TO, 1).unwrap();
        let connection = connected(cooling[0], to).unwrap();
        client.release(ended).unwrap();
        eventually("its cooling", || client.leases().iter().any(|row| row.0 == ended && row.10 == 1));
        let socket = daemon.socket();
        std::fs::write(daemon.config(), POOL).unwrap();
        let before = client.leases();
        // One session ends while no daemon is there.
        let pid = nix::unistd::Pid::from_raw(daemon.pid().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        drop(cut);
        daemon.restart_after_kill(POOL);
        let client = Client::at(&socket);
        eventually("the end of the other session", || client.leases().len() == 2);
        let after = client.leases();
        assert_eq!(after[0], before[0], "held as it was");
        assert_eq!((after[1].0, after[1].7.as_str()), (ended, "cooling"));
        eventually("its look", || client.leases().iter().any(|row| row.0 == ended && row.10 == 1));
        let (_, rest) = client.pairs(&kept, "egress", "tcp", TO, 299).unwrap();
        let taken: BTreeSet<&SocketAddr> = held.iter().chain(&cooling).collect();
        assert!(rest.iter().all(|source| !taken.contains(source)));
        let refused = client.pairs(&kept, "egress", "tcp", TO, 1).unwrap_err();
        assert_eq!((refused.number("used"), refused.number("cooling")), (399, 1));
        // Numbers go on, and the lifeline still does what it is for.
        let (next, _) = client.pairs(&kept, "egress", "tcp", "192.0.2.9:444", 1).unwrap();
        assert!(next > ended && next > lease);
        connection.shutdown(std::net::Shutdown::Both).unwrap();
        drop(kept);
        eventually("the end of the session", || client.leases().iter().all(|row| row.7 == "cooling"));
    });
}

#[test]
fn a_journal_that_cannot_be_opened_is_tried_again_and_nothing_that_is_used_is_given_out() {
    in_netns(|| {
        addresses();
        let configuration =
            "[[pool]]\nname = \"few\"\naddresses = [\"192.0.2.1\"]\nports = \"10000-10001\"\n";
        let mut daemon = Daemon::start(configuration);
        let client = Client::of(&daemon);
        let service = service();
        let session = client.open();
        let (_, pairs) = client.pairs(&session, "few", "tcp", TO, 1).unwrap();
        let _connection = connected(pairs[0], service.local_addr().unwrap()).unwrap();
        let journal = daemon.folder().join("run/portbroker/leases");
        std::fs::remove_file(&journal).unwrap();
        let obstacle = journal.with_extension("new");
        std::fs::create_dir_all(obstacle.join("in the way")).unwrap();
        daemon.restart_after_kill(configuration);
        assert!(daemon.log().contains("leases are not written down"), "{}", daemon.log());
        let client = Client::of(&daemon);
        let session = client.open();
        let (_, others) = client.pairs(&session, "few", "tcp", TO, 1).unwrap();
        assert_ne!(others, pairs);
        assert!(client.pairs(&session, "few", "tcp", TO, 1).is_err());
        std::fs::remove_dir_all(&obstacle).unwrap();
        eventually("the journal", || daemon.log().contains("leases are written down again"));
        let before = client.leases().into_iter().filter(|row| row.7 == "held").collect::<Vec<_>>();
        daemon.restart_after_kill(configuration);
        let client = Client::of(&daemon);
        assert_eq!(client.leases().into_iter().filter(|row| row.7 == "held").collect::<Vec<_>>(), before);
        drop(session);
    });
}

const FEW: &str = "[[pool]]\nname = \"few\"\naddresses = [\"192.0.2.1\"]\nports = \"10000-10002\"\n";

/// A daemon whose runtime directory is a tmpfs of this thread's own, of one MiB.
fn in_a_small_directory() -> Daemon {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    Daemon::start_with(FEW, |command| {
        let root = command.get_args().skip_while(|argument| *argument != "--root").nth(1).unwrap();
        let directory = std::path::Path::new(root).join("run/portbroker");
        std::fs::create_dir_all(&directory).unwrap();
        mount(Some("tmpfs"), &directory, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
        command.arg("--no-bus");
    })
}

#[test]
fn leases_that_could_not_be_written_down_are_not_given_out_again_while_they_are_used() {
    in_netns(|| {
        addresses();
        let mut daemon = in_a_small_directory();
        let client = Client::of(&daemon);
        let service = service();
        let session = client.open();
        let (_, known) = client.pairs(&session, "few", "tcp", TO, 1).unwrap();
        let rest = daemon.folder().join("run/portbroker/rest");
        assert!(std::fs::write(&rest, vec![0; 2 << 20]).is_err(), "the directory is full");
        // The last page of the journal has room for some.
        let unknown = loop {
            let (lease, pairs) = client.pairs(&session, "few", "tcp", TO, 1).unwrap();
            if daemon.log().contains("leases are not written down") {
                break pairs;
            }
            client.release(lease).unwrap();
        };
        let _connection = connected(unknown[0], service.local_addr().unwrap()).unwrap();
        std::fs::remove_file(&rest).unwrap();
        // Twice: the second one finds what the first one wrote.
        for _ in 0..2 {
            daemon.restart_after_kill(FEW);
            assert!(daemon.log().contains("has not all leases of before"), "{}", daemon.log());
            let client = Client::of(&daemon);
            let session = client.open();
            let others = std::iter::from_fn(|| Some(client.pairs(&session, "few", "tcp", TO, 1).ok()?.1));
            let others: Vec<_> = others.flatten().collect();
            assert!(!others.is_empty());
            assert!(others.iter().all(|pair| *pair != unknown[0] && *pair != known[0]), "{others:?}");
            drop(session);
            let held = || client.leases().iter().filter(|row| row.7 == "held").count();
            eventually("the end of the session, and not of the one before", || held() == 1);
        }
    });
}

#[test]
fn a_journal_that_is_missing_beside_lifelines_gives_out_nothing_that_is_used() {
    in_netns(|| {
        addresses();
        let mut daemon = Daemon::start(FEW);
        let client = Client::of(&daemon);
        let service = service();
        let session = client.open();
        let (_, pairs) = client.pairs(&session, "few", "tcp", TO, 1).unwrap();
        let _connection = connected(pairs[0], service.local_addr().unwrap()).unwrap();
        std::fs::remove_file(daemon.folder().join("run/portbroker/leases")).unwrap();
        for _ in 0..2 {
            daemon.restart_after_kill(FEW);
            let client = Client::of(&daemon);
            let session = client.open();
            let (_, others) = client.pairs(&session, "few", "tcp", TO, 2).unwrap();
            assert!(!others.contains(&pairs[0]));
            drop(session);
            eventually("the end of the session", || client.leases().iter().all(|row| row.7 == "cooling"));
        }
    });
}

#[test]
fn a_journal_that_cannot_be_read_loses_leases_and_gives_out_nothing_that_is_used() {
    in_netns(|| {
        addresses();
        let configuration =
            "[[pool]]\nname = \"few\"\naddresses = [\"192.0.2.1\"]\nports = \"10000-10002\"\n";
        let mut daemon = Daemon::start(configuration);
        let client = Client::of(&daemon);
        let service = service();
        let session = client.open();
        let (lease, pairs) = client.pairs(&session, "few", "tcp", TO, 1).unwrap();
        let _connection = connected(pairs[0], service.local_addr().unwrap()).unwrap();
        let journal = daemon.folder().join("run/portbroker/leases");
        std::fs::write(&journal, "garbage").unwrap();
        daemon.restart_after_kill(configuration);
        assert!(daemon.folder().join("run/portbroker/leases.unreadable").exists());
        assert!(daemon.log().contains("leases.unreadable"));
        let client = Client::of(&daemon);
        assert!(client.leases().is_empty());
        let refused = client.pairs(&session, "few", "tcp", TO, 1).unwrap_err();
        assert_eq!(refused.name, Some(ErrorName::NoSuchSession), "nobody knows the session: {refused:?}");
        let session = client.open();
        let (number, others) = client.pairs(&session, "few", "tcp", TO, 2).unwrap();
        assert!(number > lease, "no number is used twice");
        assert!(!others.contains(&pairs[0]), "{others:?}");
        assert!(client.pairs(&session, "few", "tcp", TO, 1).is_err());
        // Also of UDP, and for anybody.
        let _foreign = UdpSocket::bind("192.0.2.1:10000").unwrap();
        let (_, udp) = client.pairs(&session, "few", "udp", "", 2).unwrap();
        assert!(udp.iter().all(|source| source.port() != 10_000), "{udp:?}");
    });
}
