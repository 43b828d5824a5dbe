//! Reads a file only if nobody but root and the daemon's own user could have written it.
//!
//! Whoever writes the configuration decides who gets which port: so a file or directory that others can
//! write is a fault, never something to fall back from. The file that was checked is the file that is
//! read: both go by one descriptor. Lengths are capped before anything is read.

use crate::config::{Fault, Origin};
use nix::libc::O_NONBLOCK;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The largest file that is read.
pub(super) const MAX_SIZE: u64 = 1024 * 1024;

/// How many links in a row are followed below another root.
const MAX_LINKS: usize = 8;

/// A file: where it is shown to be, and where it really is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) shown: PathBuf,
    host: PathBuf,
}

/// What is in a file.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) text: String,
    /// When it was written last, or put in its place.
    pub(super) changed: SystemTime,
}

/// When a file was changed last, itself or what is said of it: nobody can set that.
pub(super) fn changed_at(metadata: &Metadata) -> SystemTime {
    let seconds = Duration::from_secs(metadata.ctime().max(0).unsigned_abs());
    let rest = Duration::from_nanos(metadata.ctime_nsec().max(0).unsigned_abs());
    UNIX_EPOCH.checked_add(seconds + rest).unwrap_or(UNIX_EPOCH)
}

impl Location {
    /// A path below `root`. A last component that is a link is followed below the root too.
    pub(super) fn below(root: &Path, shown: &Path) -> Self {
        let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        let mut host = inside(shown);
        if root != Path::new("/") {
            for _ in 0..MAX_LINKS {
                let Ok(target) = std::fs::read_link(&host) else { break };
                host = match host.parent() {
                    Some(parent) if target.is_relative() => parent.join(target),
                    _ => inside(&target),
                };
            }
        }
        Self { shown: shown.to_owned(), host }
    }

    /// A path that was given as an option: as it is.
    pub(super) fn given(path: &Path) -> Self {
        Self { shown: path.to_owned(), host: path.to_owned() }
    }

    /// A fault of the file as a whole.
    pub(super) fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::error(Origin { file: self.shown.as_path().into(), ..Origin::default() }, message)
    }

    fn cannot_read(&self, what: &str, error: &io::Error) -> Fault {
        let fault = self.fault(format!("the {what} cannot be read: {error}"));
        match error.kind() {
            ErrorKind::PermissionDenied => {
                fault.help("let the user that this runs as read it, or run as root")
            }
            _ => fault,
        }
    }

    /// The text of the file; `None` where there is no such file.
    pub(super) fn read(&self) -> Result<Option<Text>, Fault> {
        // O_NONBLOCK, so that a FIFO in its place does not stop us.
        let opened = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(&self.host);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.cannot_read("file", &error)),
        };
        let metadata = file.metadata().map_err(|error| self.cannot_read("file", &error))?;
        if !metadata.is_file() {
            return Err(self.fault("this is no regular file").help("put a file there, or take it away"));
        }
        self.trust("file", &metadata)?;
        let text = self.text(&file)?;
        // Asked for after it was read, so that whatever happened to it meanwhile shows.
        let changed = file.metadata().map_err(|error| self.cannot_read("file", &error))?;
        Ok(Some(Text { text, changed: changed_at(&changed) }))
    }

    fn text(&self, file: &File) -> Result<String, Fault> {
        let mut bytes = Vec::new();
        file.take(MAX_SIZE.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| self.cannot_read("file", &error))?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_SIZE) {
            let fault = self.fault(format!("the file is larger than {MAX_SIZE} bytes"));
            return Err(fault.help("split it into several"));
        }
        String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let before = error.as_bytes().get(..valid).unwrap_or_default();
            let line = before.iter().filter(|&&byte| byte == b'\n').count();
            let last = before.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
            let origin = Origin {
                file: self.shown.as_path().into(),
                line: line.saturating_add(1),
                column: String::from_utf8_lossy(last).chars().count().saturating_add(1),
                unit: None,
            };
            Fault::error(origin, "the file is not UTF-8 from here on").help("write it in UTF-8")
        })
    }

    /// Whether there is such a directory; a fault where others can write it.
    pub(super) fn is_trusted_directory(&self) -> Result<bool, Fault> {
        match std::fs::metadata(&self.host) {
            Ok(metadata) => self.trust("directory", &metadata).map(|()| true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.cannot_read("directory", &error)),
        }
    }

    /// The names in a directory that nobody else can write; none where there is no such directory.
    pub(super) fn list(&self) -> Result<Vec<PathBuf>, Fault> {
        if !self.is_trusted_directory()? {
            return Ok(Vec::new());
        }
        let entries = std::fs::read_dir(&self.host).map_err(|error| self.cannot_read("directory", &error))?;
        entries
            .map(|entry| entry.map(|entry| PathBuf::from(entry.file_name())))
            .collect::<io::Result<_>>()
            .map_err(|error| self.cannot_read("directory", &error))
    }

    /// Says what is wrong with the owner and the mode of a file that decides who gets which port.
    fn trust(&self, what: &str, metadata: &Metadata) -> Result<(), Fault> {
        let path = self.shown.display();
        let own = nix::unistd::geteuid().as_raw();
        if metadata.uid() != 0 && metadata.uid() != own {
            let fault = self.fault(format!(
                "the {what} belongs to uid {}, who could give any port to anyone",
                metadata.uid()
            ));
            return Err(fault.help(format!("run \"chown root {path}\" after looking at what is in it")));
        }
        let others = if metadata.mode() & 0o002 != 0 {
            "everyone".to_owned()
        } else if metadata.mode() & 0o020 != 0 && metadata.gid() != 0 {
            format!("group {}", metadata.gid())
        } else {
            return Ok(());
        };
        let fault =
            self.fault(format!("the {what} can be written by {others}, who could give any port to anyone"));
        Err(fault.help(format!("run \"chmod go-w {path}\" after looking at what is in it")))
    }

    /// Whether it is masked: a link to /dev/null, or an empty file.
    pub(super) fn is_masked(&self) -> bool {
        self.host == Path::new("/dev/null")
            || std::fs::read_link(&self.host).is_ok_and(|target| target == Path::new("/dev/null"))
            || std::fs::metadata(&self.host).is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
    }

    /// The text as far as it goes, for showing a line of it: a file that was refused is not shown.
    pub(super) fn text_to_show(&self) -> Option<String> {
        self.read().ok().flatten().map(|read| read.text)
    }

    /// The text of a file that says nothing about ports, such as /etc/passwd, whoever may write it.
    pub(super) fn read_public(&self, max: u64) -> io::Result<String> {
        let mut bytes = Vec::new();
        let file = match File::open(&self.host) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
            Err(error) => return Err(error),
        };
        file.take(max).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
