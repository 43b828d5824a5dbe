//! A descriptor store that takes nothing for a while: what it has stays there, and what it missed it gets later.
//!
//! The service manager is this test: a socket for the daemon's messages, and what was stored by them.

#![cfg(test)]

#[path = "support/daemon.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod daemon;
#[path = "support/netns.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod netns;
#[path = "support/served.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod served;

use daemon::{Daemon, run};
use netns::in_netns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use nix::sys::stat::fstat;
use served::{eventually, listener};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// A message, with the descriptors that came with it.
#[expect(unsafe_code, reason = "the numbers of a message become owners")]
fn receive(from: &impl AsRawFd, flags: MsgFlags) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; 8192];
    let mut room = nix::cmsg_space!([i32; 253]);
    let (length, raw) = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = flags | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<UnixAddr>(from.as_raw_fd(), &mut parts, Some(&mut room), flags).ok()?;
        let rights = message.cmsgs().unwrap().filter_map(|part| match part {
            ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        (message.bytes, rights.flatten().collect::<Vec<_>>())
    };
    bytes.truncate(length);
    // SAFETY: recvmsg(2) has just put them into our table, and told nobody else of them.
    let owned = raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }).collect();
    Some((bytes, owned))
}

fn inode(descriptor: &OwnedFd) -> u64 {
    fstat(descriptor).unwrap().st_ino
}

/// The service manager.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    store: BTreeMap<String, Vec<OwnedFd>>,
}

impl Manager {
    fn new(path: PathBuf) -> Self {
        Self { socket: UnixDatagram::bind(&path).unwrap(), path, store: BTreeMap::new() }
    }

    /// Does what the messages say that are there.
    fn catch_up(&mut self) {
        while let Some((text, descriptors)) = receive(&self.socket, MsgFlags::empty()) {
            let text = String::from_utf8(text).unwrap();
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
            if text.contains("FDSTORE=1") {
                self.store.entry(name.to_owned()).or_default().extend(descriptors);
            } else if text.contains("FDSTOREREMOVE=1") {
                self.store.remove(name);
            }
        }
    }

    /// The inodes of the sockets that a next daemon would find; the first message of each box, which is looked at and
    /// stays.
    fn kept(&mut self) -> BTreeSet<u64> {
        self.catch_up();
        let mut found = BTreeSet::new();
        for (name, descriptors) in &self.store {
            let of_box = name.strip_prefix("portbroker.box.").map(|number| number.parse::<u64>().unwrap());
            for descriptor in descriptors {
                if of_box.is_none() {
                    found.insert(inode(descriptor));
                } else if of_box == Some(inode(descriptor))
                    && let Some((_, sockets)) = receive(descriptor, MsgFlags::MSG_PEEK)
                {
                    found.extend(sockets.iter().map(inode));
                }
            }
        }
        found
    }

    fn away(&self) -> PathBuf {
        self.path.with_extension("away")
    }

    /// Nobody reaches it from now on.
    fn goes(&self) {
        fs::rename(&self.path, self.away()).unwrap();
    }

    fn comes_back(&self) {
        fs::rename(self.away(), &self.path).unwrap();
    }
}

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
