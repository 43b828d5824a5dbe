//! Handing sockets over: who may, what is bound, who holds it from then on.

use super::Broker;
use super::command::{Acquire, Handed, NamedSocket, Refusal};
use super::gate::{Gate, Held, whose_lines};
use super::holders::Hold;
use crate::kernel::descriptors::{Purpose, spared};
use crate::listeners::{SocketId, Target};
use crate::model::ListenerName;
use crate::policy::{Caller, Decision, may_acquire};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Instant;

impl Broker {
    /// All or nothing: either every socket asked for, each listening, or a refusal and nothing changed hands.
    pub(super) fn acquire(&mut self, request: Acquire) -> Result<Handed, Refusal> {
        let outcome = self.try_acquire(&request);
        if let Ok(handed) = &outcome {
            self.tally.count(|counters| counters.handed_over(handed.sockets.len()));
        }
        log(&request, &outcome, &self.gate);
        outcome
    }

    fn try_acquire(&mut self, request: &Acquire) -> Result<Handed, Refusal> {
        let names = self.permitted(request)?;
        let wanted: usize = names.iter().map(|name| self.sockets_of(name).len()).sum();
        if wanted > request.limit {
            return Err(Refusal::TooManySockets(too_many(wanted, request.limit)));
        }
        self.see_room();
        let held = self.gate.descriptors(&request.caller, wanted)?;
        self.forget_gone(&names);
        names.iter().for_each(|name| self.look_at(name));
        let now = Instant::now();
        let opened: Vec<_> = names.iter().map(|name| (name, self.table.open(name, now))).collect();
        let outcome = self.hand_over_all(&names, request);
        if outcome.is_err() {
            for (name, opened) in opened {
                self.table.wait_again(name, &opened, Instant::now());
            }
        }
        let (sockets, of_old) = outcome?;
        Ok(Handed { sockets, held: std::iter::once(held).chain(of_old).collect() })
    }

    fn hand_over_all(
        &mut self,
        names: &[ListenerName],
        request: &Acquire,
    ) -> Result<(Vec<NamedSocket>, Option<Held>), Refusal> {
        for name in names {
            // A port that was taken a moment ago may be free by now: its service was just stopped.
            self.act_on(name, true);
            self.ready(name)?;
        }
        let hold = self.hold(names, request)?;
        let current: Result<Vec<Vec<NamedSocket>>, Refusal> = names
            .iter()
            .map(|name| {
                self.act_on(name, true);
                self.hand_over(name)
            })
            .collect();
        let handed = current.map(|current| self.with_old(names, current, &hold, request));
        // Before it is anybody's: a crash must not take it from its holder.
        self.keep_stored();
        match &handed {
            Ok(_) => {
                self.note_deposit(request);
                self.unknown_ends(names);
                if hold.is_unit() {
                    names.iter().for_each(|name| self.end_drains(name));
                }
            }
            Err(_) => self.unhold(&hold),
        }
        handed
    }

    /// What is handed over, and with each listener as many of its old sockets as the message has room for: all that
    /// was asked for goes before.
    fn with_old(
        &mut self,
        names: &[ListenerName],
        current: Vec<Vec<NamedSocket>>,
        hold: &Hold,
        request: &Acquire,
    ) -> (Vec<NamedSocket>, Option<Held>) {
        let mut room = request.limit.saturating_sub(current.iter().map(Vec::len).sum());
        let there = names.iter().map(|name| self.to_hand_on(name).len()).sum::<usize>().min(room);
        // Without room for them they wait for whoever asks next.
        let held = Some(there).filter(|there| *there > 0 && !hold.is_unit());
        let held = held.and_then(|there| self.gate.descriptors(&request.caller, there).ok());
        if held.is_none() {
            room = 0;
        }
        let mut all = Vec::new();
        for (name, current) in names.iter().zip(current) {
            let old = self.hand_on(name, hold, room);
            room = room.saturating_sub(old.len());
            all.extend(current);
            all.extend(old);
        }
        (all, held)
    }

    /// Old sockets in which something waits for this holder, as many as there is room for. A unit's descriptor store has
    /// room for as many as are configured, and drops what is too many without a word: a unit gets none, and
    /// [`Broker::end_drains`] ends them.
    fn hand_on(&mut self, name: &ListenerName, hold: &Hold, room: usize) -> Vec<NamedSocket> {
        if hold.is_unit() {
            return Vec::new();
        }
        let mut drains = self.to_hand_on(name);
        drains.truncate(room);
        let copy = |id: &SocketId| self.sockets.get(id)?.as_fd().try_clone_to_owned().ok();
        let copies: Vec<NamedSocket> =
            drains.iter().filter_map(copy).map(|copy| (name.clone(), copy)).collect();
        self.handed_on(&drains, hold.holder());
        copies
    }

    /// The names that the caller may take, or the first reason why not.
    fn permitted(&self, request: &Acquire) -> Result<Vec<ListenerName>, Refusal> {
        if request.names.is_empty() {
            return Err(Refusal::BadArgument("name at least one listener".to_owned()));
        }
        if request.names.len() > request.limit {
            return Err(Refusal::TooManySockets(too_many(request.names.len(), request.limit)));
        }
        let mut names: Vec<ListenerName> = Vec::with_capacity(request.names.len());
        for name in &request.names {
            let (name, listener) =
                self.table.get(name).map_err(|unknown| Refusal::NoSuchListener(unknown.0))?;
            if names.contains(name) {
                return Err(Refusal::BadArgument(format!("listener {name:?} is named twice")));
            }
            if let Decision::Denied(reason) = may_acquire(&request.caller, &listener.config.allow) {
                let text = format!("take listener {name:?}: its configuration does not allow you to");
                return Err(Refusal::NotAllowed { action: text, reason });
            }
            names.push(name.clone());
        }
        Ok(names)
    }

    fn sockets_of(&self, name: &ListenerName) -> Vec<SocketId> {
        let listener = self.table.get(name.as_str());
        listener.map(|(_, listener)| listener.slots.iter().map(|slot| slot.id).collect()).unwrap_or_default()
    }

    /// Whether all sockets of a listener are bound.
    fn ready(&self, name: &ListenerName) -> Result<(), Refusal> {
        let Ok((_, listener)) = self.table.get(name.as_str()) else { return Ok(()) };
        match listener.slots.iter().find(|slot| slot.state.is_none()) {
            None => Ok(()),
            Some(slot) => {
                let error = slot.error().unwrap_or("it is not bound yet").to_owned();
                Err(Refusal::NotReady(name.to_string(), error))
            }
        }
    }

    /// Descriptors of a listener's sockets, which must be listening by now.
    fn hand_over(&mut self, name: &ListenerName) -> Result<Vec<NamedSocket>, Refusal> {
        let not_ready = |why: &str| Refusal::NotReady(name.to_string(), why.to_owned());
        for id in self.sockets_of(name) {
            self.prepare_to_give(id);
        }
        let Ok((_, listener)) = self.table.get(name.as_str()) else { return Ok(Vec::new()) };
        let mut handed = Vec::with_capacity(listener.slots.len());
        for slot in &listener.slots {
            if slot.state != Some(Target::Listening) {
                return Err(not_ready(slot.error().unwrap_or("it does not listen")));
            }
            let socket = self.sockets.get(&slot.id).ok_or_else(|| not_ready("its socket is gone"))?;
            let copy: OwnedFd = socket
                .as_fd()
                .try_clone_to_owned()
                .and_then(|copy| spared(copy, Purpose::Administration))
                .map_err(|error| {
                    not_ready(&format!(
                        "no descriptor is left to hand it over by ({error}): raise LimitNOFILE= of the broker"
                    ))
                })?;
            handed.push((name.clone(), copy));
        }
        Ok(handed)
    }
}

fn too_many(wanted: usize, limit: usize) -> String {
    let advice = if limit < portbroker_client::wire::MAX_SOCKETS_PEER_TO_PEER {
        format!("take them over the private socket {}", portbroker_client::wire::SOCKET_PATH)
    } else {
        "take them in several calls".to_owned()
    };
    format!("these are {wanted} sockets, and one message here takes {limit}: {advice}")
}

/// One structured event for every hand-over and every refusal.
fn log(request: &Acquire, outcome: &Result<Handed, Refusal>, gate: &Gate) {
    let Caller { uid, pid, unit, .. } = &request.caller;
    let event = if outcome.is_ok() { "hand-over" } else { "refusal" };
    if !gate.has_a_line(&whose_lines(&request.caller), event) {
        return;
    }
    let unit = unit.as_ref().map_or("", |unit| unit.as_str());
    let listeners = shown(&request.names);
    // Who, in the words of whoever reads the journal: the unit where there is one.
    let who =
        if unit.is_empty() { format!("pid {pid} of user {uid}") } else { format!("{unit} (pid {pid})") };
    match outcome {
        Ok(handed) => {
            let sockets = handed.sockets.len();
            tracing::info!(event, listeners, sockets, uid, pid, unit, "handed {listeners} to {who}");
        }
        Err(refusal) => {
            let reason = match refusal {
                Refusal::NotAllowed { reason, .. } => (*reason).to_owned(),
                other => other.to_string(),
            };
            tracing::warn!(
                event,
                listeners,
                reason,
                uid,
                pid,
                unit,
                "refused {listeners} to {who}: {reason}"
            );
        }
    }
}

/// Names for the log, no more than a line of them, whatever the caller sent.
pub(super) fn shown(names: &[String]) -> String {
    let mut text =
        names.iter().take(8).map(|name| name.escape_default().take(80).collect()).collect::<Vec<String>>();
    if names.len() > text.len() {
        text.push(format!("and {} more", names.len() - text.len()));
    }
    text.join(" ")
}
