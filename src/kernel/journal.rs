//! The journal of leases: records that are appended to a file on the runtime directory's tmpfs, which lives exactly as
//! long as the kernel's own state does.
//!
//! - Every record is there whole or not at all: it is written with one write(2), and one that a SIGKILL tore is thrown
//!   away when the file is read again: nobody was told of what it says. What must not come apart belongs into one record.
//! - The file is always replaced whole, by rename(2): whoever opens it finds a header.
//! - A record that could not be written leaves the file as it was before, and can be told of by one byte of the header;
//!   that takes neither room nor a descriptor.
//! - Nothing that cannot be understood is thrown away: it is moved aside, as a file of a later version is.
//! - A file of an earlier version is gone on with: only what is in records is new in a later one.
//!
//! What is in a record is not this module's matter.

use super::boot::{BOOT, boot_id};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc;

/// The first bytes of the file; the version is after them, and then the boot.
const MAGIC: &[u8; 8] = b"pbleases";
/// The version of what is written here; the records of earlier ones are read as well.
const VERSION: u32 = 2;
/// The bytes of a boot id as text.
const BOOT_LENGTH: usize = 36;
/// Where the last byte of the header is: not 0 where something happened that is not in the file.
const GAP: usize = MAGIC.len() + 4 + BOOT_LENGTH;
const HEADER: usize = GAP + 1;
/// Length and checksum of each record.
const FRAME: usize = 8;
/// No journal is larger, and no record either.
const MOST: u64 = 256 << 20;
/// What a damaged file is copied to, and one that cannot be understood is moved to.
const ASIDE: &str = "unreadable";
/// No smaller file is worth a snapshot.
const WORTH: u64 = 1 << 20;

/// The file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    boot: String,
    file: File,
    /// The same file, to be written where it says so: what `file` writes goes to the end, wherever it is told to.
    marker: File,
    /// Up to here the file is as it should be.
    length: u64,
    /// Behind `length` there is something that could not be taken back.
    spoilt: bool,
    /// What the last snapshot took.
    snapshot: u64,
    /// This process does not know all that happened before it, and no snapshot fills that gap.
    had_gap: bool,
}

/// A journal, and what was in it.
#[derive(Debug)]
pub struct Opened {
    /// The journal.
    pub journal: Journal,
    /// The records, in the order in which they were appended.
    pub records: Vec<Vec<u8>>,
    /// What of an earlier file was not taken.
    pub lost: Option<Lost>,
    /// Something happened in this boot that is not in the records: see [`Journal::mark_gap`].
    pub has_gap: bool,
}

/// What was not taken of a file that was there, for the log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The end of the file, which is no whole record: its writer was killed in the middle.
    #[error(
        "the last {bytes} bytes of {path} are no whole record, as of a write that was killed half-way: they are dropped"
    )]
    Tail {
        /// The file.
        path: PathBuf,
        /// How many bytes.
        bytes: u64,
    },
    /// What comes after a record that was changed since it was written.
    #[error(
        "the last {bytes} bytes of {path} are damaged: they are kept in {copied}, and leases of which they tell are not known"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where all of it was copied to.
        copied: PathBuf,
        /// How many bytes.
        bytes: u64,
    },
    /// All of it.
    #[error("{path} {why}: it was moved to {moved}, and no lease of before is known")]
    All {
        /// The file.
        path: PathBuf,
        /// Where it is now.
        moved: PathBuf,
        /// Why.
        why: Unreadable,
    },
}

/// Why nothing of a file was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It was written before the host was started.
    #[error("is of another boot")]
    OtherBoot,
    /// It was written by a broker of another version.
    #[error("is of version {0}, and this broker knows versions 1 to {VERSION}")]
    OtherVersion(u32),
    /// It does not begin as one of ours.
    #[error("is not a journal of leases")]
    NoJournal,
    /// It is larger than any can be.
    #[error("is larger than a journal of leases can be")]
    TooLarge,
    /// The kernel does not let us read it.
    #[error("cannot be read ({0})")]
    Io(String),
}

/// Why the journal was not written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system is full.
    #[error("cannot {action} {path}: no space is left in its file system; make room, or enlarge that tmpfs")]
    Full {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// An append before this one failed half-way; only a rewrite helps.
    #[error("{path} ends with a part of a record that could not be taken back; it has to be rewritten")]
    Spoilt {
        /// The file.
        path: PathBuf,
    },
    /// It would be larger than is read again.
    #[error("cannot {action} {path}: it would be larger than 256 MiB")]
    TooLarge {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl JournalError {
    fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::Full { action, path },
            _ => Self::Io { action, path, source },
        }
    }
}

impl Journal {
    /// Opens the journal of this boot, or begins one, and reads what is in it.
    pub fn open(path: &Path) -> Result<Opened, JournalError> {
        let boot = boot_id().map_err(JournalError::new("read", Path::new(BOOT)))?;
        Self::open_of_boot(path, &boot)
    }

    fn open_of_boot(path: &Path, boot: &str) -> Result<Opened, JournalError> {
        let boot = format!("{boot:<BOOT_LENGTH$.BOOT_LENGTH$}");
        let content = match read(path) {
            Err(Unreadable::Io(_)) if !path.exists() && !path.is_symlink() => return begun(path, boot, None),
            Err(why) => Err(why),
            Ok(bytes) => understood(&bytes, &boot),
        };
        let Content { version, records, whole, has_gap, rest } = match content {
            Ok(content) => content,
            Err(why) => {
                let moved = path.with_extension(ASIDE);
                fs::rename(path, &moved).map_err(JournalError::new("move aside", path))?;
                return begun(path, boot, Some(Lost::All { path: path.to_owned(), moved, why }));
            }
        };
        let file = OpenOptions::new().append(true).custom_flags(libc::O_NOFOLLOW).open(path);
        let file = file.map_err(JournalError::new("open", path))?;
        let marker = marker_of(path).map_err(JournalError::new("open", path))?;
        let lost = match rest {
            Rest::Nothing => None,
            Rest::Torn(bytes) => Some(Lost::Tail { path: path.to_owned(), bytes }),
            Rest::Damaged(bytes) => {
                let copied = path.with_extension(ASIDE);
                fs::copy(path, &copied).map_err(JournalError::new("copy", path))?;
                Some(Lost::Damaged { path: path.to_owned(), copied, bytes })
            }
        };
        let length = bytes(whole);
        if lost.is_some() {
            file.set_len(length).map_err(JournalError::new("shorten", path))?;
        }
        let path = path.to_owned();
        let mut journal =
            Self { path, boot, file, marker, length, spoilt: false, snapshot: 0, had_gap: has_gap };
        if version != VERSION {
            journal.overwrite(MAGIC.len(), &VERSION.to_le_bytes())?;
        }
        if matches!(lost, Some(Lost::Damaged { .. })) {
            journal.mark_lasting_gap()?;
        }
        let has_gap = journal.had_gap;
        Ok(Opened { journal, records, lost, has_gap })
    }

    /// Appends a record.
    pub fn append(&mut self, record: &[u8]) -> Result<(), JournalError> {
        let action = "append to";
        if self.spoilt {
            return Err(JournalError::Spoilt { path: self.path.clone() });
        }
        let Some(record) = framed(record, self.length) else {
            return Err(JournalError::TooLarge { action, path: self.path.clone() });
        };
        if let Err(error) = self.file.write_all(&record) {
            self.spoilt = self.file.set_len(self.length).is_err();
            return Err(JournalError::new(action, &self.path)(error));
        }
        self.length += bytes(record.len());
        Ok(())
    }

    /// Leaves word for whoever opens the file after this process: something happened that could not be appended. A
    /// rewrite takes that back, unless it was so already when the file was opened. It takes no room, so a full file
    /// system does not keep it from being written.
    pub fn mark_gap(&self) -> Result<(), JournalError> {
        self.overwrite(GAP, &[1])
    }

    /// Changes a part of the header, which takes neither room nor a descriptor.
    fn overwrite(&self, at: usize, with: &[u8]) -> Result<(), JournalError> {
        // Not by the descriptor that appends: what that writes goes to the end, wherever it is told to.
        self.marker.write_all_at(with, bytes(at)).map_err(JournalError::new("mark", &self.path))
    }

    /// As [`mark_gap`](Self::mark_gap), where what happened is not known to this process either: no rewrite takes it back.
    pub fn mark_lasting_gap(&mut self) -> Result<(), JournalError> {
        self.had_gap = true;
        self.mark_gap()
    }

    /// Puts these records in the place of all that there are.
    pub fn rewrite<R: AsRef<[u8]>>(
        &mut self,
        records: impl IntoIterator<Item = R>,
    ) -> Result<(), JournalError> {
        (self.file, self.marker, self.length) =
            written(&self.path, &header(&self.boot, self.had_gap), records)?;
        self.snapshot = self.length;
        self.spoilt = false;
        Ok(())
    }

    /// Whether the file is so much larger than the last snapshot that another is worth its price; or it takes one to
    /// go on.
    #[must_use]
    pub fn is_due_for_rewrite(&self) -> bool {
        self.spoilt || self.length > WORTH.max(2 * self.snapshot)
    }

    /// Whether the file is nowhere any more: what is appended is lost, and only a rewrite helps.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    /// Whether nothing can be appended before a rewrite.
    #[must_use]
    pub fn is_spoilt(&self) -> bool {
        self.spoilt
    }

    /// The bytes that the file has.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }
}

fn begun(path: &Path, boot: String, lost: Option<Lost>) -> Result<Opened, JournalError> {
    let (file, marker, length) = written::<&[u8]>(path, &header(&boot, false), [])?;
    let (path, snapshot) = (path.to_owned(), length);
    let journal = Journal { path, boot, file, marker, length, spoilt: false, snapshot, had_gap: false };
    Ok(Opened { journal, records: Vec::new(), lost, has_gap: false })
}

/// Writes a new file and puts it in the place of the old one; it stays open for what follows.
fn written<R: AsRef<[u8]>>(
    path: &Path,
    header: &[u8],
    records: impl IntoIterator<Item = R>,
) -> Result<(File, File, u64), JournalError> {
    let action = "rewrite";
    let new = path.with_extension("new");
    let result = written_beside(&new, header, records).and_then(|written| match written {
        Some((file, length)) => {
            let marker = marker_of(&new)?;
            fs::rename(&new, path).map(|()| Some((file, marker, length)))
        }
        None => Ok(None),
    });
    match result {
        Ok(Some(written)) => Ok(written),
        refused => {
            // What is there is of no use to anybody, and takes room that is needed.
            let _ = fs::remove_file(&new);
            Err(match refused {
                Err(error) => JournalError::new(action, path)(error),
                Ok(_) => JournalError::TooLarge { action, path: path.to_owned() },
            })
        }
    }
}

fn marker_of(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// `None` where it would be too large.
fn written_beside<R: AsRef<[u8]>>(
    new: &Path,
    header: &[u8],
    records: impl IntoIterator<Item = R>,
) -> io::Result<Option<(File, u64)>> {
    match fs::remove_file(new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(new)?;
    let mut buffered = io::BufWriter::new(file);
    buffered.write_all(header)?;
    let mut length = bytes(HEADER);
    for record in records {
        let Some(record) = framed(record.as_ref(), length) else { return Ok(None) };
        buffered.write_all(&record)?;
        length += bytes(record.len());
    }
    let file = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(Some((file, length)))
}

fn header(boot: &str, has_gap: bool) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend(boot.as_bytes());
    header.push(u8::from(has_gap));
    header
}

/// A record with length and checksum before it; `None` where a file of this length would become too large.
fn framed(record: &[u8], length: u64) -> Option<Vec<u8>> {
    let size = u32::try_from(record.len()).ok()?;
    if length + bytes(FRAME) + u64::from(size) > MOST {
        return None;
    }
    let mut bytes = Vec::with_capacity(FRAME + record.len());
    bytes.extend(size.to_le_bytes());
    bytes.extend(checksum(record).to_le_bytes());
    bytes.extend(record);
    Some(bytes)
}

/// That of nothing is not zero, so that a row of zeros is no row of empty records.
fn checksum(record: &[u8]) -> u32 {
    !crc32fast::hash(record)
}

fn read(path: &Path) -> Result<Vec<u8>, Unreadable> {
    let failed = |error: io::Error| Unreadable::Io(error.to_string());
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Unreadable::NoJournal);
    }
    if metadata.len() > MOST {
        return Err(Unreadable::TooLarge);
    }
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// What is in the bytes of a journal.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    /// Of which version it is.
    pub version: u32,
    /// The records, up to the first that is none.
    pub records: Vec<Vec<u8>>,
    /// How far it is whole.
    pub whole: usize,
    /// Something happened that is not in the records.
    pub has_gap: bool,
    /// What comes after the records.
    pub rest: Rest,
}

/// What comes after the last whole record.
#[derive(Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing.
    Nothing,
    /// So many bytes of a record that is not there whole: its writer was killed.
    Torn(u64),
    /// So many bytes that begin with a record which was changed since: writers do not do that.
    Damaged(u64),
}

/// Reads the bytes of a journal, as one of this boot.
pub fn understood(file: &[u8], boot: &str) -> Result<Content, Unreadable> {
    let (header, mut rest) = file.split_first_chunk::<HEADER>().ok_or(Unreadable::NoJournal)?;
    let of_header = header.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk());
    let (version, rest_of_header) = of_header.ok_or(Unreadable::NoJournal)?;
    let version = match u32::from_le_bytes(*version) {
        0 => return Err(Unreadable::NoJournal),
        known @ 1..=VERSION => known,
        other => return Err(Unreadable::OtherVersion(other)),
    };
    let Some(gap) = rest_of_header.strip_prefix(boot.as_bytes()) else {
        return Err(Unreadable::OtherBoot);
    };
    let mut records = Vec::new();
    let torn = loop {
        match first_record(rest) {
            First::Whole(record, after) => {
                records.push(record.to_vec());
                rest = after;
            }
            First::Torn => break true,
            First::Damaged => break false,
        }
    };
    let left = bytes(rest.len());
    let whole = file.len() - rest.len();
    let rest = match left {
        0 => Rest::Nothing,
        left if torn => Rest::Torn(left),
        left => Rest::Damaged(left),
    };
    Ok(Content { version, records, whole, has_gap: gap != [0], rest })
}

enum First<'a> {
    Whole(&'a [u8], &'a [u8]),
    Torn,
    Damaged,
}

fn first_record(bytes: &[u8]) -> First<'_> {
    let framed = || {
        let (size, bytes) = bytes.split_first_chunk()?;
        let (sum, bytes) = bytes.split_first_chunk()?;
        let size = usize::try_from(u32::from_le_bytes(*size)).ok()?;
        Some((u32::from_le_bytes(*sum), bytes.split_at_checked(size)?))
    };
    match framed() {
        None => First::Torn,
        Some((sum, (record, rest))) if checksum(record) == sum => First::Whole(record, rest),
        Some(_) => First::Damaged,
    }
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
