//! Becoming another program that is given sockets as socket activation gives them: descriptors from 3 on and
//! `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`, `LISTEN_PIDFDID`; see sd_listen_fds(3).
//!
//! Only for a process that has nothing else left to do: the descriptors from 3 on are overwritten, whoever
//! opened them. So there is no way back from here but the end of the process.

#![expect(unsafe_code, reason = "descriptors at numbers of one's choice have no owner that Rust knows of")]

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::dup2_raw;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `SD_LISTEN_FDS_START`
const FIRST: RawFd = 3;

/// Why the program was not started.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// More sockets than the process may have descriptors.
    #[error(
        "cannot place {count} sockets as descriptors from 3 on: {source}; raise the limit of open files (LimitNOFILE=, ulimit -n)"
    )]
    Place {
        /// How many.
        count: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// What execve(2) said.
    #[error("cannot run {program:?}: {source}")]
    Run {
        /// The program.
        program: OsString,
        /// Why not.
        source: io::Error,
    },
}

/// Becomes the command's program, with its arguments and environment, and with the sockets as its descriptors 3, 4 …, in
/// this order.
///
/// `failed` is called where that did not work, to say so; the process then ends with what it returns. It must
/// not use any descriptor but the standard ones.
pub fn exec(
    mut command: Command,
    sockets: Vec<(String, OwnedFd)>,
    failed: impl FnOnce(&ExecError) -> i32,
) -> ! {
    let (names, sockets): (Vec<String>, Vec<OwnedFd>) = sockets.into_iter().unzip();
    command.env("LISTEN_PID", std::process::id().to_string());
    command.env("LISTEN_FDS", names.len().to_string());
    command.env("LISTEN_FDNAMES", names.join(":"));
    match pidfd_inode() {
        Some(inode) => command.env("LISTEN_PIDFDID", inode.to_string()),
        // One that was inherited names another process, and its reader would ignore all sockets.
        None => command.env_remove("LISTEN_PIDFDID"),
    };
    let error = match place(sockets) {
        Ok(()) => {
            let source = command.exec();
            ExecError::Run { program: command.get_program().to_owned(), source }
        }
        Err(source) => ExecError::Place { count: names.len(), source: source.into() },
    };
    std::process::exit(failed(&error))
}

/// Makes the sockets descriptors 3, 4 … that outlive exec.
fn place(sockets: Vec<OwnedFd>) -> nix::Result<()> {
    let count = RawFd::try_from(sockets.len()).map_err(|_| nix::errno::Errno::EMFILE)?;
    let above = FIRST + count;
    // All of them out of the way first: one's target may be another's place, and dup2 of a descriptor onto
    // itself would leave its close-on-exec flag on.
    let sockets = sockets.into_iter().map(|socket| lift(socket, above)).collect::<nix::Result<Vec<_>>>()?;
    for (target, socket) in (FIRST..).zip(&sockets) {
        // SAFETY: whoever owned `target` in this process never uses it again: after this there is only exec or
        // exit. The result is forgotten at once, so nothing closes it either.
        let placed = unsafe { dup2_raw(socket, target) }?;
        let _ = placed.into_raw_fd();
    }
    Ok(())
}

/// The same socket, at a number of at least `above`.
fn lift(socket: OwnedFd, above: RawFd) -> nix::Result<OwnedFd> {
    if socket.as_raw_fd() >= above {
        return Ok(socket);
    }
    let lifted = fcntl(&socket, FcntlArg::F_DUPFD_CLOEXEC(above))?;
    // SAFETY: fcntl(2) has just made this descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(lifted) })
}

/// The inode number of this process's pidfd; none before Linux 6.9, where all pidfds share one.
fn pidfd_inode() -> Option<u64> {
    let fd = super::process::open_pidfd(std::process::id().cast_signed()).ok()?;
    // PID_FS_MAGIC of linux/magic.h.
    let is_pidfs = fstatfs(&fd).ok()?.filesystem_type() == FsType(0x5049_4446);
    if is_pidfs { fstat(&fd).ok().map(|stat| stat.st_ino) } else { None }
}
