//! A descriptor store that takes nothing for a while: what it has stays there, and what it missed it gets later.
//!
//! The service manager is this test: a socket for the daemon's messages, and what was stored by them.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/manager.rs"]
#[expect(dead_code, reason = "nothing is handed on here")]
mod manager;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;
#[path = "support/served.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod served;

use daemon::{Daemon, run};
use manager::Manager;
use netns::in_netns;
use served::{eventually, listener};
use std::collections::BTreeSet;
use std::fs;

fn configuration(ports: &[u16]) -> String {
    let table = |port| format!("[[listener]]\nname = \"p{port}\"\nstream = \"127.0.0.1:{port}\"\n");
    ports.iter().map(table).collect()
}

fn inode_of(daemon: &Daemon, name: &str) -> u64 {
    listener(daemon, name)["sockets"][0]["inode"].as_u64().unwrap()
}

#[test]
fn a_store_that_cannot_be_reached_keeps_what_it_has_and_gets_the_rest_later() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut manager = Manager::new(folder.path().join("notify"));
        let daemon = Daemon::start_with(&configuration(&[7901, 7902]), |command| {
            command.arg("--no-bus").env("NOTIFY_SOCKET", folder.path().join("notify"));
        });
        let [stays, goes] = ["p7901", "p7902"].map(|name| inode_of(&daemon, name));
        assert_eq!(manager.kept(), BTreeSet::from([stays, goes]));

        manager.goes();
        fs::write(daemon.config(), configuration(&[7901, 7903])).unwrap();
        assert_eq!(run(&mut daemon.portbroker(&["reload"])).0, 0);
        // A crash now would lose what is new, and nothing else.
        assert!(manager.kept().contains(&stays), "{}", daemon.log());
        let (status, text, errors) = run(&mut daemon.portbroker(&["status"]));
        assert!(status == 1 && (text + &errors).contains("descriptor store"), "{status}");

        manager.comes_back();
        let comes = inode_of(&daemon, "p7903");
        eventually("all is stored", || manager.kept() == BTreeSet::from([stays, comes]));
        eventually("the daemon is well", || run(&mut daemon.portbroker(&["status"])).0 == 0);
        // One box, and nothing beside it.
        assert_eq!(manager.store.len(), 1, "{:?}", manager.store);
    });
}

#[test]
fn a_first_socket_that_could_not_be_stored_is_stored_when_it_can_be() {
    in_netns(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut manager = Manager::new(folder.path().join("notify"));
        manager.goes();
        let daemon = Daemon::start_with(&configuration(&[7911]), |command| {
            command.arg("--no-bus").env("NOTIFY_SOCKET", folder.path().join("notify"));
        });
        assert!(manager.kept().is_empty());
        assert_eq!(run(&mut daemon.portbroker(&["status"])).0, 1);
        manager.comes_back();
        let only = inode_of(&daemon, "p7911");
        eventually("it is stored", || manager.kept() == BTreeSet::from([only]));
    });
}
