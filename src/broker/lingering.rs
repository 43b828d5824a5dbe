//! Sockets that are no longer configured and that somebody still has: kept, shown, and closed with their last holder.
//!
//! Their ports stay reserved meanwhile, and the sockets stored: a kill of the daemon ends none of them.

use super::effects::inode_of;
use super::view::{ListenerView, SocketView};
use super::{Broker, command::Notice};
use crate::listeners::{HolderId, Linger, SocketId};
use crate::model::{Endpoint, ListenerName};
use std::collections::BTreeSet;

/// The state of such a socket, and of a listener that has no others.
const LINGERING: &str = "lingering";

impl Broker {
    /// Says that a socket lingers, and for whom.
    pub(super) fn say_lingers(&mut self, id: SocketId) {
        let Some(linger) = self.table.lingering().get(id) else { return };
        if self.told.lingers() {
            let (name, endpoint, holder) = (&linger.name, linger.endpoint(), self.names_of(linger.holders()));
            tracing::info!(event = "lingers", listener = %name, %endpoint, holder, "{endpoint} of {name} is no longer configured, and stays until {holder} is gone");
        }
    }

    fn names_of(&self, holders: &BTreeSet<HolderId>) -> String {
        let names: Vec<String> = self.shown_holders(holders).collect();
        names.join(", ")
    }

    /// Holders, as they are shown.
    pub(super) fn shown_holders<'a>(
        &'a self,
        holders: &'a BTreeSet<HolderId>,
    ) -> impl Iterator<Item = String> + 'a {
        holders.iter().filter_map(|id| Some(self.holders.get(*id)?.shown()))
    }

    /// Closes what has lost its last holder.
    pub(super) fn end_lingering(&mut self, ended: Vec<(SocketId, Linger)>, holder: &str) {
        if ended.is_empty() {
            return;
        }
        let mut names = BTreeSet::new();
        let mut endpoints = Vec::new();
        for (id, linger) in ended {
            self.close(id);
            endpoints.push(linger.endpoint().clone());
            names.insert(linger.name);
        }
        for name in names {
            tracing::info!(event = "holder-gone", listener = %name, holder, "{holder}, which had sockets of {name} that are no longer configured, is gone");
            let stays = self.table.get(name.as_str()).is_ok()
                || self.table.lingering().of(name.as_str()).next().is_some();
            if stays {
                self.changed.insert(name);
            } else {
                self.changed.remove(&name);
                let _ = self.notices.send(Notice::Removed(name.to_string()));
            }
        }
        self.retry_in_place_of(&endpoints);
        self.give_ports_back();
        self.touched = true;
    }

    /// What could not be bound because of a socket that is gone now is bound at once.
    fn retry_in_place_of(&mut self, gone: &[Endpoint]) {
        let in_the_way = |id: &SocketId| {
            let slot = self.table.slot(*id).filter(|slot| slot.state.is_none())?;
            let free = gone.iter().any(|endpoint| slot.endpoint.conflicts_with(endpoint));
            if free { Some(self.table.owner(*id)?.0.clone()) } else { None }
        };
        let names: BTreeSet<ListenerName> = self.faulty.iter().filter_map(in_the_way).collect();
        for name in &names {
            self.act_on(name, true);
        }
    }

    /// Whose old socket keeps an endpoint from being bound, in words.
    pub(super) fn lingering_in_the_way(&self, endpoint: &Endpoint) -> Option<String> {
        let mut all = self.table.lingering().iter();
        let (_, linger) = all.find(|(_, linger)| linger.endpoint().conflicts_with(endpoint))?;
        let (old, name, holder) = (linger.endpoint(), &linger.name, self.names_of(linger.holders()));
        Some(format!(
            "{old} of {name}, which is no longer configured, is still held by {holder}; restart that"
        ))
    }

    /// The names under which anything is shown.
    pub(super) fn shown_names(&self) -> BTreeSet<ListenerName> {
        let names = self.table.iter().map(|(name, _)| name);
        names.chain(self.table.lingering().names()).cloned().collect()
    }

    /// The ports that are ours, each with its listener.
    pub(super) fn brokered_ports(&self) -> impl Iterator<Item = (u16, &ListenerName)> {
        let configured = self.table.iter().flat_map(|(name, listener)| {
            listener.config.endpoints.iter().filter_map(move |endpoint| Some((endpoint.port()?, name)))
        });
        let lingering = self.table.lingering().iter();
        configured.chain(lingering.filter_map(|(_, linger)| Some((linger.endpoint().port()?, &linger.name))))
    }

    /// The rows of a listener's sockets that linger.
    pub(super) fn lingering_views<'a>(&'a self, name: &'a str) -> impl Iterator<Item = SocketView> + 'a {
        self.table.lingering().of(name).map(|(id, linger)| SocketView {
            endpoint: linger.endpoint().to_string(),
            state: LINGERING,
            inode: self.sockets.get(&id).map_or(0, inode_of),
            error: String::new(),
        })
    }

    /// Who has sockets of a listener that linger, and does not hold the listener besides.
    pub(super) fn lingering_holders(&self, name: &str, but: &BTreeSet<HolderId>) -> Vec<String> {
        let holders = self.table.lingering().of(name).flat_map(|(_, linger)| linger.holders());
        let others: BTreeSet<HolderId> = holders.filter(|holder| !but.contains(holder)).copied().collect();
        self.shown_holders(&others).collect()
    }

    /// A listener that is configured no more, and of which there are sockets.
    pub(super) fn lingering_view(&self, name: &str) -> Option<ListenerView> {
        let sockets: Vec<SocketView> = self.lingering_views(name).collect();
        let holders = self.lingering_holders(name, &BTreeSet::new());
        (!sockets.is_empty()).then(|| ListenerView {
            name: name.to_owned(),
            state: LINGERING,
            sockets,
            holders,
            idle: String::new(),
            activate: String::new(),
            activation_error: String::new(),
            allow: Vec::new(),
            notes: Vec::new(),
            origin: "no longer configured".to_owned(),
        })
    }
}
