//! Socket units: what systemd itself listens on, for us or for others.
//!
//! Only what is needed to see conflicts is read; what makes no sense in them is systemd's to complain about.

use super::listen::{self, Address, BindIpv6Only, MAX_ENDPOINTS};
use super::units::Unit;
use super::{Origin, SocketUnitPort};
use crate::model::{DeviceName, Endpoint, ListenerName, Protocol, SocketKind, UnitName};

/// The unit of the daemon: socket units that activate it hand their sockets to us.
const OURS: &str = "portbroker.service";

/// A socket unit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SocketUnit {
    pub(super) name: UnitName,
    pub(super) enabled: bool,
    /// The service that it activates.
    service: String,
    /// What its sockets are called; `None` where that is no name of a listener.
    pub(super) descriptor_name: Option<ListenerName>,
    /// Where it says that name, or else where its first address is.
    pub(super) origin: Origin,
    /// What it listens on.
    pub(super) endpoints: Vec<(Endpoint, Origin)>,
}

impl SocketUnit {
    /// Whether its sockets come to us.
    pub(super) fn is_ours(&self) -> bool {
        self.service == OURS
    }

    /// The ports that systemd listens on by itself for it: none where it is not enabled, or its sockets are ours.
    pub(super) fn ports(&self) -> impl Iterator<Item = SocketUnitPort> + '_ {
        let theirs = self.endpoints.iter().filter(|_| self.enabled && !self.is_ours());
        theirs.filter_map(|(endpoint, _)| {
            let datagrams = endpoint.kind() == SocketKind::Datagram;
            let protocol = if datagrams { Protocol::Udp } else { Protocol::Tcp };
            Some(SocketUnitPort { unit: self.name.clone(), protocol, port: endpoint.port()? })
        })
    }

    /// Reads a unit; `None` where it is no socket unit.
    pub(super) fn of(unit: &Unit) -> Option<Self> {
        if !unit.name.as_str().ends_with(".socket") {
            return None;
        }
        let text = |key| unit.value("Socket", key).and_then(|setting| unit.expand(&setting.value).ok());
        let service = text("Service").unwrap_or_else(|| format!("{}.service", unit.name.stem()));
        let descriptor_name = text("FileDescriptorName").unwrap_or_else(|| unit.name.as_str().to_owned());
        let endpoints = endpoints(unit, text("BindIPv6Only"), text("BindToDevice"));
        let named_at = unit.value("Socket", "FileDescriptorName").map(|setting| setting.origin.clone());
        let origin = named_at.or_else(|| endpoints.first().map(|(_, origin)| origin.clone()));
        Some(Self {
            name: unit.name.clone(),
            enabled: unit.enabled,
            service,
            descriptor_name: ListenerName::try_from(descriptor_name.as_str()).ok(),
            origin: origin.unwrap_or_default(),
            endpoints,
        })
    }
}

fn endpoints(unit: &Unit, bind: Option<String>, device: Option<String>) -> Vec<(Endpoint, Origin)> {
    let bind = bind.and_then(|text| text.parse().ok()).unwrap_or(BindIpv6Only::Both);
    let device = device.and_then(|text| DeviceName::try_from(text.as_str()).ok());
    let mut made = Vec::new();
    // An empty assignment to any of them resets all (systemd.socket(5)).
    let lines = unit.settings.iter().filter(|s| s.section == "Socket" && s.key.starts_with("Listen"));
    let mut lines: Vec<_> = lines.collect();
    if let Some(reset) = lines.iter().rposition(|setting| setting.value.is_empty()) {
        lines.drain(..=reset);
    }
    for setting in lines.into_iter().take(MAX_ENDPOINTS) {
        let kind = match setting.key.as_str() {
            "ListenStream" => SocketKind::Stream,
            "ListenDatagram" => SocketKind::Datagram,
            "ListenSequentialPacket" => SocketKind::SeqPacket,
            _ => continue,
        };
        let address = unit.expand(&setting.value).ok().and_then(|text| text.parse::<Address>().ok());
        let Some(address) = address.filter(|address| address.count() == 1) else { continue };
        if let Ok(endpoints) = listen::endpoints(&[(kind, address)], bind, device.as_ref()) {
            made.extend(endpoints.into_iter().map(|(endpoint, _)| (endpoint, setting.origin.clone())));
        }
    }
    made
}
