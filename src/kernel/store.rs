//! systemd's side of the daemon: sockets at the start, READY, and messages to the descriptor store.

use sd_notify::NotifyState;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};

/// The sockets that came with LISTEN_FDS, by name, close-on-exec. The variables are taken out of the
/// environment.
///
/// To be called first of all: once there is another thread the environment cannot be changed any more, and
/// nothing is taken.
#[expect(unsafe_code, reason = "the environment is changed, and the numbers of LISTEN_FDS become owners")]
#[must_use]
pub fn take_listen_fds() -> Vec<(String, OwnedFd)> {
    if !is_single_threaded() {
        tracing::error!("other threads run already; starting without the sockets of LISTEN_FDS");
        return Vec::new();
    }
    // SAFETY: there is no other thread that could read the environment meanwhile.
    let taken = unsafe { sd_notify::listen_fds_with_names_and_unset_env() };
    // It names this process (systemd 259); sd-notify does not know it yet.
    #[expect(clippy::disallowed_methods, reason = "there is no other thread")]
    // SAFETY: as above.
    unsafe {
        std::env::remove_var("LISTEN_PIDFDID");
    }
    match taken {
        Ok(sockets) => sockets
            // SAFETY: LISTEN_PID says that these descriptors were passed to this process, and nobody has
            // taken them before: the variables that tell of them are gone now.
            .map(|(raw, name)| (name, unsafe { OwnedFd::from_raw_fd(raw) }))
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "LISTEN_FDS is set and cannot be understood; starting without sockets");
            Vec::new()
        }
    }
}

fn is_single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

/// Tells systemd that all ports are held.
pub fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Tells systemd that a reload begins, which ends with [`notify_ready`]. Where systemd itself asked for it
/// (`Type=notify-reload`), it waits for both, and knows by the time that they are no answers to an earlier signal.
pub fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot tell systemd that a reload begins"),
    }
}

/// Tells systemd that the daemon ends.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Tells whoever supervises this process what its own child has said, line by line.
pub fn notify_lines(lines: &[&str]) {
    notify(&lines.iter().map(|line| NotifyState::Custom(line)).collect::<Vec<_>>());
}

pub(super) fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, ?state, "cannot tell systemd");
    }
}

/// Puts descriptors into systemd's store, all under one name. systemd must not poll them: a socket that is bound and
/// does not listen reports EPOLLHUP at once, and would be dropped. An error: they are not there.
pub(super) fn put(name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let state = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
    sd_notify::notify_with_fds(&state, descriptors)
}

/// Takes all descriptors of a name out of it.
pub(super) fn remove(name: &str) {
    notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}
