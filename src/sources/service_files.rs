//! The files of services, below a root, for [`crate::services`]. What cannot be read is remembered, so that it can be said.

use crate::services::Files;
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

/// More of a file is not read: none of these is written by hand then.
const MAX_SIZE: u64 = 4 * 1024 * 1024;
/// So many links in a row are followed below another root, as the kernel does it.
const MAX_LINKS: usize = 40;

/// The files below a root.
#[derive(Debug)]
pub struct ServiceFiles {
    root: PathBuf,
    /// What could not be read, and why.
    unread: BTreeSet<String>,
}

impl ServiceFiles {
    /// Below this root, to which links are held too.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), unread: BTreeSet::new() }
    }

    /// `FILE: permission denied`, for each that could not be read.
    #[must_use]
    pub fn unread(self) -> Vec<String> {
        self.unread.into_iter().collect()
    }

    /// Where a path really is. Below `/` the kernel knows; below another root every link begins from that.
    fn host(&self, path: &Path) -> PathBuf {
        if self.root == Path::new("/") {
            return path.to_owned();
        }
        let mut left: Vec<PathBuf> = components(path);
        let (mut inside, mut links) = (PathBuf::from("/"), 0);
        while let Some(name) = left.pop() {
            if name == Path::new("..") {
                inside.pop();
                continue;
            }
            let next = inside.join(&name);
            let below = self.root.join(next.strip_prefix("/").unwrap_or(&next));
            match fs::read_link(&below) {
                Ok(target) if links < MAX_LINKS => {
                    links += 1;
                    if target.is_absolute() {
                        inside = PathBuf::from("/");
                    }
                    left.extend(components(&target));
                }
                _ => inside = next,
            }
        }
        self.root.join(inside.strip_prefix("/").unwrap_or(&inside))
    }

    fn remember(&mut self, path: &Path, error: &io::Error) {
        if error.kind() != ErrorKind::NotFound && error.kind() != ErrorKind::NotADirectory {
            self.unread.insert(format!("{}: {error}", path.display()));
        }
    }
}

/// The names of a path, the last first.
fn components(path: &Path) -> Vec<PathBuf> {
    let names = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    let mut names: Vec<PathBuf> = names.map(|part| PathBuf::from(part.as_os_str())).collect();
    names.reverse();
    names
}

fn read(path: &Path) -> io::Result<String> {
    // So that a FIFO in its place does not stop us.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_SIZE).read_to_end(&mut bytes)?;
    // Comments may be in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Files for ServiceFiles {
    fn text(&mut self, path: &Path) -> Option<String> {
        read(&self.host(path)).map_err(|error| self.remember(path, &error)).ok()
    }

    fn names(&mut self, directory: &Path) -> Vec<String> {
        match fs::read_dir(self.host(directory)) {
            Ok(entries) => {
                entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
            }
            Err(error) => {
                self.remember(directory, &error);
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_below_the_root() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["etc/alternatives", "etc/mysql"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        fs::write(root.path().join("etc/mysql/real.cnf"), "text").unwrap();
        symlink("/etc/mysql/real.cnf", root.path().join("etc/alternatives/my.cnf")).unwrap();
        symlink("../alternatives/my.cnf", root.path().join("etc/mysql/my.cnf")).unwrap();
        symlink("loop", root.path().join("etc/mysql/loop")).unwrap();
        symlink("/etc", root.path().join("conf")).unwrap();
        let mut files = ServiceFiles::new(root.path());
        assert_eq!(files.text(Path::new("/etc/mysql/my.cnf")).as_deref(), Some("text"));
        assert_eq!(files.text(Path::new("/conf/mysql/../mysql/my.cnf")).as_deref(), Some("text"));
        assert_eq!(files.text(Path::new("/etc/mysql/none")), None);
        assert_eq!(files.text(Path::new("/../../../etc/passwd")), None);
        assert!(files.names(Path::new("/etc/mysql")).contains(&"real.cnf".to_owned()));
        assert!(files.unread.is_empty());
        assert_eq!(
            (files.text(Path::new("/etc/mysql")), files.text(Path::new("/etc/mysql/loop"))),
            (None, None)
        );
        let unread = files.unread();
        assert!(unread[0].starts_with("/etc/mysql/loop: "), "{unread:?}");
        assert_eq!(unread[1], "/etc/mysql: it is no regular file");
    }
}
