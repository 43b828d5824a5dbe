//! Keeps brokered, protected and learned ports out of ephemeral allocation, in the kernel's reserved ports.

use super::Broker;
use super::effects::with_causes;
use super::records::Records;
use crate::kernel::reserved_ports::{ReservedPorts, ReservedPortsError};
use crate::listeners::plan;
use crate::model::{PortRange, PortSet};
use crate::state;

/// The reserved ports, and which of them are ours.
pub(super) struct Protection {
    kernel: ReservedPorts,
    /// `[protect] ports`
    configured: PortSet,
    wanted: PortSet,
    learned: PortSet,
    /// What the pools have of the kernel's own range.
    leased_from: PortSet,
    ours: PortSet,
    /// Why it does not work, if it does not.
    fault: Option<String>,
}

impl Protection {
    pub(super) fn new(kernel: ReservedPorts, records: &Records) -> Self {
        let nothing = PortSet::default();
        Self {
            kernel,
            configured: nothing.clone(),
            wanted: nothing.clone(),
            learned: nothing.clone(),
            leased_from: nothing,
            ours: records.read_ports().ports,
            fault: None,
        }
    }

    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// What is wanted beside the configuration's; true where that is new.
    pub(super) fn set_learned(&mut self, learned: PortSet) -> bool {
        let changed = self.learned != learned;
        self.learned = learned;
        changed
    }

    /// The same for the pools.
    pub(super) fn set_leased_from(&mut self, ports: PortSet) -> bool {
        let changed = self.leased_from != ports;
        self.leased_from = ports;
        changed
    }

    /// The range from which the kernel chooses.
    pub(super) fn ephemeral_range(&self) -> Result<PortRange, ReservedPortsError> {
        self.kernel.ephemeral_range()
    }

    /// Writes down which are ours.
    pub(super) fn write(&self, records: &Records) {
        records.write_ports(&state::ReservedPorts { ports: self.ours.clone() });
    }

    fn assert(&mut self, records: &Records) {
        let fault = self.try_assert(records).err().map(|error| with_causes(&error));
        if let Some(error) = &fault
            && fault != self.fault
        {
            tracing::error!(error, "ports are not kept out of ephemeral allocation: {error}");
        }
        self.fault = fault;
    }

    fn try_assert(&mut self, records: &Records) -> Result<(), ReservedPortsError> {
        let wanted = self.wanted.union(&self.learned).union(&self.leased_from);
        let plan = plan(&self.kernel.read()?, &wanted, &self.ours);
        if plan.ours != self.ours {
            // Written down first: what we add and then forget would stay reserved for ever.
            let ports = plan.ours.union(&self.ours);
            records.write_ports(&state::ReservedPorts { ports });
        }
        if !plan.add.is_empty() {
            self.kernel.add(&plan.add)?;
            tracing::info!(ports = %plan.add, "keeps {} out of ephemeral allocation", plan.add);
        }
        if !plan.remove.is_empty() {
            self.kernel.remove(&plan.remove)?;
            tracing::info!(ports = %plan.remove, "gives {} back to ephemeral allocation", plan.remove);
        }
        if plan.ours != self.ours {
            records.write_ports(&state::ReservedPorts { ports: plan.ours.clone() });
            self.ours = plan.ours;
        }
        Ok(())
    }
}

impl Broker {
    /// Brings the reserved ports in step with the configuration.
    pub(super) fn protect(&mut self, also: &PortSet) {
        self.protection.configured.clone_from(also);
        self.protect_brokered();
    }

    fn protect_brokered(&mut self) {
        let mut wanted = self.protection.configured.clone();
        wanted.extend(self.brokered_ports().map(|(port, _)| port));
        self.protection.wanted = wanted;
        self.assert_reserved_ports();
    }

    /// Some ports are ours no longer: they may be learned, leased, and chosen by the kernel again.
    pub(super) fn give_ports_back(&mut self) {
        let mut held = self.protection.configured.clone();
        held.extend(self.brokered_ports().map(|(port, _)| port));
        let learned = self.learning.set_held(held);
        self.protection.set_learned(learned);
        self.see_brokered_ports();
        self.protect_brokered();
    }

    /// Gives back all that is ours.
    pub(super) fn protect_nothing(&mut self) {
        self.protection.configured = PortSet::default();
        self.protection.wanted = PortSet::default();
        self.protection.learned = PortSet::default();
        self.protection.leased_from = PortSet::default();
        self.assert_reserved_ports();
    }

    pub(super) fn assert_reserved_ports(&mut self) {
        self.protection.assert(&self.records);
    }
}
