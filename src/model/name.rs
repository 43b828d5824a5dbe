//! Names of listeners and pools: what systemd accepts as a file descriptor name.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The name of a listener, valid as an `FDNAME=` and in `LISTEN_FDNAMES`:
/// 1 to 255 printable ASCII characters without `:` (`fdname_is_valid()` of systemd).
///
/// Cheap to copy: whatever belongs to a listener goes by it.
/// Names that begin with `portbroker` are the broker's own in the descriptor store.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerName(Arc<str>);

/// Why a text is no listener name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a listener's name must not be empty")]
    Empty,
    /// More than 255 bytes.
    #[error("a listener's name has at most 255 characters, this one has {0}")]
    TooLong(usize),
    /// A character that systemd does not take in a file descriptor name.
    #[error("a listener's name is printable ASCII without ':', and this one contains {0:?}")]
    Character(char),
    /// A name of the broker's own.
    #[error("names that begin with \"portbroker\" are the broker's own")]
    Reserved,
}

impl ListenerName {
    /// The longest name that systemd takes.
    pub const MAX: usize = 255;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for ListenerName {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(c) = text.chars().find(|&c| !(' '..='~').contains(&c) || c == ':') {
            return Err(NameError::Character(c));
        }
        if text.len() > Self::MAX {
            return Err(NameError::TooLong(text.len()));
        }
        if text.starts_with("portbroker") {
            return Err(NameError::Reserved);
        }
        Ok(Self(text.into()))
    }
}

/// Looked up by its text, which has the same order and the same hash.
impl Borrow<str> for ListenerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ListenerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ListenerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The name of a pool: as that of a listener, in a name space of its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolName(String);

/// Why a text is no name of a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a pool: 1 to 255 printable ASCII characters without ':'")]
pub struct PoolNameError(String);

impl PoolName {
    /// The pool that there is without any configuration.
    pub const DEFAULT: &'static str = "default";

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for PoolName {
    type Error = PoolNameError;

    fn try_from(text: &str) -> Result<Self, PoolNameError> {
        let fits = (1..=ListenerName::MAX).contains(&text.len());
        if fits && text.chars().all(|c| (' '..='~').contains(&c) && c != ':') {
            Ok(Self(text.to_owned()))
        } else {
            Err(PoolNameError(text.chars().take(40).collect()))
        }
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_systemd_takes() {
        assert!(ListenerName::try_from("web").is_ok());
        assert!(ListenerName::try_from("a b/c@d").is_ok());
        assert_eq!(ListenerName::try_from(""), Err(NameError::Empty));
        assert_eq!(ListenerName::try_from("a:b"), Err(NameError::Character(':')));
        assert_eq!(ListenerName::try_from("a\n"), Err(NameError::Character('\n')));
        assert_eq!(ListenerName::try_from("ü"), Err(NameError::Character('ü')));
        assert_eq!(ListenerName::try_from("x".repeat(256).as_str()), Err(NameError::TooLong(256)));
        assert_eq!(ListenerName::try_from("portbroker.1"), Err(NameError::Reserved));
    }

    #[test]
    fn pools_are_named_as_listeners_are() {
        assert_eq!(PoolName::try_from("egress").unwrap().as_str(), "egress");
        for no in ["", "a:b", "a\n", "ü", "x".repeat(256).as_str()] {
            assert!(PoolName::try_from(no).is_err(), "{no:?}");
        }
    }
}
