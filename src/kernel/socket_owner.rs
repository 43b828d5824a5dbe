//! Who has an address that could not be bound, as far as may be seen.
//!
//! The kernel tells the sockets on the port, with state, user and inode; the process is the one that has the
//! inode among its descriptors, which the daemon can see for processes of its own user, and of others with
//! CAP_SYS_PTRACE. Where it cannot, the user is named. The work is bounded, and only done when a bind failed.

use super::peer::unit_of;
use super::process;
use super::sock_diag::{Doing, Entry, on_port, tcp_listeners};
use crate::model::{Endpoint, InetEndpoint, UnixAddress, UnixEndpoint};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// No more descriptors of other processes are looked at than this.
const MOST_DESCRIPTORS: usize = 200_000;
/// No more owners are told than this.
const MOST_TOLD: usize = 3;

/// One socket that is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// What it is doing with the address.
    pub usage: Usage,
    /// Whose it is; `None` where no process has it any more.
    pub who: Option<Who>,
}

/// What a socket does with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Usage {
    /// It listens on it, or receives datagrams.
    Listening,
    /// It has bound it and does nothing yet.
    Bound,
    /// It is the address of its own end of a connection to this one.
    ConnectedTo(SocketAddr),
    /// A connection to this address that is closed; the kernel keeps it for a minute.
    TimeWait(SocketAddr),
}

/// The owner of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A process: name, pid, and unit where it has one.
    Process(String, u32, Option<String>),
    /// A process whose descriptors we may not see, of this user.
    User(u32),
    /// A process of which nothing can be seen.
    Unseen,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(name, pid, Some(unit)) => write!(f, "{name} (pid {pid}, {unit})"),
            Self::Process(name, pid, None) => write!(f, "{name} (pid {pid})"),
            Self::User(uid) => write!(f, "a process of user {uid}"),
            Self::Unseen => f.write_str("a process of another user"),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = self.who.as_ref().map_or_else(|| "a process that has exited".to_owned(), Who::to_string);
        match &self.usage {
            Usage::Listening => write!(f, "{who} listens on it"),
            Usage::Bound => write!(f, "{who} has bound it"),
            Usage::ConnectedTo(peer) => {
                write!(f, "it is the source port of a connection of {who} to {peer}")
            }
            Usage::TimeWait(peer) => {
                write!(f, "a connection to {peer} is in TIME_WAIT there, for at most a minute")
            }
        }
    }
}

/// A sentence for a log: who is in the way of binding an endpoint. `None` where nobody can be found.
#[must_use]
pub fn explain(endpoint: &Endpoint) -> Option<String> {
    let mut parts: Vec<String> = owners_of(endpoint).ok()?.iter().map(Owner::to_string).collect();
    // The shards of one service, for one.
    parts.dedup();
    let more = parts.len().saturating_sub(MOST_TOLD);
    if more > 0 {
        parts.truncate(MOST_TOLD);
        parts.push(format!("and {more} more"));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Whether a TCP socket listens there that is of this process's user and none of `ours` (inodes): most likely a
/// service still holds what an earlier broker gave it.
///
/// `SO_REUSEPORT` would let us bind beside it, and the kernel would give each of the two half of the connections.
#[must_use]
pub fn left_behind(endpoint: &Endpoint, ours: &HashSet<u64>) -> bool {
    let Endpoint::Inet(inet) = endpoint else { return false };
    let uid = nix::unistd::geteuid().as_raw();
    on_port(inet.kind, inet.address.port()).unwrap_or_default().into_iter().any(|entry| {
        entry.doing == Doing::Listening
            && entry.uid == uid
            && !ours.contains(&u64::from(entry.inode))
            && is_in_the_way(&entry, inet)
    })
}

/// Whether any TCP socket of this process's user listens, or nobody can tell: whether [`left_behind`] is worth
/// asking at all.
#[must_use]
pub fn our_user_listens() -> bool {
    let uid = nix::unistd::geteuid().as_raw();
    match tcp_listeners() {
        Ok(Some(listeners)) => listeners.iter().any(|entry| entry.uid == uid),
        _ => true,
    }
}

/// The sockets that are in the way of binding an endpoint, those that listen first.
pub fn owners_of(endpoint: &Endpoint) -> io::Result<Vec<Owner>> {
    match endpoint {
        Endpoint::Inet(inet) => inet_owners(inet),
        Endpoint::Unix(unix) => unix_owners(unix),
    }
}

fn inet_owners(inet: &InetEndpoint) -> io::Result<Vec<Owner>> {
    let mut entries = on_port(inet.kind, inet.address.port())?;
    entries.retain(|entry| is_in_the_way(entry, inet));
    entries.sort_by_key(|entry| entry.doing);
    let wanted = entries.iter().take(MOST_TOLD).map(|entry| u64::from(entry.inode)).collect();
    let processes = processes_of(&wanted);
    let owner = |entry: &Entry| Owner {
        usage: match entry.doing {
            Doing::Listening => Usage::Listening,
            Doing::Bound => Usage::Bound,
            Doing::Connected => Usage::ConnectedTo(entry.remote),
            Doing::TimeWait => Usage::TimeWait(entry.remote),
        },
        who: (entry.inode != 0).then(|| {
            let process = processes.get(&u64::from(entry.inode)).cloned();
            process.unwrap_or(Who::User(entry.uid))
        }),
    };
    Ok(entries.iter().map(owner).collect())
}

fn is_in_the_way(entry: &Entry, inet: &InetEndpoint) -> bool {
    let theirs = InetEndpoint::new(inet.kind, entry.local, entry.v6only, None);
    theirs.is_ok_and(|theirs| theirs.conflicts_with(&InetEndpoint { device: None, ..inet.clone() }))
}

/// The sockets that are bound to a unix name, from /proc/net/unix of the calling thread.
fn unix_owners(unix: &UnixEndpoint) -> io::Result<Vec<Owner>> {
    let name = match &unix.address {
        UnixAddress::Path(path) => path.display().to_string(),
        UnixAddress::Abstract(name) => format!("@{name}"),
    };
    let table = fs::read("/proc/thread-self/net/unix")?;
    let table = String::from_utf8_lossy(&table);
    let sockets: Vec<_> = table.lines().filter_map(|line| unix_socket(line, &name)).collect();
    let processes = processes_of(&sockets.iter().map(|(inode, _)| *inode).collect());
    let owner = |(inode, usage): &(u64, Usage)| {
        let who = processes.get(inode).cloned().unwrap_or(Who::Unseen);
        Owner { usage: usage.clone(), who: Some(who) }
    };
    Ok(sockets.iter().map(owner).collect())
}

/// The inode in a line `Num: RefCount Protocol Flags Type St Inode Path`, where it has that path and is the socket
/// that was bound, and not one that it accepted (state 3, connected).
fn unix_socket(line: &str, name: &str) -> Option<(u64, Usage)> {
    // The kernel pads the inode with spaces, and a path may contain some.
    let (_, rest) = line.split_once(": ")?;
    let mut rest = rest.trim_start();
    let mut words = Vec::new();
    for _ in 0..6 {
        let (word, after) = rest.split_once(' ')?;
        words.push(word);
        rest = after.trim_start();
    }
    let [_, _, flags, kind, state, inode] = words.as_slice() else { return None };
    // __SO_ACCEPTCON; datagram sockets receive as soon as they are bound.
    let listens = *flags == "00010000" || *kind == "0002";
    let usage = if listens { Usage::Listening } else { Usage::Bound };
    (rest == name && *state != "03").then(|| inode.parse().ok().map(|inode| (inode, usage))).flatten()
}

/// The processes that have sockets of these inodes among their descriptors.
pub(super) fn processes_of(inodes: &HashSet<u64>) -> HashMap<u64, Who> {
    let mut found = HashMap::new();
    let mut looked_at = 0;
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if found.len() == inodes.len() || looked_at > MOST_DESCRIPTORS {
            break;
        }
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for descriptor in descriptors {
            looked_at += 1;
            if let Some(inode) = socket_inode(&descriptor.path()).filter(|inode| inodes.contains(inode)) {
                found.entry(inode).or_insert_with(|| describe(pid));
            }
        }
    }
    found
}

/// The inode of a link `socket:[4711]`.
fn socket_inode(descriptor: &Path) -> Option<u64> {
    let link = fs::read_link(descriptor).ok()?;
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn describe(pid: u32) -> Who {
    let unit = unit_of(pid.cast_signed()).map(|unit| unit.to_string());
    let name = Some(process::name(pid.cast_signed())).filter(|name| !name.is_empty());
    Who::Process(name.unwrap_or_else(|| "a process".to_owned()), pid, unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_net_unix_tells_the_inode_of_the_bound_socket() {
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 31337 /run/a b.sock";
        assert_eq!(unix_socket(line, "/run/a b.sock"), Some((31337, Usage::Listening)));
        assert_eq!(unix_socket(line, "/run/a"), None);
        let bound = "0000000000000000: 00000002 00000000 00000000 0001 01   137 @x";
        assert_eq!(unix_socket(bound, "@x"), Some((137, Usage::Bound)));
        let accepted = "0000000000000000: 00000003 00000000 00000000 0001 03 31338 /run/x.sock";
        assert_eq!(unix_socket(accepted, "/run/x.sock"), None);
        assert_eq!(unix_socket("Num       RefCount Protocol Flags    Type St Inode Path", "Path"), None);
    }

    #[test]
    fn owners_are_told_in_words() {
        let who = Who::Process("mariadbd".into(), 812, Some("mariadb.service".into()));
        let owner = Owner { usage: Usage::Listening, who: Some(who) };
        assert_eq!(owner.to_string(), "mariadbd (pid 812, mariadb.service) listens on it");
        let peer = "1.2.3.4:443".parse().unwrap();
        let owner = Owner { usage: Usage::ConnectedTo(peer), who: Some(Who::User(1000)) };
        assert_eq!(
            owner.to_string(),
            "it is the source port of a connection of a process of user 1000 to 1.2.3.4:443"
        );
        let owner = Owner { usage: Usage::TimeWait(peer), who: None };
        assert_eq!(
            owner.to_string(),
            "a connection to 1.2.3.4:443 is in TIME_WAIT there, for at most a minute"
        );
    }
}
