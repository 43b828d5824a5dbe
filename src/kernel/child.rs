//! A supervisor's one child, the signals that tell it what to do, and processes that end with the one that started them.
//!
//! [`make_child`] is for a process of one thread: between fork and exec the child does what it likes, which no process of
//! several threads could.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::Duration;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// What a signal asks of a supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A child has ended.
    Child,
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR2.
    Renew,
}

/// What to send to the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Send {
    /// SIGHUP.
    Hangup,
    /// SIGINT.
    Interrupt,
    /// SIGKILL.
    Kill,
}

/// Makes a child that becomes something else, and that is killed when this process ends, however that happens.
#[expect(unsafe_code, reason = "fork(2)")]
pub fn make_child(become_it: impl FnOnce()) -> io::Result<i32> {
    let parent = getpid();
    // SAFETY: there is no other thread (see the top), and so no lock that another could hold in the child for ever.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child.as_raw()),
        ForkResult::Child => {
            // What the parent waits for with its own descriptor would never be seen by the child.
            if SigSet::empty().thread_set_mask().is_err() || !end_with_parent(parent.as_raw()) {
                std::process::exit(1);
            }
            become_it();
            std::process::exit(1)
        }
    }
}

/// Has the kernel kill this process when its parent ends. False where it has another parent, or this one has ended.
///
/// A child has been bound already, but a program that has capabilities by its file (setcap(8)) begins unbound:
/// PR_SET_PDEATHSIG(2const).
#[must_use]
pub fn end_with_parent(parent: i32) -> bool {
    is_sent_at_end_of(parent, Signal::SIGKILL)
}

fn is_sent_at_end_of(parent: i32, signal: Signal) -> bool {
    set_pdeathsig(signal).is_ok() && getppid().as_raw() == parent
}

/// Starts a command that is sent SIGTERM when the calling thread ends, however that happens: call it from one that lives as
/// long as the process.
#[expect(unsafe_code, reason = "what is done between fork and exec")]
pub fn spawn_bound(command: &mut Command) -> io::Result<Child> {
    let parent = getpid().as_raw();
    let bind = move || {
        if is_sent_at_end_of(parent, Signal::SIGTERM) { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: it makes two system calls, and takes neither memory nor a lock, as a child of several threads has to.
    unsafe { command.pre_exec(bind) }.spawn()
}

/// A child that has ended, which stays a zombie until [`reap`]: nobody else can have its number before.
#[must_use]
pub fn ended_child() -> Option<i32> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, flags).ok()?.pid().map(Pid::as_raw)
}

/// Reaps a child that has ended.
pub fn reap(pid: i32) -> Option<End> {
    match waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Ok(WaitStatus::Exited(_, status)) => Some(End::Exited(status)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some(End::Killed(signal as i32)),
        _ => None,
    }
}

/// Whether a process is a child of this one, and alive or not reaped yet.
#[must_use]
pub fn is_child(pid: i32) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    pid > 0 && waitid(Id::Pid(Pid::from_raw(pid)), flags).is_ok()
}

/// Sends a signal to a child that is not reaped yet, and so has its number still.
pub fn send(pid: i32, what: Send) -> io::Result<()> {
    let signal = match what {
        Send::Hangup => Signal::SIGHUP,
        Send::Interrupt => Signal::SIGINT,
        Send::Kill => Signal::SIGKILL,
    };
    Ok(kill(Pid::from_raw(pid), signal)?)
}

/// The signals that a supervisor is told what to do by, blocked and read in order.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// From here on they wait here, instead of doing anything. They stay blocked over exec, and none is lost.
    pub fn new() -> io::Result<Self> {
        let mut set = SigSet::empty();
        let all = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2];
        for signal in all {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// The next one, or none.
    #[must_use]
    pub fn next(&self) -> Option<Asked> {
        let number = self.0.read_signal().ok()??.ssi_signo;
        Some(match Signal::try_from(number.cast_signed()).ok()? {
            Signal::SIGCHLD => Asked::Child,
            Signal::SIGHUP => Asked::Reload,
            Signal::SIGUSR2 => Asked::Renew,
            _ => Asked::Stop,
        })
    }

    /// Waits for a signal, for something to read in `other`, or for the time to be over.
    pub fn wait(&self, other: BorrowedFd<'_>, time: Option<Duration>) -> io::Result<()> {
        // Rounded up, or the last millisecond would be spent asking again and again.
        let milliseconds = time.map(|time| time.as_micros().div_ceil(1000));
        let timeout = match milliseconds {
            Some(time) => PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let mut sources =
            [PollFd::new(self.0.as_fd(), PollFlags::POLLIN), PollFd::new(other, PollFlags::POLLIN)];
        match poll(&mut sources, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
