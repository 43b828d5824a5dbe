//! Files of the runtime directory that could not be written, and what they are to say: they are written as soon as they
//! can be, and the daemon is degraded until then.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait after a failure, unless there is something new.
const RETRY: Duration = Duration::from_secs(5);

/// What is not written.
#[derive(Debug, Clone, Default)]
pub(super) struct Unwritten {
    files: BTreeMap<String, String>,
    fault: Option<String>,
    retry_at: Option<Instant>,
    /// The directory was not there, and is again: what else was in it is to be written anew.
    is_new: bool,
}

impl Unwritten {
    /// Why not all is written, if so.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// When [`Self::retry`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Whether the directory had to be made since this was asked last.
    pub(super) fn take_is_new(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }

    /// Replaces a file, now or later.
    pub(super) fn write(&mut self, directory: &Path, name: &str, text: &str) {
        match self.replace(directory, name, text) {
            Ok(()) => {
                self.files.remove(name);
                self.are_all_written();
            }
            Err(error) => {
                self.files.insert(name.to_owned(), text.to_owned());
                self.failed(directory, name, &error);
            }
        }
    }

    /// Tries again what is due.
    pub(super) fn retry(&mut self, directory: &Path, now: Instant) {
        if self.retry_at.is_none_or(|at| at > now) {
            return;
        }
        while let Some((name, text)) = self.files.pop_first() {
            if let Err(error) = self.replace(directory, &name, &text) {
                self.failed(directory, &name, &error);
                self.files.insert(name, text);
                return;
            }
        }
        self.are_all_written();
    }

    fn are_all_written(&mut self) {
        if self.files.is_empty() {
            self.retry_at = None;
            if self.fault.take().is_some() {
                tracing::info!(event = "state", "what the next daemon should know is written down again");
            }
        }
    }

    fn failed(&mut self, directory: &Path, name: &str, error: &io::Error) {
        self.retry_at = Instant::now().checked_add(RETRY);
        let path = directory.join(name);
        let text = format!(
            "cannot write {}, without which a daemon after this one would not know all that this one does: {error}; {}",
            path.display(),
            advice(error)
        );
        if self.fault.as_ref() != Some(&text) {
            tracing::error!(event = "state", path = %path.display(), %error, "{text}");
        }
        self.fault = Some(text);
    }

    /// Replaces a file as a whole, so that a crash leaves the old one or the new one.
    fn replace(&mut self, directory: &Path, name: &str, text: &str) -> io::Result<()> {
        let temporary = directory.join(format!(".{name}.new"));
        let mut file = match File::create(&temporary) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(directory)?;
                self.is_new = true;
                File::create(&temporary)?
            }
            file => file?,
        };
        let written =
            file.write_all(text.as_bytes()).and_then(|()| fs::rename(&temporary, directory.join(name)));
        if written.is_err() {
            // A full file system is no fuller for it.
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room, or enlarge that file system",
        ErrorKind::ReadOnlyFilesystem => "mount it so that it can be written",
        ErrorKind::NotFound | ErrorKind::PermissionDenied => {
            "run \"systemctl restart portbroker\", which makes the directory anew, or make it so that the daemon's user \
             may write there"
        }
        _ => "it is tried again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later() -> Instant {
        Instant::now() + 2 * RETRY
    }

    #[test]
    fn what_cannot_be_written_is_written_when_it_can_be() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("run");
        // Also root cannot make a directory where a file is.
        fs::write(&directory, "").unwrap();
        let mut files = Unwritten::default();
        files.write(&directory, "a", "old");
        files.write(&directory, "a", "new");
        files.write(&directory, "b", "b");
        assert!(files.fault().unwrap().contains("run/b") && files.next_due().is_some());
        files.retry(&directory, Instant::now());
        assert!(files.fault().is_some(), "not yet");
        fs::remove_file(&directory).unwrap();
        files.retry(&directory, later());
        assert!(files.fault().is_none() && files.next_due().is_none());
        assert!(files.take_is_new() && !files.take_is_new(), "the directory was made");
        assert_eq!(fs::read_to_string(directory.join("a")).unwrap(), "new");
        assert_eq!(fs::read_to_string(directory.join("b")).unwrap(), "b");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
    }

    #[test]
    fn a_later_write_that_succeeds_is_not_undone() {
        let place = tempfile::tempdir().unwrap();
        let mut files = Unwritten::default();
        fs::create_dir(place.path().join("a")).unwrap();
        files.write(place.path(), "a", "1");
        assert!(files.fault().is_some());
        fs::remove_dir(place.path().join("a")).unwrap();
        files.write(place.path(), "a", "2");
        assert!(files.fault().is_none());
        files.retry(place.path(), later());
        assert_eq!(fs::read_to_string(place.path().join("a")).unwrap(), "2");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "no temporary file is left");
    }
}
