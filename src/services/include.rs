//! Files that name others: which ones a pattern means, and that reading them ends.

use super::{Files, MOST_FILES};
use glob::{MatchOptions, Pattern};
use std::path::{Component, Path, PathBuf};

/// Files that are included by each other, one in the other; sshd's own limit.
const DEEPEST: usize = 16;
/// As the shell does it: a leading point has to be written.
const AS_THE_SHELL: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// The files of one service, as they are read.
pub(super) struct Reading<'a> {
    files: &'a mut dyn Files,
    left: usize,
    /// Those that are being read, one in the other.
    open: Vec<PathBuf>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(files: &'a mut dyn Files) -> Self {
        Self { files, left: MOST_FILES, open: Vec::new() }
    }

    /// Does something with the text of a file, unless it is being read already; `None`: there is none.
    pub(super) fn with<R>(&mut self, path: &Path, read: impl FnOnce(&mut Self, &str) -> R) -> Option<R> {
        let again = self.open.iter().any(|open| open == path);
        if again || self.open.len() >= DEEPEST || self.left == 0 {
            return None;
        }
        self.left -= 1;
        let text = self.files.text(path)?;
        self.open.push(path.to_owned());
        let result = read(self, &text);
        self.open.pop();
        Some(result)
    }

    /// The files that a pattern means, in the order of their names; what is not absolute is below `directory`. A path
    /// without wildcards means itself, be it there or not.
    pub(super) fn matching(&mut self, directory: &Path, pattern: &str) -> Vec<PathBuf> {
        let mut found = vec![PathBuf::new()];
        for component in directory.join(pattern).components() {
            let Component::Normal(name) = component else {
                found.iter_mut().for_each(|path| path.push(component));
                continue;
            };
            let name = name.to_string_lossy();
            let wild = name.contains(['*', '?', '[']).then(|| Pattern::new(&name).ok()).flatten();
            let Some(wild) = wild else {
                found.iter_mut().for_each(|path| path.push(name.as_ref()));
                continue;
            };
            found = found.iter().flat_map(|path| self.below(path, &wild)).take(MOST_FILES).collect();
        }
        found
    }

    fn below(&mut self, directory: &Path, pattern: &Pattern) -> Vec<PathBuf> {
        let names = self.names(directory);
        names
            .iter()
            .filter(|name| pattern.matches_with(name, AS_THE_SHELL))
            .map(|name| directory.join(name))
            .collect()
    }

    /// The names in a directory, sorted.
    pub(super) fn names(&mut self, directory: &Path) -> Vec<String> {
        let mut names = self.files.names(directory);
        names.sort();
        names
    }
}
