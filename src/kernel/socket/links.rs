//! `Symlinks=`: other names of a unix socket's path.
//!
//! A link is made when its socket has its path, so that it never leads to nothing, and is replaced by one rename,
//! so that it is there at every moment. What somebody else made is left alone: a link is ours if our user made it.
//! That a link cannot be made is no fault of the socket, as with socket units.

use super::path::{make_directories, remove};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// What is where a link should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// It leads to the path.
    Right,
    /// A link of our user that leads elsewhere.
    Ours,
    Foreign,
}

fn look(link: &Path, target: &Path) -> io::Result<Found> {
    let metadata = match std::fs::symlink_metadata(link) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        other => other?,
    };
    if !metadata.is_symlink() {
        return Ok(Found::Foreign);
    }
    Ok(match std::fs::read_link(link)? == target {
        true => Found::Right,
        false if metadata.uid() == nix::unistd::geteuid().as_raw() => Found::Ours,
        false => Found::Foreign,
    })
}

/// Makes the links that are not there, and turns those of ours that lead elsewhere. What fails, [`fault`] finds.
pub(super) fn make(links: &[PathBuf], target: &Path, directory_mode: u32) {
    for link in links {
        let _ = match look(link, target) {
            Ok(Found::Nothing) => make_one(link, target, directory_mode),
            Ok(Found::Ours) => turn(link, target),
            Ok(Found::Right | Found::Foreign) | Err(_) => Ok(()),
        };
    }
}

fn make_one(link: &Path, target: &Path, directory_mode: u32) -> io::Result<()> {
    make_directories(link, directory_mode).map_err(|(_, source)| source)?;
    symlink(target, link)
}

/// One rename, so that the name leads somewhere at every moment.
fn turn(link: &Path, target: &Path) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(link.file_name().unwrap_or_default());
    name.push(".portbroker-link");
    let hidden = link.with_file_name(name);
    remove(&hidden)?;
    symlink(target, &hidden)?;
    std::fs::rename(&hidden, link).inspect_err(|_| {
        let _ = remove(&hidden);
    })
}

/// Removes the links that lead to the path.
pub(super) fn remove_all(links: &[PathBuf], target: &Path) -> io::Result<()> {
    for link in links {
        if matches!(look(link, target), Ok(Found::Right)) {
            remove(link)?;
        }
    }
    Ok(())
}

/// Why a link does not lead to the path, where it does not.
pub(super) fn fault(link: &Path, target: &Path) -> Option<&'static str> {
    match look(link, target) {
        Ok(Found::Right) => None,
        Ok(Found::Nothing | Found::Ours) => Some("the daemon may not write there"),
        Ok(Found::Foreign) => Some("something else has the name; move it away"),
        Err(_) => Some("the daemon may not look there"),
    }
}
