//! The options of a socket that say who may bind beside it, socket(7).

/// `SO_REUSEADDR` and `SO_REUSEPORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reuse {
    /// `SO_REUSEADDR`
    pub address: bool,
    /// `SO_REUSEPORT`
    pub port: bool,
}
