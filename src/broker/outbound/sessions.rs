//! Sessions: each lives as long as somebody has the writing end of its lifeline.

use super::Outbound;
use crate::broker::command::Refusal;
use crate::broker::effects::with_causes;
use crate::kernel::lifeline::{self, Lifeline, LifelineError, LifelineWatch};
use crate::leases::Ledger;
use crate::model::{Owner, SessionId};
use crate::policy::Caller;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The reading ends of all lifelines.
pub(super) struct Lifelines {
    directory: PathBuf,
    open: HashMap<SessionId, Lifeline>,
    watch: LifelineWatch,
}

impl Lifelines {
    /// Opens those of an earlier daemon's sessions; what is gone meanwhile is what comes back besides.
    pub(super) fn reopen(
        runtime_directory: &Path,
        sessions: &[SessionId],
    ) -> io::Result<(Self, Vec<SessionId>)> {
        let directory = runtime_directory.join("sessions");
        let mut lifelines = Self { directory, open: HashMap::new(), watch: LifelineWatch::new()? };
        lifelines.prepare();
        let known: std::collections::HashSet<SessionId> = sessions.iter().copied().collect();
        if let Err(error) = lifeline::remove_others(&lifelines.directory, |id| known.contains(&id)) {
            tracing::warn!(%error, "cannot remove lifelines of sessions that are over: {error}");
        }
        let mut gone = Vec::new();
        for &id in sessions {
            let reopened = lifeline::reopen(&lifelines.directory, id).map_err(io::Error::other);
            if let Err(error) = reopened.and_then(|lifeline| lifelines.keep(id, lifeline)) {
                tracing::warn!(session = id.0, %error, "session {id} ended with the daemon before: {error}");
                gone.push(id);
            }
        }
        Ok((lifelines, gone))
    }

    /// Makes the directory. Without it sessions cannot be opened, and whoever tries is told; listeners do not need it.
    pub(super) fn prepare(&self) {
        if let Err(error) = lifeline::prepare(&self.directory) {
            tracing::error!(%error, "cannot make {}: {error}", self.directory.display());
        }
    }

    fn keep(&mut self, id: SessionId, lifeline: Lifeline) -> io::Result<()> {
        self.watch.add(id, &lifeline)?;
        self.open.insert(id, lifeline);
        Ok(())
    }

    fn begin(&mut self, id: SessionId) -> io::Result<OwnedFd> {
        let (writing, reading) = lifeline::open(&self.directory, id)
            .or_else(|error| match error {
                // Somebody removed the directory.
                LifelineError::Io { ref source, .. } if source.kind() == io::ErrorKind::NotFound => {
                    lifeline::prepare(&self.directory).map_err(|_| error)?;
                    lifeline::open(&self.directory, id)
                }
                error => Err(error),
            })
            .map_err(|error| io::Error::other(with_causes(&error)))?;
        self.keep(id, reading)?;
        Ok(writing)
    }

    fn end(&mut self, id: SessionId) {
        if let Some(lifeline) = self.open.remove(&id)
            && let Err(error) = lifeline.remove()
        {
            tracing::warn!(%error, session = id.0, "cannot remove the lifeline of session {id}: {error}");
        }
    }

    /// The next session whose lifeline nobody has any more.
    pub(super) async fn next(&self) -> SessionId {
        self.watch.next().await
    }
}

/// Whose a caller's sessions and leases are: a user's, however often it logs in and whatever uids its containers have,
/// else a unit's.
pub(in crate::broker) fn owner_of(caller: &Caller) -> Owner {
    caller.user_slice.clone().or_else(|| caller.unit.clone()).map_or(Owner::User(caller.uid), Owner::Unit)
}

impl Outbound {
    /// A session, and the writing end of its lifeline.
    pub(super) fn open_session(
        &mut self,
        caller: &Caller,
        now: Instant,
    ) -> Result<(SessionId, OwnedFd), Refusal> {
        let owner = owner_of(caller);
        let shown = owner.to_string();
        let session = self.ledger.open_session(owner, now)?;
        let opened = self.lifelines.begin(session).map_err(|error| {
            self.lifelines.end(session);
            self.ledger.end_session(session, now);
            tracing::error!(%error, "cannot open a session: {error}");
            Refusal::CannotLease(format!("the broker cannot make a lifeline: {error}"))
        });
        self.keep(now);
        if opened.is_ok() {
            let pid = caller.pid;
            tracing::debug!(
                event = "session",
                session = session.0,
                owner = shown,
                pid,
                "session {session} of {shown}"
            );
        }
        opened.map(|lifeline| (session, lifeline))
    }

    /// Whether a session is this caller's: by the unit, or the user where there is none.
    pub(super) fn check_session(&self, caller: &Caller, session: SessionId) -> Result<(), Refusal> {
        match self.ledger.owner_of(session) {
            None => Err(crate::leases::Refused::NoSuchSession(session).into()),
            Some(owner) if *owner == owner_of(caller) => Ok(()),
            Some(_) => Err(Refusal::NotAllowed {
                action: format!("use session {session}: it is another's"),
                reason: "the session is another's",
            }),
        }
    }

    /// The last copy of a lifeline was closed.
    pub(super) fn lifeline_cut(&mut self, session: SessionId, now: Instant) {
        self.lifelines.end(session);
        let Some(owner) = self.ledger.owner_of(session).cloned() else { return };
        let leases = self.ledger.leases_of(session);
        self.tally.count(|counters| counters.ended(leases));
        self.ledger.end_session(session, now);
        self.keep(now);
        self.tell_ended(session, &owner, leases);
        self.see_who_is_gone(now);
    }
}

/// The sessions that an earlier daemon had.
pub(super) fn resumed(ledger: &mut Ledger, runtime_directory: &Path, now: Instant) -> io::Result<Lifelines> {
    let sessions: Vec<SessionId> = ledger.sessions().collect();
    let (lifelines, gone) = Lifelines::reopen(runtime_directory, &sessions)?;
    for session in gone {
        ledger.end_session(session, now);
    }
    Ok(lifelines)
}
