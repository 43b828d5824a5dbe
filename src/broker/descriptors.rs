//! Whether descriptors run out: said when it begins, and put right when it ends.
//!
//! What could not be opened meanwhile is tried again by whoever wanted it; here is only seen that there is a shortage,
//! so that it is known why.

use super::Broker;
use crate::kernel::descriptors::shortage;
use crate::model::ListenerName;
use std::time::{Duration, Instant};

/// How often it is looked at while things happen, and how soon its end is seen.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    looked: Option<Instant>,
    fault: Option<String>,
}

impl Descriptors {
    /// What there is too little of, if so.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// When to look whether it is over.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.looked.filter(|_| self.fault.is_some())?.checked_add(LOOK)
    }
}

impl Broker {
    /// Looks, not more often than makes sense.
    pub(super) fn glance_at_descriptors(&mut self) {
        let now = Instant::now();
        if self.descriptors.looked.is_none_or(|looked| now.duration_since(looked) >= LOOK) {
            self.look_at_descriptors();
        }
    }

    /// Looks whether there are descriptors left.
    pub(super) fn look_at_descriptors(&mut self) {
        self.descriptors.looked = Some(Instant::now());
        let fault = shortage().map(|shortage| shortage.to_string());
        if fault == self.descriptors.fault {
            return;
        }
        self.touched = true;
        match (&fault, &self.descriptors.fault) {
            (Some(text), _) => tracing::error!(event = "descriptors", "{text}"),
            (None, _) => tracing::info!(event = "descriptors", "there are enough descriptors again"),
        }
        let is_over = fault.is_none();
        self.descriptors.fault = fault;
        if is_over {
            self.act_on_faulty();
        }
    }

    /// What is not as configured need not wait for its next try: why it failed may be gone.
    pub(super) fn act_on_faulty(&mut self) {
        let mut names: Vec<ListenerName> =
            self.faulty.iter().filter_map(|id| Some(self.table.owner(*id)?.0.clone())).collect();
        names.sort();
        names.dedup();
        names.iter().for_each(|name| self.act_on(name, true));
    }
}
