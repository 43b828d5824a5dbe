//! Which addresses the host has: looked at when they change, and again where that could not be seen.

use crate::broker::until;
use crate::kernel::addresses::{AddressWatch, present};
use crate::model::Present;
use std::io;
use std::time::{Duration, Instant};

/// How long to wait after the kernel could not be asked.
const RETRY: Duration = Duration::from_secs(5);

/// The watch, or what became of it.
pub(super) struct Addresses {
    watch: Option<AddressWatch>,
    /// After a failure: when to try again.
    again: Option<Instant>,
    fault: Option<String>,
}

impl Addresses {
    /// Watches from now on, where that can be. Must be called within a tokio runtime.
    pub(super) fn new() -> Self {
        let mut addresses = Self { watch: None, again: None, fault: None };
        addresses.watch_again();
        addresses
    }

    /// Why it is not known which there are, or will be, if so.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Returns when they are to be looked at. Nothing is lost where the future is dropped.
    pub(super) async fn next(&mut self) {
        let Self { watch, again, .. } = self;
        let changed = async {
            match watch {
                Some(watch) => watch.changed().await,
                None => std::future::pending().await,
            }
        };
        let lost = tokio::select! {
            changed = changed => changed.err(),
            () = until(*again) => None,
        };
        if let Some(error) = lost {
            // Another may do better. What changed meanwhile is seen by the look that follows.
            self.watch = None;
            self.failed("addresses that come and go are not seen", &error);
        }
    }

    /// Looks; `None` where the kernel does not say, and then what was known before is the best that there is.
    pub(super) fn look(&mut self) -> Option<Present> {
        let had_fault = self.fault.is_some();
        let watched = self.watch.is_some() || self.watch_again();
        match present() {
            Ok(present) => {
                if watched {
                    (self.fault, self.again) = (None, None);
                    if had_fault {
                        tracing::info!(event = "addresses", "the addresses of this host are seen again");
                    }
                }
                Some(present)
            }
            Err(error) => {
                self.failed("cannot see which addresses this host has", &error);
                None
            }
        }
    }

    fn watch_again(&mut self) -> bool {
        match AddressWatch::new() {
            Ok(watch) => self.watch = Some(watch),
            Err(error) => self.failed("addresses that come and go are not seen", &error),
        }
        self.watch.is_some()
    }

    fn failed(&mut self, what: &str, error: &io::Error) {
        let text =
            format!("{what}, so pools and listeners go by what was known before: {error}; it is tried again");
        if self.fault.as_ref() != Some(&text) {
            tracing::error!(event = "addresses", %error, "{text}");
        }
        self.fault = Some(text);
        self.again = Instant::now().checked_add(RETRY);
    }
}
