//! Tells when systemd starts units, without a bus: for each start it makes a link with the new invocation id.

use super::async_fd::Registered;
use super::cgroups::INVOCATIONS;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::io;
use std::path::Path;

/// The watch.
pub struct UnitStarts(Registered<Inotify>);

impl UnitStarts {
    /// Watches from now on; `None` where no systemd makes such links. Must be called within a tokio runtime.
    pub fn watch() -> io::Result<Option<Self>> {
        Self::of(Path::new(INVOCATIONS))
    }

    fn of(directory: &Path) -> io::Result<Option<Self>> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let made = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ONLYDIR;
        match inotify.add_watch(directory, made) {
            Ok(_) => Ok(Some(Self(Registered::new(inotify)?))),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns after the start of a service, or of several.
    pub async fn next(&mut self) -> io::Result<()> {
        loop {
            let events = self.0.wait(|inotify| match inotify.read_events() {
                Ok(events) => Ok(Some(events)),
                Err(Errno::EAGAIN) => Ok(None),
                Err(error) => Err(error.into()),
            });
            // Without a name: the queue ran over, and there may have been some.
            let is_start = |name: &str| name.starts_with("invocation:") && name.ends_with(".service");
            let mut names = events.await?.into_iter().map(|event| event.name);
            if names.any(|name| name.is_none_or(|name| name.to_str().is_some_and(is_start))) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    #[tokio::test]
    async fn starts_of_services_are_seen_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        assert!(UnitStarts::of(&directory.path().join("none")).unwrap().is_none());
        let mut starts = UnitStarts::of(directory.path()).unwrap().unwrap();
        symlink("x", directory.path().join("invocation:session-1.scope")).unwrap();
        let silence = tokio::time::timeout(Duration::from_millis(100), starts.next()).await;
        assert!(silence.is_err());
        symlink("x", directory.path().join(".#invocation:a.serviceXYZ")).unwrap();
        std::fs::rename(
            directory.path().join(".#invocation:a.serviceXYZ"),
            directory.path().join("invocation:a.service"),
        )
        .unwrap();
        tokio::time::timeout(Duration::from_secs(5), starts.next()).await.unwrap().unwrap();
    }
}
