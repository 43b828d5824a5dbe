//! The host as a whole: its sysctls, and whether the broker does what it is to do.

use super::finding::{Finding, Severity};
use super::picture::{Broker, Network, Picture};
use crate::model::{PortSet, Protocol};

pub(super) fn findings(picture: &Picture) -> Vec<Finding> {
    let mut found: Vec<Finding> = picture.networks.iter().filter_map(timestamps).collect();
    found.extend(picture.networks.iter().filter_map(nothing_to_choose));
    found.extend(configuration(picture));
    found.extend(broker(picture));
    found.extend(not_reserved(picture));
    found
}

fn timestamps(network: &Network) -> Option<Finding> {
    if network.timestamps != Some(false) {
        return None;
    }
    let message = format!(
        "TCP timestamps are off{}: a source whose connection was closed cannot be used again for 60 s, also where a pool or \
         a program chose it, and a quick succession of connections takes that many more of them",
        network.within()
    );
    let remedy = "sysctl -w net.ipv4.tcp_timestamps=1, and the same in /etc/sysctl.d";
    let finding = Finding::new(
        Severity::Warning,
        "timestamps-off",
        format!("net.ipv4.tcp_timestamps{}", network.within()),
        message,
        remedy,
    );
    Some(finding.because(["net.ipv4.tcp_timestamps = 0".to_owned()]))
}

/// Whoever reserves the whole range stops every connection that chooses no port.
fn nothing_to_choose(network: &Network) -> Option<Finding> {
    let (range, left) = (PortSet::from(network.range?).len(), network.sources()?.len());
    if left >= range.div_ceil(4) {
        return None;
    }
    let severity = if left == 0 { Severity::Error } else { Severity::Warning };
    let what = if left == 0 { "every connect() fails" } else { "few are left for connections" };
    let message = format!(
        "{} of the {range} ports that the kernel chooses from are reserved{}: {what}",
        range - left,
        network.within()
    );
    let finding = Finding::new(
        severity,
        "range-reserved",
        format!("net.ipv4.ip_local_reserved_ports{}", network.within()),
        message,
        "take ports out of net.ipv4.ip_local_reserved_ports, or make net.ipv4.ip_local_port_range larger",
    );
    let lists = network.range.map(|range| format!("net.ipv4.ip_local_port_range = {range}"));
    Some(finding.because(lists))
}

fn configuration(picture: &Picture) -> Option<Finding> {
    if picture.config_faults.is_empty() {
        return None;
    }
    let finding = Finding::new(
        Severity::Error,
        "configuration-faults",
        "portbroker's configuration",
        "the broker's configuration has faults: a reload is refused, and so is a start from nothing",
        "portbroker check shows each of them with its line",
    );
    Some(finding.because(picture.config_faults.iter().cloned()))
}

fn broker(picture: &Picture) -> Option<Finding> {
    match &picture.broker {
        Broker::Unknown => None,
        Broker::Running { faults, .. } if faults.is_empty() => None,
        Broker::Running { faults, .. } => {
            let finding = Finding::new(
                Severity::Warning,
                "broker-degraded",
                "portbroker",
                "the broker runs, and something is not as it is configured",
                "portbroker status has it all",
            );
            Some(finding.because(faults.iter().cloned()))
        }
        Broker::Absent => {
            let config = &picture.config;
            let listeners = config.listeners.keys().map(|name| format!("the listener {name} is configured"));
            let pools = config.pools.keys().map(|name| format!("the pool {name} is configured"));
            let wanted: Vec<String> = listeners.chain(pools).collect();
            if wanted.is_empty() {
                return None;
            }
            let finding = Finding::new(
                Severity::Warning,
                "broker-absent",
                "portbroker",
                "the broker is configured and does not run: nobody holds what it is to hold, and nothing is leased",
                "systemctl enable --now portbroker",
            );
            Some(finding.because(wanted))
        }
    }
}

/// Ports that a running broker keeps out of the kernel's choice, and that are not in the kernel's list.
fn not_reserved(picture: &Picture) -> Option<Finding> {
    let Broker::Running { learned, .. } = &picture.broker else { return None };
    let own = picture.own()?;
    let mut missing: Vec<(u16, String)> = Vec::new();
    for (name, listener) in &picture.config.listeners {
        let ports = listener.endpoints.iter().filter_map(|endpoint| endpoint.port());
        missing.extend(ports.map(|port| (port, format!("of the listener {name}"))));
    }
    missing
        .extend(picture.config.protect.ports.iter().map(|port| (port, "under [protect] ports".to_owned())));
    let of_learned = |(protocol, port, unit): &(Protocol, u16, String)| {
        (*port, format!("learned of {unit} ({})", protocol.as_str()))
    };
    missing.extend(learned.iter().map(of_learned));
    missing.retain(|(port, _)| own.may_choose(*port) == Some(true));
    missing.sort();
    missing.dedup();
    if missing.is_empty() {
        return None;
    }
    let ports: PortSet = missing.iter().map(|(port, _)| *port).collect();
    let finding = Finding::new(
        Severity::Warning,
        "port-not-reserved",
        ports.to_string(),
        format!(
            "the broker protects {ports}, and net.ipv4.ip_local_reserved_ports does not have them: somebody wrote it anew"
        ),
        "the broker puts them back within a minute; where they stay away, find what writes the list: grep -r \
         ip_local_reserved_ports /etc/sysctl.conf /etc/sysctl.d /usr/lib/sysctl.d",
    );
    Some(finding.because(missing.into_iter().map(|(port, whose)| format!("{port}, {whose}"))))
}
