//! The contents of unit files and of drop-in directories, each looked at once.

use super::tree::{MAX_HOPS, below, entries};
use crate::config::units::SECTION;
use crate::config::{Fault, Origin};
use crate::sources::trusted::changed_at;
use nix::libc::O_NONBLOCK;
use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the fault of a file that cannot be read begins with.
pub const CANNOT_BE_READ: &str = "cannot be read";
/// The largest unit file that is read.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// It is not there.
    Absent,
    /// It is there and cannot be read, so nobody knows.
    Hidden,
    /// Nothing at all, which masks.
    Empty,
    /// Something.
    Plain,
    /// Something with the section's name in it.
    Marked,
}

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    contents: HashMap<PathBuf, Content>,
    listings: HashMap<PathBuf, Vec<String>>,
    /// What could not be read.
    pub(super) faults: Vec<Fault>,
    /// When any of those that were read was changed last.
    pub(super) changed: Option<Duration>,
}

impl Files {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            contents: HashMap::new(),
            listings: HashMap::new(),
            faults: Vec::new(),
            changed: None,
        }
    }

    /// What kind of content a file has.
    pub(super) fn content(&mut self, path: &Path) -> Content {
        if let Some(content) = self.contents.get(path) {
            return *content;
        }
        let content = match self.try_read(path) {
            Ok(None) => Content::Absent,
            Ok(Some(text)) if text.is_empty() => Content::Empty,
            Ok(Some(text)) if contains(&text, SECTION.as_bytes()) => Content::Marked,
            Ok(Some(_)) => Content::Plain,
            Err(error) => {
                self.note(path, &error);
                Content::Hidden
            }
        };
        self.contents.insert(path.to_owned(), content);
        content
    }

    /// The bytes of a file; none where it is not there, or cannot be read, which is a fault then.
    pub(super) fn read(&mut self, path: &Path) -> Option<Vec<u8>> {
        self.try_read(path).unwrap_or_else(|error| {
            self.note(path, &error);
            None
        })
    }

    fn try_read(&mut self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match read_capped(&self.followed(path)) {
            Ok((text, changed)) => {
                self.changed = self.changed.max(changed);
                Ok(Some(text))
            }
            // A link that leads nowhere: systemd has no such unit either.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes what could not be read. What is so for good is only a warning: a file that only root may read mostly has no
    /// section. But for want of descriptors, say, anything could have been left out.
    pub(super) fn note(&mut self, path: &Path, error: &io::Error) {
        let origin = Origin { file: self.shown(path).into(), ..Origin::default() };
        let message = format!("{CANNOT_BE_READ}: {error}");
        self.faults.push(if is_of_the_moment(error) {
            Fault::error(origin, message).help("try again when that is over: nobody knows what was left out")
        } else {
            Fault::warning(origin, message)
                .help(format!("make it readable for all if it has a section [{SECTION}]"))
        });
    }

    /// A path as it is shown: without our root.
    pub(super) fn shown(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).map_or_else(|_| path.to_owned(), |below| Path::new("/").join(below))
    }

    /// Where a link leads: below our root, also where it is absolute.
    fn followed(&self, path: &Path) -> PathBuf {
        let mut path = path.to_owned();
        if self.root == Path::new("/") {
            return path;
        }
        for _ in 0..MAX_HOPS {
            let Ok(target) = fs::read_link(&path) else { break };
            path = below(&self.root, &path, &target);
        }
        path
    }

    /// The names of the drop-ins in a directory.
    pub(super) fn dropins(&mut self, directory: &Path) -> &[String] {
        if !self.listings.contains_key(directory) {
            let entries = entries(directory).unwrap_or_else(|error| {
                self.note(directory, &error);
                Vec::new()
            });
            let names = entries.into_iter().filter_map(|item| item.file_name().into_string().ok());
            let names = names.filter(|name| name.ends_with(".conf") && !name.starts_with('.')).collect();
            self.listings.insert(directory.to_owned(), names);
        }
        self.listings.get(directory).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Whether it may be another time, with nothing changed but what else goes on.
fn is_of_the_moment(error: &io::Error) -> bool {
    use nix::libc::{EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM};
    error.raw_os_error().is_some_and(|number| [EAGAIN, EINTR, EMFILE, ENFILE, ENOMEM].contains(&number))
}

/// What is in a file, and when that was changed last.
fn read_capped(path: &Path) -> io::Result<(Vec<u8>, Option<Duration>)> {
    // O_NONBLOCK: opening a pipe must not wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    // /dev/null, reached by way of other links, masks; other devices are no unit files.
    if !metadata.is_file() {
        return if metadata.is_dir() { Err(ErrorKind::IsADirectory.into()) } else { Ok((Vec::new(), None)) };
    }
    if metadata.len() > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    let mut text = Vec::new();
    (&file).take(MAX_FILE).read_to_end(&mut text)?;
    // Asked for after it was read, so that whatever happened to it meanwhile shows.
    let changed = changed_at(&file.metadata()?);
    Ok((text, Some(changed)))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
