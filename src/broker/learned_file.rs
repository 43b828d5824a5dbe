//! What was learned, in a file of the state directory, so that it is protected from the next boot's first moment on.
//!
//! Nothing depends on it but that: where it cannot be read, learning begins anew, and where it cannot be written, it
//! goes on in memory; both are said. It is written rarely (when something is new, and once an hour for when ports
//! were seen last), by a thread, since it is synced: a disk may take seconds for that, and nobody is to wait for it.

use crate::learn::{Memory, from_text};
use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const NAME: &str = "learned.json";
/// Where a file goes that cannot be read.
const ASIDE: &str = "learned.json.unreadable";
/// Larger than any file of ours.
const MOST: u64 = 4 * 1024 * 1024;
/// How old the times of last seen in the file may become.
const TIMES: Duration = Duration::from_secs(3600);
/// How long to wait after a failure, unless there is something new.
const RETRY: Duration = Duration::from_secs(60);
/// How long a disk may take at the end.
const PATIENCE: Duration = Duration::from_secs(3);

/// The file.
pub(super) struct LearnedFile {
    directory: PathBuf,
    /// When it was last written, or found.
    written: Instant,
    /// Whether something new is not written yet.
    behind: bool,
    /// What comes of the write that is under way.
    writing: Option<oneshot::Receiver<io::Result<()>>>,
    fault: Option<String>,
}

impl LearnedFile {
    pub(super) fn new(directory: &Path, now: Instant) -> Self {
        Self { directory: directory.to_path_buf(), written: now, behind: false, writing: None, fault: None }
    }

    /// Why it is not written; `None` where all is well.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// What could not be read and is still there.
    pub(super) fn lies_aside(&self) -> Option<String> {
        let aside = self.directory.join(ASIDE);
        aside.symlink_metadata().ok()?;
        let aside = aside.display();
        Some(format!(
            "{aside} could not be read by a daemon of before, so learning began anew; remove it when you have looked at it"
        ))
    }

    /// What the last daemon had learned.
    pub(super) fn read(&mut self) -> Memory {
        let path = self.directory.join(NAME);
        let reason = match read_capped(&path) {
            Ok(None) => return Memory::default(),
            Ok(Some(text)) => match from_text(&text) {
                Ok(memory) => return memory,
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        let aside = self.directory.join(ASIDE);
        let text = match std::fs::rename(&path, &aside) {
            Ok(()) => format!("{} cannot be used and is {} now: {reason}", path.display(), aside.display()),
            Err(error) => {
                format!("{} cannot be used, and not be moved aside ({error}): {reason}", path.display())
            }
        };
        self.unreadable(&text)
    }

    fn unreadable(&mut self, text: &str) -> Memory {
        tracing::error!(event = "learned-file", "{text}; learning begins anew");
        // So that the times are written, and the file is good again, with the first look.
        self.behind = true;
        Memory::default()
    }

    /// Writes it where something is new, or the times in it have become old. What comes of it is told by
    /// [`Self::written`].
    pub(super) fn keep(&mut self, memory: &Memory, changed: bool, now: Instant) {
        self.behind |= changed;
        let age = now.duration_since(self.written);
        let due = if self.fault.is_some() { age >= RETRY } else { self.behind || age >= TIMES };
        if self.writing.is_some() || !(due || changed) {
            return;
        }
        self.written = now;
        self.behind = false;
        let (done, writing) = oneshot::channel();
        let text = memory.to_text().map_err(io::Error::other);
        let directory = self.directory.clone();
        let write = move || drop(done.send(text.and_then(|text| replace(&directory, &text))));
        self.writing = Some(writing);
        if let Err(error) = std::thread::Builder::new().name("learned".into()).spawn(write) {
            self.writing = None;
            self.note(Err(error));
        }
    }

    /// Returns when it was written, or could not be. Nothing is lost where the future is dropped.
    pub(super) async fn written(&mut self) {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let result = writing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        self.writing = None;
        self.note(result);
    }

    /// Writes what is not written yet, before the end. A disk that hangs does not keep the daemon from ending.
    pub(super) async fn finish(&mut self, memory: &Memory) {
        for _ in 0..2 {
            if self.writing.is_some() && tokio::time::timeout(PATIENCE, self.written()).await.is_err() {
                tracing::warn!(event = "learned-file", "the disk takes too long to write what was learned");
                return;
            }
            if self.fault.is_some() || !self.behind {
                return;
            }
            self.keep(memory, true, Instant::now());
        }
    }

    fn note(&mut self, result: io::Result<()>) {
        let path = self.directory.join(NAME);
        let fault = result.err().map(|error| {
            format!(
                "cannot write {}, so what is learned from now on is lost with the next reboot: {error}",
                path.display()
            )
        });
        match (&fault, &self.fault) {
            (Some(text), _) if fault != self.fault => tracing::error!(event = "learned-file", "{text}"),
            (None, Some(_)) => tracing::info!(event = "learned-file", "{} is written again", path.display()),
            _ => {}
        }
        self.behind |= fault.is_some();
        self.fault = fault;
    }
}

/// Replaces it as a whole, so that a crash leaves the old one or the new one, and a power cut too: without fsync(2) the
/// new name may be on the disk before what is in it.
fn replace(directory: &Path, text: &str) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let temporary = directory.join(format!(".{NAME}.new"));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, directory.join(NAME))?;
        // The name itself.
        File::open(directory)?.sync_all()
    };
    let result = write();
    if result.is_err() {
        // A full disk is no fuller for it.
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// `None` where there is no file. What is no text, or too long, is invalid data.
fn read_capped(path: &Path) -> io::Result<Option<String>> {
    let size = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return Err(io::Error::new(ErrorKind::InvalidData, "it is no file")),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if size > MOST {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("it has {size} bytes")));
    }
    std::fs::read_to_string(path).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn file(directory: &Path) -> LearnedFile {
        LearnedFile::new(directory, Instant::now())
    }

    #[tokio::test]
    async fn garbage_is_moved_aside() {
        let directory = tempfile::tempdir().unwrap();
        for garbage in [&b"{\"version\":1"[..], b"\xff\xfe", b"", b"{\"version\":9,\"units\":{}}"] {
            fs::write(directory.path().join(NAME), garbage).unwrap();
            let mut learned = file(directory.path());
            assert!(learned.read().learned().is_empty());
            assert_eq!(fs::read(directory.path().join(ASIDE)).unwrap(), garbage);
            assert!(!directory.path().join(NAME).exists());
            assert!(learned.lies_aside().unwrap().contains(ASIDE), "until somebody has looked at it");
            fs::remove_file(directory.path().join(ASIDE)).unwrap();
            assert_eq!(learned.lies_aside(), None);
            learned.keep(&Memory::default(), false, Instant::now());
            learned.written().await;
            assert!(directory.path().join(NAME).exists() && learned.fault().is_none());
            assert!(learned.read().learned().is_empty());
        }
    }

    #[tokio::test]
    async fn it_is_written_for_something_new_and_else_once_an_hour() {
        let directory = tempfile::tempdir().unwrap();
        let mut learned = file(directory.path());
        let path = directory.path().join(NAME);
        let begin = Instant::now();
        learned.keep(&Memory::default(), false, begin);
        assert!(!path.exists());
        learned.keep(&Memory::default(), true, begin);
        learned.written().await;
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
        learned.keep(&Memory::default(), false, begin + TIMES / 2);
        assert!(learned.writing.is_none() && !path.exists());
        learned.keep(&Memory::default(), false, begin + TIMES);
        learned.written().await;
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_directory_that_takes_nothing_is_a_fault_until_it_does() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("state");
        // Also root cannot make a directory below a file.
        fs::write(&directory, "").unwrap();
        let mut learned = file(&directory);
        let begin = Instant::now();
        learned.keep(&Memory::default(), true, begin);
        learned.written().await;
        assert!(learned.fault().unwrap().contains("learned.json"));
        fs::remove_file(&directory).unwrap();
        learned.keep(&Memory::default(), false, begin + RETRY / 2);
        assert!(learned.fault().is_some());
        learned.keep(&Memory::default(), false, begin + RETRY);
        learned.written().await;
        assert!(learned.fault().is_none() && directory.join(NAME).exists());
    }

    #[tokio::test]
    async fn what_is_new_while_it_is_written_is_written_before_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let mut learned = file(directory.path());
        learned.keep(&Memory::default(), true, Instant::now());
        learned.keep(&Memory::default(), true, Instant::now());
        assert!(learned.behind, "one write at a time");
        learned.finish(&Memory::default()).await;
        assert!(!learned.behind && learned.fault().is_none());
        assert!(directory.path().join(NAME).exists());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
