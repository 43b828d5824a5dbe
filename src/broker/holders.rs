//! Who holds listeners, and the end of each holder.

use super::Broker;
use super::command::{Acquire, Refusal};
use super::gate::Held as Counted;
use super::gate::whose_lines;
use crate::kernel::holder::{HolderClaim, HolderWatch, Presence, shown_process};
use crate::limits::Who;
use crate::listeners::{HolderId, Released, SocketId};
use crate::model::ListenerName;
use crate::state::{self, Held, HeldSocket, HolderRecord};
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// Whoever holds what no file tells of. Its listeners stay open for it, whatever they are to do while they are idle:
/// nobody can be asked whether it lives, and to refuse the clients of a service that does is worse than to queue those
/// of one that does not. It ends when somebody else takes the listener.
pub(super) const UNKNOWN: HolderId = HolderId(0);

impl From<&HolderClaim> for HolderRecord {
    fn from(claim: &HolderClaim) -> Self {
        match claim {
            HolderClaim::Process { pid, start, .. } => Self::Process { pid: *pid, start: *start },
            HolderClaim::Unit { unit, cgroup, life } => {
                Self::Unit { unit: unit.to_string(), cgroup: cgroup.clone(), life: *life }
            }
        }
    }
}

/// A holder that is watched.
#[derive(Debug)]
pub(super) struct Holder {
    /// What it was called when it came.
    shown: String,
    /// On whose behalf its lines of the log are; `None`: an earlier daemon's knowledge.
    who: Option<Who>,
    /// How it is written down, to be found again by the next daemon.
    pub(super) record: HolderRecord,
    /// It is counted, where it is a process that came to this daemon.
    _counted: Option<Counted>,
}

impl Holder {
    /// How it is shown: `mariadb.service`, `nginx[812]`. A process is called what it is called now:
    /// `portbroker exec` became another program since it asked.
    pub(super) fn shown(&self) -> String {
        match &self.record {
            HolderRecord::Process { pid, start } => shown_process(*pid, *start),
            HolderRecord::Unit { .. } | HolderRecord::Unknown => None,
        }
        .unwrap_or_else(|| self.shown.clone())
    }
}

/// What a hold has changed.
pub(super) struct Hold {
    holder: HolderId,
    is_unit: bool,
    new: bool,
    /// The sockets that it did not have before.
    newly: Vec<(ListenerName, Vec<SocketId>)>,
}

impl Hold {
    pub(super) fn holder(&self) -> HolderId {
        self.holder
    }

    /// Whether a unit holds, as opposed to a process.
    pub(super) fn is_unit(&self) -> bool {
        self.is_unit
    }
}

/// All holders.
pub(super) struct Holders {
    /// Who has sockets that are stored and could not be taken over: for the next daemon.
    left: Vec<Held>,
    watch: HolderWatch,
    by_id: HashMap<HolderId, Holder>,
    by_record: HashMap<HolderRecord, HolderId>,
    last_id: u64,
}

impl Holders {
    pub(super) fn new(watch: HolderWatch) -> Self {
        Self { left: Vec::new(), watch, by_id: HashMap::new(), by_record: HashMap::new(), last_id: 0 }
    }

    /// The next holder that is gone.
    pub(super) async fn gone(&mut self) -> u64 {
        self.watch.next().await
    }

    /// Sockets that an earlier daemon's holder has and this daemon has not, to be written down as they were.
    pub(super) fn leave(&mut self, holder: &HolderRecord, sockets: Vec<HeldSocket>) {
        if !sockets.is_empty() {
            let (holder, sockets) = (holder.clone(), Some(sockets));
            self.left.push(Held { holder, listeners: Vec::new(), sockets });
        }
    }

    /// Looks at units whose end may not have been told.
    pub(super) fn look_again(&mut self) {
        self.watch.look_again();
    }

    /// Whether the end of units cannot be seen now.
    pub(super) fn is_blind(&self) -> bool {
        self.watch.is_blind()
    }

    pub(super) fn get(&self, id: HolderId) -> Option<&Holder> {
        self.by_id.get(&id)
    }

    /// Watches a holder, unless it is watched already. `None`: it is gone.
    pub(super) fn admit(&mut self, claim: HolderClaim) -> std::io::Result<Option<(HolderId, bool)>> {
        let record = HolderRecord::from(&claim);
        if let Some(&id) = self.by_record.get(&record)
            && self.watch.presence(id.0) == Presence::There
        {
            return Ok(Some((id, false)));
        }
        self.last_id += 1;
        let id = HolderId(self.last_id);
        let shown = claim.to_string();
        if self.watch.add(id.0, claim)? == Presence::Gone {
            return Ok(None);
        }
        self.by_id.insert(id, Holder { shown, who: None, record: record.clone(), _counted: None });
        self.by_record.insert(record, id);
        Ok(Some((id, true)))
    }

    /// Whether a holder is watched already.
    fn knows(&self, claim: &HolderClaim) -> bool {
        self.by_record.contains_key(&HolderRecord::from(claim))
    }

    /// It came by a call of this one's.
    fn is_of(&mut self, id: HolderId, who: Who) {
        if let Some(holder) = self.by_id.get_mut(&id) {
            holder.who = Some(who);
        }
    }

    fn count(&mut self, id: HolderId, counted: Option<Counted>) {
        if let Some(holder) = self.by_id.get_mut(&id) {
            holder._counted = counted;
        }
    }

    /// From now on there may be one whom no file tells of.
    pub(super) fn admit_unknown(&mut self) -> HolderId {
        let record = HolderRecord::Unknown;
        let unknown = || Holder { shown: "unknown".to_owned(), who: None, record, _counted: None };
        self.by_id.entry(UNKNOWN).or_insert_with(unknown);
        UNKNOWN
    }

    pub(super) fn is_gone(&self, id: HolderId) -> bool {
        id != UNKNOWN && self.watch.presence(id.0) == Presence::Gone
    }

    pub(super) fn remove(&mut self, id: HolderId) -> Option<Holder> {
        self.watch.remove(id.0);
        let holder = self.by_id.remove(&id)?;
        if self.by_record.get(&holder.record) == Some(&id) {
            self.by_record.remove(&holder.record);
        }
        Some(holder)
    }
}

impl Broker {
    /// Notes who holds the listeners from now on.
    pub(super) fn hold(&mut self, names: &[ListenerName], request: &Acquire) -> Result<Hold, Refusal> {
        let vanished = || Refusal::BadArgument("the caller is gone".to_owned());
        let claim = request.holder.clone().ok_or_else(vanished)?;
        let is_unit = matches!(claim, HolderClaim::Unit { .. });
        // A unit is watched by its cgroup, and takes no descriptor.
        let counted = if is_unit || self.holders.knows(&claim) {
            None
        } else {
            Some(self.gate.holder(&request.caller)?)
        };
        let (id, new) = match self.holders.admit(claim) {
            Ok(Some(admitted)) => admitted,
            Ok(None) => return Err(vanished()),
            Err(error) => {
                let text = format!("the daemon cannot watch its holder: {error}");
                return Err(Refusal::NotReady(
                    names.first().map(ToString::to_string).unwrap_or_default(),
                    text,
                ));
            }
        };
        self.holders.is_of(id, whose_lines(&request.caller));
        if new {
            self.holders.count(id, counted);
        }
        let now = Instant::now();
        let mut newly = Vec::new();
        for name in names {
            let sockets = self.table.hold(name, id, now);
            if !sockets.is_empty() {
                self.changed.insert(name.clone());
                newly.push((name.clone(), sockets));
            }
        }
        if new || !newly.is_empty() {
            self.write_holders();
        }
        Ok(Hold { holder: id, is_unit, new, newly })
    }

    /// On whose behalf what is said of these is.
    pub(super) fn whose(&self, holders: &BTreeSet<HolderId>) -> Option<Who> {
        holders.iter().find_map(|id| self.holders.get(*id)?.who.clone())
    }

    /// These were handed over to somebody who is known: nobody else is presumed to hold them.
    pub(super) fn unknown_ends(&mut self, names: &[ListenerName]) {
        if self.table.held_by(UNKNOWN).next().is_none() {
            return;
        }
        for name in names {
            self.table.leave_drains(name, UNKNOWN);
            let sockets = self.table.sockets_of(UNKNOWN).filter(|(_, of)| *of == name).map(|(id, _)| id);
            let sockets: Vec<SocketId> = sockets.collect();
            self.table.release_some(name, UNKNOWN, &sockets, Instant::now());
        }
        self.settle_drains();
        self.write_holders();
    }

    /// Undoes a hold whose hand-over failed.
    pub(super) fn unhold(&mut self, hold: &Hold) {
        if hold.new {
            return self.forget_holder(hold.holder);
        }
        for (name, sockets) in &hold.newly {
            self.table.release_some(name, hold.holder, sockets, Instant::now());
            self.changed.insert(name.clone());
            self.act_on(name, true);
        }
        self.write_holders();
    }

    /// The end of a holder may be seen only after the next one has come: its listeners are to be mended before
    /// they are handed over again.
    pub(super) fn forget_gone(&mut self, names: &[ListenerName]) {
        let holders = names.iter().filter_map(|name| self.table.get(name.as_str()).ok());
        let ids: BTreeSet<HolderId> =
            holders.flat_map(|(_, listener)| listener.holders.iter().copied()).collect();
        for id in ids {
            if self.holders.is_gone(id) {
                self.forget_holder(id);
            }
        }
    }

    /// A holder is gone, or never got what it asked for.
    pub(super) fn forget_holder(&mut self, id: HolderId) {
        let Some(holder) = self.holders.remove(id) else { return };
        let now = Instant::now();
        let held: Vec<ListenerName> = self.table.held_by(id).cloned().collect();
        let Released { free, ended } = self.table.release(id, now);
        let (who, holder) = (holder.who.clone(), holder.shown());
        for name in &free {
            let is_told = who.as_ref().is_none_or(|who| self.gate.has_a_line(who, "released"));
            if is_told {
                tracing::info!(event = "released", listener = %name, holder, "{holder}, which held {name}, is gone");
            }
            self.mend(name, who.as_ref());
            self.act_on(name, true);
        }
        self.settle_drains();
        self.end_lingering(ended, &holder);
        self.changed.extend(held);
        self.write_holders();
    }

    pub(super) fn holder_gone(&mut self, id: u64) {
        self.forget_holder(HolderId(id));
    }

    /// Writes down who holds what, for the daemon that comes after a crash.
    pub(super) fn write_holders(&self) {
        let entries = self.holders.by_id.iter().filter_map(|(id, holder)| {
            let listeners: Vec<String> = self.table.held_by(*id).map(ToString::to_string).collect();
            let socket = |(id, name): (SocketId, &ListenerName)| {
                let inode = self.sockets.get(&id)?.inode().ok()?;
                Some(HeldSocket { inode, listener: name.to_string() })
            };
            let sockets: Vec<HeldSocket> = self.table.sockets_of(*id).filter_map(socket).collect();
            let holds = !(listeners.is_empty() && sockets.is_empty());
            let (holder, sockets) = (holder.record.clone(), Some(sockets));
            holds.then_some(Held { holder, listeners, sockets })
        });
        let holders = state::Holders::new(entries.collect());
        self.records.write_holders(&holders.with(&self.holders.left));
    }
}
