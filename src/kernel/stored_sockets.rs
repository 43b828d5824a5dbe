//! The sockets that the next daemon finds again, whatever becomes of this one: in systemd's descriptor store.
//!
//! They rest in a box (`sockets_box`), and the store has the box's two ends. What does not fit into it (the
//! limit of descriptors in flight, the length of its queue) is stored by itself, as it was before there were boxes.
//!
//! What always holds: whatever a kill interrupts, each socket that was stored and is to stay so is in a box or by
//! itself, in the store or in a message that systemd has and handles before it looks at the death of its sender. So
//! an old box is emptied only when its successor has been filled and sent. What cannot be sent (no descriptor is left,
//! too many are in flight) leaves the store as it is, and the caller is told what has yet to be stored.
//!
//! Nothing is waited for here, and nothing is stored where nobody has a store: without NOTIFY_SOCKET.

use super::socket::ListenerSocket;
use super::sockets_box::{SocketsBox, inode_of};
use super::store::{put, remove};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What the names in the store begin with; no listener's name does.
pub const STORED: &str = "portbroker.";
/// What a box's two ends are called, before its inode.
const BOX: &str = "portbroker.box.";
/// A box with this many messages more than it needs is written anew at the next occasion: looking at a message takes
/// a time that grows with the number of those before it.
const SPARE_MESSAGES: usize = 256;
/// Sockets that a full message takes.
const FULL: usize = 250;

/// A socket that is to be kept.
pub type Kept<'a> = &'a ListenerSocket;

/// What this daemon has in systemd's store.
#[derive(Debug)]
pub struct StoredSockets {
    active: bool,
    current: Option<SocketsBox>,
    /// By inode: those that did not fit into the box.
    singles: BTreeSet<u64>,
    /// Names of an earlier daemon's, which go once their sockets are stored in our way.
    outdated: Vec<String>,
    /// Boxes of an earlier daemon's, to be emptied with their names.
    old: Vec<SocketsBox>,
    /// Said once.
    complained: bool,
    /// Why not all that is to be stored is stored.
    failure: Option<String>,
    /// Why not all that an earlier daemon had stored could be seen.
    unseen: Option<String>,
}

impl StoredSockets {
    /// Nothing so far. `active`: whether there is a systemd with a store, which `NOTIFY_SOCKET` tells.
    #[must_use]
    pub fn new(active: bool) -> Self {
        Self {
            active,
            current: None,
            singles: BTreeSet::new(),
            outdated: Vec::new(),
            old: Vec::new(),
            complained: false,
            failure: None,
            unseen: None,
        }
    }

    /// Why not all is stored that was to be, if so.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Why not all that was stored could be seen, if so. What could not stays stored, for the next daemon.
    #[must_use]
    pub fn unseen(&self) -> Option<&str> {
        self.unseen.as_deref()
    }

    /// The store of the service that this process is, with what an earlier daemon has put in, by its names; and
    /// copies of the sockets, each once.
    ///
    /// One box that is all there is goes on being used. What is more (several boxes, of which a kill kept a daemon
    /// from removing one; sockets by themselves) is outdated: [`Self::is_outdated`].
    #[must_use]
    pub fn from_env(inherited: Vec<(String, OwnedFd)>) -> (Self, Vec<OwnedFd>) {
        let mut store = Self::new(std::env::var_os("NOTIFY_SOCKET").is_some());
        let sockets = store.take(inherited);
        (store, sockets)
    }

    fn take(&mut self, inherited: Vec<(String, OwnedFd)>) -> Vec<OwnedFd> {
        let mut ends: BTreeMap<String, Vec<OwnedFd>> = BTreeMap::new();
        let mut sockets = Vec::new();
        for (name, descriptor) in inherited {
            if name.starts_with(BOX) {
                ends.entry(name).or_default().push(descriptor);
            } else {
                self.outdated.push(name);
                sockets.push(descriptor);
            }
        }
        let mut boxes = Vec::new();
        for (name, ends) in ends {
            let inode = name.strip_prefix(BOX).and_then(|inode| inode.parse().ok());
            let ends = <[OwnedFd; 2]>::try_from(ends).ok();
            match inode.zip(ends).and_then(|(inode, ends)| SocketsBox::from_ends(inode, ends)) {
                Some(found) => boxes.push(found),
                None => {
                    tracing::error!(name, "what is stored as {name} is no box of ours, and is let go");
                    self.outdated.push(name);
                }
            }
        }
        for found in &mut boxes {
            let (copies, error) = found.look();
            if let Some(error) = error {
                let text = format!(
                    "not all sockets that were stored can be seen ({error}): they stay stored, and \"systemctl restart \
                     portbroker\" looks at them again"
                );
                tracing::error!(event = "store", "{text}");
                self.unseen = Some(text);
            }
            sockets.extend(copies);
        }
        if self.outdated.is_empty() && boxes.len() == 1 && boxes.iter().all(SocketsBox::is_whole) {
            self.current = boxes.pop();
            return sockets;
        }
        // A box that could not be looked at as a whole stays in the store for the next daemon.
        self.old = boxes.into_iter().filter(SocketsBox::is_whole).collect();
        let mut seen = BTreeSet::new();
        sockets.retain(|socket| inode_of(socket).map_or(true, |inode| seen.insert(inode)));
        sockets
    }

    /// There is nothing left that could not be stored before.
    pub fn has_caught_up(&mut self) {
        self.note(Ok(()));
    }

    /// Whether the store has anything that [`Self::rewrite`] would take out, or that makes the next start slow.
    #[must_use]
    pub fn is_outdated(&self, sockets: usize) -> bool {
        let messages = self.current.as_ref().map_or(0, SocketsBox::messages);
        self.active
            && (!self.outdated.is_empty()
                || !self.old.is_empty()
                || messages > (sockets / FULL).saturating_add(SPARE_MESSAGES))
    }

    /// Stores more sockets, and returns how many of them are stored now, from the first on: where that is not all,
    /// the others are to be stored later.
    pub fn add(&mut self, sockets: &[Kept<'_>]) -> usize {
        if !self.active || sockets.is_empty() {
            return sockets.len();
        }
        let new = self.current.is_none();
        let result = if new { self.make_box() } else { Ok(()) };
        let mut done = if result.is_ok() { self.fill(sockets) } else { 0 };
        let result = if new { result.and_then(|()| self.announce()) } else { result };
        if new && result.is_err() {
            // Nobody has its ends but us.
            self.current = None;
            done = 0;
        }
        let singles = sockets.get(done..).unwrap_or_default();
        let (stored, result) = put_singly(singles, &BTreeSet::new());
        self.singles.extend(singles.iter().take(stored).map(number));
        if result.is_err() {
            self.note(result);
        }
        done + stored
    }

    /// Stores exactly these: what else there is goes. Where it returns false nothing has changed.
    #[must_use]
    pub fn rewrite(&mut self, sockets: &[Kept<'_>]) -> bool {
        if !self.active {
            return true;
        }
        let before = self.current.take();
        let result = self.make_box().and_then(|()| self.store_all(sockets));
        let singles = match result {
            Ok(singles) => singles,
            Err(error) => {
                self.current = before;
                self.note(Err(error));
                return false;
            }
        };
        self.note(Ok(()));
        // From here on systemd has, or has been sent, all that is to stay.
        for gone in self.singles.difference(&singles) {
            remove(&single(*gone));
        }
        for name in self.outdated.drain(..).filter(|name| !singles.iter().any(|kept| single(*kept) == *name))
        {
            remove(&name);
        }
        self.singles = singles;
        for old in before.into_iter().chain(self.old.drain(..)) {
            remove(&box_name(&old));
            old.clear();
        }
        true
    }

    /// Fills the current box, which is new, and sends it last, when all else is there. Returns which are stored by
    /// themselves. An error: none is that was not before.
    fn store_all(&mut self, sockets: &[Kept<'_>]) -> io::Result<BTreeSet<u64>> {
        let done = self.fill(sockets);
        let singles = sockets.get(done..).unwrap_or_default();
        let (stored, result) = put_singly(singles, &self.singles);
        if let Err(error) = result.and_then(|()| self.announce()) {
            for inode in singles.iter().take(stored).map(number).filter(|inode| !self.singles.contains(inode))
            {
                remove(&single(inode));
            }
            return Err(error);
        }
        Ok(singles.iter().map(number).collect())
    }

    fn make_box(&mut self) -> io::Result<()> {
        self.current = Some(SocketsBox::new()?);
        Ok(())
    }

    /// Remembers whether all is stored, and says it when that changes.
    fn note(&mut self, result: io::Result<()>) {
        let failure = result.err().map(|error| {
            format!(
                "cannot tell systemd what its descriptor store is to keep, so that a crash of the daemon could lose \
                 sockets that are new, or bring back such as were given up ({error}): it is tried again"
            )
        });
        match &failure {
            Some(text) if failure != self.failure => tracing::error!(event = "store", "{text}"),
            None if self.failure.is_some() => {
                tracing::info!(event = "store", "all sockets are stored as they should be again")
            }
            _ => {}
        }
        self.failure = failure;
    }

    /// Puts sockets into the current box, and returns how many there was room for.
    fn fill(&mut self, sockets: &[Kept<'_>]) -> usize {
        let Some(current) = &mut self.current else { return 0 };
        let borrowed: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        let (done, error) = current.append(&borrowed);
        if let Some(error) = error
            && !std::mem::replace(&mut self.complained, true)
        {
            tracing::warn!(
                %error,
                "only {done} of {} sockets can be stored together, and the others are stored one by one, which is \
                 slow ({error}): raise LimitNOFILE= to twice their number and more",
                sockets.len()
            );
        }
        done
    }

    /// Sends the current box to systemd.
    fn announce(&self) -> io::Result<()> {
        match &self.current {
            Some(current) => put(&box_name(current), &current.ends()),
            None => Ok(()),
        }
    }
}

/// Stores sockets by themselves that are not among `known`, and returns how many are stored, from the first on.
fn put_singly(sockets: &[Kept<'_>], known: &BTreeSet<u64>) -> (usize, io::Result<()>) {
    for (n, socket) in sockets.iter().enumerate() {
        if !known.contains(&number(socket))
            && let Err(error) = put(&single(number(socket)), &[socket.as_fd()])
        {
            return (n, Err(error));
        }
    }
    (sockets.len(), Ok(()))
}

/// Its inode, which is asked for only here: what is in a box need not be told from the others.
fn number(socket: &Kept<'_>) -> u64 {
    socket.inode().unwrap_or_default()
}

fn single(inode: u64) -> String {
    format!("{STORED}{inode}")
}

fn box_name(of: &SocketsBox) -> String {
    format!("{BOX}{}", of.inode())
}
