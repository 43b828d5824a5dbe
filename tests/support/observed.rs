//! Everything of a daemon that can be seen from outside and that a reload may change: what it says of itself, the
//! sockets it has with their options, the files that it wrote, and the reserved ports.

use crate::daemon::Daemon;
use crate::leases::{Client, sockets_of};
use nix::libc;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use zbus::Variant;

/// Socket options by level and number, with their names; of what a socket does not have there is nothing to compare.
const OPTIONS: [(&str, i32, i32); 18] = [
    ("SO_ACCEPTCONN", libc::SOL_SOCKET, libc::SO_ACCEPTCONN),
    ("SO_REUSEADDR", libc::SOL_SOCKET, libc::SO_REUSEADDR),
    ("SO_REUSEPORT", libc::SOL_SOCKET, libc::SO_REUSEPORT),
    ("SO_KEEPALIVE", libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    ("SO_PRIORITY", libc::SOL_SOCKET, libc::SO_PRIORITY),
    ("SO_MARK", libc::SOL_SOCKET, libc::SO_MARK),
    ("SO_RCVBUF", libc::SOL_SOCKET, libc::SO_RCVBUF),
    ("SO_SNDBUF", libc::SOL_SOCKET, libc::SO_SNDBUF),
    ("SO_BUF_LOCK", libc::SOL_SOCKET, libc::SO_BUF_LOCK),
    ("IP_TTL", libc::IPPROTO_IP, libc::IP_TTL),
    ("IP_TOS", libc::IPPROTO_IP, libc::IP_TOS),
    ("IP_FREEBIND", libc::IPPROTO_IP, libc::IP_FREEBIND),
    ("IP_TRANSPARENT", libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    ("TCP_NODELAY", libc::IPPROTO_TCP, libc::TCP_NODELAY),
    ("TCP_DEFER_ACCEPT", libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    ("TCP_KEEPIDLE", libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    ("TCP_KEEPCNT", libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    ("TCP_FASTOPEN", libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
];

/// Looks at one daemon.
pub(crate) struct Observer {
    pid: u32,
    folder: PathBuf,
}

/// What was seen.
#[derive(Debug, PartialEq)]
pub(crate) struct Observed(BTreeMap<String, String>);

impl Observed {
    /// Fails where anything is otherwise.
    pub(crate) fn assert_is(&self, before: &Self, why: &[&str]) {
        let keys = self.0.keys().chain(before.0.keys());
        for key in keys {
            assert_eq!(
                self.0.get(key),
                before.0.get(key),
                "{key} after a reload that failed because of {why:?}"
            );
        }
    }
}

impl Observer {
    pub(crate) fn of(daemon: &Daemon) -> Self {
        Self { pid: daemon.pid(), folder: daemon.folder().to_owned() }
    }

    /// What the daemon says is not as configured.
    pub(crate) fn faults(&self, client: &Client) -> Vec<String> {
        client.ask(async |manager| manager.faults().await).unwrap()
    }

    /// The inodes of all sockets by their endpoints; of several of one endpoint the first.
    pub(crate) fn inodes(&self, client: &Client) -> BTreeMap<String, u64> {
        let mut inodes = BTreeMap::new();
        for (endpoint, state, inode, error) in sockets_of(&client.objects()) {
            assert_eq!(error, "", "{endpoint}");
            if state != "draining" {
                inodes.entry(endpoint).or_insert(inode);
            }
        }
        inodes
    }

    /// Everything.
    pub(crate) fn observe(&self, client: &Client) -> Observed {
        let mut seen = BTreeMap::new();
        let objects = client.objects();
        let wanted: Vec<u64> = sockets_of(&objects).into_iter().map(|(_, _, inode, _)| inode).collect();
        for (path, interfaces) in objects {
            for (interface, properties) in interfaces {
                for (property, value) in properties {
                    // What is leased changes all the time, and who acquires comes and goes.
                    let moves = property == "Addresses" || property == "Holders" && path.contains("spare");
                    if !moves {
                        seen.insert(format!("{path} {interface} {property}"), text(&value));
                    }
                }
            }
        }
        let learned = client.ask(async |manager| manager.list_learned().await).unwrap();
        seen.insert("learned".to_owned(), format!("{learned:?}"));
        for name in ["last-good.toml", "reserved-ports", "draining", "tcp-migrate-req"] {
            let path = self.folder.join("run/portbroker").join(name);
            seen.insert(name.to_owned(), fs::read_to_string(path).unwrap_or_default());
        }
        for file in ["ip_local_reserved_ports", "tcp_migrate_req"] {
            let path = format!("/proc/sys/net/ipv4/{file}");
            seen.insert(path.clone(), fs::read_to_string(path).unwrap());
        }
        for (inode, options) in self.sockets(&wanted) {
            seen.insert(format!("socket {inode}"), options);
        }
        Observed(seen)
    }

    /// The options of all sockets of listeners, as the daemon has these, by inode.
    fn sockets(&self, wanted: &[u64]) -> BTreeMap<u64, String> {
        let mut found = BTreeMap::new();
        let process = pidfd(self.pid);
        for entry in fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap() {
            let entry = entry.unwrap();
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let number =
                target.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            let Some(inode) = number.filter(|inode| wanted.contains(inode)) else { continue };
            let fd: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
            if let Some(socket) = taken(&process, fd) {
                found.insert(inode, options(&socket));
            }
        }
        assert_eq!(found.len(), wanted.len(), "the daemon has each socket");
        found
    }
}

fn text(value: &Variant<'_>) -> String {
    match value {
        // Where there are several holders they come in no fixed order.
        Variant::Array(array) => {
            let mut all: Vec<String> = array.iter().map(|value| format!("{value:?}")).collect();
            all.sort();
            all.join(", ")
        }
        other => format!("{other:?}"),
    }
}

#[expect(unsafe_code, reason = "pidfd_open(2), for which nix has no call")]
fn pidfd(pid: u32) -> OwnedFd {
    // SAFETY: it takes two numbers, and returns a descriptor that nobody else owns.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: as above.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
}

/// A copy of a descriptor of another process; none where it was closed meanwhile.
#[expect(unsafe_code, reason = "pidfd_getfd(2), for which nix has no call")]
fn taken(process: &OwnedFd, fd: i32) -> Option<OwnedFd> {
    // SAFETY: it takes three numbers, and returns a descriptor that nobody else owns.
    let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) };
    // SAFETY: as above.
    (copy >= 0).then(|| unsafe { OwnedFd::from_raw_fd(i32::try_from(copy).unwrap()) })
}

fn options(socket: &OwnedFd) -> String {
    let mut text = String::new();
    for (name, level, option) in OPTIONS {
        if let Some(value) = get(socket, level, option) {
            text.push_str(&format!("{name}={value} "));
        }
    }
    format!("{text}backlog={:?}", backlog(socket))
}

#[expect(unsafe_code, reason = "getsockopt(2) by number")]
fn get(socket: &OwnedFd, level: i32, option: i32) -> Option<i32> {
    let (mut value, mut length) = (0i32, 4);
    // SAFETY: `value` has the four bytes that `length` says.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut length)
    };
    (result == 0).then_some(value)
}

/// `tcpi_sacked` of a socket that listens.
#[expect(unsafe_code, reason = "getsockopt(2) of a structure")]
fn backlog(socket: &OwnedFd) -> Option<u32> {
    // SAFETY: numbers only, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = u32::try_from(size_of::<libc::tcp_info>()).unwrap();
    // SAFETY: `info` has as many bytes as `length` says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(info.tcpi_sacked)
}
