//! The files by which the daemon, which may start nothing, says what should be started: one for each service, in a
//! directory that a path unit watches, which has root take them.
//!
//! Both ends are here. All is in the names, nothing in the files: whoever takes them as root opens none, follows no
//! link, and removes nothing outside of the directory, whatever the daemon's user has put there.

use crate::model::UnitName;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// The directory, in the daemon's runtime directory.
pub const DIRECTORY: &str = "activate";

/// What a file's name ends with where the start before has failed. No unit's name has such a character.
const AGAIN: &str = "!";

/// The most files that are taken at once; what is left is taken the next time.
const MAX: usize = 4096;

/// Says that a service is to be started; `again` where that has just failed.
pub fn put(runtime_directory: &Path, unit: &UnitName, again: bool) -> io::Result<()> {
    let directory = runtime_directory.join(DIRECTORY);
    let path = directory.join(format!("{unit}{}", if again { AGAIN } else { "" }));
    match File::create(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(&directory)?;
            File::create(&path).map(drop)
        }
        result => result.map(drop),
    }
}

/// What was taken.
#[derive(Debug, Default)]
pub struct Taken {
    /// The services, each with whether it is to be started again after a failure.
    pub services: BTreeMap<UnitName, bool>,
    /// Names that mean nothing here.
    pub foreign: Vec<String>,
    /// Names of what could not be removed, each with the reason.
    pub left: Vec<(String, io::Error)>,
}

/// Removes everything in the directory and says what it was. A directory that is not there is empty.
pub fn take(runtime_directory: &Path) -> io::Result<Taken> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut directory = match Dir::open(&runtime_directory.join(DIRECTORY), flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::ENOENT) => return Ok(Taken::default()),
        Err(error) => return Err(error.into()),
    };
    let mut names = Vec::new();
    for entry in directory.iter().take(MAX) {
        let name = entry?.file_name().to_owned();
        if ![c".", c".."].contains(&name.as_c_str()) {
            names.push(name);
        }
    }
    let mut taken = Taken::default();
    for name in names {
        let shown = name.to_string_lossy().escape_default().to_string();
        // What comes after this makes the file anew, and is a start of its own.
        if let Err(error) = remove(&directory, &name) {
            taken.left.push((shown, error));
            continue;
        }
        match name.to_str().ok().and_then(service_of) {
            Some((unit, again)) => *taken.services.entry(unit).or_default() |= again,
            None => taken.foreign.push(shown),
        }
    }
    Ok(taken)
}

fn remove(directory: &Dir, name: &CStr) -> io::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR) => Ok(unlinkat(directory, name, UnlinkatFlags::RemoveDir)?),
        Err(error) => Err(error.into()),
    }
}

fn service_of(name: &str) -> Option<(UnitName, bool)> {
    let (unit, again) = name.strip_suffix(AGAIN).map_or((name, false), |unit| (unit, true));
    let unit = UnitName::try_from(unit).ok().filter(|unit| unit.as_str().ends_with(".service"))?;
    Some((unit, again))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn unit(name: &str) -> UnitName {
        UnitName::try_from(name).unwrap()
    }

    #[test]
    fn what_was_put_is_taken_once() {
        let root = tempfile::tempdir().unwrap();
        assert!(take(root.path()).unwrap().services.is_empty());
        for again in [false, true, false] {
            put(root.path(), &unit("a.service"), again).unwrap();
        }
        put(root.path(), &unit("b@\\x2d.service"), false).unwrap();
        let taken = take(root.path()).unwrap();
        let expected = [(unit("a.service"), true), (unit("b@\\x2d.service"), false)];
        assert_eq!(taken.services, BTreeMap::from(expected));
        assert!(taken.foreign.is_empty() && taken.left.is_empty());
        assert!(take(root.path()).unwrap().services.is_empty());
    }

    #[test]
    fn whatever_lies_there_goes_and_nothing_else_does() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join(DIRECTORY);
        fs::create_dir_all(directory.join("a.slice")).unwrap();
        fs::create_dir_all(directory.join("full/of")).unwrap();
        let outside = root.path().join("outside");
        fs::write(&outside, "text").unwrap();
        symlink(&outside, directory.join("link.service")).unwrap();
        fs::write(directory.join("-x y\n.service"), "").unwrap();
        let taken = take(root.path()).unwrap();
        // A link is a name like any other, and what it leads to is nobody's matter.
        assert_eq!(taken.services, BTreeMap::from([(unit("link.service"), false)]));
        assert_eq!(taken.foreign.len(), 2);
        assert_eq!(taken.left.len(), 1);
        assert_eq!(fs::read_to_string(&outside).unwrap(), "text");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = root.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("a.service"), "").unwrap();
        symlink(&elsewhere, root.path().join(DIRECTORY)).unwrap();
        assert!(take(root.path()).is_err());
        assert!(elsewhere.join("a.service").exists());
    }
}
