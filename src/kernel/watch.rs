//! Waits for files to appear or to be replaced, by inotify; nothing polls.
//!
//! What is there is looked up after every event, and after every new watch, so that neither order nor loss of
//! events matters. A path whose directories are missing is watched from the nearest one that exists.

use super::async_fd::{Owner, register};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Something is made in a directory, or the directory itself goes.
const MASK: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// Watches on the way to a path.
#[derive(Debug)]
struct Way {
    inotify: AsyncFd<Owner<Inotify>>,
    target: PathBuf,
    /// How many directories above the nearest are watched too: IN_DELETE_SELF comes late where some process
    /// has the directory open, and then its successor shows only in the one above.
    above: usize,
    watches: Vec<WatchDescriptor>,
}

impl Way {
    fn new(target: &Path, above: usize) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let inotify = register(inotify, Interest::READABLE)?;
        let mut way = Self { inotify, target: target.to_owned(), above, watches: Vec::new() };
        way.watch()?;
        Ok(way)
    }

    /// Watches the nearest directory that exists, and no other any more.
    fn watch(&mut self) -> io::Result<()> {
        loop {
            let directories = self.nearest();
            let inotify = self.inotify.get_ref().get();
            let added: Result<Vec<_>, Errno> =
                directories.iter().map(|directory| inotify.add_watch(directory.as_path(), MASK)).collect();
            let added = match added {
                // It went in between.
                Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
                other => other?,
            };
            for old in self.watches.iter().filter(|old| !added.contains(old)) {
                // EINVAL: the directory is gone, and the watch with it.
                let _ = inotify.rm_watch(*old);
            }
            self.watches = added;
            if self.nearest() == directories {
                return Ok(());
            }
        }
    }

    fn nearest(&self) -> Vec<PathBuf> {
        let there = self.target.ancestors().skip(1).filter(|directory| directory.is_dir());
        there.take(1 + self.above).map(Path::to_owned).collect()
    }

    /// Waits for events and takes them all out.
    async fn event(&mut self) -> io::Result<()> {
        self.inotify
            .async_io(Interest::READABLE, |inotify| {
                inotify.get().read_events().map(drop).map_err(io::Error::from)
            })
            .await?;
        self.watch()
    }
}

/// Tells when a file was replaced, as programs do that write it anew and rename it into place.
#[derive(Debug)]
pub struct StampWatch {
    way: Way,
    seen: Option<Stamp>,
}

/// Device, inode and time of change tell one file at a path from the next.
type Stamp = (u64, u64, i64, i64);

fn stamp(path: &Path) -> Option<Stamp> {
    let file = std::fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.ctime(), file.ctime_nsec()))
}

impl StampWatch {
    /// Watches from now on; the file that is there now is not told. To be called in a runtime.
    pub fn new(path: &Path) -> io::Result<Self> {
        let way = Way::new(path, 1)?;
        Ok(Self { seen: stamp(path), way })
    }

    /// Waits until there is a file at the path that was not there before. Nothing is lost where the future is
    /// dropped, and a removal alone is not told.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let now = stamp(&self.way.target);
            if now.is_some() && now != self.seen {
                self.seen = now;
                return Ok(());
            }
            self.way.event().await?;
        }
    }
}

/// Waits until a path exists. To be called in a runtime.
pub async fn appears(path: &Path) -> io::Result<()> {
    let mut way = Way::new(path, 0)?;
    while std::fs::symlink_metadata(path).is_err() {
        way.event().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(5);
    const NOT: Duration = Duration::from_millis(50);

    fn reload(generator: &Path) {
        std::fs::remove_dir_all(generator).unwrap();
        std::fs::create_dir(generator).unwrap();
        std::fs::write(generator.join(".tmp"), "").unwrap();
        std::fs::rename(generator.join(".tmp"), generator.join("portbroker.stamp")).unwrap();
    }

    #[tokio::test]
    async fn a_stamp_in_a_directory_that_is_made_anew_is_told_each_time() {
        let root = tempfile::tempdir().unwrap();
        let generator = root.path().join("generator");
        std::fs::create_dir(&generator).unwrap();
        let mut watch = StampWatch::new(&generator.join("portbroker.stamp")).unwrap();
        for _ in 0..20 {
            assert!(timeout(NOT, watch.changed()).await.is_err(), "nothing changed");
            reload(&generator);
            timeout(SOON, watch.changed()).await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_directory_that_somebody_has_open_hides_nothing() {
        let root = tempfile::tempdir().unwrap();
        let generator = root.path().join("generator");
        std::fs::create_dir(&generator).unwrap();
        let _open = std::fs::File::open(&generator).unwrap();
        let mut watch = StampWatch::new(&generator.join("portbroker.stamp")).unwrap();
        assert!(timeout(NOT, watch.changed()).await.is_err());
        reload(&generator);
        timeout(SOON, watch.changed()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_removal_alone_is_not_told() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("portbroker.stamp");
        std::fs::write(&path, "").unwrap();
        let mut watch = StampWatch::new(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(timeout(NOT, watch.changed()).await.is_err());
    }

    #[tokio::test]
    async fn a_path_is_awaited_from_the_nearest_directory_that_exists() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/dbus/system_bus_socket");
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { appears(&path).await }
        });
        tokio::time::sleep(NOT).await;
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        tokio::time::sleep(NOT).await;
        assert!(!waiting.is_finished());
        std::fs::write(&path, "").unwrap();
        timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
        timeout(SOON, appears(&path)).await.unwrap().unwrap();
    }
}
