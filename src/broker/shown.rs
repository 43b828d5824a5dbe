//! What there is to show: of the broker, of its listeners and of what waits in them.

use super::Broker;
use super::command::ObjectKind;
use super::effects::inode_of;
use super::view::{self, ListenerView, QueueView, SocketView, Summary, View, Waiting};
use crate::kernel::socket::Queue;
use crate::listeners::{HolderId, Listener, SocketId};
use crate::model::ListenerName;
use crate::state::HolderRecord;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What was shown last.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// The listeners that are configured, by name.
    listeners: Vec<Arc<ListenerView>>,
    /// All, where it is the same still.
    whole: Option<Arc<View>>,
    /// Which of the listeners may not be as they were shown.
    unsure: BTreeSet<ListenerName>,
}

impl Shown {
    /// A listener is not what it was.
    pub(super) fn changed(&mut self, name: &ListenerName) {
        if !self.listeners.is_empty() {
            self.unsure.insert(name.clone());
        }
        self.whole = None;
    }

    /// Nothing is known any more, and there may be other listeners. Who keeps nothing needs no memory for it.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// What a listener is now.
    fn put(&mut self, view: ListenerView) {
        let at = self.listeners.binary_search_by(|there| there.name.cmp(&view.name));
        if let Some(there) = at.ok().and_then(|at| self.listeners.get_mut(at)) {
            *there = Arc::new(view);
        }
    }
}

impl Broker {
    /// How the broker is.
    pub(super) fn summary(&self) -> Summary {
        let limits = self.gate.usage(self.queue.longest());
        Summary {
            faults: self.faults(),
            notes: self.unmet.notes(&self.table),
            learned: self.learning.count(),
            limits,
            takeover: self.comparison.view(),
        }
    }

    /// All objects, those that are configured first. What did not change is not made again, nor looked for: of ten
    /// thousand listeners that would take the time of a thousand hand-overs.
    pub(super) fn view(&mut self) -> Arc<View> {
        let pools = self.outbound.views();
        if let Some(view) = self.shown.whole.as_ref().filter(|view| view.pools == pools) {
            return Arc::clone(view);
        }
        let mut shown = std::mem::take(&mut self.shown);
        if shown.listeners.is_empty() {
            let views = self.table.iter().map(|(name, listener)| Arc::new(self.view_of(name, listener)));
            shown.listeners = views.collect();
            shown.unsure = self.table.iter().map(|(name, _)| name.clone()).collect();
        } else {
            let unsure = shown.unsure.iter().filter_map(|name| self.table.get(name.as_str()).ok());
            let views: Vec<ListenerView> =
                unsure.map(|(name, listener)| self.view_of(name, listener)).collect();
            views.into_iter().for_each(|view| shown.put(view));
        }
        shown.unsure.retain(|name| {
            self.table.get(name.as_str()).is_ok_and(|(_, listener)| !self.stays(name, listener))
        });
        let mut listeners = shown.listeners.clone();
        let others = self.table.lingering().names().filter(|name| self.table.get(name.as_str()).is_err());
        listeners.extend(others.filter_map(|name| self.lingering_view(name.as_str())).map(Arc::new));
        let stays = shown.unsure.is_empty() && listeners.len() == shown.listeners.len();
        let view = Arc::new(View { listeners, pools });
        shown.whole = stays.then(|| Arc::clone(&view));
        self.shown = shown;
        view
    }

    /// Whether what is shown of a listener is the same until it changes. Of a process that holds it the name is shown,
    /// which is another one when it runs another program, and nobody tells us.
    fn stays(&self, name: &ListenerName, listener: &Listener) -> bool {
        let is_unit = |holder: &HolderId| {
            self.holders.get(*holder).is_some_and(|holder| matches!(holder.record, HolderRecord::Unit { .. }))
        };
        listener.holders.iter().all(is_unit) && self.table.lingering().of(name.as_str()).next().is_none()
    }

    pub(super) fn exists(&self, kind: ObjectKind, name: &str) -> bool {
        match kind {
            ObjectKind::Listener => {
                self.table.get(name).is_ok() || self.table.lingering().of(name).next().is_some()
            }
            ObjectKind::Pool => self.outbound.has_pool(name),
        }
    }

    pub(super) fn show(&self, name: &str) -> Option<ListenerView> {
        match self.table.get(name) {
            Ok((name, listener)) => Some(self.view_of(name, listener)),
            Err(_) => self.lingering_view(name),
        }
    }

    fn draining_views(&self, listener: &Listener) -> impl Iterator<Item = SocketView> {
        let drains = self.table.draining().iter();
        let drains = drains.filter(|(_, drain)| listener.config.endpoints.contains(&drain.endpoint));
        drains.map(|(id, drain)| SocketView {
            endpoint: drain.endpoint.to_string(),
            state: "draining",
            inode: self.sockets.get(&id).map_or(0, inode_of),
            error: String::new(),
        })
    }

    /// What waits in the sockets of a listener, those that are drained included.
    pub(super) fn queues(&self, name: &str) -> Option<Vec<QueueView>> {
        let mut ids: Vec<SocketId> = self.table.lingering().of(name).map(|(id, _)| id).collect();
        match self.table.get(name) {
            Ok((_, listener)) => {
                let drains = self.table.draining().iter();
                let of_this = drains.filter(|(_, d)| listener.config.endpoints.contains(&d.endpoint));
                ids.extend(listener.slots.iter().map(|slot| slot.id).chain(of_this.map(|(id, _)| id)));
            }
            Err(_) if ids.is_empty() => return None,
            Err(_) => {}
        }
        let queue = |id: SocketId| {
            let socket = self.sockets.get(&id)?;
            let queue = socket.queue().ok()?;
            let Queue { waiting, limit, overflows } = queue;
            Some(QueueView { inode: inode_of(socket), waiting, limit, overflows })
        };
        Some(ids.into_iter().filter_map(queue).collect())
    }

    /// What waits anywhere, of at most so many listeners after one, by name: to look at a socket takes some system calls,
    /// and others wait meanwhile. Those that only linger come beside the last ones that are configured.
    pub(super) fn what_waits(&self, after: &str, most: usize) -> Waiting {
        let mut names: Vec<&str> =
            self.table.iter().map(|(name, _)| name.as_str()).skip_while(|name| *name <= after).collect();
        let next = (names.len() > most).then(|| names.get(most.saturating_sub(1))).flatten();
        let next = next.map(|name| (*name).to_owned());
        names.truncate(most);
        if next.is_none() {
            let lingering = self.table.lingering().names().map(ListenerName::as_str);
            names.extend(lingering.filter(|name| self.table.get(name).is_err()).take(most));
        }
        let has_something = |queue: &QueueView| queue.waiting > 0 || queue.overflows.is_some_and(|n| n > 0);
        let of_one = |name: &str| {
            let queues = self.queues(name).unwrap_or_default().into_iter().filter(has_something);
            queues.map(|queue| (name.to_owned(), queue)).collect::<Vec<_>>()
        };
        Waiting { sockets: names.into_iter().flat_map(of_one).collect(), next }
    }

    fn view_of(&self, name: &ListenerName, listener: &Listener) -> ListenerView {
        let sockets: Vec<SocketView> = listener
            .slots
            .iter()
            .map(|slot| SocketView {
                endpoint: slot.endpoint.to_string(),
                // What waits for the next holder need not be bound: its address is held by another socket.
                state: if slot.waits() { "reserved" } else { view::state_word(slot.state) },
                inode: self.sockets.get(&slot.id).map_or(0, inode_of),
                error: slot.error().or_else(|| self.unmet.failure(slot.id)).unwrap_or_default().to_owned(),
            })
            .chain(self.draining_views(listener))
            .chain(self.lingering_views(name.as_str()))
            .collect();
        let mut holders: Vec<String> = self.shown_holders(&listener.holders).collect();
        holders.extend(self.lingering_holders(name.as_str(), &listener.holders));
        ListenerView {
            name: name.to_string(),
            state: view::worst(&sockets),
            sockets,
            holders,
            notes: self.unmet.notes_of(listener),
            idle: listener.config.idle.to_string(),
            activate: listener.config.activate.as_ref().map(ToString::to_string).unwrap_or_default(),
            activation_error: self.activations.error(name).unwrap_or_default().to_owned(),
            allow: listener.config.allow.iter().map(ToString::to_string).collect(),
            origin: view::origin_text(&listener.config.origin),
        }
    }
}
