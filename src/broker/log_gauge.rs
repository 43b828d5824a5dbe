//! How the log is, as whoever writes it and the broker share it.

use crate::config::Limit;
use crate::limits::LogUse;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What waits in the log's buffer and what was lost; and how much may wait.
#[derive(Debug, Clone)]
pub struct LogGauge(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: AtomicU64,
    waiting: AtomicU64,
    lost: AtomicU64,
}

impl Default for LogGauge {
    fn default() -> Self {
        let most = AtomicU64::new(Limit::LogBuffer.default_value());
        Self(Arc::new(Inner { most, waiting: AtomicU64::default(), lost: AtomicU64::default() }))
    }
}

impl LogGauge {
    /// How many bytes may wait.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.0.most.load(Ordering::Relaxed)
    }

    pub(super) fn set_most(&self, bytes: u64) {
        self.0.most.store(bytes, Ordering::Relaxed);
    }

    /// So many bytes wait.
    pub fn waits(&self, bytes: u64) {
        self.0.waiting.store(bytes, Ordering::Relaxed);
    }

    /// One more line is lost.
    pub fn lost_one(&self) {
        self.0.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// How many lines were lost since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Whether lines are written when they are made.
    pub(super) fn flows(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) == 0
    }

    pub(super) fn usage(&self) -> LogUse {
        LogUse { waiting: self.0.waiting.load(Ordering::Relaxed), lost: self.lost() }
    }
}
