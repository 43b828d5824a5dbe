//! The leases as they are written down, for the daemon after this one.
//!
//! What happened to leases is in the journal before anybody hears of it. Where it cannot be written that is said, and
//! leases go on: a daemon that is killed meanwhile forgets them, and its successor finds the mark of that and asks the
//! kernel instead.

use crate::broker::effects::with_causes;
use crate::kernel::journal::{Journal, JournalError, Lost, Opened, Unreadable};
use crate::leases::{Event, Ledger};
use crate::model::{LeaseId, SessionId};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long to wait after the journal could not be written.
const RETRY: Duration = Duration::from_secs(5);

/// The journal, or what became of it.
pub(super) struct Store {
    path: PathBuf,
    journal: Option<Journal>,
    fault: Option<String>,
    /// Something happened that is not written down; when to try again.
    behind: Option<Instant>,
    /// All is written down, but the file is longer than it need be: when to try again to shorten it.
    shorten_at: Option<Instant>,
    /// Somebody removed the file.
    was_removed: bool,
    forgot: bool,
}

impl Store {
    /// Opens it, and reads what an earlier daemon wrote.
    pub(super) fn open(runtime_directory: &Path) -> (Self, Vec<Event>) {
        let path: PathBuf = runtime_directory.join("leases");
        let mut store = Self {
            path: path.clone(),
            journal: None,
            fault: None,
            behind: None,
            shorten_at: None,
            was_removed: false,
            forgot: false,
        };
        let mut events = Vec::new();
        // Sessions have their lifelines beside it: without them there were no leases.
        let lifelines = || std::fs::read_dir(runtime_directory.join("sessions"));
        let is_missing = !path.exists() && lifelines().is_ok_and(|mut found| found.next().is_some());
        match Journal::open(&path) {
            Ok(Opened { mut journal, records, lost, has_gap }) => {
                let has_gap = has_gap || is_missing;
                if is_missing && let Err(error) = journal.mark_lasting_gap() {
                    tracing::error!(event = "journal", %error, "{}", with_causes(&error));
                }
                store.journal = Some(journal);
                let events_of = |record: &Vec<u8>| Event::all_of(record);
                match records.iter().map(events_of).collect::<Result<Vec<_>, _>>() {
                    Ok(found) => events = found.into_iter().flatten().collect(),
                    Err(error) => {
                        store.forgot = true;
                        let moved = path.with_extension("unreadable");
                        // A copy: the file itself is the journal's, and is written anew with the next event.
                        let _ = std::fs::copy(&path, &moved);
                        store.behind = Some(Instant::now());
                        tracing::error!(event = "journal", %error, "{} cannot be understood and was copied to {}; no lease of before is known: {error}", path.display(), moved.display());
                    }
                }
                if let Some(lost) = lost {
                    store.forgot |= store.say(&lost);
                }
                if store.forgot {
                    events = vec![numbered_anew()];
                } else if has_gap {
                    store.forgot = true;
                    events.push(numbered_anew());
                    tracing::error!(
                        event = "journal",
                        "{} has not all leases of before: what the kernel has in use is not leased",
                        path.display()
                    );
                }
            }
            Err(error) => {
                // What it says is not known, as if it could not be understood.
                store.forgot = true;
                events = vec![numbered_anew()];
                store.behind = Instant::now().checked_add(RETRY);
                store.fail(&with_causes(&error));
            }
        }
        // As long as the kernel runs there may be connections of leases that nobody knows of.
        store.forgot |= path.with_extension("unreadable").exists();
        (store, events)
    }

    /// Tells what was lost; whether it was leases of this boot.
    fn say(&self, lost: &Lost) -> bool {
        match lost {
            Lost::All { moved, why: Unreadable::OtherBoot, .. } => {
                tracing::info!(event = "journal", "{lost}");
                let _ = std::fs::remove_file(moved);
                false
            }
            Lost::All { .. } => {
                tracing::error!(event = "journal", "{lost}");
                true
            }
            Lost::Tail { .. } => {
                tracing::warn!(event = "journal", "{lost}");
                false
            }
            // What comes before is known: it is a gap.
            Lost::Damaged { .. } => {
                tracing::error!(event = "journal", "{lost}");
                false
            }
        }
    }

    /// Whether there may be connections of leases that nobody knows of.
    pub(super) fn forgot(&self) -> bool {
        self.forgot
    }

    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.behind.into_iter().chain(self.shorten_at).min()
    }

    /// Whether somebody removed the file since this was asked last.
    pub(super) fn take_was_removed(&mut self) -> bool {
        std::mem::take(&mut self.was_removed)
    }

    /// Nothing is left of what was written: all is to be written again.
    pub(super) fn begin_anew(&mut self) {
        self.behind = Some(Instant::now());
    }

    /// Writes down what happened since the last time, with one write.
    pub(super) fn keep(&mut self, ledger: &mut Ledger, now: Instant) {
        let events = ledger.events();
        if self.journal.is_none() && self.behind.is_some_and(|again| again <= now) {
            // What an earlier daemon left there is not known to anybody any more.
            match Journal::open(&self.path) {
                Ok(opened) => self.journal = Some(opened.journal),
                Err(error) => {
                    self.behind = now.checked_add(RETRY);
                    self.fail(&with_causes(&error));
                }
            }
        }
        let Some(journal) = &mut self.journal else { return };
        if self.behind.is_none() && !events.is_empty() && journal.is_gone() {
            tracing::error!(event = "journal", "{} was removed, and is written anew", self.path.display());
            self.behind = Some(now);
            self.was_removed = true;
        }
        let done = if let Some(again) = self.behind {
            if again > now {
                return;
            }
            // It may have gone with the file.
            let _ = self.path.parent().map(std::fs::create_dir_all);
            journal.rewrite(ledger.snapshot().map(|event| record_of([&event])))
        } else if !events.is_empty() {
            journal.append(&record_of(&events))
        } else {
            Ok(())
        };
        self.note(done, now);
        self.shorten(ledger, now);
    }

    /// Replaces a file that has become long by one of what still counts.
    fn shorten(&mut self, ledger: &Ledger, now: Instant) {
        let Some(journal) = &mut self.journal else { return };
        let rests = self.shorten_at.is_some_and(|at| at > now);
        if self.behind.is_some() || rests || !journal.is_due_for_rewrite() {
            return;
        }
        let done = journal.rewrite(ledger.snapshot().map(|event| record_of([&event])));
        self.shorten_at = None;
        if let Err(error) = &done
            && !journal.is_spoilt()
        {
            // What happened is written down nevertheless.
            self.shorten_at = now.checked_add(RETRY);
            let text = format!("the journal of leases grows: {}", with_causes(error));
            if self.fault.as_ref() != Some(&text) {
                tracing::error!(event = "journal", "{text}");
            }
            self.fault = Some(text);
            return;
        }
        self.note(done, now);
    }

    fn note(&mut self, done: Result<(), JournalError>, now: Instant) {
        let Some(journal) = &mut self.journal else { return };
        match done {
            Ok(()) => {
                self.behind = None;
                if self.shorten_at.is_none() && self.fault.take().is_some() {
                    tracing::info!(event = "journal", "leases are written down again");
                }
            }
            Err(error) => {
                self.behind = now.checked_add(RETRY);
                if let Err(unmarked) = journal.mark_gap() {
                    tracing::error!(event = "journal", error = %unmarked, "{}", with_causes(&unmarked));
                }
                self.fail(&with_causes(&error));
            }
        }
    }

    fn fail(&mut self, error: &str) {
        let text =
            format!("leases are not written down, and would be forgotten if the daemon were killed: {error}");
        if self.fault.as_ref() != Some(&text) {
            tracing::error!(event = "journal", error, "{text}");
        }
        self.fault = Some(text);
    }
}

/// Numbers that nobody has: clients of a daemon whose journal was lost still know theirs.
fn numbered_anew() -> Event {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    let number = u64::try_from(since).unwrap_or(1);
    Event::Numbered { session: SessionId(number), lease: LeaseId(number) }
}

/// These as one record.
fn record_of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<u8> {
    let mut record = Vec::new();
    for event in events {
        if let Err(error) = event.append_to(&mut record) {
            tracing::error!(event = "journal", %error, "an event cannot be written down: {error}");
        }
    }
    record
}
