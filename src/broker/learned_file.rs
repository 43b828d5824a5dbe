//! What was learned, in a file of the state directory, so that it is protected from the next boot's first moment on.
//!
//! Nothing depends on it but that: where it cannot be read, learning begins anew, and where it cannot be written, it
//! goes on in memory; both are said. It is written rarely (when something is new, and once an hour for when ports
//! were seen last), and not synced: what a power cut takes was learned in the half minute before.

use crate::learn::{Memory, from_text};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const NAME: &str = "learned.json";
/// Where a file goes that cannot be read.
const ASIDE: &str = "learned.json.unreadable";
/// Larger than any file of ours.
const MOST: u64 = 4 * 1024 * 1024;
/// How old the times of last seen in the file may become.
const TIMES: Duration = Duration::from_secs(3600);
/// How long to wait after a failure, unless there is something new.
const RETRY: Duration = Duration::from_secs(60);

/// The file.
pub(super) struct LearnedFile {
    directory: PathBuf,
    /// When it was last written, or found.
    written: Instant,
    /// Whether something new is not written yet.
    behind: bool,
    fault: Option<String>,
}

impl LearnedFile {
    pub(super) fn new(directory: &Path, now: Instant) -> Self {
        Self { directory: directory.to_path_buf(), written: now, behind: false, fault: None }
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

    /// Writes it where something is new, or the times in it have become old.
    pub(super) fn keep(&mut self, memory: &Memory, changed: bool, now: Instant) {
        self.behind |= changed;
        let age = now.duration_since(self.written);
        let due = if self.fault.is_some() { age >= RETRY } else { self.behind || age >= TIMES };
        if !(due || changed) {
            return;
        }
        self.written = now;
        let path = self.directory.join(NAME);
        let result = memory.to_text().map_err(io::Error::other).and_then(|text| self.replace(&path, &text));
        let fault = result.err().map(|error| {
            format!(
                "cannot write {}, so what is learned from now on is lost with the next reboot: {error}",
                path.display()
            )
        });
        if let Some(text) = &fault
            && fault != self.fault
        {
            tracing::error!(event = "learned-file", "{text}");
        }
        self.behind = fault.is_some();
        self.fault = fault;
    }

    /// Replaces it as a whole, so that a crash leaves the old one or the new one.
    fn replace(&self, path: &Path, text: &str) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let temporary = self.directory.join(format!(".{NAME}.new"));
        let write = || {
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            std::fs::rename(&temporary, path)
        };
        let result = write();
        if result.is_err() {
            // A full disk is no fuller for it.
            let _ = std::fs::remove_file(&temporary);
        }
        result
    }
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

    #[test]
    fn garbage_is_moved_aside() {
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
            assert!(directory.path().join(NAME).exists() && learned.fault().is_none());
            assert!(learned.read().learned().is_empty());
        }
    }

    #[test]
    fn it_is_written_for_something_new_and_else_once_an_hour() {
        let directory = tempfile::tempdir().unwrap();
        let mut learned = file(directory.path());
        let path = directory.path().join(NAME);
        let begin = Instant::now();
        learned.keep(&Memory::default(), false, begin);
        assert!(!path.exists());
        learned.keep(&Memory::default(), true, begin);
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
        learned.keep(&Memory::default(), false, begin + TIMES / 2);
        assert!(!path.exists());
        learned.keep(&Memory::default(), false, begin + TIMES);
        assert!(path.exists());
    }

    #[test]
    fn a_directory_that_takes_nothing_is_a_fault_until_it_does() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("state");
        // Also root cannot make a directory below a file.
        fs::write(&directory, "").unwrap();
        let mut learned = file(&directory);
        let begin = Instant::now();
        learned.keep(&Memory::default(), true, begin);
        assert!(learned.fault().unwrap().contains("learned.json"));
        fs::remove_file(&directory).unwrap();
        learned.keep(&Memory::default(), false, begin + RETRY / 2);
        assert!(learned.fault().is_some());
        learned.keep(&Memory::default(), false, begin + RETRY);
        assert!(learned.fault().is_none() && directory.join(NAME).exists());
    }
}
