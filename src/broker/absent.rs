//! Listeners whose address this host has not, or no more. Their sockets stay as they are: nobody reaches them until the
//! address is back, and then everybody does, without anything being done.

use super::Broker;
use crate::listeners::Slot;
use crate::model::{Endpoint, ListenerName};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A socket that nobody reaches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Absent {
    listener: ListenerName,
    endpoint: String,
    address: IpAddr,
    /// With `free-bind` it is meant to come and go.
    free: bool,
}

impl Absent {
    /// What is wrong, where it is.
    pub(super) fn fault(&self) -> Option<String> {
        let Self { listener, endpoint, address, free } = self;
        (!free).then(|| {
            format!(
                "listener {listener:?}: {endpoint} is held, and nobody reaches it: this host has not the address \
                 {address}; add it, or set free-bind where it comes and goes"
            )
        })
    }
}

fn specific_address(slot: &Slot) -> Option<IpAddr> {
    match &slot.endpoint {
        Endpoint::Inet(inet) => Some(inet.address.ip()).filter(|address| !address.is_unspecified()),
        Endpoint::Unix(_) => None,
    }
}

impl Broker {
    /// Sees which listeners have an address that the host has. To be called when addresses, or listeners, changed.
    pub(super) fn see_absent(&mut self) {
        let present = self.outbound.present();
        let is_absent = |address: &IpAddr| !present.is_local(*address);
        let slots = self.table.iter().flat_map(|(name, listener)| {
            let bound = listener.slots.iter().filter(|slot| slot.state.is_some());
            bound.map(move |slot| (name, listener.config.options.free_bind, slot))
        });
        let absent: BTreeSet<Absent> = slots
            .filter_map(|(name, free, slot)| {
                let address = specific_address(slot).filter(is_absent)?;
                Some(Absent { listener: name.clone(), endpoint: slot.endpoint.to_string(), address, free })
            })
            .collect();
        if absent == self.absent {
            return;
        }
        for Absent { listener, endpoint, address, free } in absent.difference(&self.absent) {
            if *free {
                tracing::info!(event = "address-gone", %listener, endpoint, %address, "{endpoint} of {listener} is held for when this host has the address {address}");
            } else {
                tracing::warn!(event = "address-gone", %listener, endpoint, %address, "{endpoint} of {listener} is held, and nobody reaches it: this host has not the address {address}");
            }
        }
        for Absent { listener, endpoint, address, .. } in self.absent.difference(&absent) {
            tracing::info!(event = "address-back", %listener, endpoint, %address, "{endpoint} of {listener} is reached again, or no longer wanted");
        }
        self.absent = absent;
        self.touched = true;
    }
}
