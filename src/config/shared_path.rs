//! The path of a file of the configuration, which each of its values remembers.

use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A path that is cheap to copy: ten thousand listeners have some thirty thousand values, each with its origin.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SharedPath(Arc<Path>);

impl Default for SharedPath {
    fn default() -> Self {
        Path::new("").into()
    }
}

impl From<&Path> for SharedPath {
    fn from(path: &Path) -> Self {
        Self(path.into())
    }
}

impl From<PathBuf> for SharedPath {
    fn from(path: PathBuf) -> Self {
        Self(path.into())
    }
}

impl From<&str> for SharedPath {
    fn from(path: &str) -> Self {
        Path::new(path).into()
    }
}

impl Deref for SharedPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Debug for SharedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
