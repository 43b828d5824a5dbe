//! The directories in which systemd looks for units, listed once: which names there are, where each
//! comes from, and which are enabled. Nothing is opened but directories and links.

use super::names;
use crate::config::Services;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, DirEntry, FileType};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// systemd.unit(5), "System Unit Search Path": the first that has a name wins.
const SEARCH_PATH: [&str; 13] = [
    "etc/systemd/system.control",
    "run/systemd/system.control",
    "run/systemd/transient",
    "run/systemd/generator.early",
    "etc/systemd/system",
    "etc/systemd/system.attached",
    "run/systemd/system",
    "run/systemd/system.attached",
    "run/systemd/generator",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    // The same as the one before, and dropped, where /lib is a link.
    "lib/systemd/system",
    "run/systemd/generator.late",
];

const NULL: &str = "/dev/null";

/// How many links from name to name are followed: systemd's `FOLLOW_MAX`.
pub(super) const MAX_HOPS: usize = 8;

/// What stands behind a unit's name in the first directory that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    /// A unit file, or a link to one outside of the search path.
    File(PathBuf),
    /// A link to another name in the search path.
    Alias(String),
    /// A link to /dev/null.
    Masked,
}

/// What is behind a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// The unit's own name, for which the one asked for may be an alias, and its file.
    Fragment(String, &'a Path),
    /// It is not to be started.
    Masked,
    /// There is no file of that name.
    Nothing,
}

/// All that the directories say.
#[derive(Debug, Default)]
pub(super) struct Tree {
    root: PathBuf,
    /// Those of the search path that are there, by device and inode, without doubles.
    directories: Vec<(u64, u64)>,
    entries: BTreeMap<String, Entry>,
    /// `NAME.d` to its places, each with the index of the directory that it is in.
    dropins: HashMap<String, Vec<(usize, PathBuf)>>,
    /// What `.wants`, `.requires` and `.upholds` directories link to.
    enabled: BTreeSet<String>,
    /// Directories of which nobody knows what is in them.
    pub(super) unlisted: Vec<(PathBuf, io::Error)>,
}

impl Tree {
    /// Lists the directories below `root`.
    pub(super) fn scan(root: &Path) -> Self {
        let mut tree = Self { root: root.to_owned(), ..Self::default() };
        let mut listed = Vec::new();
        for directory in SEARCH_PATH {
            let path = root.join(directory);
            let Some(identity) = identity(&path) else { continue };
            if !tree.directories.contains(&identity) {
                tree.directories.push(identity);
                listed.push(path);
            }
        }
        // (directory of links, name) of what was seen there first: that one wins, also when it masks.
        let mut links = BTreeSet::new();
        for (index, directory) in listed.iter().enumerate() {
            for item in tree.list(directory) {
                tree.take(index, &item, &mut links);
            }
        }
        tree
    }

    fn list(&mut self, directory: &Path) -> Vec<DirEntry> {
        entries(directory).unwrap_or_else(|error| {
            self.unlisted.push((directory.to_owned(), error));
            Vec::new()
        })
    }

    fn take(&mut self, index: usize, item: &DirEntry, links: &mut BTreeSet<(String, String)>) {
        let (Ok(name), Ok(kind)) = (item.file_name().into_string(), item.file_type()) else {
            return;
        };
        if names::split_type(&name).is_some() {
            if !self.entries.contains_key(&name)
                && let Some(entry) = self.entry(&name, &item.path(), kind)
            {
                self.entries.insert(name, entry);
            }
        } else if let Some(of) = name.strip_suffix(".d") {
            if names::split_type(of).is_some() || names::TYPES.contains(&of) {
                self.dropins.entry(of.to_owned()).or_default().push((index, item.path()));
            }
        } else if [".wants", ".requires", ".upholds"].iter().any(|end| name.ends_with(end)) {
            for link in self.list(&item.path()) {
                let Ok(unit) = link.file_name().into_string() else { continue };
                if names::split_type(&unit).is_some()
                    && links.insert((name.clone(), unit.clone()))
                    && !is_null(&link.path())
                {
                    self.enabled.insert(unit);
                }
            }
        }
    }

    /// What a name in a directory of the search path stands for; none where systemd ignores it.
    fn entry(&self, name: &str, path: &Path, kind: FileType) -> Option<Entry> {
        if kind.is_file() {
            return Some(Entry::File(path.to_owned()));
        }
        if !kind.is_symlink() {
            return None;
        }
        let target = fs::read_link(path).ok()?;
        if target == Path::new(NULL) {
            return Some(Entry::Masked);
        }
        let target = below(&self.root, path, &target);
        if !self.directories.contains(&identity(target.parent()?)?) {
            return Some(Entry::File(target));
        }
        let target = target.file_name().and_then(OsStr::to_str)?;
        // A link to its own name further down says nothing; that file speaks for itself.
        (target != name && names::may_be_alias(name, target)).then(|| Entry::Alias(target.to_owned()))
    }

    /// Follows a name to its unit.
    pub(super) fn find(&self, name: &str) -> Found<'_> {
        let mut current = name.to_owned();
        for _ in 0..MAX_HOPS {
            match self.entries.get(&current) {
                Some(Entry::File(path)) => {
                    return Found::Fragment(names::instance_of(&current, name), path);
                }
                Some(Entry::Masked) => return Found::Masked,
                Some(Entry::Alias(target)) => current.clone_from(target),
                None => match names::template(&current) {
                    Some(template) => current = template,
                    None => return Found::Nothing,
                },
            }
        }
        Found::Nothing
    }

    /// Every name that there is a file, a link or a drop-in directory for, or that is enabled; no templates.
    pub(super) fn names(&self) -> BTreeSet<&str> {
        let all = self.entries.keys().chain(self.enabled.iter()).chain(self.dropins.keys());
        all.map(String::as_str)
            .filter(|name| names::split_type(name).is_some() && !names::is_template(name))
            .filter(|name| self.is_known(name))
            .collect()
    }

    /// An instance is one that was made or enabled; a directory of drop-ins alone makes none.
    fn is_known(&self, name: &str) -> bool {
        !names::is_instance(name) || self.entries.contains_key(name) || self.enabled.contains(name)
    }

    /// Every service with a file or a link of its name, templates too.
    pub(super) fn services(&self) -> Services {
        let mut services = Services::default();
        for name in self.entries.keys().filter(|name| name.ends_with(".service")) {
            match self.find(name) {
                Found::Fragment(..) => services.present.insert(name.clone()),
                Found::Masked => services.masked.insert(name.clone()),
                Found::Nothing => false,
            };
        }
        services
    }

    /// Names of templates that are links, each behind the template that it leads to.
    pub(super) fn template_aliases(&self) -> Vec<(String, &str)> {
        let aliases = self.entries.iter().filter(|(_, entry)| matches!(entry, Entry::Alias(_)));
        let templates = aliases.map(|(name, _)| name.as_str()).filter(|name| names::is_template(name));
        let found = templates.filter_map(|name| match self.find(name) {
            Found::Fragment(template, _) => Some((template, name)),
            Found::Masked | Found::Nothing => None,
        });
        found.collect()
    }

    /// Whether a directory of links names it.
    pub(super) fn is_enabled(&self, name: &str) -> bool {
        self.enabled.contains(name)
    }

    /// The drop-in directories of a unit under all of its names, the first winning
    /// (`unit_file_find_dropin_paths()`): for each name directory by directory of the search path, in
    /// each the more special first; at last those of the type, such as `service.d`.
    pub(super) fn dropin_directories<'n>(&self, unit_names: impl Iterator<Item = &'n str>) -> Vec<&Path> {
        let mut found: Vec<&Path> = Vec::new();
        let mut kind = None;
        for name in unit_names {
            kind = names::split_type(name).map(|(_, kind)| kind);
            let mut places: Vec<(usize, usize, &Path)> = Vec::new();
            for (rank, name) in names::dropin_names(name).iter().enumerate() {
                for (directory, path) in self.dropins.get(name).into_iter().flatten() {
                    places.push((*directory, rank, path));
                }
            }
            places.sort_unstable();
            found.extend(places.into_iter().map(|(_, _, path)| path));
        }
        let of_type = kind.and_then(|kind| self.dropins.get(kind)).into_iter().flatten();
        found.extend(of_type.map(|(_, path)| path.as_path()));
        found
    }
}

/// What is in a directory; nothing where there is none.
pub(super) fn entries(directory: &Path) -> io::Result<Vec<DirEntry>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.collect(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

fn identity(directory: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(directory).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Where a link leads: below `root`, also where its target is absolute, but never out of it to /dev/null,
/// which no tree but the machine's own has.
pub(super) fn below(root: &Path, link: &Path, target: &Path) -> PathBuf {
    match target.strip_prefix("/") {
        Ok(_) if target == Path::new(NULL) => target.to_owned(),
        Ok(below) => root.join(below),
        Err(_) => link.parent().unwrap_or(root).join(target),
    }
}

/// Whether it is a link to /dev/null.
fn is_null(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target == Path::new(NULL))
}
