//! Waiting for files, without polling: the system bus's socket, and the mark that `daemon-reload` leaves.

use super::async_fd::Registered;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::io;
use std::path::{Path, PathBuf};

const DIRECTORY: AddWatchFlags = AddWatchFlags::IN_ONLYDIR;

fn new_inotify() -> io::Result<Registered<Inotify>> {
    Registered::new(Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?)
}

async fn any_event(inotify: &Registered<Inotify>) -> io::Result<()> {
    let read = |inotify: &Inotify| match inotify.read_events() {
        Ok(_) => Ok(Some(())),
        Err(nix::errno::Errno::EAGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    };
    inotify.wait(read).await
}

/// Returns when there is something at `path`: at once, or when it is made.
pub async fn path_appears(path: &Path) -> io::Result<()> {
    while !path.exists() {
        let inotify = new_inotify()?;
        let appearing = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | DIRECTORY;
        let gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        let nearest = path.ancestors().skip(1).find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"));
        // It may be gone again by now: then the next round finds a nearer one.
        if inotify.get().add_watch(nearest, appearing | gone).is_ok() {
            // What came between the look and the watch is seen by a second look.
            let next = path.strip_prefix(nearest).ok().and_then(|rest| rest.components().next());
            if next.is_none_or(|next| !nearest.join(next).exists()) {
                any_event(&inotify).await?;
            }
        }
    }
    Ok(())
}

/// Marks of our generator, one for each `systemctl daemon-reload`.
pub struct Stamps {
    inotify: Registered<Inotify>,
    directory: PathBuf,
    stamp: &'static str,
}

/// Watches the directory of systemd's generators, which every daemon-reload makes anew, for the file that our
/// generator writes last.
pub fn watch_generator_stamp(stamp: &'static str) -> io::Result<Stamps> {
    Stamps::below(Path::new("/run/systemd"), stamp)
}

impl Stamps {
    fn below(parent: &Path, stamp: &'static str) -> io::Result<Self> {
        let inotify = new_inotify()?;
        let appearing = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | DIRECTORY;
        inotify.get().add_watch(parent, appearing)?;
        let stamps = Self { inotify, directory: parent.join("generator"), stamp };
        stamps.watch_directory();
        Ok(stamps)
    }

    /// The directory is missing between two runs of the generators, and that is no fault.
    fn watch_directory(&self) {
        let written = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE | DIRECTORY;
        let _ = self.inotify.get().add_watch(&self.directory, written);
    }

    /// Returns after the next daemon-reload.
    pub async fn next(&mut self) -> io::Result<()> {
        loop {
            let events = self.inotify.wait(|inotify| match inotify.read_events() {
                Ok(events) => Ok(Some(events)),
                Err(nix::errno::Errno::EAGAIN) => Ok(None),
                Err(error) => Err(error.into()),
            });
            let names: Vec<_> = events.await?.into_iter().filter_map(|event| event.name).collect();
            if names.iter().any(|name| name == self.stamp) {
                return Ok(());
            }
            if self.directory.file_name().is_some_and(|own| names.iter().any(|name| name == own)) {
                self.watch_directory();
                // The stamp may have come before the watch.
                if self.directory.join(self.stamp).exists() {
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_path_is_seen_when_it_appears_however_deep() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/socket");
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { path_appears(&path).await }
        });
        for directory in ["a", "a/b"] {
            tokio::time::sleep(Duration::from_millis(20)).await;
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        fs::write(&path, "").unwrap();
        tokio::time::timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn every_daemon_reload_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let mut stamps = Stamps::below(root.path(), "stamp").unwrap();
        let generator = root.path().join("generator");
        for _ in 0..3 {
            fs::create_dir(&generator).unwrap();
            fs::write(generator.join("new"), "").unwrap();
            fs::rename(generator.join("new"), generator.join("stamp")).unwrap();
            tokio::time::timeout(SOON, stamps.next()).await.unwrap().unwrap();
            fs::remove_dir_all(&generator).unwrap();
        }
    }
}
