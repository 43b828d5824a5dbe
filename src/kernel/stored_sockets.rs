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
//! What is stored and cannot be taken copies of, since the process may have no more open, stays stored under its old name
//! until there is a daemon that can. So nothing is removed by a name of which something was left.
//!
//! Nothing is waited for here, and nothing is stored where nobody has a store: without NOTIFY_SOCKET.

use super::descriptors::{Purpose, leaves_room, limit};
use super::socket::ListenerSocket;
use super::sockets_box::{SocketsBox, Unseen, inode_of};
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
/// What a daemon has open besides, and callers.
const ROOM: u64 = 512;
/// Sockets that a full message takes.
const FULL: usize = 250;

/// Closes what leaves this process no descriptors to work with, of sockets that came stored by themselves: their store
/// has them. To be called before anything else is opened. Returns the names of those, each as often as it had one.
pub fn leave_what_has_no_room(stored: &mut Vec<(String, OwnedFd)>) -> Vec<String> {
    let has_none =
        |name: &str, socket: &OwnedFd| !name.starts_with(BOX) && !leaves_room(socket, Purpose::Takeover);
    stored.extract_if(.., |(name, socket)| has_none(name, socket)).map(|(name, _)| name).collect()
}

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
    /// How many that is, where it is known.
    left: u64,
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
            left: 0,
        }
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active
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

    /// How many of the stored sockets could not be seen, as far as that is known.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The store of the service that this process is, with what an earlier daemon has put in, by its names; and
    /// copies of the sockets, each once. `left`: see [`leave_what_has_no_room`].
    ///
    /// One box that is all there is goes on being used. What is more (several boxes, of which a kill kept a daemon
    /// from removing one; sockets by themselves) is outdated: [`Self::is_outdated`].
    #[must_use]
    pub fn from_env(inherited: Vec<(String, OwnedFd)>, left: &[String]) -> (Self, Vec<OwnedFd>) {
        let mut store = Self::new(std::env::var_os("NOTIFY_SOCKET").is_some());
        let sockets = store.take(inherited, left);
        (store, sockets)
    }

    fn take(&mut self, inherited: Vec<(String, OwnedFd)>, left: &[String]) -> Vec<OwnedFd> {
        let mut ends: BTreeMap<String, Vec<OwnedFd>> = BTreeMap::new();
        let mut sockets = Vec::new();
        for (name, descriptor) in inherited {
            if name.starts_with(BOX) {
                ends.entry(name).or_default().push(descriptor);
            } else {
                if !left.contains(&name) {
                    self.outdated.push(name);
                }
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
        let mut seen = BTreeSet::new();
        let one = sockets.is_empty() && boxes.len() == 1;
        let mut is_new = |socket: &OwnedFd| one || inode_of(socket).map_or(true, |inode| seen.insert(inode));
        sockets.retain(&mut is_new);
        let mut short = !left.is_empty();
        self.left = u64::try_from(left.len()).unwrap_or(u64::MAX);
        for found in &mut boxes {
            let look = found.look();
            match look.unseen {
                None => {}
                Some(Unseen::NoRoom(left)) => {
                    short = true;
                    self.left = self.left.saturating_add(left.unwrap_or(0));
                }
                Some(Unseen::Failed(error)) => self.unseen = Some(unreadable(&error)),
            }
            // Of what is in two of them one copy is enough, and leaves room for others.
            sockets.extend(look.sockets.into_iter().filter(&mut is_new));
        }
        if short {
            self.unseen = Some(self.shortage(sockets.len()));
        }
        if let Some(text) = &self.unseen {
            tracing::error!(event = "store", stored = sockets.len(), left = self.left, "{text}");
        }
        if self.outdated.is_empty() && boxes.len() == 1 && boxes.iter().all(SocketsBox::is_whole) {
            self.current = boxes.pop();
            return sockets;
        }
        // A box that could not be looked at as a whole stays in the store for the next daemon.
        self.old = boxes.into_iter().filter(SocketsBox::is_whole).collect();
        sockets
    }

    /// That so many sockets are taken over, and not the rest.
    fn shortage(&self, taken: usize) -> String {
        let taken = u64::try_from(taken).unwrap_or(u64::MAX);
        let (limit, left) = (limit().unwrap_or_default(), self.left);
        let all = taken.saturating_add(left);
        let what = match left {
            // Before Linux 5.7 nobody can tell.
            0 => format!("only {taken} of more stored sockets can"),
            _ => format!("only {taken} of {all} stored sockets can"),
        };
        format!(
            "{what} be taken over, for the daemon may have no more than {limit} descriptors \
             open (LimitNOFILE=): the others stay stored and as they are, clients wait in them, and who has one serves on; \
             raise LimitNOFILE= of portbroker.service (or \"ulimit -n\" where it is started) to {} or more, and \"systemctl \
             restart portbroker\" takes over all of them",
            enough_for(all)
        )
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

fn unreadable(error: &io::Error) -> String {
    format!(
        "not all sockets that were stored can be seen ({error}): they stay stored, and \"systemctl restart portbroker\" \
         looks at them again"
    )
}

/// A limit with which so many sockets can be open, and twice in flight while they are stored anew.
fn enough_for(sockets: u64) -> u64 {
    sockets.saturating_mul(2).saturating_add(ROOM).next_power_of_two()
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
