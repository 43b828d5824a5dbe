//! Where things run: on one CPU, in a role of this program, beside a bus.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::path::Path;
use std::process::Command;

/// Runs on a thread that, with all processes that it starts, stays on one CPU.
pub(crate) fn on_one_cpu<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let this = Pid::from_raw(0);
            let allowed = sched_getaffinity(this).unwrap();
            let cpu = (0..CpuSet::count()).rfind(|cpu| allowed.is_set(*cpu).unwrap()).unwrap();
            let mut one = CpuSet::new();
            one.set(cpu).unwrap();
            sched_setaffinity(this, &one).unwrap();
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Set in a process that is this program again, in another role.
const ROLE: &str = "PORTBROKER_BENCH_ROLE";

/// The role that this process was started in.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// This program again, in a role.
pub(crate) fn in_role(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, role);
    command
}

/// The daemon at a socket: its pid.
pub(crate) fn daemon_at(socket: &Path) -> i32 {
    let stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).unwrap().pid()
}

/// A listener's table in the configuration.
pub(crate) fn listener(name: &str, port: u16) -> String {
    format!("[[listener]]\nname = \"{name}\"\nstream = \"127.0.0.1:{port}\"\n")
}
