//! The scan of a host: all sockets of every network namespace that can be seen, and the processes that have them.
//!
//! It is for the command line, which looks once and ends; the daemon asks about one port where an administrator asks it
//! to, and about its own descriptors. Three questions, each of which can
//! be asked alone, and about so much only as is wanted:
//!
//! 1. [`namespaces`]: which network namespaces there are: those of processes, and those that are mounted somewhere, as
//!    ip-netns(8) does it. [`in_each`] does something in each of them, on a thread of its own: [`sockets`] asks the kernel
//!    there, and whatever else is read of that thread (`/proc/sys/net`, `/proc/thread-self/net`) is that namespace's too.
//! 2. [`descriptors`]: which process has which socket, by one pass over the links of `/proc/*/fd`: as many rows as there are
//!    descriptors of the sockets that are wanted, 12 bytes each, sorted by inode. This is the dear one: the pass is made by
//!    several threads.
//! 3. [`processes`]: who these processes are, looked at once each.
//!
//! A network namespace that has neither a process (but only a thread of one, or a socket) nor a mount is not seen. What
//! may not be seen for want of a privilege is counted, so that it can be said.
//!
//! ```no_run
//! use portbroker::kernel::scan::{self, States, Wanted};
//! use portbroker::model::Protocol;
//!
//! let seen = scan::namespaces()?;
//! let all = Wanted { protocol: Protocol::Tcp, port: None, states: States::Any };
//! let found = scan::in_each(&seen.namespaces, |_| {
//!     let mut sockets = Vec::new();
//!     scan::sockets(all, |socket| sockets.push(socket)).map(|()| sockets)
//! });
//! let holders = scan::descriptors(|_inode| true)?;
//! let processes = scan::processes(holders.rows.iter().map(|row| row.pid))?;
//! # std::io::Result::Ok(())
//! ```

mod descriptors;
mod entries;
mod namespaces;
mod processes;
mod sockets;

pub use descriptors::{Descriptor, Descriptors, descriptors, own_sockets};
pub use namespaces::{Namespace, Namespaces, in_each, namespaces};
pub use processes::{processes, unit_of_maker};
pub use sockets::{States, Wanted, sockets};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A directory, to be read and to begin paths from.
fn open_directory(at: BorrowedFd<'_>, path: &str) -> nix::Result<OwnedFd> {
    openat(at, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

fn open_proc() -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(open("/proc", flags, Mode::empty())?)
}
