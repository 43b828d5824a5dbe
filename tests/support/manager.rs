//! A service manager as far as the daemon needs one: a socket for its messages, and a store for its sockets, which the
//! next daemon is started with.

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use nix::sys::stat::fstat;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

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

/// Each look at the messages of a socket goes on behind the one before (socket(7), SO_PEEK_OFF).
#[expect(unsafe_code, reason = "an option that nix has not")]
fn peek_from_the_first(descriptor: &OwnedFd) {
    let offset: nix::libc::c_int = 0;
    // SAFETY: the option's value is a live int, and its size says so.
    let result = unsafe {
        nix::libc::setsockopt(
            descriptor.as_raw_fd(),
            nix::libc::SOL_SOCKET,
            nix::libc::SO_PEEK_OFF,
            (&raw const offset).cast(),
            4,
        )
    };
    assert_eq!(result, 0);
}

fn inode(descriptor: &OwnedFd) -> u64 {
    fstat(descriptor).unwrap().st_ino
}

/// The service manager.
pub(crate) struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    pub(crate) store: BTreeMap<String, Vec<OwnedFd>>,
}

impl Manager {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { socket: UnixDatagram::bind(&path).unwrap(), path, store: BTreeMap::new() }
    }

    /// Does what the messages say that are there.
    pub(crate) fn catch_up(&mut self) {
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

    /// The inodes of the sockets that a next daemon would find. What is in a box is looked at and stays.
    pub(crate) fn kept(&mut self) -> BTreeSet<u64> {
        self.catch_up();
        let mut found = BTreeSet::new();
        for (name, descriptors) in &self.store {
            let of_box = name.strip_prefix("portbroker.box.").map(|number| number.parse::<u64>().unwrap());
            for descriptor in descriptors {
                if of_box.is_none() {
                    found.insert(inode(descriptor));
                } else if of_box == Some(inode(descriptor)) {
                    peek_from_the_first(descriptor);
                    while let Some((_, sockets)) = receive(descriptor, MsgFlags::MSG_PEEK) {
                        found.extend(sockets.iter().map(inode));
                    }
                }
            }
        }
        found
    }

    /// A command that is started with all that is stored, and with the daemon's private socket, as LISTEN_FDS.
    #[expect(unsafe_code, reason = "descriptors get their numbers between fork and exec")]
    pub(crate) fn starting(&mut self, command: &Command, private: &impl AsFd) -> Command {
        self.catch_up();
        let high = |descriptor: BorrowedFd<'_>| {
            let raw = nix::fcntl::fcntl(descriptor, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(500)).unwrap();
            // SAFETY: the kernel has just made it for us, and nobody else knows it.
            unsafe { OwnedFd::from_raw_fd(raw) }
        };
        let mut names = vec!["portbroker".to_owned()];
        let mut descriptors = vec![high(private.as_fd())];
        for (name, stored) in &self.store {
            names.extend(stored.iter().map(|_| name.clone()));
            descriptors.extend(stored.iter().map(|descriptor| high(descriptor.as_fd())));
        }
        let mut started = Command::new("sh");
        started.args(["-c", "export LISTEN_PID=$$; exec \"$0\" \"$@\""]);
        started.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => started.env(name, value),
                None => started.env_remove(name),
            };
        }
        started.env("LISTEN_FDS", descriptors.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        started.env("NOTIFY_SOCKET", &self.path);
        let numbered = move || {
            for (number, descriptor) in (3..).zip(&descriptors) {
                // SAFETY: both are numbers, of which the first is open and the second is nobody's in this process.
                if unsafe { nix::libc::dup2(descriptor.as_raw_fd(), number) } < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: it only calls dup2(2), which may be called there.
        unsafe { started.pre_exec(numbered) };
        started
    }

    fn away(&self) -> PathBuf {
        self.path.with_extension("away")
    }

    /// Nobody reaches it from now on.
    pub(crate) fn goes(&self) {
        fs::rename(&self.path, self.away()).unwrap();
    }

    pub(crate) fn comes_back(&self) {
        fs::rename(self.away(), &self.path).unwrap();
    }
}
